//! The tasks of `maintenance` end in time, whichever service does not answer.

use std::time::Duration;

use local::faults::{Acts, Fault, Rule, Service};
use local::gateway::Gateway;
use local::secrets::TOKEN_KEY;
use serde_json::{Value, json};

use super::calls::{Call, Known};
use super::driver::{ABANDONED, LEASE_IS_OVER};
use super::faults::World;

/// Creates cold functions, and twenty users whose exchange has been unresolved for a minute.
async fn abandoned(world: &mut World) -> Gateway {
    world.reuse_sessions();
    let faults = world.stack.faults.clone();
    for _ in 0..20 {
        let (request, cold) = world.prepare(Call::FinishPopup, Known::New).await;
        faults.set([Rule::once(Service::HumanApi, Fault::refuse(500, "{}"))]);
        assert_eq!(world.time.during(&faults, request.send(&cold)).await.status, 503);
    }
    world.time.pass(Duration::from_millis(ABANDONED as u64)).await;
    world.cold()
}

#[tokio::test]
async fn the_sweep_ends_in_time_whichever_service_does_not_answer() {
    let mut world = World::new().await;
    for service in Service::ALL {
        let cold = abandoned(&mut world).await;
        let (faults, began) = (world.stack.faults.clone(), tokio::time::Instant::now());
        faults.set([Rule::always(service, Fault::Hang(Acts::Not))]);
        let report = world.time.during(&faults, cold.sweep()).await;
        assert!(began.elapsed() < Duration::from_secs(112), "{service:?}: {:?} {report}", began.elapsed());
        assert_eq!(report["resolved"], 0, "{service:?}: {report}");
        if service == Service::HumanApi {
            assert_eq!(report["left"], 20, "{report}");
            assert!((1..20).contains(&report["failed"].as_u64().unwrap()), "some were not started: {report}");
        }
        faults.set([]);
        world.time.pass(Duration::from_millis(ABANDONED as u64)).await;
        assert_eq!(world.time.during(&faults, cold.sweep()).await["resolved"], 20, "{service:?}");
    }
}

/// Reseals a table while this service does not answer, and then goes on.
async fn reseal_without(service: Service) {
    let mut world = World::new().await;
    let (cold, faults) = (abandoned(&mut world).await, world.stack.faults.clone());
    world.stack.secrets.rotate(TOKEN_KEY);
    let began = tokio::time::Instant::now();
    faults.set([Rule::always(service, Fault::Hang(Acts::Not))]);
    let report = world.time.during(&faults, cold.maintain(&json!({"task": "reseal"}))).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(112), "{:?} {report}", began.elapsed());
    let failed = report["failed"].as_u64().unwrap();
    assert!((1..20).contains(&failed) && report["resealed"] == 0, "{report}");
    assert_eq!(report["next"].is_string(), service == Service::HumanApi, "{report}");
    faults.set([]);
    world.time.pass(Duration::from_millis(LEASE_IS_OVER as u64)).await;
    let event = json!({"task": "reseal", "after": report["next"]});
    let rest = if service == Service::HumanApi { 20 - failed } else { 20 };
    let report = world.time.during(&faults, cold.maintain(&event)).await.unwrap();
    assert_eq!((&report["resealed"], &report["next"]), (&json!(rest), &Value::Null), "{report}");
}

#[tokio::test]
async fn a_reseal_that_human_api_delays_ends_in_time_and_says_where_to_go_on() {
    reseal_without(Service::HumanApi).await;
}

#[tokio::test]
async fn a_reseal_that_dynamodb_delays_ends_in_time() {
    reseal_without(Service::DynamoDb).await;
}

#[tokio::test]
async fn a_reseal_that_secrets_manager_delays_ends_in_time() {
    reseal_without(Service::SecretsManager).await;
}

#[tokio::test]
async fn an_import_ends_in_time_whichever_service_does_not_answer_and_goes_on_from_there() {
    let world = World::new().await;
    for service in [Service::HumanApi, Service::DynamoDb] {
        let users: Vec<String> = (0..20).map(|number| format!("imported-{service:?}-{number}")).collect();
        for user in &users {
            world.stack.human_api.with(|state| state.connect(user, "made-up-01"));
        }
        let users: Vec<Value> = users.into_iter().map(|user| json!({"clientUserId": user})).collect();
        let (cold, faults) = (world.cold(), world.stack.faults.clone());
        let began = tokio::time::Instant::now();
        faults.set([Rule::always(service, Fault::Hang(Acts::Not))]);
        let event = json!({"task": "import", "users": users});
        let report = world.time.during(&faults, cold.maintain(&event)).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(112), "{service:?}: {:?} {report}", began.elapsed());
        let next = report["next"].as_u64().unwrap() as usize;
        let failed = report["results"].as_array().unwrap().iter().filter(|result| result["result"] == "failed");
        assert!((1..20).contains(&next) && failed.count() == next, "{service:?}: {report}");
        faults.set([]);
        // nobody can tell whether the requests so far were performed: the import waits for their leases, or resolves them
        world.time.pass(Duration::from_millis(LEASE_IS_OVER as u64)).await;
        let report = world.time.during(&faults, cold.maintain(&event)).await.unwrap();
        let created = report["results"].as_array().unwrap().iter().filter(|result| result["result"] == "created");
        let resolved = if service == Service::HumanApi { next } else { 0 };
        assert_eq!((created.count(), &report["next"]), (20 - resolved, &Value::Null), "{service:?}: {report}");
    }
}
