//! Human API's four requests, from its own guides. Wire structs stay in here.
//!
//! An answer is one of: what was asked for, a refusal (a 4xx that the caller has to weigh), or a [`Failure`]. Each
//! failure says whether Human API [may have performed](Failure::performed) the request: that decides whether an
//! exchange is unresolved.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};
use url::Url;

use crate::clock::Clock;
use crate::config::Config;
use crate::identity::UserId;
use crate::invocation::Invocation;
use crate::secret::{Secret, SecretError, Version};
use crate::token::{AccessToken, ClientSecret, PublicToken, RefreshToken, SessionToken, StartToken, random_bytes};

/// Tries of one request.
const TRIES: u32 = 3;
/// Longer answers are refused unread.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Longer fields of an answer are nonsense: no id or token comes near.
const FIELD_LIMIT: usize = 8 * 1024;
/// A longer `Retry-After` is as good as this one: nobody waits so long here.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// First back-off; doubles, with full jitter.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What must be asked before every sending: whether the user's hold still covers the request.
pub trait Permit: Sync {
    /// `false` where another call has taken over and nothing may be sent.
    fn may_send(&self, invocation: &Invocation) -> impl Future<Output = bool> + Send;
}

/// The client.
pub struct HumanApi {
    http: reqwest::Client,
    token_url: Url,
    tokens_url: Url,
    public_tokens_url: Url,
    client_id: String,
    secret: Secret<ClientSecret>,
    timeout: Duration,
    clock: Clock,
}

/// The answer to a popup's exchange. Whose it is, is for the caller to check.
pub struct Exchanged {
    /// Human API's id of the user.
    pub human_id: String,
    /// Our id of the user, as Human API has it.
    pub client_user_id: String,
    /// For the user's health data.
    pub access: AccessToken,
    /// For the popup's edit mode.
    pub public: PublicToken,
}

/// The answer to `type: "session"` or `"id"`.
pub struct Started {
    /// Opens the widget.
    pub token: StartToken,
    /// Comes with an id token.
    pub refresh: Option<RefreshToken>,
    /// Comes with a session token: Human API itself ties it to the user.
    pub human_id: Option<String>,
    /// How long the token lasts.
    pub expires_in: Duration,
}

/// The answer to `type: "access"`.
pub struct Granted {
    /// For the user's health data.
    pub access: AccessToken,
    /// Kept, not used.
    pub refresh: Option<RefreshToken>,
    /// How long the token lasts, where Human API says so.
    pub expires_in: Option<Duration>,
}

/// A request that brought no answer to work with.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// What happened.
    #[source]
    pub cause: Cause,
    /// Whether Human API may have performed the request (or may yet).
    pub performed: bool,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A 4xx that depends on the request; never 401 or 429.
    #[error("Human API refused with {0}")]
    Refused(StatusCode),
    /// 401, also after reading the secret again.
    #[error("Human API refuses our client credentials")]
    Unauthorized,
    /// An answer that cannot be used; what is wrong with it.
    #[error("Human API's answer {0}")]
    Invalid(&'static str),
    /// No connection, 429 or 5xx, after retries.
    #[error("Human API is not available")]
    Unavailable {
        /// What its `Retry-After` said.
        retry_after: Option<Duration>,
    },
    /// No whole answer within the time for one call.
    #[error("Human API did not answer in time")]
    Timeout,
    /// Another call took the user's hold over; nothing was sent since.
    #[error("the user's hold was lost")]
    HoldLost,
    /// The client secret is not to be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Cause {
    fn with(self, performed: bool) -> Failure {
        Failure { cause: self, performed }
    }
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
    /// A client on the common HTTP client.
    pub fn new(config: &Config, http: reqwest::Client, secret: Secret<ClientSecret>, clock: Clock) -> Self {
        let at = |origin: &Url, path: &str| {
            let mut url = origin.clone();
            url.set_path(path);
            url
        };
        Self {
            http,
            token_url: at(&config.auth_url, "/v1/connect/token"),
            tokens_url: at(&config.user_url, "/v1/connect/tokens"),
            public_tokens_url: at(&config.user_url, "/v1/connect/publictokens"),
            client_id: config.client_id.clone(),
            secret,
            timeout: config.upstream_timeout,
            clock,
        }
    }

    /// Our client id, as the popup has to name it.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Reads the client secret, so that the first request need not.
    pub async fn read_secret(&self) -> Result<(), SecretError> {
        self.secret.current().await.map(drop)
    }

    /// `POST /v1/connect/tokens`: signs and exchanges what the popup handed to the page.
    /// A 403 here means our credentials, as far as is known; every other refusal means this session token.
    pub async fn tokens(
        &self,
        human_id: &str,
        session: &SessionToken,
        permit: &impl Permit,
        invocation: &Invocation,
    ) -> Result<Exchanged, Failure> {
        let body = |secret: &ClientSecret| {
            to_json(&TokensRequest {
                human_id,
                client_id: &self.client_id,
                client_secret: secret.expose(),
                session_token: Some(session.expose()),
            })
        };
        let answer = self.ask(&self.tokens_url, body, Forbidden::MeansCredentials, permit, invocation).await?;
        let wire: TokensAnswer = parse(&answer)?;
        Ok(Exchanged {
            human_id: text(wire.human_id)?,
            client_user_id: text(wire.client_user_id)?,
            access: AccessToken::new(text(wire.access_token)?),
            public: PublicToken::new(text(wire.public_token)?),
        })
    }

    /// `POST /v1/connect/publictokens`: a publicToken for a *proven* humanId. 404: no such user there.
    pub async fn public_token(
        &self,
        human_id: &str,
        permit: &impl Permit,
        invocation: &Invocation,
    ) -> Result<PublicToken, Failure> {
        let body = |secret: &ClientSecret| {
            to_json(&TokensRequest {
                human_id,
                client_id: &self.client_id,
                client_secret: secret.expose(),
                session_token: None,
            })
        };
        let answer = self.ask(&self.public_tokens_url, body, Forbidden::MeansCredentials, permit, invocation).await?;
        let wire: PublicTokensAnswer = parse(&answer)?;
        if text(wire.human_id)? != human_id {
            return Err(Cause::Invalid("names another humanId").with(true));
        }
        Ok(PublicToken::new(text(wire.public_token)?))
    }

    /// `POST /v1/connect/token`, `type: "session"`: for a user without a connected source; 403 for one who has some.
    pub async fn session(
        &self,
        user: &UserId,
        email: &str,
        permit: &impl Permit,
        invocation: &Invocation,
    ) -> Result<Started, Failure> {
        let body = |secret: &ClientSecret| to_json(&self.token_request("session", user, Some(email), secret));
        let answer = self.ask(&self.token_url, body, Forbidden::IsDocumented, permit, invocation).await?;
        let wire: SessionAnswer = parse(&answer)?;
        Ok(Started {
            token: StartToken::new(text(wire.session_token)?),
            refresh: None,
            human_id: wire.human_id.map(text).transpose()?,
            expires_in: Duration::from_secs(wire.expires_in),
        })
    }

    /// `POST /v1/connect/token`, `type: "id"`: for a user with a connected source.
    pub async fn id(&self, user: &UserId, permit: &impl Permit, invocation: &Invocation) -> Result<Started, Failure> {
        let body = |secret: &ClientSecret| to_json(&self.token_request("id", user, None, secret));
        let answer = self.ask(&self.token_url, body, Forbidden::MeansCredentials, permit, invocation).await?;
        let wire: IdAnswer = parse(&answer)?;
        Ok(Started {
            token: StartToken::new(text(wire.id_token)?),
            refresh: refresh_token(wire.id_refresh_token)?,
            human_id: None,
            expires_in: Duration::from_secs(wire.expires_in),
        })
    }

    /// `POST /v1/connect/token`, `type: "access"`: refused for a user without a connected source.
    pub async fn access(
        &self,
        user: &UserId,
        permit: &impl Permit,
        invocation: &Invocation,
    ) -> Result<Granted, Failure> {
        let body = |secret: &ClientSecret| to_json(&self.token_request("access", user, None, secret));
        let answer = self.ask(&self.token_url, body, Forbidden::MeansCredentials, permit, invocation).await?;
        let wire: AccessAnswer = parse(&answer)?;
        Ok(Granted {
            access: AccessToken::new(text(wire.access_token)?),
            refresh: refresh_token(wire.refresh_token)?,
            expires_in: wire.expires_in.map(Duration::from_secs),
        })
    }

    fn token_request<'a>(
        &'a self,
        kind: &'static str,
        user: &'a UserId,
        email: Option<&'a str>,
        secret: &'a ClientSecret,
    ) -> TokenRequest<'a> {
        TokenRequest {
            client_id: &self.client_id,
            client_user_id: user.as_str(),
            client_user_email: email,
            client_secret: secret.expose(),
            kind,
        }
    }

    /// One request with its tries. A 401, or a 403 that means credentials, is tried with the secret read again, then
    /// with AWSPREVIOUS: Human API may know either while a rotation is under way.
    async fn ask(
        &self,
        url: &Url,
        body: impl Fn(&ClientSecret) -> Vec<u8>,
        forbidden: Forbidden,
        permit: &impl Permit,
        invocation: &Invocation,
    ) -> Result<Vec<u8>, Failure> {
        let mut secret = self.secret.current().await.map_err(|error| Cause::from(error).with(false))?;
        let mut performed = false;
        let mut tries = 0;
        let mut previous_tried = false;
        loop {
            if Instant::now() + self.timeout > invocation.upstream_deadline() {
                return Err(Cause::Unavailable { retry_after: None }.with(performed));
            }
            if !permit.may_send(invocation).await {
                return Err(Cause::HoldLost.with(performed));
            }
            tries += 1;
            match self.send(url, body(&secret.value), invocation).await {
                Tried::Answer(answer) => return Ok(answer),
                Tried::Refused(status)
                    if status == StatusCode::UNAUTHORIZED
                        || (status == StatusCode::FORBIDDEN && forbidden == Forbidden::MeansCredentials) =>
                {
                    let unauthorized = status == StatusCode::UNAUTHORIZED;
                    let other = async {
                        if tries >= TRIES {
                            return None;
                        }
                        self.other_secret(&secret.id, unauthorized, &mut previous_tried, invocation).await
                    };
                    match timeout_at(invocation.upstream_deadline(), other).await.unwrap_or_default() {
                        Some(other) => secret = other,
                        None if unauthorized => return Err(Cause::Unauthorized.with(performed)),
                        None => return Err(Cause::Refused(status).with(performed)),
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

    async fn send(&self, url: &Url, body: Vec<u8>, invocation: &Invocation) -> Tried {
        let started = Instant::now();
        let tried = tokio::time::timeout(self.timeout, self.send_once(url, body)).await;
        invocation.note(|tally| {
            tally.upstream += started.elapsed();
            tally.upstream_calls += 1;
        });
        tried.unwrap_or_else(|_| Tried::Failed(Cause::Timeout.with(true)))
    }

    async fn send_once(&self, url: &Url, body: Vec<u8>) -> Tried {
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
            429 => Tried::Again { performed: false, retry_after: retry_after(response.headers()) },
            502..=504 => Tried::Again { performed: true, retry_after: retry_after(response.headers()) },
            400..=499 => Tried::Refused(status),
            500..=599 => {
                let retry_after = retry_after(response.headers());
                Tried::Failed(Cause::Unavailable { retry_after }.with(true))
            }
            _ => Tried::Failed(Cause::Invalid("is not a status that it documents").with(false)),
        }
    }
}

/// What a 403 says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forbidden {
    /// About the user: documented for `session`.
    IsDocumented,
    /// Perhaps about our credentials: worth another secret.
    MeansCredentials,
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

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = OffsetDateTime::parse(value, &Rfc2822).ok()? - OffsetDateTime::now_utc();
            until.try_into().unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|_| Cause::Invalid("is not the documented JSON").with(true))
}

fn text(field: String) -> Result<String, Failure> {
    match field.len() {
        0 => Err(Cause::Invalid("has an empty field").with(true)),
        length if length > FIELD_LIMIT => Err(Cause::Invalid("has an over-long field").with(true)),
        _ => Ok(field),
    }
}

/// A token that is not used: an empty one is none.
fn refresh_token(field: Option<String>) -> Result<Option<RefreshToken>, Failure> {
    Ok(field.filter(|token| !token.is_empty()).map(text).transpose()?.map(RefreshToken::new))
}

fn to_json(request: &impl Serialize) -> Vec<u8> {
    // structs of strings: cannot fail
    serde_json::to_vec(request).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokensRequest<'a> {
    human_id: &'a str,
    client_id: &'a str,
    client_secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<&'a str>,
}

#[derive(Serialize)]
struct TokenRequest<'a> {
    client_id: &'a str,
    client_user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_user_email: Option<&'a str>,
    client_secret: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokensAnswer {
    human_id: String,
    access_token: String,
    public_token: String,
    client_user_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PublicTokensAnswer {
    human_id: String,
    public_token: String,
}

#[derive(Deserialize)]
struct SessionAnswer {
    session_token: String,
    human_id: Option<String>,
    expires_in: u64,
}

#[derive(Deserialize)]
struct IdAnswer {
    id_token: String,
    id_refresh_token: Option<String>,
    expires_in: u64,
}

#[derive(Deserialize)]
struct AccessAnswer {
    access_token: String,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_seconds_or_a_date_and_never_too_long() {
        let wait = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("18446744073709551615"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(wait("Fri, 31 Dec 9999 23:59:59 GMT"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-1"), None);
    }

    #[test]
    fn back_off_grows_and_stays_within_bounds() {
        for tries in 1..=TRIES {
            assert!(back_off(tries) <= BACK_OFF * 2u32.pow(tries));
        }
    }
}
