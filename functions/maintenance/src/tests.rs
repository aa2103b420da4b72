//! The tasks, with a scripted server in place of DynamoDB, Secrets Manager and Human API.

use lambda_http::{Context, LambdaEvent};
use scripted::{Answer, NOW, Server, item};
use serde_json::{Value, json, value::RawValue};
use shared::{clock::Clock, clock::Millis, config::Config, identity::UserId, lambda::Runner, telemetry::Output};

use super::*;

/// Runs the task. Returns its result, and the operations that it has asked for.
async fn run(event: Value, answers: impl IntoIterator<Item = Answer>) -> (Value, Vec<String>) {
    let server = Server::with_secrets(answers).await;
    let config = Config::read(|name| server.variable(name)).unwrap();
    let runner = Runner::<Maintenance>::of_job(&config, Clock::new(|| NOW), Output::new(std::io::sink())).unwrap();
    let event = LambdaEvent::new(RawValue::from_string(event.to_string()).unwrap(), Context::default());
    (runner.run_job(event).await.unwrap(), server.operations())
}

/// A row of Ada, with its key, that was left unresolved this long ago.
fn left(milliseconds: Millis) -> Value {
    let pending = json!({"by": "other", "since": NOW - 90_000, "request": "access"});
    let record = json!({"humanId": "made-up", "connectedAt": 1});
    let key = UserId::new("ada").unwrap().key().to_string();
    let attributes = json!({"userKey": key, "leaseId": "other", "leaseUntil": NOW - milliseconds, "pending": pending, "userRecord": record});
    item("ada", &attributes)
}

fn found(row: &Value) -> Answer {
    Answer::json(200, &json!({"Items": [row], "Count": 1, "ScannedCount": 1}))
}

#[tokio::test]
async fn the_sweep_resolves_what_was_left_for_a_minute() {
    let row = left(34_000);
    let acquired = Answer::json(200, &json!({"Attributes": row}));
    let access = Answer::json(200, &json!({"access_token": "canary", "expires_in": 3600}));
    let answers = [found(&row), Answer::item(Some(&row)), acquired, access, Answer::done(), Answer::done()];
    let (result, asked) = run(json!({}), answers).await;
    assert_eq!(
        (&result["resolved"], &result["left"], &result["failed"]),
        (&json!(1), &json!(0), &json!(0)),
        "{result}"
    );
    assert_eq!(asked[..4], ["Scan", "GetItem", "UpdateItem", "token"]);
}

#[tokio::test]
async fn the_sweep_leaves_a_younger_row_to_its_user() {
    let (result, asked) = run(json!({"task": "sweep"}), [found(&left(33_999))]).await;
    assert_eq!((&result["resolved"], asked), (&json!(0), vec!["Scan".to_owned()]));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_no_sweep() {
    let mut row = left(40_000);
    row["userRecord"] = json!({"S": "of another writer"});
    let (result, asked) = run(json!({}), [found(&row), Answer::item(Some(&row))]).await;
    assert_eq!((&result["skipped"], &result["failed"], &result["oldestSeconds"]), (&json!(1), &json!(0), &json!(40)));
    assert_eq!(asked, ["Scan", "GetItem"]);
}

#[tokio::test]
async fn an_error_of_human_api_is_counted_and_the_row_stays() {
    let row = left(34_000);
    let acquired = Answer::json(200, &json!({"Attributes": row}));
    let answers = [found(&row), Answer::item(Some(&row)), acquired, Answer::json(400, &json!({})), Answer::done()];
    let (result, _) = run(json!({}), answers).await;
    assert_eq!(
        (&result["resolved"], &result["failed"], &result["left"]),
        (&json!(0), &json!(1), &json!(1)),
        "{result}"
    );
}

#[tokio::test]
async fn a_reseal_takes_the_lease_only_of_a_row_that_an_older_key_has_sealed() {
    let of = |version: &str| {
        let mut row = left(0);
        let row = row.as_object_mut().unwrap();
        row.remove("leaseUntil");
        row.remove("pending");
        let record = json!({"publicToken": {"key": version, "sealed": "AAAA"}});
        row.insert("userRecord".into(), scripted::attribute(&record));
        Value::Object(row.clone())
    };
    let (result, asked) = run(json!({"task": "reseal"}), [found(&of("v1"))]).await;
    assert_eq!((&result["resealed"], &result["unchanged"], &result["next"]), (&json!(0), &json!(1), &Value::Null));
    assert_eq!(asked, ["Scan"]);
    // what does not open stays under its key
    let row = of("v0");
    let acquired = Answer::json(200, &json!({"Attributes": row}));
    let (result, asked) = run(json!({"task": "reseal"}), [found(&row), acquired, Answer::done()]).await;
    assert_eq!((&result["resealed"], &result["failed"], asked.len()), (&json!(0), &json!(1), 3), "{result}");
}

#[tokio::test]
async fn an_import_of_a_popup_user_reads_and_writes_twice_and_asks_human_api_nothing() {
    let popup =
        json!({"clientUserId": "ada", "humanId": "made-up", "accessToken": "canary-a", "publicToken": "canary-p"});
    let event = json!({"task": "import", "users": [popup]});
    let answers = [Answer::item(None), Answer::done(), Answer::done()];
    let (result, asked) = run(event.clone(), answers).await;
    assert_eq!(result, json!({"results": [{"index": 0, "result": "created"}], "next": null}));
    assert_eq!(asked, ["GetItem", "UpdateItem", "UpdateItem"]);
    let mut dry = event;
    dry["dryRun"] = json!(true);
    let (again, asked) = run(dry, [Answer::item(None)]).await;
    assert_eq!((again, asked), (result, vec!["GetItem".to_owned()]));
}

#[tokio::test]
async fn an_import_of_a_connect_user_asks_for_access_unless_the_user_is_connected() {
    let event = json!({"task": "import", "users": [{"clientUserId": "ada"}]});
    for (status, outcome) in [(200, "created"), (403, "not_connected"), (404, "not_connected"), (410, "not_connected")]
    {
        let access = Answer::json(status, &json!({"access_token": "canary", "expires_in": 3600}));
        let (result, asked) = run(event.clone(), [Answer::item(None), Answer::done(), access, Answer::done()]).await;
        assert_eq!((&result["results"][0]["result"], asked.len()), (&json!(outcome), 4), "{status}: {asked:?}");
    }
    let row = item("ada", &json!({"userRecord": {"connectedAt": 1}}));
    let (result, asked) = run(event, [Answer::item(Some(&row))]).await;
    assert_eq!((&result["results"][0]["result"], asked.len()), (&json!("unchanged"), 1));
}

#[tokio::test]
async fn an_import_stops_where_human_api_asks_for_fewer_requests() {
    let users = json!([{"clientUserId": ""}, {"clientUserId": "ada"}, {"clientUserId": "grace"}]);
    let slower = Answer::with_headers(429, "retry-after: 3600\r\n", "{}");
    let answers = [Answer::item(None), Answer::done(), slower, Answer::done()];
    let (result, _) = run(json!({"task": "import", "users": users}), answers).await;
    let failed = json!([{"index": 0, "result": "failed", "code": "invalid_request"}]);
    assert_eq!((&result["results"], &result["next"]), (&failed, &json!(1)));
}

#[test]
fn a_user_has_all_fields_of_a_popup_connection_or_none() {
    let popup = json!({"clientUserId": "a", "humanId": "h", "accessToken": "t"});
    let with = |name: &str, value: Value| {
        let mut user = popup.clone();
        user[name] = value;
        user
    };
    let long = "x".repeat(4097);
    for (user, is_good) in [
        (popup.clone(), true),
        (with("publicToken", Value::Null), true),
        (with("unknown", json!(1)), true),
        (with("connectedAt", json!("2026-01-02T03:04:05+02:00")), true),
        (json!({"clientUserId": "a", "humanId": null, "accessToken": null}), true),
        (with("connectedAt", json!("yesterday")), false),
        (with("connectedAt", json!(1_767_323_045)), false),
        (with("clientUserId", json!("x".repeat(1025))), false),
        (with("accessToken", json!(long)), false),
        (with("accessToken", json!("")), false),
        (with("humanId", Value::Null), false),
        (with("accessToken", Value::Null), false),
        (json!({"clientUserId": "a", "publicToken": "p"}), false),
        (json!({"clientUserId": "a", "connectedAt": "2026-01-02T03:04:05Z"}), false),
        (json!({}), false),
        (json!("ada"), false),
    ] {
        let text = RawValue::from_string(user.to_string()).unwrap();
        assert_eq!(import::Entry::read_all(&[&text])[0].user.is_ok(), is_good, "{user}");
    }
}

#[tokio::test]
async fn a_user_with_two_connections_in_one_call_replaces_nothing() {
    let user = |token: &str| json!({"clientUserId": "ada", "humanId": "made-up", "accessToken": token});
    for (second, outcome) in
        [(user("one"), "created"), (user("two"), "conflict"), (json!({"clientUserId": "ada"}), "conflict")]
    {
        let event = json!({"task": "import", "users": [user("one"), second], "dryRun": true, "onConflict": "replace"});
        let answers = if outcome == "created" { vec![Answer::item(None), Answer::item(None)] } else { vec![] };
        let (result, _) = run(event, answers).await;
        assert_eq!(result["results"].as_array().unwrap().len(), 2);
        assert!(
            result["results"].as_array().unwrap().iter().all(|user| user["result"] == outcome),
            "{second}: {result}"
        );
    }
}

#[tokio::test]
async fn an_import_replaces_tokens_that_do_not_open() {
    let sealed = json!({"key": "v0", "sealed": "AAAA"});
    let access = json!({"token": sealed, "obtainedAt": 1, "from": "popup"});
    let row = item("ada", &json!({"userRecord": {"humanId": "made-up", "connectedAt": 1, "accessToken": access}}));
    let user = json!({"clientUserId": "ada", "humanId": "made-up", "accessToken": "canary"});
    for (on_conflict, outcome) in [("keep", "conflict"), ("replace", "replaced")] {
        let event = json!({"task": "import", "users": [user], "dryRun": true, "onConflict": on_conflict});
        let (result, _) = run(event, [Answer::item(Some(&row))]).await;
        assert_eq!(result["results"][0]["result"], outcome, "{result}");
    }
}

#[tokio::test]
async fn a_table_that_does_not_answer_is_a_failure_of_the_task() {
    let refused = Answer::json(400, &json!({"__type": "com.amazon.coral.service#AccessDeniedException"}));
    let (result, _) = run(json!({"task": "reseal", "after": "made-up"}), [refused]).await;
    assert_eq!((&result["failed"], &result["next"]), (&json!(1), &json!("made-up")));
}

#[test]
fn a_task_has_a_metric_line_for_each_code_and_no_request() {
    let errors = BTreeMap::from([("upstream_timeout", 2), ("upstream_unauthorized", 1)]);
    let counts = Counts { swept: 3, errors, ..Counts::default() };
    let call = Call { request_id: "r".into(), cold_start: false, invocation: Invocation::start() };
    let lines = counts.metrics("human-connect", &call, 1).into_iter().map(|line| json!(line)).collect::<Vec<_>>();
    assert_eq!((lines.len(), &lines[0]["Swept"], lines[0].get("Requests")), (3, &json!(3), None));
    for (line, code, count) in [(&lines[1], "upstream_timeout", 2), (&lines[2], "upstream_unauthorized", 1)] {
        assert_eq!((&line["code"], &line["Errors"]), (&json!(code), &json!(count)));
    }
}

#[test]
fn an_event_names_its_task_and_an_error_names_the_field() {
    let read = |event: &str| {
        let task = read_task(&RawValue::from_string(event.to_owned()).unwrap());
        task.map(|task| matches!(task, Task::Sweep))
    };
    for event in ["{}", r#"{"task":"sweep"}"#, r#"{"detail-type":"Scheduled Event","detail":{}}"#] {
        assert_eq!(read(event), Ok(true), "{event}");
    }
    assert_eq!(read(r#"{"task":"reseal","after":null,"segment":1,"segments":2}"#), Ok(false));
    assert_eq!(read(r#"{"task":"import","users":[{},7],"onConflict":"replace","dryRun":true}"#), Ok(false));
    assert_eq!(read(r#"{"task":"import","users":[],"onConflict":null,"dryRun":null}"#), Ok(false));
    let users = |count: usize| json!({"task": "import", "users": vec![json!({}); count]}).to_string();
    assert_eq!(read(&users(500)), Ok(false));
    assert!(read(&users(501)).unwrap_err().contains("users"));
    for (event, field) in [
        ("[]", "event"),
        (r#"{"task":"import-all"}"#, "task"),
        (r#"{"task":1}"#, "task"),
        (r#"{"task":null}"#, "task"),
        (r#"{"task":"reseal","after":1}"#, "after"),
        (r#"{"task":"reseal","after":""}"#, "after"),
        (r#"{"task":"reseal","segment":-1}"#, "segment"),
        (r#"{"task":"reseal","segment":"1"}"#, "segment"),
        (r#"{"task":"reseal","segment":2,"segments":2}"#, "segment"),
        (r#"{"task":"reseal","segments":0}"#, "segments"),
        (r#"{"task":"import"}"#, "users"),
        (r#"{"task":"import","users":{}}"#, "users"),
        (r#"{"task":"import","users":[],"onConflict":"overwrite"}"#, "onConflict"),
        (r#"{"task":"import","users":[],"dryRun":"yes"}"#, "dryRun"),
    ] {
        assert!(read(event).unwrap_err().contains(field), "{event}");
    }
}
