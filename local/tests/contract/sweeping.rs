//! What nobody comes back for, and rows under an older key: the sweeper.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use local::faults::{Fault, Rule, Service};
use local::heard::Heard;
use local::secrets::TOKEN_KEY;
use serde_json::{Value, json};
use shared::identity::UserId;
use shared::telemetry::Output;

use crate::world::{Gate, World, garble, is, refuse};

/// What DynamoDB answers where a table has no such index.
const NO_INDEX: &str = r#"{"__type":"com.amazon.coral.validate#ValidationException","message":"no such index"}"#;

/// Leaves an exchange of this user unresolved, which can be done again.
async fn lose(world: &World, user: &str) -> Value {
    world.laptop.human_api.with(|state| state.single_use = false);
    let object = world.popup(user);
    world.fault([garble(500, "{}")]);
    is(&world.finish(user, &object).await, 503, "upstream_unavailable");
    object
}

/// Users that an index names.
async fn indexed(world: &World, index: &str) -> usize {
    let scan = world.laptop.dynamodb.scan().table_name("human-connect").index_name(index);
    scan.send().await.unwrap().items().len()
}

async fn put(world: &World, user: &str, attribute: &str, value: Option<AttributeValue>) {
    let user = UserId::new(user).unwrap();
    let mut row = world.laptop.row(&user).await.unwrap().unwrap();
    let fields = match (attribute, row.get_mut("userRecord")) {
        ("publicToken" | "sealedHumanId" | "accessToken", Some(AttributeValue::M(record))) => record,
        _ => &mut row,
    };
    match value {
        Some(value) => fields.insert(attribute.to_owned(), value),
        None => fields.remove(attribute),
    };
    world.laptop.dynamodb.put_item().table_name("human-connect").set_item(Some(row)).send().await.unwrap();
}

fn record(row: &HashMap<String, AttributeValue>) -> &HashMap<String, AttributeValue> {
    row["userRecord"].as_m().unwrap()
}

fn numbers(report: &Value, names: [&str; 4]) -> [Option<u64>; 4] {
    names.map(|name| report[name].as_u64())
}

/// Resolved, failed, skipped, left.
fn resolving(report: &Value) -> [u64; 4] {
    numbers(report, ["resolved", "failed", "skipped", "leftUnresolved"]).map(Option::unwrap)
}

/// Sealed anew, failed, skipped, left.
fn sealing(report: &Value) -> [u64; 4] {
    numbers(report, ["resealed", "failed", "skipped", "leftUnderOlderKeys"]).map(Option::unwrap)
}

#[tokio::test]
async fn what_a_crash_left_of_a_user_who_does_not_come_back_is_resolved() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.crash("ada", &world.popup("ada")).await;
    world.crash("eve", &world.popup("eve")).await;
    world.asked();
    world.pass_seconds(30);
    assert_eq!(resolving(&world.sweep().await), [0; 4], "their users may yet come back");
    assert_eq!((world.asked().len(), indexed(&world, "unresolved").await), (0, 2));

    world.pass_seconds(31);
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], resolving(&report)), (&json!("ok"), [2, 0, 0, 0]));
    assert_eq!(indexed(&world, "unresolved").await, 0);
    assert!(!world.table().await.concat().contains("\"pending\""));
    world.asked();
    // of a popup user whose humanId is proven, both tokens; of a new one, what `access` gives
    let (newest_access, newest_public) = world.laptop.human_api.with(|state| state.newest("ada"));
    assert_eq!(world.access("ada", false).await.json()["accessToken"].as_str(), newest_access.as_deref());
    assert_eq!(world.public_token("ada", false).await.json()["publicToken"].as_str(), newest_public.as_deref());
    is(&world.access("eve", false).await, 200, "ok");
    is(&world.public_token("eve", false).await, 409, "reconnect_required");
    assert_eq!(world.asked().len(), 0, "all of it was stored");
    assert_eq!(resolving(&world.sweep().await), [0; 4]);
}

#[tokio::test]
async fn a_session_that_can_be_used_again_is_exchanged_by_the_sweeper() {
    let world = World::new().await;
    let object = lose(&world, "ada").await;
    world.pass_seconds(61);
    assert_eq!(resolving(&world.sweep().await), [1, 0, 0, 0]);
    is(&world.finish("ada", &object).await, 200, "ok");
    is(&world.public_token("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn a_hint_that_is_out_of_date_is_looked_at_and_no_more() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    put(&world, "ada", "unresolvedSince", Some(AttributeValue::N("1".into()))).await;
    put(&world, "ada", "sealedWith", Some(AttributeValue::S("00000000-0000-4000-8000-000000000001".into()))).await;
    world.laptop.secrets.rotate(TOKEN_KEY);
    put(&world, "ada", "publicToken", None).await;
    put(&world, "ada", "sealedHumanId", None).await;
    put(&world, "ada", "accessToken", None).await;
    world.asked();
    let before = world.table().await;
    let report = world.sweep().await;
    assert_eq!((resolving(&report), sealing(&report)), ([0, 0, 2, 0], [0, 0, 2, 0]));
    assert_eq!((world.table().await.len(), world.asked().len()), (1, 0));
    assert_eq!(before[0].len(), world.table().await[0].len(), "nothing was written");
}

#[tokio::test]
async fn a_user_who_is_back_is_left_alone() {
    let world = World::new().await;
    lose(&world, "ada").await;
    world.pass_seconds(61);
    world.asked();
    let gate = world.hold_up_human_api(None);
    let (served, report) = tokio::join!(world.access("ada", false), gate.meanwhile(world.sweep()));
    is(&served, 200, "ok");
    assert_eq!(resolving(&report), [0, 0, 1, 1]);
    assert_eq!(world.asked(), ["tokens"], "the user's own call");
}

#[tokio::test]
async fn a_user_who_comes_back_just_before_the_hold_is_not_waited_for() {
    let world = World::new().await;
    lose(&world, "ada").await;
    world.pass_seconds(61);
    let ((hold, holds_up), (answer, holds_up_too)) = (Gate::new(), Gate::new());
    world
        .laptop
        .faults
        .set([Rule::once(Service::DynamoDb, holds_up).of("UpdateItem"), Rule::once(Service::HumanApi, holds_up_too)]);
    let back = async {
        hold.reached().await;
        world.access("ada", false).await
    };
    let then = async {
        answer.reached().await;
        hold.open();
    };
    let sweep = async {
        let report = world.sweep().await;
        answer.open();
        report
    };
    let (report, served, ()) = tokio::join!(sweep, back, then);
    is(&served, 200, "ok");
    assert_eq!(resolving(&report), [0, 0, 1, 1]);
}

#[tokio::test]
async fn a_doubt_is_found_whether_it_is_marked_while_the_next_call_works_or_after_it() {
    for after_it in [false, true] {
        let world = World::new().await;
        world.connect("ada").await;
        world.pass_seconds(11);
        let ((first, holds_up), (second, holds_up_too)) = (Gate::new(), Gate::new());
        world.fault([holds_up, holds_up_too]);
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
        // the hold was taken over: the first one's answer comes too late
        let then = async {
            second.reached().await;
            if after_it { second.open() } else { first.open() }
        };
        let (slow, next, ()) = tokio::join!(slow, next, then);
        is(&slow, 409, "finish_in_progress");
        is(&next, 200, "ok");
        let row = world.laptop.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
        assert!(row.contains_key("doubts") && !row.contains_key("pending"));
        world.pass_seconds(61);
        assert_eq!(resolving(&world.sweep().await), [1, 0, 0, 0], "after it: {after_it}");
        let row = world.laptop.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
        assert!(!row.contains_key("doubts") && !row.contains_key("unresolvedSince"));
    }
}

#[tokio::test]
async fn of_a_user_who_is_deleted_meanwhile_nothing_is_written() {
    let world = World::new().await;
    for at in ["GetItem", "UpdateItem"] {
        lose(&world, "ada").await;
        world.pass_seconds(61);
        world.asked();
        let (gate, wait) = Gate::new();
        world.laptop.faults.set([Rule::once(Service::DynamoDb, wait).of(at)]);
        let (report, deleted) = tokio::join!(world.sweep(), gate.meanwhile(world.forget("ada")));
        assert_eq!((deleted, resolving(&report)), (204, [0, 0, 1, 0]), "{at}");
        assert_eq!((world.rows().await, world.asked().len()), (0, 0), "{at}");
    }
    assert_eq!(indexed(&world, "sealedWith").await, 0);
}

#[tokio::test]
async fn a_run_takes_on_so_many_users_and_the_oldest_in_any_case() {
    let world = World::new().await;
    let user = |number: usize| format!("user-{number:03}");
    for number in 0..105 {
        lose(&world, &user(number)).await;
        world.pass_seconds(1);
    }
    world.pass_seconds(61);
    assert_eq!(resolving(&world.sweep().await), [100, 0, 0, 5]);
    let oldest = world.laptop.row(&UserId::new(user(0)).unwrap()).await.unwrap().unwrap();
    assert!(!oldest.contains_key("pending"));
    assert_eq!(resolving(&world.sweep().await), [5, 0, 0, 0]);
    assert_eq!(indexed(&world, "unresolved").await, 0);
}

#[tokio::test]
async fn a_row_that_cannot_be_resolved_keeps_no_other_waiting() {
    let heard = Heard::default();
    let world = World::writing_to(Output::new(heard.clone()), vec![]).await;
    for user in ["grace", "nobody", "ada", "eve"] {
        lose(&world, user).await;
        world.pass_seconds(1);
    }
    put(&world, "grace", "accessToken", Some(AttributeValue::Bool(true))).await;
    put(&world, "nobody", "clientUserId", None).await;
    world.pass_seconds(61);
    heard.take().unwrap();
    world.fault([garble(500, "{}")]);
    let report = world.sweep().await;
    assert_eq!(
        (&report["outcome"], resolving(&report)),
        (&json!("ok"), [1, 1, 2, 3]),
        "grace, nobody and ada are left"
    );
    let lines = heard.lines().unwrap();
    let of =
        |name: &str| lines.iter().filter(|line| line["function"] == "sweeper").find_map(|line| line[name].as_u64());
    let (swept, faults, errors) = (of("Swept"), of("Faults"), of("Errors"));
    assert_eq!((swept, faults, errors, of("Unresolved")), (Some(1), Some(0), Some(1), Some(1)));
    assert!(of("UnresolvedAgeSeconds").unwrap() >= 64 && of("Requests").is_none());
    assert!(lines.iter().any(|line| line["code"] == "upstream_unavailable"));
    assert_eq!(resolving(&world.sweep().await), [1, 0, 2, 2]);
}

#[tokio::test]
async fn many_rows_that_cannot_be_resolved_starve_no_other() {
    let world = World::new().await;
    for number in 0..101 {
        let user = format!("user-{number:03}");
        lose(&world, &user).await;
        put(&world, &user, "accessToken", Some(AttributeValue::Bool(true))).await;
    }
    world.pass_seconds(1);
    lose(&world, "ada").await;
    world.pass_seconds(61);
    let mut resolved = 0;
    for _ in 0..2 {
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
    world.asked();
    let (one, other) = tokio::join!(world.sweep(), world.sweep());
    assert_eq!(resolving(&one)[0] + resolving(&other)[0], 4);
    assert_eq!((resolving(&one)[1], resolving(&other)[1]), (0, 0));
    assert_eq!(world.asked(), ["tokens"; 4]);
    assert_eq!(indexed(&world, "unresolved").await, 0);
}

#[tokio::test]
async fn rows_under_an_older_key_are_sealed_anew_so_many_a_run_and_nobody_is_asked() {
    let world = World::new().await;
    for number in 0..505 {
        let user = format!("user-{number:03}");
        is(&world.finish(&user, &world.popup(&user)).await, 201, "ok");
    }
    lose(&world, "user-000").await;
    world.pass_seconds(61);
    assert_eq!(sealing(&world.sweep().await), [0; 4], "all are under the current one, which the sweeper has read");
    // the version before the last has no stage any more
    world.laptop.secrets.rotate(TOKEN_KEY);
    world.laptop.secrets.rotate(TOKEN_KEY);
    world.asked();
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], sealing(&report)), (&json!("ok"), [500, 0, 0, 5]));
    assert_eq!(sealing(&world.sweep().await), [5, 0, 0, 0]);
    assert_eq!(sealing(&world.sweep().await), [0; 4]);
    assert_eq!(world.asked().len(), 0);

    world.laptop.secrets.drop_old_versions(TOKEN_KEY);
    world.laptop.gateway.restart();
    for number in 0..505 {
        let user = format!("user-{number:03}");
        is(&world.access(&user, false).await, 200, "ok");
        is(&world.public_token(&user, false).await, 200, "ok");
    }
    assert_eq!(world.asked().len(), 0, "as they were");
}

#[tokio::test]
async fn a_death_while_a_row_is_sealed_anew_costs_nothing() {
    let world = World::new().await;
    is(&world.connect("ada").await, 201, "ok");
    let token = is(&world.session("ada", json!({"flow": "connect"})).await, 200, "ok")["token"].clone();
    world.laptop.secrets.rotate(TOKEN_KEY);
    let before = world.laptop.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
    let held =
        world.laptop.dynamodb.update_item().table_name("human-connect").key("userKey", before["userKey"].clone());
    let pending =
        [("by", "made-up"), ("request", "nothing")].map(|(name, text)| (name, AttributeValue::S(text.into())));
    let now = AttributeValue::N(shared::clock::Clock::system().now().to_string());
    let pending = pending.into_iter().chain([("since", now.clone())]).map(|(name, value)| (name.to_owned(), value));
    held.update_expression("SET pending = :pending, unresolvedSince = :now")
        .expression_attribute_values(":pending", AttributeValue::M(pending.collect()))
        .expression_attribute_values(":now", now)
        .send()
        .await
        .unwrap();
    world.pass_seconds(61);
    world.asked();
    assert_eq!(resolving(&world.sweep().await), [1, 0, 0, 0]);
    assert_eq!(is(&world.session("ada", json!({"flow": "connect"})).await, 200, "ok")["token"], token);
    assert_eq!(world.asked().len(), 0);
}

#[tokio::test]
async fn what_does_not_open_stays_as_it_is_and_keeps_no_other_waiting() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    for user in ["ada", "eve"] {
        world.finish(user, &world.popup(user)).await;
    }
    // of ada's tokens one was tampered with
    let eve = world.laptop.row(&UserId::new("eve").unwrap()).await.unwrap().unwrap();
    put(&world, "ada", "publicToken", Some(record(&eve)["publicToken"].clone())).await;
    world.laptop.secrets.rotate(TOKEN_KEY);
    for resealed in [1, 0] {
        assert_eq!(sealing(&world.sweep().await), [resealed, 0, 1, 1]);
    }
    let ada = world.laptop.row(&UserId::new("ada").unwrap()).await.unwrap().unwrap();
    assert_eq!(record(&ada)["publicToken"], record(&eve)["publicToken"]);
    is(&world.access("ada", false).await, 200, "ok");

    // the version goes: nobody can say what is sealed with it, and what can be opened was sealed anew before
    world.laptop.secrets.drop_old_versions(TOKEN_KEY);
    world.laptop.gateway.restart();
    assert_eq!(sealing(&world.sweep().await), [0; 4]);
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("eve", false).await, 200, "ok");
    world.pass_seconds(11);
    is(&world.public_token("ada", true).await, 200, "ok");
}

#[tokio::test]
async fn a_version_that_is_gone_before_the_list_knows_it_is_counted() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    for user in ["ada", "eve"] {
        world.finish(user, &world.popup(user)).await;
    }
    world.laptop.secrets.rotate(TOKEN_KEY);
    world.laptop.gateway.restart();
    let before = world.table().await;
    let list = world.laptop.secrets.list(&json!({"SecretId": TOKEN_KEY, "IncludeDeprecated": true})).unwrap();
    world.laptop.secrets.drop_old_versions(TOKEN_KEY);
    let listed = Fault::refuse(200, list.to_string());
    world.laptop.faults.set([Rule::once(Service::SecretsManager, listed).of("ListSecretVersionIds (token-key)")]);
    assert_eq!(sealing(&world.sweep().await), [0, 0, 2, 2]);
    let tokens = |table: &[String]| table.concat().matches("000000000001").count();
    assert_eq!(tokens(&world.table().await), tokens(&before), "nothing is thrown away");
}

#[tokio::test]
async fn a_table_that_fails_is_in_the_report_and_in_the_metrics() {
    let heard = Heard::default();
    let world = World::writing_to(Output::new(heard.clone()), vec![]).await;
    lose(&world, "ada").await;
    world.laptop.secrets.rotate(TOKEN_KEY);
    world.pass_seconds(61);
    heard.take().unwrap();
    world.laptop.faults.set([Rule::always(Service::DynamoDb, refuse(400, NO_INDEX))]);
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], &report["leftUnderOlderKeys"]), (&json!("store_unavailable"), &Value::Null));
    let lines = heard.lines().unwrap();
    assert_eq!((&lines[0]["Faults"], lines[0].get("SealedWithOlderKey")), (&json!(1), None));
    assert_eq!((&lines[1]["Errors"], &lines[1]["code"]), (&json!(2), &json!("store_unavailable")));

    // one half does not need the other
    world
        .laptop
        .faults
        .set([Rule::always(Service::SecretsManager, refuse(400, "{}")).of("ListSecretVersionIds (token-key)")]);
    let report = world.sweep().await;
    assert_eq!((&report["outcome"], &report["resolved"]), (&json!("secret_unavailable"), &json!(1)));
    world.laptop.faults.set([]);
    assert_eq!(world.sweep().await["outcome"], "ok");
}

#[tokio::test]
async fn the_other_functions_need_no_index() {
    let world = World::new().await;
    world.laptop.dynamodb.delete_table().table_name("human-connect").send().await.unwrap();
    let (key, kind) = ("userKey", aws_sdk_dynamodb::types::ScalarAttributeType::S);
    let attribute = aws_sdk_dynamodb::types::AttributeDefinition::builder().attribute_name(key).attribute_type(kind);
    let hash = aws_sdk_dynamodb::types::KeySchemaElement::builder().attribute_name(key);
    let table = world.laptop.dynamodb.create_table().table_name("human-connect");
    let table = table.attribute_definitions(attribute.build().unwrap());
    let table = table.key_schema(hash.key_type(aws_sdk_dynamodb::types::KeyType::Hash).build().unwrap());
    table.billing_mode(aws_sdk_dynamodb::types::BillingMode::PayPerRequest).send().await.unwrap();
    let object = lose(&world, "ada").await;
    is(&world.finish("ada", &object).await, 201, "ok");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("ada", true).await, 200, "ok");
    assert_eq!(world.sweep().await["outcome"], "store_unavailable");
    assert_eq!(world.forget("ada").await, 204);
}
