//! DynamoDB and Secrets Manager behind one address, told apart by `X-Amz-Target` as AWS does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dynoxide::Database;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::calls::Calls;
use crate::secrets::Secrets;

/// The table's name on a laptop.
pub const TABLE: &str = "human-connect";
const SWEEP: Duration = Duration::from_secs(60);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Aws {
    http: reqwest::Client,
    dynamodb: String,
    secrets: Secrets,
    calls: Calls,
}

/// Serves both on this listener; the answer is DynamoDB's own address, where calls are not noted. The table is kept in
/// `file`, or in memory.
pub async fn serve(
    listener: TcpListener,
    file: Option<&Path>,
    http: reqwest::Client,
    secrets: Secrets,
    calls: Calls,
) -> Result<String, Error> {
    let database = match file {
        Some(file) => Database::new(&file.to_string_lossy())?,
        None => Database::memory()?,
    };
    let inner = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let dynamodb = format!("http://{}", inner.local_addr()?);
    let sweeper = database.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            let _ = sweeper.sweep_ttl();
        }
    });
    tokio::spawn(dynoxide::server::serve_with_shutdown(inner, database, std::future::pending()));
    let router = Router::new().fallback(answer).with_state(Aws { http, dynamodb: dynamodb.clone(), secrets, calls });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(dynamodb)
}

/// Makes the table, as `template.yaml` has it. It may be there already.
pub async fn create_table(client: &aws_sdk_dynamodb::Client) -> Result<(), Error> {
    let key = "userKey";
    let made = client
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash).build()?)
        .attribute_definitions(
            AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S).build()?,
        )
        .send()
        .await;
    match made {
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => {
            return Ok(());
        }
        other => other?,
    };
    let expires = TimeToLiveSpecification::builder().attribute_name("expires").enabled(true).build()?;
    client.update_time_to_live().table_name(TABLE).time_to_live_specification(expires).send().await?;
    Ok(())
}

async fn answer(State(aws): State<Aws>, headers: HeaderMap, body: Bytes) -> Response {
    let started = Instant::now();
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let (service, operation) = target.split_once('.').unwrap_or_default();
    let (to, response) = if service.starts_with("secretsmanager") {
        ("Secrets Manager", aws.secrets_manager(operation, &body))
    } else {
        ("DynamoDB", aws.dynamodb(headers.clone(), body).await)
    };
    if !operation.is_empty() {
        aws.calls.add("function", to, operation, response.status().as_u16(), started.elapsed());
    }
    response
}

impl Aws {
    fn secrets_manager(&self, operation: &str, body: &[u8]) -> Response {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let (status, body) = match operation {
            "GetSecretValue" => self.secrets.get(&request).map_or_else(|refusal| refusal, |value| (200, value)),
            _ => (400, serde_json::json!({"__type": "UnknownOperationException"})),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [("content-type", "application/x-amz-json-1.1")], body.to_string()).into_response()
    }

    async fn dynamodb(&self, mut headers: HeaderMap, body: Bytes) -> Response {
        headers.remove("host");
        let method = if body.is_empty() { http::Method::GET } else { http::Method::POST };
        let forwarded = self.http.request(method, &self.dynamodb).headers(headers).body(body).send().await;
        match forwarded {
            Ok(answer) => {
                let answer: http::Response<reqwest::Body> = answer.into();
                answer.map(Body::new)
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }
}
