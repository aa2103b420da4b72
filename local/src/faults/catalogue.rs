//! The named faults: a name, the words of the console, and the fault.

use std::time::Duration;

use serde_json::json;

use super::{Acts, Answer, Fault, Named};

/// More bytes than the functions read.
const LONG: usize = 5 * 1024 * 1024;

pub(super) fn human_api() -> Vec<Named> {
    let with = |status, headers, content_type, body: &[u8]| {
        Fault::Answer(Acts::Not, Answer { status, headers, content_type, body: body.to_vec() })
    };
    let performed = |body: &[u8]| Fault::Answer(Acts::First, Answer::json(200, body));
    let refused = |status| Fault::refuse(status, r#"{"message":"made up"}"#);
    vec![
        ("refused", "refuses connections", Fault::Refused),
        ("reset before acting", "resets the connection", Fault::Reset(Acts::Not)),
        ("reset after acting", "resets the connection", Fault::Reset(Acts::First)),
        ("hang before acting", "never answers", Fault::Hang(Acts::Not)),
        ("hang after acting", "never answers", Fault::Hang(Acts::First)),
        ("slow body", "sends one byte a second", Fault::SlowBody),
        ("half a body", "sends half of its answer", Fault::HalfBody),
        ("400", "answers 400", refused(400)),
        ("401", "answers 401", refused(401)),
        ("403", "answers 403", refused(403)),
        ("404", "answers 404", refused(404)),
        ("409", "answers 409", refused(409)),
        ("422", "answers 422", refused(422)),
        ("429", "answers 429", refused(429)),
        (
            "429, Retry-After",
            "answers 429, Retry-After 1 s",
            with(429, vec![("retry-after", "1".to_owned())], "application/json", b"{}"),
        ),
        (
            "429, long Retry-After",
            "answers 429, Retry-After 120 s",
            with(429, vec![("retry-after", "120".to_owned())], "application/json", b"{}"),
        ),
        ("500", "answers 500", refused(500)),
        ("502, HTML", "answers 502 with HTML", with(502, vec![], "text/html", b"<html><h1>Bad Gateway</h1></html>")),
        ("503", "answers 503", refused(503)),
        ("504", "answers 504", refused(504)),
        ("empty", "answers 200 with an empty body", performed(b"")),
        ("half of the JSON", "answers 200 with half of the JSON", performed(br#"{"humanId":"made-up","accessTok"#)),
        ("wrong types", "answers 200 with fields of wrong types", performed(WRONG_TYPES)),
        ("missing fields", "answers 200 without the tokens", performed(br#"{"expires_in":3600}"#)),
        ("invalid UTF-8", "answers 200 with invalid UTF-8", performed(b"{\"humanId\":\"\xff\xfe\"}")),
        ("5 MB", "answers 200 with 5 MB of spaces", performed(&[b' '; LONG])),
        (
            "redirect",
            "redirects",
            with(302, vec![("location", "http://127.0.0.1:9/made-up".to_owned())], "text/plain", b""),
        ),
    ]
}

const WRONG_TYPES: &[u8] = br#"{"humanId":1,"accessToken":[],"publicToken":{},"clientUserId":null,"access_token":7,
    "session_token":true,"id_token":0,"human_id":[],"expires_in":"soon"}"#;

pub(super) fn dynamodb() -> Vec<Named> {
    let error = |status, code: &str| aws(status, &format!("com.amazonaws.dynamodb.v20120810#{code}"));
    vec![
        ("throttled", "throttles", error(400, "ProvisionedThroughputExceededException")),
        ("500", "answers 500", error(500, "InternalServerError")),
        ("conditional conflict", "refuses a write, as if another call had been faster", Fault::Conflict),
        ("transaction conflict", "reports a transaction conflict", error(400, "TransactionConflictException")),
        ("hang", "never answers", Fault::Hang(Acts::Not)),
        ("table missing", "has no table", error(400, "ResourceNotFoundException")),
        ("answer lost after the write", "resets the connection", Fault::Reset(Acts::First)),
        ("no answer after the write", "never answers", Fault::Hang(Acts::First)),
    ]
}

pub(super) fn secrets_manager() -> Vec<Named> {
    let value = |text: &str| {
        let body =
            json!({"Name": "made-up", "VersionId": "made-up", "SecretString": text, "VersionStages": ["AWSCURRENT"]});
        Fault::Answer(Acts::Not, Answer::json(200, body.to_string()))
    };
    vec![
        ("missing", "has no such secret", aws(400, "ResourceNotFoundException")),
        ("denied", "denies access", aws(400, "AccessDeniedException")),
        ("slow", "answers after 2 s", Fault::late(Duration::from_secs(2))),
        ("too slow", "answers after 4 s", Fault::late(Duration::from_secs(4))),
        ("malformed", "gives a secret that is no JSON", value("{")),
        ("empty", "gives an empty secret", value("")),
        ("down", "answers 500", aws(500, "InternalServiceError")),
    ]
}

fn aws(status: u16, code: &str) -> Fault {
    let body = json!({"__type": code, "message": "made up"});
    Fault::Answer(
        Acts::Not,
        Answer { content_type: "application/x-amz-json-1.0", ..Answer::json(status, body.to_string()) },
    )
}
