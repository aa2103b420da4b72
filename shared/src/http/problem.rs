//! Errors as RFC 9457 problem details. The caller's message is written here; the cause is for the log.

use lambda_http::http::header::{ALLOW, HeaderValue, RETRY_AFTER};
use lambda_http::{Body, Response, http::StatusCode};
use serde_json::json;

use super::{Code, with_body};
use crate::human_api::{Cause, Failure};
use crate::seal::SealError;
use crate::secret::SecretError;
use crate::store::StoreError;
use crate::tokens::Error;

/// The wait that a caller is asked for if Human API names none.
const RETRY_AFTER_SECONDS: u64 = 2;
const LONGEST_RETRY_AFTER_SECONDS: u64 = 300;

const BAD_TICKET: &str = "the ticket is unknown, expired or spent";
const FAULT: &str = "an internal fault";

/// An error of the contract's table.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    /// Seconds.
    retry_after: Option<u64>,
    allow: Option<String>,
    cause: Option<Box<Error>>,
}

impl Problem {
    /// `detail` goes to the caller: it may name a field, but echoes no value.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        // these errors pass by themselves, so a caller tries again
        let is_temporary = code.status() == StatusCode::SERVICE_UNAVAILABLE || code == Code::FinishInProgress;
        let retry_after = is_temporary.then_some(RETRY_AFTER_SECONDS);
        Self { code, detail: detail.into(), retry_after, allow: None, cause: None }
    }

    pub fn status(&self) -> u16 {
        self.code.status().as_u16()
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }

    pub fn invalid_request(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    pub fn unauthenticated() -> Self {
        Self::new(Code::Unauthenticated, "no caller that this route accepts")
    }

    pub fn bad_ticket() -> Self {
        Self::new(Code::Unauthenticated, BAD_TICKET)
    }

    pub fn method_not_allowed(allowed: Vec<&'static str>) -> Self {
        let problem = Self::new(Code::MethodNotAllowed, "this route has other methods");
        Self { allow: Some(allowed.join(", ")), ..problem }
    }

    /// A fault in our own code: no code of the table fits better, and a caller may try again.
    pub fn fault() -> Self {
        Self::new(Code::StoreUnavailable, FAULT)
    }

    /// The answer to an event that `lambda_http` cannot decode.
    pub fn undecodable_event() -> Self {
        Self::invalid_request("the event is not as API Gateway sends it")
    }

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
        let (code, detail) = match &error {
            Error::HumanApi(failure) => of_human_api(failure),
            Error::Store(error) | Error::LeaseNotRenewed(error) => of_store(error),
            Error::Seal(SealError::Key(SecretError::MissingVersion { .. })) => {
                (Code::SecretUnavailable, "the key that sealed a stored token is not in Secrets Manager any more")
            }
            Error::Secret(_) | Error::Seal(SealError::Key(_)) => {
                (Code::SecretUnavailable, "a secret of this backend cannot be read at the moment")
            }
            Error::Seal(_) => (Code::StoreUnavailable, "a stored token cannot be read"),
            Error::Panicked => (Code::StoreUnavailable, FAULT),
            Error::UserMismatch => (Code::UserMismatch, "the session belongs to another user"),
            Error::SessionRejected => (Code::SessionRejected, "Human API refuses this sessionToken"),
            Error::ReconnectRequired => (Code::ReconnectRequired, "the user has to connect again"),
            Error::NotConnected => (Code::NotConnected, "this user has no connection"),
            Error::Revoked => (Code::ConnectionRevoked, "the user's connection is gone at Human API"),
            Error::BadTicket => (Code::Unauthenticated, BAD_TICKET),
            Error::EmailRequired => (Code::EmailRequired, "a new user needs an e-mail claim or clientUserEmail"),
        };
        let mut problem = Self::new(code, detail);
        if let Some(seconds) = wait(&error) {
            problem.retry_after = Some(seconds.clamp(1, LONGEST_RETRY_AFTER_SECONDS));
        }
        problem.cause = Some(Box::new(error));
        problem
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

fn of_store(error: &StoreError) -> (Code, &'static str) {
    match error {
        StoreError::Unavailable(_) | StoreError::Unreadable(_) | StoreError::Random(_) => {
            (Code::StoreUnavailable, "the table cannot be used at the moment")
        }
        StoreError::Locked { .. } | StoreError::TakenOver => {
            (Code::FinishInProgress, "another call for this user is under way")
        }
        StoreError::Deleted => (Code::ConnectionDeleted, "the user's data was deleted meanwhile"),
        StoreError::Absent => (Code::NotConnected, "this user has no connection"),
    }
}

fn of_human_api(failure: &Failure) -> (Code, &'static str) {
    let unavailable = (Code::UpstreamUnavailable, "Human API is not available at the moment");
    match &failure.cause {
        // a refusal of the retry of a request that may have been performed says nothing
        Cause::Refused(_) if failure.maybe_performed => unavailable,
        Cause::Refused(_) => (Code::UpstreamInvalid, "Human API refused in a way that it does not document"),
        // a typing error of the user, so it counts as no fault
        Cause::AddressRejected => {
            (Code::InvalidRequest, "Human API rejects the e-mail address; correct clientUserEmail or the e-mail claim")
        }
        Cause::Invalid(_) => (Code::UpstreamInvalid, "Human API's answer cannot be used"),
        Cause::Unauthorized => (Code::UpstreamUnauthorized, "Human API refuses this backend's credentials"),
        Cause::Unavailable { .. } | Cause::RateLimited { .. } => unavailable,
        Cause::Timeout => (Code::UpstreamTimeout, "Human API did not answer in time"),
    }
}

/// The wait in seconds that the error itself names.
fn wait(error: &Error) -> Option<u64> {
    match error {
        Error::Store(StoreError::Locked { retry_after })
        | Error::LeaseNotRenewed(StoreError::Locked { retry_after }) => {
            Some(retry_after.as_millis().div_ceil(1000) as u64)
        }
        Error::HumanApi(Failure {
            cause: Cause::Unavailable { retry_after } | Cause::RateLimited { retry_after },
            ..
        }) => retry_after.map(|wait| wait.as_secs()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    /// The status, `Retry-After`, `Allow` and the body of the response.
    fn response(problem: Problem) -> (u16, Option<String>, Option<String>, Value) {
        let response = problem.into_response("made-up-id");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let header = |name| response.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        let body = serde_json::from_slice(response.body().as_ref()).unwrap();
        (response.status().as_u16(), header(RETRY_AFTER), header(ALLOW), body)
    }

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_the_request_id() {
        let (status, retry_after, allow, body) = response(Problem::invalid_request("a is missing"));
        let expected = json!({"type": "urn:human-connect:error:invalid_request", "title": "Invalid request", "status": 400,
            "code": "invalid_request", "detail": "a is missing", "requestId": "made-up-id"});
        assert_eq!((status, retry_after, allow, body), (400, None, None, expected));
        let (status, _, allow, _) = response(Problem::method_not_allowed(vec!["GET", "DELETE"]));
        assert_eq!((status, allow.as_deref()), (405, Some("GET, DELETE")));
    }

    #[test]
    fn each_error_has_its_code_and_a_temporary_one_its_wait() {
        let locked = |milliseconds| StoreError::Locked { retry_after: Duration::from_millis(milliseconds) };
        let unavailable = |seconds: Option<u64>| Cause::Unavailable { retry_after: seconds.map(Duration::from_secs) };
        let refused = || Cause::Refused(StatusCode::BAD_REQUEST);
        let seconds = |number: u64| Some(number.to_string());
        for (error, code, wait) in [
            (locked(7001).into(), "finish_in_progress", seconds(8)),
            (locked(0).into(), "finish_in_progress", seconds(1)),
            (Error::LeaseNotRenewed(locked(3000)), "finish_in_progress", seconds(3)),
            (StoreError::TakenOver.into(), "finish_in_progress", seconds(2)),
            (StoreError::Deleted.into(), "connection_deleted", None),
            (StoreError::Unreadable("generation").into(), "store_unavailable", seconds(2)),
            (unavailable(Some(7)).not_performed().into(), "upstream_unavailable", seconds(7)),
            (unavailable(Some(3600)).not_performed().into(), "upstream_unavailable", seconds(300)),
            (unavailable(None).maybe_performed().into(), "upstream_unavailable", seconds(2)),
            (refused().maybe_performed().into(), "upstream_unavailable", seconds(2)),
            (refused().not_performed().into(), "upstream_invalid", None),
            (Cause::Timeout.maybe_performed().into(), "upstream_timeout", None),
            (Error::Panicked, "store_unavailable", seconds(2)),
            (Error::ReconnectRequired, "reconnect_required", None),
        ] {
            let problem = Problem::from(error);
            assert!(problem.cause().is_some(), "{code}");
            let (_, retry_after, _, body) = response(problem);
            assert_eq!((&body["code"], retry_after), (&json!(code), wait), "{code}");
        }
    }
}
