//! `POST /connect/session`: what the page needs to open the widget for this user.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::lambda::run::<session_start::SessionStart>().await
}
