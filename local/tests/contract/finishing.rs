//! The finish of a popup or of a widget.

use local::faults::Fault;
use local::human_api::{CLIENT_ID, human_id};
use serde_json::json;

use crate::world::{World, is};

#[tokio::test]
async fn a_popup_is_finished_replayed_and_opened_again_even_for_unusual_ids() {
    let world = World::new().await;
    for user in ["ada", "auth0|zoë+a b/c%20@example.test", "用户-7", "%41"] {
        let create = is(&world.session(user, json!({"flow": "popup"})).await, 200, "ok");
        assert_eq!((&create["mode"], &create["publicToken"]), (&json!("create"), &json!("")));
        let object = world.popup(user);
        let first = is(&world.finish(user, &object).await, 201, "ok");
        world.take_requests();
        let replay = is(&world.finish(user, &object).await, 200, "ok");
        assert_eq!((world.take_requests().len(), &replay["publicToken"]), (0, &first["publicToken"]));
        let edit = is(&world.session(user, json!({"flow": "popup"})).await, 200, "ok");
        assert_eq!((&edit["mode"], &edit["publicToken"]), (&json!("edit"), &first["publicToken"]));
        is(&world.access(user, false).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_finish_takes_three_calls_and_a_stored_access_token_takes_one() {
    let world = World::new().await;
    for object in [world.popup("ada"), world.popup("ada")] {
        let since = world.stack.calls.last();
        is(&world.finish("ada", &object).await, 201, "ok");
        assert_eq!(
            world.stack.calls.of_functions_after(since),
            ["UpdateItem", "POST /v1/connect/tokens", "UpdateItem"],
            "acquire, exchange, commit"
        );
    }
    let since = world.stack.calls.last();
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.stack.calls.of_functions_after(since), ["GetItem"]);
}

#[tokio::test]
async fn a_response_about_the_encoded_id_is_accepted_and_one_about_another_id_is_refused() {
    let world = World::new().await;
    let answer = |client_user_id: &str, human_id: &str| {
        let body = json!({"humanId": human_id, "accessToken": "canary", "publicToken": "canary", "clientUserId": client_user_id});
        Fault::refuse(200, body.to_string())
    };
    let object = world.popup("a b");
    let human = human_id("a b");
    for (id, human_id) in
        [("a+b", human.as_str()), ("a%20B", &human), ("", &human), ("a b", "another"), ("A b", &human)]
    {
        world.fault([answer(id, human_id)]);
        let reply = world.finish("a b", &object).await;
        if id.is_empty() {
            is(&reply, 502, "upstream_invalid")
        } else {
            is(&reply, 403, "user_mismatch")
        };
        assert!(!world.table().await.concat().contains("another"));
        world.delete("a b").await;
    }
    world.fault([answer("a%20b", &human)]);
    is(&world.finish("a b", &object).await, 201, "ok");
}

#[tokio::test]
async fn a_refused_finish_changes_nothing() {
    let world = World::new().await;
    let mut object = world.popup("ada");
    object["clientId"] = json!("another");
    is(&world.finish("ada", &object).await, 403, "client_mismatch");
    object["clientId"] = json!(CLIENT_ID);
    is(&world.finish("eve", &object).await, 403, "user_mismatch");
    object["sessionToken"] = json!("junk");
    is(&world.finish("ada", &object).await, 422, "session_rejected");
    for body in [json!({"humanId": "x"}), json!({"humanId": 1, "clientId": "x", "sessionToken": "x"}), json!([1])] {
        is(&world.finish("ada", &body).await, 400, "invalid_request");
    }
    assert_eq!(world.kept_rows().await, 0);
}

#[tokio::test]
async fn the_same_session_posted_twice_at_once_is_exchanged_once() {
    let world = World::new().await;
    let object = world.popup("ada");
    let (one, two) = tokio::join!(world.finish("ada", &object), world.finish("ada", &object));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
    assert_eq!(world.take_requests(), ["tokens"]);
}

#[tokio::test]
async fn a_browsers_claim_to_be_connected_is_not_believed() {
    let world = World::new().await;
    let report = json!({"status": "SUCCESS", "currentConnections": [{"id": "1", "name": "X"}]});
    let answer = is(&world.finish("ada", &report).await, 200, "ok");
    assert_eq!((&answer["connected"], &answer["sources"]), (&json!(false), &json!([])));
    assert_eq!(world.kept_rows().await, 0);
}

#[tokio::test]
async fn two_refused_finishes_leave_a_row_that_expires() {
    let world = World::new().await;
    let mut object = world.popup("ada");
    object["sessionToken"] = json!("junk");
    let gate = world.block_human_api(None);
    let (one, two, ()) = tokio::join!(
        world.finish("ada", &object),
        world.finish("ada", &object),
        gate.meanwhile(world.wait_for_a_waiter())
    );
    is(&one, 422, "session_rejected");
    is(&two, 422, "session_rejected");
    assert_eq!((world.rows().await, world.kept_rows().await), (1, 0));
}
