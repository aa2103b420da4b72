//! Faults of the functions' calls. The [proxy](crate::proxy) before Human API, DynamoDB and Secrets Manager applies these
//! rules. The tests and the console set them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::lock;

mod catalogue;

/// A fault with its name, and the words with which the console offers it.
pub type Named = (&'static str, &'static str, Fault);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    HumanApi,
    DynamoDb,
    SecretsManager,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::HumanApi, Self::DynamoDb, Self::SecretsManager];

    pub fn name(self) -> &'static str {
        match self {
            Self::HumanApi => "Human API",
            Self::DynamoDb => "DynamoDB",
            Self::SecretsManager => "Secrets Manager",
        }
    }

    /// Returns the named faults of this service. The tests go through all of them, and the console offers them.
    pub fn faults(self) -> Vec<Named> {
        match self {
            Self::HumanApi => catalogue::human_api(),
            Self::DynamoDb => catalogue::dynamodb(),
            Self::SecretsManager => catalogue::secrets_manager(),
        }
    }
}

/// Says if the service performs the request before the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acts {
    /// The service does not perform the request.
    Not,
    /// The service performs the request, and its response is lost.
    First,
}

#[derive(Clone)]
pub enum Fault {
    /// The service's address refuses connections. DynamoDB and Secrets Manager share one address.
    Refused,
    /// The connection is reset before a response.
    Reset(Acts),
    /// No response comes, and the connection stays open.
    Hang(Acts),
    /// The real response's head comes, then its body at one byte per second.
    SlowBody,
    /// The connection is reset after half of the real response's body.
    HalfBody,
    /// The proxy sends this response.
    Answer(Acts, Answer),
    /// A conditional write fails as if another writer had been faster. The row does not change.
    Conflict,
    /// An event happens first. Then the next rule that matches decides.
    After(Event),
    /// The network keeps a copy of the request. If the service does not act first, the connection is reset.
    Copy(Acts, LateCopies),
}

/// Copies of requests that the network has kept. Clones share them.
#[derive(Clone, Default)]
pub struct LateCopies(Arc<Mutex<Vec<BoxFuture<'static, u16>>>>);

impl LateCopies {
    pub(crate) fn keep(&self, copy: BoxFuture<'static, u16>) {
        lock(&self.0).push(copy);
    }

    /// Delivers the copies, and returns the status of each response.
    pub async fn deliver(&self) -> Vec<u16> {
        let copies = std::mem::take(&mut *lock(&self.0));
        futures_util::future::join_all(copies).await
    }
}

/// An event that the proxy awaits while the request waits.
pub type Event = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A made-up response.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// Headers other than `Content-Type`.
    pub headers: Vec<(&'static str, String)>,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Fault {
    /// A refusal with this status and JSON body. The service performs nothing.
    pub fn refuse(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(Acts::Not, Answer::json(status, body))
    }

    /// Says when the fault happens: before or after the service has performed the request.
    pub fn when(&self) -> &'static str {
        match self {
            Self::Refused | Self::After(_) => "before it acts",
            Self::Reset(acts) | Self::Hang(acts) | Self::Answer(acts, _) | Self::Copy(acts, _) => match acts {
                Acts::Not => "before it acts",
                Acts::First => "after it has acted",
            },
            Self::SlowBody | Self::HalfBody => "after it has acted",
            Self::Conflict => "instead of acting",
        }
    }

    /// The real response, delayed.
    pub fn late(by: Duration) -> Self {
        Self::After(Arc::new(move || tokio::time::sleep(by).boxed()))
    }
}

impl Answer {
    /// A JSON response.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), content_type: "application/json", body: body.into() }
    }
}

/// A rule applies a fault to the calls that match it.
#[derive(Clone)]
pub struct Rule {
    pub service: Service,
    /// Only this operation matches. `None` matches every operation.
    pub operation: Option<&'static str>,
    /// Number of matching calls that pass before the fault applies.
    pub spared: usize,
    /// Number of times the fault applies. `None` means until the rules change.
    pub times: Option<usize>,
    pub fault: Fault,
    /// The fault's name, or an empty text.
    pub name: &'static str,
}

impl Rule {
    /// Applies the fault to every call of the service.
    pub fn always(service: Service, fault: Fault) -> Self {
        Self { service, operation: None, spared: 0, times: None, fault, name: "" }
    }

    /// Applies the fault to the next call of the service.
    pub fn once(service: Service, fault: Fault) -> Self {
        Self { times: Some(1), ..Self::always(service, fault) }
    }

    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Limits the rule to one operation.
    pub fn of(self, operation: &'static str) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Lets this many matching calls pass first.
    pub fn after(self, spared: usize) -> Self {
        Self { spared, ..self }
    }
}

/// The rules and the requests in flight. Clones share both.
#[derive(Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    fired: Vec<Service>,
    in_flight: usize,
    activity: u64,
}

impl Faults {
    /// Replaces the rules and clears the list of faults that fired. The first rule that matches applies.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        let mut state = lock(&self.state);
        state.rules = rules.into_iter().collect();
        state.fired.clear();
        self.changed.send_replace(());
    }

    pub fn rules(&self) -> Vec<Rule> {
        lock(&self.state).rules.clone()
    }

    /// Notifies the receiver of every change of the rules.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the service of each fault that fired since `set`, in order.
    pub fn fired(&self) -> Vec<Service> {
        lock(&self.state).fired.clone()
    }

    /// Returns `true` if a rule refuses connections to this service.
    pub(crate) fn refuses(&self, service: Service) -> bool {
        let state = lock(&self.state);
        state.rules.iter().any(|rule| rule.service == service && matches!(rule.fault, Fault::Refused))
    }

    /// Picks the fault of this call and counts it. After `has_waited`, no rule makes the call wait again.
    pub(crate) fn fire(&self, service: Service, operation: &str, has_waited: bool) -> Option<Fault> {
        let mut state = lock(&self.state);
        let fits = |rule: &Rule| {
            rule.service == service
                && rule.operation.is_none_or(|wanted| wanted == operation)
                && !matches!(rule.fault, Fault::Refused)
                && !(has_waited && matches!(rule.fault, Fault::After(_)))
        };
        let place = state.rules.iter_mut().position(|rule| {
            let spare = fits(rule) && rule.spared > 0;
            rule.spared -= usize::from(spare);
            fits(rule) && !spare
        })?;
        let rule = state.rules.get_mut(place)?;
        let fault = rule.fault.clone();
        rule.times = rule.times.map(|times| times.saturating_sub(1));
        if rule.times == Some(0) {
            state.rules.remove(place);
        }
        state.fired.push(service);
        Some(fault)
    }

    /// Counts a request as in flight until the returned guard is dropped.
    pub(crate) fn start_request(&self) -> InFlight {
        let mut state = lock(&self.state);
        state.in_flight += 1;
        state.activity += 1;
        InFlight(self.clone())
    }

    /// Returns how many requests have started or ended, and `true` if one is in flight. Tests let time pass only when
    /// nothing is in flight.
    pub fn activity(&self) -> (u64, bool) {
        let state = lock(&self.state);
        (state.activity, state.in_flight > 0)
    }
}

/// Guard of a request in flight.
pub(crate) struct InFlight(Faults);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.in_flight -= 1;
        state.activity += 1;
    }
}
