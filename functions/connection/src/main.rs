//! `GET` and `DELETE /connect/connection`: shows the user's connection, forgets the user.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::lambda::run::<connection::Connection>().await
}
