//! `reseal` seals with the current key what older keys sealed.

use aws_sdk_dynamodb::types::AttributeValue;
use local::faults::{Rule, Service};
use local::secrets::TOKEN_KEY;
use serde_json::{Value, json};

use crate::world::{World, is, record, record_mut, refuse};

/// Calls `reseal` for this segment until `next` is null. Returns the number of calls and the resealed, unchanged and failed rows.
async fn reseal(world: &World, segment: u32, segments: u32) -> (usize, [u64; 3]) {
    let (mut calls, mut total, mut after) = (0, [0; 3], Value::Null);
    loop {
        let event = json!({"task": "reseal", "after": after, "segment": segment, "segments": segments});
        let response = world.stack.gateway.maintain(&event).await.unwrap();
        let counted = counts(&response);
        total.iter_mut().zip(counted).for_each(|(sum, count)| *sum += count);
        calls += 1;
        after = response["next"].clone();
        if after.is_null() {
            return (calls, total);
        }
    }
}

fn counts(response: &Value) -> [u64; 3] {
    ["resealed", "unchanged", "failed"].map(|name| response[name].as_u64().unwrap())
}

/// Returns `true` if the table has a value that the first version of the key has sealed.
async fn has_first_version(world: &World) -> bool {
    world.table().await.concat().contains("00000000-0000-4000-8000-000000000001")
}

#[tokio::test]
async fn the_whole_table_is_resealed_without_requests_to_human_api() {
    let world = World::new().await;
    let user = |number: usize| format!("user-{number:02}");
    for number in 0..30 {
        is(&world.finish(&user(number), &world.popup(&user(number))).await, 201, "ok");
    }
    assert_eq!(reseal(&world, 0, 1).await, (1, [0, 30, 0]));
    // The version before the previous one has no stage any more.
    world.stack.secrets.rotate(TOKEN_KEY);
    world.stack.secrets.rotate(TOKEN_KEY);
    world.take_requests();
    let parts = tokio::join!(reseal(&world, 0, 3), reseal(&world, 1, 3), reseal(&world, 2, 3));
    let parts = [parts.0.1, parts.1.1, parts.2.1];
    assert_eq!(parts.iter().map(|part| part[0]).sum::<u64>(), 30, "{parts:?}");
    assert!(parts.iter().filter(|part| part[0] > 0).count() > 1, "several segments have rows: {parts:?}");
    assert_eq!(reseal(&world, 0, 1).await, (1, [0, 30, 0]));
    assert_eq!((world.take_requests().len(), has_first_version(&world).await), (0, false));

    world.stack.secrets.drop_old_versions(TOKEN_KEY);
    world.stack.gateway.restart();
    for number in 0..30 {
        is(&world.access(&user(number), false).await, 200, "ok");
        is(&world.public_token(&user(number), false).await, 200, "ok");
    }
    assert_eq!(world.take_requests().len(), 0, "the tokens are unchanged");
}

#[tokio::test]
async fn the_walk_goes_on_after_its_cursor() {
    let world = World::new().await;
    for user in ["ada", "eve", "alan", "grace"] {
        world.finish(user, &world.popup(user)).await;
    }
    world.stack.secrets.rotate(TOKEN_KEY);
    let mut page = world
        .stack
        .dynamodb
        .scan()
        .table_name("human-connect")
        .segment(0)
        .total_segments(1)
        .limit(2)
        .send()
        .await
        .unwrap();
    let cursor = page.last_evaluated_key.take().unwrap()["userKey"].as_s().unwrap().clone();
    let event = json!({"task": "reseal", "after": cursor});
    let response = world.stack.gateway.maintain(&event).await.unwrap();
    assert_eq!((counts(&response), &response["next"]), ([2, 0, 0], &Value::Null));
    assert_eq!(reseal(&world, 0, 1).await, (1, [2, 2, 0]));
}

#[tokio::test]
async fn a_walk_that_the_table_ends_early_says_where_to_go_on() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.stack.secrets.rotate(TOKEN_KEY);
    let cursor = "made up";
    world.stack.faults.set([Rule::always(Service::DynamoDb, refuse(400, "{}")).of("Scan")]);
    for after in [Value::Null, json!(cursor)] {
        let response = world.stack.gateway.maintain(&json!({"task": "reseal", "after": after})).await.unwrap();
        assert_eq!((counts(&response), &response["next"]), ([0, 0, 1], &after));
    }
}

#[tokio::test]
async fn what_a_crash_left_is_resolved_and_resealed() {
    let world = World::new().await;
    let object = world.lose("ada").await;
    world.stack.secrets.rotate(TOKEN_KEY);
    world.take_requests();
    assert_eq!(reseal(&world, 0, 1).await, (1, [1, 0, 0]));
    assert_eq!((world.take_requests(), has_first_version(&world).await), (vec!["tokens".to_owned()], false));
    is(&world.finish("ada", &object).await, 200, "ok");
}

#[tokio::test]
async fn a_reseal_that_crashed_costs_no_token() {
    let world = World::new().await;
    is(&world.connect("ada").await, 201, "ok");
    let token = is(&world.session("ada", json!({"flow": "connect"})).await, 200, "ok")["token"].clone();
    world.stack.secrets.rotate(TOKEN_KEY);
    let mut row = world.row("ada").await;
    let (text, number) = (|text: &str| AttributeValue::S(text.into()), || AttributeValue::N("1".into()));
    let pending = [("by", text("made-up")), ("request", text("nothing")), ("since", number())];
    let pending = pending.map(|(name, value)| (name.to_owned(), value));
    row.insert("pending".into(), AttributeValue::M(pending.into()));
    row.insert("leaseId".into(), text("made-up"));
    row.insert("leaseUntil".into(), number());
    world.put(row).await;
    world.take_requests();
    assert_eq!(world.sweep().await["resolved"], 1);
    assert!(!has_first_version(&world).await, "every commit reseals");
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
    let foreign = record(&world.row("eve").await)["publicToken"].clone();
    let mut ada = world.row("ada").await;
    record_mut(&mut ada).insert("publicToken".into(), foreign.clone());
    world.put(ada).await;
    world.stack.secrets.rotate(TOKEN_KEY);
    assert_eq!(reseal(&world, 0, 1).await, (1, [1, 0, 1]));
    assert_eq!(reseal(&world, 0, 1).await, (1, [0, 1, 1]));
    assert_eq!(record(&world.row("ada").await)["publicToken"], foreign);
    is(&world.access("ada", false).await, 200, "ok");

    // The version is deleted. Every value that opens was resealed before.
    world.stack.secrets.drop_old_versions(TOKEN_KEY);
    world.stack.gateway.restart();
    assert_eq!(reseal(&world, 0, 1).await, (1, [0, 1, 1]));
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("eve", false).await, 200, "ok");
    world.pass_seconds(11);
    is(&world.public_token("ada", true).await, 200, "ok");
    assert_eq!(reseal(&world, 0, 1).await, (1, [0, 2, 0]));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_fails_and_does_not_delay_other_rows() {
    let world = World::new().await;
    for user in ["ada", "eve"] {
        world.finish(user, &world.popup(user)).await;
    }
    let mut ada = world.row("ada").await;
    ada.remove("generation");
    world.put(ada.clone()).await;
    let foreign = ("userKey".to_owned(), AttributeValue::S("made up by another writer".into()));
    world.put([foreign].into()).await;
    world.stack.secrets.rotate(TOKEN_KEY);
    assert_eq!(reseal(&world, 0, 1).await, (1, [1, 0, 2]));
    assert_eq!(world.row("ada").await, ada);
}
