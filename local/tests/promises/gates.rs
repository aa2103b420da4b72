//! A gate before each request of one call: a server that asks the driver before it passes a request on.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use local::gateway::Reply;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// What a call reports to the driver.
pub(crate) enum Event {
    /// It has sent a request, which waits at the gate.
    AtGate(usize, Request),
    /// It pauses.
    Pausing(usize, i64, oneshot::Sender<()>),
    /// It has been answered.
    Done(usize, Reply),
}

/// A request at a gate.
pub(crate) struct Request {
    /// The operation, or the path.
    pub(crate) what: String,
    /// The humanId that it names.
    pub(crate) human_id: Option<String>,
    /// Opens the gate, or lets the call die there.
    pub(crate) open: oneshot::Sender<Option<Death>>,
    /// Says that the request was passed on and performed; with its status.
    pub(crate) performed: oneshot::Receiver<u16>,
}

/// What a call does next, as far as others can notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Looks at the row.
    Read,
    /// Changes the row, if its condition holds.
    Write,
    /// Asks Human API.
    Ask,
    /// Lets time pass.
    Pause,
}

impl Step {
    /// Whether two calls' steps lead to the same state in either order: Human API and the table know nothing of each
    /// other, and two looks at the row change nothing.
    pub(crate) fn commutes_with(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Ask, Self::Read | Self::Write) | (Self::Read | Self::Write, Self::Ask) | (Self::Read, Self::Read)
        )
    }
}

impl Request {
    /// What it does.
    pub(crate) fn step(&self) -> Step {
        match self.what.as_str() {
            "GetItem" | "Scan" | "Query" => Step::Read,
            "UpdateItem" | "DeleteItem" => Step::Write,
            _ => Step::Ask,
        }
    }
}

/// How a call dies at a gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// The request is never sent.
    BeforeActing,
    /// The other side has acted; its answer never arrives.
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

/// Serves the gates of one actor; the address stands for AWS and for Human API.
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
    if matches!(what.as_str(), "GetSecretValue" | "ListSecretVersionIds") {
        return gate.forward(method, to, headers, body).await;
    }
    let fields: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let human_id = fields["humanId"].as_str().map(str::to_owned);
    let (open, opened) = oneshot::channel();
    let (done, performed) = oneshot::channel();
    let _ = gate.events.send(Event::AtGate(gate.actor, Request { what, human_id, open, performed }));
    match opened.await {
        Ok(Some(Death::BeforeActing)) | Err(_) => std::future::pending().await,
        Ok(Some(Death::AfterActing)) => {
            let answer = gate.forward(method, to, headers, body).await;
            let _ = done.send(answer.status().as_u16());
            std::future::pending().await
        }
        Ok(None) => {
            let answer = gate.forward(method, to, headers, body).await;
            let _ = done.send(answer.status().as_u16());
            answer
        }
    }
}

impl Gate {
    async fn forward(&self, method: Method, to: String, mut headers: HeaderMap, body: Bytes) -> Response<Body> {
        headers.remove("host");
        let answer = self.http.request(method, to).headers(headers).body(body).send().await.unwrap();
        let answer: http::Response<reqwest::Body> = answer.into();
        answer.map(Body::new)
    }
}
