//! DynamoDB and Secrets Manager, each at an address of its own; the [proxy](crate::proxy) gives them one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dynoxide::Database;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::secrets::Secrets;

/// The table's name on a laptop.
pub const TABLE: &str = "human-connect";
const SWEEP: Duration = Duration::from_secs(60);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Serves DynamoDB; its address. The table is kept in `file`, or in memory.
pub async fn dynamodb(file: Option<&Path>) -> Result<String, Error> {
    let database = match file {
        Some(file) => Database::new(&file.to_string_lossy())?,
        None => Database::memory()?,
    };
    let (listener, address) = listen().await?;
    let sweeper = database.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            let _ = sweeper.sweep_ttl();
        }
    });
    tokio::spawn(dynoxide::server::serve_with_shutdown(listener, database, std::future::pending()));
    Ok(address)
}

/// Serves Secrets Manager; its address.
pub async fn secrets_manager(secrets: Secrets) -> Result<String, Error> {
    let (listener, address) = listen().await?;
    let router = Router::new().fallback(get_secret).with_state(secrets);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn listen() -> std::io::Result<(TcpListener, String)> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = format!("http://{}", listener.local_addr()?);
    Ok((listener, address))
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

async fn get_secret(State(secrets): State<Secrets>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (status, body) = match headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        Some("secretsmanager.GetSecretValue") => {
            secrets.get(&request).map_or_else(|refusal| refusal, |value| (200, value))
        }
        _ => (400, serde_json::json!({"__type": "UnknownOperationException"})),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "application/x-amz-json-1.1")], body.to_string()).into_response()
}
