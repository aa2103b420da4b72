//! Pages of other origins over HTTP, with the CORS configuration of `template.yaml`.

use local::cors::Refusals;
use local::local_stack::{LocalStack, Options};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response};

const APP: &str = "https://app.example.test";

struct Browser {
    stack: LocalStack,
    http: reqwest::Client,
}

impl Browser {
    async fn allowing(origins: &str) -> Self {
        Self::with(origins, Refusals::default()).await
    }

    async fn with(origins: &str, refusals: Refusals) -> Self {
        let options = Options { origins: origins.to_owned(), refusals, ..Options::in_memory() };
        let stack = LocalStack::start(options).await.unwrap();
        let http = shared::network::http_client(&stack.config).unwrap();
        Self { stack, http }
    }

    async fn send(&self, route: &str, headers: &[(&'static str, &str)]) -> Response {
        let (method, path) = route.split_once(' ').unwrap();
        let url = format!("{}{path}", self.stack.console);
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), url).headers(headers).send().await.unwrap()
    }

    /// Sends the preflight that a browser sends before a page's request with a token and JSON.
    async fn preflight(&self, origin: &str) -> Response {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        self.send("OPTIONS /connect/session", &headers).await
    }
}

fn of_cors(response: &Response) -> Vec<String> {
    let headers = response.headers().iter().filter(|(name, _)| name.as_str().starts_with("access-control-"));
    let mut headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    headers.sort();
    headers
}

const MAY_READ: [&str; 2] =
    ["access-control-allow-origin: https://app.example.test", "access-control-expose-headers: Retry-After"];

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_send_its_token_and_read_retry_after() {
    let browser = Browser::allowing("https://www.example.test,https://app.example.test").await;
    let response = browser.preflight(APP).await;
    assert_eq!(response.status(), 204);
    assert_eq!(
        of_cors(&response),
        [
            "access-control-allow-headers: authorization,content-type,baggage,sentry-trace,traceparent,tracestate",
            "access-control-allow-methods: GET,POST,DELETE",
            "access-control-allow-origin: https://app.example.test",
            "access-control-expose-headers: Retry-After",
            "access-control-max-age: 3600",
        ]
    );
    // A page may read the functions' responses, the authorizer's refusals, and the 404 of an unknown route.
    let token = browser.stack.issuer.sign("ada", None);
    let bearer = format!("Bearer {token}");
    for (route, authorization, status) in [
        ("GET /connect/connection", bearer.as_str(), 200),
        ("POST /connect/public-token", &bearer, 404),
        ("GET /connect/connection", "Bearer made-up", 401),
        ("GET /nowhere", "", 404),
    ] {
        let response = browser.send(route, &[("origin", APP), ("authorization", authorization)]).await;
        assert_eq!(
            (response.status().as_u16(), of_cors(&response).as_slice()),
            (status, &MAY_READ.map(str::to_owned)[..]),
            "{route}"
        );
    }
}

#[tokio::test]
async fn other_origins_and_callers_without_origin_get_no_cors_headers() {
    let browser = Browser::allowing(APP).await;
    for origin in ["https://evil.example.test", "https://app.example.test.evil.test", "http://app.example.test", "null"]
    {
        let response = browser.preflight(origin).await;
        assert_eq!((response.status().as_u16(), of_cors(&response).len()), (204, 0), "{origin}");
        let response = browser.send("GET /connect/connection", &[("origin", origin)]).await;
        assert_eq!((response.status().as_u16(), of_cors(&response).len()), (401, 0), "{origin}");
    }
    let response = browser.send("GET /connect/connection", &[]).await;
    assert_eq!(of_cors(&response).len(), 0, "a phone has no origin");
    let response = browser.send("OPTIONS /connect/session", &[("origin", APP)]).await;
    assert_eq!(response.status(), 404, "not a preflight: the route does not exist");
}

#[tokio::test]
async fn the_switch_hides_only_the_refusals_of_api_gateway() {
    for (refusals, seen) in [(Refusals::Readable, MAY_READ.len()), (Refusals::Hidden, 0)] {
        let browser = Browser::with(APP, refusals).await;
        let bearer = format!("Bearer {}", browser.stack.issuer.sign("ada", None));
        for (route, authorization, status, headers) in [
            ("GET /connect/connection", "Bearer made-up", 401, seen),
            ("GET /connect/connection", "", 401, seen),
            ("POST /internal/access-token", "", 403, seen),
            ("GET /nowhere", "", 404, seen),
            // Responses of functions.
            ("GET /connect/connection", &bearer, 200, MAY_READ.len()),
            ("POST /connect/public-token", &bearer, 404, MAY_READ.len()),
            ("POST /connect/finish/made-up", "", 401, MAY_READ.len()),
        ] {
            let response = browser.send(route, &[("origin", APP), ("authorization", authorization)]).await;
            let answer = (response.status().as_u16(), of_cors(&response).len());
            assert_eq!(answer, (status, headers), "{refusals:?}: {route}");
        }
        let response = browser.preflight(APP).await;
        assert_eq!((response.status().as_u16(), of_cors(&response).len()), (204, 5), "{refusals:?}");
    }
}

/// The developer's own page gets its user's JWT here. The README and `web/examples/your-app.local.js` promise it.
#[tokio::test]
async fn sign_in_the_widgets_frames_and_the_api_accept_the_same_origins() {
    let browser = Browser::allowing("https://www.example.test,https://app.example.test").await;
    let state = browser.send("GET /local/state", &[]).await.text().await.unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let widgets = state["widgetOrigin"].as_str().unwrap();
    for page in ["/", "/popup"] {
        let page = browser.http.get(format!("{widgets}{page}")).send().await.unwrap();
        let policy = page.headers().get("content-security-policy").unwrap().to_str().unwrap().to_owned();
        let frames =
            format!("frame-ancestors {} https://www.example.test https://app.example.test", browser.stack.console);
        assert!(policy.ends_with(&frames), "{policy}");
    }
    for (origin, is_allowed) in [(APP, true), ("https://evil.example.test", false)] {
        let preflight = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ];
        let response = browser.send("OPTIONS /local/sign-in", &preflight).await;
        assert_eq!((response.status().as_u16(), !of_cors(&response).is_empty()), (204, is_allowed), "{origin}");
        let sign_in = browser.http.post(format!("{}/local/sign-in", browser.stack.console)).header("origin", origin);
        let sign_in = sign_in.header("content-type", "application/json").body(r#"{"user": "ada"}"#);
        let response = sign_in.send().await.unwrap();
        let allowed = response.headers().get("access-control-allow-origin").map(|origin| origin.to_str().unwrap());
        assert_eq!((response.status().as_u16(), allowed), (200, is_allowed.then_some(origin)));
    }
}

#[tokio::test]
async fn cors_is_off_without_allowed_origins() {
    let browser = Browser::allowing("").await;
    let response = browser.preflight(APP).await;
    assert_eq!((response.status().as_u16(), of_cors(&response).len()), (404, 0));
}

#[tokio::test]
async fn the_local_stack_refuses_the_origins_that_a_deployed_stack_refuses() {
    for origins in ["*", "https://app.example.test/", "http://app.example.test", "https://a.test, https://b.test"] {
        let refused = LocalStack::start(Options { origins: origins.to_owned(), ..Options::in_memory() }).await;
        let error = refused.err().expect(origins).to_string();
        assert!(error.contains(origins) && error.contains("must be empty or https origins"), "{error}");
    }
}

#[tokio::test]
async fn a_preflight_is_one_of_the_calls_that_the_console_draws() {
    let browser = Browser::allowing(APP).await;
    browser.preflight(APP).await;
    browser.preflight("https://evil.example.test").await;
    let (calls, _) = browser.stack.calls.after(0);
    let drawn: Vec<_> = calls.iter().map(|call| (call.what.as_str(), call.status)).collect();
    let refused = "preflight of POST /connect/session: this origin is not allowed";
    assert_eq!(drawn, [("preflight of POST /connect/session", Some(204)), (refused, Some(204))]);
}

#[tokio::test]
async fn a_page_with_tracing_may_send_its_headers() {
    let browser = Browser::allowing(APP).await;
    let requested = "authorization, baggage, content-type, sentry-trace, traceparent, tracestate";
    let headers =
        [("origin", APP), ("access-control-request-method", "POST"), ("access-control-request-headers", requested)];
    let response = browser.send("OPTIONS /connect/session", &headers).await;
    assert_eq!(response.status(), 204);
    let allowed = response.headers().get("access-control-allow-headers").unwrap().to_str().unwrap();
    let allowed: Vec<_> = allowed.split(',').collect();
    for header in requested.split(", ") {
        assert!(allowed.contains(&header), "{header} is not among {allowed:?}");
    }
}

#[tokio::test]
async fn a_page_on_loopback_may_call_by_name_and_by_number() {
    let origins = ["http://localhost:5173", "http://127.0.0.1:5173", "http://[::1]:5173", "http://app.localhost:5173"];
    let browser = Browser::allowing(&origins.join(",")).await;
    for origin in origins {
        let response = browser.preflight(origin).await;
        let allowed = response.headers().get("access-control-allow-origin").unwrap();
        assert_eq!(allowed, origin);
    }
}

#[tokio::test]
async fn the_local_stack_refuses_an_origin_that_api_gateway_refuses() {
    for origin in ["capacitor://localhost", "ionic://localhost", "null", "file://"] {
        let refused = LocalStack::start(Options { origins: origin.to_owned(), ..Options::in_memory() }).await;
        let error = refused.err().expect(origin).to_string();
        assert!(error.contains(origin) && error.contains("must be empty or https origins"), "{error}");
    }
}
