//! Routes, and the URL under which the caller reached the API. Both come from API Gateway's own context, never from a header or a
//! raw path.

use lambda_http::request::RequestContext;
use lambda_http::{Request, RequestExt};

use super::problem::Problem;

/// A route, as API Gateway names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub method: &'static str,
    /// The path pattern, with its parameters in braces.
    pub path: &'static str,
}

impl Route {
    /// The route of a request: `routeKey` (payload 2.0), or resource and method (payload 1.0).
    pub fn of(request: &Request, routes: &'static [Self]) -> Result<Self, Problem> {
        let (method, path) = match request.request_context_ref() {
            Some(RequestContext::ApiGatewayV2(context)) => {
                context.route_key.as_deref().and_then(|key| key.split_once(' ')).ok_or_else(Problem::not_found)?
            }
            Some(RequestContext::ApiGatewayV1(context)) => {
                (request.method().as_str(), context.resource_path.as_deref().unwrap_or_default())
            }
            _ => return Err(Problem::not_found()),
        };
        let on_path = || routes.iter().filter(|route| route.path == path);
        match on_path().find(|route| route.method == method) {
            Some(route) => Ok(*route),
            None if on_path().next().is_none() => Err(Problem::not_found()),
            None => Err(Problem::method_not_allowed(on_path().map(|route| route.method).collect())),
        }
    }

    /// The URL that leads to this route's API: the domain, then the path up to the route (the stage, or the mapping key of a
    /// custom domain).
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

    fn v2(route_key: &str) -> Request {
        request("2.0", json!({"routeKey": route_key}))
    }

    #[test]
    fn the_route_key_or_resource_and_method_decide_and_never_the_path() {
        let route = |request: Request| Route::of(&request, ROUTES).map_err(|problem| problem.status());
        assert_eq!(route(v2("POST /a")), Ok(ROUTES[0]));
        assert_eq!(route(v2("GET /b/{c}")), Ok(ROUTES[2]));
        assert_eq!(route(v2("PUT /a")), Err(405));
        assert_eq!(route(v2("$default")), Err(404));
        assert_eq!(route(v2("GET /b/1")), Err(404));
        assert_eq!(route(request("1.0", json!({"resourcePath": "/a", "path": "/b/1"}))), Ok(ROUTES[0]));
        assert_eq!(route(request("1.0", json!({"resourcePath": "/b/{c}"}))), Err(405));
        assert_eq!(route(request("1.0", json!({"resourcePath": "/c", "path": "/a"}))), Err(404));
    }

    #[test]
    fn the_base_url_is_the_domain_with_what_precedes_the_route() {
        let base = |domain: &str, path: Value| {
            let v2 = request("2.0", json!({"domainName": domain, "stage": "s", "http": {"path": path}}));
            let v1 = request("1.0", json!({"domainName": domain, "stage": "s", "path": path}));
            assert_eq!(ROUTES[0].base_url(&v1), ROUTES[0].base_url(&v2));
            ROUTES[0].base_url(&v2)
        };
        assert_eq!(base("api.example.test", json!("/a")).as_deref(), Some("https://api.example.test"));
        for prefix in ["/prod", "/health", "/health/v1.2", "/a", "/-_."] {
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
        assert_eq!(base("evil.example/x?", json!("/a")), None);
        assert_eq!(base("", json!("/a")), None);
    }
}
