//! tokio's clock, standing still while anything moves: what waits for time waits for no real time.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::Duration;

use local::faults::Faults;

/// By how much time passes when nothing moves.
const STEP: Duration = Duration::from_millis(100);
/// Nothing moves when this many looks in a row have shown so. Everything runs in one thread: between an answer and the
/// request that follows it there are a few turns of the scheduler.
const LOOKS: u32 = 24;

/// Tests run side by side, save one that must be alone: what is logged in another thread changes what is logged in its own.
static TURN: RwLock<()> = RwLock::new(());

/// While this lives, time passes by [`MadeUpTime::during`] and [`MadeUpTime::pass`] alone.
pub(crate) struct MadeUpTime {
    _stop: mpsc::Sender<()>,
    _side_by_side: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

impl MadeUpTime {
    /// Stops the clock.
    pub(crate) fn begin() -> Self {
        Self { _side_by_side: Some(TURN.read().unwrap_or_else(PoisonError::into_inner)), ..Self::stop() }
    }

    /// Stops the clock, when no other test runs.
    pub(crate) fn begin_alone() -> Self {
        Self { _alone: Some(TURN.write().unwrap_or_else(PoisonError::into_inner)), ..Self::stop() }
    }

    fn stop() -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        // while a blocking task runs, tokio does not advance a paused clock by itself
        tokio::task::spawn_blocking(move || stopped.recv());
        tokio::time::pause();
        Self { _stop: stop, _side_by_side: None, _alone: None }
    }

    /// Lets time pass while `work` waits for nothing else. What it calls goes through the proxies of these faults.
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

    /// Lets this time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }
}

/// Until nothing moves.
pub(crate) async fn quiet(faults: &Faults) {
    let (mut seen, mut looks) = (faults.moves(), 0);
    while looks < LOOKS {
        tokio::task::yield_now().await;
        let now = faults.moves();
        looks = if now == seen && !now.1 { looks + 1 } else { 0 };
        seen = now;
    }
}
