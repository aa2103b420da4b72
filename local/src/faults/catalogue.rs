//! The named faults.

use std::time::Duration;

use serde_json::json;

use super::{Acts, Answer, Fault};

/// More bytes than the functions read.
const LONG: usize = 5 * 1024 * 1024;

pub(super) fn human_api() -> Vec<(&'static str, Fault)> {
    let with = |status, headers, content_type, body: &[u8]| {
        Fault::Answer(Acts::Not, Answer { status, headers, content_type, body: body.to_vec() })
    };
    let performed = |body: &[u8]| Fault::Answer(Acts::First, Answer::json(200, body));
    let refused = |status| Fault::refuse(status, r#"{"message":"made up"}"#);
    vec![
        ("refused", Fault::Refused),
        ("reset before acting", Fault::Reset(Acts::Not)),
        ("reset after acting", Fault::Reset(Acts::First)),
        ("hang before acting", Fault::Hang(Acts::Not)),
        ("hang after acting", Fault::Hang(Acts::First)),
        ("slow body", Fault::SlowBody),
        ("half a body", Fault::HalfBody),
        ("400", refused(400)),
        ("401", refused(401)),
        ("403", refused(403)),
        ("404", refused(404)),
        ("409", refused(409)),
        ("422", refused(422)),
        ("429", refused(429)),
        ("429, Retry-After", with(429, vec![("retry-after", "1".to_owned())], "application/json", b"{}")),
        ("429, long Retry-After", with(429, vec![("retry-after", "120".to_owned())], "application/json", b"{}")),
        ("500", refused(500)),
        ("502, HTML", with(502, vec![], "text/html", b"<html><h1>Bad Gateway</h1></html>")),
        ("503", refused(503)),
        ("504", refused(504)),
        ("empty", performed(b"")),
        ("half of the JSON", performed(br#"{"humanId":"made-up","accessTok"#)),
        ("wrong types", performed(WRONG_TYPES)),
        ("missing fields", performed(br#"{"expires_in":3600}"#)),
        ("invalid UTF-8", performed(b"{\"humanId\":\"\xff\xfe\"}")),
        ("5 MB", performed(&[b' '; LONG])),
        ("redirect", with(302, vec![("location", "http://127.0.0.1:9/made-up".to_owned())], "text/plain", b"")),
    ]
}

const WRONG_TYPES: &[u8] = br#"{"humanId":1,"accessToken":[],"publicToken":{},"clientUserId":null,"access_token":7,
    "session_token":true,"id_token":0,"human_id":[],"expires_in":"soon"}"#;

pub(super) fn dynamodb() -> Vec<(&'static str, Fault)> {
    let error = |status, code: &str| aws(status, &format!("com.amazonaws.dynamodb.v20120810#{code}"));
    vec![
        ("throttled", error(400, "ProvisionedThroughputExceededException")),
        ("500", error(500, "InternalServerError")),
        ("conditional conflict", Fault::Conflict),
        ("transaction conflict", error(400, "TransactionConflictException")),
        ("hang", Fault::Hang(Acts::Not)),
        ("table missing", error(400, "ResourceNotFoundException")),
        ("answer lost after the write", Fault::Reset(Acts::First)),
        ("no answer after the write", Fault::Hang(Acts::First)),
    ]
}

pub(super) fn secrets_manager() -> Vec<(&'static str, Fault)> {
    let value = |text: &str| {
        let body =
            json!({"Name": "made-up", "VersionId": "made-up", "SecretString": text, "VersionStages": ["AWSCURRENT"]});
        Fault::Answer(Acts::Not, Answer::json(200, body.to_string()))
    };
    vec![
        ("missing", aws(400, "ResourceNotFoundException")),
        ("denied", aws(400, "AccessDeniedException")),
        ("slow", Fault::late(Duration::from_secs(2))),
        ("too slow", Fault::late(Duration::from_secs(4))),
        ("malformed", value("{")),
        ("empty", value("")),
        ("down", aws(500, "InternalServiceError")),
    ]
}

fn aws(status: u16, code: &str) -> Fault {
    let body = json!({"__type": code, "message": "made up"});
    Fault::Answer(
        Acts::Not,
        Answer { content_type: "application/x-amz-json-1.0", ..Answer::json(status, body.to_string()) },
    )
}
