//! A small API Gateway HTTP API: authorizers, events of payload format 2.0, and five functions in this process. It also runs
//! `maintenance` and `publisher` on request.
//!
//! The IAM routes require a Signature Version 4 header. The local stack has no IAM, so the signature is not checked.

use std::sync::{Arc, Mutex};

use access_token::AccessToken;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use connection::Connection;
use finish::Finish;
use lambda_http::{Context, LambdaEvent};
use public_token::PublicToken;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use session_start::SessionStart;
use shared::clock::{Clock, rfc3339};
use shared::config::Config;
use shared::http::Route;
use shared::lambda::job::Job;
use shared::lambda::{Function, Runner};
use shared::network::NetworkError;
use shared::telemetry::Output;

use crate::calls::{Calls, Underway};
use crate::cors::{Cors, CorsError, OwnAnswer, Refusals};
use crate::issuer::Issuer;
use crate::{lock, random_hex};

/// API Gateway's limit of a body, in bytes.
pub const BODY_LIMIT: usize = 10 * 1024 * 1024;
/// The AWS identity of the caller "another backend".
pub const BACKEND_ARN: &str = "arn:aws:sts::000000000000:assumed-role/made-up-backend/local";

/// Another backend's routes.
pub const ACCESS_TOKEN: &str = "POST /internal/access-token";
pub const CONNECTION: &str = "POST /internal/connection";
pub const FORGET: &str = "POST /internal/forget";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Jwt,
    Iam,
    None,
}

impl Guard {
    /// Returns the authorizer of the template.
    fn of(route: &Route) -> Self {
        match route.path {
            path if path.starts_with("/internal/") => Self::Iam,
            path if path.ends_with("/{ticket}") => Self::None,
            _ => Self::Jwt,
        }
    }
}

/// The routes of all functions.
fn routes() -> impl Iterator<Item = &'static Route> {
    let tables = [SessionStart::ROUTES, Finish::ROUTES, PublicToken::ROUTES, AccessToken::ROUTES, Connection::ROUTES];
    tables.into_iter().flatten()
}

/// The gateway. Clones share the functions.
#[derive(Clone)]
pub struct Gateway {
    functions: Arc<Mutex<Arc<Functions>>>,
    parts: Arc<(Config, Output, Clock)>,
    issuer: Issuer,
    cors: Cors,
    calls: Calls,
}

struct Functions {
    session_start: Runner<SessionStart>,
    finish: Runner<Finish>,
    public_token: Runner<PublicToken>,
    access_token: Runner<AccessToken>,
    connection: Runner<Connection>,
    maintenance: Runner<maintenance::Maintenance>,
    publisher: Runner<publisher::Publisher>,
}

impl Functions {
    fn new(config: &Config, output: &Output, clock: &Clock) -> Result<Self, NetworkError> {
        Ok(Self {
            session_start: Runner::new(config, clock.clone(), output.clone())?,
            finish: Runner::new(config, clock.clone(), output.clone())?,
            public_token: Runner::new(config, clock.clone(), output.clone())?,
            access_token: Runner::new(config, clock.clone(), output.clone())?,
            connection: Runner::new(config, clock.clone(), output.clone())?,
            maintenance: Runner::of_job(config, clock.clone(), output.clone())?,
            publisher: Runner::of_job(config, clock.clone(), output.clone())?,
        })
    }
}

pub struct Reply {
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Map<String, Value>,
    pub body: String,
}

impl Reply {
    /// Parses the body as JSON. Returns null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Gateway {
    pub fn new(
        config: &Config,
        issuer: Issuer,
        calls: Calls,
        output: &Output,
        clock: Clock,
    ) -> Result<Self, NetworkError> {
        let functions = Functions::new(config, output, &clock)?;
        let parts = Arc::new((config.clone(), output.clone(), clock));
        Ok(Self { functions: Arc::new(Mutex::new(Arc::new(functions))), parts, issuer, cors: Cors::none(), calls })
    }

    /// Enables CORS as the template configures it, for these origins, separated by commas.
    pub fn with_origins(self, origins: &str, refusals: Refusals) -> Result<Self, CorsError> {
        Ok(Self { cors: Cors::from_template(origins, refusals)?, ..self })
    }

    pub fn cors(&self) -> &Cors {
        &self.cors
    }

    /// Replaces the functions by new ones with empty caches. Calls in flight continue.
    pub fn restart(&self) {
        let (config, output, clock) = &*self.parts;
        if let Ok(functions) = Functions::new(config, output, clock) {
            *lock(&self.functions) = Arc::new(functions);
        }
    }

    /// Answers a request of a browser or a phone.
    pub async fn serve(&self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
        if let Some(answer) = self.cors.preflight(&method, &headers) {
            let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).map(HeaderValue::as_bytes);
            let wanted = wanted.and_then(|method| Method::from_bytes(method).ok()).unwrap_or_default();
            let route =
                find_route(&wanted, uri.path()).map_or("no such route".to_owned(), |(route, _)| route.to_string());
            let kept_out = !answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            let verdict = if kept_out { ": this origin is not allowed" } else { "" };
            let request = self.calls.request("browser", format!("preflight of {route}{verdict}"));
            request.answer(json!({"headers": header_map(answer.headers())}));
            request.end(answer.status().as_u16());
            return answer;
        }
        // The invocation continues even if its caller disconnects.
        let (gateway, request) = (self.clone(), headers.clone());
        let answer = tokio::spawn(async move { gateway.route(method, uri, &request, body).await }).await;
        let mut response =
            answer.unwrap_or_else(|_| message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"));
        self.cors.complete(&headers, &mut response);
        response
    }

    async fn route(&self, method: Method, uri: Uri, headers: &HeaderMap, body: Bytes) -> Response<Body> {
        let Some((route, ticket)) = find_route(&method, uri.path()) else {
            let request = self.calls.request("browser", format!("{method}: no such route"));
            return refuse(request, StatusCode::NOT_FOUND, "Not Found");
        };
        let name = route.to_string();
        let request = self.calls.request("browser", &*name);
        let mut event = event(&name, None);
        put(&mut event, "rawPath", json!(uri.path()));
        put(&mut event, "rawQueryString", json!(uri.query().unwrap_or_default()));
        put(&mut event, "headers", header_map(headers));
        if let Some(ticket) = ticket {
            put(&mut event, "pathParameters", json!({"ticket": ticket}));
        }
        put_body(&mut event, headers, &body);
        request.event(event.clone());
        let authorization =
            headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let authorizer = match Guard::of(route) {
            Guard::None => None,
            Guard::Jwt => {
                let token = authorization.strip_prefix("Bearer ").unwrap_or(authorization);
                match self.issuer.verify(token) {
                    Some(claims) => Some(json!({"jwt": {"claims": as_text(&claims), "scopes": null}})),
                    None => return refuse(request, StatusCode::UNAUTHORIZED, "Unauthorized"),
                }
            }
            Guard::Iam if authorization.starts_with("AWS4-HMAC-SHA256 ") => Some(backend()),
            Guard::Iam => return refuse(request, StatusCode::FORBIDDEN, "Forbidden"),
        };
        if let (Some(authorizer), Some(context)) = (authorizer, event.get_mut("requestContext")) {
            put(context, "authorizer", authorizer);
        }
        let reply = self.invoke_for(Some(request.id()), &name, &event).await;
        request.end(reply.status);
        let mut response = Response::builder().status(reply.status);
        for (name, value) in &reply.headers {
            response = response.header(name, value.as_str().unwrap_or_default());
        }
        response.body(Body::from(reply.body)).unwrap_or_else(|_| message(StatusCode::BAD_GATEWAY, "Bad Gateway"))
    }

    /// Calls a route as this user, without HTTP.
    pub async fn as_user(&self, route: &'static str, user: &str, body: &Value) -> Reply {
        self.invoke(route, &user_event(route, user, body)).await
    }

    /// Calls `POST /connect/finish/{ticket}`, without HTTP.
    pub async fn with_ticket(&self, ticket: &str, body: &Value) -> Reply {
        let route = "POST /connect/finish/{ticket}";
        let mut event = event(route, None);
        put(&mut event, "pathParameters", json!({"ticket": ticket}));
        put_json(&mut event, body);
        self.invoke(route, &event).await
    }

    /// Calls a route as another backend, without HTTP.
    pub async fn as_backend(&self, route: &'static str, body: &Value) -> Reply {
        let request = self.calls.request("another backend", route);
        let reply = self.invoke_for(Some(request.id()), route, &backend_event(route, body)).await;
        request.end(reply.status);
        reply
    }

    /// Runs `sweep` once, as its schedule would, and returns its response.
    pub async fn sweep(&self) -> Value {
        self.maintain(&json!({})).await.unwrap_or_default()
    }

    /// Invokes `maintenance` with this event. The error is the message of a Lambda error.
    pub async fn maintain(&self, event: &Value) -> Result<Value, String> {
        let functions = lock(&self.functions).clone();
        let request = self.calls.run("operator", maintenance::Maintenance::NAME);
        let event = RawValue::from_string(event.to_string()).map_err(|error| error.to_string())?;
        let answer = Box::pin(functions.maintenance.run_job(LambdaEvent::new(event, invocation()))).await;
        request.answer(answer.clone().unwrap_or_default());
        request.end(if answer.is_ok() { 200 } else { 500 });
        answer
    }

    /// Invokes `publisher` with this event of the table's stream. The console does not draw it.
    pub async fn publish(&self, event: &Value) -> Result<Value, String> {
        let functions = lock(&self.functions).clone();
        let event = RawValue::from_string(event.to_string()).map_err(|error| error.to_string())?;
        Box::pin(functions.publisher.run_job(LambdaEvent::new(event, invocation()))).await
    }

    /// Invokes the function of this route with this event, unchanged.
    pub async fn invoke(&self, route: &'static str, event: &Value) -> Reply {
        self.invoke_for(None, route, event).await
    }

    async fn invoke_for(&self, request: Option<u64>, route: &str, event: &Value) -> Reply {
        let functions = lock(&self.functions).clone();
        let is_of = |routes: &[Route]| routes.iter().any(|known| known.to_string() == route);
        if is_of(SessionStart::ROUTES) {
            self.run(&functions.session_start, request, event).await
        } else if is_of(PublicToken::ROUTES) {
            self.run(&functions.public_token, request, event).await
        } else if is_of(AccessToken::ROUTES) {
            self.run(&functions.access_token, request, event).await
        } else if is_of(Connection::ROUTES) {
            self.run(&functions.connection, request, event).await
        } else {
            self.run(&functions.finish, request, event).await
        }
    }

    async fn run<F: Function>(&self, host: &Runner<F>, request: Option<u64>, event: &Value) -> Reply {
        let call = self.calls.child(request, "API Gateway", "function", F::NAME);
        call.event(event.clone());
        // A handler's future is large, and five kinds of them would be on the stack.
        let response = match RawValue::from_string(event.to_string()) {
            Ok(event) => Box::pin(host.run(LambdaEvent::new(event, invocation()))).await,
            Err(_) => String::new(),
        };
        let response: Value = serde_json::from_str(&response).unwrap_or_default();
        let status = response.get("statusCode").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
        let status = status.unwrap_or(500);
        call.answer(response.clone());
        call.end(status);
        Reply {
            status,
            headers: headers_of(&response),
            body: response.get("body").and_then(Value::as_str).unwrap_or_default().to_owned(),
        }
    }
}

/// Makes the context that Lambda gives an invocation.
fn invocation() -> Context {
    let mut context = Context::default();
    context.request_id = random_hex::<8>();
    context
}

/// Returns the response's headers. Format 2.0 has single values, format 1.0 has lists of values.
fn headers_of(response: &Value) -> Map<String, Value> {
    let fields = |name: &str| response.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let single =
        fields("multiValueHeaders").into_iter().filter_map(|(name, values)| Some((name, values.get(0)?.clone())));
    fields("headers").into_iter().chain(single).collect()
}

/// Returns the route of a request, and the ticket in the path.
fn find_route(method: &Method, path: &str) -> Option<(&'static Route, Option<String>)> {
    routes().filter(|route| route.method == method.as_str()).find_map(|route| {
        let Some(prefix) = route.path.strip_suffix("{ticket}") else {
            return (path == route.path).then_some((route, None));
        };
        let ticket = path.strip_prefix(prefix).filter(|ticket| !ticket.is_empty() && !ticket.contains('/'))?;
        Some((route, Some(ticket.to_owned())))
    })
}

/// Makes the event of a user's request.
pub fn user_event(route: &str, user: &str, body: &Value) -> Value {
    let claims = json!({"sub": user, "email": format!("{}@example.test", user.len())});
    let mut event = event(route, Some(json!({"jwt": {"claims": claims, "scopes": null}})));
    put_json(&mut event, body);
    event
}

/// Makes the event of another backend's request.
pub fn backend_event(route: &str, body: &Value) -> Value {
    let mut event = event(route, Some(backend()));
    put_json(&mut event, body);
    event
}

/// Makes an event as an HTTP API does (payload format 2.0).
fn event(route: &str, authorizer: Option<Value>) -> Value {
    let (method, path) = route.split_once(' ').unwrap_or_default();
    let now = Clock::system().now();
    let mut context = json!({
        "accountId": "000000000000",
        "apiId": "local",
        "domainName": "127.0.0.1",
        "domainPrefix": "127",
        "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "local"},
        "requestId": random_hex::<8>(),
        "routeKey": route,
        "stage": "$default",
        "time": rfc3339(now),
        "timeEpoch": now,
    });
    if let Some(authorizer) = authorizer {
        put(&mut context, "authorizer", authorizer);
    }
    json!({
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": "",
        "headers": {},
        "requestContext": context,
        "isBase64Encoded": false,
    })
}

fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

fn put_json(event: &mut Value, body: &Value) {
    put(event, "headers", json!({"content-type": "application/json"}));
    put(event, "body", json!(body.to_string()));
}

/// Sets the body as an HTTP API does: JSON and text unchanged, everything else, including forms, in base64.
fn put_body(event: &mut Value, headers: &HeaderMap, body: &Bytes) {
    if body.is_empty() {
        return;
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_text = kind.starts_with("text/") || kind.starts_with("application/json");
    match std::str::from_utf8(body) {
        Ok(text) if is_text => put(event, "body", json!(text)),
        _ => {
            put(event, "body", json!(STANDARD.encode(body)));
            put(event, "isBase64Encoded", json!(true));
        }
    }
}

fn header_map(headers: &HeaderMap) -> Value {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Value::Object(headers.iter().map(|(name, value)| (name.to_string(), json!(text(value)))).collect())
}

/// Converts every claim to text, as an HTTP API does.
fn as_text(claims: &Value) -> Value {
    let text = |value: &Value| json!(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    Value::Object(claims.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect())
}

fn backend() -> Value {
    json!({"iam": {
        "accessKey": "made-up",
        "accountId": "000000000000",
        "callerId": "made-up",
        "cognitoIdentity": null,
        "principalOrgId": null,
        "userArn": BACKEND_ARN,
        "userId": "made-up",
    }})
}

/// Ends the request with API Gateway's own response, without a function.
fn refuse(request: Underway, status: StatusCode, text: &str) -> Response<Body> {
    request.answer(json!({"message": text}));
    request.end(status.as_u16());
    message(status, text)
}

/// Makes API Gateway's own response.
fn message(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(json!({"message": text}).to_string()));
    *response.status_mut() = status;
    response.extensions_mut().insert(OwnAnswer);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
