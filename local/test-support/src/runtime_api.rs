//! Lambda's Runtime API on loopback. [`Instance`] is this API and the process of a built function.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as PathParts, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use shared::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Longest wait for a response. Lambda's own timeout is shorter.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the folder of the functions: `EVENTS_BINARIES`, seen from the workspace, or the build of this test.
pub fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("EVENTS_BINARIES") {
        Some(folder) => workspace().join(folder),
        None => built(),
    })
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Builds the functions and returns their folder. The build uses the test's own profile and features, so nothing is
/// compiled twice.
pub fn built() -> PathBuf {
    // The test is TARGET/PROFILE/deps/TEST-….
    let test = std::env::current_exe().expect("a test");
    let folder = test.ancestors().nth(2).expect("a profile's folder");
    let profile = folder.file_name().filter(|name| *name != "debug").unwrap_or("dev".as_ref());
    let mut build = std::process::Command::new(env!("CARGO"));
    // `cargo test` sets these variables for the test's package. The inner cargo would compile `ring` again because of
    // them.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            build.env_remove(name);
        }
    }
    // The whole workspace is built, because its dependencies are compiled with these features already.
    build.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(workspace());
    build.arg("--profile").arg(profile).arg("--target-dir").arg(folder.parent().expect("a target folder"));
    if !build.status().is_ok_and(|status| status.success()) {
        panic!("the functions do not build");
    }
    folder.to_owned()
}

/// The API of one process at a time.
pub struct RuntimeApi {
    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub address: SocketAddr,
    events: mpsc::UnboundedSender<(String, String)>,
    state: Api,
}

#[derive(Clone)]
struct Api {
    events: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<(String, String)>>>,
    asked: Arc<Notify>,
    waiting: Waiting,
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Result<Value, String>>>>>;

impl RuntimeApi {
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (events, queue) = mpsc::unbounded_channel();
        let state = Api {
            events: Arc::new(tokio::sync::Mutex::new(queue)),
            asked: Arc::default(),
            waiting: Waiting::default(),
        };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{outcome}", post(answered))
            .with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, events, state })
    }

    /// Waits until the function has asked for its next event since the last call of this method.
    pub async fn asked(&self) {
        self.state.asked.notified().await;
    }

    /// Sends an event and waits for the response. `Err` is a Lambda error, or no response.
    pub async fn invoke(&self, event: String) -> Result<Value, String> {
        let id = format!("{:016x}", fastrand::u64(..));
        let (answer, answered) = oneshot::channel();
        self.state.waiting.lock().unwrap().insert(id.clone(), answer);
        self.events.send((id, event)).map_err(|_| "the function has ended".to_owned())?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("the function has ended".to_owned()),
            Err(_) => Err("no response".to_owned()),
        }
    }
}

/// A function's process.
pub struct Instance {
    child: tokio::sync::Mutex<Child>,
    out: JoinHandle<String>,
    err: JoinHandle<String>,
    api: RuntimeApi,
}

impl Instance {
    /// Starts `binary` with this environment and Lambda's own variables. Dropping the instance kills the process.
    pub async fn start(binary: &Path, environment: &[(String, String)]) -> std::io::Result<Self> {
        let api = RuntimeApi::start().await?;
        let name = binary.file_stem().unwrap_or_default();
        let mut child = Command::new(binary)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("AWS_LAMBDA_RUNTIME_API", api.address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (out, err) = (read(child.stdout.take()), read(child.stderr.take()));
        Ok(Self { child: tokio::sync::Mutex::new(child), out, err, api })
    }

    /// Sends an event and waits for the response. `Err` is a Lambda error, or no response.
    pub async fn invoke(&self, event: &Value) -> Result<Value, String> {
        self.api.invoke(event.to_string()).await
    }

    /// Kills the process. Callers that wait for a response get an error.
    pub async fn kill(&self) {
        let _ = self.child.lock().await.kill().await;
        self.api.state.waiting.lock().unwrap().clear();
    }

    /// Kills the process and returns its standard output and standard error.
    pub async fn stop(self) -> (String, String) {
        self.kill().await;
        (self.out.await.unwrap_or_default(), self.err.await.unwrap_or_default())
    }
}

/// Reads the pipe in the background: a process with a full pipe blocks.
fn read(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes).await;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

async fn next(State(api): State<Api>) -> Response {
    let mut events = api.events.lock().await;
    api.asked.notify_one();
    let Some((id, event)) = events.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let deadline = (Clock::system().now() + 28_000).to_string();
    let headers = [
        ("lambda-runtime-aws-request-id", id),
        ("lambda-runtime-deadline-ms", deadline),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:made-up".to_owned()),
        ("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0".to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    (headers, event).into_response()
}

async fn answered(
    State(api): State<Api>,
    PathParts((id, outcome)): PathParts<(String, String)>,
    body: String,
) -> StatusCode {
    if let Some(waiting) = api.waiting.lock().unwrap().remove(&id) {
        let parsed = serde_json::from_str(&body).map_err(|_| body.clone());
        let _ = waiting.send(if outcome == "response" { parsed } else { Err(body) });
    }
    StatusCode::ACCEPTED
}
