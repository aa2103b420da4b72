//! One invocation: how much time it has, and what it measured on the way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::UserId;

/// All work of one invocation ends this long after its start; Lambda itself ends it at 28 s.
pub const BUDGET: Duration = Duration::from_secs(22);
/// Kept back at the end of the budget, so that what Human API answered last can still be written.
const COMMIT_RESERVE: Duration = Duration::from_secs(2);

pub struct Invocation {
    started: Instant,
    measurements: Arc<Mutex<Measurements>>,
    user: Mutex<Option<UserId>>,
    aws_caller: Mutex<Option<String>>,
}

/// For the log line and the metrics of one invocation.
#[derive(Debug, Clone, Default)]
pub struct Measurements {
    /// Time spent in calls to Human API.
    pub upstream: Duration,
    /// Number of requests sent to Human API.
    pub upstream_calls: u32,
    /// Time spent in calls to DynamoDB.
    pub store: Duration,
    /// Commits that stored tokens.
    pub tokens_stored: u32,
    /// publicTokens recovered, and exchanges resolved after a lost response.
    pub tokens_recovered: u32,
    /// Times that a refused secret was read again.
    pub secret_refreshed: u32,
    /// Times that another call had the user's lease.
    pub finish_conflicts: u32,
    /// Requests left unresolved.
    pub unresolved: u32,
    /// Age of the unresolved request that was found.
    pub unresolved_age: Option<Duration>,
}

impl Invocation {
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            measurements: Arc::default(),
            user: Mutex::default(),
            aws_caller: Mutex::default(),
        }
    }

    /// A child with a deadline and a user of its own. Its measurements count for the parent too.
    pub fn child(&self) -> Self {
        Self { measurements: self.measurements.clone(), ..Self::start() }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// All work must have ended by then.
    pub fn deadline(&self) -> Instant {
        self.started + BUDGET
    }

    /// The last request to Human API must have ended by then.
    pub fn upstream_deadline(&self) -> Instant {
        self.deadline() - COMMIT_RESERVE
    }

    pub fn record(&self, record: impl FnOnce(&mut Measurements)) {
        record(&mut lock(&self.measurements));
    }

    pub fn measurements(&self) -> Measurements {
        lock(&self.measurements).clone()
    }

    /// The log has only a keyed hash of the user.
    pub fn set_user(&self, user: &UserId) {
        *lock(&self.user) = Some(user.clone());
    }

    pub fn user(&self) -> Option<UserId> {
        lock(&self.user).clone()
    }

    /// The ARN of the AWS identity that calls. The audit line has it.
    pub fn set_caller(&self, arn: &str) {
        *lock(&self.aws_caller) = Some(arn.to_owned());
    }

    pub fn aws_caller(&self) -> Option<String> {
        lock(&self.aws_caller).clone()
    }
}

/// Locks the mutex, even if another thread panicked under the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
