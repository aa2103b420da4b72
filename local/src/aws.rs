//! DynamoDB and Secrets Manager, each at its own address. The [proxy](crate::proxy) gives both one address.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, StreamSpecification, StreamViewType, TimeToLiveSpecification,
};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dynoxide::Database;
use serde_json::Value;
use tokio::net::TcpListener;

use shared::aws::SdkHttp;

use crate::secrets::Secrets;

/// The table's name.
pub const TABLE: &str = "human-connect";
/// Interval at which expired rows are deleted.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Serves DynamoDB. Returns its URL, and the database behind it. The table is kept in `file`, or in memory.
pub async fn dynamodb(file: Option<&Path>) -> Result<(String, Database), Error> {
    let database = match file {
        Some(file) => Database::new(&file.to_string_lossy())?,
        None => Database::memory()?,
    };
    let (listener, address) = listen().await?;
    let expiring = database.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EXPIRY_INTERVAL).await;
            let _ = expiring.sweep_ttl();
        }
    });
    tokio::spawn(dynoxide::server::serve_with_shutdown(listener, database.clone(), std::future::pending()));
    Ok((address, database))
}

/// Serves Secrets Manager and returns its URL.
pub async fn secrets_manager(secrets: Secrets) -> Result<String, Error> {
    let (listener, address) = listen().await?;
    let router = Router::new().fallback(answer_secrets_manager).with_state(secrets);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn listen() -> std::io::Result<(TcpListener, String)> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = format!("http://{}", listener.local_addr()?);
    Ok((listener, address))
}

/// Returns a client of the DynamoDB at this address.
pub fn client(address: String, http: &reqwest::Client) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::from_keys("made-up", "made-up", None))
        .http_client(SdkHttp(http.clone()))
        .endpoint_url(address);
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

/// Creates the table as `template.yaml` defines it, unless it exists.
pub async fn create_table(client: &aws_sdk_dynamodb::Client, has_stream: bool) -> Result<(), Error> {
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewAndOldImages);
    let stream = has_stream.then(|| stream.build()).transpose()?;
    if client.list_tables().send().await?.table_names().iter().any(|name| name == TABLE) {
        // A table of an earlier version has no stream. If the table has one, the update is refused.
        let _ = client.update_table().table_name(TABLE).set_stream_specification(stream).send().await;
        return Ok(());
    }
    let key = |name| KeySchemaElement::builder().attribute_name(name).key_type(KeyType::Hash).build();
    let mut table = client.create_table().table_name(TABLE).billing_mode(BillingMode::PayPerRequest);
    table = table.key_schema(key("userKey")?);
    for (name, kind) in [("userKey", ScalarAttributeType::S), ("leaseUntil", ScalarAttributeType::N)] {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?;
        table = table.attribute_definitions(attribute);
    }
    let keys_only = Projection::builder().projection_type(ProjectionType::KeysOnly).build();
    let index = GlobalSecondaryIndex::builder().index_name("unresolved").projection(keys_only);
    table = table.global_secondary_indexes(index.key_schema(key("leaseUntil")?).build()?);
    table.set_stream_specification(stream).send().await?;
    let expires = TimeToLiveSpecification::builder().attribute_name("expires").enabled(true).build()?;
    client.update_time_to_live().table_name(TABLE).time_to_live_specification(expires).send().await?;
    Ok(())
}

/// Removes the stream's records of earlier runs, and adds an index to the others. Without it, dynoxide 3.2.0 reads the whole stream for
/// each write.
pub fn tidy_stream(file: &Path) -> Result<(), Error> {
    let database = rusqlite::Connection::open(file)?;
    database.busy_timeout(Duration::from_secs(2))?;
    Ok(database.execute_batch(
        "DELETE FROM _stream_records;
         CREATE INDEX IF NOT EXISTS stream_by_number ON _stream_records (table_name, CAST(sequence_number AS INTEGER));",
    )?)
}

async fn answer_secrets_manager(State(secrets): State<Secrets>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = match headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        Some("secretsmanager.GetSecretValue") => secrets.get(&request),
        _ => Err((400, serde_json::json!({"__type": "UnknownOperationException"}))),
    };
    let (status, body) = answer.map_or_else(|refusal| refusal, |value| (200, value));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "application/x-amz-json-1.1")], body.to_string()).into_response()
}
