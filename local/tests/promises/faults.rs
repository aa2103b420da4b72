//! Every fault of Human API, DynamoDB and Secrets Manager, in every function. Each test checks the response, and the
//! promises after the fault is over. The functions are cold, and time is paused.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use local::calls::Calls;
use local::faults::{Acts, Answer, Fault, Rule, Service};
use local::gateway::{Gateway, Reply};
use local::issuer::Issuer;
use local::local_stack::{LocalStack, Options};
use local::secrets::TOKEN_KEY;
use shared::clock::{Clock, Millis};
use shared::identity::UserId;
use shared::store::LEASE_DURATION;
use shared::telemetry::Output;
use test_support::LogCapture;

use super::calls::{Call, Known, Request, set_up};
use super::driver::LEASE_IS_OVER;
use super::expectations::{expect, healthy, ill_formed};
use super::invariants::{Expected, has_token, nothing_is_lost_or_stale};
use super::paused_time::{PausedTime, quiet};
use super::{by_share, counted, sampled};

pub(crate) const CALLS: [Call; 10] = [
    Call::SessionConnect,
    Call::SessionPopup,
    Call::FinishPopup,
    Call::FinishTicket,
    Call::FinishWidget,
    Call::PublicRefresh,
    Call::AccessForce,
    Call::Show,
    Call::Delete,
    Call::Forget,
];
pub(crate) const KNOWN: [Known; 3] = [Known::New, Known::ByPopup, Known::ByWidget];
/// Most calls of Human API, DynamoDB and Secrets Manager that one request makes under any fault. A caller can make this
/// backend work harder only with more requests. The commit of new tokens is repeated until the deadline.
const MOST_CALLS: [usize; 3] = [9, 48, 8];

/// The calls at which a fault fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// Every call.
    Always,
    /// One call, after this many calls without a fault.
    OnceAfter(usize),
    /// Every write except the first: the writes after the acquire.
    AfterAcquire,
}

/// A fault of one test case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrong {
    pub(crate) service: Service,
    pub(crate) name: &'static str,
    pub(crate) when: When,
}

pub(crate) struct World {
    pub(crate) stack: LocalStack,
    pub(crate) time: PausedTime,
    /// Receives the functions' lines.
    output: Output,
    clock: Clock,
    faults: BTreeMap<&'static str, BTreeMap<&'static str, Fault>>,
    /// If `true`, a popup's session token can be exchanged only once.
    single_use: bool,
    users: usize,
    wrong: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::writing_to(Output::new(std::io::sink()), PausedTime::begin()).await
    }

    pub(crate) async fn writing_to(output: Output, time: PausedTime) -> Self {
        let (began, since) = (Clock::system().now(), tokio::time::Instant::now());
        let clock = Clock::new(move || began + since.elapsed().as_millis() as Millis);
        let options = Options { clock: clock.clone(), output: output.clone(), ..Options::in_memory() };
        let stack = Box::pin(LocalStack::start(options)).await.unwrap();
        let faults = Service::ALL.map(|service| {
            (service.name(), service.faults().into_iter().map(|(name, _, fault)| (name, fault)).collect())
        });
        Self { stack, time, output, clock, faults: faults.into(), single_use: true, users: 0, wrong: String::new() }
    }

    pub(crate) fn reuse_sessions(&mut self) {
        self.single_use = false;
        self.stack.human_api.with(|state| state.single_use = false);
    }

    /// Creates cold functions, with empty caches.
    pub(crate) fn cold(&self) -> Gateway {
        let issuer = Issuer::new("faults".into());
        Gateway::new(&self.stack.config, issuer, Calls::default(), &self.output, self.clock.clone()).unwrap()
    }

    fn rule(&self, wrong: &Wrong) -> Rule {
        let rule = Rule::always(wrong.service, self.faults[wrong.service.name()][wrong.name].clone());
        let rule = if wrong.name.ends_with("conflict") { rule.of("UpdateItem") } else { rule };
        match wrong.when {
            When::Always => rule,
            When::OnceAfter(spared) => Rule { times: Some(1), ..rule.after(spared) },
            When::AfterAcquire => rule.of("UpdateItem").after(1),
        }
    }

    /// Prepares the request of a new user in this state, and cold functions.
    pub(crate) async fn prepare(&mut self, call: Call, known: Known) -> (Request, Gateway) {
        self.users += 1;
        let user = format!("canary-user-{}", self.users);
        self.time.during(&self.stack.faults, set_up(&self.stack, known, &user)).await;
        // A refresh within ten seconds of another gets the same token. This pause is longer.
        self.time.pass(Duration::from_secs(11)).await;
        let request = self.time.during(&self.stack.faults, Request::new(&self.stack, call, &user)).await;
        (request, self.cold())
    }

    /// Sends one call to cold functions with these faults. Then checks the response and the promises.
    pub(crate) async fn cell(&mut self, call: Call, known: Known, wrongs: &[Wrong]) -> Reply {
        let (request, cold) = self.prepare(call, known).await;
        let user = request.user.clone();
        self.stack.faults.set(wrongs.iter().map(|wrong| self.rule(wrong)));
        quiet(&self.stack.faults).await;

        let before = self.stack.calls.last();
        let reply = self.time.during(&self.stack.faults, request.send(&cold)).await;
        let fired = self.stack.faults.fired();
        let mut expected = expect(call, known, wrongs, &fired);
        if !self.single_use && expected.1 == "reconnect_required" && call.is_exchange() {
            expected = healthy(call, known);
        }
        let mut broken = Vec::new();
        broken.extend(ill_formed(&reply));
        let body = reply.json();
        if (reply.status, body["code"].as_str().unwrap_or("ok")) != expected {
            broken.push(format!("answered {} {body}", reply.status));
        }

        let calls = self.stack.calls.after(before).0;
        for (service, limit) in Service::ALL.into_iter().zip(MOST_CALLS) {
            let number = calls.iter().filter(|call| call.to == service.name()).count();
            if number > limit {
                broken.push(format!("{number} calls of {}", service.name()));
            }
        }
        let sent_public = calls.iter().any(|call| call.what.ends_with("publictokens"));
        if sent_public && known == Known::New && reply.status >= 400 {
            broken.push("publictokens with a humanId that is not proven".to_owned());
        }

        self.stack.faults.set([]);
        self.time.pass(Duration::from_millis(LEASE_IS_OVER as u64)).await;
        // For a new user, a popup's humanId is not proven. If the exchange is lost, it stays unproven.
        let lost = known == Known::New && call.is_exchange() && self.single_use;
        if (call.is_exchange() || call == Call::FinishWidget) && expected.0 >= 400 {
            let again = self.time.during(&self.stack.faults, request.send(&self.stack.gateway)).await;
            let is_lost = lost && again.json()["code"] == "reconnect_required";
            if !matches!(again.status, 200 | 201) && !is_lost {
                broken.push(format!("the same request again is answered {} {}", again.status, again.body));
            }
        }
        let verdict =
            fired.contains(&Service::HumanApi) && wrongs.iter().any(|wrong| matches!(wrong.name, "403" | "404"));
        let there = known != Known::New && !call.is_delete() && !verdict;
        let given = has_token(&self.stack, &user) && !call.is_delete() && !verdict;
        let must =
            Expected { access: there || given, public: there && known == Known::ByPopup, may_be_imported: false };
        let stack = &self.stack;
        broken.extend(self.time.during(&self.stack.faults, nothing_is_lost_or_stale(stack, &user, must)).await.err());
        for broken in broken {
            writeln!(self.wrong, "{call:?} {known:?} {wrongs:?}: expected {expected:?}, {broken}").unwrap();
        }
        reply
    }

    pub(crate) fn done(self, what: &str) {
        let lines = self.wrong.lines().count();
        assert!(lines == 0, "{lines} broken\n{}", self.wrong.lines().take(40).collect::<Vec<_>>().join("\n"));
        counted(what, self.users);
    }
}

pub(crate) fn names(service: Service) -> Vec<&'static str> {
    service.faults().into_iter().map(|(name, ..)| name).collect()
}

async fn alone(world: &mut World, service: Service, whens: &[When], calls: &[Call]) {
    let mut cases = Vec::new();
    for when in whens.iter().copied() {
        for name in names(service).into_iter().filter(|name| *name != "refused" || when == When::Always) {
            let wrong = Wrong { service, name, when };
            cases.extend(calls.iter().flat_map(|call| KNOWN.map(|known| (*call, known, wrong))));
        }
    }
    for (call, known, wrong) in sampled(cases) {
        Box::pin(world.cell(call, known, &[wrong])).await;
    }
}

#[tokio::test]
async fn every_fault_of_human_api_is_answered_as_the_contract_says_and_nothing_is_lost() {
    let mut world = World::new().await;
    let whens = [When::Always, When::OnceAfter(0)];
    alone(&mut world, Service::HumanApi, &whens, &CALLS).await;
    world.reuse_sessions();
    alone(&mut world, Service::HumanApi, &whens, &[Call::FinishPopup, Call::FinishTicket]).await;
    world.done("faults of Human API");
}

#[tokio::test]
async fn every_fault_of_dynamodb_is_answered_as_the_contract_says_and_nothing_is_lost() {
    let whens = [When::Always, When::OnceAfter(0), When::OnceAfter(1), When::OnceAfter(2)];
    let mut world = World::new().await;
    alone(&mut world, Service::DynamoDb, &whens, &CALLS).await;
    world.done("faults of DynamoDB");
}

#[tokio::test]
async fn every_fault_of_secrets_manager_is_answered_as_the_contract_says_and_nothing_is_lost() {
    let whens = [When::Always, When::OnceAfter(0), When::OnceAfter(1)];
    let mut world = World::new().await;
    alone(&mut world, Service::SecretsManager, &whens, &CALLS).await;
    world.done("faults of Secrets Manager");
}

/// Runs combinations of one fault of each service: an even sample, or all of them. There are so many that the sample is thinner.
async fn together(store_when: When) {
    let every = by_share(997, 97, 1);
    let mut world = World::new().await;
    let mut number = 0;
    for human in names(Service::HumanApi) {
        for store in names(Service::DynamoDb) {
            for secret in names(Service::SecretsManager) {
                let wrongs = [
                    Wrong { service: Service::HumanApi, name: human, when: When::Always },
                    Wrong { service: Service::DynamoDb, name: store, when: store_when },
                    Wrong { service: Service::SecretsManager, name: secret, when: When::Always },
                ];
                for call in CALLS {
                    for known in KNOWN {
                        number += 1;
                        if number % every == 0 {
                            world.cell(call, known, &wrongs).await;
                        }
                    }
                }
            }
        }
    }
    world.done(&format!("faults of all three, of DynamoDB {store_when:?}"));
}

#[tokio::test]
async fn faults_of_all_three_at_once_are_answered_as_the_first_of_them() {
    together(When::Always).await;
}

#[tokio::test]
async fn faults_of_all_three_with_a_store_that_fails_after_the_acquire_lose_nothing() {
    together(When::AfterAcquire).await;
}

#[tokio::test]
async fn an_attempt_starts_only_with_enough_time_left_and_under_a_lease_that_covers_it() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::FinishPopup, Known::ByPopup).await;
    let began = tokio::time::Instant::now();
    let wait = Answer { headers: vec![("retry-after", "11".to_owned())], ..Answer::json(503, "{}") };
    world.stack.faults.set([
        Rule::once(Service::HumanApi, Fault::Answer(Acts::Not, wait)),
        Rule::always(Service::HumanApi, Fault::Hang(Acts::First)),
        // The renewal before the second attempt.
        Rule::once(Service::DynamoDb, Fault::Hang(Acts::Not)).of("UpdateItem").after(1),
    ]);
    let reply = world.time.during(&world.stack.faults, request.send(&cold)).await;
    let fired = world.stack.faults.fired();
    assert_eq!(
        fired,
        [Service::HumanApi, Service::DynamoDb],
        "no second attempt: the remaining time would not have been enough"
    );
    assert_eq!(reply.json()["code"], "upstream_unavailable");
    assert!(began.elapsed() < Duration::from_secs(22));
}

#[tokio::test]
async fn a_waiting_call_reads_the_table_a_few_times_and_sends_nothing_to_human_api() {
    let mut world = World::new().await;
    for call in [Call::FinishPopup, Call::FinishWidget, Call::PublicRefresh, Call::AccessForce, Call::SessionConnect] {
        let (request, _) = world.prepare(call, Known::ByPopup).await;
        let user = UserId::new(request.user.clone()).unwrap();
        let mut row = world.stack.row(&user).await.unwrap().unwrap();
        row.insert("leaseId".to_owned(), AttributeValue::S("made-up-lease".to_owned()));
        row.insert("leaseUntil".to_owned(), AttributeValue::N((world.clock.now() + LEASE_DURATION).to_string()));
        world.stack.dynamodb.put_item().table_name("human-connect").set_item(Some(row)).send().await.unwrap();
        let before = world.stack.calls.last();
        let reply = world.time.during(&world.stack.faults, request.send(&world.stack.gateway)).await;
        assert_eq!(reply.json()["code"], "finish_in_progress", "{call:?}");
        let calls = world.stack.calls.after(before).0.into_iter();
        let calls: Vec<_> = calls.filter(|call| Service::ALL.iter().any(|service| call.to == service.name())).collect();
        let sent = calls.iter().any(|call| call.to == Service::HumanApi.name());
        assert!(calls.len() <= 24 && !sent, "{call:?}: {calls:?}");
    }
}

#[tokio::test]
async fn an_old_key_that_cannot_be_read_does_not_prevent_the_storage_of_new_tokens() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::AccessForce, Known::ByWidget).await;
    world.stack.secrets.rotate(TOKEN_KEY);
    let hang = Rule::always(Service::SecretsManager, Fault::Hang(Acts::Not));
    world.stack.faults.set([hang.of("GetSecretValue (token-key)").after(1)]);
    let reply = world.time.during(&world.stack.faults, request.send(&cold)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[tokio::test]
async fn a_call_with_a_slow_human_api_is_resolved_step_by_step() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::FinishPopup, Known::ByPopup).await;
    let faults = world.stack.faults.clone();
    faults.set([Rule::once(Service::HumanApi, Fault::Answer(Acts::First, Answer::json(500, "{}")))]);
    assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 503);
    // One call has no time for exchange, publictokens and access.
    faults.set([Rule::always(Service::HumanApi, Fault::late(Duration::from_millis(6300)))]);
    assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 503);
    assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 200);
}

#[tokio::test]
async fn tokens_that_the_table_does_not_take_are_not_counted_as_stored() {
    let capture = LogCapture::default();
    let mut world = World::writing_to(Output::new(capture.clone()), PausedTime::begin()).await;
    let (request, cold) = world.prepare(Call::FinishPopup, Known::ByPopup).await;
    let stored = |capture: &LogCapture| {
        let lines = capture.lines().unwrap();
        lines.iter().filter_map(|line| line["TokensStored"].as_u64()).sum::<u64>()
    };
    stored(&capture);
    let down = Fault::refuse(500, "{}");
    world.stack.faults.set([Rule::always(Service::DynamoDb, down).of("UpdateItem").after(1)]);
    let reply = world.time.during(&world.stack.faults, request.send(&cold)).await;
    assert_eq!((reply.status, stored(&capture)), (503, 0));
    world.stack.faults.set([]);
    world.time.pass(Duration::from_millis(LEASE_IS_OVER as u64)).await;
    let reply = world.time.during(&world.stack.faults, request.send(&cold)).await;
    assert_eq!((reply.status, stored(&capture)), (201, 1), "the next call stores what `access` gives");
}

#[tokio::test]
async fn a_slow_table_makes_a_finish_slow_but_not_wrong() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::FinishPopup, Known::ByPopup).await;
    world.stack.faults.set([Rule::always(Service::DynamoDb, Fault::late(Duration::from_millis(1500)))]);
    assert_eq!(world.time.during(&world.stack.faults, request.send(&cold)).await.status, 201);
}
