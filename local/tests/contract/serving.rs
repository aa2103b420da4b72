//! Requests for access tokens and publicTokens.

use serde_json::json;

use crate::world::{World, garble, is, refuse};

#[tokio::test]
async fn a_revoked_connection_is_remembered_until_a_finish() {
    let world = World::new().await;
    world.connect("ada").await;
    world.stack.human_api.with(|state| state.drop_user("ada"));
    world.pass_seconds(11);
    is(&world.access("ada", true).await, 410, "connection_revoked");
    world.take_requests();
    is(&world.access("ada", true).await, 410, "connection_revoked");
    assert_eq!(world.take_requests().len(), 0);
    assert_eq!(world.connection("ada").await["connected"], false);
    world.connect("ada").await;
    is(&world.access("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn a_fault_of_human_api_does_not_revoke_a_connection() {
    for fault in [refuse(500, ""), refuse(401, ""), refuse(418, ""), refuse(200, "{"), refuse(302, "")] {
        let world = World::new().await;
        world.connect("ada").await;
        world.pass_seconds(11);
        world.fault(std::iter::repeat_n(fault, 4));
        let status = world.access("ada", true).await.status;
        assert!(status >= 500, "{status}");
        world.fault([]);
        is(&world.access("ada", false).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_popups_token_survives_a_refused_access() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let before = world.access("ada", false).await.json();
    world.pass_seconds(11);
    world.fault([refuse(404, "{}")]);
    let after = is(&world.access("ada", true).await, 200, "ok");
    assert_eq!(after["accessToken"], before["accessToken"]);
}

#[tokio::test]
async fn a_lost_public_token_is_recovered_or_requires_a_reconnect() {
    let world = World::new().await;
    is(&world.public_token("ada", false).await, 404, "not_connected");
    world.finish("ada", &world.popup("ada")).await;
    let key = shared::identity::UserId::new("ada").unwrap().key().to_string();
    let remove = || {
        let request = world.stack.dynamodb.update_item().table_name("human-connect");
        let key = aws_sdk_dynamodb::types::AttributeValue::S(key.clone());
        request.key("userKey", key).update_expression("REMOVE userRecord.publicToken").send()
    };
    remove().await.unwrap();
    assert_eq!(is(&world.public_token("ada", false).await, 200, "ok")["recovered"], true);
    assert_eq!(is(&world.public_token("ada", false).await, 200, "ok")["recovered"], false);
    remove().await.unwrap();
    assert_eq!(world.session("ada", json!({"flow": "popup"})).await.json()["mode"], "edit");
    world.fault([refuse(404, "{}")]);
    is(&world.public_token("ada", true).await, 409, "reconnect_required");
    assert_eq!(world.session("ada", json!({"flow": "popup"})).await.json()["flow"], "connect");
}

#[tokio::test]
async fn overlapping_refreshes_send_one_request() {
    let world = World::new().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    world.take_requests();
    let (a, b, c) = tokio::join!(world.access("ada", true), world.access("ada", true), world.access("ada", true));
    assert_eq!((world.take_requests().len(), a.json() == b.json() && b.json() == c.json()), (1, true));
}

#[tokio::test]
async fn a_failed_refresh_is_not_repeated_by_calls_that_waited_for_it() {
    let world = World::new().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    world.take_requests();
    let gate = world.block_human_api(Some(refuse(500, "{}")));
    let others_wait = async {
        // One call has the lease, and two were refused it.
        while world
            .stack
            .calls
            .after(0)
            .0
            .iter()
            .filter(|call| call.what == "UpdateItem" && call.status == Some(400))
            .count()
            < 2
        {
            tokio::task::yield_now().await;
        }
    };
    let (a, b, c, ()) = tokio::join!(
        world.access("ada", true),
        world.access("ada", true),
        world.access("ada", true),
        gate.meanwhile(others_wait)
    );
    for reply in [a, b, c] {
        is(&reply, 503, "upstream_unavailable");
    }
    assert_eq!(world.take_requests(), ["token (access)"]);
    is(&world.access("ada", true).await, 200, "ok");
}

#[tokio::test]
async fn a_public_token_of_another_user_is_not_stored() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(200, r#"{"humanId":"made-up-somebody-else","publicToken":"made-up-of-somebody-else"}"#)]);
    is(&world.public_token("ada", true).await, 502, "upstream_invalid");
    let answer = is(&world.public_token("ada", false).await, 200, "ok");
    assert!(!answer["publicToken"].as_str().unwrap().contains("somebody-else"), "{answer}");
}

#[tokio::test]
async fn a_token_that_is_not_a_valid_header_value_is_not_stored() {
    let world = World::new().await;
    world.connect("ada").await;
    let before = is(&world.access("ada", false).await, 200, "ok");
    world.pass_seconds(11);
    world.fault([garble(200, r#"{"access_token":"made-up\r\nX-Injected: 1","expires_in":86400}"#)]);
    is(&world.access("ada", true).await, 502, "upstream_invalid");
    assert_ne!(is(&world.access("ada", false).await, 200, "ok"), before, "a new token was requested");
}
