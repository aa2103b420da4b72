//! Events that nobody's API Gateway sends, and what they cost: each ends in an answer that the contract names, and what
//! is refused for its form is refused before any work.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step is a failed test")]

use std::path::Path;

use local::examples;
use local::human_api::CLIENT_ID;
use local::laptop::{Laptop, Options};
use serde_json::{Value, json};

/// One event of each route and payload format, that is answered as it should be.
const EVENTS: [(&str, &str); 9] = [
    ("POST /connect/session", "session-start/connect-returning-user.json"),
    ("POST /connect/finish", "finish/form.json"),
    ("POST /connect/finish", "finish/widget-connected.json"),
    ("POST /connect/finish", "finish/ticket.json"),
    ("POST /connect/public-token", "public-token/stored.json"),
    ("POST /internal/access-token", "access-token/connect-user.json"),
    ("POST /internal/access-token", "access-token/rest-iam.json"),
    ("GET /connect/connection", "connection/connect-user.json"),
    ("DELETE /connect/connection", "connection/rest-forget.json"),
];

/// What each part of an event is replaced by.
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

/// Every part of an event, as a JSON pointer.
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

/// What the functions have called since.
fn calls(laptop: &Laptop, since: u64) -> Vec<String> {
    let calls = laptop.calls.after(since).0.into_iter().filter(|call| call.from == "function");
    calls.map(|call| format!("{} {}", call.to, call.what)).collect()
}

#[tokio::test]
async fn whatever_part_of_an_event_is_replaced_no_answer_is_a_fault() {
    let laptop = Laptop::start(Options::in_memory()).await.unwrap();
    examples::set_up(&laptop).await.unwrap();
    let mut number = 0;
    for (route, name) in EVENTS {
        let event = event(name);
        for path in paths(&event) {
            for refresh_after_rejection in replacements() {
                let mut hostile = event.clone();
                *hostile.pointer_mut(&path).unwrap() = refresh_after_rejection.clone();
                let before = laptop.calls.after(0).1;
                let reply = laptop.gateway.invoke(route, &hostile).await;
                let what = format!(
                    "{name} {path} {:.60}: {} {}",
                    refresh_after_rejection.to_string(),
                    reply.status,
                    reply.body
                );
                assert!((200..500).contains(&reply.status), "{what}");
                assert!(reply.body.len() < 2048, "{what}");
                let echoed = |text: &str| text.contains("x-injected");
                assert!(reply.status < 400 || !echoed(&reply.body), "{what}");
                assert!(!reply.headers.values().any(|value| echoed(&value.to_string())), "{what}");
                if [400, 404, 405, 413, 415].contains(&reply.status) && reply.json()["code"] != "not_connected" {
                    assert_eq!(calls(&laptop, before), [""; 0], "{what}");
                }
                number += 1;
            }
        }
    }
    println!("{number} hostile events");
}

#[tokio::test]
async fn what_is_refused_for_its_form_or_its_caller_costs_no_call() {
    let laptop = Laptop::start(Options::in_memory()).await.unwrap();
    let long = "x".repeat(4097);
    let session = |field: &str, text: &str| {
        let mut body = json!({"humanId": "h", "clientId": CLIENT_ID, "sessionToken": "s"});
        body[field] = json!(text);
        body
    };
    let before = laptop.calls.after(0).1;
    for (route, body, code) in [
        ("POST /connect/finish", json!({"status": "x".repeat(70_000)}), "body_too_large"),
        ("POST /connect/finish", session("sessionToken", &long), "invalid_request"),
        ("POST /connect/finish", session("humanId", &long), "invalid_request"),
        ("POST /connect/finish", session("clientId", "another-client"), "client_mismatch"),
        ("POST /connect/session", json!({"flow": long}), "invalid_request"),
        ("POST /connect/session", json!({"clientUserEmail": long}), "invalid_request"),
        ("POST /connect/public-token", json!({"refresh": "yes"}), "invalid_request"),
    ] {
        let reply = laptop.gateway.as_user(route, "ada", &body).await;
        assert_eq!(reply.json()["code"], code, "{route}");
    }
    let long_user = "x".repeat(1025);
    assert_eq!(laptop.gateway.as_backend(&json!({"clientUserId": long_user})).await.json()["code"], "invalid_request");
    assert_eq!(laptop.gateway.as_user("POST /connect/session", &long_user, &json!({})).await.status, 401);
    let object = json!({"humanId": "h", "clientId": CLIENT_ID, "sessionToken": "s"});
    for ticket in ["", "x", &"A".repeat(85), &"A".repeat(87), &"=".repeat(86), &"A".repeat(100_000)] {
        assert_eq!(laptop.gateway.with_ticket(ticket, &object).await.status, 401);
    }
    assert_eq!(calls(&laptop, before), [""; 0]);
}

#[tokio::test]
async fn a_made_up_ticket_costs_one_look_at_the_table() {
    let laptop = Laptop::start(Options::in_memory()).await.unwrap();
    let object = json!({"humanId": "h", "clientId": CLIENT_ID, "sessionToken": "s"});
    laptop.gateway.with_ticket(&"A".repeat(86), &object).await;
    let before = laptop.calls.after(0).1;
    assert_eq!(laptop.gateway.with_ticket(&"A".repeat(86), &object).await.status, 401);
    assert_eq!(calls(&laptop, before), ["DynamoDB UpdateItem"]);
}
