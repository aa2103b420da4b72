//! Start-up and the runtime loop, the same for every function; and one invocation of a function, from event to response,
//! which the local program's API Gateway and the tests use too. The scheduled function's runner is in [`job`].

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use std::convert::Infallible;

use futures_util::FutureExt;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use lambda_http::http::HeaderValue;
use lambda_http::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Context, LambdaEvent, Request, Response, Service, service_fn};
use lambda_runtime::Runtime;
use serde_json::value::RawValue;
use tokio::time::{timeout, timeout_at};
use tracing::{Instrument, Span, error, field, info, info_span, warn};

use crate::aws;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::route::request_id;
use crate::http::{Problem, Route};
use crate::human_api::HumanApi;
use crate::invocation::Invocation;
use crate::network::{self, Connections, NetworkError};
use crate::seal::{Sealer, SealingKey};
use crate::secret::{Secret, parse_client_secret};
use crate::store::Store;
use crate::telemetry::{self, AuditLine, Outcome, Output, error_chain, milliseconds};
use crate::tokens::TokenService;

pub mod job;

/// Start-up reads secrets and opens connections for at most this long; what is not there then, the first request fetches.
const INIT_BUDGET: Duration = Duration::from_secs(5);

/// One of the functions.
pub trait Function: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// The routes it serves.
    const ROUTES: &'static [Route];
    /// Each call leaves an audit line, whatever `LOG_LEVEL` says.
    const AUDITED: bool = false;

    /// Builds the clients it uses, and no others.
    fn new(deps: Deps<'_>) -> Self;

    /// Does what a first request would have to wait for. If a step fails, the first request tries it again.
    fn prepare(&self) -> impl Future<Output = ()> + Send;

    /// Handles one request of one of its routes.
    fn handle(
        &self,
        route: Route,
        request: &Request,
        invocation: &Invocation,
    ) -> impl Future<Output = Result<Response<Body>, Problem>> + Send;
}

/// The parts that functions are built from.
#[derive(Clone, Copy)]
pub struct Deps<'a> {
    /// The environment.
    pub config: &'a Config,
    /// The one HTTP client.
    pub http: &'a reqwest::Client,
    /// Secrets Manager.
    pub secrets: &'a aws_sdk_secretsmanager::Client,
    pub clock: &'a Clock,
    /// The sealing key; logs take their hash of user ids from it.
    pub sealer: &'a Arc<Sealer>,
}

impl Deps<'_> {
    pub fn store(&self) -> Store {
        Store::new(aws::dynamodb(&self.config.aws, self.http), self.config.table.clone(), self.clock.clone())
    }

    /// Human API and the table, joined.
    pub fn tokens(&self) -> TokenService {
        let config = self.config;
        let client_secret =
            Secret::new(self.secrets.clone(), config.client_secret_id.clone(), config.secret_ttl, parse_client_secret);
        TokenService {
            human_api: HumanApi::new(config, self.http.clone()),
            client_secret,
            store: self.store(),
            sealer: self.sealer.clone(),
            connections: Connections::new(config, self.http, &[config.human_api_url()]),
        }
    }
}

/// Runs a function: decodes, guards, reports.
pub struct Runner<F> {
    function: F,
    service: String,
    sealer: Arc<Sealer>,
    clock: Clock,
    output: Output,
    cold: AtomicBool,
}

impl<F> Runner<F> {
    fn build(
        config: &Config,
        clock: Clock,
        output: Output,
        function: impl FnOnce(Deps<'_>) -> F,
    ) -> Result<Self, NetworkError> {
        let http = network::http_client(config)?;
        let secrets = aws::secrets_manager(&config.aws, &http);
        let key = Secret::new(secrets.clone(), config.token_key_id.clone(), config.secret_ttl, SealingKey::parse);
        let sealer = Arc::new(Sealer::new(key));
        let function = function(Deps { config, http: &http, secrets: &secrets, clock: &clock, sealer: &sealer });
        let service = config.service.clone();
        Ok(Self { function, service, sealer, clock, output, cold: AtomicBool::new(true) })
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

    /// The span of an invocation's log lines, and `true` for the first invocation.
    fn begin(&self, context: &Context) -> (bool, Span) {
        let cold_start = self.cold.swap(false, Ordering::Relaxed);
        let span = info_span!(
            "invocation",
            function_request_id = context.request_id,
            cold_start,
            xray_trace_id = context.xray_trace_id.as_deref().and_then(root_of),
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

impl<F: Function> Runner<F> {
    /// Builds the function; its metrics go to `output`.
    pub fn new(config: &Config, clock: Clock, output: Output) -> Result<Self, NetworkError> {
        Self::build(config, clock, output, F::new)
    }

    /// Reads secrets and opens connections, all at the same time.
    pub async fn prepare(&self) {
        self.prepare_with(self.function.prepare()).await;
    }

    /// One invocation, from event to response. Every event and every fault ends in a response.
    ///
    /// `lambda_http` decodes the event and converts it before the handler runs. It can fail or panic in both (1.3.2: broken base64,
    /// a query that is no query). API Gateway sends no such event; the answer is 400.
    pub async fn run(&self, event: LambdaEvent<Box<RawValue>>) -> String {
        let (cold_start, span) = self.begin(&event.context);
        let lambda_id = event.context.request_id.clone();
        let invocation = Invocation::start();
        let respond = |request: Request| {
            let (lambda_id, invocation) = (&lambda_id, &invocation);
            async move { Ok::<_, Infallible>(self.respond(&request, lambda_id, cold_start, invocation).await) }
        };
        let convert = async {
            let mut payload: LambdaRequest = serde_json::from_str(event.payload.get()).ok()?;
            if let LambdaRequest::ApiGatewayV1(event) = &mut payload {
                // `lambda_http` keeps only the context's copy
                event.request_context.resource_path = event.resource.take();
            }
            let event = LambdaEvent::new(payload, event.context);
            let Ok(response) = Adapter::from(service_fn(respond)).call(event).await;
            serde_json::to_string(&response).ok()
        };
        // boxed: a handler's future is large, and each layer around it would move it
        let converted = AssertUnwindSafe(Box::pin(convert)).catch_unwind();
        async {
            let response = converted.await.ok().flatten();
            response.unwrap_or_else(|| self.refuse_event(&lambda_id, cold_start, &invocation))
        }
        .instrument(span)
        .await
    }

    async fn respond(
        &self,
        request: &Request,
        lambda_id: &str,
        cold_start: bool,
        invocation: &Invocation,
    ) -> Response<Body> {
        let handled = guarded(invocation, async {
            let route = Route::of(request, F::ROUTES)?;
            Span::current().record("route", format!("{} {}", route.method, route.path));
            self.function.handle(route, request, invocation).await
        });
        let handled = handled.await;
        self.report(&handled, lambda_id, cold_start, invocation);
        complete(handled.unwrap_or_else(|problem| problem.into_response(request_id(request).unwrap_or(lambda_id))))
    }

    /// The answer to an event that cannot be decoded. Both payload formats of API Gateway take this form.
    fn refuse_event(&self, lambda_id: &str, cold_start: bool, invocation: &Invocation) -> String {
        let problem = Err(Problem::undecodable_event());
        self.report(&problem, lambda_id, cold_start, invocation);
        let (parts, body) = complete(Problem::undecodable_event().into_response(lambda_id)).into_parts();
        let mut response = ApiGatewayV2httpResponse::default();
        (response.status_code, response.headers, response.body) =
            (parts.status.as_u16().into(), parts.headers, Some(body));
        // numbers and strings: cannot fail
        serde_json::to_string(&response).unwrap_or_default()
    }

    /// Writes the log lines and metrics of an invocation.
    fn report(
        &self,
        answer: &Result<Response<Body>, Problem>,
        request_id: &str,
        cold_start: bool,
        invocation: &Invocation,
    ) {
        let (status, code) = match answer {
            Ok(response) => (response.status().as_u16(), "ok"),
            Err(problem) => (problem.status(), problem.code().name()),
        };
        let measurements = invocation.measurements();
        let user = invocation.user().and_then(|user| self.sealer.user_hash(&user));
        if let Some(cause) = answer.as_ref().err().and_then(Problem::cause) {
            let cause = error_chain(cause);
            if status >= 500 { error!(cause, "the request failed") } else { info!(cause, "the request was refused") }
        }
        info!(
            outcome = code,
            status,
            duration_ms = milliseconds(invocation.elapsed()),
            upstream_ms = milliseconds(measurements.upstream),
            store_ms = milliseconds(measurements.store),
            user,
            "request"
        );
        let (service, at) = (self.service.as_str(), self.clock.now());
        if F::AUDITED {
            let caller = invocation.aws_caller();
            let (caller, user) = (caller.as_deref(), user.as_deref());
            self.output.line(&AuditLine::new(service, F::NAME, request_id, caller, user, code, at));
        }
        let outcome = Outcome {
            service,
            function: F::NAME,
            request_id,
            status,
            code,
            cold_start,
            measurements: &measurements,
            at,
        };
        self.output.line(&outcome.metrics());
    }
}

/// Adds the headers that every response has: it may hold data of one user, so nothing caches it and nothing guesses its type.
fn complete(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    response
}

/// X-Ray's trace id out of Lambda's header value.
fn root_of(header: &str) -> Option<&str> {
    header.split(';').find_map(|part| part.trim().strip_prefix("Root="))
}

/// Serves the events of the runtime.
trait Serve: Send + Sync + 'static {
    fn prepare(&self) -> impl Future<Output = ()> + Send;
    fn serve(&self, event: LambdaEvent<Box<RawValue>>) -> impl Future<Output = String> + Send;
}

impl<F: Function> Serve for Runner<F> {
    async fn prepare(&self) {
        self.prepare().await;
    }

    async fn serve(&self, event: LambdaEvent<Box<RawValue>>) -> String {
        self.run(event).await
    }
}

/// A function's `main`: reads the environment, builds, prepares, and serves until Lambda ends the process.
pub async fn run<F: Function>() -> ExitCode {
    serve(F::NAME, Runner::<F>::new).await
}

async fn serve<H: Serve>(
    name: &str,
    build: impl FnOnce(&Config, Clock, Output) -> Result<H, NetworkError>,
) -> ExitCode {
    let host = match Config::from_env() {
        Ok(config) => {
            let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| name.to_owned());
            let _ = tracing::subscriber::set_global_default(telemetry::subscriber(
                config.log_level.clone(),
                &config.service,
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
        async move { RawValue::from_string(host.serve(event).await).map_err(|_| "a response that is no JSON") }
    });
    match Runtime::new(service).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the Lambda runtime ended: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A panic's message can contain a token, so only its location is logged.
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

    #[test]
    fn a_panic_is_reported_by_its_place_and_without_its_message() {
        let heard = Heard::default();
        let subscriber = telemetry::subscriber(telemetry::info(), "test", "test", Output::new(heard.clone()));
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
