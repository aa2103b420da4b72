//! Answers, in the form that API Gateway takes.

use lambda_http::aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayV2httpResponse};
use lambda_http::aws_lambda_events::encodings::Body;
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;

use super::event::Payload;

/// A status with a JSON body, or with none.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Option<Value>,
}

impl Answer {
    /// 200.
    pub fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Some(body) }
    }

    /// 201.
    pub fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, body: Some(body) }
    }

    /// 204.
    pub fn no_content() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None }
    }

    /// As API Gateway's response of this payload format.
    pub fn into_payload(self, payload: Payload) -> String {
        let body = self.body.map(|body| body.to_string());
        into_payload(payload, self.status, "application/json", &[], body)
    }
}

/// A response as JSON. Every one may hold what is a user's alone: nothing caches it, nothing guesses its type.
pub(super) fn into_payload(
    payload: Payload,
    status: StatusCode,
    content_type: &'static str,
    more: &[(HeaderName, String)],
    body: Option<String>,
) -> String {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in more {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let status_code = i64::from(status.as_u16());
    let body = body.map(Body::Text);
    let response = match payload {
        Payload::V2 => {
            let mut response = ApiGatewayV2httpResponse::default();
            (response.status_code, response.headers, response.body) = (status_code, headers, body);
            serde_json::to_string(&response)
        }
        Payload::V1 => {
            let mut response = ApiGatewayProxyResponse::default();
            (response.status_code, response.headers, response.body) = (status_code, headers, body);
            serde_json::to_string(&response)
        }
    };
    // numbers and strings: cannot fail
    response.unwrap_or_default()
}
