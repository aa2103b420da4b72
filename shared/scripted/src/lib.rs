//! An HTTP server for tests, and a way to send a handler an event. The server plays DynamoDB, Secrets Manager and Human API. It keeps each
//! request, and answers it as the test has said.

#![expect(clippy::unwrap_used, reason = "a test whose server fails has failed")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, mpsc};

use lambda_http::{Context, LambdaEvent};
use serde_json::{Map, Value, json, value::RawValue};
use shared::clock::{Clock, Millis};
use shared::config::Config;
use shared::identity::UserId;
use shared::lambda::{Function, Runner};
use shared::seal::{Kind, Sealed, SealingKey};
use shared::telemetry::Output;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The value of the sealing key's secret. Its version is `v1`.
pub const SEALING_KEY: &str = "made-up-sealing-key-of-32-chars-or-more";
/// The time at which handlers are tried, in milliseconds.
pub const NOW: Millis = 1_795_687_200_000;
pub const CLIENT_SECRET: &str = "made-up-secret";

pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The request line and the headers.
    pub head: String,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub enum Answer {
    /// The server writes this, and closes the connection.
    Bytes(String),
    /// The server writes this, and leaves the connection open.
    Stall(String),
    /// The server closes the connection.
    Close,
}

impl Request {
    /// An operation of AWS, or the last part of a path of Human API.
    pub fn operation(&self) -> &str {
        let target = self.head.lines().find_map(|line| line.strip_prefix("x-amz-target: "));
        let path = self.head.split(' ').nth(1).unwrap_or_default();
        target.unwrap_or(path).rsplit(['.', '/']).next().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string())
    }

    pub fn text(status: u16, body: &str) -> Self {
        Self::with_headers(status, "", body)
    }

    /// `headers` are whole lines.
    pub fn with_headers(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(format!(
            "HTTP/1.1 {status} made-up\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    }

    /// DynamoDB's answer to a write.
    pub fn done() -> Self {
        Self::json(200, &json!({}))
    }

    /// The condition of the write is false, because the item stands like this. `None`: there is no item.
    pub fn refused(item: Option<&Value>) -> Self {
        let error = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
        let mut body = json!({"__type": error, "message": "made up"});
        if let (Some(item), Some(body)) = (item, body.as_object_mut()) {
            body.insert("Item".to_owned(), item.clone());
        }
        Self::json(400, &body)
    }

    /// The answer to `GetItem`.
    pub fn item(item: Option<&Value>) -> Self {
        Self::json(200, &item.map_or_else(|| json!({}), |item| json!({"Item": item})))
    }

    /// The current version of a secret.
    pub fn secret(text: &str) -> Self {
        Self::json(200, &json!({"SecretString": text, "VersionId": "v1", "VersionStages": ["AWSCURRENT"]}))
    }
}

/// A value as an attribute of DynamoDB.
pub fn attribute(value: &Value) -> Value {
    match value {
        Value::Null => json!({"NULL": true}),
        Value::Bool(value) => json!({"BOOL": value}),
        Value::Number(value) => json!({"N": value.to_string()}),
        Value::String(value) => json!({"S": value}),
        Value::Array(values) => json!({"L": values.iter().map(attribute).collect::<Vec<_>>()}),
        Value::Object(fields) => json!({"M": attributes(fields)}),
    }
}

/// A user's item with these attributes beside those that every row has.
pub fn item(user: &str, more: &Value) -> Value {
    let mut fields = Map::from_iter([("clientUserId".to_owned(), json!(user)), ("generation".to_owned(), json!("g"))]);
    fields.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(attributes(&fields))
}

fn attributes(fields: &Map<String, Value>) -> Map<String, Value> {
    fields.iter().map(|(name, value)| (name.clone(), attribute(value))).collect()
}

/// A token that is sealed for this user with `SEALING_KEY`.
pub fn sealed(user: &str, kind: Kind, text: &str) -> Sealed {
    let key = SealingKey::parse(SEALING_KEY).unwrap();
    let user = UserId::new(user).unwrap().key();
    Sealed { version: "v1".into(), bytes: key.seal(&user, kind, text, [7; 32]).unwrap() }
}

/// Sends a handler an event of the folder `events`, at `NOW`. Returns the status, the body, and the operations that it has asked for.
pub async fn respond<F: Function>(event: &str, answers: impl IntoIterator<Item = Answer>) -> (u64, Value, Vec<String>) {
    let server = Server::with_secrets(answers).await;
    let config = Config::read(|name| server.variable(name)).unwrap();
    let runner = Runner::<F>::new(&config, Clock::new(|| NOW), Output::new(std::io::sink())).unwrap();
    let event = std::fs::read_to_string(format!("{}/../../events/{event}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let event = LambdaEvent::new(RawValue::from_string(event).unwrap(), Context::default());
    let response: Value = serde_json::from_str(&runner.run(event).await).unwrap();
    let field = |name| response.get(name).unwrap_or(&Value::Null);
    let body = field("body").as_str().and_then(|body| serde_json::from_str(body).ok());
    (field("statusCode").as_u64().unwrap(), body.unwrap_or_default(), server.operations())
}

impl Server {
    /// Starts a server that gives each request the next of these answers. It closes the connection of any further request.
    pub async fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut answers = answers.into_iter().collect::<VecDeque<_>>();
        Self::playing(move |_| answers.pop_front().unwrap_or(Answer::Close)).await
    }

    /// Starts a server that knows the secrets, and gives each other request the next of these answers.
    pub async fn with_secrets(answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut answers = answers.into_iter().collect::<VecDeque<_>>();
        Self::playing(move |request| match request.json().get("SecretId").and_then(Value::as_str) {
            Some("TOKEN_KEY_SECRET_ID") => Answer::secret(SEALING_KEY),
            Some(_) => Answer::secret(CLIENT_SECRET),
            None => answers.pop_front().unwrap_or(Answer::Close),
        })
        .await
    }

    /// Starts a server that asks this function for each answer.
    pub async fn playing(mut answer: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = requests.clone();
        let task = tokio::spawn(async move {
            let mut stalled = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Some(request) = read(&mut stream).await else { continue };
                let answer = answer(&request);
                received.lock().unwrap().push(request);
                match answer {
                    // a client may have gone before its answer's end
                    Answer::Bytes(answer) => drop(stream.write_all(answer.as_bytes()).await),
                    Answer::Stall(begun) => {
                        stream.write_all(begun.as_bytes()).await.unwrap();
                        stalled.push(stream);
                    }
                    Answer::Close => {}
                }
            }
        });
        Self { url, requests, task }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The operations so far, without those of Secrets Manager.
    pub fn operations(&self) -> Vec<String> {
        let operations = self.requests().into_iter().map(|request| request.operation().to_owned());
        operations.filter(|operation| operation != "GetSecretValue").collect()
    }

    /// The environment variables of a function that asks this server.
    pub fn variable(&self, name: &str) -> Option<String> {
        match name {
            "AWS_ENDPOINT_URL" | "HUMAN_API_AUTH_URL" | "HUMAN_API_USER_URL" => Some(self.url.clone()),
            "HUMAN_API_CLIENT_ID" => Some("made-up-client-id".to_owned()),
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ACCESS_KEY_ID"
            | "AWS_SECRET_ACCESS_KEY"
            | "TABLE_NAME"
            | "HUMAN_API_SECRET_ID"
            | "TOKEN_KEY_SECRET_ID" => Some(name.to_owned()),
            _ => None,
        }
    }
}

/// Stops tokio's time until this is dropped: no request moves it, only the test does. A blocking task lasts meanwhile, and tokio lets
/// no paused time pass beside one.
pub struct StoppedTime(#[expect(dead_code, reason = "its drop ends the task")] mpsc::Sender<()>);

impl StoppedTime {
    pub fn begin() -> Self {
        tokio::time::pause();
        let (sender, until) = mpsc::channel();
        tokio::task::spawn_blocking(move || until.recv());
        Self(sender)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(Request { head: head.to_owned(), body: body.as_bytes().to_vec() });
        }
    }
}
