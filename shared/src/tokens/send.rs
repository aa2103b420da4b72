//! Sending a request under the user's lease: attempts, the waits between them, and the secrets that are tried in turn.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{Error, LeasedUser};
use crate::human_api::{Cause, Failure, HumanApiRequest};
use crate::secret::Version;
use crate::token::{ClientSecret, random_bytes};

/// Attempts of one request, those with another secret included.
const MAX_ATTEMPTS: u32 = 3;
/// Half of the longest first back-off. The back-off doubles with each attempt, with full jitter.
const BACK_OFF: Duration = Duration::from_millis(100);

impl LeasedUser<'_> {
    /// Sends a request, again if that is worth it. Before each attempt, the lease is renewed if it is older than a second.
    ///
    /// After a 401, or a 403 that may mean credentials, the secret is read again, and then AWSPREVIOUS is tried. During a rotation,
    /// Human API may know either.
    pub(super) async fn send<R: HumanApiRequest>(&mut self, request: &R) -> Result<R::Response, Error> {
        let mut secret = self.service.client_secret.current_or_previous().await?;
        let (mut maybe_performed, mut tried_previous, mut forbidden) = (false, false, None);
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.prepare_attempt(maybe_performed).await?;
            self.lease.asked |= R::BRINGS_TOKENS;
            let failure = match self.attempt(request, &secret.value).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            maybe_performed |= failure.maybe_performed;
            let failure = Failure { maybe_performed, ..failure };
            if suspects_credentials::<R>(&failure.cause) {
                if let Cause::Refused(status) = failure.cause {
                    forbidden = Some(status);
                }
                let next =
                    if attempt < MAX_ATTEMPTS { self.next_secret(&secret.id, &mut tried_previous).await } else { None };
                match next {
                    Some(next) => secret = next,
                    // Human API knows a secret that got a 403, whatever it says to an older one
                    None => {
                        let cause = forbidden.map_or(Cause::Unauthorized, Cause::Refused);
                        return Err(Failure { cause, ..failure }.into());
                    }
                }
            } else if failure.is_retryable && attempt < MAX_ATTEMPTS {
                self.back_off(attempt, failure).await?;
            } else {
                return Err(failure.into());
            }
        }
    }

    /// Makes sure that the lease covers an attempt that begins now, and that there is time for it.
    async fn prepare_attempt(&mut self, maybe_performed: bool) -> Result<(), Error> {
        if self.has_time_after(Duration::ZERO) {
            let renewed = self.service.store.renew(&mut self.lease, self.invocation).await;
            renewed.map_err(|error| {
                self.response_at_risk |= maybe_performed;
                Error::LeaseNotRenewed(error)
            })?;
        }
        // once more: the renewal may have taken its time
        if self.has_time_after(Duration::ZERO) { Ok(()) } else { Err(unavailable(maybe_performed)) }
    }

    async fn attempt<R: HumanApiRequest>(&self, request: &R, secret: &ClientSecret) -> Result<R::Response, Failure> {
        let started = Instant::now();
        let response = self.service.human_api.attempt(request, secret).await;
        self.invocation.record(|measured| {
            measured.upstream += started.elapsed();
            measured.upstream_calls += 1;
        });
        response
    }

    /// Waits before the next attempt. If there is no time for one, the failure stands.
    async fn back_off(&self, attempt: u32, failure: Failure) -> Result<(), Error> {
        let requested = match failure.cause {
            Cause::Unavailable { retry_after } | Cause::RateLimited { retry_after } => retry_after,
            _ => None,
        };
        let wait = requested.unwrap_or_else(|| jittered_back_off(attempt));
        if !self.has_time_after(wait) {
            return Err(failure.into());
        }
        debug!(attempt, wait_ms = wait.as_millis() as u64, "Human API is tried again");
        self.service.store.clock().sleep(wait).await;
        Ok(())
    }

    fn has_time_after(&self, wait: Duration) -> bool {
        Instant::now() + wait + self.service.human_api.timeout() <= self.invocation.upstream_deadline()
    }

    /// The secret to try after Human API has refused this version: AWSCURRENT if it has changed, else AWSPREVIOUS, once.
    async fn next_secret(&self, refused: &str, tried_previous: &mut bool) -> Option<Arc<Version<ClientSecret>>> {
        if *tried_previous {
            return None;
        }
        let secret = &self.service.client_secret;
        let next = async {
            if let Some(changed) = secret.refresh_after_rejection(refused, self.invocation).await {
                return Some(changed);
            }
            *tried_previous = true;
            secret.previous().await.filter(|previous| previous.id != refused)
        };
        timeout_at(self.invocation.upstream_deadline(), next).await.unwrap_or_default()
    }
}

fn suspects_credentials<R: HumanApiRequest>(cause: &Cause) -> bool {
    match cause {
        Cause::Unauthorized => true,
        Cause::Refused(status) => *status == StatusCode::FORBIDDEN && !R::DOCUMENTS_403,
        _ => false,
    }
}

fn unavailable(maybe_performed: bool) -> Error {
    Failure { cause: Cause::Unavailable { retry_after: None }, maybe_performed, is_retryable: false }.into()
}

pub(super) fn jittered_back_off(attempt: u32) -> Duration {
    let most = BACK_OFF * 2u32.saturating_pow(attempt);
    let random = random_bytes::<4>().map_or(u32::MAX / 2, u32::from_le_bytes);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
