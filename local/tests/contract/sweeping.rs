//! The sweeper resolves users who do not come back, and reseals rows under an older key.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use local::faults::{Fault, Rule, Service};
use local::log_capture::LogCapture;
use local::secrets::TOKEN_KEY;
use serde_json::{Value, json};
use shared::identity::UserId;
use shared::telemetry::Output;

use crate::world::{Gate, World, garble, is, refuse};

/// DynamoDB's response if a table has no such index.
const NO_INDEX: &str = r#"{"__type":"com.amazon.coral.validate#ValidationException","message":"no such index"}"#;

/// Leaves an exchange of this user unresolved. Its session can be used again.
async fn lose(world: &World, user: &str) -> Value {
    world.stack.human_api.with(|state| state.single_use = false);
    let object = world.popup(user);
    world.fault([garble(500, "{}")]);
    is(&world.finish(user, &object).await, 503, "upstream_unavailable");
    object
}

/// Returns the number of users in an index.
async fn indexed(world: &World, index: &str) -> usize {
    let scan = world.stack.dynamodb.scan().table_name("human-connect").index_name(index);
    scan.send().await.unwrap().items().len()
}

async fn put(world: &World, user: &str, attribute: &str, value: Option<AttributeValue>) {
    let user = UserId::new(user).unwrap();
    let mut row = world.stack.row(&user).await.unwrap().unwrap();
    let fields = match (attribute, row.get_mut("userRecord")) {
        ("publicToken" | "sealedHumanId" | "accessToken", Some(AttributeValue::M(record))) => record,
        _ => &mut row,
    };
    match value {
        Some(value) => fields.insert(attribute.to_owned(), value),
        None => fields.remove(attribute),
    };
    world.stack.dynamodb.put_item().table_name("human-connect").set_item(Some(row)).send().await.unwrap();
}

fn record(row: &HashMap<String, AttributeValue>) -> &HashMap<String, AttributeValue> {
    row["userRecord"].as_m().unwrap()
}

fn numbers(report: &Value, names: [&str; 4]) -> [Option<u64>; 4] {
    names.map(|name| report[name].as_u64())
}

/// Returns the report's resolved, failed, skipped and left unresolved users.
fn resolving(report: &Value) -> [u64; 4] {
    numbers(report, ["resolved", "failed", "skipped", "leftUnresolved"]).map(Option::unwrap)
}

/// Returns the report's resealed, failed, skipped and left users.
fn sealing(report: &Value) -> [u64; 4] {
    numbers(report, ["resealed", "failed", "skipped", "leftUnderOlderKeys"]).map(Option::unwrap)
}

#[tokio::test]
async fn the_sweeper_resolves_a_crashed_call_of_a_user_who_does_not_come_back() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.crash("ada", &world.popup("ada")).await;
    world.crash("eve", &world.popup("eve")).await;
    world.take_requests();
    world.pass_seconds(30);
    assert_eq!(resolving(&world.sweep().await), [0; 4], "the users may still come back");
    assert_eq!((world.take_requests().len(), indexed(&world, "unresolved").await), (0, 2));

    world.pass_seconds(31);
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], resolving(&report)), (&json!("ok"), [2, 0, 0, 0]));
    assert_eq!(indexed(&world, "unresolved").await, 0);
    assert!(!world.table().await.concat().contains("\"pending\""));
    world.take_requests();
    // A popup user with a proven humanId gets both tokens. A new user gets only the token of `access`.
    let (newest_access, newest_public) = world.stack.human_api.with(|state| state.newest("ada"));
    assert_eq!(world.access("ada", false).await.json()["accessToken"].as_str(), newest_access.as_deref());
    assert_eq!(world.public_token("ada", false).await.json()["publicToken"].as_str(), newest_public.as_deref());
    is(&world.access("eve", false).await, 200, "ok");
    is(&world.public_token("eve", false).await, 409, "reconnect_required");
    assert_eq!(world.take_requests().len(), 0, "all tokens were stored");
    assert_eq!(resolving(&world.sweep().await), [0; 4]);
}

#[tokio::test]
async fn a_reusable_session_is_exchanged_by_the_sweeper() {
    let world = World::new().await;
    let object = lose(&world, "ada").await;
    world.pass_seconds(61);
    assert_eq!(resolving(&world.sweep().await), [1, 0, 0, 0]);
    is(&world.finish("ada", &object).await, 200, "ok");
    is(&world.public_token("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn an_outdated_index_entry_is_read_and_changes_nothing() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    put(&world, "ada", "unresolvedSince", Some(AttributeValue::N("1".into()))).await;
    put(&world, "ada", "sealedWith", Some(AttributeValue::S("00000000-0000-4000-8000-000000000001".into()))).await;
    world.stack.secrets.rotate(TOKEN_KEY);
    put(&world, "ada", "publicToken", None).await;
    put(&world, "ada", "sealedHumanId", None).await;
    put(&world, "ada", "accessToken", None).await;
    world.take_requests();
    let before = world.table().await;
    let report = world.sweep().await;
    assert_eq!((resolving(&report), sealing(&report)), ([0, 0, 2, 0], [0, 0, 2, 0]));
    assert_eq!((world.table().await.len(), world.take_requests().len()), (1, 0));
    assert_eq!(before[0].len(), world.table().await[0].len(), "nothing was written");
}

#[tokio::test]
async fn a_user_with_a_call_in_flight_is_skipped() {
    let world = World::new().await;
    lose(&world, "ada").await;
    world.pass_seconds(61);
    world.take_requests();
    let gate = world.block_human_api(None);
    let (served, report) = tokio::join!(world.access("ada", false), gate.meanwhile(world.sweep()));
    is(&served, 200, "ok");
    assert_eq!(resolving(&report), [0, 0, 1, 1]);
    assert_eq!(world.take_requests(), ["tokens"], "the user's own call");
}

#[tokio::test]
async fn the_sweeper_does_not_wait_for_a_user_who_comes_back_just_before_its_acquire() {
    let world = World::new().await;
    lose(&world, "ada").await;
    world.pass_seconds(61);
    let ((acquire, block_acquire), (response, block_response)) = (Gate::new(), Gate::new());
    world.stack.faults.set([
        Rule::once(Service::DynamoDb, block_acquire).of("UpdateItem"),
        Rule::once(Service::HumanApi, block_response),
    ]);
    let back = async {
        acquire.reached().await;
        world.access("ada", false).await
    };
    let then = async {
        response.reached().await;
        acquire.open();
    };
    let sweep = async {
        let report = world.sweep().await;
        response.open();
        report
    };
    let (report, served, ()) = tokio::join!(sweep, back, then);
    is(&served, 200, "ok");
    assert_eq!(resolving(&report), [0, 0, 1, 1]);
}

#[tokio::test]
async fn a_takeover_is_found_if_it_is_marked_during_the_next_call_or_after_it() {
    for after_next in [false, true] {
        let world = World::new().await;
        world.connect("ada").await;
        world.pass_seconds(11);
        let ((first, block_first), (second, block_second)) = (Gate::new(), Gate::new());
        world.fault([block_first, block_second]);
        let slow = async {
            let reply = Box::pin(world.access("ada", true)).await;
            second.open();
            reply
        };
        let next = async {
            first.reached().await;
            world.pass_seconds(29);
            let reply = Box::pin(world.access("ada", true)).await;
            first.open();
            reply
        };
        // The lease was taken over: the first call's response comes too late.
        let then = async {
            second.reached().await;
            if after_next { second.open() } else { first.open() }
        };
        let (slow, next, ()) = tokio::join!(slow, next, then);
        is(&slow, 409, "finish_in_progress");
        is(&next, 200, "ok");
        let row = world.stack.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
        assert!(row.contains_key("doubts") && !row.contains_key("pending"));
        world.pass_seconds(61);
        assert_eq!(resolving(&world.sweep().await), [1, 0, 0, 0], "after the next call: {after_next}");
        let row = world.stack.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
        assert!(!row.contains_key("doubts") && !row.contains_key("unresolvedSince"));
    }
}

#[tokio::test]
async fn nothing_is_written_for_a_user_who_is_deleted_during_the_run() {
    let world = World::new().await;
    for at in ["GetItem", "UpdateItem"] {
        lose(&world, "ada").await;
        world.pass_seconds(61);
        world.take_requests();
        let (gate, wait) = Gate::new();
        world.stack.faults.set([Rule::once(Service::DynamoDb, wait).of(at)]);
        let (report, deleted) = tokio::join!(world.sweep(), gate.meanwhile(world.delete("ada")));
        assert_eq!((deleted, resolving(&report)), (204, [0, 0, 1, 0]), "{at}");
        assert_eq!((world.rows().await, world.take_requests().len()), (0, 0), "{at}");
    }
    assert_eq!(indexed(&world, "sealedWith").await, 0);
}

#[tokio::test]
async fn a_run_resolves_a_limited_number_of_users_and_always_the_oldest() {
    let world = World::new().await;
    let user = |number: usize| format!("user-{number:03}");
    for number in 0..105 {
        lose(&world, &user(number)).await;
        world.pass_seconds(1);
    }
    world.pass_seconds(61);
    assert_eq!(resolving(&world.sweep().await), [100, 0, 0, 5]);
    let oldest = world.stack.row(&UserId::new(user(0)).unwrap()).await.unwrap().unwrap();
    assert!(!oldest.contains_key("pending"));
    assert_eq!(resolving(&world.sweep().await), [5, 0, 0, 0]);
    assert_eq!(indexed(&world, "unresolved").await, 0);
}

#[tokio::test]
async fn a_row_that_cannot_be_resolved_does_not_delay_other_rows() {
    let capture = LogCapture::default();
    let world = World::writing_to(Output::new(capture.clone()), vec![]).await;
    for user in ["grace", "nobody", "ada", "eve"] {
        lose(&world, user).await;
        world.pass_seconds(1);
    }
    put(&world, "grace", "accessToken", Some(AttributeValue::Bool(true))).await;
    put(&world, "nobody", "clientUserId", None).await;
    world.pass_seconds(61);
    capture.take().unwrap();
    world.fault([garble(500, "{}")]);
    let report = world.sweep().await;
    assert_eq!(
        (&report["outcome"], resolving(&report)),
        (&json!("ok"), [1, 1, 2, 3]),
        "grace, nobody and ada are left"
    );
    let lines = capture.lines().unwrap();
    let of =
        |name: &str| lines.iter().filter(|line| line["function"] == "sweeper").find_map(|line| line[name].as_u64());
    let (swept, faults, errors) = (of("Swept"), of("Faults"), of("Errors"));
    assert_eq!((swept, faults, errors, of("Unresolved")), (Some(1), Some(0), Some(1), Some(1)));
    assert!(of("UnresolvedAgeSeconds").unwrap() >= 64 && of("Requests").is_none());
    assert!(lines.iter().any(|line| line["code"] == "upstream_unavailable"));
    assert_eq!(resolving(&world.sweep().await), [1, 0, 2, 2]);
}

#[tokio::test]
async fn many_rows_that_cannot_be_resolved_do_not_starve_other_rows() {
    let world = World::new().await;
    for number in 0..101 {
        let user = format!("user-{number:03}");
        lose(&world, &user).await;
        put(&world, &user, "accessToken", Some(AttributeValue::Bool(true))).await;
    }
    world.pass_seconds(1);
    lose(&world, "ada").await;
    world.pass_seconds(61);
    // Each run starts at a random row. A row is missed by five runs once in 10 billion times.
    let mut resolved = 0;
    for _ in 0..5 {
        resolved += resolving(&world.sweep().await)[0];
    }
    assert_eq!(resolved, 1);
}

#[tokio::test]
async fn two_sweepers_at_once_do_nothing_twice() {
    let world = World::new().await;
    for user in ["ada", "eve", "alan", "grace"] {
        lose(&world, user).await;
    }
    world.pass_seconds(61);
    world.take_requests();
    let (one, other) = tokio::join!(world.sweep(), world.sweep());
    assert_eq!(resolving(&one)[0] + resolving(&other)[0], 4);
    assert_eq!((resolving(&one)[1], resolving(&other)[1]), (0, 0));
    assert_eq!(world.take_requests(), ["tokens"; 4]);
    assert_eq!(indexed(&world, "unresolved").await, 0);
}

#[tokio::test]
async fn rows_under_an_older_key_are_resealed_in_batches_without_requests_to_human_api() {
    let world = World::new().await;
    for number in 0..505 {
        let user = format!("user-{number:03}");
        is(&world.finish(&user, &world.popup(&user)).await, 201, "ok");
    }
    lose(&world, "user-000").await;
    world.pass_seconds(61);
    assert_eq!(sealing(&world.sweep().await), [0; 4], "all are under the current one, which the sweeper has read");
    // The version before the previous one has no stage any more.
    world.stack.secrets.rotate(TOKEN_KEY);
    world.stack.secrets.rotate(TOKEN_KEY);
    world.take_requests();
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], sealing(&report)), (&json!("ok"), [500, 0, 0, 5]));
    assert_eq!(sealing(&world.sweep().await), [5, 0, 0, 0]);
    assert_eq!(sealing(&world.sweep().await), [0; 4]);
    assert_eq!(world.take_requests().len(), 0);

    world.stack.secrets.drop_old_versions(TOKEN_KEY);
    world.stack.gateway.restart();
    for number in 0..505 {
        let user = format!("user-{number:03}");
        is(&world.access(&user, false).await, 200, "ok");
        is(&world.public_token(&user, false).await, 200, "ok");
    }
    assert_eq!(world.take_requests().len(), 0, "the tokens are unchanged");
}

#[tokio::test]
async fn a_crash_during_a_reseal_loses_nothing() {
    let world = World::new().await;
    is(&world.connect("ada").await, 201, "ok");
    let token = is(&world.session("ada", json!({"flow": "connect"})).await, 200, "ok")["token"].clone();
    world.stack.secrets.rotate(TOKEN_KEY);
    let before = world.stack.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
    let update =
        world.stack.dynamodb.update_item().table_name("human-connect").key("userKey", before["userKey"].clone());
    let pending =
        [("by", "made-up"), ("request", "nothing")].map(|(name, text)| (name, AttributeValue::S(text.into())));
    let now = AttributeValue::N(shared::clock::Clock::system().now().to_string());
    let pending = pending.into_iter().chain([("since", now.clone())]).map(|(name, value)| (name.to_owned(), value));
    update
        .update_expression("SET pending = :pending, unresolvedSince = :now")
        .expression_attribute_values(":pending", AttributeValue::M(pending.collect()))
        .expression_attribute_values(":now", now)
        .send()
        .await
        .unwrap();
    world.pass_seconds(61);
    world.take_requests();
    assert_eq!(resolving(&world.sweep().await), [1, 0, 0, 0]);
    assert_eq!(is(&world.session("ada", json!({"flow": "connect"})).await, 200, "ok")["token"], token);
    assert_eq!(world.take_requests().len(), 0);
}

#[tokio::test]
async fn a_value_that_does_not_open_stays_unchanged_and_does_not_delay_other_rows() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    for user in ["ada", "eve"] {
        world.finish(user, &world.popup(user)).await;
    }
    // One of ada's tokens was replaced.
    let eve = world.stack.row(&UserId::new("eve").unwrap()).await.unwrap().unwrap();
    put(&world, "ada", "publicToken", Some(record(&eve)["publicToken"].clone())).await;
    world.stack.secrets.rotate(TOKEN_KEY);
    for resealed in [1, 0] {
        assert_eq!(sealing(&world.sweep().await), [resealed, 0, 1, 1]);
    }
    let ada = world.stack.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
    assert_eq!(record(&ada)["publicToken"], record(&eve)["publicToken"]);
    is(&world.access("ada", false).await, 200, "ok");

    // The version is deleted. Its rows can no longer be found, and every value that opens was resealed before.
    world.stack.secrets.drop_old_versions(TOKEN_KEY);
    world.stack.gateway.restart();
    assert_eq!(sealing(&world.sweep().await), [0; 4]);
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("eve", false).await, 200, "ok");
    world.pass_seconds(11);
    is(&world.public_token("ada", true).await, 200, "ok");
}

#[tokio::test]
async fn a_deleted_version_that_is_still_listed_is_counted() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    for user in ["ada", "eve"] {
        world.finish(user, &world.popup(user)).await;
    }
    world.stack.secrets.rotate(TOKEN_KEY);
    world.stack.gateway.restart();
    let before = world.table().await;
    let list = world.stack.secrets.list(&json!({"SecretId": TOKEN_KEY, "IncludeDeprecated": true})).unwrap();
    world.stack.secrets.drop_old_versions(TOKEN_KEY);
    let listed = Fault::refuse(200, list.to_string());
    world.stack.faults.set([Rule::once(Service::SecretsManager, listed).of("ListSecretVersionIds (token-key)")]);
    assert_eq!(sealing(&world.sweep().await), [0, 0, 2, 2]);
    let tokens = |table: &[String]| table.concat().matches("000000000001").count();
    assert_eq!(tokens(&world.table().await), tokens(&before), "the sealed values stay");
}

#[tokio::test]
async fn a_failure_of_the_table_is_in_the_report_and_in_the_metrics() {
    let capture = LogCapture::default();
    let world = World::writing_to(Output::new(capture.clone()), vec![]).await;
    lose(&world, "ada").await;
    world.stack.secrets.rotate(TOKEN_KEY);
    world.pass_seconds(61);
    capture.take().unwrap();
    world.stack.faults.set([Rule::always(Service::DynamoDb, refuse(400, NO_INDEX))]);
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], &report["leftUnderOlderKeys"]), (&json!("store_unavailable"), &Value::Null));
    let lines = capture.lines().unwrap();
    assert_eq!((&lines[0]["Faults"], lines[0].get("SealedWithOlderKey")), (&json!(1), None));
    assert_eq!((&lines[1]["Errors"], &lines[1]["code"]), (&json!(2), &json!("store_unavailable")));

    // Each half of the sweeper works without the other.
    world
        .stack
        .faults
        .set([Rule::always(Service::SecretsManager, refuse(400, "{}")).of("ListSecretVersionIds (token-key)")]);
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], &report["resolved"]), (&json!("secret_unavailable"), &json!(1)));
    world.stack.faults.set([]);
    assert_eq!(world.sweep().await["outcome"], "ok");
}

#[tokio::test]
async fn the_other_functions_need_no_index() {
    let world = World::new().await;
    world.stack.dynamodb.delete_table().table_name("human-connect").send().await.unwrap();
    let (key, kind) = ("userKey", aws_sdk_dynamodb::types::ScalarAttributeType::S);
    let attribute = aws_sdk_dynamodb::types::AttributeDefinition::builder().attribute_name(key).attribute_type(kind);
    let hash = aws_sdk_dynamodb::types::KeySchemaElement::builder().attribute_name(key);
    let table = world.stack.dynamodb.create_table().table_name("human-connect");
    let table = table.attribute_definitions(attribute.build().unwrap());
    let table = table.key_schema(hash.key_type(aws_sdk_dynamodb::types::KeyType::Hash).build().unwrap());
    table.billing_mode(aws_sdk_dynamodb::types::BillingMode::PayPerRequest).send().await.unwrap();
    let object = lose(&world, "ada").await;
    is(&world.finish("ada", &object).await, 201, "ok");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("ada", true).await, 200, "ok");
    assert_eq!(world.sweep().await["outcome"], "store_unavailable");
    assert_eq!(world.delete("ada").await, 204);
}
