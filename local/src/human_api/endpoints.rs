//! The token endpoints, as the guides describe them.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{CLIENT_ID, HumanApi, ID_SECONDS, SESSION_SECONDS, State};
use crate::random_hex;

pub(crate) type Answer = (StatusCode, Value);

impl HumanApi {
    /// Answers a request to `/v1/connect/{path}`.
    pub fn answer(&self, path: &str, body: &Value) -> Answer {
        let (client, secret) = match path {
            "token" => (text(body, "client_id"), text(body, "client_secret")),
            _ => (text(body, "clientId"), text(body, "clientSecret")),
        };
        if client != CLIENT_ID || !self.secrets.is_client_secret(secret) {
            return refusal(StatusCode::UNAUTHORIZED, "bad credentials");
        }
        self.with(|state| match path {
            "token" => state.token(body),
            "tokens" => state.tokens(body),
            "publictokens" => state.public_tokens(body),
            _ => refusal(StatusCode::NOT_FOUND, "no such path"),
        })
    }
}

impl State {
    fn token(&mut self, body: &Value) -> Answer {
        let user = text(body, "client_user_id");
        if user.is_empty() {
            return refusal(StatusCode::BAD_REQUEST, "client_user_id is required");
        }
        let connected = !self.sources(user).is_empty();
        match text(body, "type") {
            "session" if text(body, "client_user_email").is_empty() => {
                refusal(StatusCode::BAD_REQUEST, "client_user_email is required")
            }
            "session" if connected => refusal(StatusCode::FORBIDDEN, "the user has connected a source"),
            "session" => {
                let known = self.user(user);
                known.email = Some(text(body, "client_user_email").to_owned());
                let human_id = known.human_id.clone();
                let token = self.add_start_token(user, "session", SESSION_SECONDS);
                ok(json!({"session_token": token, "human_id": human_id, "expires_in": SESSION_SECONDS}))
            }
            "id" | "access" if !connected => refusal(StatusCode::NOT_FOUND, "no user with a connected source"),
            "id" => ok(json!({
                "token_type": "Bearer",
                "id_token": self.add_start_token(user, "id", ID_SECONDS),
                "id_refresh_token": format!("made-up-id-refresh-token-{}", random_hex::<12>()),
                "expires_in": ID_SECONDS,
            })),
            "access" => ok(json!({
                "access_token": self.new_access_token(user),
                "expires_in": ID_SECONDS,
                "token_type": "Bearer",
                "refresh_token": format!("made-up-refresh-token-{}", random_hex::<12>()),
            })),
            _ => refusal(StatusCode::BAD_REQUEST, "type must be session, id or access"),
        }
    }

    fn tokens(&mut self, body: &Value) -> Answer {
        let session = text(body, "sessionToken");
        let Some(user) = self.sessions.get(session).cloned() else {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, "no such session");
        };
        if self.single_use && self.used_sessions.contains(session) {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, "the session is spent");
        }
        if self.user(&user).human_id != text(body, "humanId") {
            return refusal(StatusCode::UNPROCESSABLE_ENTITY, "another user's session");
        }
        self.used_sessions.insert(session.to_owned());
        if self.sources(&user).is_empty() {
            // In production, a session exists only after the user has connected a source.
            self.connect(&user, "made-up-01");
        }
        let public_token = format!("made-up-public-token-{}", random_hex::<12>());
        self.user(&user).public_token = Some(public_token.clone());
        ok(json!({
            "humanId": self.user(&user).human_id,
            "accessToken": self.new_access_token(&user),
            "publicToken": public_token,
            "clientId": CLIENT_ID,
            "clientUserId": user,
        }))
    }

    fn new_access_token(&mut self, user: &str) -> String {
        let token = format!("made-up-access-token-{}", random_hex::<12>());
        self.user(user).access_token = Some(token.clone());
        token
    }

    fn public_tokens(&mut self, body: &Value) -> Answer {
        let human_id = text(body, "humanId");
        let Some(user) = self.users.values_mut().find(|user| user.human_id == human_id) else {
            return refusal(StatusCode::NOT_FOUND, "no such user");
        };
        let token = user.public_token.get_or_insert_with(|| format!("made-up-public-token-{}", random_hex::<12>()));
        ok(json!({"humanId": human_id, "publicToken": token}))
    }
}

pub(super) fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn ok(body: Value) -> Answer {
    (StatusCode::OK, body)
}

fn refusal(status: StatusCode, message: &str) -> Answer {
    let error = status.canonical_reason().unwrap_or_default();
    (
        status,
        json!({"statusCode": status.as_u16(), "error": error, "message": message, "x-humanapi-request-id": "made-up"}),
    )
}
