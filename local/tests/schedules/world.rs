//! One user's calls, their gates, and the driver that opens them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use local::calls::Calls;
use local::gateway::{Gateway, Reply};
use local::human_api::{CLIENT_ID, human_id};
use local::issuer::Issuer;
use local::laptop::{Laptop, Options};
use serde_json::{Value, json};
use shared::clock::{Clock, Millis};
use shared::config::Config;
use shared::telemetry::Output;
use tokio::sync::mpsc;

use crate::gates::{self, Death, Event, Request};

/// What can be asked about a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    SessionConnect,
    SessionPopup,
    FinishPopup,
    FinishWidget,
    PublicRefresh,
    AccessForce,
    Delete,
}

/// What is stored about the user before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    New,
    ByPopup,
    ByWidget,
}

/// The parts of a schedule that all schedules share.
pub(crate) struct World {
    pub(crate) laptop: Laptop,
    now: Arc<AtomicI64>,
    actors: Vec<Arc<Gateway>>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    sender: mpsc::UnboundedSender<Event>,
    users: AtomicUsize,
    proven: Mutex<BTreeSet<String>>,
}

/// What one schedule came to.
pub(crate) struct Run {
    pub(crate) user: String,
    pub(crate) known: Known,
    /// The answers, in the order of the calls.
    pub(crate) replies: Vec<Reply>,
    /// Who was let through, and with what.
    pub(crate) trace: Vec<(usize, String)>,
    /// Which way was taken of how many, decision by decision.
    pub(crate) decisions: Vec<(usize, usize)>,
    /// The call that died, if one did.
    pub(crate) died: Option<Call>,
}

enum Waiting {
    Gate(Request),
    Pause { until: Millis, wake: tokio::sync::oneshot::Sender<()>, seen: usize },
    Done,
}

impl World {
    pub(crate) async fn new(skews: &[i64]) -> Self {
        let now = Arc::new(AtomicI64::new(1_800_000_000_000));
        let clock = |skew: i64| {
            let now = now.clone();
            move || now.load(Ordering::SeqCst) + skew
        };
        let laptop =
            Box::pin(Laptop::start(Options { clock: Clock::new(clock(0)), ..Options::in_memory() })).await.unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let http = shared::network::http_client(&laptop.config).unwrap();
        let variable = |name: &str| {
            laptop.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap()
        };
        let mut hosts = Vec::new();
        for (actor, skew) in skews.iter().copied().enumerate() {
            let address = gates::serve(
                actor,
                sender.clone(),
                http.clone(),
                variable("AWS_ENDPOINT_URL"),
                variable("HUMAN_API_AUTH_URL"),
            )
            .await;
            let config = Config::read(|name| match name {
                "AWS_ENDPOINT_URL" | "HUMAN_API_AUTH_URL" | "HUMAN_API_USER_URL" => Some(address.clone()),
                _ => laptop.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()),
            })
            .unwrap();
            let pauses = sender.clone();
            let clock = Clock::with_sleep(clock(skew), move |pause| {
                let pauses = pauses.clone();
                async move {
                    let (wake, woken) = tokio::sync::oneshot::channel();
                    let _ = pauses.send(Event::Pausing(actor, pause.as_millis() as i64, wake));
                    let _ = woken.await;
                }
                .boxed()
            });
            let issuer = Issuer::new("schedules".into());
            let output = Output::new(std::io::sink());
            hosts.push(Arc::new(Gateway::new(&config, issuer, Calls::default(), &output, clock).unwrap()));
        }
        Self {
            laptop,
            now,
            actors: hosts,
            events: tokio::sync::Mutex::new(events),
            sender,
            users: AtomicUsize::new(0),
            proven: Mutex::default(),
        }
    }

    pub(crate) fn single_use(&self, on: bool) {
        self.laptop.human_api.with(|state| state.single_use = on);
    }

    pub(crate) fn pass_seconds(&self, seconds: i64) {
        self.now.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Millis {
        self.now.load(Ordering::SeqCst)
    }

    /// Lets the calls begin at the same time and opens their gates in the order that `choices` names, then in the first
    /// possible one.
    pub(crate) async fn interleave(&self, calls: &[Call], known: Known, choices: &[usize]) -> Run {
        let user = self.user(known).await;
        let mut run = Run { user: user.clone(), known, replies: vec![], trace: vec![], decisions: vec![], died: None };
        let mut replies: Vec<Option<Reply>> = calls.iter().map(|_| None).collect();
        let mut waiting = Vec::new();
        let mut events = self.events.lock().await;
        let mut changes = 0;
        for (actor, call) in calls.iter().enumerate() {
            self.begin(actor, *call, &user);
            waiting.push(self.next(actor, &mut events, &mut replies, changes).await);
        }
        loop {
            let at_gates = waiting.iter().any(|waiting| matches!(waiting, Waiting::Gate(_)));
            let enabled: Vec<usize> = (0..calls.len())
                .filter(|actor| match &waiting[*actor] {
                    Waiting::Gate(_) => true,
                    // it would look at the same row again
                    Waiting::Pause { seen, .. } => !at_gates || *seen < changes,
                    Waiting::Done => false,
                })
                .collect();
            if enabled.is_empty() {
                break;
            }
            let chosen = choices.get(run.decisions.len()).copied().unwrap_or_default();
            run.decisions.push((chosen, enabled.len()));
            let actor = enabled[chosen];
            match std::mem::replace(&mut waiting[actor], Waiting::Done) {
                Waiting::Gate(request) => {
                    run.trace.push((actor, request.what.clone()));
                    let writes = matches!(request.what.as_str(), "UpdateItem" | "DeleteItem");
                    let status = self.pass(&user, request, None).await;
                    changes += usize::from(writes && status == 200);
                }
                Waiting::Pause { until, wake, .. } => {
                    self.now.fetch_max(until, Ordering::SeqCst);
                    let _ = wake.send(());
                }
                Waiting::Done => unreachable!(),
            }
            waiting[actor] = self.next(actor, &mut events, &mut replies, changes).await;
        }
        run.replies = replies.into_iter().map(Option::unwrap).collect();
        run
    }

    /// Lets a call die at its gate number `gate`, time pass until its hold is free, and another call follow.
    /// `None` where the call has no such gate.
    pub(crate) async fn die(&self, dying: Call, known: Known, gate: usize, death: Death, next: Call) -> Option<Run> {
        let user = self.user(known).await;
        let mut run =
            Run { user: user.clone(), known, replies: vec![], trace: vec![], decisions: vec![], died: Some(dying) };
        let mut events = self.events.lock().await;
        let call = self.begin(0, dying, &user);
        for number in 0.. {
            match events.recv().await.unwrap() {
                Event::AtGate(_, request) => {
                    run.trace.push((0, request.what.clone()));
                    if number == gate {
                        run.trace.push((0, format!("dies {death:?}")));
                        let _ = self.pass(&user, request, Some(death)).await;
                        break;
                    }
                    self.pass(&user, request, None).await;
                }
                Event::Pausing(_, _, wake) => drop(wake.send(())),
                Event::Done(..) => return None,
            }
        }
        call.abort();
        let _ = call.await;
        // 26 s of the hold, 2 s of margin, and the moment after
        self.pass_seconds(29);
        run.replies.push(self.ask(&self.laptop.gateway, next, &user).await);
        Some(run)
    }

    /// A user in a state.
    async fn user(&self, known: Known) -> String {
        let user = format!("user-{}", self.users.fetch_add(1, Ordering::SeqCst));
        let gateway = &self.laptop.gateway;
        match known {
            Known::New => {}
            Known::ByPopup => {
                assert_eq!(self.ask(gateway, Call::FinishPopup, &user).await.status, 201);
                self.prove(&user);
            }
            Known::ByWidget => {
                self.ask(gateway, Call::SessionConnect, &user).await;
                self.prove(&user);
                assert_eq!(self.ask(gateway, Call::FinishWidget, &user).await.status, 201);
            }
        }
        // beyond the ten seconds within which a refresh is answered with what the last one brought
        self.pass_seconds(11);
        user
    }

    fn begin(&self, actor: usize, call: Call, user: &str) -> tokio::task::JoinHandle<()> {
        let (gateway, user, done) = (self.actors[actor].clone(), user.to_owned(), self.sender.clone());
        let body = self.body(call, &user);
        tokio::spawn(async move {
            let reply = send(&gateway, call, &user, &body).await;
            let _ = done.send(Event::Done(actor, reply));
        })
    }

    /// The next report of this actor; no other can move meanwhile.
    async fn next(
        &self,
        actor: usize,
        events: &mut mpsc::UnboundedReceiver<Event>,
        replies: &mut [Option<Reply>],
        seen: usize,
    ) -> Waiting {
        match events.recv().await.unwrap() {
            Event::AtGate(who, request) if who == actor => Waiting::Gate(request),
            Event::Pausing(who, pause, wake) if who == actor => {
                Waiting::Pause { until: self.now() + pause, wake, seen }
            }
            Event::Done(who, reply) if who == actor => {
                replies[who] = Some(reply);
                Waiting::Done
            }
            _ => panic!("another call moved"),
        }
    }

    /// Opens a gate; what the other side answered. Keeps account of the humanIds that Human API has told us, and refuses a publicToken for any other.
    async fn pass(&self, user: &str, request: Request, death: Option<Death>) -> u16 {
        let Request { what, human_id: named, open, performed } = request;
        if what.ends_with("/publictokens") && death != Some(Death::BeforeActing) {
            let proven = self.proven.lock().unwrap().contains(&named.unwrap_or_default());
            assert!(proven, "publictokens with a humanId that is not proven");
        }
        open.send(death).ok();
        if death == Some(Death::BeforeActing) {
            return 0;
        }
        let status = performed.await.unwrap();
        let tells = what.ends_with("/tokens") || what.ends_with("/token");
        if tells && status == 200 && death.is_none() {
            self.prove(user);
        }
        status
    }

    fn prove(&self, user: &str) {
        self.proven.lock().unwrap().insert(human_id(user));
    }

    /// Calls without gates.
    pub(crate) async fn ask(&self, gateway: &Gateway, call: Call, user: &str) -> Reply {
        let body = self.body(call, user);
        send(gateway, call, user, &body).await
    }

    /// What the page would send; a popup or a widget has connected something for it.
    fn body(&self, call: Call, user: &str) -> Value {
        let connect = || self.laptop.human_api.with(|state| state.connect(user, "made-up-01"));
        match call {
            Call::SessionConnect => json!({"flow": "connect", "refresh": true}),
            Call::SessionPopup => json!({"flow": "popup"}),
            Call::FinishPopup => {
                connect();
                let session = self.laptop.human_api.with(|state| state.add_session(user, None));
                json!({"humanId": human_id(user), "clientId": CLIENT_ID, "sessionToken": session})
            }
            Call::FinishWidget => {
                connect();
                json!({"status": "SUCCESS", "currentConnections": [{"id": "made-up-01", "name": "Made up"}]})
            }
            Call::PublicRefresh => json!({"refresh": true}),
            Call::AccessForce => json!({"clientUserId": user, "forceRefresh": true}),
            Call::Delete => json!({}),
        }
    }
}

async fn send(gateway: &Gateway, call: Call, user: &str, body: &Value) -> Reply {
    let route = match call {
        Call::SessionConnect | Call::SessionPopup => "POST /connect/session",
        Call::FinishPopup | Call::FinishWidget => "POST /connect/finish",
        Call::PublicRefresh => "POST /connect/public-token",
        Call::Delete => "DELETE /connect/connection",
        Call::AccessForce => return gateway.as_backend(body).await,
    };
    gateway.as_user(route, user, body).await
}
