//! Errors as RFC 9457 problem details. The caller's message is written here; the cause is for the log.

use lambda_http::http::{StatusCode, header};
use serde_json::json;

use super::answer::into_payload;
use super::event::Payload;
use crate::connect::Error;
use crate::human_api::{Cause, Failure};
use crate::seal::SealError;
use crate::store::StoreError;

/// What a caller may wait when nobody said how long.
const RETRY_AFTER_SECONDS: u64 = 2;
/// Longest wait that is asked of a caller.
const LONGEST_RETRY_AFTER_SECONDS: u64 = 300;

/// An error of the contract's table.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    retry_after: Option<u64>,
    allow: Option<String>,
    cause: Option<Box<Error>>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title, detail: detail.into(), retry_after: None, allow: None, cause: None }
    }

    fn retry_after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = Some(seconds.unwrap_or(RETRY_AFTER_SECONDS).clamp(1, LONGEST_RETRY_AFTER_SECONDS));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The contract's code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What led to it, for the log.
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }

    /// 400: `detail` names the field and echoes nothing.
    pub fn invalid_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Invalid request", detail)
    }

    /// 401: no user.
    pub fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Not authenticated", "no caller that this route accepts")
    }

    /// 401: a ticket that proves nothing.
    pub fn bad_ticket() -> Self {
        let detail = "the ticket is unknown, expired or spent";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Not authenticated", detail)
    }

    /// 403: this caller may not use this route.
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", "this route is for other backends, by IAM")
    }

    /// 403: a session of another client.
    pub fn client_mismatch() -> Self {
        let detail = "clientId is not the client of this backend";
        Self::new(StatusCode::FORBIDDEN, "client_mismatch", "Another client's session", detail)
    }

    /// 404: no such route.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", "no such route")
    }

    /// 405, with the methods that are allowed.
    pub fn method_not_allowed(allowed: Vec<&'static str>) -> Self {
        let detail = "this route has other methods";
        let mut problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail);
        problem.allow = Some(allowed.join(", "));
        problem
    }

    /// 413.
    pub fn body_too_large() -> Self {
        let detail = "the body is longer than 64 KiB";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large", detail)
    }

    /// 415; `detail` says what to send.
    pub fn unsupported_media_type(detail: &'static str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unsupported media type", detail)
    }

    /// 503 for a fault in our own code: nothing else fits, and trying again is right.
    pub fn fault() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "Temporarily unavailable", "an internal fault")
            .retry_after(None)
    }

    /// As API Gateway's response of this payload format.
    pub fn into_payload(self, payload: Payload, request_id: &str) -> String {
        let body = json!({
            "type": format!("urn:human-connect:error:{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
            "requestId": request_id,
        });
        let mut headers = Vec::new();
        headers.extend(self.retry_after.map(|seconds| (header::RETRY_AFTER, seconds.to_string())));
        headers.extend(self.allow.map(|methods| (header::ALLOW, methods)));
        into_payload(payload, self.status, "application/problem+json", &headers, Some(body.to_string()))
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let mut problem = match &error {
            Error::HumanApi(failure) => from_human_api(failure),
            Error::Store(error) => from_store(error),
            Error::Seal(SealError::Key(_)) => secret_unavailable(),
            Error::Seal(SealError::Random(_) | SealError::Broken(_)) => {
                let detail = "a stored token cannot be read";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "Store unavailable", detail)
                    .retry_after(None)
            }
            Error::UserMismatch => {
                let detail = "the session belongs to another user";
                Self::new(StatusCode::FORBIDDEN, "user_mismatch", "Another user's session", detail)
            }
            Error::SessionRejected => {
                let detail = "Human API refuses this sessionToken";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "session_rejected", "Session rejected", detail)
            }
            Error::ReconnectRequired => {
                let detail = "the user has to connect again";
                Self::new(StatusCode::CONFLICT, "reconnect_required", "Reconnect required", detail)
            }
            Error::NotConnected => {
                let detail = "this user has no connection";
                Self::new(StatusCode::NOT_FOUND, "not_connected", "Not connected", detail)
            }
            Error::Revoked => {
                let detail = "the user's connection is gone at Human API";
                Self::new(StatusCode::GONE, "connection_revoked", "Connection revoked", detail)
            }
            Error::BadTicket => Self::bad_ticket(),
            Error::EmailRequired => {
                let detail = "a new user needs an e-mail claim or clientUserEmail";
                Self::new(StatusCode::BAD_REQUEST, "email_required", "E-mail required", detail)
            }
        };
        problem.cause = Some(Box::new(error));
        problem
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

fn from_store(error: &StoreError) -> Problem {
    let conflict = |retry_after: Option<u64>| {
        let detail = "another call for this user is under way";
        Problem::new(StatusCode::CONFLICT, "finish_in_progress", "In progress", detail).retry_after(retry_after)
    };
    match error {
        StoreError::Unavailable | StoreError::Unreadable(_) | StoreError::Random(_) => {
            let detail = "the table cannot be used at the moment";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "Store unavailable", detail)
                .retry_after(None)
        }
        StoreError::Held { retry_after } => conflict(Some(retry_after.as_millis().div_ceil(1000) as u64)),
        StoreError::TakenOver => conflict(None),
        StoreError::Deleted => {
            let detail = "the user's data was deleted meanwhile";
            Problem::new(StatusCode::GONE, "connection_deleted", "Connection deleted", detail)
        }
        StoreError::Absent => {
            Problem::new(StatusCode::NOT_FOUND, "not_connected", "Not connected", "this user has no connection")
        }
    }
}

fn from_human_api(failure: &Failure) -> Problem {
    let unavailable = |retry_after: Option<u64>| {
        let detail = "Human API is not available at the moment";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable", "Human API unavailable", detail)
            .retry_after(retry_after)
    };
    match &failure.cause {
        // a refusal of the retry of a request that may have been performed says nothing
        Cause::Refused(_) if failure.performed => unavailable(None),
        Cause::Refused(_) => {
            let detail = "Human API refused in a way that it does not document";
            Problem::new(StatusCode::BAD_GATEWAY, "upstream_invalid", "Unexpected answer of Human API", detail)
        }
        Cause::Invalid(_) => {
            let detail = "Human API's answer cannot be used";
            Problem::new(StatusCode::BAD_GATEWAY, "upstream_invalid", "Unexpected answer of Human API", detail)
        }
        Cause::Unauthorized => {
            let detail = "Human API refuses this backend's credentials";
            Problem::new(StatusCode::BAD_GATEWAY, "upstream_unauthorized", "Refused by Human API", detail)
        }
        Cause::Unavailable { retry_after } => unavailable(retry_after.map(|wait| wait.as_secs())),
        Cause::Timeout => {
            let detail = "Human API did not answer in time";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "Human API timed out", detail)
        }
        Cause::HoldLost => from_store(&StoreError::TakenOver),
        Cause::Secret(_) => secret_unavailable(),
    }
}

fn secret_unavailable() -> Problem {
    let detail = "a secret of this backend cannot be read at the moment";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "secret_unavailable", "Secret unavailable", detail).retry_after(None)
}
