//! The contract's table of errors.

use lambda_http::http::StatusCode;

macro_rules! codes {
    ($($code:ident $status:ident $name:literal $title:literal)*) => {
        /// An error, as callers, metrics and `openapi.yaml` name it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($code),* }

        impl Code {
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$code),*];

            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status),* }
            }

            pub fn name(self) -> &'static str {
                match self { $(Self::$code => $name),* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$code => $title),* }
            }
        }
    };
}

codes! {
    InvalidRequest       BAD_REQUEST            "invalid_request"        "Invalid request"
    EmailRequired        BAD_REQUEST            "email_required"         "E-mail required"
    Unauthenticated      UNAUTHORIZED           "unauthenticated"        "Not authenticated"
    Forbidden            FORBIDDEN              "forbidden"              "Forbidden"
    ClientMismatch       FORBIDDEN              "client_mismatch"        "Another client's session"
    UserMismatch         FORBIDDEN              "user_mismatch"          "Another user's session"
    NotConnected         NOT_FOUND              "not_connected"          "Not connected"
    NotFound             NOT_FOUND              "not_found"              "Not found"
    MethodNotAllowed     METHOD_NOT_ALLOWED     "method_not_allowed"     "Method not allowed"
    BodyTooLarge         PAYLOAD_TOO_LARGE      "body_too_large"         "Body too large"
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "Unsupported media type"
    FinishInProgress     CONFLICT               "finish_in_progress"     "In progress"
    ReconnectRequired    CONFLICT               "reconnect_required"     "Reconnect required"
    ConnectionRevoked    GONE                   "connection_revoked"     "Connection revoked"
    ConnectionDeleted    GONE                   "connection_deleted"     "Connection deleted"
    SessionRejected      UNPROCESSABLE_ENTITY   "session_rejected"       "Session rejected"
    UpstreamInvalid      BAD_GATEWAY            "upstream_invalid"       "Unexpected answer of Human API"
    UpstreamUnauthorized BAD_GATEWAY            "upstream_unauthorized"  "Refused by Human API"
    UpstreamUnavailable  SERVICE_UNAVAILABLE    "upstream_unavailable"   "Human API unavailable"
    StoreUnavailable     SERVICE_UNAVAILABLE    "store_unavailable"      "Store unavailable"
    SecretUnavailable    SERVICE_UNAVAILABLE    "secret_unavailable"     "Secret unavailable"
    UpstreamTimeout      GATEWAY_TIMEOUT        "upstream_timeout"       "Human API timed out"
}
