//! The contract's stories on the real handlers: embedded DynamoDB, the Human API stand-in, a clock that the test sets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed step is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use local::faults::{Acts, Answer, Fault, Rule, Service};
use local::gateway::Reply;
use local::human_api::{CLIENT_ID, human_id};
use local::laptop::{Laptop, Options};
use local::secrets::{Accepted, CLIENT_SECRET, TOKEN_KEY};
use serde_json::{Value, json};
use shared::clock::Clock;
use tokio::sync::Semaphore;

const SOURCE: &str = "made-up-01";

struct World {
    laptop: Laptop,
    ahead: Arc<AtomicI64>,
    looked: AtomicU64,
}

/// What has not come by then will not: the test has failed.
const NEVER: Duration = Duration::from_secs(60);

/// Where a call is held up.
#[derive(Clone)]
struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    /// Once a call has come: does this, then lets it go on.
    async fn meanwhile<T>(&self, what: impl Future<Output = T>) -> T {
        let come = async {
            self.reached.acquire().await.unwrap().forget();
            what.await
        };
        let outcome = tokio::time::timeout(NEVER, come).await.unwrap();
        self.open.add_permits(1);
        outcome
    }
}

fn refuse(status: u16, body: &'static str) -> Fault {
    Fault::refuse(status, body)
}

/// Performed, and answered so.
fn garble(status: u16, body: &'static str) -> Fault {
    Fault::Answer(Acts::First, Answer::json(status, body))
}

/// Performed; the answer is lost on its way.
const LOSE_ANSWER: Fault = Fault::Reset(Acts::First);

impl World {
    async fn new() -> Self {
        Self::with(vec![]).await
    }

    async fn with(variables: Vec<(&'static str, &'static str)>) -> Self {
        let ahead = Arc::new(AtomicI64::new(0));
        let offset = ahead.clone();
        let clock = Clock::new(move || Clock::system().now() + offset.load(Ordering::SeqCst));
        let laptop = Laptop::start(Options { clock, variables, ..Options::in_memory() }).await.unwrap();
        Self { laptop, ahead, looked: AtomicU64::new(0) }
    }

    fn pass_seconds(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    /// What goes wrong with the next calls of Human API, one each.
    fn fault(&self, faults: impl IntoIterator<Item = Fault>) {
        self.laptop.faults.set(faults.into_iter().map(|fault| Rule::once(Service::HumanApi, fault)));
    }

    /// The next call of Human API waits until the test goes on, and then goes wrong so, if it does.
    fn hold_up_human_api(&self, fault: Option<Fault>) -> Gate {
        let gate = Gate { reached: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
        let at = gate.clone();
        let wait = Fault::After(Arc::new(move || {
            let at = at.clone();
            async move {
                at.reached.add_permits(1);
                let _ = at.open.acquire().await;
            }
            .boxed()
        }));
        self.fault([wait].into_iter().chain(fault));
        gate
    }

    /// What Human API was asked since the last look.
    fn asked(&self) -> Vec<String> {
        let (calls, last) = self.laptop.calls.after(self.looked.load(Ordering::SeqCst));
        self.looked.store(last, Ordering::SeqCst);
        let asked = calls.into_iter().filter(|call| call.to == Service::HumanApi.name());
        asked.map(|call| call.what.replace("POST /v1/connect/", "")).collect()
    }

    /// A user connects a source in the popup: the sessionTokenObject that the page gets.
    fn popup(&self, user: &str) -> Value {
        let session = self.laptop.human_api.with(|state| {
            state.connect(user, SOURCE);
            state.add_session(user, None)
        });
        json!({"humanId": human_id(user), "clientId": CLIENT_ID, "sessionToken": session})
    }

    async fn session(&self, user: &str, body: Value) -> Reply {
        self.laptop.gateway.as_user("POST /connect/session", user, &body).await
    }

    async fn finish(&self, user: &str, body: &Value) -> Reply {
        self.laptop.gateway.as_user("POST /connect/finish", user, body).await
    }

    async fn public_token(&self, user: &str, refresh: bool) -> Reply {
        self.laptop.gateway.as_user("POST /connect/public-token", user, &json!({"refresh": refresh})).await
    }

    async fn access(&self, user: &str, force: bool) -> Reply {
        self.laptop.gateway.as_backend(&json!({"clientUserId": user, "forceRefresh": force})).await
    }

    async fn connection(&self, user: &str) -> Value {
        self.laptop.gateway.as_user("GET /connect/connection", user, &json!({})).await.json()
    }

    async fn forget(&self, user: &str) -> u16 {
        self.laptop.gateway.as_user("DELETE /connect/connection", user, &json!({})).await.status
    }

    /// Connects a user by the Connect widget.
    async fn connect(&self, user: &str) -> Reply {
        self.session(user, json!({})).await;
        self.laptop.human_api.with(|state| state.connect(user, SOURCE));
        self.finish(user, &json!({"status": "SUCCESS", "currentConnections": [{"id": SOURCE, "name": "Made up"}]}))
            .await
    }

    async fn rows(&self) -> usize {
        self.table().await.len()
    }

    async fn wait_for_a_waiter(&self) {
        while !self.table().await.concat().contains("\"waited\"") {
            tokio::task::yield_now().await;
        }
    }

    async fn table(&self) -> Vec<String> {
        let rows = self.laptop.dynamodb.scan().table_name("human-connect").send().await.unwrap();
        rows.items().iter().map(|row| format!("{row:?}")).collect()
    }
}

#[track_caller]
fn is(reply: &Reply, status: u16, code: &str) -> Value {
    let body = reply.json();
    assert_eq!((reply.status, body["code"].as_str().unwrap_or("ok")), (status, code), "{body}");
    body
}

#[tokio::test]
async fn a_new_user_gets_a_session_token_and_a_connected_one_an_id_token() {
    let world = World::new().await;
    let first = is(&world.session("ada", json!({})).await, 200, "ok");
    assert_eq!((&first["mode"], &first["tokenType"]), (&json!("create"), &json!("session_token")));
    assert_eq!(world.asked(), ["token (session)"]);
    let again = is(&world.session("ada", json!({})).await, 200, "ok");
    assert_eq!((again["token"] == first["token"], world.asked().len()), (true, 0));

    world.laptop.human_api.with(|state| state.connect("ada", SOURCE));
    let finished = is(&world.finish("ada", &json!({"status": "SUCCESS"})).await, 201, "ok");
    assert_eq!((&finished["connected"], &finished["humanId"]), (&json!(true), &json!(human_id("ada"))));
    let edit = is(&world.session("ada", json!({})).await, 200, "ok");
    assert_eq!((&edit["mode"], &edit["tokenType"]), (&json!("edit"), &json!("id_token")));
}

#[tokio::test]
async fn a_stored_start_token_is_handed_out_until_five_minutes_are_left() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    world.pass_seconds(3600 - 301);
    assert_eq!(world.session("ada", json!({})).await.json()["token"], first["token"]);
    world.pass_seconds(2);
    assert_ne!(world.session("ada", json!({})).await.json()["token"], first["token"]);
}

#[tokio::test]
async fn refresh_asks_for_a_new_start_token_once_in_ten_seconds() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    let second = world.session("ada", json!({"refresh": true})).await.json();
    assert_ne!(second["token"], first["token"]);
    assert_eq!(world.session("ada", json!({"refresh": true})).await.json()["token"], second["token"]);
    world.pass_seconds(11);
    assert_ne!(world.session("ada", json!({"refresh": true})).await.json()["token"], second["token"]);
}

#[tokio::test]
async fn whatever_refuses_a_session_an_id_token_is_tried_and_the_other_way_round() {
    for status in [403, 404, 409, 422] {
        let world = World::new().await;
        world.laptop.human_api.with(|state| state.connect("ada", SOURCE));
        world.fault([refuse(status, "{}")]);
        assert_eq!(is(&world.session("ada", json!({})).await, 200, "ok")["tokenType"], "id_token");
        assert_eq!(world.asked(), ["token (session)", "token (id)"]);
    }
    let world = World::new().await;
    world.connect("ada").await;
    world.laptop.human_api.with(|state| state.drop_user("ada"));
    assert_eq!(is(&world.session("ada", json!({})).await, 200, "ok")["tokenType"], "session_token");

    for (status, http, code) in
        [(400, 502, "upstream_invalid"), (401, 502, "upstream_unauthorized"), (500, 503, "upstream_unavailable")]
    {
        let world = World::new().await;
        world.fault(std::iter::repeat_n(refuse(status, "{}"), 4));
        is(&world.session("ada", json!({})).await, http, code);
        assert_eq!(world.rows().await, 0, "a newcomer's failed session leaves nothing");
    }
}

#[tokio::test]
async fn a_popup_is_finished_replayed_and_opened_again_for_odd_ids_too() {
    let world = World::new().await;
    for user in ["ada", "auth0|zoë+a b/c%20@example.test", "用户-7", "%41"] {
        let create = is(&world.session(user, json!({"flow": "popup"})).await, 200, "ok");
        assert_eq!((&create["mode"], &create["publicToken"]), (&json!("create"), &json!("")));
        let object = world.popup(user);
        let first = is(&world.finish(user, &object).await, 201, "ok");
        world.asked();
        let replay = is(&world.finish(user, &object).await, 200, "ok");
        assert_eq!((world.asked().len(), &replay["publicToken"]), (0, &first["publicToken"]));
        let edit = is(&world.session(user, json!({"flow": "popup"})).await, 200, "ok");
        assert_eq!((&edit["mode"], &edit["publicToken"]), (&json!("edit"), &first["publicToken"]));
        is(&world.access(user, false).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_finish_is_three_calls_and_an_access_token_that_is_stored_one() {
    let world = World::new().await;
    let called = |since: u64| -> Vec<String> {
        let calls = world.laptop.calls.after(since).0.into_iter().filter(|call| call.from == "function");
        calls.map(|call| call.what).filter(|what| !what.starts_with("GetSecretValue")).collect()
    };
    for object in [world.popup("ada"), world.popup("ada")] {
        let since = world.laptop.calls.after(0).1;
        is(&world.finish("ada", &object).await, 201, "ok");
        assert_eq!(called(since), ["UpdateItem", "POST /v1/connect/tokens", "UpdateItem"], "hold, exchange, commit");
    }
    let since = world.laptop.calls.after(0).1;
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(called(since), ["GetItem"]);
}

#[tokio::test]
async fn an_answer_about_the_encoded_id_is_the_users_and_any_other_is_not() {
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
        world.forget("a b").await;
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
    assert_eq!(world.rows().await, 0);
}

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
async fn a_gone_connection_is_remembered_until_a_finish() {
    let world = World::new().await;
    world.connect("ada").await;
    world.laptop.human_api.with(|state| state.drop_user("ada"));
    world.pass_seconds(11);
    is(&world.access("ada", true).await, 410, "connection_revoked");
    world.asked();
    is(&world.access("ada", true).await, 410, "connection_revoked");
    assert_eq!(world.asked().len(), 0);
    assert_eq!(world.connection("ada").await["connected"], false);
    world.connect("ada").await;
    is(&world.access("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn no_fault_of_human_api_revokes_a_connection() {
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
async fn a_lost_public_token_is_recovered_and_one_that_human_api_does_not_know_means_reconnect() {
    let world = World::new().await;
    is(&world.public_token("ada", false).await, 404, "not_connected");
    world.finish("ada", &world.popup("ada")).await;
    let key = shared::identity::UserId::new("ada").unwrap().key().to_string();
    let remove = || {
        let request = world.laptop.dynamodb.update_item().table_name("human-connect");
        let key = aws_sdk_dynamodb::types::AttributeValue::S(key.clone());
        request.key("userKey", key).update_expression("REMOVE publicToken").send()
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
async fn a_rotated_client_secret_fails_no_call() {
    let world = World::new().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    // Human API takes the newest two: after two rotations the cached one is refused
    world.laptop.secrets.rotate(CLIENT_SECRET);
    world.laptop.secrets.rotate(CLIENT_SECRET);
    is(&world.access("ada", true).await, 200, "ok");
}

#[tokio::test]
async fn rows_sealed_with_an_older_key_open_and_are_sealed_anew() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.laptop.secrets.rotate(TOKEN_KEY);
    is(&world.access("ada", false).await, 200, "ok");
    let version = |number: usize| format!("00000000-0000-4000-8000-{number:012}");
    assert!(world.table().await.concat().contains(&version(1)));
    world.pass_seconds(11);
    is(&world.public_token("ada", true).await, 200, "ok");
    let table = world.table().await.concat();
    assert!(table.contains(&version(2)) && !table.contains(&version(1)), "all of the row is under the new key");
    is(&world.access("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn a_delete_wins_over_a_call_under_way() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let (object, gate) = (world.popup("ada"), world.hold_up_human_api(None));
    let (finished, deleted) = tokio::join!(world.finish("ada", &object), gate.meanwhile(world.forget("ada")));
    assert_eq!(deleted, 204);
    is(&finished, 410, "connection_deleted");
    assert_eq!((world.rows().await, world.forget("ada").await), (0, 204));
}

#[tokio::test]
async fn the_same_session_posted_twice_at_once_is_exchanged_once() {
    let world = World::new().await;
    let object = world.popup("ada");
    let (one, two) = tokio::join!(world.finish("ada", &object), world.finish("ada", &object));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
    assert_eq!(world.asked(), ["tokens"]);
}

#[tokio::test]
async fn overlapping_refreshes_ask_once() {
    let world = World::new().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    world.asked();
    let (a, b, c) = tokio::join!(world.access("ada", true), world.access("ada", true), world.access("ada", true));
    assert_eq!((world.asked().len(), a.json() == b.json() && b.json() == c.json()), (1, true));
}

#[tokio::test]
async fn a_browsers_claim_to_be_connected_is_not_believed() {
    let world = World::new().await;
    let report = json!({"status": "SUCCESS", "currentConnections": [{"id": "1", "name": "X"}]});
    let answer = is(&world.finish("ada", &report).await, 200, "ok");
    assert_eq!((&answer["connected"], &answer["sources"]), (&json!(false), &json!([])));
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn a_widget_that_was_closed_with_its_token_expired_gets_a_new_one() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    is(&world.finish("ada", &json!({"status": "SESSION_TOKEN_EXPIRED"})).await, 200, "ok");
    assert_ne!(world.session("ada", json!({})).await.json()["token"], first["token"]);
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
async fn no_more_than_eight_tickets_of_a_user_are_kept() {
    let world = World::new().await;
    for _ in 0..12 {
        is(&world.session("ada", json!({"flow": "popup"})).await, 200, "ok");
    }
    assert_eq!(world.table().await.concat().matches("\"until\"").count(), 8);
}

#[tokio::test]
async fn no_token_is_in_the_table_in_plain_text() {
    let world = World::new().await;
    let object = world.popup("ada");
    let ticket = world.session("ada", json!({"flow": "popup"})).await.json()["finishUrl"].as_str().unwrap().to_owned();
    world.finish("ada", &object).await;
    world.connect("alan").await;
    world.session("alan", json!({})).await;
    let table = world.table().await.concat();
    for secret in
        ["made-up-access-token", "made-up-public-token", "made-up-session-token", "made-up-id-token", "refresh-token"]
    {
        assert!(!table.contains(secret), "{secret}");
    }
    assert!(!table.contains(object["sessionToken"].as_str().unwrap()));
    assert!(!table.contains(ticket.rsplit('/').next().unwrap()));
}

#[tokio::test]
async fn a_delete_ends_a_call_that_waits_too() {
    let world = World::new().await;
    let (first, second) = (world.popup("ada"), world.popup("ada"));
    let gate = world.hold_up_human_api(None);
    let delete = async {
        // the first holds the row, the second has looked at it
        world.wait_for_a_waiter().await;
        world.forget("ada").await
    };
    let (one, two, deleted) =
        tokio::join!(world.finish("ada", &first), world.finish("ada", &second), gate.meanwhile(delete));
    assert_eq!(deleted, 204);
    is(&one, 410, "connection_deleted");
    is(&two, 410, "connection_deleted");
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn a_refused_finish_that_somebody_waited_for_leaves_an_empty_row_that_expires() {
    let world = World::new().await;
    let mut object = world.popup("ada");
    object["sessionToken"] = json!("junk");
    let gate = world.hold_up_human_api(None);
    let (one, two, ()) = tokio::join!(
        world.finish("ada", &object),
        world.finish("ada", &object),
        gate.meanwhile(world.wait_for_a_waiter())
    );
    is(&one, 422, "session_rejected");
    is(&two, 422, "session_rejected");
    let table = world.table().await.concat();
    assert!(table.is_empty() || table.contains("\"expires\""), "{table}");
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
async fn a_start_token_that_failed_in_the_widget_is_dropped_whatever_access_says() {
    let world = World::new().await;
    let first = world.session("ada", json!({})).await.json();
    world.fault([refuse(500, "{}")]);
    is(&world.finish("ada", &json!({"status": "SESSION_TOKEN_INVALID"})).await, 503, "upstream_unavailable");
    assert_ne!(is(&world.session("ada", json!({})).await, 200, "ok")["token"], first["token"]);
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
async fn a_failed_refresh_is_not_repeated_by_those_who_waited_for_it() {
    let world = World::new().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    world.asked();
    let gate = world.hold_up_human_api(Some(refuse(500, "{}")));
    let others_wait = async {
        // one holds the row, two have been refused the hold
        while world
            .laptop
            .calls
            .after(0)
            .0
            .iter()
            .filter(|call| call.what == "UpdateItem" && call.status == 400)
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
    assert_eq!(world.asked(), ["token (access)"]);
    is(&world.access("ada", true).await, 200, "ok");
}

/// A world after a rotation that is over: Human API knows the newest client secret only, and AWSPREVIOUS is still there.
async fn rotated() -> World {
    let world = World::new().await;
    world.laptop.secrets.rotate(CLIENT_SECRET);
    world.laptop.secrets.accept(Accepted::Newest);
    world
}

#[tokio::test]
async fn a_403_about_the_user_stays_one_though_there_is_an_older_secret() {
    let world = rotated().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    world.fault([refuse(403, "{}")]);
    is(&world.access("ada", true).await, 410, "connection_revoked");

    let world = rotated().await;
    world.connect("ada").await;
    world.laptop.human_api.with(|state| state.drop_user("ada"));
    world.fault([refuse(403, "{}")]);
    assert_eq!(is(&world.session("ada", json!({})).await, 200, "ok")["tokenType"], "session_token");

    let world = rotated().await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    world.fault([refuse(403, "{}")]);
    is(&world.access("ada", false).await, 200, "ok");
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
    assert!(world.table().await.concat().contains("\"heldUntil\""));
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
    assert!(!world.table().await.concat().contains("\"heldUntil\""), "the copy has taken the hold");
}
