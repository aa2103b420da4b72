//! `cargo run -p local` runs the whole product locally, with nothing else installed.

use std::error::Error;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use local::cors::Refusals;
use local::examples;
use local::local_stack::{LocalStack, Options, Port};
use shared::clock::Clock;
use shared::telemetry::{self, Output};

const PORT: u16 = 3000;
/// Origins of the usual development servers.
const ORIGINS: &str = "http://localhost:5173,http://localhost:4200,http://localhost:8080,\
    http://127.0.0.1:5173,http://127.0.0.1:4200,http://127.0.0.1:8080";
/// Interval at which the table's stream is read.
const STREAM_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Port of the console and the API; 0 means free ports. The stand-in for Human API and AWS use the next two ports. Without this
    /// option, the program uses 3000, or free ports if 3000, 3001 or 3002 is in use.
    #[arg(long)]
    port: Option<u16>,
    /// Folder of the table, the log and the environment. Delete it to start again.
    #[arg(long, default_value = ".local")]
    dir: PathBuf,
    /// Origins of your own pages, as `AllowedOrigins` of template.yaml. Give the option again, or use commas.
    #[arg(long = "origin", value_name = "ORIGIN", env = "ALLOWED_ORIGINS", value_delimiter = ',', default_value = ORIGINS)]
    origins: Vec<String>,
    /// Opens the console in your browser.
    #[arg(long)]
    open: bool,
    /// `false` leaves the CORS headers off API Gateway's own refusals, such as 401. AWS does not promise them.
    #[arg(long, env = "CORS_ON_REFUSALS", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    cors_on_refusals: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error + Send + Sync>> {
    let directory = &arguments.dir;
    let in_directory = |error| format!("cannot use the folder {}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(in_directory)?;
    let environment = directory.join("env");
    let _lock = lock(directory, &environment)?;
    // The log receives the lines that CloudWatch would receive.
    let lines = directory.join("functions.log");
    let log = File::options().create(true).append(true).open(&lines).map_err(in_directory)?;
    let logged = log.metadata()?.len();
    let output = Output::new(log.try_clone()?);
    let _ = tracing::subscriber::set_global_default(telemetry::subscriber(
        telemetry::info(),
        "human-connect",
        "local",
        output.clone(),
    ));
    let options = Options {
        directory: Some(directory.clone()),
        port: match arguments.port {
            None => Port::Preferred(PORT),
            Some(0) => Port::Any,
            Some(port) => Port::Exactly(port),
        },
        output,
        clock: Clock::system(),
        origins: arguments.origins.join(","),
        refusals: if arguments.cors_on_refusals { Refusals::Readable } else { Refusals::Hidden },
        has_stream: true,
        variables: Vec::new(),
    };
    let stack = LocalStack::start(options).await.map_err(|error| format!("cannot start: {error}"))?;
    examples::set_up(&stack).await.map_err(|error| format!("cannot set up the example users: {error}"))?;
    // Neither the log nor the console shows what the example users did.
    let _ = stack.publish().await;
    stack.event_bus.clear();
    stack.calls.clear();
    log.set_len(logged)?;
    let variables: String = stack.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    fs::write(&environment, variables).map_err(in_directory)?;
    let elsewhere = match arguments.port {
        None if !stack.console.ends_with(&format!(":{PORT}")) => {
            format!("  One of the ports {PORT} to {} is in use, so this start has others.\n\n", PORT + 2)
        }
        _ => String::new(),
    };
    let greeting = format!(
        "\n{elsewhere}  human-connect is running: open {}\n\n  The functions' log: {}.\n  All data is made up and stays in \
         {}. Delete that folder to start again.\n  The environment for functions that you build yourself: {}.\n  Press Ctrl-C to stop.\n\n",
        stack.console,
        lines.display(),
        directory.display(),
        environment.display()
    );
    // A closed standard output must not end the process.
    let _ = std::io::stdout().write_all(greeting.as_bytes());
    if arguments.open {
        open::that_detached(&stack.console).map_err(|error| format!("cannot open a browser: {error}"))?;
    }
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
    Ok(())
}

/// Locks the folder until the returned file is closed, and removes the environment of an earlier start.
fn lock(directory: &Path, environment: &Path) -> Result<File, String> {
    let path = directory.join("lock");
    let file = File::create(&path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            let _ = fs::remove_file(environment);
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let environment = fs::read_to_string(environment).unwrap_or_default();
            let address = environment.lines().find_map(|line| line.strip_prefix("PUBLIC_BASE_URL="));
            Err(format!("already running at {}", address.unwrap_or("an address that it has not printed yet")))
        }
        Err(TryLockError::Error(error)) => Err(format!("cannot lock {}: {error}", path.display())),
    }
}
