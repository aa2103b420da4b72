//! `POST /connect/public-token`: the stored publicToken, or a recovered one.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::lambda::run::<public_token::PublicToken>().await
}
