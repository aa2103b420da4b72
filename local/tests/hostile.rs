//! Events that no API Gateway sends, and their cost. Each gets a response that the contract names. A request that is
//! refused for its form is refused before any work.

use std::path::Path;

use local::examples;
use local::gateway::{ACCESS_TOKEN, CONNECTION, FORGET};
use local::human_api::CLIENT_ID;
use local::local_stack::{LocalStack, Options};
use serde_json::{Value, json};

/// One event of each route and payload format, each with a successful response.
const EVENTS: [(&str, &str); 11] = [
    ("POST /connect/session", "session-start/connect-returning-user.json"),
    ("POST /connect/finish", "finish/form.json"),
    ("POST /connect/finish", "finish/widget-connected.json"),
    ("POST /connect/finish", "finish/ticket.json"),
    ("POST /connect/public-token", "public-token/stored.json"),
    ("POST /internal/access-token", "access-token/connect-user.json"),
    ("POST /internal/access-token", "access-token/rest-iam.json"),
    (CONNECTION, "connection/backend-popup-user.json"),
    (FORGET, "connection/backend-forget.json"),
    ("GET /connect/connection", "connection/connect-user.json"),
    ("DELETE /connect/connection", "connection/rest-forget.json"),
];

/// The values that replace each part of an event.
fn replacements() -> [Value; 7] {
    [
        Value::Null,
        json!(-1e308),
        json!("\u{0}\u{202e}made-up\r\nx-injected: 1"),
        json!("9".repeat(70_000)),
        json!([]),
        json!({}),
        json!([{"sub": "victim", "": [[[[[[]]]]]]}]),
    ]
}

fn event(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events").join(name);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Returns a JSON pointer to every part of an event.
fn paths(value: &Value) -> Vec<String> {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, part)| (name.replace('~', "~0").replace('/', "~1"), part)).collect()
        }
        Value::Array(list) => list.iter().enumerate().map(|(at, part)| (at.to_string(), part)).collect(),
        _ => Vec::new(),
    };
    let below = below.into_iter().flat_map(|(name, part)| {
        let deeper = paths(part).into_iter().map(move |path| format!("/{name}{path}"));
        deeper.collect::<Vec<_>>()
    });
    [String::new()].into_iter().chain(below).collect()
}

#[tokio::test]
async fn an_event_with_any_part_replaced_never_causes_a_fault() {
    let stack = LocalStack::start(Options::in_memory()).await.unwrap();
    examples::set_up(&stack).await.unwrap();
    let mut number = 0;
    for (route, name) in EVENTS {
        let event = event(name);
        for path in paths(&event) {
            for replacement in replacements() {
                let mut hostile = event.clone();
                *hostile.pointer_mut(&path).unwrap() = replacement.clone();
                let before = stack.calls.last();
                let reply = stack.gateway.invoke(route, &hostile).await;
                let what = format!("{name} {path} {:.60}: {} {}", replacement.to_string(), reply.status, reply.body);
                assert!((200..500).contains(&reply.status), "{what}");
                assert!(reply.body.len() < 2048, "{what}");
                let echoed = |text: &str| text.contains("x-injected");
                assert!(reply.status < 400 || !echoed(&reply.body), "{what}");
                assert!(!reply.headers.values().any(|value| echoed(&value.to_string())), "{what}");
                if [400, 404, 405, 413, 415].contains(&reply.status) && reply.json()["code"] != "not_connected" {
                    assert_eq!(stack.calls.of_functions_after(before), [""; 0], "{what}");
                }
                number += 1;
            }
        }
    }
    assert!(number >= 4000, "{number} events: some parts were not replaced");
}

#[tokio::test]
async fn a_request_that_is_refused_for_its_form_or_its_caller_makes_no_call() {
    let stack = LocalStack::start(Options::in_memory()).await.unwrap();
    let long = "x".repeat(4097);
    let session = |field: &str, text: &str| {
        let mut body = json!({"humanId": "h", "clientId": CLIENT_ID, "sessionToken": "s"});
        body[field] = json!(text);
        body
    };
    let before = stack.calls.last();
    for (route, body, code) in [
        ("POST /connect/finish", json!({"status": "x".repeat(70_000)}), "body_too_large"),
        ("POST /connect/session", json!({"flow": "x".repeat(70_000)}), "body_too_large"),
        ("POST /connect/public-token", json!({"x": "x".repeat(70_000)}), "body_too_large"),
        ("GET /connect/connection", json!({"x": "x".repeat(70_000)}), "body_too_large"),
        ("DELETE /connect/connection", json!({"x": "x".repeat(70_000)}), "body_too_large"),
        ("POST /connect/finish", session("sessionToken", &long), "invalid_request"),
        ("POST /connect/finish", session("humanId", &long), "invalid_request"),
        ("POST /connect/finish", session("clientId", "another-client"), "client_mismatch"),
        ("POST /connect/session", json!({"flow": long}), "invalid_request"),
        ("POST /connect/session", json!({"clientUserEmail": long}), "invalid_request"),
        ("POST /connect/public-token", json!({"refresh": "yes"}), "invalid_request"),
    ] {
        let reply = stack.gateway.as_user(route, "ada", &body).await;
        assert_eq!(reply.json()["code"], code, "{route}");
    }
    let long_user = "x".repeat(1025);
    for route in [ACCESS_TOKEN, CONNECTION, FORGET] {
        for user in [json!(long_user), json!(" "), json!(7), Value::Null] {
            let reply = stack.gateway.as_backend(route, &json!({"clientUserId": user})).await;
            assert_eq!(reply.json()["code"], "invalid_request", "{route} {user}");
        }
    }
    assert_eq!(stack.gateway.as_user("POST /connect/session", &long_user, &json!({})).await.status, 401);
    let object = json!({"humanId": "h", "clientId": CLIENT_ID, "sessionToken": "s"});
    for ticket in ["", "x", &"A".repeat(85), &"A".repeat(87), &"=".repeat(86), &"A".repeat(100_000)] {
        assert_eq!(stack.gateway.with_ticket(ticket, &object).await.status, 401);
    }
    assert_eq!(stack.calls.of_functions_after(before), [""; 0]);
}

#[tokio::test]
async fn a_made_up_ticket_makes_one_call_of_the_table() {
    let stack = LocalStack::start(Options::in_memory()).await.unwrap();
    let object = json!({"humanId": "h", "clientId": CLIENT_ID, "sessionToken": "s"});
    stack.gateway.with_ticket(&"A".repeat(86), &object).await;
    let before = stack.calls.last();
    assert_eq!(stack.gateway.with_ticket(&"A".repeat(86), &object).await.status, 401);
    assert_eq!(stack.calls.of_functions_after(before), ["UpdateItem"]);
}
