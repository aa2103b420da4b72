//! Lambda's Runtime API for one process at a time, which times what it hands out.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::lock;
use crate::serve::{Answer, Asked};
use crate::upstream::Upstreams;

/// The Runtime API.
pub(crate) struct RuntimeApi {
    upstreams: Arc<Upstreams>,
    event: Mutex<String>,
    /// The function asks for its next event.
    asks: Notify,
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
            asks: Notify::new(),
            handed,
            to_hand: tokio::sync::Mutex::new(to_hand),
            now: Mutex::default(),
            done: Mutex::default(),
        }
    }

    /// Sets what is handed out.
    pub(crate) fn set_event(&self, event: &str) {
        event.clone_into(&mut lock(&self.event));
    }

    /// Waits until the function asks for an event.
    pub(crate) async fn asked(&self) {
        self.asks.notified().await;
    }

    /// Hands events out, one after another; what became of each.
    pub(crate) async fn invoke(&self, count: u64, first: u64) -> Value {
        lock(&self.done).clear();
        for number in first..first + count {
            let _ = self.handed.send(number);
            self.asked().await;
        }
        Value::Array(std::mem::take(&mut *lock(&self.done)))
    }

    /// Answers a request of the function.
    pub(crate) async fn answer(&self, request: Asked) -> Answer {
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
        self.asks.notify_one();
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
