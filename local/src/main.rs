//! `cargo run -p local`: the whole product on a laptop, with nothing else installed.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use local::cors::Refusals;
use local::examples;
use local::laptop::{Laptop, Options};
use shared::clock::Clock;
use shared::telemetry::{self, Output};

const DIRECTORY: &str = ".local";
const PORT: u16 = 3000;
/// Where the usual tools serve a page under development; `ALLOWED_ORIGINS` names others.
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
            eprintln!("{} could not be written: {error}", lines.display());
            return ExitCode::FAILURE;
        }
    };
    // what CloudWatch would get of the functions
    let _ = tracing::subscriber::set_global_default(telemetry::subscriber(
        telemetry::info(),
        "human-connect",
        "local",
        output.clone(),
    ));
    let refusals = match Refusals::from_variable(std::env::var("CORS_ON_REFUSALS").ok().as_deref()) {
        Ok(refusals) => refusals,
        Err(error) => {
            eprintln!("could not start: {error}");
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
        variables: Vec::new(),
    };
    let laptop = match Laptop::start(options).await {
        Ok(laptop) => laptop,
        Err(error) => {
            eprintln!("could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = examples::set_up(&laptop).await {
        eprintln!("the example users could not be set up: {error}");
        return ExitCode::FAILURE;
    }
    // what the example users did is not what the page's user did
    laptop.calls.clear();
    let environment: String = laptop.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let file = directory.join("env");
    if let Err(error) = std::fs::write(&file, environment) {
        eprintln!("{} could not be written: {error}", file.display());
        return ExitCode::FAILURE;
    }
    let greeting = format!(
        "\n  human-connect is running: open {}\n\n  What the functions log is in {}.\n  Everything is made up and stays in \
         {DIRECTORY}/ (delete it to begin anew).\n  Built functions find these parts through {}: see the README. Ctrl-C ends.\n\n",
        laptop.console,
        lines.display(),
        file.display()
    );
    // whoever has stopped reading does not end it
    let _ = std::io::stdout().write_all(greeting.as_bytes());
    let _ = tokio::signal::ctrl_c().await;
    ExitCode::SUCCESS
}
