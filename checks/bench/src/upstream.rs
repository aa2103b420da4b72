//! Stand-ins for the services of the functions, as far as a measurement needs them. All values are made up.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::lock;
use crate::serve::{Answer, FullRequest};
use crate::table::Table;

/// The hosts. Each has its own port, as each has its own address in production.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    HumanApiAuth,
    HumanApiUser,
    DynamoDb,
    SecretsManager,
}

impl Service {
    pub(crate) const ALL: [Self; 4] = [Self::HumanApiAuth, Self::HumanApiUser, Self::DynamoDb, Self::SecretsManager];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HumanApiAuth => "human_api_auth",
            Self::HumanApiUser => "human_api_user",
            Self::DynamoDb => "dynamodb",
            Self::SecretsManager => "secrets_manager",
        }
    }
}

/// A call's name, and the time that its response took here.
pub(crate) struct Call(pub(crate) String, pub(crate) Duration);

#[derive(Default)]
pub(crate) struct Upstreams {
    table: Mutex<Table>,
    delays: Mutex<[Duration; 3]>,
    calls: Mutex<Vec<Call>>,
}

impl Upstreams {
    /// Sets the delays of Human API, DynamoDB and Secrets Manager, in this order.
    pub(crate) fn delay(&self, delays: [Duration; 3]) {
        *lock(&self.delays) = delays;
    }

    /// Takes the calls since the last call of this method.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.calls))
    }

    pub(crate) async fn answer(&self, service: Service, request: FullRequest) -> Answer {
        let started = Instant::now();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let [human_api, dynamodb, secrets_manager] = *lock(&self.delays);
        let (name, delay, answer, media_type) = match service {
            Service::HumanApiAuth | Service::HumanApiUser => {
                let path = request.uri().path();
                let answer = if request.method() == Method::POST { human_api_answer(path, &body) } else { None };
                (path.to_owned(), human_api, answer, "application/json")
            }
            Service::DynamoDb | Service::SecretsManager => {
                let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
                let name = target.and_then(|target| target.split_once('.')).map_or("", |(_, name)| name);
                let (delay, answer) = match service {
                    Service::DynamoDb => (dynamodb, lock(&self.table).answer(name, &body)),
                    _ => (secrets_manager, secrets_manager_answer(name, &body)),
                };
                (name.to_owned(), delay, answer, "application/x-amz-json-1.1")
            }
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let status = if answer.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let text = answer.unwrap_or_else(|| json!({"message": "no such thing"})).to_string();
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        lock(&self.calls).push(Call(name, started.elapsed()));
        answer
    }
}

fn human_api_answer(path: &str, body: &Value) -> Option<Value> {
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    Some(match (path, text("type")) {
        ("/v1/connect/tokens", _) => json!({
            "humanId": text("humanId"),
            "accessToken": "made-up-access-token-0123456789abcdef01234567",
            "publicToken": "made-up-public-token-0123456789abcdef01234567",
            "clientUserId": text("humanId").replace("human", "user"),
        }),
        ("/v1/connect/publictokens", _) => json!({
            "humanId": text("humanId"),
            "publicToken": "made-up-public-token-0123456789abcdef01234567",
        }),
        ("/v1/connect/token", "session") => json!({
            "session_token": "made-up-session-token-0123456789abcdef01234567",
            "human_id": text("client_user_id").replace("user", "human"),
            "expires_in": 3600,
        }),
        ("/v1/connect/token", "access") => json!({
            "access_token": "made-up-access-token-0123456789abcdef01234567",
            "refresh_token": "made-up-refresh-token-0123456789abcdef01234567",
            "expires_in": 86_400,
        }),
        _ => return None,
    })
}

fn secrets_manager_answer(name: &str, body: &Value) -> Option<Value> {
    let id = body["SecretId"].as_str()?;
    let version = "00000000-0000-4000-8000-000000000001";
    Some(match name {
        "GetSecretValue" => json!({
            "ARN": format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{id}"),
            "Name": id,
            "VersionId": version,
            "SecretString": format!("made-up-value-of-{id}-0123456789abcdefghijklmnopqrstuvwxyz"),
            "VersionStages": ["AWSCURRENT"],
            "CreatedDate": 1_767_323_045.0,
        }),
        _ => return None,
    })
}
