use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::aws::tests::config;
use crate::network::http_client;
use crate::token::SessionToken;
use scripted::{Answer, Request, Server};

const ACCESS: AccessRequest<'static> = AccessRequest { client_user_id: "ada" };

fn human_api(url: &str) -> HumanApi {
    let config = config(&[("HUMAN_API_AUTH_URL", url), ("HUMAN_API_USER_URL", url)]);
    HumanApi::new(&config, http_client(&config).unwrap())
}

fn secret() -> ClientSecret {
    ClientSecret::new("made-up-secret")
}

/// The failure of one attempt: its cause, whether Human API may have performed the request, and whether it is retryable.
async fn failure<R: HumanApiRequest>(request: &R, answer: Answer) -> (String, bool, bool) {
    let server = Server::answering([answer]).await;
    match human_api(&server.url).attempt(request, &secret()).await {
        Ok(_) => panic!("the attempt succeeded"),
        Err(failure) => (failure.cause.to_string(), failure.maybe_performed, failure.is_retryable),
    }
}

async fn request_of<R: HumanApiRequest>(request: R) -> (String, Value) {
    let server = Server::answering([Answer::text(500, "")]).await;
    assert!(human_api(&server.url).attempt(&request, &secret()).await.is_err());
    let Request { head, body } = server.requests().remove(0);
    assert!(head.to_lowercase().contains("\r\ncontent-type: application/json\r\n"), "{head}");
    (head.lines().next().unwrap().to_owned(), serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn each_request_has_the_shape_that_the_guides_give() {
    let session_token = SessionToken::new("made-up-session".to_owned());
    let popup = |field: &str, value: &str| json!({"clientId": "HUMAN_API_CLIENT_ID", "clientSecret": "made-up-secret", "humanId": "h", field: value});
    let (line, body) = request_of(ExchangeRequest { human_id: "h", session_token: &session_token }).await;
    assert_eq!((line.as_str(), body), ("POST /v1/connect/tokens HTTP/1.1", popup("sessionToken", "made-up-session")));
    let (line, body) = request_of(PublicTokenRequest { human_id: "h" }).await;
    assert_eq!((line.as_str(), body), ("POST /v1/connect/publictokens HTTP/1.1", popup("humanId", "h")));
    let connect = |kind: &str| {
        json!({"client_id": "HUMAN_API_CLIENT_ID", "client_secret": "made-up-secret", "client_user_id": "ada",
            "type": kind})
    };
    assert_eq!(request_of(ACCESS).await, ("POST /v1/connect/token HTTP/1.1".into(), connect("access")));
    assert_eq!(request_of(IdRequest { client_user_id: "ada" }).await.1, connect("id"));
    let mut session = connect("session");
    session["client_user_email"] = json!("ada@example.test");
    let request = SessionRequest { client_user_id: "ada", client_user_email: "ada@example.test" };
    assert_eq!(request_of(request).await.1, session);
}

#[tokio::test]
async fn a_response_is_read_from_any_success() {
    for status in [200, 201] {
        let server = Server::answering([Answer::json(status, &json!({"access_token": "t", "expires_in": 60}))]).await;
        let response = human_api(&server.url).attempt(&ACCESS, &secret()).await.unwrap();
        assert_eq!((response.access_token.expose(), response.expires_in), ("t", Some(Duration::from_secs(60))));
    }
}

#[tokio::test]
async fn a_response_has_at_most_64_kib() {
    let of_length = |length: usize| {
        let (head, tail) = (r#"{"expires_in":60,"access_token":"t","more":""#, r#""}"#);
        Answer::text(200, &format!("{head}{}{tail}", "x".repeat(length - head.len() - tail.len())))
    };
    let server = Server::answering([of_length(64 * 1024)]).await;
    assert!(human_api(&server.url).attempt(&ACCESS, &secret()).await.is_ok());
    let too_long = ("Human API's answer is longer than 64 KiB".to_owned(), true, false);
    assert_eq!(failure(&ACCESS, of_length(64 * 1024 + 1)).await, too_long);
}

#[test]
fn what_the_configuration_says_is_kept() {
    let human_api = human_api("http://localhost");
    assert_eq!((human_api.client_id(), human_api.timeout()), ("HUMAN_API_CLIENT_ID", Duration::from_secs(8)));
}

#[tokio::test]
async fn each_status_says_whether_the_request_was_performed_and_may_be_sent_again() {
    let unavailable = "Human API is not available";
    for (status, cause, maybe_performed, is_retryable) in [
        (200, "Human API's answer is not the documented JSON", true, false),
        (302, "Human API's answer is not a status that it documents", false, false),
        (400, "Human API refused with 400 Bad Request", false, false),
        (401, "Human API refuses our client credentials", false, false),
        (403, "Human API refused with 403 Forbidden", false, false),
        (404, "Human API refused with 404 Not Found", false, false),
        (422, "Human API refused with 422 Unprocessable Entity", false, false),
        (429, "Human API asks for fewer requests", false, true),
        (500, unavailable, true, false),
        (501, unavailable, true, false),
        (502, unavailable, true, true),
        (503, unavailable, true, true),
        (504, unavailable, true, true),
    ] {
        let expected = (cause.to_owned(), maybe_performed, is_retryable);
        assert_eq!(failure(&ACCESS, Answer::text(status, "{}")).await, expected, "{status}");
    }
}

#[tokio::test]
async fn only_a_request_with_an_address_can_have_it_rejected() {
    let refusal = Answer::json(400, &json!({"validation": {"keys": ["client_user_email"]}}));
    let session = SessionRequest { client_user_id: "ada", client_user_email: "ada" };
    let rejected = ("Human API rejects the e-mail address".to_owned(), false, false);
    assert_eq!(failure(&session, refusal.clone()).await, rejected);
    let refused = ("Human API refused with 400 Bad Request".to_owned(), false, false);
    assert_eq!(failure(&ACCESS, refusal).await, refused);
    assert_eq!(failure(&session, Answer::text(400, "{}")).await, refused);
}

#[tokio::test]
async fn the_wait_that_human_api_asks_for_is_kept() {
    for status in [429, 500, 503] {
        let server = Server::answering([Answer::with_headers(status, "retry-after: 7\r\n", "")]).await;
        let outcome = human_api(&server.url).attempt(&ACCESS, &secret()).await;
        let cause = outcome.err().map(|failure| failure.cause);
        let Some(Cause::Unavailable { retry_after } | Cause::RateLimited { retry_after }) = cause else {
            panic!("{status}: {cause:?}")
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)), "{status}");
    }
}

#[tokio::test]
async fn half_a_response_may_have_been_performed() {
    let lost = ("Human API is not available".to_owned(), true, true);
    for half in ["", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\":"]
    {
        assert_eq!(failure(&ACCESS, Answer::Bytes(half.into())).await, lost, "{half}");
    }
}

#[tokio::test]
async fn a_response_that_does_not_come_to_its_end_in_time_may_be_performed_yet() {
    for begun in ["", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\":"] {
        let server = Server::answering([Answer::Stall(begun.into())]).await;
        let mut human_api = human_api(&server.url);
        human_api.timeout = Duration::from_millis(20);
        let failure = human_api.attempt(&ACCESS, &secret()).await.err().unwrap();
        assert!(matches!(failure, Failure { cause: Cause::Timeout, maybe_performed: true, is_retryable: false }));
    }
}

#[tokio::test]
async fn a_connection_that_was_never_made_carried_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = human_api(&format!("http://{free}")).attempt(&ACCESS, &secret()).await.err().unwrap();
    assert!(matches!(
        failure,
        Failure { cause: Cause::Unavailable { .. }, maybe_performed: false, is_retryable: true }
    ));
}

#[tokio::test]
async fn a_response_over_the_limit_is_refused_with_and_without_its_length() {
    let token = |length: usize| json!({"access_token": "t", "padding": "x".repeat(length)}).to_string();
    let rest = token(0).len();
    let chunked = |body: String| {
        let (length, head) = (body.len(), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n");
        Answer::Bytes(format!("{head}{length:x}\r\n{body}\r\n0\r\n\r\n"))
    };
    for (length, accepted) in [(RESPONSE_LIMIT - rest, true), (RESPONSE_LIMIT - rest + 1, false)] {
        for answer in [Answer::text(200, &token(length)), chunked(token(length))] {
            let server = Server::answering([answer]).await;
            let outcome = human_api(&server.url).attempt(&ACCESS, &secret()).await;
            match outcome {
                Ok(_) => assert!(accepted),
                Err(failure) => {
                    assert!(!accepted && failure.maybe_performed && !failure.is_retryable);
                    assert_eq!(failure.cause.to_string(), "Human API's answer is longer than 64 KiB");
                }
            }
        }
    }
}
