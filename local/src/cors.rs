//! CORS as API Gateway's HTTP API does it, with the configuration of `template.yaml`. A mistake there shows locally.
//!
//! AWS's "Configure CORS for HTTP APIs" gives these rules. A preflight is answered even if the path has no route. CORS applies
//! only to requests with `Origin`. A preflight also needs `Access-Control-Request-Method`. CORS headers of functions are dropped.
//!
//! AWS promises the headers only on an integration's answer. API Gateway's own refusals (401 of an authorizer, 404, 429) were seen
//! with the headers. Without the headers, a page sees no response (`network`) instead of the 401. [`Refusals`] simulates both.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use regex_lite::Regex;
use serde_json::Value;

const TEMPLATE: &str = include_str!("../../template.yaml");

/// The CORS configuration or the list of origins is invalid.
#[derive(Debug, thiserror::Error)]
pub enum CorsError {
    #[error("CorsConfiguration of template.yaml: {0}")]
    Template(String),
    /// A deployed stack would refuse these origins too.
    #[error("origins {origins}: {constraint}, says AllowedOrigins in template.yaml")]
    Origins {
        origins: String,
        /// The constraint description of the template's parameter.
        constraint: String,
    },
}

/// CORS headers of API Gateway's own refusals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Refusals {
    /// The refusals have the CORS headers: the page can read the status.
    #[default]
    Readable,
    /// The refusals have no CORS headers: the browser reports no response.
    Hidden,
}

/// Marks a response that API Gateway made without a function.
#[derive(Clone, Copy)]
pub struct OwnAnswer;

/// The CORS configuration. Without allowed origins there is none, as in the template.
#[derive(Clone)]
pub struct Cors {
    allowed: Option<Allowed>,
    refusals: Refusals,
}

#[derive(Clone)]
struct Allowed {
    origins: Vec<String>,
    credentials: bool,
    methods: HeaderValue,
    headers: HeaderValue,
    exposed: HeaderValue,
    max_age: HeaderValue,
}

impl Cors {
    /// Returns a configuration that allows no other origin.
    pub fn none() -> Self {
        Self { allowed: None, refusals: Refusals::default() }
    }

    /// Reads the template's configuration, with these `AllowedOrigins`, separated by commas.
    pub fn from_template(origins: &str, refusals: Refusals) -> Result<Self, CorsError> {
        if origins.is_empty() {
            return Ok(Self::none());
        }
        let template: Value =
            serde_saphyr::from_str(TEMPLATE).map_err(|error| CorsError::Template(error.to_string()))?;
        let parameter = |name: &str| template.pointer(&format!("/Parameters/AllowedOrigins/{name}"))?.as_str();
        let pattern = parameter("AllowedPattern").and_then(|pattern| Regex::new(pattern).ok());
        let pattern = pattern.ok_or_else(|| CorsError::Template("AllowedOrigins has no pattern".to_owned()))?;
        if !pattern.is_match(origins) {
            let constraint = parameter("ConstraintDescription").unwrap_or("not allowed").to_owned();
            return Err(CorsError::Origins { origins: origins.to_owned(), constraint });
        }
        // [HasAllowedOrigins, the configuration, AWS::NoValue]
        let at = |name: &str| template.pointer(&format!("/Resources/Api/Properties/CorsConfiguration/1/{name}"));
        let header = |name: &str| {
            let text = match at(name) {
                // `!Split [",", !Sub "…"]`: the local stack takes the parameter's default.
                Some(Value::Array(split)) if split.first().is_some_and(|separator| separator == ",") => {
                    let default = template.pointer("/Parameters/AllowedHeaders/Default").and_then(Value::as_str);
                    let text = split.get(1).and_then(Value::as_str).unwrap_or_default();
                    text.replace("${AllowedHeaders}", default.unwrap_or_default())
                }
                Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
                Some(Value::Number(number)) => number.to_string(),
                _ => return Err(CorsError::Template(format!("{name} is missing"))),
            };
            HeaderValue::from_str(&text).map_err(|_| CorsError::Template(format!("{name} is not a valid header value")))
        };
        let allowed = Allowed {
            origins: origins.split(',').map(str::to_owned).collect(),
            credentials: at("AllowCredentials").and_then(Value::as_bool).unwrap_or_default(),
            methods: header("AllowMethods")?,
            headers: header("AllowHeaders")?,
            exposed: header("ExposeHeaders")?,
            max_age: header("MaxAge")?,
        };
        Ok(Self { allowed: Some(allowed), refusals })
    }

    /// Answers a preflight. Returns `None` if the request is not one.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Response<Body>> {
        let allowed = self.allowed.as_ref()?;
        if method != Method::OPTIONS || !request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let origin = request.get(ORIGIN)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if allowed.knows(origin) {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, allowed.methods.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed.headers.clone());
            headers.insert(ACCESS_CONTROL_MAX_AGE, allowed.max_age.clone());
            allowed.add(origin, headers);
        }
        Some(response)
    }

    /// Sets the CORS headers of a function's or API Gateway's response.
    pub fn complete(&self, request: &HeaderMap, response: &mut Response<Body>) {
        let Some(allowed) = &self.allowed else { return };
        if self.refusals == Refusals::Hidden && response.extensions().get::<OwnAnswer>().is_some() {
            return;
        }
        let response = response.headers_mut();
        let own: Vec<HeaderName> =
            response.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
        for name in own {
            response.remove(name);
        }
        if let Some(origin) = request.get(ORIGIN).filter(|origin| allowed.knows(origin)) {
            allowed.add(origin, response);
        }
    }
}

impl Allowed {
    fn knows(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes())
    }

    fn add(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}
