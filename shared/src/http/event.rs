//! An API Gateway event, payload 2.0 (HTTP API) or 1.0 (REST API, or HTTP API by choice), as far as it is used.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Problem;

/// Longer bodies are not looked at.
const BODY_LIMIT: usize = 64 * 1024;

/// A route: method and path pattern, as API Gateway names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The HTTP method.
    pub method: &'static str,
    /// The path pattern.
    pub path: &'static str,
}

/// The two payload formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// HTTP API.
    V2,
    /// REST API.
    V1,
}

/// A request, before anything of it is believed.
#[derive(Debug)]
pub struct Request {
    /// The format it came in, and so the format of its answer.
    pub payload: Payload,
    /// API Gateway's id of the request.
    pub request_id: Option<String>,
    /// Whether something in the event is not as API Gateway sends it; then only the route is known.
    pub is_malformed: bool,
    pub(super) authorizer: Option<Value>,
    pub(super) identity: Option<Value>,
    method: Option<String>,
    path: Option<String>,
    content_type: Option<String>,
    body: Option<String>,
    is_base64: bool,
    path_parameters: HashMap<String, Value>,
    domain_name: Option<String>,
    /// The path as the caller sent it: with the stage, or with the mapping key of a custom domain.
    full_path: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawEvent<'a> {
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    route_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource: Option<Cow<'a, str>>,
    #[serde(borrow)]
    http_method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    headers: Option<ContentType<'a>>,
    body: Option<String>,
    is_base64_encoded: Option<bool>,
    path_parameters: Option<HashMap<String, Value>>,
    request_context: Option<RawContext>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawContext {
    request_id: Option<String>,
    domain_name: Option<String>,
    path: Option<String>,
    http: Option<RawHttp>,
    // by itself, so that a claim that cannot be read makes no event unreadable: it is no user
    authorizer: Option<Box<RawValue>>,
    identity: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawHttp {
    path: Option<String>,
}

/// The one header that is looked at, with its name; the others are passed over.
#[derive(Default)]
struct ContentType<'a>(Option<(Cow<'a, str>, Value)>);

impl<'de: 'a, 'a> Deserialize<'de> for ContentType<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContentType::default())
    }
}

impl<'de: 'a, 'a> Visitor<'de> for ContentType<'a> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut headers: A) -> Result<Self, A::Error> {
        while let Some(HeaderName(name)) = headers.next_key()? {
            if !name.eq_ignore_ascii_case("content-type") {
                headers.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = headers.next_value()?;
            // API Gateway sends one; of several, always the same
            if self.0.as_ref().is_none_or(|(known, _)| name <= *known) {
                self.0 = Some((name, value));
            }
        }
        Ok(self)
    }
}

#[derive(Deserialize)]
struct HeaderName<'a>(#[serde(borrow)] Cow<'a, str>);

/// What tells the route, where the rest cannot be read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawRoute {
    version: Option<String>,
    route_key: Option<String>,
    resource: Option<String>,
    http_method: Option<String>,
}

impl Request {
    /// Reads an event. What no API Gateway sends has no route: 404.
    pub fn read(event: &str) -> Result<Self, Problem> {
        let (raw, is_malformed) = match serde_json::from_str::<RawEvent<'_>>(event) {
            Ok(raw) => (raw, false),
            Err(_) => {
                let route: RawRoute = serde_json::from_str(event).map_err(|_| Problem::not_found())?;
                let raw = RawEvent {
                    version: route.version.map(Cow::Owned),
                    route_key: route.route_key.map(Cow::Owned),
                    resource: route.resource.map(Cow::Owned),
                    http_method: route.http_method.map(Cow::Owned),
                    ..RawEvent::default()
                };
                (raw, true)
            }
        };
        let context = raw.request_context.unwrap_or_default();
        let payload = match raw.version.as_deref() {
            Some("2.0") => Payload::V2,
            _ => Payload::V1,
        };
        let (method, path) = match payload {
            Payload::V2 => match raw.route_key.as_deref().and_then(|key| key.split_once(' ')) {
                Some((method, path)) => (Some(method.to_owned()), Some(path.to_owned())),
                None => (None, None),
            },
            Payload::V1 => (raw.http_method.map(Cow::into_owned), raw.resource.map(Cow::into_owned)),
        };
        let content_type = raw.headers.and_then(|headers| headers.0?.1.as_str().map(str::to_owned));
        Ok(Self {
            payload,
            request_id: context.request_id.filter(|id| is_request_id(id)),
            is_malformed,
            authorizer: context
                .authorizer
                .and_then(|authorizer| serde_json::from_str(authorizer.get()).ok())
                .filter(|authorizer: &Value| !authorizer.is_null()),
            identity: context.identity,
            method,
            path,
            content_type,
            body: raw.body,
            is_base64: raw.is_base64_encoded.unwrap_or(false),
            path_parameters: raw.path_parameters.unwrap_or_default(),
            domain_name: context.domain_name,
            full_path: match payload {
                Payload::V2 => context.http.and_then(|http| http.path),
                Payload::V1 => context.path,
            },
        })
    }

    /// Which of a function's routes is asked for, by API Gateway's route and never by the raw path.
    pub fn route(&self, routes: &'static [Route]) -> Result<&'static Route, Problem> {
        let on_path = || routes.iter().filter(|route| Some(route.path) == self.path.as_deref());
        match on_path().find(|route| Some(route.method) == self.method.as_deref()) {
            Some(route) => Ok(route),
            None if on_path().next().is_some() => {
                Err(Problem::method_not_allowed(on_path().map(|route| route.method).collect()))
            }
            None => Err(Problem::not_found()),
        }
    }

    /// The body's bytes; at most 64 KiB.
    pub fn body(&self) -> Result<Cow<'_, [u8]>, Problem> {
        let text = self.body.as_deref().unwrap_or_default();
        let longest = if self.is_base64 { BODY_LIMIT.div_ceil(3) * 4 } else { BODY_LIMIT };
        if text.len() > longest {
            return Err(Problem::body_too_large());
        }
        if !self.is_base64 {
            return Ok(Cow::Borrowed(text.as_bytes()));
        }
        let bytes =
            STANDARD.decode(text).map_err(|_| Problem::invalid_request("the body is not base64 as announced"))?;
        if bytes.len() > BODY_LIMIT {
            return Err(Problem::body_too_large());
        }
        Ok(Cow::Owned(bytes))
    }

    /// The media type without its parameters, in lower case; `None` where none is named.
    pub fn media_type(&self) -> Option<String> {
        let essence = self.content_type.as_deref()?.split(';').next().unwrap_or_default().trim();
        (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
    }

    /// A parameter of the path.
    pub fn path_parameter(&self, name: &str) -> Option<&str> {
        self.path_parameters.get(name)?.as_str()
    }

    /// The URL under which the caller reached the API. It comes from API Gateway's own context, never from a header: the domain,
    /// then what stands before `route` in the path (the stage, or the mapping key of a custom domain).
    pub fn base_url(&self, route: &Route) -> Option<String> {
        let domain = self.domain_name.as_deref()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if domain.is_empty() || !domain.chars().all(plain) {
            return None;
        }
        Some(format!("https://{domain}{}", self.path_prefix(route).unwrap_or_default()))
    }

    fn path_prefix(&self, route: &Route) -> Option<&str> {
        let prefix = self.full_path.as_deref()?.trim_end_matches('/').strip_suffix(route.path)?;
        let is_segment = |segment: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !matches!(segment, "" | "." | "..") && segment.chars().all(plain)
        };
        prefix.strip_prefix('/')?.split('/').all(is_segment).then_some(prefix)
    }
}

/// It goes back to the caller as it is.
fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ROUTES: &[Route] = &[
        Route { method: "POST", path: "/a" },
        Route { method: "DELETE", path: "/a" },
        Route { method: "GET", path: "/b/{c}" },
    ];

    fn read(event: Value) -> Request {
        Request::read(&event.to_string()).unwrap()
    }

    #[test]
    fn routes_by_the_route_key_or_by_resource_and_method_and_never_by_the_path() {
        let route = |event: Value| read(event).route(ROUTES).map_err(|problem| problem.status());
        assert_eq!(route(json!({"version": "2.0", "routeKey": "POST /a", "rawPath": "/other"})), Ok(&ROUTES[0]));
        assert_eq!(route(json!({"resource": "/b/{c}", "httpMethod": "GET", "path": "/b/1"})), Ok(&ROUTES[2]));
        assert_eq!(route(json!({"version": "1.0", "resource": "/a", "httpMethod": "DELETE"})), Ok(&ROUTES[1]));
        assert_eq!(route(json!({"version": "2.0", "routeKey": "PUT /a"})), Err(405));
        assert_eq!(route(json!({"version": "2.0", "routeKey": "$default", "rawPath": "/a"})), Err(404));
        assert_eq!(route(json!({"version": "2.0", "routeKey": "GET /b/1"})), Err(404));
        assert_eq!(route(json!({"version": "2.0", "resource": "/a", "httpMethod": "POST"})), Err(404));
        assert_eq!(route(json!({})), Err(404));
    }

    #[test]
    fn what_is_no_api_gateway_event_is_an_error_and_not_a_crash() {
        for event in
            ["", "null", "[]", "1", "\"x\"", r#"{"body": 1}"#, r#"{"version": 2}"#, r#"{"requestContext": []}"#]
        {
            if let Ok(request) = Request::read(event) {
                assert!(request.route(ROUTES).is_err(), "{event}");
            }
        }
    }

    #[test]
    fn of_a_malformed_event_the_route_is_known_all_the_same() {
        for part in
            [r#""body": 1"#, r#""headers": []"#, r#""isBase64Encoded": "x""#, r#""requestContext": {"path": 1}"#]
        {
            let request = Request::read(&format!(r#"{{"version": "2.0", "routeKey": "POST /a", {part}}}"#)).unwrap();
            assert!(request.is_malformed && request.route(ROUTES).is_ok(), "{part}");
        }
        let claims = r#"{"version": "2.0", "requestContext": {"authorizer": {"jwt": {"claims": {"sub": "\ud800"}}}}}"#;
        let request = Request::read(claims).unwrap();
        assert!(!request.is_malformed && request.authorizer.is_none());
    }

    #[test]
    fn bodies_are_bounded_before_and_after_decoding() {
        let body = |text: String, base64: bool| {
            read(json!({"body": text, "isBase64Encoded": base64})).body().map(|body| body.len()).map_err(|p| p.status())
        };
        assert_eq!(body("x".repeat(65_536), false), Ok(65_536));
        assert_eq!(body("x".repeat(65_537), false), Err(413));
        assert_eq!(body(STANDARD.encode("x".repeat(65_536)), true), Ok(65_536));
        assert_eq!(body(STANDARD.encode("x".repeat(65_537)), true), Err(413));
        assert_eq!(body("no base64!".into(), true), Err(400));
        assert_eq!(body(String::new(), true), Ok(0));
    }

    #[test]
    fn the_base_url_is_api_gateways_domain_with_what_precedes_the_route() {
        let base = |domain: &str, path: &str| {
            let event = |version: &str, context: Value| {
                let headers = json!({"host": "evil.example", "x-forwarded-prefix": "/evil"});
                read(json!({"version": version, "headers": headers, "rawPath": "/evil/a", "requestContext": context}))
                    .base_url(&ROUTES[0])
            };
            let v2 = event("2.0", json!({"domainName": domain, "stage": "s", "http": {"path": path}, "path": "/x/a"}));
            let v1 = event("1.0", json!({"domainName": domain, "stage": "s", "path": path, "http": {"path": "/x/a"}}));
            assert_eq!(v1, v2);
            v2
        };
        assert_eq!(base("api.example.com", "/a").as_deref(), Some("https://api.example.com"));
        for prefix in ["/prod", "/health", "/health/v1.2", "/a", "/-_.~".trim_end_matches('~')] {
            let url = format!("https://api.example.com{prefix}");
            assert_eq!(base("api.example.com", &format!("{prefix}/a")), Some(url.clone()));
            assert_eq!(base("api.example.com", &format!("{prefix}/a/")), Some(url));
        }
        for path in [
            "",
            "/",
            "/b",
            "/xa",
            "//a",
            "/x//a",
            "/../a",
            "/x/./a",
            "/x%2f/a",
            "/x y/a",
            "/x?/a",
            "/ü/a",
            "x/a",
            "@evil.example/a",
        ] {
            assert_eq!(base("api.example.com", path).as_deref(), Some("https://api.example.com"), "{path}");
        }
        assert_eq!(base("evil.example/x?", "/a"), None);
        assert_eq!(base("", "/a"), None);
        let no_path = json!({"version": "2.0", "requestContext": {"domainName": "api.example.com"}});
        assert_eq!(read(no_path).base_url(&ROUTES[0]).as_deref(), Some("https://api.example.com"));
    }

    #[test]
    fn the_media_type_is_found_whatever_its_case_and_parameters() {
        let media = |headers: Value| read(json!({"headers": headers})).media_type();
        assert_eq!(
            media(json!({"Content-Type": "Application/JSON; charset=utf-8"})).as_deref(),
            Some("application/json")
        );
        assert_eq!(media(json!({"content-type": ""})), None);
        assert_eq!(media(json!({"content-type": 1})), None);
        assert_eq!(media(Value::Null), None);
    }
}
