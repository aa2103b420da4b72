//! Routes, and the URL under which the caller reached the API. Both come from API Gateway's context, never from a header
//! or a raw path.

use std::fmt;

use lambda_http::{Request, RequestExt, request::RequestContext};

use super::{Code, Problem};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub method: &'static str,
    /// The path pattern, with its parameters in braces.
    pub path: &'static str,
}

impl Route {
    /// The route of a request.
    pub fn of(request: &Request, routes: &'static [Self]) -> Result<Self, Problem> {
        let (method, path) = named(request).unwrap_or_default();
        let on_path = || routes.iter().filter(|route| route.path == path);
        match on_path().find(|route| route.method == method) {
            Some(route) => Ok(*route),
            None if on_path().next().is_none() => Err(Problem::new(Code::NotFound, "no such route")),
            None => Err(Problem::method_not_allowed(on_path().map(|route| route.method).collect())),
        }
    }

    /// The route is for other backends.
    fn is_internal(&self) -> bool {
        self.path.starts_with("/internal/")
    }

    /// The URL of this route's API: the domain, then the path up to the route (the stage, or a custom domain's mapping key).
    pub fn base_url(&self, request: &Request) -> Option<String> {
        let (domain, path) = match request.request_context_ref()? {
            RequestContext::ApiGatewayV2(context) => (context.domain_name.as_deref()?, context.http.path.as_deref()),
            RequestContext::ApiGatewayV1(context) => (context.domain_name.as_deref()?, context.path.as_deref()),
            _ => return None,
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        let prefix = path.and_then(|path| self.prefix(path)).unwrap_or_default();
        (!domain.is_empty() && domain.chars().all(is_plain)).then(|| format!("https://{domain}{prefix}"))
    }

    fn prefix<'a>(&self, path: &'a str) -> Option<&'a str> {
        let prefix = path.trim_end_matches('/').strip_suffix(self.path)?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.chars().all(is_plain);
        prefix.strip_prefix('/')?.split('/').all(is_segment).then_some(prefix)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Method and path: `routeKey` (payload 2.0), or resource and method (payload 1.0).
fn named(request: &Request) -> Option<(&str, &str)> {
    match request.request_context_ref()? {
        RequestContext::ApiGatewayV2(context) => context.route_key.as_deref()?.split_once(' '),
        RequestContext::ApiGatewayV1(context) => Some((request.method().as_str(), context.resource_path.as_deref()?)),
        _ => None,
    }
}

/// The call gets an audit line: its path is another backend's. A call without a known path counts too, if the function has such a route.
pub fn is_audited(request: Option<&Request>, routes: &[Route]) -> bool {
    let path = request.and_then(named).map(|(_, path)| path);
    match routes.iter().find(|route| Some(route.path) == path) {
        Some(route) => route.is_internal(),
        None => routes.iter().any(Route::is_internal),
    }
}

/// API Gateway's ID of the request. It goes back to the caller, so anything but visible ASCII is no ID.
pub fn request_id(request: &Request) -> Option<&str> {
    let id = match request.request_context_ref()? {
        RequestContext::ApiGatewayV2(context) => context.request_id.as_deref(),
        RequestContext::ApiGatewayV1(context) => context.request_id.as_deref(),
        _ => None,
    };
    id.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::caller::tests::request;

    const ROUTES: &[Route] = &[
        Route { method: "POST", path: "/a" },
        Route { method: "DELETE", path: "/a" },
        Route { method: "GET", path: "/b/{c}" },
    ];

    #[test]
    fn the_route_key_or_resource_and_method_decide_and_never_the_path() {
        for (version, context, expected) in [
            ("2.0", json!({"routeKey": "POST /a"}), Ok(ROUTES[0])),
            ("2.0", json!({"routeKey": "GET /b/{c}"}), Ok(ROUTES[2])),
            ("2.0", json!({"routeKey": "PUT /a"}), Err(405)),
            ("2.0", json!({"routeKey": "$default"}), Err(404)),
            ("2.0", json!({"routeKey": "GET /b/1"}), Err(404)),
            ("1.0", json!({"resourcePath": "/a", "path": "/b/1"}), Ok(ROUTES[0])),
            ("1.0", json!({"resourcePath": "/b/{c}"}), Err(405)),
            ("1.0", json!({"resourcePath": "/c", "path": "/a"}), Err(404)),
        ] {
            let route = Route::of(&request(version, context.clone()), ROUTES).map_err(|problem| problem.status());
            assert_eq!(route, expected, "{context}");
        }
    }

    #[test]
    fn the_base_url_is_the_domain_with_what_precedes_the_route() {
        let base = |domain: &str, path: Value| {
            let v2 = request("2.0", json!({"domainName": domain, "stage": "s", "http": {"path": path}}));
            let v1 = request("1.0", json!({"domainName": domain, "stage": "s", "path": path}));
            assert_eq!(ROUTES[0].base_url(&v1), ROUTES[0].base_url(&v2));
            ROUTES[0].base_url(&v2)
        };
        for prefix in ["", "/prod", "/health", "/health/v1.2", "/a", "/-_."] {
            for path in [format!("{prefix}/a"), format!("{prefix}/a/")] {
                assert_eq!(base("api.example.test", json!(path)), Some(format!("https://api.example.test{prefix}")));
            }
        }
        for path in
            ["", "/", "/b", "/xa", "//a", "/x//a", "/../a", "/x/./a", "/x%2f/a", "/x y/a", "/x?/a", "/ü/a", "x/a"]
        {
            assert_eq!(base("api.example.test", json!(path)).as_deref(), Some("https://api.example.test"), "{path}");
        }
        assert_eq!(base("api.example.test", Value::Null).as_deref(), Some("https://api.example.test"));
        for domain in ["evil.example/x?", ""] {
            assert_eq!(base(domain, json!("/a")), None);
        }
    }

    #[test]
    fn an_id_of_api_gateway_is_short_and_visible() {
        let long = "x".repeat(129);
        for (id, expected) in
            [("made-up_1=", true), (&long[1..], true), (&long, false), ("", false), ("a b", false), ("ü", false)]
        {
            for version in ["1.0", "2.0"] {
                let request = request(version, json!({"requestId": id}));
                assert_eq!(request_id(&request), Some(id).filter(|_| expected), "{version} {id}");
            }
        }
    }
}
