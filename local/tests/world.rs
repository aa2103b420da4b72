//! The local stack with a clock that the test sets, and the calls that most tests send.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use aws_sdk_dynamodb::types::AttributeValue;
use local::calls::Call;
use local::faults::{Acts, Answer, Fault, Rule, Service};
use local::gateway::{ACCESS_TOKEN, Reply};
use local::local_stack::{LocalStack, Options};
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::identity::UserId;
use shared::store::Item;
use shared::telemetry::Output;
pub(crate) use test_support::Gate;

pub(crate) const SOURCE: &str = "made-up-01";
const EXCHANGE: &str = "POST /v1/connect/tokens";

pub(crate) struct World {
    pub(crate) stack: LocalStack,
    ahead: Arc<AtomicI64>,
    seen: AtomicU64,
}

pub(crate) fn refuse(status: u16, body: &'static str) -> Fault {
    Fault::refuse(status, body)
}

/// A fault: Human API performs the request, and this response replaces its own.
pub(crate) fn garble(status: u16, body: &'static str) -> Fault {
    Fault::Answer(Acts::First, Answer::json(status, body))
}

/// A fault: Human API performs the request, and the response is lost.
pub(crate) const LOSE_RESPONSE: Fault = Fault::Reset(Acts::First);

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(vec![]).await
    }

    pub(crate) async fn with(variables: Vec<(&'static str, &'static str)>) -> Self {
        Self::writing_to(Output::new(std::io::sink()), variables).await
    }

    /// Starts the local stack with the table's stream.
    pub(crate) async fn with_stream() -> Self {
        Self::start(Options { has_stream: true, ..Options::in_memory() }).await
    }

    /// Starts the local stack with this output for the functions' metrics.
    pub(crate) async fn writing_to(output: Output, variables: Vec<(&'static str, &'static str)>) -> Self {
        Self::start(Options { output, variables, ..Options::in_memory() }).await
    }

    async fn start(options: Options) -> Self {
        let ahead = Arc::new(AtomicI64::new(0));
        let offset = ahead.clone();
        let clock = Clock::new(move || Clock::system().now() + offset.load(Ordering::SeqCst));
        let stack = LocalStack::start(Options { clock, ..options }).await.unwrap();
        Self { stack, ahead, seen: AtomicU64::new(0) }
    }

    pub(crate) fn pass_seconds(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    /// Sets the faults of the next calls of Human API, one for each call.
    pub(crate) fn fault(&self, faults: impl IntoIterator<Item = Fault>) {
        self.stack.faults.set(faults.into_iter().map(|fault| Rule::once(Service::HumanApi, fault)));
    }

    /// Blocks the next call of Human API at a gate. If `fault` is set, the fault applies after the gate.
    pub(crate) fn block_human_api(&self, fault: Option<Fault>) -> Gate {
        let (gate, wait) = Gate::new();
        self.fault([wait].into_iter().chain(fault));
        gate
    }

    /// Drops the caller of this exchange after its request has arrived. Human API performs the exchange.
    pub(crate) async fn crash(&self, user: &str, object: &Value) {
        let gate = self.block_human_api(None);
        tokio::select! {
            _ = Box::pin(self.finish(user, object)) => unreachable!("the gate is closed"),
            () = gate.reached() => gate.open(),
        }
        let ended =
            |stack: &LocalStack| stack.calls.after(0).0.iter().all(|call| call.what != EXCHANGE || call.ms.is_some());
        while !ended(&self.stack) {
            tokio::task::yield_now().await;
        }
    }

    /// Leaves an exchange of this user unresolved. Its session can be used again.
    pub(crate) async fn lose(&self, user: &str) -> Value {
        self.stack.human_api.with(|state| state.single_use = false);
        let object = self.popup(user);
        self.fault([garble(500, "{}")]);
        is(&self.finish(user, &object).await, 503, "upstream_unavailable");
        object
    }

    /// Runs `sweep` as its schedule would, and returns the response.
    pub(crate) async fn sweep(&self) -> Value {
        self.stack.gateway.sweep().await
    }

    /// Takes the requests to Human API since the last call of this method.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        let seen = self.seen.load(Ordering::SeqCst);
        let (calls, last) = self.stack.calls.after(seen);
        self.seen.store(last, Ordering::SeqCst);
        // A request from before is listed again when it ends.
        let requests = calls.into_iter().filter(|call| call.id > seen && call.to == Service::HumanApi.name());
        requests.map(|call| call.what.replace("POST /v1/connect/", "")).collect()
    }

    /// Connects a source in the popup and returns the sessionTokenObject that the page gets.
    pub(crate) fn popup(&self, user: &str) -> Value {
        self.stack.human_api.popup(user)
    }

    pub(crate) async fn session(&self, user: &str, body: Value) -> Reply {
        self.stack.gateway.as_user("POST /connect/session", user, &body).await
    }

    pub(crate) async fn finish(&self, user: &str, body: &Value) -> Reply {
        self.stack.gateway.as_user("POST /connect/finish", user, body).await
    }

    pub(crate) async fn public_token(&self, user: &str, refresh: bool) -> Reply {
        self.stack.gateway.as_user("POST /connect/public-token", user, &json!({"refresh": refresh})).await
    }

    pub(crate) async fn access(&self, user: &str, force: bool) -> Reply {
        self.stack.gateway.as_backend(ACCESS_TOKEN, &json!({"clientUserId": user, "forceRefresh": force})).await
    }

    pub(crate) async fn connection(&self, user: &str) -> Value {
        self.stack.gateway.as_user("GET /connect/connection", user, &json!({})).await.json()
    }

    pub(crate) async fn delete(&self, user: &str) -> u16 {
        self.stack.gateway.as_user("DELETE /connect/connection", user, &json!({})).await.status
    }

    /// Connects a user through the Connect widget.
    pub(crate) async fn connect(&self, user: &str) -> Reply {
        self.session(user, json!({})).await;
        self.stack.human_api.with(|state| state.connect(user, SOURCE));
        self.finish(user, &json!({"status": "SUCCESS", "currentConnections": [{"id": SOURCE, "name": "Made up"}]}))
            .await
    }

    pub(crate) async fn rows(&self) -> usize {
        self.table().await.len()
    }

    /// Returns the number of rows that do not expire.
    pub(crate) async fn kept_rows(&self) -> usize {
        self.table().await.iter().filter(|row| !row.contains("\"expires\"")).count()
    }

    /// Waits until a call has tried to acquire a lease that another call has.
    pub(crate) async fn wait_for_a_waiter(&self) {
        let is_refused = |call: &Call| call.what == "UpdateItem" && call.status == Some(400);
        while !self.stack.calls.after(0).0.iter().any(is_refused) {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn row(&self, user: &str) -> Item {
        self.stack.row(&UserId::new(user).unwrap()).await.unwrap().unwrap()
    }

    /// Writes this row into the table, whatever it says.
    pub(crate) async fn put(&self, row: Item) {
        self.stack.dynamodb.put_item().table_name("human-connect").set_item(Some(row)).send().await.unwrap();
    }

    pub(crate) async fn table(&self) -> Vec<String> {
        let rows = self.stack.dynamodb.scan().table_name("human-connect").send().await.unwrap();
        rows.items().iter().map(|row| format!("{row:?}")).collect()
    }
}

pub(crate) fn record(row: &Item) -> &Item {
    row["userRecord"].as_m().unwrap()
}

pub(crate) fn record_mut(row: &mut Item) -> &mut Item {
    match row.get_mut("userRecord") {
        Some(AttributeValue::M(record)) => record,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn is(reply: &Reply, status: u16, code: &str) -> Value {
    let body = reply.json();
    assert_eq!((reply.status, body["code"].as_str().unwrap_or("ok")), (status, code), "{body}");
    body
}
