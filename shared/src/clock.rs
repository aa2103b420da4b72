//! Wall-clock time, in one place so that tests can set it. Budgets use tokio's monotonic clock instead.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{FutureExt, future::BoxFuture};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Milliseconds since the Unix epoch.
pub type Millis = i64;

/// A source of wall-clock time, and of pauses.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Millis + Send + Sync>,
    sleep: Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Clock {
    pub fn system() -> Self {
        Self::new(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Millis::try_from(since_epoch.as_millis()).unwrap_or(Millis::MAX)
        })
    }

    /// `now` gives the time. The pauses are real.
    pub fn new(now: impl Fn() -> Millis + Send + Sync + 'static) -> Self {
        Self::with_sleep(now, |pause| tokio::time::sleep(pause).boxed())
    }

    pub fn with_sleep(
        now: impl Fn() -> Millis + Send + Sync + 'static,
        sleep: impl Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), sleep: Arc::new(sleep) }
    }

    pub fn now(&self) -> Millis {
        (self.now)()
    }

    pub async fn sleep(&self, pause: Duration) {
        (self.sleep)(pause).await;
    }
}

/// A time of RFC 3339.
pub fn parse_rfc3339(text: &str) -> Option<Millis> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Millis::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// `at` as RFC 3339 in UTC, to the second.
pub fn rfc3339(at: Millis) -> String {
    OffsetDateTime::from_unix_timestamp(at.div_euclid(1000))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_795_255_200_999), "2026-11-21T10:00:00Z");
        assert_eq!(rfc3339(Millis::MAX), "9999-12-31T23:59:59Z");
    }
}
