//! From `lambda_http`'s request to its response: callers ([`caller`]), routes ([`route`]), bodies ([`body`]) and errors
//! ([`problem`], [`code`]). `lambda_http` itself decodes the events.

pub mod body;
pub mod caller;
pub mod code;
pub mod problem;
pub mod route;

use lambda_http::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use lambda_http::{Body, Response};
use serde_json::Value;

pub use code::Code;
pub use problem::Problem;
pub use route::Route;

/// A response or another value, or the problem that becomes the response.
pub type Result<T = Response<Body>> = std::result::Result<T, Problem>;

pub fn json(status: StatusCode, body: &Value) -> Response<Body> {
    with_body(status, "application/json", body)
}

fn with_body(status: StatusCode, content_type: &'static str, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Text(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_json_response_has_its_status_its_type_and_its_body() {
        let response = super::json(StatusCode::CREATED, &json!({"a": 1}));
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert!(matches!(response.body(), Body::Text(text) if text == r#"{"a":1}"#));
    }
}
