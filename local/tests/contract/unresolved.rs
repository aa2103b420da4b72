//! Lost responses of Human API, and how the next call resolves them.

use local::faults::{Acts, Fault, LateCopies, Rule, Service};
use serde_json::json;

use crate::world::{LOSE_RESPONSE, World, garble, is, refuse};

#[tokio::test]
async fn a_replay_of_a_finished_session_resolves_what_another_call_left() {
    let world = World::new().await;
    let finished = world.popup("ada");
    is(&world.finish("ada", &finished).await, 201, "ok");
    world.lose("ada").await;
    world.take_requests();
    is(&world.finish("ada", &finished).await, 200, "ok");
    assert_eq!(world.take_requests(), ["tokens"]);
}

#[tokio::test]
async fn a_lost_response_of_a_user_with_a_proven_human_id_is_recovered() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let second = world.popup("ada");
    world.fault([LOSE_RESPONSE]);
    let answer = is(&world.finish("ada", &second).await, 201, "ok");
    let (public, access) = (world.public_token("ada", true).await.json(), world.access("ada", false).await.json());
    assert_eq!(answer["publicToken"], public["publicToken"]);
    assert!(access["expiresAt"].is_string(), "the token of `access`, not the superseded one of the popup");
    is(&world.finish("ada", &second).await, 200, "ok");
}

#[tokio::test]
async fn a_lost_response_of_a_new_user_requires_a_reconnect_and_never_sends_publictokens() {
    let world = World::new().await;
    let object = world.popup("ada");
    world.fault([LOSE_RESPONSE]);
    is(&world.finish("ada", &object).await, 409, "reconnect_required");
    assert!(!world.take_requests().contains(&"publictokens".to_owned()), "the humanId is not proven");
    is(&world.finish("ada", &object).await, 409, "reconnect_required");
    is(&world.public_token("ada", true).await, 409, "reconnect_required");
    assert_eq!(world.session("ada", json!({"flow": "popup"})).await.json()["flow"], "connect");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.finish("ada", &json!({"status": "SUCCESS"})).await, 201, "ok");
    assert_eq!(world.connection("ada").await["connected"], true);
    // The session is resolved by now, so it is not exchanged again.
    world.take_requests();
    is(&world.finish("ada", &object).await, 200, "ok");
    assert_eq!(world.take_requests().len(), 0);
}

#[tokio::test]
async fn an_exchange_that_may_have_been_performed_is_resolved_by_the_next_call() {
    for fault in [garble(500, "{}"), garble(200, "not JSON"), garble(200, "{}")] {
        let world = World::new().await;
        world.finish("ada", &world.popup("ada")).await;
        let before = world.public_token("ada", false).await.json();
        world.fault([fault]);
        assert!(world.finish("ada", &world.popup("ada")).await.status >= 500);
        world.take_requests();
        let after = is(&world.public_token("ada", false).await, 200, "ok");
        assert_eq!(world.take_requests(), ["tokens", "publictokens", "token (access)"]);
        assert_ne!(after["publicToken"], before["publicToken"]);
    }
}

#[tokio::test]
async fn a_reusable_session_is_exchanged_again() {
    let world = World::new().await;
    world.stack.human_api.with(|state| state.single_use = false);
    let object = world.popup("ada");
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &object).await, 503, "upstream_unavailable");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.finish("ada", &object).await, 200, "ok");
    is(&world.public_token("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn a_timeout_allows_no_request_before_the_lease_has_expired() {
    let world = World::with(vec![("UPSTREAM_TIMEOUT_MS", "200")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([Fault::Hang(Acts::Not)]);
    is(&world.finish("ada", &world.popup("ada")).await, 504, "upstream_timeout");
    world.take_requests();
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.take_requests().len(), 0, "the earlier token is served meanwhile");
    world.pass_seconds(29);
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.take_requests().first().map(String::as_str), Some("tokens"));
}

#[tokio::test]
async fn a_spent_session_that_human_api_answers_with_403_blocks_nobody() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}"), refuse(403, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn a_429_to_a_pending_exchange_discards_no_unspent_session() {
    let world = World::new().await;
    world.stack.human_api.with(|state| state.single_use = false);
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    world.take_requests();
    world.fault([refuse(429, "{}"), refuse(429, "{}"), refuse(429, "{}")]);
    is(&world.access("ada", false).await, 503, "upstream_unavailable");
    assert_eq!(world.take_requests(), ["tokens"; 3], "Human API has not performed the exchange");
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.take_requests(), ["tokens"]);
}

#[tokio::test]
async fn a_recovered_finish_has_its_flow() {
    let world = World::new().await;
    world.session("ada", json!({})).await;
    world.fault([LOSE_RESPONSE]);
    let answer = is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert_eq!((&answer["flow"], &answer["connected"]), (&json!("popup"), &json!(true)));
}

#[tokio::test]
async fn a_4xx_without_a_rule_resolves_nothing() {
    for status in [400, 409, 422] {
        let world = World::new().await;
        world.connect("ada").await;
        world.pass_seconds(11);
        world.fault([garble(500, "{}")]);
        is(&world.access("ada", true).await, 503, "upstream_unavailable");
        world.fault([refuse(status, "{}")]);
        is(&world.access("ada", false).await, 502, "upstream_invalid");
        let served = is(&world.access("ada", false).await, 200, "ok")["accessToken"].clone();
        assert_eq!(served.as_str(), world.stack.human_api.with(|state| state.newest("ada")).0.as_deref());

        let world = World::new().await;
        world.finish("ada", &world.popup("ada")).await;
        world.pass_seconds(11);
        world.fault([garble(500, "{}")]);
        is(&world.public_token("ada", true).await, 503, "upstream_unavailable");
        world.fault([refuse(status, "{}")]);
        is(&world.public_token("ada", false).await, 502, "upstream_invalid");
        is(&world.public_token("ada", false).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_recovery_revokes_no_connection_for_an_ambiguous_refusal() {
    let access = |fault| Rule::once(Service::HumanApi, fault).of("token (access)");
    for odd in [vec![access(refuse(400, "{}"))], vec![access(LOSE_RESPONSE), access(refuse(404, "{}"))]] {
        let world = World::new().await;
        world.connect("ada").await;
        let object = world.popup("ada");
        let rules = [
            Rule::once(Service::HumanApi, LOSE_RESPONSE).of("tokens"),
            Rule::once(Service::HumanApi, refuse(404, "{}")).of("publictokens"),
        ];
        world.stack.faults.set(rules.into_iter().chain(odd));
        world.finish("ada", &object).await;
        is(&world.access("ada", false).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_lease_stays_while_the_check_of_the_credentials_may_still_be_performed() {
    let world = World::with(vec![("UPSTREAM_TIMEOUT_MS", "200")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    world.fault([refuse(403, "{}"), Fault::Hang(Acts::Not)]);
    is(&world.access("ada", false).await, 504, "upstream_timeout");
    assert!(world.table().await.concat().contains("\"leaseUntil\""));
}

#[tokio::test]
async fn a_403_to_a_retry_discards_no_unspent_session() {
    let world = World::new().await;
    let object = world.popup("ada");
    world.fault([refuse(503, ""), refuse(403, "{}")]);
    is(&world.finish("ada", &object).await, 502, "upstream_unauthorized");
    is(&world.finish("ada", &object).await, 201, "ok");
}

#[tokio::test]
async fn a_session_that_makes_human_api_fail_blocks_nobody() {
    for (proven, patience) in [(true, 0), (false, 3601)] {
        let world = World::new().await;
        if proven {
            world.finish("ada", &world.popup("ada")).await;
        }
        let mut junk = world.popup("ada");
        junk["sessionToken"] = json!("made up to stumble over");
        world.stack.faults.set([Rule::always(Service::HumanApi, refuse(500, "{}")).of("tokens")]);
        is(&world.finish("ada", &junk).await, 503, "upstream_unavailable");
        world.pass_seconds(patience);
        is(&world.access("ada", false).await, 200, "ok");
        let code = if proven { "ok" } else { "reconnect_required" };
        assert_eq!(world.public_token("ada", false).await.json()["code"].as_str().unwrap_or("ok"), code);
    }
}

#[tokio::test]
async fn a_session_of_somebody_else_is_refused_when_it_is_resolved_too() {
    let world = World::new().await;
    world.stack.human_api.with(|state| state.single_use = false);
    let object = world.popup("ada");
    world.fault([garble(500, "{}")]);
    is(&world.finish("eve", &object).await, 503, "upstream_unavailable");
    is(&world.access("eve", false).await, 404, "not_connected");
}

#[tokio::test]
async fn a_403_to_a_pending_exchange_means_bad_credentials_unless_access_says_otherwise() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.stack.human_api.with(|state| state.single_use = false);
    let object = world.popup("ada");
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &object).await, 503, "upstream_unavailable");
    world.fault([refuse(403, "{}"), refuse(403, "{}")]);
    is(&world.access("ada", false).await, 502, "upstream_unauthorized");
    world.take_requests();
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.take_requests(), ["tokens"], "the session was still good");
}

#[tokio::test]
async fn a_late_copy_of_an_acquire_blocks_the_user_no_longer_than_a_crash() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let copies = LateCopies::default();
    let lose = Fault::Copy(Acts::Not, copies.clone());
    world.stack.faults.set([Rule::once(Service::DynamoDb, lose).of("UpdateItem")]);
    world.pass_seconds(11);
    is(&world.access("ada", true).await, 200, "ok");
    assert_eq!(copies.deliver().await, [200], "nobody has the lease now");
    world.take_requests();
    is(&world.access("ada", false).await, 200, "ok");
    world.pass_seconds(29);
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.take_requests(), ["token (access)"], "as after a crash, what was asked for is asked for again");
    assert!(!world.row("ada").await.contains_key("leaseUntil"));
}

#[tokio::test]
async fn a_late_copy_of_a_checkpoint_restores_no_older_token() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    let copies = LateCopies::default();
    let copy = Fault::Copy(Acts::First, copies.clone());
    world.stack.faults.set([Rule::once(Service::DynamoDb, copy).of("UpdateItem").after(1)]);
    let connected = is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert_eq!(copies.deliver().await, [400]);
    let served = is(&world.public_token("ada", false).await, 200, "ok");
    assert_eq!(served["publicToken"], connected["publicToken"]);
    assert!(!world.row("ada").await.contains_key("pending"));
}
