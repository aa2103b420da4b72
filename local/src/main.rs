//! `cargo run -p local` runs the whole product locally, with nothing else installed.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use local::cors::Refusals;
use local::examples;
use local::local_stack::{LocalStack, Options};
use shared::clock::Clock;
use shared::telemetry::{self, Output};

const DIRECTORY: &str = ".local";
const PORT: u16 = 3000;
/// Interval at which the table's stream is read.
const STREAM_INTERVAL: Duration = Duration::from_millis(200);
/// Origins of the usual development servers. `ALLOWED_ORIGINS` overrides them.
const ORIGINS: &str = "http://localhost:5173,http://localhost:4200,http://localhost:8080,\
    http://127.0.0.1:5173,http://127.0.0.1:4200,http://127.0.0.1:8080";

#[tokio::main]
async fn main() -> ExitCode {
    let directory = Path::new(DIRECTORY);
    let lines = directory.join("functions.log");
    let log = std::fs::create_dir_all(directory).and_then(|()| File::create(&lines));
    let output = match log {
        Ok(log) => Output::new(log),
        Err(error) => {
            eprintln!("cannot write {}: {error}", lines.display());
            return ExitCode::FAILURE;
        }
    };
    // This file receives the lines that CloudWatch would receive.
    let _ = tracing::subscriber::set_global_default(telemetry::subscriber(
        telemetry::info(),
        "human-connect",
        "local",
        output.clone(),
    ));
    let refusals = match Refusals::from_variable(std::env::var("CORS_ON_REFUSALS").ok().as_deref()) {
        Ok(refusals) => refusals,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        directory: Some(directory.to_owned()),
        port: PORT,
        output,
        clock: Clock::system(),
        origins: std::env::var("ALLOWED_ORIGINS").unwrap_or_else(|_| ORIGINS.to_owned()),
        refusals,
        has_stream: true,
        variables: Vec::new(),
    };
    let stack = match LocalStack::start(options).await {
        Ok(stack) => stack,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = examples::set_up(&stack).await {
        eprintln!("cannot set up the example users: {error}");
        return ExitCode::FAILURE;
    }
    // The console must not show the calls and the events of the example users.
    let _ = stack.publish().await;
    stack.event_bus.clear();
    stack.calls.clear();
    let environment: String = stack.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let file = directory.join("env");
    if let Err(error) = std::fs::write(&file, environment) {
        eprintln!("cannot write {}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    let greeting = format!(
        "\n  human-connect is running: open {}\n\n  The functions' log: {}.\n  All data is made up and stays in \
         {DIRECTORY}/. Delete that folder to start again.\n  Environment for built functions: {} (see the README).\n  Press Ctrl-C to stop.\n\n",
        stack.console,
        lines.display(),
        file.display()
    );
    // A closed standard output must not end the process.
    let _ = std::io::stdout().write_all(greeting.as_bytes());
    let publish = async {
        loop {
            if let Err(error) = stack.publish().await {
                tracing::warn!(error, "the table's stream stands still");
            }
            tokio::time::sleep(STREAM_INTERVAL).await;
        }
    };
    tokio::select! {
        () = publish => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    ExitCode::SUCCESS
}
