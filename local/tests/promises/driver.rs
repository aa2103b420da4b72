//! The calls of one user, their gates, and the driver that opens the gates.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use local::calls::Calls;
use local::gateway::{Gateway, Reply};
use local::human_api::human_id;
use local::issuer::Issuer;
use local::local_stack::{LocalStack, Options};
use shared::clock::{Clock, Millis};
use shared::config::Config;
use shared::telemetry::Output;
use tokio::sync::mpsc;

use crate::calls::{self, Call, Known};
use crate::gates::{self, Death, Event, Request, Step};
use crate::invariants;

/// The parts that all schedules share.
pub(crate) struct World {
    pub(crate) stack: LocalStack,
    now: Arc<AtomicI64>,
    actors: Vec<Arc<Gateway>>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    sender: mpsc::UnboundedSender<Event>,
    users: AtomicUsize,
    proven: Mutex<BTreeSet<String>>,
}

/// The result of one schedule.
pub(crate) struct Run {
    pub(crate) user: String,
    pub(crate) known: Known,
    /// The responses, in the order of the calls.
    pub(crate) replies: Vec<Reply>,
    /// The actors in the order of their steps, each with its request.
    pub(crate) trace: Vec<(usize, String)>,
    /// The call that died, if one did.
    pub(crate) died: Option<Call>,
    /// `true` if a call may have been taken over while it worked.
    pub(crate) taken_over: bool,
}

/// Milliseconds after which a lease can be taken over: 26 s of the lease, 2 s of margin, and 1 s more.
pub(crate) const LEASE_IS_OVER: i64 = 29_000;
/// Milliseconds after which the sweeper resolves a user: one minute, and 1 s more.
pub(crate) const ABANDONED: i64 = 61_000;

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
        let stack =
            Box::pin(LocalStack::start(Options { clock: Clock::new(clock(0)), ..Options::in_memory() })).await.unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let http = shared::network::http_client(&stack.config).unwrap();
        let variable = |name: &str| {
            stack.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap()
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
                _ => stack.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()),
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
            stack,
            now,
            actors: hosts,
            events: tokio::sync::Mutex::new(events),
            sender,
            users: AtomicUsize::new(0),
            proven: Mutex::default(),
        }
    }

    pub(crate) fn single_use(&self, on: bool) {
        self.stack.human_api.with(|state| state.single_use = on);
    }

    fn pass(&self, time: Millis) {
        self.now.fetch_add(time, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Millis {
        self.now.load(Ordering::SeqCst)
    }

    /// Starts the calls at the same time and opens their gates in the order of `choose`. `choose` gets the actors that
    /// can move, and returns the index of the one that moves.
    ///
    /// A `leap` of time, in milliseconds, happens once, when `choose` picks it. A leap that is longer than a lease
    /// simulates wrong clocks: a working call can be taken over.
    pub(crate) async fn interleave(
        &self,
        calls: &[Call],
        known: Known,
        mut leap: Option<i64>,
        mut choose: impl FnMut(&[(usize, Step)]) -> usize,
    ) -> Run {
        let user = self.user(known).await;
        let mut run = Run { user: user.clone(), known, replies: vec![], trace: vec![], died: None, taken_over: false };
        let mut replies: Vec<Option<Reply>> = calls.iter().map(|_| None).collect();
        let mut waiting = Vec::new();
        let mut events = self.events.lock().await;
        let mut changes = 0;
        for (actor, call) in calls.iter().enumerate() {
            self.begin(actor, *call, &user).await;
            waiting.push(self.next(actor, &mut events, &mut replies, changes).await);
        }
        loop {
            let at_gates = waiting.iter().any(|waiting| matches!(waiting, Waiting::Gate(_)));
            let step = |waiting: &Waiting| match waiting {
                Waiting::Gate(request) => Some(request.step()),
                // Without a change, the call would read the same row again.
                Waiting::Pause { seen, .. } => (!at_gates || *seen < changes).then_some(Step::Pause),
                Waiting::Done => None,
            };
            let steps = waiting.iter().enumerate();
            let mut enabled: Vec<(usize, Step)> =
                steps.filter_map(|(actor, waiting)| Some((actor, step(waiting)?))).collect();
            if enabled.is_empty() {
                break;
            }
            if leap.is_some() {
                enabled.push((calls.len(), Step::Pause));
            }
            let (actor, _) = enabled[choose(&enabled)];
            if let Some(leap) = leap.take_if(|_| actor == calls.len()) {
                run.trace.push((actor, format!("{leap} ms pass")));
                run.taken_over = leap >= LEASE_IS_OVER;
                self.pass(leap);
                changes += 1;
                continue;
            }
            match std::mem::replace(&mut waiting[actor], Waiting::Done) {
                Waiting::Gate(request) => {
                    run.trace.push((actor, request.what.clone()));
                    let writes = request.step() == Step::Write;
                    let status = self.open(&user, request, None).await;
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

    /// Lets a call die at its gate number `gate`, lets its lease expire, and sends another call. Returns `None` if the
    /// call has no such gate.
    pub(crate) async fn die(&self, dying: Call, known: Known, gate: usize, death: Death, next: Call) -> Option<Run> {
        let user = self.user(known).await;
        let mut run =
            Run { user: user.clone(), known, replies: vec![], trace: vec![], died: Some(dying), taken_over: false };
        let mut events = self.events.lock().await;
        let call = self.begin(0, dying, &user).await;
        for number in 0.. {
            match events.recv().await.unwrap() {
                Event::AtGate(_, request) => {
                    run.trace.push((0, request.what.clone()));
                    if number == gate {
                        run.trace.push((0, format!("dies {death:?}")));
                        let _ = self.open(&user, request, Some(death)).await;
                        break;
                    }
                    self.open(&user, request, None).await;
                }
                Event::Pausing(_, _, wake) => drop(wake.send(())),
                Event::Done(..) => return None,
            }
        }
        call.abort();
        let _ = call.await;
        self.pass(if next == Call::Sweep { ABANDONED } else { LEASE_IS_OVER });
        run.replies.push(calls::send(&self.stack, next, &user).await);
        Some(run)
    }

    /// Creates a user in this state.
    async fn user(&self, known: Known) -> String {
        let user = format!("user-{}", self.users.fetch_add(1, Ordering::SeqCst));
        calls::set_up(&self.stack, known, &user).await;
        if known != Known::New {
            self.prove(&user);
        }
        // A refresh within ten seconds of another gets the same token. This pause is longer.
        self.pass(11_000);
        user
    }

    async fn begin(&self, actor: usize, call: Call, user: &str) -> tokio::task::JoinHandle<()> {
        let (gateway, done) = (self.actors[actor].clone(), self.sender.clone());
        let request = calls::Request::new(&self.stack, call, user).await;
        tokio::spawn(async move {
            let reply = request.send(&gateway).await;
            let _ = done.send(Event::Done(actor, reply));
        })
    }

    /// Waits for the next report of this actor. No other actor can move meanwhile.
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

    /// Opens a gate and returns the status of the response. Records the humanIds that Human API has returned, and refuses
    /// a `publictokens` request for any other.
    async fn open(&self, user: &str, request: Request, death: Option<Death>) -> u16 {
        let Request { what, human_id: named, open, performed } = request;
        if what.ends_with("/publictokens") && death != Some(Death::BeforeActing) {
            let proven = self.proven.lock().unwrap().contains(&named.unwrap_or_default());
            assert!(proven, "publictokens with a humanId that is not proven");
        }
        open.send(death).ok();
        if death == Some(Death::BeforeActing) {
            return 0;
        }
        let writes = what == "UpdateItem";
        let status = performed.await.unwrap();
        if writes {
            invariants::row(&self.stack, user).await;
        }
        let tells = what.ends_with("/tokens") || what.ends_with("/token");
        if tells && status == 200 && death.is_none() {
            self.prove(user);
        }
        status
    }

    fn prove(&self, user: &str) {
        self.proven.lock().unwrap().insert(human_id(user));
    }
}
