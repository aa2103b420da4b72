//! Every file of `events/` goes through the built functions and Lambda's Runtime API, in the order of the table in
//! `events/README.md`. A start with a bad variable fails as documented.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use local::examples;
use local::local_stack::{LocalStack, Options};
use serde_json::{Value, json};
use test_support::runtime_api::{Instance, binaries};

const FUNCTIONS: [&str; 7] =
    ["session-start", "finish", "public-token", "access-token", "connection", MAINTENANCE, PUBLISHER];

/// A schedule or an operator starts this function. Its response is no HTTP response.
const MAINTENANCE: &str = "maintenance";
/// The table's stream starts this function. Its response is no HTTP response.
const PUBLISHER: &str = "publisher";

/// The stack's name. Every line has it: logs, audits, metrics.
const SERVICE: &str = "made-up-stack";

/// Invalid events.
const STRANGE: [&str; 5] = ["null", "[]", "\"made-up\"", "{}", r#"{"version": "2.0", "routeKey": 1}"#];

/// Texts that no function may write into its log.
const NOT_FOR_LOGS: [&str; 10] = [
    "made-up-client-secret",
    "made-up-sealing-key",
    "made-up-popup-session",
    "made-up-session-token",
    "made-up-id-",
    "made-up-access-token",
    "made-up-refresh-token",
    "made-up-public-token",
    "AQEBAQEBAQEBAQ", // of the ticket
    "@example.test",
];

/// A row of the README's table.
struct Row {
    event: String,
    /// `None` if the response is not an HTTP response.
    status: Option<u64>,
    answer: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn rows() -> Vec<Row> {
    let readme = std::fs::read_to_string(root().join("events/README.md")).unwrap();
    let lines = readme.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [event, _, status, answer] = cells[..] else { panic!("{line}") };
        Row { event: event.to_owned(), status: status.parse().ok(), answer: answer.to_owned() }
    };
    lines.map(row).collect()
}

fn files() -> Vec<String> {
    let list = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = list(&root().join("events")).collect();
    files = files.into_iter().flat_map(|path| if path.is_dir() { list(&path).collect() } else { vec![path] }).collect();
    let name = |path: &PathBuf| path.strip_prefix(root().join("events")).unwrap().to_str().unwrap().to_owned();
    files.iter().map(name).filter(|name| name != "README.md").collect()
}

#[test]
fn the_readme_has_a_row_for_each_event_and_no_other() {
    let (mut files, mut rows) = (files(), rows().into_iter().map(|row| row.event).collect::<Vec<_>>());
    files.sort_unstable();
    rows.sort_unstable();
    assert_eq!(files, rows);
}

#[tokio::test]
async fn every_event_is_answered_as_the_readme_says() {
    let options =
        Options { variables: vec![("LOG_LEVEL", "trace"), ("SERVICE_NAME", SERVICE)], ..Options::in_memory() };
    let stack = LocalStack::start(options).await.unwrap();
    examples::set_up(&stack).await.unwrap();
    // Neither LOG_LEVEL nor these variables may enable the logging of payloads.
    let louder = [
        ("RUST_LOG", "TRACE"),
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("RUST_BACKTRACE", "full"),
        // Nothing listens on this port: plain HTTP must not use a proxy.
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("http_proxy", "http://127.0.0.1:9"),
        ("ALL_PROXY", "http://127.0.0.1:9"),
    ];
    let louder = louder.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Vec<(String, String)> = stack.environment.iter().cloned().chain(louder).collect();
    let mut functions = BTreeMap::new();
    for name in FUNCTIONS {
        functions.insert(name, Instance::start(&binaries().join(name), &environment).await.unwrap());
    }
    for row in rows() {
        let text = std::fs::read_to_string(root().join("events").join(&row.event)).unwrap();
        let event: Value = serde_json::from_str(&text).unwrap();
        let function = &functions[row.event.split('/').next().unwrap()];
        match function.invoke(&event).await {
            Ok(response) => check(&row, &event, &response),
            Err(error) => panic!("{}: a Lambda error: {error}", row.event),
        }
    }
    for (name, function) in &functions {
        for event in STRANGE.map(|event| serde_json::from_str::<Value>(event).unwrap()) {
            let response = function.invoke(&event).await;
            if *name == PUBLISHER {
                assert!(response.as_ref().unwrap_err().contains("Records"), "{event}: {response:?}");
            } else if *name == MAINTENANCE {
                // An event without a task invokes `sweep`. An event that is no object is a Lambda error.
                let is_right = match &response {
                    Ok(response) => event.is_object() && response["left"] == 0,
                    Err(error) => !event.is_object() && error.to_string().contains("event"),
                };
                assert!(is_right, "{event}: {response:?}");
            } else {
                let status = &response.as_ref().unwrap()["statusCode"];
                assert!([400, 404].map(Value::from).contains(status), "{name}, {event}: {response:?}");
            }
        }
    }
    for (name, function) in functions {
        let (out, err) = function.stop().await;
        assert_eq!(err, "", "{name}");
        let audited: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let audited: Vec<_> = audited.iter().filter(|line: &&Value| line["message"] == "audit").collect();
        if ["access-token", "connection"].contains(&name) {
            audits(name, &audited);
        } else {
            assert!(audited.is_empty(), "{name}");
        }
        for line in out.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line["service"] == SERVICE), "{name}: {line}");
            assert!(NOT_FOR_LOGS.iter().all(|text| !line.contains(text)), "{name}: {line}");
        }
    }
}

/// Checks the audit lines of a function. Each call of an internal route has one line with the caller, the user and the outcome. So has
/// a call of an unknown route.
fn audits(function: &str, lines: &[&Value]) {
    let is_audited = |row: &Row| {
        if !row.event.starts_with(&format!("{function}/")) {
            return false;
        }
        let text = std::fs::read_to_string(root().join("events").join(&row.event)).unwrap();
        let event: Value = serde_json::from_str(&text).unwrap();
        let route = event["routeKey"].as_str().or(event["resource"].as_str()).unwrap();
        !route.contains("/connect/connection")
    };
    let rows: Vec<Row> = rows().into_iter().filter(is_audited).collect();
    let (of_events, of_others) = lines.split_at(rows.len());
    for (row, line) in rows.iter().zip(of_events) {
        let outcome = if row.status < Some(400) { "ok" } else { &row.answer };
        assert_eq!(line["outcome"], outcome, "{}", row.event);
        if row.status < Some(300) {
            assert!(line["route"].as_str().unwrap().starts_with("POST /internal/"), "{}: {line}", row.event);
            assert!(line["caller"].as_str().unwrap().starts_with("arn:"), "{}: {line}", row.event);
            assert_eq!(line["user"].as_str().unwrap().len(), 16, "{}: {line}", row.event);
        }
    }
    assert_eq!(of_others.len(), STRANGE.len());
}

fn check(row: &Row, event: &Value, response: &Value) {
    let name = &row.event;
    // Format 2.0 has single values, format 1.0 has lists.
    let header = |name: &str| match &response["headers"][name] {
        Value::Null => response["multiValueHeaders"][name][0].clone(),
        value => value.clone(),
    };
    let Some(status) = row.status else {
        assert!(
            [MAINTENANCE, PUBLISHER].iter().any(|job| name.starts_with(job))
                && has(response, &serde_json::from_str(&row.answer).unwrap()),
            "{response}"
        );
        return;
    };
    assert_eq!(response["statusCode"], status, "{name}: {response}");
    assert_eq!(header("cache-control"), "no-store", "{name}");
    let failed = status >= 400;
    let content_type = if failed { "application/problem+json" } else { "application/json" };
    assert_eq!(header("content-type"), content_type, "{name}");
    assert_eq!(response["isBase64Encoded"], false, "{name}");
    if row.answer.is_empty() {
        assert_eq!((status, &response["body"]), (204, &json!("")), "{name}");
        return;
    }
    let body: Value = serde_json::from_str(response["body"].as_str().unwrap()).unwrap();
    // `lambda_http` cannot decode this event, so the response lacks API Gateway's request id.
    let undecodable = name == "finish/broken-base64.json";
    let request_id = if undecodable { &json!("…") } else { &event["requestContext"]["requestId"] };
    let expected = if failed {
        json!({
            "type": format!("urn:human-connect:error:{}", row.answer),
            "title": "…",
            "status": status,
            "code": row.answer,
            "detail": "…",
            "requestId": request_id,
        })
    } else {
        serde_json::from_str(&row.answer).unwrap()
    };
    assert!(has(&body, &expected), "{name}: {body}");
}

/// Returns `true` if the response has everything that is expected. `…` stands for any text.
fn has(body: &Value, expected: &Value) -> bool {
    match (body, expected) {
        (Value::Object(body), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| body.get(name).is_some_and(|field| has(field, value)))
        }
        (Value::String(text), Value::String(any)) if any == "…" => !text.is_empty(),
        _ => body == expected,
    }
}

#[test]
fn a_missing_or_bad_variable_ends_the_start_with_one_line_that_names_it() {
    let good = [
        ("TABLE_NAME", "made-up"),
        ("HUMAN_API_CLIENT_ID", "made-up"),
        ("HUMAN_API_SECRET_ID", "made-up"),
        ("TOKEN_KEY_SECRET_ID", "made-up"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "made-up"),
        ("AWS_SECRET_ACCESS_KEY", "made-up"),
        ("EVENT_BUS_NAME", "made-up"),
    ];
    let bad = [
        ("HUMAN_API_AUTH_URL", "http://auth.example.test"),
        ("HUMAN_API_USER_URL", "https://user.example.test/v1"),
        ("DEFAULT_FLOW", "carousel"),
        ("SECRET_TTL_SECONDS", "soon"),
        ("UPSTREAM_TIMEOUT_MS", "99"),
        ("PUBLIC_BASE_URL", "api.example.test"),
        ("LOG_LEVEL", "loud=="),
        ("AWS_CA_BUNDLE", "/made-up/roots.pem"),
        ("AWS_ENDPOINT_URL", "http://dynamodb.example.test"),
        // Only Lambda sets this variable. Without it, a start with valid variables fails too.
        ("AWS_LAMBDA_RUNTIME_API", ""),
    ];
    for name in FUNCTIONS {
        let text = |(variable, value): (&'static str, &'static str)| (variable, OsStr::new(value));
        let required = good.into_iter().filter(|(variable, _)| name == PUBLISHER || *variable != "EVENT_BUS_NAME");
        let missing = required.map(|(variable, _)| (variable, ""));
        let no_text = [("USER_ID_CLAIM", OsStr::from_bytes(b"\xff"))];
        for (variable, value) in missing.chain(bad).map(text).chain(no_text) {
            let mut command = Command::new(binaries().join(name));
            command.env_clear().envs(good);
            if value.is_empty() {
                command.env_remove(variable)
            } else {
                command.env(variable, value)
            };
            let output = command.output().unwrap();
            let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            assert_eq!((output.status.code(), err.lines().count(), out.as_str()), (Some(1), 1, ""), "{name}: {err}");
            assert!(err.starts_with(&format!("{variable} ")), "{name}, {variable}: {err}");
        }
    }
}
