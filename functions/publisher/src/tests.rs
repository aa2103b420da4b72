//! A table of changes and their events, and the function with a scripted server in place of EventBridge.

use lambda_http::{Context, LambdaEvent};
use scripted::{Answer, NOW, Server, item};
use shared::lambda::Runner;
use shared::record::{Record, Source};
use shared::seal::Sealed;

use super::change::{Kind, kinds};
use super::*;

fn connected() -> Record {
    let sources = vec![Source { id: "1".into(), name: "Made-up Clinic".into() }];
    Record { connected_at: Some(1), finishes: 1, human_id: Some("made-up".into()), sources, ..Record::default() }
}

#[test]
fn each_change_of_a_record_has_its_events() {
    let new = Record::default();
    let revoked = Record { revoked: true, updated_at: Some(2), ..new.clone() };
    let reconnect = Record { reconnect: true, ..connected() };
    let token = || Some(Sealed { version: "v1".into(), bytes: vec![1] });
    let changed = |change: fn(&mut Record)| {
        let mut record = connected();
        change(&mut record);
        record
    };
    let only_connect = || Record { reconnect: true, ..Record::default() };
    use Kind::{Connected, Forgotten, ReconnectRequired, Revoked, Updated};
    for (what, before, after, expected) in [
        ("a ticket's row", None, Some(new.clone()), vec![]),
        ("a first acquire", Some(new.clone()), Some(new.clone()), vec![]),
        ("a first finish", Some(new.clone()), Some(connected()), vec![Connected]),
        ("a row that is written connected", None, Some(connected()), vec![Connected]),
        ("a lease, a ticket", Some(connected()), Some(connected()), vec![]),
        ("another source", Some(connected()), Some(changed(|record| record.sources.clear())), vec![Updated]),
        ("another finish", Some(connected()), Some(changed(|record| record.finishes = 2)), vec![Updated]),
        (
            "both",
            Some(connected()),
            Some(changed(|record| (record.finishes, record.sources) = (2, vec![]))),
            vec![Updated],
        ),
        (
            "another humanId",
            Some(connected()),
            Some(changed(|record| (record.human_id, record.finishes) = (None, 2))),
            vec![Updated],
        ),
        ("a refresh", Some(connected()), Some(changed(|record| record.updated_at = Some(2))), vec![]),
        ("a publicToken", Some(connected()), Some(Record { public_token: token(), ..connected() }), vec![]),
        ("a failure", Some(connected()), Some(changed(|record| record.failed_at = Some(2))), vec![]),
        ("revoked", Some(connected()), Some(revoked.clone()), vec![Revoked]),
        (
            "dropped for another humanId",
            Some(connected()),
            Some(changed(|record| record.connected_at = None)),
            vec![Revoked],
        ),
        ("still revoked", Some(revoked.clone()), Some(revoked.clone()), vec![]),
        ("back after a revocation", Some(revoked.clone()), Some(connected()), vec![Connected]),
        ("tokens lost", Some(connected()), Some(reconnect.clone()), vec![ReconnectRequired]),
        ("tokens lost of a new user", Some(new.clone()), Some(only_connect()), vec![ReconnectRequired]),
        (
            "the same, with an access token",
            Some(new.clone()),
            Some(reconnect.clone()),
            vec![Connected, ReconnectRequired],
        ),
        (
            "lost and revoked",
            Some(connected()),
            Some(Record { reconnect: true, ..revoked.clone() }),
            vec![Revoked, ReconnectRequired],
        ),
        ("still to reconnect", Some(reconnect.clone()), Some(reconnect.clone()), vec![]),
        ("reconnected", Some(reconnect.clone()), Some(changed(|record| record.finishes = 2)), vec![Updated]),
        ("forgotten", Some(connected()), None, vec![Forgotten]),
        ("forgotten after a revocation", Some(revoked), None, vec![Forgotten]),
        ("forgotten before a reconnect", Some(only_connect()), None, vec![Forgotten]),
        ("a row of tickets is deleted", Some(new), None, vec![]),
    ] {
        assert_eq!(kinds(before.as_ref(), after.as_ref()), expected, "{what}");
    }
}

/// A row of Ada with this record, as an image.
fn image(record: Value) -> Value {
    let mut record = record;
    record["humanId"] = json!("made-up");
    record["accessToken"] = json!({"token": {"key": "v1", "sealed": "Y2FuYXJ5"}, "obtainedAt": 1, "from": "popup"});
    item(
        "ada",
        &json!({"userKey": shared::identity::UserId::new("ada").unwrap().key().to_string(), "userRecord": record}),
    )
}

fn record(number: usize, before: Option<Value>, after: Option<Value>) -> Value {
    let mut images = json!({"SequenceNumber": number.to_string(), "ApproximateCreationDateTime": NOW / 1000});
    for (name, image) in [("OldImage", before), ("NewImage", after)] {
        image.into_iter().for_each(|image| images[name] = image);
    }
    json!({"eventID": format!("made-up-{number}"), "eventName": "MODIFY", "dynamodb": images})
}

/// A record whose change is one event.
fn first_finish(number: usize) -> Value {
    record(number, Some(image(json!({}))), Some(image(json!({"connectedAt": 1, "flow": "popup"}))))
}

/// Publishes the records. Returns the response, the requests' entries, and the number of faults.
async fn publish(records: &[Value], answers: Vec<Answer>) -> (Value, Vec<Vec<Value>>, u64) {
    let server = Server::answering(answers).await;
    let variable = |name| match name {
        "EVENT_BUS_NAME" => Some("made-up-bus".to_owned()),
        name => server.variable(name),
    };
    let (mut lines, output) = std::io::pipe().unwrap();
    let config = Config::read(variable).unwrap();
    let runner = Runner::<Publisher>::of_job(&config, Clock::new(|| NOW), Output::new(output)).unwrap();
    let event = RawValue::from_string(json!({"Records": records}).to_string()).unwrap();
    let response = runner.run_job(LambdaEvent::new(event, Context::default())).await.unwrap();
    drop(runner);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut lines, &mut text).unwrap();
    let metrics: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(!text.contains("ada") && !text.contains("canary"), "{text}");
    let entries = server.requests().into_iter().map(|request| request.json()["Entries"].as_array().unwrap().clone());
    (response, entries.collect(), metrics["Faults"].as_u64().unwrap())
}

fn taken(entries: usize) -> Answer {
    Answer::json(200, &json!({"FailedEntryCount": 0, "Entries": vec![json!({"EventId": "made-up"}); entries]}))
}

#[tokio::test]
async fn a_connection_that_ends_for_another_human_is_told_as_it_was() {
    let sources = json!([{"id": "1", "name": "Made-up Clinic"}]);
    let before = image(json!({"connectedAt": 1, "flow": "popup", "sources": sources}));
    let mut after = image(json!({}));
    after["userRecord"]["M"]["humanId"]["S"] = json!("another");
    let (_, requests, _) = publish(&[record(1, Some(before), Some(after))], vec![taken(1)]).await;
    let detail: Value = serde_json::from_str(requests[0][0]["Detail"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&detail["humanId"], &detail["flow"], &detail["sources"]),
        (&json!("made-up"), &json!("popup"), &json!([]))
    );
}

#[tokio::test]
async fn an_event_has_its_detail_and_nothing_of_a_token() {
    let (response, requests, faults) = publish(&[first_finish(1)], vec![taken(1)]).await;
    assert_eq!((response, faults), (json!({"batchItemFailures": []}), 0));
    let entry = &requests[0][0];
    let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
    assert_eq!(
        detail,
        json!({"id": "made-up-1-connected", "service": "human-connect", "clientUserId": "ada", "humanId": "made-up",
            "flow": "popup", "sources": [], "occurredAt": "2026-11-26T10:00:00Z"})
    );
    assert_eq!(
        (&entry["Source"], &entry["DetailType"], &entry["EventBusName"]),
        (&json!("human-connect"), &json!("Connection Connected"), &json!("made-up-bus"))
    );
    assert_eq!(entry["Time"], json!(NOW / 1000));
    // the same record again has the same ID
    assert_eq!(publish(&[first_finish(1)], vec![taken(1)]).await.1, requests);
}

#[tokio::test]
async fn a_forgotten_user_has_an_event_and_an_expired_row_has_none() {
    let row = || Some(image(json!({"connectedAt": 1, "flow": "connect", "sources": [{"id": "1", "name": "A"}]})));
    let mut expired = record(1, row(), None);
    expired["userIdentity"] = json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"});
    let (_, requests, _) = publish(&[expired, record(2, row(), None)], vec![taken(1)]).await;
    assert_eq!((requests.len(), requests[0].len()), (1, 1));
    let detail: Value = serde_json::from_str(requests[0][0]["Detail"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&detail["id"], &detail["humanId"], &detail["sources"]),
        (&json!("made-up-2-forgotten"), &json!("made-up"), &json!([]))
    );
}

#[tokio::test]
async fn a_record_as_the_aws_cli_prints_it_has_the_same_event() {
    let mut printed = first_finish(1);
    printed["dynamodb"]["ApproximateCreationDateTime"] = json!("2026-11-26T10:00:00+00:00");
    let (_, of_lambda, _) = publish(&[first_finish(1)], vec![taken(1)]).await;
    assert_eq!(publish(&[printed], vec![taken(1)]).await.1, of_lambda);
    let mut expired = record(2, Some(image(json!({"connectedAt": 1}))), None);
    expired["userIdentity"] = json!({"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"});
    let mut timeless = first_finish(3);
    timeless["dynamodb"]["ApproximateCreationDateTime"] = json!("yesterday");
    assert_eq!(publish(&[expired, timeless], vec![]).await, (json!({"batchItemFailures": []}), vec![], 1));
}

#[tokio::test]
async fn records_without_an_event_make_no_request() {
    let same = || Some(image(json!({"connectedAt": 1})));
    assert_eq!(publish(&[record(1, same(), same())], vec![]).await, (json!({"batchItemFailures": []}), vec![], 0));
    assert_eq!(publish(&[], vec![]).await.0, json!({"batchItemFailures": []}));
}

#[tokio::test]
async fn events_go_in_requests_of_ten_in_their_order() {
    let records: Vec<_> = (1..=23).map(first_finish).collect();
    let (_, requests, _) = publish(&records, vec![taken(10), taken(10), taken(3)]).await;
    assert_eq!(requests.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 3]);
    for (number, entry) in (1..).zip(requests.concat()) {
        let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
        assert_eq!(detail["id"], format!("made-up-{number}-connected"));
    }
}

#[tokio::test]
async fn large_events_go_in_smaller_requests() {
    let large = |number| {
        let sources = vec![json!({"id": "1", "name": "\u{1}".repeat(2000)}); 8];
        record(number, Some(image(json!({}))), Some(image(json!({"connectedAt": 1, "sources": sources}))))
    };
    let records: Vec<_> = (1..=4).map(large).collect();
    let (_, requests, _) = publish(&records, vec![taken(2), taken(2)]).await;
    assert_eq!(requests.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn the_first_event_that_the_bus_refuses_is_named_and_the_rest_waits() {
    let records: Vec<_> = (1..=13).map(first_finish).collect();
    let failed = |first: usize| format!(r#"{{"batchItemFailures":[{{"itemIdentifier":"{first}"}}]}}"#);
    let mut entries = vec![json!({"EventId": "made-up"}); 10];
    entries[3] = json!({"ErrorCode": "ThrottlingException", "ErrorMessage": "made up"});
    entries[5] = entries[3].clone();
    let partly = Answer::json(200, &json!({"FailedEntryCount": 2, "Entries": entries}));
    let denied = Answer::json(400, &json!({"__type": "AccessDeniedException", "message": "made up"}));
    let uncounted = Answer::json(200, &json!({"FailedEntryCount": 1, "Entries": []}));
    for (answers, first, sent) in
        [(vec![partly], 4, 1), (vec![taken(10), denied.clone()], 11, 2), (vec![denied], 1, 1), (vec![uncounted], 1, 1)]
    {
        let (response, requests, faults) = publish(&records, answers).await;
        assert_eq!((response.to_string(), requests.len(), faults), (failed(first), sent, 1));
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_a_fault_and_stops_no_other() {
    let of_another_writer = record(2, None, Some(item("ada", &json!({"userKey": "made-up"}))));
    let copied = {
        let mut copied = first_finish(3);
        copied["dynamodb"]["NewImage"]["clientUserId"] = json!({"S": "grace"});
        copied
    };
    let no_record = json!({"dynamodb": {"SequenceNumber": "4"}});
    let records = [json!(7), of_another_writer, copied, no_record, first_finish(5)];
    let (response, requests, faults) = publish(&records, vec![taken(1)]).await;
    assert_eq!((response, requests.len(), faults), (json!({"batchItemFailures": []}), 1, 4));
}

#[tokio::test]
async fn an_event_without_records_is_a_lambda_error_that_names_the_field() {
    for event in ["{}", "[]", r#"{"Records": {}}"#] {
        let event = RawValue::from_string(event.to_owned()).unwrap();
        assert!(change::records(&event).unwrap_err().contains("Records"));
    }
}
