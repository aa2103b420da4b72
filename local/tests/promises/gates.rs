//! A gate before each request of one call: a server that forwards a request only after the driver has opened the gate.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use local::gateway::Reply;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// A report of a call to the driver.
pub(crate) enum Event {
    /// The call has sent a request, which waits at the gate.
    AtGate(usize, Request),
    /// The call pauses for this many milliseconds.
    Pausing(usize, i64, oneshot::Sender<()>),
    /// The call has its response.
    Done(usize, Reply),
}

/// A request that waits at a gate.
pub(crate) struct Request {
    /// The operation of AWS, or the path of Human API.
    pub(crate) what: String,
    /// The expressions of a write: its condition and its update.
    pub(crate) write: String,
    /// The humanId in the request.
    pub(crate) human_id: Option<String>,
    /// Opens the gate.
    pub(crate) open: oneshot::Sender<Passage>,
    /// Receives the response's status after the request was performed.
    pub(crate) performed: oneshot::Receiver<u16>,
}

/// The next step of a call, as other calls can notice it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Reads the row.
    Read,
    /// Changes the row, if its condition holds.
    Write,
    /// Sends a request to Human API.
    Send,
    /// Lets time pass.
    Pause,
}

impl Step {
    /// Returns `true` if two calls' steps lead to the same state in either order. Human API and the table are
    /// independent, and two reads of the row change nothing.
    pub(crate) fn commutes_with(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Send, Self::Read | Self::Write) | (Self::Read | Self::Write, Self::Send) | (Self::Read, Self::Read)
        )
    }
}

impl Request {
    /// Returns the step of this request.
    pub(crate) fn step(&self) -> Step {
        match self.what.as_str() {
            "GetItem" | "Scan" | "Query" => Step::Read,
            "UpdateItem" | "DeleteItem" => Step::Write,
            _ => Step::Send,
        }
    }
}

/// A copy of a request that the network keeps back.
pub(crate) struct LateCopy {
    gate: Gate,
    method: Method,
    to: String,
    headers: HeaderMap,
    body: Bytes,
}

impl LateCopy {
    /// Delivers the copy, and returns the status of the response.
    pub(crate) async fn deliver(self) -> u16 {
        self.gate.forward(self.method, self.to, self.headers, self.body).await.status().as_u16()
    }
}

/// The way of a request through its gate.
pub(crate) enum Passage {
    Free,
    Dies(Death),
    /// The request is performed, and the network keeps a copy.
    Copied(oneshot::Sender<LateCopy>),
    /// The request is kept back, and the call gets an error.
    Late(oneshot::Sender<LateCopy>),
    /// The request is performed, and the call gets an error.
    AnswerLost,
}

/// The moment of a call's death at a gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// The request is never sent.
    BeforeActing,
    /// The service has performed the request, and its response never arrives.
    AfterActing,
}

#[derive(Clone)]
struct Gate {
    actor: usize,
    events: mpsc::UnboundedSender<Event>,
    http: reqwest::Client,
    aws: String,
    human_api: String,
}

/// Serves the gates of one actor. Returns a URL that stands for AWS and for Human API.
pub(crate) async fn serve(
    actor: usize,
    events: mpsc::UnboundedSender<Event>,
    http: reqwest::Client,
    aws: String,
    human_api: String,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(pass).with_state(Gate { actor, events, http, aws, human_api });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn pass(State(gate): State<Gate>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let to = if uri.path() == "/" { format!("{}/", gate.aws) } else { format!("{}{}", gate.human_api, uri.path()) };
    let what = target.split('.').nth(1).unwrap_or(uri.path()).to_owned();
    if what == "GetSecretValue" {
        return gate.forward(method, to, headers, body).await;
    }
    let fields: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let human_id = fields["humanId"].as_str().map(str::to_owned);
    let expression = |name: &str| fields[name].as_str().unwrap_or_default();
    let write = format!("{} | {}", expression("ConditionExpression"), expression("UpdateExpression"));
    let (open, opened) = oneshot::channel();
    let (done, performed) = oneshot::channel();
    let _ = gate.events.send(Event::AtGate(gate.actor, Request { what, write, human_id, open, performed }));
    let copy = |gate: &Gate| LateCopy {
        gate: gate.clone(),
        method: method.clone(),
        to: to.clone(),
        headers: headers.clone(),
        body: body.clone(),
    };
    let passage = opened.await.unwrap_or(Passage::Dies(Death::BeforeActing));
    let kept = copy(&gate);
    let (acts, answers) = match passage {
        Passage::Free => (true, Answers::Its),
        Passage::Dies(Death::BeforeActing) => (false, Answers::Never),
        Passage::Dies(Death::AfterActing) => (true, Answers::Never),
        Passage::Copied(keep) => {
            keep.send(kept).ok();
            (true, Answers::Its)
        }
        Passage::Late(keep) => {
            keep.send(kept).ok();
            (false, Answers::Error)
        }
        Passage::AnswerLost => (true, Answers::Error),
    };
    let mut answer = error();
    if acts {
        let its = gate.forward(method, to, headers, body).await;
        let _ = done.send(its.status().as_u16());
        answer = its;
    } else {
        let _ = done.send(0);
    }
    match answers {
        Answers::Its => answer,
        Answers::Error => error(),
        Answers::Never => std::future::pending().await,
    }
}

/// The response that the call gets.
enum Answers {
    Its,
    Error,
    Never,
}

/// DynamoDB's response to a failure of its own, which says nothing about the request.
fn error() -> Response<Body> {
    let mut answer = Response::new(Body::from("{}"));
    *answer.status_mut() = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    answer
}

impl Gate {
    async fn forward(&self, method: Method, to: String, mut headers: HeaderMap, body: Bytes) -> Response<Body> {
        headers.remove("host");
        let answer = self.http.request(method, to).headers(headers).body(body).send().await.unwrap();
        let answer: http::Response<reqwest::Body> = answer.into();
        answer.map(Body::new)
    }
}
