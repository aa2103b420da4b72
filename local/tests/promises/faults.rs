//! Every fault of Human API, DynamoDB and Secrets Manager, at every function: what is answered, and that the promises hold
//! when the fault is over. Cold functions, made-up time.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use local::calls::Calls;
use local::faults::{Acts, Answer, Fault, Rule, Service};
use local::gateway::{Gateway, Reply};
use local::issuer::Issuer;
use local::laptop::{Laptop, Options};
use local::secrets::TOKEN_KEY;
use shared::clock::{Clock, Millis};
use shared::identity::UserId;
use shared::store::LEASE_DURATION;
use shared::telemetry::Output;

use crate::calls::{Call, Known, Request, bring};
use crate::driver::{ABANDONED, HOLD_IS_OVER};
use crate::everything;
use crate::expectations::{expect, healthy, ill_formed};
use crate::invariants::{Expected, has_token, nothing_is_lost_or_stale};
use crate::made_up_time::{MadeUpTime, quiet};

pub(crate) const CALLS: [Call; 9] = [
    Call::SessionConnect,
    Call::SessionPopup,
    Call::FinishPopup,
    Call::FinishTicket,
    Call::FinishWidget,
    Call::PublicRefresh,
    Call::AccessForce,
    Call::Show,
    Call::Delete,
];
pub(crate) const KNOWN: [Known; 3] = [Known::New, Known::ByPopup, Known::ByWidget];
/// One request, whatever goes wrong, makes no more calls than this of Human API, DynamoDB and Secrets Manager: nobody can
/// make this backend, or Human API, work harder than by sending more requests. A table that fails after Human API has given
/// tokens is tried as long as there is time.
const MOST_CALLS: [usize; 3] = [9, 48, 8];

/// When a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// At every call.
    Always,
    /// Once, after so many calls that are spared.
    OnceAfter(usize),
    /// At every write but the first: what comes after the hold.
    AfterTheHold,
}

/// What goes wrong in a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrong {
    pub(crate) service: Service,
    pub(crate) name: &'static str,
    pub(crate) when: When,
}

pub(crate) struct World {
    pub(crate) laptop: Laptop,
    time: MadeUpTime,
    /// Where the functions write their lines.
    output: Output,
    clock: Clock,
    faults: BTreeMap<&'static str, BTreeMap<&'static str, Fault>>,
    /// Whether a popup's session token can be exchanged once only.
    single_use: bool,
    users: usize,
    /// Most calls of each service for one request.
    most: [usize; 3],
    wrong: String,
}

impl World {
    async fn new() -> Self {
        Self::writing_to(Output::new(std::io::sink()), MadeUpTime::begin()).await
    }

    pub(crate) async fn writing_to(output: Output, time: MadeUpTime) -> Self {
        let (began, since) = (Clock::system().now(), tokio::time::Instant::now());
        let clock = Clock::new(move || began + since.elapsed().as_millis() as Millis);
        let options = Options { clock: clock.clone(), output: output.clone(), ..Options::in_memory() };
        let laptop = Box::pin(Laptop::start(options)).await.unwrap();
        let faults = Service::ALL.map(|service| (service.name(), service.faults().into_iter().collect()));
        Self {
            laptop,
            time,
            output,
            clock,
            faults: faults.into(),
            single_use: true,
            users: 0,
            most: [0; 3],
            wrong: String::new(),
        }
    }

    fn reuse_sessions(&mut self) {
        self.single_use = false;
        self.laptop.human_api.with(|state| state.single_use = false);
    }

    /// Functions that have not served yet, with nothing cached.
    fn cold(&self) -> Gateway {
        let issuer = Issuer::new("faults".into());
        Gateway::new(&self.laptop.config, issuer, Calls::default(), &self.output, self.clock.clone()).unwrap()
    }

    fn rule(&self, wrong: &Wrong) -> Rule {
        let rule = Rule::always(wrong.service, self.faults[wrong.service.name()][wrong.name].clone());
        let rule = if wrong.name.ends_with("conflict") { rule.of("UpdateItem") } else { rule };
        match wrong.when {
            When::Always => rule,
            When::OnceAfter(spared) => Rule { times: Some(1), ..rule.after(spared) },
            When::AfterTheHold => rule.of("UpdateItem").after(1),
        }
    }

    /// The request of a new user of this kind, and functions that have not served yet.
    async fn prepare(&mut self, call: Call, known: Known) -> (Request, Gateway) {
        self.users += 1;
        let user = format!("canary-user-{}", self.users);
        self.time.during(&self.laptop.faults, bring(&self.laptop, known, &user)).await;
        // beyond the ten seconds within which a refresh is answered with what the last one brought
        self.time.pass(Duration::from_secs(11)).await;
        let request = self.time.during(&self.laptop.faults, Request::new(&self.laptop, call, &user)).await;
        (request, self.cold())
    }

    /// One call by cold functions while this goes wrong, and what comes after.
    pub(crate) async fn cell(&mut self, call: Call, known: Known, wrongs: &[Wrong]) -> Reply {
        let (request, cold) = self.prepare(call, known).await;
        let user = request.user.clone();
        self.laptop.faults.set(wrongs.iter().map(|wrong| self.rule(wrong)));
        quiet(&self.laptop.faults).await;

        let before = self.laptop.calls.after(0).1;
        let reply = self.time.during(&self.laptop.faults, request.send(&cold)).await;
        let struck = self.laptop.faults.struck();
        let mut expected = expect(call, known, wrongs, &struck);
        if !self.single_use && expected.1 == "reconnect_required" && call.is_exchange() {
            expected = healthy(call, known);
        }
        let mut broken = Vec::new();
        broken.extend(ill_formed(&reply));
        let body = reply.json();
        if (reply.status, body["code"].as_str().unwrap_or("ok")) != expected {
            broken.push(format!("answered {} {body}", reply.status));
        }

        let calls = self.laptop.calls.after(before).0;
        for ((service, limit), most) in Service::ALL.into_iter().zip(MOST_CALLS).zip(&mut self.most) {
            let number = calls.iter().filter(|call| call.to == service.name()).count();
            *most = number.max(*most);
            if number > limit {
                broken.push(format!("{number} calls of {}", service.name()));
            }
        }
        let asked_public = calls.iter().any(|call| call.what.ends_with("publictokens"));
        if asked_public && known == Known::New && reply.status >= 400 {
            broken.push("publictokens with a humanId that is not proven".to_owned());
        }

        self.laptop.faults.set([]);
        self.time.pass(Duration::from_millis(HOLD_IS_OVER as u64)).await;
        // a popup's humanId that was never proven, and whose exchange was lost
        let lost = known == Known::New && call.is_exchange() && self.single_use;
        if (call.is_exchange() || call == Call::FinishWidget) && expected.0 >= 400 {
            let again = self.time.during(&self.laptop.faults, request.send(&self.laptop.gateway)).await;
            let is_lost = lost && again.json()["code"] == "reconnect_required";
            if !matches!(again.status, 200 | 201) && !is_lost {
                broken.push(format!("the same request again is answered {} {}", again.status, again.body));
            }
        }
        let verdict =
            struck.contains(&Service::HumanApi) && wrongs.iter().any(|wrong| matches!(wrong.name, "403" | "404"));
        let there = known != Known::New && call != Call::Delete && !verdict;
        let given = has_token(&self.laptop, &user) && call != Call::Delete && !verdict;
        let must = Expected { access: there || given, public: there && known == Known::ByPopup };
        let laptop = &self.laptop;
        broken.extend(self.time.during(&self.laptop.faults, nothing_is_lost_or_stale(laptop, &user, must)).await.err());
        for broken in broken {
            writeln!(self.wrong, "{call:?} {known:?} {wrongs:?}: expected {expected:?}, {broken}").unwrap();
        }
        reply
    }

    pub(crate) fn done(self, what: &str) {
        println!("{what}: {} cells; at most {:?} calls of {:?}", self.users, self.most, Service::ALL);
        let lines = self.wrong.lines().count();
        assert!(lines == 0, "{lines} broken\n{}", self.wrong.lines().take(40).collect::<Vec<_>>().join("\n"));
    }
}

pub(crate) fn names(service: Service) -> Vec<&'static str> {
    service.faults().into_iter().map(|(name, _)| name).collect()
}

async fn alone(world: &mut World, service: Service, whens: &[When], calls: &[Call]) {
    for when in whens.iter().copied() {
        for name in names(service) {
            if name == "refused" && when != When::Always {
                continue;
            }
            for call in calls.iter().copied() {
                for known in KNOWN {
                    Box::pin(world.cell(call, known, &[Wrong { service, name, when }])).await;
                }
            }
        }
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

/// Something wrong with each of the three at the same time: an even sample of it, or everything.
async fn together(store_when: When) {
    let every = if everything() { 1 } else { 97 };
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
async fn faults_of_all_three_with_a_store_that_fails_after_the_hold_lose_nothing() {
    together(When::AfterTheHold).await;
}

#[tokio::test]
async fn a_try_begins_only_with_its_time_left_and_under_a_hold_that_covers_it() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::FinishPopup, Known::ByPopup).await;
    let began = tokio::time::Instant::now();
    let wait = Answer { headers: vec![("retry-after", "11".to_owned())], ..Answer::json(503, "{}") };
    world.laptop.faults.set([
        Rule::once(Service::HumanApi, Fault::Answer(Acts::Not, wait)),
        Rule::always(Service::HumanApi, Fault::Hang(Acts::First)),
        // the renewal before the second try
        Rule::once(Service::DynamoDb, Fault::Hang(Acts::Not)).of("UpdateItem").after(1),
    ]);
    let reply = world.time.during(&world.laptop.faults, request.send(&cold)).await;
    let struck = world.laptop.faults.struck();
    assert_eq!(struck, [Service::HumanApi, Service::DynamoDb], "no second try: its time would not have been enough");
    assert_eq!(reply.json()["code"], "upstream_unavailable");
    assert!(began.elapsed() < Duration::from_secs(22));
}

#[tokio::test]
async fn a_call_that_waits_for_another_looks_at_the_table_a_few_times_and_does_not_ask_human_api() {
    let mut world = World::new().await;
    for call in [Call::FinishPopup, Call::FinishWidget, Call::PublicRefresh, Call::AccessForce, Call::SessionConnect] {
        let (request, _) = world.prepare(call, Known::ByPopup).await;
        let user = UserId::new(request.user.clone()).unwrap();
        let mut row = world.laptop.row(&user).await.unwrap().unwrap();
        row.insert("leaseId".to_owned(), AttributeValue::S("made-up-lease".to_owned()));
        row.insert("leaseUntil".to_owned(), AttributeValue::N((world.clock.now() + LEASE_DURATION).to_string()));
        world.laptop.dynamodb.put_item().table_name("human-connect").set_item(Some(row)).send().await.unwrap();
        let before = world.laptop.calls.after(0).1;
        let reply = world.time.during(&world.laptop.faults, request.send(&world.laptop.gateway)).await;
        assert_eq!(reply.json()["code"], "finish_in_progress", "{call:?}");
        let calls = world.laptop.calls.after(before).0.into_iter();
        let calls: Vec<_> = calls.filter(|call| Service::ALL.iter().any(|service| call.to == service.name())).collect();
        let asked = calls.iter().any(|call| call.to == Service::HumanApi.name());
        assert!(calls.len() <= 24 && !asked, "{call:?}: {calls:?}");
    }
}

#[tokio::test]
async fn an_old_key_that_does_not_come_keeps_no_new_token_from_the_table() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::AccessForce, Known::ByWidget).await;
    world.laptop.secrets.rotate(TOKEN_KEY);
    let hang = Rule::always(Service::SecretsManager, Fault::Hang(Acts::Not));
    world.laptop.faults.set([hang.of("GetSecretValue (token-key)").after(1)]);
    let reply = world.time.during(&world.laptop.faults, request.send(&cold)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[tokio::test]
async fn a_human_api_that_is_slow_is_asked_step_by_step() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::FinishPopup, Known::ByPopup).await;
    let faults = world.laptop.faults.clone();
    faults.set([Rule::once(Service::HumanApi, Fault::Answer(Acts::First, Answer::json(500, "{}")))]);
    assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 503);
    // exchange, publictokens and access are more than one call has time for
    faults.set([Rule::always(Service::HumanApi, Fault::late(Duration::from_millis(6300)))]);
    assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 503);
    assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 200);
}

/// Functions that have not served yet, and ten users whose exchange was left unresolved a while ago.
async fn abandoned(world: &mut World) -> Gateway {
    world.reuse_sessions();
    let faults = world.laptop.faults.clone();
    for _ in 0..10 {
        let (request, cold) = world.prepare(Call::FinishPopup, Known::New).await;
        faults.set([Rule::once(Service::HumanApi, Fault::refuse(500, "{}"))]);
        assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 503);
    }
    world.time.pass(Duration::from_millis(ABANDONED as u64)).await;
    world.cold()
}

#[tokio::test]
async fn the_sweeper_ends_well_within_its_time_whoever_does_not_answer() {
    let mut world = World::new().await;
    for service in Service::ALL {
        let cold = abandoned(&mut world).await;
        let (faults, began) = (world.laptop.faults.clone(), tokio::time::Instant::now());
        faults.set([Rule::always(service, Fault::Hang(Acts::Not))]);
        let report = world.time.during(&faults, cold.sweep()).await;
        assert!(began.elapsed() < Duration::from_secs(112), "{service:?}: {:?} {report}", began.elapsed());
        assert_eq!(report["resolved"], 0, "{service:?}: {report}");
        if service == Service::HumanApi {
            assert_eq!((&report["outcome"], report["leftUnresolved"].as_u64()), (&"ok".into(), Some(10)), "{report}");
            assert!((1..10).contains(&report["failed"].as_u64().unwrap()), "not all were begun: {report}");
            assert_eq!(report["leftUnderOlderKeys"], 0, "{report}");
        }
        faults.set([]);
        world.time.pass(Duration::from_millis(HOLD_IS_OVER as u64)).await;
        assert_eq!(world.time.during(&faults, cold.sweep()).await["resolved"], 10, "{service:?}");
    }
}

#[tokio::test]
async fn a_slow_human_api_does_not_keep_the_sweeper_from_sealing_anew() {
    let mut world = World::new().await;
    world.prepare(Call::FinishPopup, Known::ByPopup).await;
    world.laptop.secrets.rotate(TOKEN_KEY);
    let (cold, faults) = (abandoned(&mut world).await, world.laptop.faults.clone());
    faults.set([Rule::always(Service::HumanApi, Fault::Hang(Acts::Not))]);
    assert_eq!(world.time.during(&faults, cold.sweep()).await["resealed"], 1);
}

#[tokio::test]
async fn a_table_that_takes_its_time_makes_a_finish_slow_and_no_worse() {
    let mut world = World::new().await;
    let (request, cold) = world.prepare(Call::FinishPopup, Known::ByPopup).await;
    world.laptop.faults.set([Rule::always(Service::DynamoDb, Fault::late(Duration::from_millis(1500)))]);
    assert_eq!(world.time.during(&world.laptop.faults, request.send(&cold)).await.status, 201);
}
