//! Errors as RFC 9457 problem details. The caller's message is written here; the cause is for the log.

use lambda_http::http::HeaderValue;
use lambda_http::http::header::{ALLOW, RETRY_AFTER};
use lambda_http::{Body, Response};
use serde_json::json;

use super::code::Code;
use super::with_body;
use crate::human_api::{Cause, Failure};
use crate::seal::SealError;
use crate::secret::SecretError;
use crate::store::StoreError;
use crate::tokens::Error;

/// The wait that is asked of a caller if Human API names none.
const RETRY_AFTER_SECONDS: u64 = 2;
/// Longest wait that is asked of a caller.
const LONGEST_RETRY_AFTER_SECONDS: u64 = 300;

/// An error of the contract's table.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    retry_after: Option<u64>,
    allow: Option<String>,
    cause: Option<Box<Error>>,
}

impl Problem {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, allow: None, cause: None }
    }

    fn retry_after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = Some(seconds.unwrap_or(RETRY_AFTER_SECONDS).clamp(1, LONGEST_RETRY_AFTER_SECONDS));
        self
    }

    pub fn status(&self) -> u16 {
        self.code.status().as_u16()
    }

    /// The contract's code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The cause, for the log.
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }

    /// 400: `detail` names the field and echoes nothing.
    pub fn invalid_request(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// 401: no user.
    pub fn unauthenticated() -> Self {
        Self::new(Code::Unauthenticated, "no caller that this route accepts")
    }

    /// 401: a ticket that proves nothing.
    pub fn bad_ticket() -> Self {
        Self::new(Code::Unauthenticated, "the ticket is unknown, expired or spent")
    }

    /// 403: this caller may not use this route.
    pub fn forbidden() -> Self {
        Self::new(Code::Forbidden, "this route is for other backends, by IAM")
    }

    /// 403: a session of another client.
    pub fn client_mismatch() -> Self {
        Self::new(Code::ClientMismatch, "clientId is not the client of this backend")
    }

    /// 404: no such route.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "no such route")
    }

    /// 405, with the methods that are allowed.
    pub fn method_not_allowed(allowed: Vec<&'static str>) -> Self {
        let problem = Self::new(Code::MethodNotAllowed, "this route has other methods");
        Self { allow: Some(allowed.join(", ")), ..problem }
    }

    pub fn body_too_large() -> Self {
        Self::new(Code::BodyTooLarge, "the body is longer than 64 KiB")
    }

    /// 415; `detail` says what to send.
    pub fn unsupported_media_type(detail: &'static str) -> Self {
        Self::new(Code::UnsupportedMediaType, detail)
    }

    /// 503 for a fault in our own code: nothing else fits, and trying again is right.
    pub fn fault() -> Self {
        Self::new(Code::StoreUnavailable, "an internal fault").retry_after(None)
    }

    /// 400: `lambda_http` cannot decode the event.
    pub fn undecodable_event() -> Self {
        Self::invalid_request("the event is not as API Gateway sends it")
    }

    /// The response to the request with this ID.
    pub fn into_response(self, request_id: &str) -> Response<Body> {
        let status = self.code.status();
        let body = json!({
            "type": format!("urn:human-connect:error:{}", self.code.name()),
            "title": self.code.title(),
            "status": status.as_u16(),
            "code": self.code.name(),
            "detail": self.detail,
            "requestId": request_id,
        });
        let mut response = with_body(status, "application/problem+json", &body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.allow.and_then(|methods| HeaderValue::from_str(&methods).ok()) {
            headers.insert(ALLOW, methods);
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem = match &error {
            Error::HumanApi(failure) => from_human_api(failure),
            Error::Store(error) | Error::LeaseNotRenewed(error) => from_store(error),
            Error::Secret(_) => secret_unavailable(),
            Error::Panicked => Self::fault(),
            Error::Seal(SealError::Key(SecretError::MissingVersion { .. })) => {
                let detail = "the key that sealed a stored token is not in Secrets Manager any more";
                Self::new(Code::SecretUnavailable, detail).retry_after(None)
            }
            Error::Seal(SealError::Key(_)) => secret_unavailable(),
            Error::Seal(SealError::Random(_) | SealError::Corrupt(_)) => {
                Self::new(Code::StoreUnavailable, "a stored token cannot be read").retry_after(None)
            }
            Error::UserMismatch => Self::new(Code::UserMismatch, "the session belongs to another user"),
            Error::SessionRejected => Self::new(Code::SessionRejected, "Human API refuses this sessionToken"),
            Error::ReconnectRequired => Self::new(Code::ReconnectRequired, "the user has to connect again"),
            Error::NotConnected => Self::new(Code::NotConnected, "this user has no connection"),
            Error::Revoked => Self::new(Code::ConnectionRevoked, "the user's connection is gone at Human API"),
            Error::BadTicket => Self::bad_ticket(),
            Error::EmailRequired => {
                Self::new(Code::EmailRequired, "a new user needs an e-mail claim or clientUserEmail")
            }
        };
        Self { cause: Some(Box::new(error)), ..problem }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

fn from_store(error: &StoreError) -> Problem {
    let conflict = |retry_after: Option<u64>| {
        Problem::new(Code::FinishInProgress, "another call for this user is under way").retry_after(retry_after)
    };
    match error {
        StoreError::Unavailable(_) | StoreError::Unreadable(_) | StoreError::Random(_) => {
            Problem::new(Code::StoreUnavailable, "the table cannot be used at the moment").retry_after(None)
        }
        StoreError::Locked { retry_after } => conflict(Some(retry_after.as_millis().div_ceil(1000) as u64)),
        StoreError::TakenOver => conflict(None),
        StoreError::Deleted => Problem::new(Code::ConnectionDeleted, "the user's data was deleted meanwhile"),
        StoreError::Absent => Problem::new(Code::NotConnected, "this user has no connection"),
    }
}

fn from_human_api(failure: &Failure) -> Problem {
    let unavailable = |retry_after: Option<u64>| {
        Problem::new(Code::UpstreamUnavailable, "Human API is not available at the moment").retry_after(retry_after)
    };
    match &failure.cause {
        // a refusal of the retry of a request that may have been performed says nothing
        Cause::Refused(_) if failure.maybe_performed => unavailable(None),
        Cause::Refused(_) => {
            Problem::new(Code::UpstreamInvalid, "Human API refused in a way that it does not document")
        }
        // a typing error of the user, so it counts as no fault
        Cause::AddressRejected => Problem::invalid_request(
            "Human API rejects the e-mail address; correct clientUserEmail or the e-mail claim",
        ),
        Cause::Invalid(_) => Problem::new(Code::UpstreamInvalid, "Human API's answer cannot be used"),
        Cause::Unauthorized => Problem::new(Code::UpstreamUnauthorized, "Human API refuses this backend's credentials"),
        Cause::Unavailable { retry_after } => unavailable(retry_after.map(|wait| wait.as_secs())),
        Cause::Timeout => Problem::new(Code::UpstreamTimeout, "Human API did not answer in time"),
    }
}

fn secret_unavailable() -> Problem {
    Problem::new(Code::SecretUnavailable, "a secret of this backend cannot be read at the moment").retry_after(None)
}
