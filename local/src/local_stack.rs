//! Starts the local stack: servers on loopback, and the environment that points the functions at them.

use std::collections::HashMap;
use std::path::PathBuf;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::config::Config;
use shared::identity::UserId;
use shared::telemetry::Output;
use tokio::net::{TcpListener, TcpSocket};

use crate::aws;
use crate::calls::Calls;
use crate::console;
use crate::cors::Refusals;
use crate::event_bus::EventBus;
use crate::faults::{Faults, Service};
use crate::gateway::Gateway;
use crate::human_api::{self, CLIENT_ID, HumanApi};
use crate::issuer::Issuer;
use crate::proxy::{self, Proxy};
use crate::secrets::{CLIENT_SECRET, Secrets, TOKEN_KEY};
use crate::stream::{TableStream, sequence_number};

pub struct Options {
    /// The folder for the table, the secrets and the stand-in. `None` keeps them in memory.
    pub directory: Option<PathBuf>,
    pub port: Port,
    /// Receives the functions' metrics.
    pub output: Output,
    pub clock: Clock,
    /// The template's `AllowedOrigins`: origins of other pages that may call, separated by commas.
    pub origins: String,
    pub refusals: Refusals,
    /// The table has a stream, for `publisher`. The embedded DynamoDB keeps its records for ever, and each one makes writes slower.
    pub has_stream: bool,
    /// Further environment variables. They override the ones that this module sets.
    pub variables: Vec<(&'static str, &'static str)>,
}

/// The port of the console and the API. The stand-in and AWS take the next two ports.
#[derive(Clone, Copy)]
pub enum Port {
    /// Three free ports.
    Any,
    /// This port, or three free ones if one of the ports is in use.
    Preferred(u16),
    Exactly(u16),
}

#[derive(Debug, thiserror::Error)]
#[error("port {port}: {error}")]
struct PortError {
    port: u16,
    error: std::io::Error,
}

struct Sockets {
    console: TcpListener,
    stand_in: TcpListener,
    aws: TcpSocket,
}

impl Sockets {
    fn new(port: Port) -> Result<Self, PortError> {
        match port {
            Port::Any => Self::bind(0, 0),
            Port::Preferred(port) => Self::bind(port, 1).or_else(|_| Self::bind(0, 0)),
            Port::Exactly(port) => Self::bind(port, 1),
        }
    }

    fn bind(port: u16, step: u16) -> Result<Self, PortError> {
        let socket = |port| proxy::bind(port).map_err(|error| PortError { port, error });
        let listener = |port| socket(port)?.listen(1024).map_err(|error| PortError { port, error });
        let [second, third] = [1, 2].map(|place| port.saturating_add(place * step));
        Ok(Self { console: listener(port)?, stand_in: listener(second)?, aws: socket(third)? })
    }
}

/// The running local stack.
pub struct LocalStack {
    /// The base URL of the console and of the API.
    pub console: String,
    /// Environment variables for a function that uses this stack.
    pub environment: Vec<(String, String)>,
    /// The configuration read from `environment`.
    pub config: Config,
    pub gateway: Gateway,
    pub issuer: Issuer,
    pub human_api: HumanApi,
    pub secrets: Secrets,
    pub faults: Faults,
    pub calls: Calls,
    /// A client that bypasses the proxy and its faults.
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub stream: TableStream,
    pub event_bus: EventBus,
}

impl Options {
    /// Returns options that keep everything in memory, take free ports and write nothing.
    pub fn in_memory() -> Self {
        Self {
            directory: None,
            port: Port::Any,
            output: Output::new(std::io::sink()),
            clock: Clock::system(),
            origins: String::new(),
            refusals: Refusals::default(),
            has_stream: false,
            variables: Vec::new(),
        }
    }
}

impl LocalStack {
    pub async fn start(options: Options) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let sockets = Sockets::new(options.port)?;
        let file = |name: &str| options.directory.as_ref().map(|directory| directory.join(name));
        if let Some(directory) = &options.directory {
            std::fs::create_dir_all(directory)?;
        }
        let calls = Calls::default();
        let secrets = Secrets::open(file("secrets.json"));
        let human_api = HumanApi::open(file("human-api.json"), secrets.clone());
        let faults = Faults::default();

        let console = format!("http://{}", sockets.console.local_addr()?);
        let human_api_url = format!("http://{}", sockets.stand_in.local_addr()?);
        let (table, database) = aws::dynamodb(file("dynamodb.sqlite").as_deref()).await?;
        let event_bus = EventBus::default();
        let events_url = event_bus.serve().await?;
        let proxy = |upstreams| Proxy::new(faults.clone(), calls.clone(), upstreams);
        let secrets_manager = aws::secrets_manager(secrets.clone()).await?;
        let aws_url = proxy(vec![(Service::DynamoDb, table.clone()), (Service::SecretsManager, secrets_manager)])
            .serve(sockets.aws)?;
        let tokens_url = proxy(vec![(Service::HumanApi, human_api_url.clone())]).serve(proxy::bind(0)?)?;

        let own = [
            ("TABLE_NAME", aws::TABLE),
            ("HUMAN_API_CLIENT_ID", CLIENT_ID),
            ("HUMAN_API_SECRET_ID", CLIENT_SECRET),
            ("TOKEN_KEY_SECRET_ID", TOKEN_KEY),
            ("HUMAN_API_AUTH_URL", &tokens_url),
            ("HUMAN_API_USER_URL", &tokens_url),
            ("PUBLIC_BASE_URL", &console),
            ("AWS_ENDPOINT_URL", &aws_url),
            ("AWS_ENDPOINT_URL_EVENTBRIDGE", &events_url),
            // For the AWS CLI: the functions call no other function.
            ("AWS_ENDPOINT_URL_LAMBDA", &console),
            ("EVENT_BUS_NAME", "made-up-bus"),
            ("AWS_REGION", "us-east-1"),
            // Version 1 of the AWS CLI reads this one only.
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "made-up"),
            ("AWS_SECRET_ACCESS_KEY", "made-up"),
        ];
        let chosen = |name: &str| options.variables.iter().any(|(variable, _)| *variable == name);
        let own = own.into_iter().filter(|(name, _)| !chosen(name)).chain(options.variables.iter().copied());
        let environment: Vec<(String, String)> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let config =
            Config::read(|name| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))?;

        let http = shared::network::http_client(&config)?;
        // This client bypasses the proxy. The faults do not affect what the console and the tests do to the table.
        let dynamodb = aws::client(table, &http);
        aws::create_table(&dynamodb, options.has_stream).await?;
        if let Some(file) = file("dynamodb.sqlite").filter(|_| options.has_stream) {
            aws::tidy_stream(&file)?;
        }
        let stream = TableStream::new(database);

        let frames = format!("{console} {}", options.origins.replace(',', " "));
        let pages = human_api::router(human_api.clone(), calls.clone(), &frames);
        tokio::spawn(async move { axum::serve(sockets.stand_in, pages).await });

        let issuer = Issuer::new(console.clone());
        let gateway = Gateway::new(&config, issuer.clone(), calls.clone(), &options.output, options.clock)?
            .with_origins(&options.origins, options.refusals)?;
        let page_router = console::router(console::Console {
            widgets: human_api_url,
            gateway: gateway.clone(),
            issuer: issuer.clone(),
            human_api: human_api.clone(),
            secrets: secrets.clone(),
            dynamodb: dynamodb.clone(),
            faults: faults.clone(),
            calls: calls.clone(),
            event_bus: event_bus.clone(),
        });
        tokio::spawn(async move { axum::serve(sockets.console, page_router).await });
        Ok(Self {
            console,
            environment,
            config,
            gateway,
            issuer,
            human_api,
            secrets,
            faults,
            calls,
            dynamodb,
            stream,
            event_bus,
        })
    }

    /// Hands the new records of the table's stream to `publisher`, as Lambda does. Records after a failure are handed over again by the
    /// next call of this method.
    pub async fn publish(&self) -> Result<(), String> {
        loop {
            let records = self.stream.read()?;
            if records.is_empty() {
                return Ok(());
            }
            let answer = self.gateway.publish(&json!({"Records": records})).await?;
            match answer.pointer("/batchItemFailures/0/itemIdentifier").and_then(Value::as_str) {
                None => self.stream.go_on_after(&records),
                Some(failed) => {
                    let taken = records.iter().position(|record| sequence_number(record) == Some(failed));
                    self.stream.go_on_after(records.get(..taken.unwrap_or_default()).unwrap_or_default());
                    return Err(format!("the record {failed} was not published"));
                }
            }
        }
    }

    /// Deletes the rows that have expired, as DynamoDB does some time after. Returns their number.
    pub fn expire_rows(&self) -> usize {
        self.stream.database.sweep_ttl().unwrap_or_default()
    }

    /// Reads the user's row, without decoding it.
    pub async fn row(&self, user: &UserId) -> Result<Option<HashMap<String, AttributeValue>>, aws_sdk_dynamodb::Error> {
        let key = AttributeValue::S(user.key().to_string());
        let row = self.dynamodb.get_item().table_name(aws::TABLE).key("userKey", key).consistent_read(true);
        Ok(row.send().await?.item)
    }
}
