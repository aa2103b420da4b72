//! The contract's table of errors.

use lambda_http::http::StatusCode;

/// An error, as callers, metrics and `openapi.yaml` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request cannot be understood.
    InvalidRequest,
    /// A new user's session needs an e-mail address.
    EmailRequired,
    /// No caller that the route accepts.
    Unauthenticated,
    /// The caller may not use this route.
    Forbidden,
    /// A session of another client.
    ClientMismatch,
    /// A session of another user.
    UserMismatch,
    /// The user has no connection here.
    NotConnected,
    /// No such route.
    NotFound,
    /// The route has other methods.
    MethodNotAllowed,
    /// The body is too long.
    BodyTooLarge,
    /// The body is of a type that is not read.
    UnsupportedMediaType,
    /// Another call for this user holds on for too long.
    FinishInProgress,
    /// Only the user can bring a new token.
    ReconnectRequired,
    /// The connection is gone at Human API.
    ConnectionRevoked,
    /// The user's data was deleted during the call.
    ConnectionDeleted,
    /// Human API refuses the session token.
    SessionRejected,
    /// Human API answered nonsense.
    UpstreamInvalid,
    /// Human API refuses our credentials.
    UpstreamUnauthorized,
    /// Human API is not there.
    UpstreamUnavailable,
    /// The table is not there, or what is in it cannot be read.
    StoreUnavailable,
    /// A secret is not to be had.
    SecretUnavailable,
    /// Human API did not answer in time.
    UpstreamTimeout,
}

impl Code {
    pub const ALL: [Self; 22] = [
        Self::InvalidRequest,
        Self::EmailRequired,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::ClientMismatch,
        Self::UserMismatch,
        Self::NotConnected,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::FinishInProgress,
        Self::ReconnectRequired,
        Self::ConnectionRevoked,
        Self::ConnectionDeleted,
        Self::SessionRejected,
        Self::UpstreamInvalid,
        Self::UpstreamUnauthorized,
        Self::UpstreamUnavailable,
        Self::StoreUnavailable,
        Self::SecretUnavailable,
        Self::UpstreamTimeout,
    ];

    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    pub fn title(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request", "Invalid request"),
            Self::EmailRequired => (StatusCode::BAD_REQUEST, "email_required", "E-mail required"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "Not authenticated"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Forbidden"),
            Self::ClientMismatch => (StatusCode::FORBIDDEN, "client_mismatch", "Another client's session"),
            Self::UserMismatch => (StatusCode::FORBIDDEN, "user_mismatch", "Another user's session"),
            Self::NotConnected => (StatusCode::NOT_FOUND, "not_connected", "Not connected"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unsupported media type")
            }
            Self::FinishInProgress => (StatusCode::CONFLICT, "finish_in_progress", "In progress"),
            Self::ReconnectRequired => (StatusCode::CONFLICT, "reconnect_required", "Reconnect required"),
            Self::ConnectionRevoked => (StatusCode::GONE, "connection_revoked", "Connection revoked"),
            Self::ConnectionDeleted => (StatusCode::GONE, "connection_deleted", "Connection deleted"),
            Self::SessionRejected => (StatusCode::UNPROCESSABLE_ENTITY, "session_rejected", "Session rejected"),
            Self::UpstreamInvalid => (StatusCode::BAD_GATEWAY, "upstream_invalid", "Unexpected answer of Human API"),
            Self::UpstreamUnauthorized => (StatusCode::BAD_GATEWAY, "upstream_unauthorized", "Refused by Human API"),
            Self::UpstreamUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable", "Human API unavailable")
            }
            Self::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "Store unavailable"),
            Self::SecretUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "secret_unavailable", "Secret unavailable"),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "Human API timed out"),
        }
    }
}
