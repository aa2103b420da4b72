//! What the schedule starts: resolves what nobody comes back for, and seals anew.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::lambda::job::run::<sweeper::Sweeper>().await
}
