//! EventBridge: keeps the last events. It can refuse all of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::lock;

const KEPT: usize = 200;

/// The bus. Clones share the events.
#[derive(Clone, Default)]
pub struct EventBus {
    events: Arc<Mutex<Events>>,
    refuses: Arc<AtomicBool>,
}

#[derive(Default)]
struct Events {
    last: u64,
    kept: VecDeque<Event>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Counts the events.
    pub number: u64,
    pub detail_type: String,
    pub detail: Value,
}

impl EventBus {
    /// Serves the bus and returns its URL.
    pub(crate) async fn serve(&self) -> std::io::Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(put_events).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(url)
    }

    /// The events after this number, the oldest first.
    pub fn after(&self, number: u64) -> Vec<Event> {
        lock(&self.events).kept.iter().filter(|event| event.number > number).cloned().collect()
    }

    pub fn clear(&self) {
        lock(&self.events).kept.clear();
    }

    /// From now on, the bus refuses events, or takes them again.
    pub fn refuse(&self, on: bool) {
        self.refuses.store(on, Ordering::SeqCst);
    }

    fn put(&self, entry: &Value) {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut events = lock(&self.events);
        events.last += 1;
        let detail = serde_json::from_str(text("Detail")).unwrap_or_default();
        let event = Event { number: events.last, detail_type: text("DetailType").to_owned(), detail };
        events.kept.push_back(event);
        if events.kept.len() > KEPT {
            events.kept.pop_front();
        }
    }
}

async fn put_events(State(bus): State<EventBus>, body: axum::body::Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(entries) = request.get("Entries").and_then(Value::as_array) else {
        return (StatusCode::BAD_REQUEST, Json(json!({"__type": "ValidationException"}))).into_response();
    };
    let refuses = bus.refuses.load(Ordering::SeqCst);
    let outcome = |entry: &Value| {
        if refuses {
            return json!({"ErrorCode": "InternalFailure", "ErrorMessage": "made up"});
        }
        bus.put(entry);
        json!({"EventId": crate::random_hex::<8>()})
    };
    let outcomes: Vec<Value> = entries.iter().map(outcome).collect();
    let failed = if refuses { outcomes.len() } else { 0 };
    Json(json!({"FailedEntryCount": failed, "Entries": outcomes})).into_response()
}
