//! Human API's four requests, from its own guides. Wire structs stay in here.
//!
//! An answer is one of: what was asked for, a refusal (a 4xx that the caller has to weigh), or a [`Failure`]. Each
//! failure says whether Human API [may have performed](Failure::performed) the request: that decides whether an
//! exchange is unresolved.

use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

use crate::clock::Clock;
use crate::config::Config;
use crate::identity::{EmailAddress, UserId};
use crate::invocation::Invocation;
use crate::secret::{Secret, SecretError};
use crate::token::{ClientSecret, PublicToken, SessionToken};

mod answers;
mod requests;
mod tries;

pub use answers::{Exchanged, Granted, Recovered, Started, retry_after};
use requests::{TokenRequest, TokensRequest, to_json};
use tries::Forbidden;

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
    /// 400 or 422 to a `session`, whose body names `client_user_email`: the address is wrong.
    #[error("Human API rejects the e-mail address")]
    AddressRejected,
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
        self.secret.current_or_previous().await.map(drop)
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
        Exchanged::read(&answer)
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
        let recovered = Recovered::read(&answer)?;
        if recovered.human_id != human_id {
            return Err(Cause::Invalid("names another humanId").with(true));
        }
        Ok(recovered.public)
    }

    /// `POST /v1/connect/token`, `type: "session"`: for a user without a connected source; 403 for one who has some.
    pub async fn session(
        &self,
        user: &UserId,
        email: &EmailAddress,
        permit: &impl Permit,
        invocation: &Invocation,
    ) -> Result<Started, Failure> {
        let body = |secret: &ClientSecret| to_json(&self.token_request("session", user, Some(email.as_str()), secret));
        let answer = self.ask(&self.token_url, body, Forbidden::IsDocumented, permit, invocation).await?;
        Started::read_session(&answer)
    }

    /// `POST /v1/connect/token`, `type: "id"`: for a user with a connected source.
    pub async fn id(&self, user: &UserId, permit: &impl Permit, invocation: &Invocation) -> Result<Started, Failure> {
        let body = |secret: &ClientSecret| to_json(&self.token_request("id", user, None, secret));
        let answer = self.ask(&self.token_url, body, Forbidden::MeansCredentials, permit, invocation).await?;
        Started::read_id(&answer)
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
        Granted::read(&answer)
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
}
