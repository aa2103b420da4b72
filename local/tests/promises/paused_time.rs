//! Pauses tokio's clock while a request is in flight. A wait for time then takes no real time.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::Duration;

use local::faults::Faults;

/// Time that passes when no request is in flight.
const STEP: Duration = Duration::from_millis(100);
/// Number of idle checks in a row after which nothing is in flight. All work runs in one thread, and the scheduler needs
/// a few turns between a response and the next request.
const LOOKS: u32 = 24;

/// All tests share this lock except one, which takes it alone. The log level of another thread would change what that
/// test captures.
static SIDE_BY_SIDE: RwLock<()> = RwLock::new(());

/// While this guard lives, time passes only in [`PausedTime::during`] and [`PausedTime::pass`].
pub(crate) struct PausedTime {
    _stop: mpsc::Sender<()>,
    _side_by_side: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

impl PausedTime {
    /// Pauses the clock.
    pub(crate) fn begin() -> Self {
        Self { _side_by_side: Some(SIDE_BY_SIDE.read().unwrap_or_else(PoisonError::into_inner)), ..Self::stop() }
    }

    /// Pauses the clock when no other test runs.
    pub(crate) fn begin_alone() -> Self {
        Self { _alone: Some(SIDE_BY_SIDE.write().unwrap_or_else(PoisonError::into_inner)), ..Self::stop() }
    }

    fn stop() -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        // While a blocking task runs, tokio does not advance a paused clock by itself.
        tokio::task::spawn_blocking(move || stopped.recv());
        tokio::time::pause();
        Self { _stop: stop, _side_by_side: None, _alone: None }
    }

    /// Runs `work` and lets time pass whenever it waits only for time. `faults` belongs to the proxies of its requests.
    pub(crate) async fn during<T>(&self, faults: &Faults, work: impl Future<Output = T>) -> T {
        let mut work = Box::pin(work);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                () = quiet(faults) => tokio::time::advance(STEP).await,
            }
        }
    }

    /// Lets this much time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }
}

/// Waits until no request is in flight.
pub(crate) async fn quiet(faults: &Faults) {
    let (mut seen, mut looks) = (faults.activity(), 0);
    while looks < LOOKS {
        tokio::task::yield_now().await;
        let now = faults.activity();
        looks = if now == seen && !now.1 { looks + 1 } else { 0 };
        seen = now;
    }
}
