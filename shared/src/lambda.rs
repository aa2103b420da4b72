//! Start-up and the runtime loop, the same for every function; and one invocation of a function, from event to response,
//! which the laptop's API Gateway and the tests use too. What a schedule starts is in [`job`].

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use serde_json::value::RawValue;
use tokio::time::{timeout, timeout_at};
use tracing::{Instrument, Span, error, field, info, info_span, warn};

use crate::aws;
use crate::clock::Clock;
use crate::config::Config;
use crate::connect::Connect;
use crate::http::event::{Payload, Route};
use crate::http::{Answer, Problem, Request};
use crate::human_api::HumanApi;
use crate::invocation::Invocation;
use crate::network::{self, Connections, NetworkError};
use crate::seal::{Sealer, SealingKey};
use crate::secret::{Secret, parse_client_secret};
use crate::store::Store;
use crate::telemetry::{self, AuditLine, Outcome, Output, causes, milliseconds};

pub mod job;

/// Start-up reads secrets and opens connections for at most this long; what is not there then, the first request fetches.
const INIT_BUDGET: Duration = Duration::from_secs(5);

/// One of the functions.
pub trait Function: Send + Sync + Sized + 'static {
    /// Its name, as the template has it.
    const NAME: &'static str;
    /// The routes it serves.
    const ROUTES: &'static [Route];
    /// Whether each call leaves an audit line, whatever `LOG_LEVEL` says.
    const AUDITED: bool = false;

    /// Builds the clients it uses, and no others.
    fn new(parts: Parts<'_>) -> Self;

    /// Does beforehand what a first request would have to wait for. Failures are left to the first request.
    fn prepare(&self) -> impl Future<Output = ()> + Send;

    /// The story.
    fn answer(
        &self,
        request: &Request,
        invocation: &Invocation,
    ) -> impl Future<Output = Result<Answer, Problem>> + Send;
}

/// What functions are built from.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The environment.
    pub config: &'a Config,
    /// The one HTTP client.
    pub http: &'a reqwest::Client,
    /// Secrets Manager.
    pub secrets: &'a aws_sdk_secretsmanager::Client,
    /// The clock.
    pub clock: &'a Clock,
    /// The sealing key; logs take their hash of user ids from it.
    pub sealer: &'a Arc<Sealer>,
}

impl Parts<'_> {
    /// The table.
    pub fn store(&self) -> Store {
        Store::new(aws::dynamodb(&self.config.aws, self.http), self.config.table.clone(), self.clock.clone())
    }

    /// Human API and the table, joined.
    pub fn connect(&self) -> Connect {
        let config = self.config;
        let secret =
            Secret::new(self.secrets.clone(), config.client_secret_id.clone(), config.secret_ttl, parse_client_secret);
        Connect {
            human_api: HumanApi::new(config, self.http.clone(), secret, self.clock.clone()),
            store: self.store(),
            sealer: self.sealer.clone(),
            connections: Connections::new(config, self.http, &[config.human_api_url()]),
        }
    }
}

/// A function with what is around it.
pub struct Host<F> {
    function: F,
    sealer: Arc<Sealer>,
    clock: Clock,
    output: Output,
    cold: AtomicBool,
}

impl<F> Host<F> {
    fn build(
        config: &Config,
        clock: Clock,
        output: Output,
        function: impl FnOnce(Parts<'_>) -> F,
    ) -> Result<Self, NetworkError> {
        let http = network::http_client(config)?;
        let secrets = aws::secrets_manager(&config.aws, &http);
        let key = Secret::new(secrets.clone(), config.token_key_id.clone(), config.secret_ttl, SealingKey::parse);
        let sealer = Arc::new(Sealer::new(key));
        let function = function(Parts { config, http: &http, secrets: &secrets, clock: &clock, sealer: &sealer });
        Ok(Self { function, sealer, clock, output, cold: AtomicBool::new(true) })
    }

    async fn prepare_with(&self, function: impl Future<Output = ()>) {
        let key = async {
            if let Err(error) = self.sealer.current().await {
                error!(error = %error, "the sealing key cannot be read");
            }
        };
        let all = async { tokio::join!(key, function) };
        if timeout(INIT_BUDGET, all).await.is_err() {
            warn!("start-up was cut short; the first request does the rest");
        }
    }

    /// Whether this is the first invocation, and what its log lines say of it.
    fn begin(&self, request_id: &str, trace_id: Option<&str>) -> (bool, Span) {
        let cold_start = self.cold.swap(false, Ordering::Relaxed);
        let span = info_span!(
            "invocation",
            function_request_id = request_id,
            cold_start,
            xray_trace_id = trace_id.and_then(root_of),
            route = field::Empty,
        );
        (cold_start, span)
    }
}

/// Ends work with the invocation's time, and a panic as a fault.
async fn guarded<T>(invocation: &Invocation, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    // everything inside ends by itself before this; like a crash, it would lose nothing
    match AssertUnwindSafe(timeout_at(invocation.deadline(), work)).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => {
            error!("the invocation's time is up");
            Err(Problem::fault())
        }
        Err(_) => {
            error!("a panic was caught");
            Err(Problem::fault())
        }
    }
}

impl<F: Function> Host<F> {
    /// Builds the function; its metrics go to `output`.
    pub fn new(config: &Config, clock: Clock, output: Output) -> Result<Self, NetworkError> {
        Self::build(config, clock, output, F::new)
    }

    /// Reads secrets and opens connections, all at the same time.
    pub async fn prepare(&self) {
        self.prepare_with(self.function.prepare()).await;
    }

    /// One invocation: every event and every fault ends in a response.
    pub async fn respond(&self, event: &str, request_id: &str, trace_id: Option<&str>) -> String {
        let (cold_start, span) = self.begin(request_id, trace_id);
        let invocation = Invocation::start();
        async {
            let (payload, gateway_id, answer) = match Request::read(event) {
                Ok(request) => {
                    // boxed: a story's future is large, and would be moved through each layer around it
                    let answer = guarded(&invocation, Box::pin(self.answer(&request, &invocation))).await;
                    (request.payload, request.request_id, answer)
                }
                Err(problem) => (Payload::V2, None, Err(problem)),
            };
            self.report(&answer, request_id, cold_start, &invocation);
            match answer {
                Ok(answer) => answer.into_payload(payload),
                Err(problem) => problem.into_payload(payload, gateway_id.as_deref().unwrap_or(request_id)),
            }
        }
        .instrument(span)
        .await
    }

    async fn answer(&self, request: &Request, invocation: &Invocation) -> Result<Answer, Problem> {
        let route = request.route(F::ROUTES)?;
        tracing::Span::current().record("route", format!("{} {}", route.method, route.path));
        if request.is_malformed {
            return Err(Problem::invalid_request("the event is not as API Gateway sends it"));
        }
        self.function.answer(request, invocation).await
    }

    fn report(&self, answer: &Result<Answer, Problem>, request_id: &str, cold_start: bool, invocation: &Invocation) {
        let (status, code) = match answer {
            Ok(answer) => (answer.status.as_u16(), "ok"),
            Err(problem) => (problem.status(), problem.code().name()),
        };
        let tally = invocation.tally();
        let user = invocation.user().and_then(|user| self.sealer.user_hash(&user));
        if let Some(cause) = answer.as_ref().err().and_then(Problem::cause) {
            let cause = causes(cause);
            if status >= 500 { error!(cause, "the request failed") } else { info!(cause, "the request was refused") }
        }
        info!(
            outcome = code,
            status,
            duration_ms = milliseconds(invocation.elapsed()),
            upstream_ms = milliseconds(tally.upstream),
            store_ms = milliseconds(tally.store),
            user,
            "request"
        );
        let at = self.clock.now();
        if F::AUDITED {
            let caller = invocation.aws_caller();
            self.output.line(&AuditLine::new(F::NAME, request_id, caller.as_deref(), user.as_deref(), code, at));
        }
        self.output
            .line(&Outcome { function: F::NAME, request_id, status, code, cold_start, tally: &tally, at }.metrics());
    }
}

/// X-Ray's trace id out of Lambda's header value.
fn root_of(header: &str) -> Option<&str> {
    header.split(';').find_map(|part| part.trim().strip_prefix("Root="))
}

/// What the runtime hands events to.
trait Serve: Send + Sync + 'static {
    fn prepare(&self) -> impl Future<Output = ()> + Send;
    fn respond(&self, event: &str, request_id: &str, trace_id: Option<&str>) -> impl Future<Output = String> + Send;
}

impl<F: Function> Serve for Host<F> {
    async fn prepare(&self) {
        self.prepare().await;
    }

    async fn respond(&self, event: &str, request_id: &str, trace_id: Option<&str>) -> String {
        self.respond(event, request_id, trace_id).await
    }
}

/// A function's `main`: reads the environment, builds, prepares, and serves until Lambda ends the process.
pub async fn run<F: Function>() -> ExitCode {
    serve(F::NAME, Host::<F>::new).await
}

async fn serve<H: Serve>(
    name: &str,
    build: impl FnOnce(&Config, Clock, Output) -> Result<H, NetworkError>,
) -> ExitCode {
    #[cfg(target_os = "linux")]
    keep_memory_private();
    let host = match Config::from_env() {
        Ok(config) => {
            let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| name.to_owned());
            let _ = tracing::subscriber::set_global_default(telemetry::subscriber(
                config.log_level.clone(),
                &name,
                Output::stdout(),
            ));
            report_panics_without_their_message();
            build(&config, Clock::system(), Output::stdout()).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let host = match host {
        Ok(host) => Arc::new(host),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        eprintln!("AWS_LAMBDA_RUNTIME_API is not set: this is a Lambda function; to try it, see the README");
        return ExitCode::FAILURE;
    }
    host.prepare().await;
    let service = service_fn(|event: LambdaEvent<Box<RawValue>>| {
        let host = host.clone();
        async move {
            let LambdaEvent { payload, context } = event;
            let response = host.respond(payload.get(), &context.request_id, context.xray_trace_id.as_deref()).await;
            RawValue::from_string(response).map_err(|_| "a response that is no JSON")
        }
    });
    match Runtime::new(service).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the Lambda runtime ended: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Memory holds the two secrets and tokens: no core dump, and nothing in `/proc` for other processes of the same user,
/// extensions among them. Where the system refuses, things are as they were.
#[cfg(target_os = "linux")]
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// A panic's message can hold what was being worked on; where it happened is enough.
fn report_panics_without_their_message() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        error!(location, "panic");
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_cannot_be_dumped() {
        use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
        keep_memory_private();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
    }

    #[test]
    fn a_panic_is_reported_by_its_place_and_without_its_message() {
        let heard = Heard::default();
        let subscriber = telemetry::subscriber(telemetry::info(), "test", Output::new(heard.clone()));
        let hook = std::panic::take_hook();
        report_panics_without_their_message();
        let caught = tracing::subscriber::with_default(subscriber, || {
            std::panic::catch_unwind(|| panic!("{}", "made-up-access-token"))
        });
        std::panic::set_hook(hook);
        let heard = String::from_utf8(heard.0.lock().unwrap().clone()).unwrap();
        assert!(caught.is_err() && heard.contains("lambda.rs:"), "{heard}");
        assert!(!heard.contains("made-up"), "{heard}");
    }
}
