//! Sessions for the widget and the popup.

use local::human_api::human_id;
use serde_json::json;

use crate::world::{SOURCE, World, is, refuse};

#[tokio::test]
async fn a_new_user_gets_a_session_token_and_a_connected_one_an_id_token() {
    let world = World::new().await;
    let first = is(&world.session("ada", json!({})).await, 200, "ok");
    assert_eq!((&first["mode"], &first["tokenType"]), (&json!("create"), &json!("session_token")));
    assert_eq!(world.take_requests(), ["token (session)"]);
    let again = is(&world.session("ada", json!({})).await, 200, "ok");
    assert_eq!((again["token"] == first["token"], world.take_requests().len()), (true, 0));

    world.stack.human_api.with(|state| state.connect("ada", SOURCE));
    let finished = is(&world.finish("ada", &json!({"status": "SUCCESS"})).await, 201, "ok");
    assert_eq!((&finished["connected"], &finished["humanId"]), (&json!(true), &json!(human_id("ada"))));
    let edit = is(&world.session("ada", json!({})).await, 200, "ok");
    assert_eq!((&edit["mode"], &edit["tokenType"]), (&json!("edit"), &json!("id_token")));
}

#[tokio::test]
async fn a_stored_widget_token_is_returned_until_five_minutes_are_left() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    world.pass_seconds(3600 - 301);
    assert_eq!(world.session("ada", json!({})).await.json()["token"], first["token"]);
    world.pass_seconds(2);
    assert_ne!(world.session("ada", json!({})).await.json()["token"], first["token"]);
}

#[tokio::test]
async fn a_refresh_requests_a_new_widget_token_at_most_once_in_ten_seconds() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    let second = world.session("ada", json!({"refresh": true})).await.json();
    assert_ne!(second["token"], first["token"]);
    assert_eq!(world.session("ada", json!({"refresh": true})).await.json()["token"], second["token"]);
    world.pass_seconds(11);
    assert_ne!(world.session("ada", json!({"refresh": true})).await.json()["token"], second["token"]);
}

#[tokio::test]
async fn a_refused_session_token_leads_to_an_id_token_and_vice_versa() {
    for status in [403, 404, 409, 422] {
        let world = World::new().await;
        world.stack.human_api.with(|state| state.connect("ada", SOURCE));
        world.fault([refuse(status, "{}")]);
        assert_eq!(is(&world.session("ada", json!({})).await, 200, "ok")["tokenType"], "id_token");
        assert_eq!(world.take_requests(), ["token (session)", "token (id)"]);
    }
    let world = World::new().await;
    world.connect("ada").await;
    world.stack.human_api.with(|state| state.drop_user("ada"));
    assert_eq!(is(&world.session("ada", json!({})).await, 200, "ok")["tokenType"], "session_token");

    for (status, http, code) in
        [(400, 502, "upstream_invalid"), (401, 502, "upstream_unauthorized"), (500, 503, "upstream_unavailable")]
    {
        let world = World::new().await;
        world.fault(std::iter::repeat_n(refuse(status, "{}"), 4));
        is(&world.session("ada", json!({})).await, http, code);
        assert_eq!(world.kept_rows().await, 0, "the row of a new user's failed session expires");
    }
}

#[tokio::test]
async fn a_widget_that_was_closed_with_its_token_expired_gets_a_new_one() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    is(&world.finish("ada", &json!({"status": "SESSION_TOKEN_EXPIRED"})).await, 200, "ok");
    assert_ne!(world.session("ada", json!({})).await.json()["token"], first["token"]);
}

#[tokio::test]
async fn a_row_that_has_expired_counts_as_absent() {
    let world = World::new().await;
    is(&world.session("ada", json!({"flow": "connect"})).await, 200, "ok");
    world.fault([refuse(403, "{}")]);
    is(&world.finish("ada", &json!({"status": "SESSION_TOKEN_EXPIRED"})).await, 200, "ok");
    let table = world.table().await.concat();
    assert!(table.contains("\"humanId\"") && table.contains("\"expires\""), "{table}");
    world.pass_seconds(25 * 3600 + 1);
    world.take_requests();
    is(&world.public_token("ada", false).await, 404, "not_connected");
    assert_eq!((world.rows().await, world.take_requests().len()), (1, 0), "DynamoDB has not deleted it yet");
    is(&world.session("ada", json!({"flow": "popup"})).await, 200, "ok");
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
}

#[tokio::test]
async fn a_row_of_tickets_expires_and_a_row_with_tokens_does_not() {
    let world = World::new().await;
    world.session("ada", json!({"flow": "popup"})).await;
    assert!(world.table().await.concat().contains("\"expires\""));
    world.finish("ada", &world.popup("ada")).await;
    world.session("ada", json!({"flow": "popup"})).await;
    assert!(!world.table().await.concat().contains("\"expires\""));
}

#[tokio::test]
async fn a_user_has_at_most_eight_tickets() {
    let world = World::new().await;
    for _ in 0..12 {
        is(&world.session("ada", json!({"flow": "popup"})).await, 200, "ok");
    }
    assert_eq!(world.table().await.concat().matches("\"goodUntil\"").count(), 8);
}

#[tokio::test]
async fn a_user_who_never_connected_is_not_told_to_reconnect() {
    let world = World::new().await;
    world.session("ada", json!({})).await;
    world.fault([refuse(404, "{}")]);
    is(&world.public_token("ada", false).await, 409, "reconnect_required");
    is(&world.access("ada", false).await, 404, "not_connected");
}

#[tokio::test]
async fn a_token_that_failed_in_the_widget_is_dropped_even_if_access_fails() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    world.fault([refuse(500, "{}")]);
    is(&world.finish("ada", &json!({"status": "SESSION_TOKEN_INVALID"})).await, 503, "upstream_unavailable");
    assert_ne!(is(&world.session("ada", json!({})).await, 200, "ok")["token"], first["token"]);
}

#[tokio::test]
async fn a_ticket_is_valid_for_one_hour() {
    let world = World::new().await;
    let ticket = async || {
        let url = world.session("ada", json!({"flow": "popup"})).await.json()["finishUrl"].as_str().unwrap().to_owned();
        url.rsplit('/').next().unwrap().to_owned()
    };
    let (first, second) = (ticket().await, ticket().await);
    world.pass_seconds(3590);
    is(&world.stack.gateway.with_ticket(&first, &world.popup("ada")).await, 201, "ok");
    world.pass_seconds(11);
    is(&world.stack.gateway.with_ticket(&second, &world.popup("ada")).await, 401, "unauthenticated");
}

#[tokio::test]
async fn the_email_address_of_the_claim_overrides_the_bodys() {
    let world = World::new().await;
    is(&world.session("ada", json!({"clientUserEmail": "mallory@example.test"})).await, 200, "ok");
    let email = world.stack.human_api.with(|state| state.email("ada"));
    assert_eq!(email.as_deref(), Some("3@example.test"), "the address of the gateway's authorizer");
}
