//! A gate blocks a call until a test opens it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use local::faults::Fault;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest wait for an expected event. If it does not come in this time, the test fails.
const NEVER: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    /// Creates a gate, and a fault that waits at the gate.
    pub fn new() -> (Self, Fault) {
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

    /// Waits until a call has reached the gate.
    pub async fn reached(&self) {
        let come = timeout(NEVER, self.reached.acquire()).await.expect("a call reaches the gate");
        come.expect("the gate is open for calls").forget();
    }

    /// Lets one call continue.
    pub fn open(&self) {
        self.open.add_permits(1);
    }

    /// Waits for a call, then runs `what`, and then opens the gate.
    pub async fn meanwhile<T>(&self, what: impl Future<Output = T>) -> T {
        self.reached().await;
        let outcome = timeout(NEVER, what).await.expect("the gate opens again");
        self.open();
        outcome
    }
}
