//! Answers that were lost on their way, and what the next call makes of them.

use std::sync::Arc;

use futures_util::FutureExt;
use local::faults::{Acts, Fault, Rule, Service};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::world::{LOSE_ANSWER, World, garble, is, refuse};

#[tokio::test]
async fn a_lost_answer_of_a_user_whose_human_id_is_proven_is_made_good() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let second = world.popup("ada");
    world.fault([LOSE_ANSWER]);
    let answer = is(&world.finish("ada", &second).await, 201, "ok");
    let (public, access) = (world.public_token("ada", true).await.json(), world.access("ada", false).await.json());
    assert_eq!(answer["publicToken"], public["publicToken"]);
    assert!(access["expiresAt"].is_string(), "the token of `access`, not the superseded one of the popup");
    is(&world.finish("ada", &second).await, 200, "ok");
}

#[tokio::test]
async fn a_lost_answer_of_a_new_user_means_reconnect_and_never_publictokens() {
    let world = World::new().await;
    let object = world.popup("ada");
    world.fault([LOSE_ANSWER]);
    is(&world.finish("ada", &object).await, 409, "reconnect_required");
    assert!(!world.asked().contains(&"publictokens".to_owned()), "the humanId is not proven");
    is(&world.finish("ada", &object).await, 409, "reconnect_required");
    is(&world.public_token("ada", true).await, 409, "reconnect_required");
    assert_eq!(world.session("ada", json!({"flow": "popup"})).await.json()["flow"], "connect");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.finish("ada", &json!({"status": "SUCCESS"})).await, 201, "ok");
    assert_eq!(world.connection("ada").await["connected"], true);
    // made good by now: its session is not exchanged again
    world.asked();
    is(&world.finish("ada", &object).await, 200, "ok");
    assert_eq!(world.asked().len(), 0);
}

#[tokio::test]
async fn an_exchange_that_may_have_been_performed_is_resolved_by_the_next_call() {
    for fault in [garble(500, "{}"), garble(200, "not JSON"), garble(200, "{}")] {
        let world = World::new().await;
        world.finish("ada", &world.popup("ada")).await;
        let before = world.public_token("ada", false).await.json();
        world.fault([fault]);
        assert!(world.finish("ada", &world.popup("ada")).await.status >= 500);
        world.asked();
        let after = is(&world.public_token("ada", false).await, 200, "ok");
        assert_eq!(world.asked(), ["tokens", "publictokens", "token (access)"]);
        assert_ne!(after["publicToken"], before["publicToken"]);
    }
}

#[tokio::test]
async fn a_session_that_can_be_used_again_is_exchanged_again() {
    let world = World::new().await;
    world.laptop.human_api.with(|state| state.single_use = false);
    let object = world.popup("ada");
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &object).await, 503, "upstream_unavailable");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.finish("ada", &object).await, 200, "ok");
    is(&world.public_token("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn after_a_timeout_nobody_asks_before_the_hold_has_run_out() {
    let world = World::with(vec![("UPSTREAM_TIMEOUT_MS", "200")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([Fault::Hang(Acts::Not)]);
    is(&world.finish("ada", &world.popup("ada")).await, 504, "upstream_timeout");
    world.asked();
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.asked().len(), 0, "the token of before is served meanwhile");
    world.pass_seconds(29);
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.asked().first().map(String::as_str), Some("tokens"));
}

#[tokio::test]
async fn a_spent_session_that_human_api_answers_with_403_wedges_nobody() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}"), refuse(403, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    is(&world.access("ada", false).await, 200, "ok");
    is(&world.public_token("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn a_recovered_finish_has_its_flow() {
    let world = World::new().await;
    world.session("ada", json!({})).await;
    world.fault([LOSE_ANSWER]);
    let answer = is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert_eq!((&answer["flow"], &answer["connected"]), (&json!("popup"), &json!(true)));
}

#[tokio::test]
async fn a_4xx_that_no_rule_names_settles_nothing() {
    for status in [400, 409, 422] {
        let world = World::new().await;
        world.connect("ada").await;
        world.pass_seconds(11);
        world.fault([garble(500, "{}")]);
        is(&world.access("ada", true).await, 503, "upstream_unavailable");
        world.fault([refuse(status, "{}")]);
        is(&world.access("ada", false).await, 502, "upstream_invalid");
        let served = is(&world.access("ada", false).await, 200, "ok")["accessToken"].clone();
        assert_eq!(served.as_str(), world.laptop.human_api.with(|state| state.newest("ada")).0.as_deref());

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
async fn no_recovery_revokes_a_connection_for_a_refusal_that_does_not_mean_gone() {
    let access = |fault| Rule::once(Service::HumanApi, fault).of("token (access)");
    for odd in [vec![access(refuse(400, "{}"))], vec![access(LOSE_ANSWER), access(refuse(404, "{}"))]] {
        let world = World::new().await;
        world.connect("ada").await;
        let object = world.popup("ada");
        let rules = [
            Rule::once(Service::HumanApi, LOSE_ANSWER).of("tokens"),
            Rule::once(Service::HumanApi, refuse(404, "{}")).of("publictokens"),
        ];
        world.laptop.faults.set(rules.into_iter().chain(odd));
        world.finish("ada", &object).await;
        is(&world.access("ada", false).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_hold_stays_while_the_check_of_the_credentials_may_yet_be_performed() {
    let world = World::with(vec![("UPSTREAM_TIMEOUT_MS", "200")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    world.fault([refuse(403, "{}"), Fault::Hang(Acts::Not)]);
    is(&world.access("ada", false).await, 504, "upstream_timeout");
    assert!(world.table().await.concat().contains("\"leaseUntil\""));
}

#[tokio::test]
async fn a_403_to_a_retry_throws_no_unspent_session_away() {
    let world = World::new().await;
    let object = world.popup("ada");
    world.fault([refuse(503, ""), refuse(403, "{}")]);
    is(&world.finish("ada", &object).await, 502, "upstream_unauthorized");
    is(&world.finish("ada", &object).await, 201, "ok");
}

#[tokio::test]
async fn a_session_that_human_api_stumbles_over_wedges_nobody() {
    for (proven, patience) in [(true, 0), (false, 3601)] {
        let world = World::new().await;
        if proven {
            world.finish("ada", &world.popup("ada")).await;
        }
        let mut junk = world.popup("ada");
        junk["sessionToken"] = json!("made up to stumble over");
        world.laptop.faults.set([Rule::always(Service::HumanApi, refuse(500, "{}")).of("tokens")]);
        is(&world.finish("ada", &junk).await, 503, "upstream_unavailable");
        world.pass_seconds(patience);
        is(&world.access("ada", false).await, 200, "ok");
        let code = if proven { "ok" } else { "reconnect_required" };
        assert_eq!(world.public_token("ada", false).await.json()["code"].as_str().unwrap_or("ok"), code);
    }
}

#[tokio::test]
async fn a_session_of_somebody_else_is_not_ours_when_it_is_settled_either() {
    let world = World::new().await;
    world.laptop.human_api.with(|state| state.single_use = false);
    let object = world.popup("ada");
    world.fault([garble(500, "{}")]);
    is(&world.finish("eve", &object).await, 503, "upstream_unavailable");
    is(&world.access("eve", false).await, 404, "not_connected");
}

#[tokio::test]
async fn a_403_to_an_exchange_that_is_settled_is_about_our_credentials_unless_access_says_otherwise() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.laptop.human_api.with(|state| state.single_use = false);
    let object = world.popup("ada");
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &object).await, 503, "upstream_unavailable");
    world.fault([refuse(403, "{}"), refuse(403, "{}")]);
    is(&world.access("ada", false).await, 502, "upstream_unauthorized");
    world.asked();
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(world.asked(), ["tokens"], "the session was still good");
}

#[tokio::test]
async fn a_copy_of_a_hold_that_arrives_late_takes_nothing() {
    let world = World::new().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    let writes = || world.laptop.calls.after(0).0.iter().filter(|call| call.what == "UpdateItem").count();
    let before = writes();
    // the first answer to the hold comes too late: the SDK sends it again, and the call goes on from that
    let copy = Arc::new(Semaphore::new(0));
    let wait = copy.clone();
    let late = Fault::After(Arc::new(move || {
        let wait = wait.clone();
        async move {
            let _ = wait.acquire().await;
        }
        .boxed()
    }));
    world.laptop.faults.set([Rule::once(Service::DynamoDb, late).of("UpdateItem")]);
    is(&world.access("ada", true).await, 200, "ok");
    copy.add_permits(1);
    // hold, its renewal, commit, and the copy
    while writes() < before + 4 {
        tokio::task::yield_now().await;
    }
    assert!(!world.table().await.concat().contains("\"leaseUntil\""), "the copy has taken the hold");
}
