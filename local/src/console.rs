//! The console page and its own endpoints: sign-in without a password, the user's row, the stand-in's switches.

use aws_sdk_dynamodb::types::AttributeValue;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::clock::rfc3339;
use shared::identity::UserId;
use shared::lambda::job::Job;

use crate::assets;
use crate::aws::TABLE;
use crate::calls::{ActionKind, Calls};
use crate::errors;
use crate::event_bus::EventBus;
use crate::faults::Faults;
use crate::gateway::{ACCESS_TOKEN, BODY_LIMIT, CONNECTION, FORGET, Gateway};
use crate::human_api::{CLIENT_ID, HumanApi};
use crate::issuer::Issuer;
use crate::names_this_machine;
use crate::secrets::Secrets;
use crate::switches::{self, Switch};
use maintenance::Maintenance;

/// The parts that the console uses.
#[derive(Clone)]
pub struct Console {
    pub widgets: String,
    pub gateway: Gateway,
    pub issuer: Issuer,
    pub human_api: HumanApi,
    pub secrets: Secrets,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub faults: Faults,
    pub calls: Calls,
    pub event_bus: EventBus,
}

/// Returns the console's routes. Every other path goes to the API.
pub fn router(console: Console) -> Router {
    Router::new()
        .route("/", get(|| async { assets::console("console.html") }))
        .route("/assets/{*file}", get(|Path(file): Path<String>| async move { assets::console(&file) }))
        .route("/errors", get(errors::page))
        .route("/local/state", get(state))
        .route("/local/sign-in", post(sign_in).layer(from_fn_with_state(console.clone(), with_cors)))
        .route("/local/backend/{what}", post(as_backend))
        .route("/local/record", get(record))
        .route("/local/calls", get(calls))
        .route("/local/calls/{id}", get(exchange))
        .route("/local/actions", post(begin_action))
        .route("/local/actions/{id}/end", post(end_action))
        .route("/local/stand-in", post(stand_in))
        .route("/local/events", get(events))
        .route("/2015-03-31/functions/{function}/invocations", post(invoke))
        .fallback(api)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn_with_state(console.clone(), with_policy))
        .with_state(console)
}

/// Sets the console's content security policy: only its own scripts and the widgets' scripts run.
async fn with_policy(State(console): State<Console>, request: Request, next: Next) -> Response {
    if !names_this_machine(request.headers()) {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    }
    let mut response = next.run(request).await;
    let widgets = &console.widgets;
    let policy = format!(
        "default-src 'none'; script-src 'self' {widgets}; style-src 'self'; img-src 'self' {widgets}; connect-src 'self'; \
         frame-src {widgets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Allows pages of other origins to sign in, if they may call the API.
async fn with_cors(State(console): State<Console>, request: Request, next: Next) -> Response {
    let cors = console.gateway.cors();
    if let Some(answer) = cors.preflight(request.method(), request.headers()) {
        return answer;
    }
    let headers = request.headers().clone();
    let mut response = next.run(request).await;
    cors.complete(&headers, &mut response);
    response
}

async fn api(State(console): State<Console>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match axum::body::to_bytes(body, BODY_LIMIT).await {
        Ok(body) => console.gateway.serve(parts.method, parts.uri, parts.headers, body).await,
        Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, Json(json!({"message": "Request Entity Too Large"}))).into_response(),
    }
}

async fn state(State(console): State<Console>) -> Json<Value> {
    let stand_in = console.human_api.with(|state| json!({"singleUse": state.single_use, "delayMs": state.delay_ms}));
    Json(json!({
        "widgetOrigin": console.widgets,
        "clientId": CLIENT_ID,
        "standIn": stand_in,
        "faults": switches::faults(&console),
    }))
}

#[derive(Deserialize)]
struct SignIn {
    user: String,
    email: Option<String>,
}

async fn sign_in(State(console): State<Console>, Json(who): Json<SignIn>) -> Json<Value> {
    Json(json!({"token": console.issuer.sign(&who.user, who.email.as_deref())}))
}

/// Calls an internal route as another backend, which a page cannot do.
async fn as_backend(State(console): State<Console>, Path(what): Path<String>, Json(body): Json<Value>) -> Response {
    let of = |route: &&str| route.strip_prefix("POST /internal/") == Some(&what);
    let Some(route) = [ACCESS_TOKEN, CONNECTION, FORGET].into_iter().find(of) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let reply = console.gateway.as_backend(route, &body).await;
    Json(json!({"route": route, "status": reply.status, "body": reply.json()})).into_response()
}

#[derive(Deserialize)]
struct After {
    after: u64,
}

async fn calls(State(console): State<Console>, Query(After { after }): Query<After>) -> Json<Value> {
    let (calls, last) = console.calls.after(after);
    Json(json!({"actions": console.calls.actions_after(after), "calls": calls, "last": last}))
}

/// Answers with the event and the response of one call.
async fn exchange(State(console): State<Console>, Path(id): Path<u64>) -> Response {
    match console.calls.get(id) {
        Some(call) => Json(json!({"event": call.event, "answer": call.answer})).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"message": "This call is no longer kept."}))).into_response(),
    }
}

#[derive(Deserialize)]
struct Whose {
    user: String,
}

async fn record(State(console): State<Console>, Query(Whose { user }): Query<Whose>) -> Response {
    let Some(user) = UserId::new(user) else {
        return Json(json!({"record": null})).into_response();
    };
    let request = console.dynamodb.get_item().table_name(TABLE).consistent_read(true).key("userKey", key(&user));
    match request.send().await {
        Ok(answer) => {
            let record = answer.item.map(|item| {
                let mut fields = Vec::new();
                for (name, value) in &item {
                    show(name.clone(), value, &mut fields);
                }
                fields.sort_by(|(one, _), (other, _)| one.cmp(other));
                Value::Object(fields.into_iter().collect())
            });
            Json(json!({"record": record})).into_response()
        }
        Err(_) => (StatusCode::BAD_GATEWAY, Json(json!({"message": "The table did not answer."}))).into_response(),
    }
}

pub(crate) fn key(user: &UserId) -> AttributeValue {
    AttributeValue::S(user.key().to_string())
}

/// Prepares an attribute for display. Maps become one field per entry, sealed values show their key version, numbers of
/// milliseconds show as times.
fn show(name: String, value: &AttributeValue, fields: &mut Vec<(String, Value)>) {
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_time = last.ends_with("At") || last.ends_with("Until") || matches!(last, "until" | "since");
    let shown = match value {
        AttributeValue::M(map) => match (map.get("key"), map.get("sealed")) {
            (Some(AttributeValue::S(version)), Some(_)) => json!(format!("sealed with key version {version}")),
            _ => {
                for (inner, value) in map {
                    let inner = if name == "userRecord" { inner.clone() } else { format!("{name}.{inner}") };
                    show(inner, value, fields);
                }
                return;
            }
        },
        AttributeValue::N(number) => match number.parse() {
            Ok(at) if is_time || name.starts_with("finished.") => json!(rfc3339(at)),
            Ok(seconds) if name == "expires" => json!(rfc3339(seconds * 1000)),
            _ => json!(number),
        },
        AttributeValue::S(text) => json!(text),
        AttributeValue::Bool(flag) => json!(flag),
        AttributeValue::Ss(list) => json!(list),
        AttributeValue::L(list) => list.iter().map(source).collect(),
        _ => json!("…"),
    };
    fields.push((name, shown));
}

/// A source of the list of sources.
fn source(value: &AttributeValue) -> Value {
    let fields = value.as_m().into_iter().flatten();
    fields.map(|(name, value)| (name.clone(), json!(value.as_s().ok()))).collect::<Map<_, _>>().into()
}

async fn stand_in(State(console): State<Console>, Json(switch): Json<Switch>) -> Response {
    match console.switch(switch).await {
        Some(done) => Json(done).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"message": "There is no such fault."}))).into_response(),
    }
}

#[derive(Deserialize)]
struct Begun {
    title: String,
    kind: ActionKind,
}

async fn begin_action(State(console): State<Console>, Json(action): Json<Begun>) -> Json<Value> {
    Json(json!({"id": console.calls.begin_action(action.title, action.kind)}))
}

async fn end_action(State(console): State<Console>, Path(id): Path<u64>) -> StatusCode {
    console.calls.end_action(id);
    StatusCode::NO_CONTENT
}

async fn events(State(console): State<Console>, Query(After { after }): Query<After>) -> Json<Value> {
    Json(json!({"events": console.event_bus.after(after)}))
}

/// Lambda's `Invoke`, for `maintenance`. A browser cannot send its header without a preflight, so no page elsewhere can call it.
async fn invoke(State(console): State<Console>, Path(function): Path<String>, request: Request) -> Response {
    let signature = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !signature.is_some_and(|signature| signature.starts_with("AWS4-HMAC-SHA256 ")) {
        return StatusCode::FORBIDDEN.into_response();
    }
    // a name, with an alias or without
    if function.split(':').next() != Some(Maintenance::NAME) {
        return (StatusCode::NOT_FOUND, [("x-amzn-errortype", "ResourceNotFoundException")]).into_response();
    }
    let Ok(body) = axum::body::to_bytes(request.into_body(), BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    // The run goes on even if its caller disconnects.
    let run = async move { console.gateway.maintain(&serde_json::from_slice(&body).unwrap_or_default()).await };
    match tokio::spawn(run).await.unwrap_or_else(|_| Err("the task panicked".to_owned())) {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let failed = [("x-amz-function-error", "Unhandled")];
            (failed, Json(json!({"errorType": "Error", "errorMessage": error}))).into_response()
        }
    }
}
