//! The requests of Human API's iOS and Android SDKs to the popup and `finishUrl`, byte for byte.
//!
//! The SDKs build the popup's address from the user's id, each in its own way, and take one URL (`authURL`) for the session. They
//! send no header of the app. They accept 200 or 201, and read `publicToken` at the top level of the response. Sources: `HumanConnectViewController.m`
//! of github.com/humanapi/humanapi-ios-client and `ConnectActivity.java` of github.com/humanapi/humanapi-android-client.

use std::fmt::Write;

use local::human_api::{CLIENT_ID, human_id};
use local::local_stack::{LocalStack, Options};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RUNNER: &str = "ada+run@example.test";
/// A plain id, and ids that a URL cannot carry unencoded.
const IDS: [&str; 4] = ["ada", RUNNER, "ada lovelace", "50% zoë&co=1#?/"];

const IOS: &str = "MadeUpApp/1 CFNetwork/1492 Darwin/23.3.0";
const ANDROID: &str = "Dalvik/2.1.0 (Linux; U; Android 14)";

/// Android's `Uri.encode` keeps letters, digits and `_-!.~'()*`, as `encodeURIComponent` does.
const URI_ENCODE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'-')
    .remove(b'!')
    .remove(b'.')
    .remove(b'~')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*');

/// A response to `POST /connect/session` for the popup, as the app gets it.
struct Session(Value);

impl Session {
    async fn start(stack: &LocalStack, user: &str) -> Self {
        Self(stack.gateway.as_user("POST /connect/session", user, &json!({"flow": "popup"})).await.json())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap()
    }
}

/// iOS 1.1: `connectUrlForParams` inserts each value unencoded. The order of the dictionary's keys is made up.
fn ios_address(session: &Session, user_id: &str) -> String {
    let mut address =
        "https://connect.humanapi.co/?finishUrl=https://connect-token&closeUrl=https://connect-closed".to_owned();
    write!(address, "&clientId={}&clientUserId={user_id}", session.text("clientId")).unwrap();
    if !session.text("publicToken").is_empty() {
        write!(address, "&publicToken={}", session.text("publicToken")).unwrap();
    }
    address
}

/// Android: `Uri.Builder.appendQueryParameter` encodes each value.
fn android_address(session: &Session, user_id: &str) -> String {
    let mut address = "https://connect.humanapi.co/embed?".to_owned();
    let mut append = |name: &str, value: &str| {
        write!(address, "{name}={}&", utf8_percent_encode(value, URI_ENCODE)).unwrap();
    };
    append("client_id", session.text("clientId"));
    append("client_user_id", user_id);
    if !session.text("publicToken").is_empty() {
        append("public_token", session.text("publicToken"));
    }
    append("finish_url", "https://hapi-finish");
    append("close_url", "https://hapi-close");
    address.trim_end_matches('&').to_owned()
}

/// The popup's result after the user has connected a source.
struct Finished {
    human_id: String,
    session_token: String,
}

/// Reads the popup's address as a browser does. The query is decoded as a form, so `+` is a space.
fn popup(stack: &LocalStack, address: &str) -> Finished {
    let address = reqwest::Url::parse(address).unwrap();
    let (_, user) =
        address.query_pairs().find(|(name, _)| matches!(&**name, "clientUserId" | "client_user_id")).unwrap();
    let object = stack.human_api.popup(&user);
    let text = |name: &str| object[name].as_str().unwrap().to_owned();
    Finished { human_id: text("humanId"), session_token: text("sessionToken") }
}

/// Sends these bytes. Returns the status and the body of the response.
async fn exchange(host: &str, request: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// Posts to this URL, as an HTTP client does that gets the URL in one piece.
async fn post(url: &str, headers: &str, body: &str) -> (u16, Value) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let length = body.len();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    exchange(host, &request).await
}

/// iOS with `authURL`: the content type has no charset.
async fn ios_posts(session: &Session, finished: &Finished) -> (u16, Value) {
    let Finished { human_id, session_token } = finished;
    let body = format!(r#"{{"humanId":"{human_id}","clientId":"{CLIENT_ID}","sessionToken":"{session_token}"}}"#);
    let headers = format!("Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: {IOS}");
    post(session.text("finishUrl"), &headers, &body).await
}

/// Android: the library Resty adds a charset.
async fn android_posts(session: &Session, finished: &Finished) -> (u16, Value) {
    let Finished { human_id, session_token } = finished;
    let body = format!(r#"{{"sessionToken":"{session_token}","clientId":"{CLIENT_ID}","humanId":"{human_id}"}}"#);
    let headers =
        format!("Content-Type: application/json; charset=UTF-8\r\nAccept: application/json\r\nUser-Agent: {ANDROID}");
    post(session.text("finishUrl"), &headers, &body).await
}

/// Checks that the first finish stored tokens, and that the same finish again gets the same body. A phone may repeat it
/// if its network breaks.
fn assert_finished((status, first): &(u16, Value), (again_status, again): &(u16, Value), user: &str) {
    assert_eq!(*status, 201, "{user}: {first}");
    let public = first.get("publicToken").and_then(Value::as_str).unwrap_or_default();
    assert!(public.starts_with("made-up-public-token"), "{user}: the popup's session was not exchanged: {first}");
    assert_eq!(first.get("humanId"), Some(&json!(human_id(user))), "Human API's user has the plain id");
    assert!(!first.to_string().contains("access-token"), "the phone must never get an access token");
    assert_eq!((*again_status, again), (200, first));
}

async fn start_stack() -> LocalStack {
    LocalStack::start(Options::in_memory()).await.unwrap()
}

#[tokio::test]
async fn ios_pastes_the_encoded_id_into_the_popups_address_and_finishes() {
    let stack = start_stack().await;
    for user in IDS {
        for returning in [false, true] {
            let session = Session::start(&stack, user).await;
            assert_eq!(session.text("publicToken").is_empty(), !returning);
            let finished = popup(&stack, &ios_address(&session, session.text("clientUserId")));
            let first = ios_posts(&session, &finished).await;
            let again = ios_posts(&session, &finished).await;
            assert_finished(&first, &again, user);
        }
    }
}

#[tokio::test]
async fn android_encodes_the_plain_id_into_the_popups_address_and_finishes() {
    let stack = start_stack().await;
    for user in IDS {
        for returning in [false, true] {
            let session = Session::start(&stack, user).await;
            assert_eq!(session.text("publicToken").is_empty(), !returning);
            let finished = popup(&stack, &android_address(&session, user));
            let first = android_posts(&session, &finished).await;
            let again = android_posts(&session, &finished).await;
            assert_finished(&first, &again, user);
        }
    }
}

#[tokio::test]
async fn the_two_sdks_open_these_addresses() {
    let session = Session::start(&start_stack().await, RUNNER).await;
    assert_eq!(
        ios_address(&session, session.text("clientUserId")),
        format!(
            "https://connect.humanapi.co/?finishUrl=https://connect-token&closeUrl=https://connect-closed\
             &clientId={CLIENT_ID}&clientUserId=ada%2Brun%40example.test"
        )
    );
    assert_eq!(
        android_address(&session, RUNNER),
        format!(
            "https://connect.humanapi.co/embed?client_id={CLIENT_ID}&client_user_id=ada%2Brun%40example.test\
             &finish_url=https%3A%2F%2Fhapi-finish&close_url=https%3A%2F%2Fhapi-close"
        )
    );
}

/// `mobile.md` therefore gives iOS the encoded id: the popup reads `ada+run` as `ada run`, another user.
#[tokio::test]
async fn ios_with_the_plain_id_is_refused_and_spends_the_session() {
    let stack = start_stack().await;
    let session = Session::start(&stack, RUNNER).await;
    let finished = popup(&stack, &ios_address(&session, RUNNER));
    assert_eq!(finished.human_id, human_id("ada run@example.test"));
    let (status, answer) = ios_posts(&session, &finished).await;
    assert_eq!((status, answer.get("code")), (403, Some(&json!("user_mismatch"))), "{answer}");
    let (status, answer) = ios_posts(&session, &finished).await;
    assert!((400..500).contains(&status), "the session is spent: {status} {answer}");

    // A new session with the encoded id succeeds.
    let session = Session::start(&stack, RUNNER).await;
    let finished = popup(&stack, &ios_address(&session, session.text("clientUserId")));
    let (status, answer) = ios_posts(&session, &finished).await;
    assert_eq!(status, 201, "{answer}");
}

/// `mobile.md` therefore gives Android the plain id: an id that is encoded twice is another user at Human API.
#[tokio::test]
async fn android_with_the_encoded_id_is_another_user_at_human_api() {
    let stack = start_stack().await;
    let session = Session::start(&stack, RUNNER).await;
    let address = android_address(&session, session.text("clientUserId"));
    assert!(address.contains("client_user_id=ada%252Brun%2540example.test"), "{address}");
    let finished = popup(&stack, &address);
    assert_eq!(finished.human_id, human_id("ada%2Brun%40example.test"));
    assert_ne!(finished.human_id, human_id(RUNNER));
}

/// iOS 1.1 without `authURL`: the app has the object, and the user's JWT.
#[tokio::test]
async fn an_app_posts_the_object_of_ios_as_it_is() {
    let stack = start_stack().await;
    for user in IDS {
        let bearer = format!("Authorization: Bearer {}\r\n", stack.issuer.sign(user, None));
        let url = format!("{}/connect/finish", stack.console);
        for with_jwt in [true, false] {
            let session = Session::start(&stack, user).await;
            let Finished { human_id, session_token } =
                popup(&stack, &ios_address(&session, session.text("clientUserId")));
            let body = format!(
                r#"{{"status":"auth","human_id":"{human_id}","client_id":"{CLIENT_ID}","session_token":"{session_token}"}}"#
            );
            let (url, authorization) = if with_jwt { (&*url, &*bearer) } else { (session.text("finishUrl"), "") };
            let headers = format!("{authorization}Content-Type: application/json\r\nUser-Agent: {IOS}");
            let first = post(url, &headers, &body).await;
            let again = post(url, &headers, &body).await;
            assert_finished(&first, &again, user);
        }
    }
}

/// The newest iOS 1.1 calls `onSuccessWithSessionToken:andHumanId:`, and the app builds the object from the two values.
#[tokio::test]
async fn an_app_posts_the_two_values_of_the_newest_ios() {
    let stack = start_stack().await;
    for user in IDS {
        let session = Session::start(&stack, user).await;
        let Finished { human_id, session_token } = popup(&stack, &ios_address(&session, session.text("clientUserId")));
        let body = json!({"humanId": human_id, "clientId": session.text("clientId"), "sessionToken": session_token});
        let bearer = stack.issuer.sign(user, None);
        let headers = format!("Authorization: Bearer {bearer}\r\nContent-Type: application/json\r\nUser-Agent: {IOS}");
        let url = format!("{}/connect/finish", stack.console);
        let first = post(&url, &headers, &body.to_string()).await;
        let again = post(&url, &headers, &body.to_string()).await;
        assert_finished(&first, &again, user);
    }
}
