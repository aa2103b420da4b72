//! `sweep` resolves users who do not come back.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use local::faults::{Rule, Service};
use serde_json::{Value, json};
use shared::telemetry::Output;
use test_support::LogCapture;

use crate::world::{Gate, World, garble, is, record_mut, refuse};

/// DynamoDB's response if a table has no such index.
const NO_INDEX: &str = r#"{"__type":"com.amazon.coral.validate#ValidationException","message":"no such index"}"#;

/// Returns the number of rows in the index.
async fn indexed(world: &World) -> usize {
    let scan = world.stack.dynamodb.scan().table_name("human-connect").index_name("unresolved");
    scan.send().await.unwrap().items().len()
}

/// Returns the resolved, failed, skipped and left users.
fn counts(response: &Value) -> [u64; 4] {
    ["resolved", "failed", "skipped", "left"].map(|name| response[name].as_u64().unwrap())
}

/// Makes this user's record unreadable, as another writer would.
async fn garble_record(world: &World, user: &str) {
    let mut row = world.row(user).await;
    record_mut(&mut row).insert("accessToken".into(), AttributeValue::Bool(true));
    world.put(row).await;
}

#[tokio::test]
async fn a_crashed_call_of_a_user_who_does_not_come_back_is_resolved() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.crash("ada", &world.popup("ada")).await;
    world.crash("eve", &world.popup("eve")).await;
    world.take_requests();
    world.pass_seconds(58);
    assert_eq!(counts(&world.sweep().await), [0; 4], "the users may still come back");
    assert_eq!((world.take_requests().len(), indexed(&world).await), (0, 2));

    world.pass_seconds(3);
    let response = world.sweep().await;
    assert_eq!((counts(&response), &response["oldestSeconds"]), ([2, 0, 0, 0], &Value::Null));
    assert_eq!(indexed(&world).await, 0);
    assert!(!world.table().await.concat().contains("\"pending\""));
    world.take_requests();
    // A popup user with a proven humanId gets both tokens. A new user gets only the token of `access`.
    let (newest_access, newest_public) = world.stack.human_api.with(|state| state.newest("ada"));
    assert_eq!(world.access("ada", false).await.json()["accessToken"].as_str(), newest_access.as_deref());
    assert_eq!(world.public_token("ada", false).await.json()["publicToken"].as_str(), newest_public.as_deref());
    is(&world.access("eve", false).await, 200, "ok");
    is(&world.public_token("eve", false).await, 409, "reconnect_required");
    assert_eq!(world.take_requests().len(), 0, "all tokens were stored");
    assert_eq!(counts(&world.sweep().await), [0; 4]);
}

#[tokio::test]
async fn a_reusable_session_is_exchanged() {
    let world = World::new().await;
    let object = world.lose("ada").await;
    world.pass_seconds(61);
    assert_eq!(counts(&world.sweep().await), [1, 0, 0, 0]);
    is(&world.finish("ada", &object).await, 200, "ok");
    is(&world.public_token("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn a_lease_with_nothing_behind_it_is_cleared() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let before = world.row("ada").await;
    let mut leased = before.clone();
    leased.insert("leaseUntil".into(), AttributeValue::N("1".into()));
    world.put(leased).await;
    world.take_requests();
    assert_eq!(counts(&world.sweep().await), [1, 0, 0, 0]);
    let after = world.row("ada").await;
    assert_eq!((&after["userRecord"], after.contains_key("leaseUntil")), (&before["userRecord"], false));
    assert_eq!((indexed(&world).await, world.take_requests().len()), (0, 0));
}

#[tokio::test]
async fn a_user_with_a_call_in_flight_is_skipped() {
    let world = World::new().await;
    world.lose("ada").await;
    world.pass_seconds(61);
    world.take_requests();
    let gate = world.block_human_api(None);
    let (served, response) = tokio::join!(world.access("ada", false), gate.meanwhile(world.sweep()));
    is(&served, 200, "ok");
    assert_eq!(counts(&response), [0; 4], "the index shows a lease that runs");
    assert_eq!(world.take_requests(), ["tokens"], "the user's own call");
}

#[tokio::test]
async fn a_user_who_comes_back_during_the_run_is_not_waited_for() {
    for (at, left) in [("GetItem", [0, 0, 1, 1]), ("UpdateItem", [0, 0, 1, 1])] {
        let world = World::new().await;
        world.lose("ada").await;
        world.pass_seconds(61);
        let ((visit, block_visit), (response, block_response)) = (Gate::new(), Gate::new());
        world
            .stack
            .faults
            .set([Rule::once(Service::DynamoDb, block_visit).of(at), Rule::once(Service::HumanApi, block_response)]);
        let back = async {
            visit.reached().await;
            world.access("ada", false).await
        };
        let then = async {
            response.reached().await;
            visit.open();
        };
        let sweep = async {
            let swept = world.sweep().await;
            response.open();
            swept
        };
        let (swept, served, ()) = tokio::join!(sweep, back, then);
        is(&served, 200, "ok");
        assert_eq!(counts(&swept), left, "{at}");
    }
}

#[tokio::test]
async fn a_takeover_is_resolved_if_it_is_marked_during_the_next_call_or_after_it() {
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
        let row = world.row("ada").await;
        assert!(row.contains_key("takenOver") && row.contains_key("leaseUntil") && !row.contains_key("pending"));
        world.pass_seconds(61);
        assert_eq!(counts(&world.sweep().await), [1, 0, 0, 0], "after the next call: {after_next}");
        let row = world.row("ada").await;
        assert!(!row.contains_key("takenOver") && !row.contains_key("leaseUntil"));
    }
}

#[tokio::test]
async fn nothing_is_written_for_a_user_who_is_deleted_during_the_run() {
    let world = World::new().await;
    for at in ["GetItem", "UpdateItem"] {
        world.lose("ada").await;
        world.pass_seconds(61);
        world.take_requests();
        let (gate, wait) = Gate::new();
        world.stack.faults.set([Rule::once(Service::DynamoDb, wait).of(at)]);
        let (response, deleted) = tokio::join!(world.sweep(), gate.meanwhile(world.delete("ada")));
        assert_eq!((deleted, counts(&response)), (204, [0, 0, 1, 0]), "{at}");
        assert_eq!((world.rows().await, world.take_requests().len()), (0, 0), "{at}");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_resolved_does_not_delay_other_rows() {
    let capture = LogCapture::default();
    let world = World::writing_to(Output::new(capture.clone()), vec![]).await;
    for user in ["grace", "nobody", "ada", "eve"] {
        world.lose(user).await;
        world.pass_seconds(1);
    }
    garble_record(&world, "grace").await;
    let mut nobody = world.row("nobody").await;
    nobody.remove("clientUserId");
    world.put(nobody).await;
    world.pass_seconds(61);
    capture.take().unwrap();
    world.fault([garble(500, "{}")]);
    let response = world.sweep().await;
    assert_eq!(counts(&response), [1, 1, 2, 3], "grace, nobody and ada are left");
    assert!(response["oldestSeconds"].as_u64().unwrap() >= 64);
    let lines = capture.lines().unwrap();
    let of = |name: &str| {
        let own = lines.iter().filter(|line| line["function"] == "maintenance");
        own.filter_map(|line| line[name].as_u64()).next()
    };
    assert_eq!((of("Swept"), of("Faults"), of("Errors"), of("Requests")), (Some(1), Some(0), Some(1), None));
    assert!(of("UnresolvedAgeSeconds").unwrap() >= 64);
    assert!(lines.iter().any(|line| line["code"] == "upstream_unavailable"));
    assert_eq!(counts(&world.sweep().await), [1, 0, 2, 2]);
}

#[tokio::test]
async fn two_runs_at_once_do_nothing_twice() {
    let world = World::new().await;
    for user in ["ada", "eve", "alan", "grace"] {
        world.lose(user).await;
    }
    world.pass_seconds(61);
    world.take_requests();
    let (one, other) = tokio::join!(world.sweep(), world.sweep());
    assert_eq!(counts(&one)[0] + counts(&other)[0], 4);
    assert_eq!((counts(&one)[1], counts(&other)[1]), (0, 0));
    assert_eq!(world.take_requests(), ["tokens"; 4]);
    assert_eq!(indexed(&world).await, 0);
}

#[tokio::test]
async fn a_failure_of_the_table_is_in_the_metrics() {
    let capture = LogCapture::default();
    let world = World::writing_to(Output::new(capture.clone()), vec![]).await;
    world.lose("ada").await;
    world.pass_seconds(61);
    capture.take().unwrap();
    world.stack.faults.set([Rule::always(Service::DynamoDb, refuse(400, NO_INDEX))]);
    assert_eq!(counts(&world.sweep().await), [0; 4]);
    let lines = capture.lines().unwrap();
    assert_eq!(lines[0]["Faults"], 1);
    assert_eq!((&lines[1]["Errors"], &lines[1]["code"]), (&json!(1), &json!("store_unavailable")));
    world.stack.faults.set([]);
    assert_eq!(counts(&world.sweep().await), [1, 0, 0, 0]);
}

#[tokio::test]
async fn the_other_functions_need_no_index() {
    let world = World::new().await;
    world.stack.dynamodb.delete_table().table_name("human-connect").send().await.unwrap();
    let attribute =
        AttributeDefinition::builder().attribute_name("userKey").attribute_type(ScalarAttributeType::S).build();
    let hash = KeySchemaElement::builder().attribute_name("userKey").key_type(KeyType::Hash).build();
    let table = world.stack.dynamodb.create_table().table_name("human-connect").key_schema(hash.unwrap());
    let table = table.attribute_definitions(attribute.unwrap()).billing_mode(BillingMode::PayPerRequest);
    table.send().await.unwrap();
    let object = world.lose("ada").await;
    is(&world.finish("ada", &object).await, 201, "ok");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("ada", true).await, 200, "ok");
    assert_eq!(counts(&world.sweep().await), [0; 4]);
    assert_eq!(world.delete("ada").await, 204);
}

#[tokio::test]
async fn an_event_that_is_no_task_is_an_error_that_names_the_field() {
    let world = World::new().await;
    let maintain = async |event| world.stack.gateway.maintain(&event).await;
    assert!(maintain(json!({"task": "sweeep"})).await.unwrap_err().contains("task"));
    assert!(maintain(json!({"detail-type": "Scheduled Event"})).await.is_ok());
}
