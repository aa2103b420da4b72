//! What goes wrong with calls of the functions: rules that the [proxy](crate::proxy) in front of Human API, DynamoDB and
//! Secrets Manager goes by. Tests set them, and so does the page.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::lock;

mod catalogue;

/// Who is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// Its token endpoints.
    HumanApi,
    /// The table.
    DynamoDb,
    /// The two secrets.
    SecretsManager,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HumanApi, Self::DynamoDb, Self::SecretsManager];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::HumanApi => "Human API",
            Self::DynamoDb => "DynamoDB",
            Self::SecretsManager => "Secrets Manager",
        }
    }

    /// The faults that have names: what tests go through, and what the page offers.
    pub fn faults(self) -> Vec<(&'static str, Fault)> {
        match self {
            Self::HumanApi => catalogue::human_api(),
            Self::DynamoDb => catalogue::dynamodb(),
            Self::SecretsManager => catalogue::secrets_manager(),
        }
    }
}

/// Whether the other side acts on the request before it goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acts {
    /// Nothing is performed.
    Not,
    /// The request is performed; its true answer is lost.
    First,
}

/// What goes wrong with a call.
#[derive(Clone)]
pub enum Fault {
    /// No connection can be made to the service's address (AWS has one for both its services).
    Refused,
    /// The connection is reset instead of an answer.
    Reset(Acts),
    /// No answer comes, and the connection stays.
    Hang(Acts),
    /// The true answer's head comes, and then one byte of its body each second.
    SlowBody,
    /// The true answer ends half-way with a reset.
    HalfBody,
    /// This is the answer.
    Answer(Acts, Answer),
    /// A conditional write fails as if somebody else had been faster; the row is as it is.
    Conflict,
    /// Something else happens first; then the next rule that fits decides.
    After(Event),
}

/// Something that happens while a request waits.
pub type Event = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A made-up answer.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers beside `Content-Type`.
    pub headers: Vec<(&'static str, String)>,
    /// The content type.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Fault {
    /// This JSON text with this status, and nothing performed.
    pub fn refuse(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(Acts::Not, Answer::json(status, body))
    }

    /// The true answer, this much later.
    pub fn late(by: Duration) -> Self {
        Self::After(Arc::new(move || tokio::time::sleep(by).boxed()))
    }
}

impl Answer {
    /// An answer in JSON.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), content_type: "application/json", body: body.into() }
    }
}

/// When a fault strikes.
#[derive(Clone)]
pub struct Rule {
    /// Calls of this service,
    pub service: Service,
    /// of this operation (any, if none),
    pub operation: Option<&'static str>,
    /// but not the first so many;
    pub spared: usize,
    /// so many times (until the rules are changed, if no number).
    pub times: Option<usize>,
    /// What happens to them.
    pub fault: Fault,
    /// The fault's name, where it has one.
    pub name: &'static str,
}

impl Rule {
    /// Every call of the service goes wrong.
    pub fn always(service: Service, fault: Fault) -> Self {
        Self { service, operation: None, spared: 0, times: None, fault, name: "" }
    }

    /// The next call of the service goes wrong.
    pub fn once(service: Service, fault: Fault) -> Self {
        Self { times: Some(1), ..Self::always(service, fault) }
    }

    /// The fault's name.
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Only calls of this operation.
    pub fn of(self, operation: &'static str) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Only after so many that are spared.
    pub fn after(self, spared: usize) -> Self {
        Self { spared, ..self }
    }
}

/// The rules, and what is under way. Clones share everything.
#[derive(Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    struck: Vec<Service>,
    moving: usize,
    moves: u64,
}

impl Faults {
    /// These rules and no others; the first one that fits strikes. Forgets what was struck.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        let mut state = lock(&self.state);
        state.rules = rules.into_iter().collect();
        state.struck.clear();
        self.changed.send_replace(());
    }

    /// The rules.
    pub fn rules(&self) -> Vec<Rule> {
        lock(&self.state).rules.clone()
    }

    /// Told whenever the rules are changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The services that were struck since the rules were set, call by call.
    pub fn struck(&self) -> Vec<Service> {
        lock(&self.state).struck.clone()
    }

    /// Whether this service takes no connections.
    pub(crate) fn refuses(&self, service: Service) -> bool {
        let state = lock(&self.state);
        state.rules.iter().any(|rule| rule.service == service && matches!(rule.fault, Fault::Refused))
    }

    /// What goes wrong with this call; once it `has_waited` it waits no more.
    pub(crate) fn strike(&self, service: Service, operation: &str, has_waited: bool) -> Option<Fault> {
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
        state.struck.push(service);
        Some(fault)
    }

    /// A request moves until the answer is dropped.
    pub(crate) fn moving(&self) -> Moving {
        let mut state = lock(&self.state);
        state.moving += 1;
        state.moves += 1;
        Moving(self.clone())
    }

    /// How often a request has begun or ceased to move, and whether one is moving now. Tests let time pass when nothing
    /// moves.
    pub fn moves(&self) -> (u64, bool) {
        let state = lock(&self.state);
        (state.moves, state.moving > 0)
    }
}

/// A request that is being worked on.
pub(crate) struct Moving(Faults);

impl Drop for Moving {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.moving -= 1;
        state.moves += 1;
    }
}
