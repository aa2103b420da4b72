//! Late copies and resends of every write of the token protocol, on the built functions.
//!
//! `EVENTS_BINARIES` sets the folder of the functions. The default is the build of this test.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use local::faults::{Acts, Answer, Fault, LateCopies, Rule, Service};
use local::gateway::{self, ACCESS_TOKEN};
use serde_json::{Value, json};
use shared::identity::UserId;
use test_support::Gate;
use test_support::runtime_api::{Instance, binaries};

use crate::world::World;

/// How the network disturbs a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// A copy of the write arrives later, once more.
    Copied,
    /// The write arrives later, after the call has sent it again.
    Late,
    /// The answer to the write is lost, so the call sends it again.
    AnswerLost,
}

struct Built {
    world: World,
    functions: BTreeMap<&'static str, Instance>,
}

impl Built {
    async fn new() -> Self {
        let world = World::new().await;
        let mut functions = BTreeMap::new();
        // Two instances of `finish`, because an instance serves one call at a time.
        for name in ["session-start", "finish", "finish again", "public-token", "access-token", "connection"] {
            let binary = binaries().join(name.split(' ').next().unwrap());
            functions.insert(name, Instance::start(&binary, &world.stack.environment).await.unwrap());
        }
        Self { world, functions }
    }

    async fn call(&self, instance: &str, event: &Value) -> (u64, Value) {
        let response = self.functions[instance].invoke(event).await.unwrap();
        let body = response["body"].as_str().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default();
        (response["statusCode"].as_u64().unwrap(), body)
    }

    async fn finish(&self, instance: &str, user: &str) -> u64 {
        self.finish_popup(instance, user).await.0
    }

    /// Finishes a popup in which the user has connected a source.
    async fn finish_popup(&self, instance: &str, user: &str) -> (u64, Value) {
        let object = self.world.popup(user);
        self.call(instance, &gateway::user_event("POST /connect/finish", user, &object)).await
    }

    async fn session(&self, user: &str) -> u64 {
        let event = gateway::user_event("POST /connect/session", user, &json!({"flow": "popup"}));
        self.call("session-start", &event).await.0
    }

    async fn delete(&self, user: &str) -> u64 {
        let event = gateway::user_event("DELETE /connect/connection", user, &json!({}));
        self.call("connection", &event).await.0
    }

    async fn row(&self, user: &str) -> Option<HashMap<String, AttributeValue>> {
        self.world.stack.row(&UserId::new(user.to_owned()).unwrap()).await.unwrap()
    }

    /// Ends the lease of a call at work, as if its time were over.
    async fn end_lease(&self, user: &str) {
        if let Some(mut row) = self.row(user).await.filter(|row| row.contains_key("leaseUntil")) {
            row.insert("leaseUntil".into(), AttributeValue::N("1".into()));
            self.world.put(row).await;
        }
    }

    /// Plays the story of one write, and disturbs the write. Returns the user and the copies that the network has kept.
    async fn play(&self, write: &str, how: How, user: &str) -> LateCopies {
        let copies = LateCopies::default();
        let fault = match how {
            How::Copied => Fault::Copy(Acts::First, copies.clone()),
            How::Late => Fault::Copy(Acts::Not, copies.clone()),
            How::AnswerLost => Fault::Reset(Acts::First),
        };
        // the write after so many others
        let disturb = |spared| Rule::once(Service::DynamoDb, fault.clone()).of("UpdateItem").after(spared);
        let human_api = |fault| Rule::once(Service::HumanApi, fault);
        let failure = || human_api(Fault::Answer(Acts::First, Answer::json(500, "{}")));
        let set = |rules: Vec<Rule>| self.world.stack.faults.set(rules);
        match write {
            "acquire" => {
                set(vec![disturb(0)]);
                assert_eq!(self.finish("finish", user).await, 201);
            }
            "renew" => {
                let later = Answer { headers: vec![("retry-after", "1".to_owned())], ..Answer::json(503, "{}") };
                set(vec![disturb(1), human_api(Fault::Answer(Acts::Not, later))]);
                assert_eq!(self.finish("finish", user).await, 201);
            }
            "checkpoint" => {
                assert_eq!(self.finish("finish", user).await, 201);
                set(vec![failure()]);
                assert_eq!(self.finish("finish", user).await, 503);
                set(vec![disturb(1)]);
                assert_eq!(self.finish("finish", user).await, 201);
            }
            "commit" => {
                set(vec![disturb(1)]);
                assert_eq!(self.finish("finish", user).await, 201);
            }
            "release, unresolved" => {
                assert_eq!(self.finish("finish", user).await, 201);
                set(vec![disturb(1), failure()]);
                assert_eq!(self.finish("finish", user).await, 503);
            }
            "mark" | "commit, unresolved" => self.take_over(write, &disturb, user).await,
            "ticket, no row" => {
                set(vec![disturb(0)]);
                assert_eq!(self.session(user).await, 200);
            }
            "ticket, row" => {
                assert_eq!(self.finish("finish", user).await, 201);
                set(vec![disturb(0)]);
                assert_eq!(self.session(user).await, 200);
            }
            "delete" => {
                assert_eq!(self.finish("finish", user).await, 201);
                set(vec![Rule::once(Service::DynamoDb, fault.clone()).of("DeleteItem")]);
                assert_eq!(self.delete(user).await, 204);
                assert_eq!(self.finish("finish", user).await, 201);
            }
            _ => panic!("{write}"),
        }
        assert_eq!(self.world.stack.faults.rules().len(), 0, "{write}, {how:?}: the network disturbed nothing");
        copies
    }

    /// A finish is taken over while it waits for Human API. It marks the row after the next finish, or during it.
    async fn take_over(&self, write: &str, disturb: &dyn Fn(usize) -> Rule, user: &str) {
        assert_eq!(self.finish("finish", user).await, 201);
        let ((first, block_first), (second, block_second)) = (Gate::new(), Gate::new());
        let rules = [block_first, block_second].map(|block| Rule::once(Service::HumanApi, block));
        let slow = async {
            let status = self.finish("finish", user).await;
            // The next finish writes a checkpoint, and its commit is refused.
            if write == "commit, unresolved" {
                self.world.stack.faults.set([disturb(2)]);
                second.open();
            }
            status
        };
        let next = async {
            first.reached().await;
            self.end_lease(user).await;
            if write == "mark" {
                second.open();
                assert_eq!(self.finish("finish again", user).await, 201);
                // The first finish has its commit refused.
                self.world.stack.faults.set([disturb(1)]);
                first.open();
            } else {
                let (status, ()) = tokio::join!(self.finish("finish again", user), async {
                    second.reached().await;
                    first.open();
                });
                assert_eq!(status, 201);
            }
        };
        self.world.stack.faults.set(rules);
        let (slow, ()) = tokio::join!(slow, next);
        assert_eq!(slow, 409);
    }

    /// Checks that the user's tokens are the newest, and that nothing is left of any call.
    async fn check(&self, user: &str, told: &str) {
        self.end_lease(user).await;
        let access = gateway::backend_event(ACCESS_TOKEN, &json!({"clientUserId": user}));
        let (status, access) = self.call("access-token", &access).await;
        let public = gateway::user_event("POST /connect/public-token", user, &json!({}));
        let (public_status, public) = self.call("public-token", &public).await;
        let newest = self.world.stack.human_api.with(|state| state.newest(user));
        assert_eq!((status, access["accessToken"].as_str()), (200, newest.0.as_deref()), "{told}: {access}");
        assert_eq!((public_status, public["publicToken"].as_str()), (200, newest.1.as_deref()), "{told}: {public}");
        let row = self.row(user).await.unwrap();
        for left in ["leaseUntil", "pending", "takenOver", "expires"] {
            assert!(!row.contains_key(left), "{told}: {left} is left");
        }
    }
}

#[tokio::test]
async fn a_late_copy_or_a_resend_of_any_write_loses_nothing() {
    let world = Built::new().await;
    let writes = [
        "acquire",
        "renew",
        "checkpoint",
        "commit",
        "release, unresolved",
        "mark",
        "commit, unresolved",
        "ticket, no row",
        "ticket, row",
        "delete",
    ];
    for (number, write) in writes.into_iter().enumerate() {
        for how in [How::Copied, How::Late, How::AnswerLost] {
            for after_next in [false, true] {
                let (user, told) = (format!("user-{number}-{how:?}-{after_next}"), format!("{write}, {how:?}"));
                let copies = world.play(write, how, &user).await;
                let is_ticket = write.starts_with("ticket");
                if is_ticket {
                    let row = world.row(&user).await.unwrap();
                    assert_eq!(row["tickets"].as_m().unwrap().len(), 1, "{told}");
                    assert_eq!(row.contains_key("expires"), write == "ticket, no row", "{told}");
                }
                if after_next {
                    assert!(matches!(world.finish("finish", &user).await, 200 | 201), "{told}");
                }
                let refused = if how == How::AnswerLost { vec![] } else { vec![400] };
                let statuses = copies.deliver().await;
                // the same mark again changes nothing, or makes a call look once more
                assert!(statuses == refused || (write == "mark" && statuses == [200]), "{told}: {statuses:?}");
                if !is_ticket || after_next {
                    world.check(&user, &told).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_late_copy_of_an_acquire_stores_no_token_after_a_delete() {
    let world = Built::new().await;
    let (copies, (gate, wait)) = (LateCopies::default(), Gate::new());
    world.world.stack.faults.set([
        Rule::once(Service::DynamoDb, Fault::Copy(Acts::Not, copies.clone())).of("UpdateItem"),
        Rule::once(Service::HumanApi, wait),
    ]);
    let then = async {
        assert_eq!(world.delete("ada").await, 204);
        assert_eq!(copies.deliver().await, [200], "a row again, for nobody");
    };
    let ((status, body), ()) = tokio::join!(world.finish_popup("finish", "ada"), gate.meanwhile(then));
    assert_eq!((status, &body["code"]), (410, &json!("connection_deleted")));
    assert!(!world.row("ada").await.unwrap().contains_key("userRecord"), "no token was stored");
}
