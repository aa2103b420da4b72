//! Connection events, from the calls to the bus.

use local::gateway::FORGET;
use serde_json::{Value, json};

use crate::world::{SOURCE, World, is};

/// Publishes what has changed since the last call. Returns the kind of each event, and the events.
async fn published(world: &World) -> (Vec<String>, Vec<Value>) {
    world.stack.publish().await.unwrap();
    let events = world.stack.event_bus.after(0);
    world.stack.event_bus.clear();
    let kinds = events.iter().map(|event| event.detail_type.replace("Connection ", "")).collect();
    (kinds, events.into_iter().map(|event| event.detail).collect())
}

async fn kinds(world: &World) -> Vec<String> {
    published(world).await.0
}

#[tokio::test]
async fn the_life_of_a_connection_has_these_events_and_no_other() {
    let world = World::with_stream().await;
    world.session("ada", json!({"flow": "popup"})).await;
    assert_eq!(kinds(&world).await, [""; 0], "a ticket");
    let object = world.popup("ada");
    is(&world.finish("ada", &object).await, 201, "ok");
    let (events, details) = published(&world).await;
    assert_eq!(events, ["Connected"]);
    let (access, public) = world.stack.human_api.with(|state| state.newest("ada"));
    let text = details[0].to_string();
    assert!(!text.contains(&access.unwrap()) && !text.contains(&public.unwrap()) && !text.contains("sealed"), "{text}");
    assert_eq!((&details[0]["clientUserId"], &details[0]["flow"]), (&json!("ada"), &json!("popup")));
    is(&world.finish("ada", &object).await, 200, "ok");
    world.pass_seconds(11);
    is(&world.public_token("ada", true).await, 200, "ok");
    world.session("ada", json!({"flow": "popup"})).await;
    assert_eq!(kinds(&world).await, [""; 0], "a replay, a refresh, a ticket");
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert_eq!(kinds(&world).await, ["Updated"]);
    world.stack.human_api.with(|state| state.connect("ada", SOURCE));
    world.pass_seconds(11);
    is(&world.access("ada", true).await, 200, "ok");
    assert_eq!(kinds(&world).await, [""; 0], "a refresh of the access token");
    world.stack.human_api.with(|state| state.drop_user("ada"));
    world.pass_seconds(11);
    is(&world.access("ada", true).await, 410, "connection_revoked");
    assert_eq!(kinds(&world).await, ["Revoked"]);
    is(&world.access("ada", true).await, 410, "connection_revoked");
    is(&world.connect("ada").await, 201, "ok");
    let (events, details) = published(&world).await;
    assert_eq!((events, &details[0]["sources"][0]["id"]), (vec!["Connected".to_owned()], &json!(SOURCE)));
    world.stack.gateway.as_backend(FORGET, &json!({"clientUserId": "ada"})).await;
    world.stack.gateway.as_backend(FORGET, &json!({"clientUserId": "ada"})).await;
    assert_eq!(kinds(&world).await, ["Forgotten"]);
}

#[tokio::test]
async fn a_lost_response_has_its_event_when_it_is_resolved() {
    let world = World::with_stream().await;
    let object = world.lose("ada").await;
    assert_eq!(kinds(&world).await, [""; 0]);
    is(&world.finish("ada", &object).await, 201, "ok");
    assert_eq!(kinds(&world).await, ["Connected"]);
    world.lose("grace").await;
    world.pass_seconds(3601);
    is(&world.access("grace", false).await, 200, "ok");
    assert_eq!(kinds(&world).await, ["Connected", "Reconnect Required"]);
}

#[tokio::test]
async fn an_import_has_the_events_of_a_finish() {
    let world = World::with_stream().await;
    let import = async |token: &str, on_conflict: &str| {
        let user = json!({"clientUserId": "ada", "humanId": "made-up", "accessToken": token});
        let event = json!({"task": "import", "users": [user], "onConflict": on_conflict});
        world.stack.gateway.maintain(&event).await.unwrap();
        kinds(&world).await
    };
    assert_eq!(import("made-up-1", "keep").await, ["Connected"]);
    assert_eq!(import("made-up-1", "replace").await, [""; 0]);
    assert_eq!(import("made-up-2", "keep").await, [""; 0]);
    assert_eq!(import("made-up-2", "replace").await, ["Updated"]);
}

#[tokio::test]
async fn a_row_that_expires_has_no_event() {
    let world = World::with_stream().await;
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert_eq!(kinds(&world).await, ["Connected"]);
    let mut row = world.row("ada").await;
    row.insert("expires".to_owned(), aws_sdk_dynamodb::types::AttributeValue::N("1".to_owned()));
    world.put(row).await;
    assert_eq!(world.stack.expire_rows(), 1);
    assert_eq!(kinds(&world).await, [""; 0]);
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn an_event_that_the_bus_refuses_comes_later_and_in_order() {
    let world = World::with_stream().await;
    world.stack.event_bus.refuse(true);
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert_eq!(world.delete("ada").await, 204);
    for _ in 0..2 {
        assert!(world.stack.publish().await.is_err());
    }
    world.stack.event_bus.refuse(false);
    assert_eq!(kinds(&world).await, ["Connected", "Forgotten"]);
    assert_eq!(kinds(&world).await, [""; 0]);
}

#[tokio::test]
async fn publisher_adds_no_call_to_a_finish() {
    let world = World::with_stream().await;
    let since = world.stack.calls.last();
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    world.stack.publish().await.unwrap();
    assert_eq!(
        world.stack.calls.of_functions_after(since).as_slice(),
        ["UpdateItem", "POST /v1/connect/tokens", "UpdateItem"]
    );
}
