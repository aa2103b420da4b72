//! Sending one request: its tries, the waits between them, and the secrets that are tried in turn.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};
use url::Url;

use super::answers::{rejects_address, retry_after};
use super::{Cause, Failure, HumanApi, Permit};
use crate::invocation::Invocation;
use crate::secret::Version;
use crate::token::{ClientSecret, random_bytes};

/// Tries of one request.
const TRIES: u32 = 3;
/// Longer answers are refused unread.
const ANSWER_LIMIT: usize = 64 * 1024;
/// First back-off; doubles, with full jitter.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What a 403 says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// About the user: documented for `session`.
    IsDocumented,
    /// Perhaps about our credentials: worth another secret.
    MeansCredentials,
}

/// One try's answer.
enum Tried {
    Answer(Vec<u8>),
    Refused(StatusCode),
    /// Worth another try.
    Again {
        performed: bool,
        retry_after: Option<Duration>,
    },
    /// Not worth another try.
    Failed(Failure),
}

impl HumanApi {
    /// One request with its tries. A 401, or a 403 that means credentials, is tried with the secret read again, then
    /// with AWSPREVIOUS: Human API may know either while a rotation is under way.
    pub(super) async fn ask(
        &self,
        url: &Url,
        body: impl Fn(&ClientSecret) -> Vec<u8>,
        forbidden: Forbidden,
        permit: &impl Permit,
        invocation: &Invocation,
    ) -> Result<Vec<u8>, Failure> {
        let mut secret = self.secret.current_or_previous().await.map_err(|error| Cause::from(error).with(false))?;
        let mut performed = false;
        let mut tries = 0;
        let mut previous_tried = false;
        let mut forbade = None;
        let in_time = || Instant::now() + self.timeout <= invocation.upstream_deadline();
        loop {
            if in_time() && !permit.may_send(invocation).await {
                return Err(Cause::HoldLost.with(performed));
            }
            // once more: to ask may have taken its time
            if !in_time() {
                return Err(Cause::Unavailable { retry_after: None }.with(performed));
            }
            tries += 1;
            match self.send(url, body(&secret.value), forbidden, invocation).await {
                Tried::Answer(answer) => return Ok(answer),
                Tried::Refused(status)
                    if status == StatusCode::UNAUTHORIZED
                        || (status == StatusCode::FORBIDDEN && forbidden == Forbidden::MeansCredentials) =>
                {
                    let unauthorized = status == StatusCode::UNAUTHORIZED;
                    if !unauthorized {
                        forbade = Some(status);
                    }
                    let other = async {
                        if tries >= TRIES {
                            return None;
                        }
                        self.other_secret(&secret.id, unauthorized, &mut previous_tried, invocation).await
                    };
                    match timeout_at(invocation.upstream_deadline(), other).await.unwrap_or_default() {
                        Some(other) => secret = other,
                        // a secret that got a 403 is known there, whatever Human API says to an older one
                        None => return Err(forbade.map_or(Cause::Unauthorized, Cause::Refused).with(performed)),
                    }
                }
                Tried::Refused(status) => return Err(Cause::Refused(status).with(performed)),
                Tried::Failed(failure) => {
                    return Err(Failure { performed: failure.performed || performed, ..failure });
                }
                Tried::Again { performed: this_time, retry_after } => {
                    performed |= this_time;
                    let wait = retry_after.unwrap_or_else(|| back_off(tries));
                    let next_ends = Instant::now() + wait + self.timeout;
                    if tries >= TRIES || next_ends > invocation.upstream_deadline() {
                        return Err(Cause::Unavailable { retry_after }.with(performed));
                    }
                    debug!(tries, wait_ms = wait.as_millis() as u64, "Human API is tried again");
                    self.clock.sleep(wait).await;
                }
            }
        }
    }

    /// What to try where the secret of this version was refused: AWSCURRENT if it has changed, else AWSPREVIOUS, once.
    async fn other_secret(
        &self,
        refused: &str,
        unauthorized: bool,
        previous_tried: &mut bool,
        invocation: &Invocation,
    ) -> Option<Arc<Version<ClientSecret>>> {
        if *previous_tried {
            return None;
        }
        if let Some(changed) = self.secret.replacement(refused, unauthorized, invocation).await {
            return Some(changed);
        }
        *previous_tried = true;
        self.secret.previous().await.filter(|previous| previous.id != refused)
    }

    async fn send(&self, url: &Url, body: Vec<u8>, forbidden: Forbidden, invocation: &Invocation) -> Tried {
        let started = Instant::now();
        let tried = tokio::time::timeout(self.timeout, self.send_once(url, body, forbidden)).await;
        invocation.note(|tally| {
            tally.upstream += started.elapsed();
            tally.upstream_calls += 1;
        });
        tried.unwrap_or_else(|_| Tried::Failed(Cause::Timeout.with(true)))
    }

    async fn send_once(&self, url: &Url, body: Vec<u8>, forbidden: Forbidden) -> Tried {
        let request = self
            .http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(body);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                // a connection that was never made carried nothing; any other failure came after the sending began
                let performed = !error.is_connect();
                warn!(path = url.path(), error = %error.without_url(), performed, "Human API could not be reached");
                return Tried::Again { performed, retry_after: None };
            }
        };
        let status = response.status();
        match status.as_u16() {
            200..=299 => match read_answer(&mut response).await {
                Ok(answer) => Tried::Answer(answer),
                Err(tried) => tried,
            },
            429 => Tried::Again { performed: false, retry_after: wait_asked(response.headers()) },
            502..=504 => Tried::Again { performed: true, retry_after: wait_asked(response.headers()) },
            // only a `session` carries an address
            400 | 422 if forbidden == Forbidden::IsDocumented => match read_answer(&mut response).await {
                Ok(refusal) if rejects_address(&refusal) => Tried::Failed(Cause::AddressRejected.with(false)),
                _ => Tried::Refused(status),
            },
            400..=499 => Tried::Refused(status),
            500..=599 => {
                let retry_after = wait_asked(response.headers());
                Tried::Failed(Cause::Unavailable { retry_after }.with(true))
            }
            _ => Tried::Failed(Cause::Invalid("is not a status that it documents").with(false)),
        }
    }
}

async fn read_answer(response: &mut reqwest::Response) -> Result<Vec<u8>, Tried> {
    let too_long = || Tried::Failed(Cause::Invalid("is longer than 64 KiB").with(true));
    if response.content_length().is_some_and(|length| length > ANSWER_LIMIT as u64) {
        return Err(too_long());
    }
    let mut answer = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if answer.len() + chunk.len() > ANSWER_LIMIT => return Err(too_long()),
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
            Ok(None) => return Ok(answer),
            Err(_) => return Err(Tried::Again { performed: true, retry_after: None }),
        }
    }
}

fn back_off(tries: u32) -> Duration {
    let most = BACK_OFF * 2u32.saturating_pow(tries);
    let random = random_bytes::<4>().map_or(u32::MAX / 2, u32::from_le_bytes);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_and_stays_within_bounds() {
        for tries in 1..=TRIES {
            assert!(back_off(tries) <= BACK_OFF * 2u32.pow(tries));
        }
    }
}
