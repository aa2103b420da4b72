//! The schedule starts it: it resolves unresolved requests, and reseals.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::lambda::job::run::<sweeper::Sweeper>().await
}
