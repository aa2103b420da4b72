//! `POST /internal/access-token`: a valid access token for another backend.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::lambda::run::<access_token::AccessToken>().await
}
