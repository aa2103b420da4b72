//! `POST /connect/finish`: the widget's callback, exchanged, stored, answered.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    shared::lambda::run::<finish::Finish>().await
}
