//! What the stories are played on: the laptop, with a clock that the test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use local::faults::{Acts, Answer, Fault, Rule, Service};
use local::gateway::Reply;
use local::human_api::{CLIENT_ID, human_id};
use local::laptop::{Laptop, Options};
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::telemetry::Output;
use tokio::sync::Semaphore;

pub(crate) const SOURCE: &str = "made-up-01";
const EXCHANGE: &str = "POST /v1/connect/tokens";

pub(crate) struct World {
    pub(crate) laptop: Laptop,
    ahead: Arc<AtomicI64>,
    looked: AtomicU64,
}

/// What has not come by then will not: the test has failed.
pub(crate) const NEVER: Duration = Duration::from_secs(60);

/// Where a call is held up.
#[derive(Clone)]
pub(crate) struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    /// A gate, and the fault that waits there.
    pub(crate) fn new() -> (Self, Fault) {
        let gate = Self { reached: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
        let at = gate.clone();
        let wait = Fault::After(Arc::new(move || {
            let at = at.clone();
            async move {
                at.reached.add_permits(1);
                let _ = at.open.acquire().await;
            }
            .boxed()
        }));
        (gate, wait)
    }

    /// Until a call has come.
    pub(crate) async fn reached(&self) {
        let come = async { self.reached.acquire().await.unwrap().forget() };
        tokio::time::timeout(NEVER, come).await.unwrap();
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }

    /// Once a call has come: does this, then lets it go on.
    pub(crate) async fn meanwhile<T>(&self, what: impl Future<Output = T>) -> T {
        self.reached().await;
        let outcome = tokio::time::timeout(NEVER, what).await.unwrap();
        self.open();
        outcome
    }
}

pub(crate) fn refuse(status: u16, body: &'static str) -> Fault {
    Fault::refuse(status, body)
}

/// Performed, and answered so.
pub(crate) fn garble(status: u16, body: &'static str) -> Fault {
    Fault::Answer(Acts::First, Answer::json(status, body))
}

/// Performed; the answer is lost on its way.
pub(crate) const LOSE_ANSWER: Fault = Fault::Reset(Acts::First);

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(vec![]).await
    }

    pub(crate) async fn with(variables: Vec<(&'static str, &'static str)>) -> Self {
        Self::writing_to(Output::new(std::io::sink()), variables).await
    }

    /// With the functions' metrics there.
    pub(crate) async fn writing_to(output: Output, variables: Vec<(&'static str, &'static str)>) -> Self {
        let ahead = Arc::new(AtomicI64::new(0));
        let offset = ahead.clone();
        let clock = Clock::new(move || Clock::system().now() + offset.load(Ordering::SeqCst));
        let laptop = Laptop::start(Options { clock, output, variables, ..Options::in_memory() }).await.unwrap();
        Self { laptop, ahead, looked: AtomicU64::new(0) }
    }

    pub(crate) fn pass_seconds(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    /// What goes wrong with the next calls of Human API, one each.
    pub(crate) fn fault(&self, faults: impl IntoIterator<Item = Fault>) {
        self.laptop.faults.set(faults.into_iter().map(|fault| Rule::once(Service::HumanApi, fault)));
    }

    /// The next call of Human API waits until the test goes on, and then goes wrong so, if it does.
    pub(crate) fn hold_up_human_api(&self, fault: Option<Fault>) -> Gate {
        let (gate, wait) = Gate::new();
        self.fault([wait].into_iter().chain(fault));
        gate
    }

    /// The caller of this exchange dies when its request has arrived; Human API performs it.
    pub(crate) async fn crash(&self, user: &str, object: &Value) {
        let gate = self.hold_up_human_api(None);
        tokio::select! {
            _ = Box::pin(self.finish(user, object)) => unreachable!("it was held up"),
            () = gate.reached() => gate.open(),
        }
        let ended =
            |laptop: &Laptop| laptop.calls.after(0).0.iter().all(|call| call.what != EXCHANGE || call.ms.is_some());
        while !ended(&self.laptop) {
            tokio::task::yield_now().await;
        }
    }

    /// What the schedule does; the report.
    pub(crate) async fn sweep(&self) -> Value {
        self.laptop.gateway.sweep().await
    }

    /// What Human API was asked since the last look.
    pub(crate) fn asked(&self) -> Vec<String> {
        let looked = self.looked.load(Ordering::SeqCst);
        let (calls, last) = self.laptop.calls.after(looked);
        self.looked.store(last, Ordering::SeqCst);
        // one that had begun before has only ended since
        let asked = calls.into_iter().filter(|call| call.id > looked && call.to == Service::HumanApi.name());
        asked.map(|call| call.what.replace("POST /v1/connect/", "")).collect()
    }

    /// A user connects a source in the popup: the sessionTokenObject that the page gets.
    pub(crate) fn popup(&self, user: &str) -> Value {
        let session = self.laptop.human_api.with(|state| {
            state.connect(user, SOURCE);
            state.add_session(user, None)
        });
        json!({"humanId": human_id(user), "clientId": CLIENT_ID, "sessionToken": session})
    }

    pub(crate) async fn session(&self, user: &str, body: Value) -> Reply {
        self.laptop.gateway.as_user("POST /connect/session", user, &body).await
    }

    pub(crate) async fn finish(&self, user: &str, body: &Value) -> Reply {
        self.laptop.gateway.as_user("POST /connect/finish", user, body).await
    }

    pub(crate) async fn public_token(&self, user: &str, refresh: bool) -> Reply {
        self.laptop.gateway.as_user("POST /connect/public-token", user, &json!({"refresh": refresh})).await
    }

    pub(crate) async fn access(&self, user: &str, force: bool) -> Reply {
        self.laptop.gateway.as_backend(&json!({"clientUserId": user, "forceRefresh": force})).await
    }

    pub(crate) async fn connection(&self, user: &str) -> Value {
        self.laptop.gateway.as_user("GET /connect/connection", user, &json!({})).await.json()
    }

    pub(crate) async fn forget(&self, user: &str) -> u16 {
        self.laptop.gateway.as_user("DELETE /connect/connection", user, &json!({})).await.status
    }

    /// Connects a user by the Connect widget.
    pub(crate) async fn connect(&self, user: &str) -> Reply {
        self.session(user, json!({})).await;
        self.laptop.human_api.with(|state| state.connect(user, SOURCE));
        self.finish(user, &json!({"status": "SUCCESS", "currentConnections": [{"id": SOURCE, "name": "Made up"}]}))
            .await
    }

    pub(crate) async fn rows(&self) -> usize {
        self.table().await.len()
    }

    pub(crate) async fn wait_for_a_waiter(&self) {
        while !self.table().await.concat().contains("\"waited\"") {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn table(&self) -> Vec<String> {
        let rows = self.laptop.dynamodb.scan().table_name("human-connect").send().await.unwrap();
        rows.items().iter().map(|row| format!("{row:?}")).collect()
    }
}

#[track_caller]
pub(crate) fn is(reply: &Reply, status: u16, code: &str) -> Value {
    let body = reply.json();
    assert_eq!((reply.status, body["code"].as_str().unwrap_or("ok")), (status, code), "{body}");
    body
}
