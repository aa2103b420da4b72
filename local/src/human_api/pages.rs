//! The widgets' origin serves both generations' pages, the requests of these pages, and the token endpoints.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State as Shared};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use shared::clock::Clock;

use super::endpoints::text;
use crate::assets;
use crate::calls::Calls;
use crate::names_this_machine;

use super::{CATALOGUE, CLIENT_ID, HumanApi, State};

/// Returns the stand-in's routes. Only pages of the origins in `frames`, separated by spaces, may embed the widgets. The widgets'
/// requests are recorded in `calls`.
pub fn router(human_api: HumanApi, calls: Calls, frames: &str) -> Router {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors {frames}"
    );
    let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let widgets = Router::new()
        .route("/widget/{action}", post(widget))
        .route("/popup/{action}", post(popup))
        .layer(from_fn_with_state(calls, record));
    Router::new()
        .merge(widgets)
        .route("/", get(|| async { assets::human_api("widget.html") }))
        .route("/popup", get(|| async { assets::human_api("popup.html") }))
        .route("/connect.js", get(|| async { assets::human_api("connect.js") }))
        .route("/assets/{file}", get(|Path(file): Path<String>| async move { assets::human_api(&file) }))
        .route(
            "/images/data-source-type-icons/launch-connect-text.svg",
            get(|| async { assets::human_api("launch-connect-text.svg") }),
        )
        .route("/v1/connect/{path}", post(tokens))
        .with_state(human_api)
        .layer(from_fn(move |request: Request, next: Next| {
            let policy = policy.clone();
            async move {
                if !names_this_machine(request.headers()) {
                    return StatusCode::MISDIRECTED_REQUEST.into_response();
                }
                let mut response = next.run(request).await;
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_SECURITY_POLICY, policy);
                headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
        }))
}

async fn record(Shared(calls): Shared<Calls>, request: Request, next: Next) -> Response {
    let call = calls.child(None, "browser", "Human API", format!("{} {}", request.method(), request.uri().path()));
    let response = next.run(request).await;
    call.end(response.status().as_u16());
    response
}

async fn tokens(Shared(human_api): Shared<HumanApi>, Path(path): Path<String>, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let delay = human_api.with(|state| state.delay_ms);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let (status, answer) = human_api.answer(&path, &body);
    (status, Json(answer)).into_response()
}

async fn widget(Shared(human_api): Shared<HumanApi>, Path(action): Path<String>, Json(body): Json<Value>) -> Response {
    human_api.with(|state| {
        let user = match state.start_tokens.get(text(&body, "token")) {
            Some((user, until)) if *until > Clock::system().now() => Ok(user.clone()),
            Some(_) => Err("SESSION_TOKEN_EXPIRED"),
            None if text(&body, "token").is_empty() => Err("MISSING_SESSION_TOKEN"),
            None => Err("SESSION_TOKEN_INVALID"),
        };
        match user {
            Ok(user) => state.act(&user, &action, &body),
            Err(status) => (StatusCode::UNAUTHORIZED, Json(json!({"status": status}))).into_response(),
        }
    })
}

async fn popup(Shared(human_api): Shared<HumanApi>, Path(action): Path<String>, Json(body): Json<Value>) -> Response {
    human_api.with(|state| {
        let user = percent_decode_str(text(&body, "clientUserId")).decode_utf8_lossy().into_owned();
        let public_token = text(&body, "publicToken");
        let refused = |status, code: &str, message: &str| {
            (status, Json(json!({"code": code, "message": message}))).into_response()
        };
        if text(&body, "clientId") != CLIENT_ID || user.is_empty() {
            return refused(StatusCode::UNAUTHORIZED, "INVALID_CLIENT", "Unknown application");
        }
        if action == "open" {
            let known = state.users.get(&user);
            let exists = known.is_some_and(|user| user.public_token.is_some() || !user.sources.is_empty());
            let right = known.is_some_and(|user| user.public_token.as_deref() == Some(public_token));
            if public_token.is_empty() && exists {
                return refused(StatusCode::CONFLICT, "USER_ALREADY_EXISTS", "User Already Exists");
            }
            if !public_token.is_empty() && !right {
                return refused(StatusCode::UNAUTHORIZED, "INVALID_PUBLIC_TOKEN", "Invalid Public Token");
            }
        }
        if action == "finish" {
            let session = state.add_session(&user, None);
            let human_id = state.user(&user).human_id.clone();
            return Json(json!({"humanId": human_id, "clientId": CLIENT_ID, "sessionToken": session})).into_response();
        }
        state.act(&user, &action, &body)
    })
}

impl State {
    fn act(&mut self, user: &str, action: &str, body: &Value) -> Response {
        match action {
            "connect" => self.connect(user, text(body, "sourceId")),
            "disconnect" => self.disconnect(user, text(body, "sourceId")),
            "open" => {
                let catalogue: Vec<Value> =
                    CATALOGUE.iter().map(|(id, name, kind)| json!({"id": id, "name": name, "kind": kind})).collect();
                return Json(json!({"sources": self.sources(user), "catalogue": catalogue})).into_response();
            }
            _ => return StatusCode::NOT_FOUND.into_response(),
        }
        Json(json!({"sources": self.sources(user)})).into_response()
    }
}
