//! Lambda's Runtime API for one process at a time. It measures each invocation.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::lock;
use crate::serve::{Answer, FullRequest};
use crate::upstream::Upstreams;

pub(crate) struct RuntimeApi {
    upstreams: Arc<Upstreams>,
    event: Mutex<String>,
    /// Notified when the function requests its next event.
    next_requested: Notify,
    handed: mpsc::UnboundedSender<u64>,
    to_hand: tokio::sync::Mutex<mpsc::UnboundedReceiver<u64>>,
    now: Mutex<Option<Instant>>,
    done: Mutex<Vec<Value>>,
}

impl RuntimeApi {
    pub(crate) fn new(upstreams: Arc<Upstreams>) -> Self {
        let (handed, to_hand) = mpsc::unbounded_channel();
        Self {
            upstreams,
            event: Mutex::default(),
            next_requested: Notify::new(),
            handed,
            to_hand: tokio::sync::Mutex::new(to_hand),
            now: Mutex::default(),
            done: Mutex::default(),
        }
    }

    /// Sets the event to send.
    pub(crate) fn set_event(&self, event: &str) {
        event.clone_into(&mut lock(&self.event));
    }

    /// Waits until the function requests an event.
    pub(crate) async fn wait_for_request(&self) {
        self.next_requested.notified().await;
    }

    /// Sends events one after another and returns the result of each.
    pub(crate) async fn invoke(&self, count: u64, first: u64) -> Value {
        lock(&self.done).clear();
        for number in first..first + count {
            let _ = self.handed.send(number);
            self.wait_for_request().await;
        }
        Value::Array(std::mem::take(&mut *lock(&self.done)))
    }

    /// Answers a request of the function.
    pub(crate) async fn answer(&self, request: FullRequest) -> Answer {
        if request.uri().path().ends_with("/invocation/next") {
            return self.next().await;
        }
        let took = lock(&self.now).take().map(|started| started.elapsed());
        let status =
            serde_json::from_slice::<Value>(request.body()).ok().and_then(|answer| answer.get("statusCode")?.as_u64());
        let calls = self.upstreams.take_calls();
        lock(&self.done).push(json!({
            "ms": took.map(|took| took.as_secs_f64() * 1000.0),
            "status": status,
            "calls": calls.iter().map(|call| call.0.as_str()).collect::<Vec<_>>(),
            "calls_ms": calls.iter().map(|call| call.1.as_secs_f64() * 1000.0).sum::<f64>(),
        }));
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::ACCEPTED;
        answer
    }

    async fn next(&self) -> Answer {
        let mut to_hand = self.to_hand.lock().await;
        self.next_requested.notify_one();
        let number = to_hand.recv().await.unwrap_or_default();
        self.upstreams.take_calls();
        let event = lock(&self.event).replace("{i}", &number.to_string());
        let mut answer = Response::new(Full::new(Bytes::from(event)));
        let headers = answer.headers_mut();
        let deadline =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        for (name, value) in [
            ("lambda-runtime-aws-request-id", format!("00000000-0000-4000-8000-{number:012}")),
            ("lambda-runtime-deadline-ms", (deadline + 28_000).to_string()),
            (
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:000000000000:function:made-up".to_owned(),
            ),
            ("lambda-runtime-trace-id", "Root=1-00000000-000000000000000000000000;Sampled=0".to_owned()),
            ("content-type", "application/json".to_owned()),
        ] {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        }
        *lock(&self.now) = Some(Instant::now());
        answer
    }
}
