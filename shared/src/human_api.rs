//! Human API's requests, from its own guides: one attempt for each call. Wire structs stay in here.
//!
//! An attempt ends in a typed response or in a [`Failure`]. A failure says whether Human API may have performed the request: this
//! decides whether an exchange is unresolved. Retries, other secrets and leases belong to [`tokens`](crate::tokens).

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use tokio::time::timeout;
use tracing::warn;
use url::Url;

use crate::config::Config;
use crate::telemetry::error_chain;
use crate::token::ClientSecret;

mod requests;
mod responses;
#[cfg(test)]
mod tests;

use requests::Endpoint;
pub use requests::{AccessRequest, ExchangeRequest, HumanApiRequest, IdRequest, PublicTokenRequest, SessionRequest};
pub use responses::{
    AccessResponse, ExchangeResponse, IdResponse, PublicTokenResponse, SessionResponse, read, retry_after,
};

/// Longer responses are refused unread, in bytes.
const RESPONSE_LIMIT: usize = 64 * 1024;

pub struct HumanApi {
    http: reqwest::Client,
    token_url: Url,
    tokens_url: Url,
    public_tokens_url: Url,
    client_id: String,
    timeout: Duration,
}

/// An attempt without a response to work with.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    #[source]
    pub cause: Cause,
    /// Human API may have performed the request, or may perform it yet.
    pub maybe_performed: bool,
    /// Another attempt may succeed.
    pub is_retryable: bool,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A 4xx that depends on the request; never 401 or 429.
    #[error("Human API refused with {0}")]
    Refused(StatusCode),
    /// 400 or 422 to a `session`, whose body names `client_user_email`: the address is wrong.
    #[error("Human API rejects the e-mail address")]
    AddressRejected,
    #[error("Human API refuses our client credentials")]
    Unauthorized,
    #[error("Human API's answer {0}")]
    Invalid(&'static str),
    /// No connection, a broken one, or 5xx.
    #[error("Human API is not available")]
    Unavailable {
        /// The wait that its `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
    /// 429: there were too many requests.
    #[error("Human API asks for fewer requests")]
    RateLimited { retry_after: Option<Duration> },
    #[error("Human API did not answer in time")]
    Timeout,
}

impl Cause {
    /// A failure of a request that Human API has not performed.
    pub(crate) fn not_performed(self) -> Failure {
        Failure { cause: self, maybe_performed: false, is_retryable: false }
    }

    /// A failure of a request that Human API may have performed.
    pub(crate) fn maybe_performed(self) -> Failure {
        Failure { cause: self, maybe_performed: true, is_retryable: false }
    }
}

impl Failure {
    fn retryable(self) -> Self {
        Self { is_retryable: true, ..self }
    }
}

impl HumanApi {
    pub fn new(config: &Config, http: reqwest::Client) -> Self {
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
            timeout: config.upstream_timeout,
        }
    }

    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub async fn attempt<R: HumanApiRequest>(
        &self,
        request: &R,
        secret: &ClientSecret,
    ) -> Result<R::Response, Failure> {
        let response = timeout(self.timeout, self.exchange_messages(request, secret)).await;
        response.unwrap_or_else(|_| Err(Cause::Timeout.maybe_performed()))
    }

    async fn exchange_messages<R: HumanApiRequest>(
        &self,
        request: &R,
        secret: &ClientSecret,
    ) -> Result<R::Response, Failure> {
        let url = match R::ENDPOINT {
            Endpoint::Tokens => &self.tokens_url,
            Endpoint::PublicTokens => &self.public_tokens_url,
            Endpoint::Token => &self.token_url,
        };
        let http_request = self
            .http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(requests::signed(request, &self.client_id, secret));
        let mut response = http_request.send().await.map_err(|error| {
            // a connection that was never made carried nothing; any other failure came after the sending began
            let maybe_performed = !error.is_connect();
            warn!(
                path = url.path(),
                error = error_chain(&error.without_url()),
                maybe_performed,
                "Human API could not be reached"
            );
            Failure { cause: Cause::Unavailable { retry_after: None }, maybe_performed, is_retryable: true }
        })?;
        let unavailable = |headers: &HeaderMap| Cause::Unavailable { retry_after: requested_wait(headers) };
        match response.status() {
            status if status.is_success() => read(&read_body(&mut response).await?),
            StatusCode::UNAUTHORIZED => Err(Cause::Unauthorized.not_performed()),
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = requested_wait(response.headers());
                Err(Cause::RateLimited { retry_after }.not_performed().retryable())
            }
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY
                if R::NAMES_ADDRESS && rejects_address(&mut response).await =>
            {
                Err(Cause::AddressRejected.not_performed())
            }
            status if status.is_client_error() => Err(Cause::Refused(status).not_performed()),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Err(unavailable(response.headers()).maybe_performed().retryable())
            }
            status if status.is_server_error() => Err(unavailable(response.headers()).maybe_performed()),
            _ => Err(Cause::Invalid("is not a status that it documents").not_performed()),
        }
    }
}

async fn read_body(response: &mut reqwest::Response) -> Result<Vec<u8>, Failure> {
    let too_long = || Cause::Invalid("is longer than 64 KiB").maybe_performed();
    if response.content_length().is_some_and(|length| length > RESPONSE_LIMIT as u64) {
        return Err(too_long());
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > RESPONSE_LIMIT => return Err(too_long()),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(_) => return Err(Cause::Unavailable { retry_after: None }.maybe_performed().retryable()),
        }
    }
}

async fn rejects_address(response: &mut reqwest::Response) -> bool {
    read_body(response).await.is_ok_and(|refusal| responses::rejects_address(&refusal))
}

fn requested_wait(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?)
}
