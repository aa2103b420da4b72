//! Human API's iOS and Android SDKs against `finishUrl`: they take one URL (`authURL`), send no header of the app's, take 200
//! or 201, and read `publicToken` at the top level of the answer. Byte for byte, over TCP.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use local::human_api::{CLIENT_ID, human_id};
use local::laptop::{Laptop, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What an app gets that asks for the popup: the `finishUrl` to hand to the SDK, split as an HTTP client does.
async fn auth_url(laptop: &Laptop, user: &str) -> (String, String) {
    let session = laptop.gateway.as_user("POST /connect/session", user, &json!({"flow": "popup"})).await.json();
    let url = url(&session);
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    (host.to_owned(), format!("/{path}"))
}

fn url(session: &Value) -> String {
    session.get("finishUrl").and_then(Value::as_str).unwrap().to_owned()
}

/// Sends these bytes; the status and the body of the answer.
async fn exchange(host: &str, request: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

async fn finishes(user_agent: &str, order: [&str; 3]) {
    let laptop = Laptop::start(Options::in_memory()).await.unwrap();
    let (host, path) = auth_url(&laptop, "ada").await;
    let session = laptop.human_api.with(|state| {
        state.connect("ada", "made-up-01");
        state.add_session("ada", None)
    });
    let value = |name: &str| match name {
        "humanId" => human_id("ada"),
        "clientId" => CLIENT_ID.to_owned(),
        _ => session.clone(),
    };
    let fields = order.map(|name| format!("\"{name}\":\"{}\"", value(name)));
    let body = format!("{{{}}}", fields.join(","));
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
         User-Agent: {user_agent}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, first) = exchange(&host, &request).await;
    assert_eq!(status, 201, "{first}");
    let public = first.get("publicToken").and_then(Value::as_str).unwrap();
    assert!(public.starts_with("made-up-public-token"));
    assert!(!first.to_string().contains("access-token"), "what the phone must never see");
    // a phone whose network breaks sends it again
    let (status, again) = exchange(&host, &request).await;
    assert_eq!((status, &again), (200, &first));
}

#[tokio::test]
async fn ios_finishes_with_its_auth_url() {
    finishes("MadeUpApp/1 CFNetwork/1492 Darwin/23.3.0", ["humanId", "clientId", "sessionToken"]).await;
}

#[tokio::test]
async fn android_finishes_with_its_auth_url() {
    finishes("Dalvik/2.1.0 (Linux; U; Android 14)", ["sessionToken", "clientId", "humanId"]).await;
}
