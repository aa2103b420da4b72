//! Start-up and the runtime loop, the same for every function, and one invocation from event to response. The local program and the
//! tests use it too. [`job`] is for the scheduled function.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{convert::Infallible, error::Error, panic::AssertUnwindSafe, process::ExitCode, time::Duration};

use futures_util::FutureExt;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use lambda_http::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Context, LambdaEvent, Request, Response, Service, service_fn};
use lambda_runtime::Runtime;
use serde_json::value::RawValue;
use tokio::time::{timeout, timeout_at};
use tracing::{Instrument, Span, error, field, info, info_span, warn};

use crate::http::{Problem, Route, body, route::is_audited, route::request_id};
use crate::network::{self, Connections, NetworkError};
use crate::seal::{Sealer, SealingKey};
use crate::secret::{Secret, parse_client_secret};
use crate::telemetry::{self, AuditLine, Outcome, Output, error_chain, milliseconds};
use crate::{aws, clock::Clock, config::Config, human_api::HumanApi, invocation::Invocation};
use crate::{store::Store, tokens::TokenService};

pub mod job;

/// Start-up reads secrets and opens connections for at most this long. The first request fetches what is missing then.
const INIT_BUDGET: Duration = Duration::from_secs(5);

/// A function behind API Gateway.
pub trait Function: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    const ROUTES: &'static [Route];

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
pub struct Deps<'a> {
    pub config: &'a Config,
    pub http: &'a reqwest::Client,
    pub secrets: aws_sdk_secretsmanager::Client,
    pub clock: &'a Clock,
    pub sealer: &'a Arc<Sealer>,
    pub output: &'a Output,
}

impl Deps<'_> {
    pub fn store(&self) -> Store {
        Store::new(aws::dynamodb(&self.config.aws, self.http), self.config.table.clone(), self.clock.clone())
    }

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
    /// Logs take their hash of user ids from it.
    sealer: Arc<Sealer>,
    clock: Clock,
    output: Output,
    cold: AtomicBool,
}

/// One invocation, as Lambda knows it.
pub struct Call {
    pub request_id: String,
    /// It is the first invocation of this process.
    pub cold_start: bool,
    pub invocation: Invocation,
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
        let sealer = Arc::new(Sealer { key });
        let deps = Deps { config, http: &http, secrets, clock: &clock, sealer: &sealer, output: &output };
        let (function, service) = (function(deps), config.service.clone());
        Ok(Self { function, service, sealer, clock, output, cold: AtomicBool::new(true) })
    }

    /// Starts an invocation, and the span of its log lines.
    fn begin(&self, context: &Context) -> (Call, Span) {
        let cold_start = self.cold.swap(false, Ordering::Relaxed);
        // X-Ray's trace id is one part of the header
        let trace = context
            .xray_trace_id
            .as_deref()
            .and_then(|header| header.split(';').find_map(|part| part.trim().strip_prefix("Root=")));
        let span = info_span!(
            "invocation",
            function_request_id = context.request_id,
            cold_start,
            xray_trace_id = trace,
            route = field::Empty,
        );
        (Call { request_id: context.request_id.clone(), cold_start, invocation: Invocation::start() }, span)
    }
}

async fn within_init<T>(work: impl Future<Output = T>) {
    if timeout(INIT_BUDGET, work).await.is_err() {
        warn!("start-up was cut short; the first request does the rest");
    }
}

/// Ends work with the invocation's time, and a panic as a fault.
pub async fn guarded<T>(invocation: &Invocation, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    // everything inside ends by itself before this; like a crash, it would lose nothing
    match AssertUnwindSafe(timeout_at(invocation.deadline(), work)).catch_unwind().await {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(_)) => error!("the invocation's time is up"),
        Err(_) => error!("a panic was caught"),
    }
    Err(Problem::fault())
}

impl<F: Function> Runner<F> {
    /// Builds the function; its metrics go to `output`.
    pub fn new(config: &Config, clock: Clock, output: Output) -> Result<Self, NetworkError> {
        Self::build(config, clock, output, F::new)
    }

    /// Reads secrets and opens connections, all at the same time.
    pub async fn prepare(&self) {
        let key = async {
            if let Err(error) = self.sealer.current().await {
                error!(error = error_chain(&error), "the sealing key cannot be read");
            }
        };
        within_init(async { tokio::join!(key, self.function.prepare()) }).await;
    }

    /// One invocation, from event to response. Every event and every fault ends in a response.
    pub async fn run(&self, event: LambdaEvent<Box<RawValue>>) -> String {
        let (call, span) = self.begin(&event.context);
        let converted = AssertUnwindSafe(self.convert(event, &call)).catch_unwind();
        async { converted.await.ok().flatten().unwrap_or_else(|| self.refuse_event(&call)) }.instrument(span).await
    }

    /// Returns `None` for an event that cannot be decoded.
    ///
    /// `lambda_http` decodes the event and converts it before the handler runs. It can fail or panic in both (1.3.2: broken base64,
    /// a query that is no query). API Gateway sends no such event; the answer is 400.
    async fn convert(&self, event: LambdaEvent<Box<RawValue>>, call: &Call) -> Option<String> {
        let mut payload: LambdaRequest = serde_json::from_str(event.payload.get()).ok()?;
        if let LambdaRequest::ApiGatewayV1(event) = &mut payload {
            // `lambda_http` keeps only the context's copy
            event.request_context.resource_path = event.resource.take();
        }
        let respond = |request: Request| async move { Ok::<_, Infallible>(self.respond(&request, call).await) };
        let event = LambdaEvent::new(payload, event.context);
        let Ok(response) = Adapter::from(service_fn(respond)).call(event).await;
        serde_json::to_string(&response).ok()
    }

    async fn respond(&self, request: &Request, call: &Call) -> Response<Body> {
        let handled = guarded(&call.invocation, async {
            let route = Route::of(request, F::ROUTES)?;
            body::bytes(request)?;
            Span::current().record("route", route.to_string());
            // boxed: a handler's future is large, and each layer around it would move it
            Box::pin(self.function.handle(route, request, &call.invocation)).await
        });
        let handled = handled.await;
        self.report(Some(request), &handled, call);
        let request_id = request_id(request).unwrap_or(&call.request_id);
        complete(handled.unwrap_or_else(|problem| problem.into_response(request_id)))
    }

    /// The answer to an event that cannot be decoded. Both payload formats of API Gateway take this form.
    fn refuse_event(&self, call: &Call) -> String {
        self.report(None, &Err(Problem::undecodable_event()), call);
        let (parts, body) = complete(Problem::undecodable_event().into_response(&call.request_id)).into_parts();
        let mut response = ApiGatewayV2httpResponse::default();
        (response.status_code, response.headers, response.body) =
            (parts.status.as_u16().into(), parts.headers, Some(body));
        // numbers and strings: cannot fail
        serde_json::to_string(&response).unwrap_or_default()
    }

    /// Writes the log lines and metrics of an invocation. Its audit line is there whatever `LOG_LEVEL` says.
    fn report(&self, request: Option<&Request>, answer: &Result<Response<Body>, Problem>, call: &Call) {
        let Call { request_id, cold_start, invocation } = call;
        let (status, code) = match answer {
            Ok(response) => (response.status().as_u16(), "ok"),
            Err(problem) => (problem.status(), problem.code().name()),
        };
        let measurements = &invocation.measurements();
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
        let (service, function, cold_start, at) = (self.service.as_str(), F::NAME, *cold_start, self.clock.now());
        let outcome = Outcome { service, function, request_id, status, code, cold_start, measurements, at };
        if is_audited(request, F::ROUTES) {
            let caller = invocation.aws_caller();
            let route = request.and_then(|request| Route::of(request, F::ROUTES).ok()).map(|route| route.to_string());
            self.output.line(&AuditLine::new(&outcome, route, caller.as_deref(), user.as_deref()));
        }
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

/// A function's `main`: reads the environment, builds, prepares, and serves until Lambda ends the process.
pub async fn run<F: Function>() -> ExitCode {
    let handle = async |runner: &Runner<F>, event| Ok(runner.run(event).await);
    let build = |config: &Config, clock, output| Ok(Runner::<F>::new(config, clock, output)?);
    exit_code(serve(F::NAME, build, Runner::prepare, handle).await)
}

type StartError = Box<dyn Error + Send + Sync>;

fn exit_code(served: Result<(), StartError>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve<F>(
    name: &str,
    build: impl FnOnce(&Config, Clock, Output) -> Result<Runner<F>, StartError>,
    prepare: impl AsyncFn(&Runner<F>),
    handle: impl AsyncFn(&Runner<F>, LambdaEvent<Box<RawValue>>) -> Result<String, String>,
) -> Result<(), StartError> {
    let config = Config::from_env()?;
    let name = std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| name.to_owned());
    let subscriber = telemetry::subscriber(config.log_level.clone(), &config.service, &name, Output::stdout());
    let _ = tracing::subscriber::set_global_default(subscriber);
    report_panics_without_their_message();
    let runner = build(&config, Clock::system(), Output::stdout())?;
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return Err("AWS_LAMBDA_RUNTIME_API is not set: this is a Lambda function; to try it, see the README".into());
    }
    prepare(&runner).await;
    let service = service_fn(async |event| {
        RawValue::from_string(handle(&runner, event).await?).map_err(|_| "a response that is no JSON".to_owned())
    });
    Runtime::new(service).run().await.map_err(|error| format!("the Lambda runtime ended: {error}").into())
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
    use std::io::Read;

    use super::*;

    #[test]
    fn a_panic_is_reported_by_its_place_and_without_its_message() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let subscriber = telemetry::subscriber(telemetry::info(), "test", "test", Output::new(writer));
        let hook = std::panic::take_hook();
        report_panics_without_their_message();
        let caught = tracing::subscriber::with_default(subscriber, || {
            std::panic::catch_unwind(|| panic!("{}", "made-up-access-token"))
        });
        std::panic::set_hook(hook);
        let mut lines = String::new();
        reader.read_to_string(&mut lines).unwrap();
        assert!(caught.is_err() && lines.contains("lambda.rs:"), "{lines}");
        assert!(!lines.contains("made-up"), "{lines}");
    }
}
