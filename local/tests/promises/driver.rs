//! The calls of one user, their gates, and the driver that opens the gates.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

use super::calls::{self, Call, Known};
use super::events::{self, Event as ConnectionEvent};
use super::gates::{self, Death, Event, Passage, Request, Step};
use super::invariants::{self, Item};
use super::paused_time::quiet;

/// The parts that all schedules share.
pub(crate) struct World {
    pub(crate) stack: LocalStack,
    now: Arc<AtomicI64>,
    actors: Vec<Arc<Gateway>>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    sender: mpsc::UnboundedSender<Event>,
    users: AtomicUsize,
    proven: Mutex<BTreeSet<String>>,
    changes: Mutex<Changes>,
}

/// The changes of a user's row in a schedule.
#[derive(Default)]
struct Changes {
    row: Option<Item>,
    events: Vec<ConnectionEvent>,
    number: usize,
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
    /// `true` if a call may have been taken over while it worked. A call that sends a commit again, because the answer was
    /// lost, takes itself for taken over if another call has the lease by then.
    pub(crate) taken_over: bool,
    /// The write that the network disturbed, if there was one.
    pub(crate) disturbed: Option<Disturbed>,
}

/// A write that the network has disturbed: its condition and its update.
#[derive(Clone, Debug)]
pub(crate) struct Disturbed {
    how: How,
    write: String,
    /// `true` if the call has sent the write again, and it was accepted.
    sent_again: bool,
}

fn is_acquire(write: &str) -> bool {
    write.contains("generation = if_not_exists")
}

impl Disturbed {
    /// A copy of this write can make a row again after a DELETE, or acquire a lease for nobody. The table keeps no trace of a
    /// deleted row, so no condition can prevent that.
    pub(crate) fn may_make_a_row(&self) -> bool {
        let makes = self.write.contains("attribute_not_exists(userKey)") || is_acquire(&self.write);
        self.how != How::AnswerLost && makes
    }

    /// The call has the answer to this write, and works under its lease. A copy of an acquire sets the same lease again, so that the
    /// call commits even if the row was deleted meanwhile.
    pub(crate) fn was_answered(&self) -> bool {
        self.how == How::Copied
    }

    /// The call has the lease and does not know it, until it sends the acquire again. Another call may wait in vain for 10 s meanwhile.
    pub(crate) fn holds_up_others(&self) -> bool {
        self.how == How::AnswerLost && is_acquire(&self.write)
    }

    /// A mark changes nothing if it is there already.
    fn is_mark(&self) -> bool {
        self.write.contains("takenOver :me")
    }
}

/// The calls of one user that overlap, and what happens to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) calls: &'a [Call],
    pub(crate) known: Known,
    /// A leap of time, in milliseconds, at any moment. A leap that is longer than a lease simulates wrong clocks: a working
    /// call can be taken over.
    pub(crate) leap: Option<i64>,
    pub(crate) disturbance: Option<Disturbance>,
}

/// A write that the network disturbs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Disturbance {
    /// The call that sends the write.
    pub(crate) actor: usize,
    /// Number of the write among the call's writes.
    pub(crate) write: usize,
    pub(crate) how: How,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// A copy of the write arrives later, once more.
    Copied,
    /// The write arrives later, after the call has sent it again.
    Late,
    /// The answer to the write is lost, so the call sends it again.
    AnswerLost,
}

/// Milliseconds after which a lease can be taken over: 26 s of the lease, 2 s of margin, and 1 s more.
pub(crate) const LEASE_IS_OVER: i64 = 29_000;
/// Milliseconds after which `sweep` resolves a user: one minute, and 1 s more.
pub(crate) const ABANDONED: i64 = 61_000;

/// A call renews a lease that is older than a second.
const LEASE_IS_OLD: Duration = Duration::from_millis(1100);
/// The SDK pauses for up to a second before it sends a request again.
const RESEND_AFTER: Duration = Duration::from_millis(1500);

enum Waiting {
    Gate(Request),
    Pause { until: Millis, wake: tokio::sync::oneshot::Sender<()>, seen: usize },
    Done,
}

impl Run {
    fn new(user: &str, known: Known) -> Self {
        Self {
            user: user.to_owned(),
            known,
            replies: vec![],
            trace: vec![],
            died: None,
            taken_over: false,
            disturbed: None,
        }
    }
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
            changes: Mutex::default(),
        }
    }

    pub(crate) fn single_use(&self, on: bool) {
        self.stack.human_api.with(|state| state.single_use = on);
    }

    pub(crate) fn pass(&self, time: Millis) {
        self.now.fetch_add(time, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Millis {
        self.now.load(Ordering::SeqCst)
    }

    /// Starts the calls at the same time and opens their gates in the order of `choose`. `choose` gets the actors that
    /// can move, and returns the index of the one that moves.
    pub(crate) async fn interleave(&self, plan: &Plan<'_>, mut choose: impl FnMut(&[(usize, Step)]) -> usize) -> Run {
        let Plan { calls, known, mut leap, disturbance } = *plan;
        let user = self.user(known).await;
        let mut run = Run::new(&user, known);
        let mut replies: Vec<Option<Reply>> = calls.iter().map(|_| None).collect();
        let mut waiting = Vec::new();
        let mut events = self.events.lock().await;
        let (mut changes, mut writes, mut copy) = (0, 0, None);
        // the actors after the calls: the leap, and the network that delivers a copy
        let (leaps, network) = (calls.len(), calls.len() + 1);
        for (actor, call) in calls.iter().enumerate() {
            self.begin(actor, *call, &user).await;
            waiting.push(self.next(actor, &mut events, &mut replies, changes, false).await);
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
            if leap.is_some() && !enabled.is_empty() {
                enabled.push((leaps, Step::Pause));
            }
            if copy.is_some() {
                enabled.push((network, Step::Write));
            }
            if enabled.is_empty() {
                break;
            }
            let (actor, _) = enabled[choose(&enabled)];
            if let Some(copy) = copy.take_if(|_| actor == network) {
                let status = gates::LateCopy::deliver(copy).await;
                let disturbed = run.disturbed.as_ref().unwrap();
                let comes_first = disturbed.how == How::Late && !disturbed.sent_again;
                let is_refused = status == 400 || comes_first || disturbed.may_make_a_row();
                assert!(is_refused || disturbed.is_mark(), "a copy of {disturbed:?} changed the row: {:?}", run.trace);
                run.taken_over |= status == 200 && disturbed.may_make_a_row();
                run.trace.push((actor, format!("a late copy arrives: {status}")));
                self.note_change(&user).await;
                changes += usize::from(status == 200);
                continue;
            }
            if let Some(leap) = leap.take_if(|_| actor == leaps) {
                run.trace.push((actor, format!("{leap} ms pass")));
                run.taken_over = leap >= LEASE_IS_OVER;
                self.pass(leap);
                // the calls measure a lease's age with this clock, and renew it before the next request
                tokio::time::advance(LEASE_IS_OLD).await;
                changes += 1;
                continue;
            }
            let mut sends_again = false;
            match std::mem::replace(&mut waiting[actor], Waiting::Done) {
                Waiting::Gate(request) => {
                    run.trace.push((actor, request.what.clone()));
                    let is_write = request.step() == Step::Write;
                    let disturbed = disturbance.filter(|disturbance| {
                        let same = is_write && disturbance.actor == actor;
                        writes += usize::from(same);
                        same && writes == disturbance.write + 1
                    });
                    let (keep, kept) = tokio::sync::oneshot::channel();
                    let (passage, is_kept) = match disturbed.map(|disturbance| disturbance.how) {
                        None => (Passage::Free, false),
                        Some(How::Copied) => (Passage::Copied(keep), true),
                        Some(How::Late) => (Passage::Late(keep), true),
                        Some(How::AnswerLost) => (Passage::AnswerLost, false),
                    };
                    if let Some(Disturbance { how, .. }) = disturbed {
                        run.trace.pop();
                        run.trace.push((actor, format!("{} {how:?}", request.what)));
                        run.disturbed = Some(Disturbed { how, write: request.write.clone(), sent_again: false });
                        sends_again = how != How::Copied;
                    }
                    let write = request.write.clone();
                    let status = self.open(&user, request, passage).await;
                    let later = run.disturbed.as_mut().filter(|_| disturbed.is_none() && is_write && status == 200);
                    if let Some(before) = later {
                        let same = disturbance.is_some_and(|disturbance| disturbance.actor == actor);
                        run.taken_over |= !same && !before.sent_again && is_acquire(&write);
                        before.sent_again |= same;
                    }
                    copy = if is_kept { kept.await.ok() } else { copy };
                    changes += usize::from(is_write && status == 200);
                }
                Waiting::Pause { until, wake, .. } => {
                    self.now.fetch_max(until, Ordering::SeqCst);
                    let _ = wake.send(());
                }
                Waiting::Done => unreachable!(),
            }
            waiting[actor] = self.next(actor, &mut events, &mut replies, changes, sends_again).await;
        }
        run.replies = replies.into_iter().map(Option::unwrap).collect();
        run
    }

    /// Lets a call die at its gate number `gate`, lets its lease expire, and sends another call. Returns `None` if the
    /// call has no such gate.
    pub(crate) async fn die(&self, dying: Call, known: Known, gate: usize, death: Death, next: Call) -> Option<Run> {
        let user = self.user(known).await;
        let mut run = Run { died: Some(dying), ..Run::new(&user, known) };
        let mut events = self.events.lock().await;
        let call = self.begin(0, dying, &user).await;
        for number in 0.. {
            match events.recv().await.unwrap() {
                Event::AtGate(_, request) => {
                    run.trace.push((0, request.what.clone()));
                    if number == gate {
                        run.trace.push((0, format!("dies {death:?}")));
                        self.open(&user, request, Passage::Dies(death)).await;
                        break;
                    }
                    self.open(&user, request, Passage::Free).await;
                }
                Event::Pausing(_, _, wake) => drop(wake.send(())),
                Event::Done(..) => return None,
            }
        }
        call.abort();
        let _ = call.await;
        self.pass(if next == Call::Sweep { ABANDONED } else { LEASE_IS_OVER });
        self.begin(0, next, &user).await;
        loop {
            match events.recv().await.unwrap() {
                Event::AtGate(_, request) => drop(self.open(&user, request, Passage::Free).await),
                Event::Pausing(_, _, wake) => drop(wake.send(())),
                Event::Done(_, reply) => {
                    run.replies.push(reply);
                    return Some(run);
                }
            }
        }
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
        let row = invariants::row(&self.stack, &user).await;
        *self.changes.lock().unwrap() = Changes { row, events: Vec::new(), number: 0 };
        user
    }

    /// Hands the change of the row to `publisher`, as the table's stream does.
    async fn note_change(&self, user: &str) {
        let row = invariants::row(&self.stack, user).await;
        let mut changes = self.changes.lock().unwrap();
        if changes.row != row {
            changes.number += 1;
            let events = events::of_change(changes.number, changes.row.as_ref(), row.as_ref());
            changes.events.extend(events);
            changes.row = row;
        }
    }

    /// Takes the connection events since the schedule began.
    pub(crate) fn take_events(&self) -> Vec<ConnectionEvent> {
        std::mem::take(&mut self.changes.lock().unwrap().events)
    }

    async fn begin(&self, actor: usize, call: Call, user: &str) -> tokio::task::JoinHandle<()> {
        let (gateway, done) = (self.actors[actor].clone(), self.sender.clone());
        if call == Call::ImportTokens {
            // the operator's word
            self.prove(user);
        }
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
        sends_again: bool,
    ) -> Waiting {
        let event = loop {
            tokio::select! {
                biased;
                event = events.recv() => break event.unwrap(),
                () = quiet(&self.stack.faults), if sends_again => tokio::time::advance(RESEND_AFTER).await,
            }
        };
        match event {
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
    async fn open(&self, user: &str, request: Request, passage: Passage) -> u16 {
        let Request { what, human_id: named, open, performed, .. } = request;
        let dies = matches!(passage, Passage::Dies(_));
        if what.ends_with("/publictokens") && !matches!(passage, Passage::Dies(Death::BeforeActing)) {
            let proven = self.proven.lock().unwrap().contains(&named.unwrap_or_default());
            assert!(proven, "publictokens with a humanId that is not proven");
        }
        open.send(passage).ok();
        let status = performed.await.unwrap();
        if matches!(what.as_str(), "UpdateItem" | "DeleteItem") {
            self.note_change(user).await;
        }
        let tells = what.ends_with("/tokens") || what.ends_with("/token");
        if tells && status == 200 && !dies {
            self.prove(user);
        }
        status
    }

    fn prove(&self, user: &str) {
        self.proven.lock().unwrap().insert(human_id(user));
    }
}
