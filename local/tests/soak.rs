//! Overlapping finishes on the built functions, which are killed and restarted all the time. Then the test checks every
//! promise about tokens.
//!
//! `SOAK_FINISHES` sets the number of finishes. The default is a short run, which `.ci/run` makes: killed calls leave leases, and
//! these expire in real time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use local::faults::{Fault, Rule, Service};
use local::gateway::{self, ACCESS_TOKEN};
use local::human_api::human_id;
use local::local_stack::{LocalStack, Options};
use serde_json::{Value, json};
use test_support::runtime_api::{Instance, binaries};
use tokio::sync::Mutex;

const SHORT: usize = 40;
/// Instances of each function. Each serves one call at a time, as on Lambda.
const INSTANCES: usize = 6;
/// Number of concurrent calls.
const CLIENTS: usize = 16;
/// Average number of finishes of one user.
const FINISHES_PER_USER: usize = 6;
/// Average time between kills. At most one call is killed for two finishes.
const BETWEEN_KILLS: Duration = Duration::from_millis(60);
const FINISHES_PER_KILL: usize = 2;
/// A killed call's lease expires after 28 s, and another call may wait 10 s for it. The rest is reserve for a busy
/// machine. `Retry-After` shows that no lease lasts longer.
const BLOCKED: Duration = Duration::from_secs(120);
const LONGEST_LEASE_SECONDS: u64 = 28;

/// A random generator with the same numbers in each run.
struct Dice(std::sync::Mutex<fastrand::Rng>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(std::sync::Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    fn roll(&self, sides: usize) -> usize {
        self.0.lock().unwrap().usize(..sides)
    }
}

/// A place for one instance, and the flag that a call uses it.
struct Slot {
    binary: PathBuf,
    instance: Mutex<Option<Arc<Instance>>>,
    busy: AtomicBool,
}

struct Soak {
    stack: LocalStack,
    dice: Dice,
    slots: BTreeMap<&'static str, Vec<Slot>>,
    kills: AtomicUsize,
    kills_at_work: AtomicUsize,
    lost_for_good: AtomicUsize,
    /// Time of the last kill of a call, by user.
    last_killed: std::sync::Mutex<BTreeMap<String, Instant>>,
    /// Users with an answered exchange. Their humanId is proven.
    proven: std::sync::Mutex<BTreeSet<String>>,
}

impl Soak {
    async fn new() -> Self {
        let stack = LocalStack::start(Options::in_memory()).await.unwrap();
        let binaries = binaries();
        let mut slots = BTreeMap::new();
        for function in ["finish", "access-token", "public-token"] {
            let mut places = Vec::new();
            for _ in 0..INSTANCES {
                let binary = binaries.join(function);
                let instance = Instance::start(&binary, &stack.environment).await.unwrap();
                places.push(Slot {
                    binary,
                    instance: Mutex::new(Some(Arc::new(instance))),
                    busy: AtomicBool::new(false),
                });
            }
            slots.insert(function, places);
        }
        let zero = || AtomicUsize::new(0);
        Self {
            stack,
            dice: Dice::new(2026),
            slots,
            kills: zero(),
            kills_at_work: zero(),
            lost_for_good: zero(),
            last_killed: std::sync::Mutex::default(),
            proven: std::sync::Mutex::default(),
        }
    }

    /// Calls the function and returns status and body, or `None` if it was killed.
    async fn call(&self, function: &str, user: &str, event: &Value) -> Option<(u64, Value)> {
        let slots = &self.slots[function];
        let slot = loop {
            let slot = &slots[self.dice.roll(slots.len())];
            if !slot.busy.swap(true, Ordering::SeqCst) {
                break slot;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let instance = slot.instance.lock().await.clone();
        let answer = match instance {
            Some(instance) => instance.invoke(event).await.ok(),
            None => None,
        };
        slot.busy.store(false, Ordering::SeqCst);
        let Some(answer) = answer else {
            self.last_killed.lock().unwrap().insert(user.to_owned(), Instant::now());
            return None;
        };
        if let Some(wait) = answer["headers"]["retry-after"].as_str() {
            assert!((1..=LONGEST_LEASE_SECONDS).contains(&wait.parse().unwrap()), "{answer}");
        }
        let body = answer["body"].as_str().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
        Some((answer["statusCode"].as_u64().unwrap(), body))
    }

    /// Repeats the call, as a client does that was told to wait or got no response. Also returns `true` if the user's
    /// humanId was proven before the answered call.
    async fn insist(&self, function: &str, user: &str, event: &Value) -> (u64, Value, bool) {
        let mut since = Instant::now();
        loop {
            let proven = self.proven.lock().unwrap().contains(user);
            let answer = self.call(function, user, event).await;
            if let Some(killed) = self.last_killed.lock().unwrap().get(user) {
                since = since.max(*killed);
            }
            assert!(since.elapsed() < BLOCKED, "{user} is blocked: {answer:?}");
            match answer {
                Some((409, body)) if body["code"] == "finish_in_progress" => {}
                None | Some((503 | 504, _)) => {}
                Some((status, body)) => return (status, body, proven),
            }
            tokio::time::sleep(Duration::from_millis(self.dice.roll(1000) as u64)).await;
        }
    }

    async fn finish(&self, user: &str) {
        let object = self.stack.human_api.popup(user);
        let event = gateway::user_event("POST /connect/finish", user, &object);
        let (status, body, proven) = self.insist("finish", user, &event).await;
        match status {
            200 | 201 => {
                assert_eq!(body["humanId"], json!(human_id(user)), "{body}");
                self.proven.lock().unwrap().insert(user.to_owned());
            }
            // The response of a first exchange was lost, and its session cannot be used again.
            _ => {
                assert_eq!((&body["code"], proven), (&json!("reconnect_required"), false), "{user}: {body}");
                self.lost_for_good.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Kills one instance after the other until the finishes are done. It prefers instances at work.
    async fn kill(&self, most: usize, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) && self.kills_at_work.load(Ordering::SeqCst) < most {
            let pause = BETWEEN_KILLS.mul_f64(self.dice.roll(200) as f64 / 100.0);
            tokio::time::sleep(pause).await;
            let slots: Vec<&Slot> = self.slots.values().flatten().collect();
            let busy: Vec<&&Slot> = slots.iter().filter(|slot| slot.busy.load(Ordering::SeqCst)).collect();
            let slot =
                if busy.is_empty() { slots[self.dice.roll(slots.len())] } else { busy[self.dice.roll(busy.len())] };
            let at_work = slot.busy.load(Ordering::SeqCst);
            self.kills.fetch_add(1, Ordering::SeqCst);
            self.kills_at_work.fetch_add(usize::from(at_work), Ordering::SeqCst);
            let mut place = slot.instance.lock().await;
            if let Some(instance) = place.take() {
                instance.kill().await;
            }
            *place = Some(Arc::new(Instance::start(&slot.binary, &self.stack.environment).await.unwrap()));
        }
    }

    /// Checks that the user's tokens are the newest, and that nothing is unresolved.
    async fn check(&self, user: &str) {
        let backend = gateway::backend_event(ACCESS_TOKEN, &json!({"clientUserId": user}));
        let (status, access, _) = self.insist("access-token", user, &backend).await;
        let public = gateway::user_event("POST /connect/public-token", user, &json!({}));
        let (public_status, public, proven) = self.insist("public-token", user, &public).await;
        let (newest_access, newest_public) = self.stack.human_api.with(|state| state.newest(user));
        assert_eq!((status, access["accessToken"].as_str()), (200, newest_access.as_deref()), "{user}: {access}");
        match public_status {
            200 => assert_eq!(public["publicToken"].as_str(), newest_public.as_deref(), "{user}"),
            _ => assert_eq!((&public["code"], proven), (&json!("reconnect_required"), false), "{user}: {public}"),
        }
        let row = self.stack.row(&shared::identity::UserId::new(user.to_owned()).unwrap()).await.unwrap().unwrap();
        for left in ["leaseUntil", "pending", "takenOver", "expires"] {
            assert!(!row.contains_key(left), "{user}: {left} is left");
        }
    }
}

#[tokio::test]
#[ignore = "real leases expire: a minute"]
async fn killed_functions_lose_nothing_and_block_nobody() {
    let finishes = std::env::var("SOAK_FINISHES").map_or(SHORT, |number| number.parse().unwrap());
    let began = Instant::now();
    let soak = Soak::new().await;
    // Responses take some time, so that calls overlap and kills meet them at any point.
    let slow = |service| {
        let dice = Dice::new(4711);
        let event = move || tokio::time::sleep(Duration::from_millis(dice.roll(40) as u64)).boxed();
        Rule::always(service, Fault::After(Arc::new(event)))
    };
    soak.stack.faults.set([slow(Service::HumanApi), slow(Service::DynamoDb)]);
    let users: Vec<String> = (0..finishes.div_ceil(FINISHES_PER_USER)).map(|number| format!("user-{number}")).collect();
    let (left, over) = (AtomicUsize::new(finishes), AtomicBool::new(false));
    let clients = join_all((0..CLIENTS).map(async |_| {
        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let user = &users[soak.dice.roll(users.len())];
            // Other calls about the same user run meanwhile.
            let (refresh, forced) = (json!({"refresh": true}), json!({"clientUserId": user, "forceRefresh": true}));
            let other = match soak.dice.roll(4) {
                0 => Some(("access-token", gateway::backend_event(ACCESS_TOKEN, &forced))),
                1 => Some(("public-token", gateway::user_event("POST /connect/public-token", user, &refresh))),
                _ => None,
            };
            if let Some((function, event)) = other {
                soak.call(function, user, &event).await;
            }
            soak.finish(user).await;
        }
    }));
    let clients = async {
        clients.await;
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(clients, soak.kill(finishes / FINISHES_PER_KILL, &over));
    soak.stack.faults.set([]);
    let finished: Vec<&String> =
        users.iter().filter(|user| soak.stack.human_api.with(|state| state.newest(user)).0.is_some()).collect();
    join_all(finished.iter().map(|user| soak.check(user))).await;
    let (kills, at_work) = (soak.kills.load(Ordering::SeqCst), soak.kills_at_work.load(Ordering::SeqCst));
    assert!(at_work > 0, "of {kills} kills, none met a call at work");
    assert!(finished.len() * 2 > users.len(), "only {} of {} users were connected", finished.len(), users.len());
    println!(
        "soak: {finishes} finishes of {} users, {kills} kills, {at_work} of them at work; {} first exchanges had to be \
         repeated by the user; {:.0} s",
        finished.len(),
        soak.lost_for_good.load(Ordering::SeqCst),
        began.elapsed().as_secs_f64()
    );
}
