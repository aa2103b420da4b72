//! Every secret in this test is made up and recognizable. The test runs every call with every fault and the most verbose
//! log. No secret may be in a log line, a metric, another call's response, or the table.

use local::faults::Service;
use shared::telemetry::{self, Output};
use test_support::LogCapture;
use tracing_subscriber::filter::Targets;

use super::calls::{Call, Known};
use super::events::of_change;
use super::faults::{CALLS, KNOWN, When, World, Wrong, names};
use super::paused_time::PausedTime;
use super::{by_share, sampled};

/// Returns `true` if the response to this call may contain the secret.
type May = fn(Call) -> bool;

/// The prefix of each secret, and the calls whose response may contain it.
const CANARIES: [(&str, May); 9] = [
    ("made-up-access-token", |call| call == Call::AccessForce),
    ("made-up-refresh-token", |_| false),
    ("made-up-id-refresh-token", |_| false),
    ("made-up-id-token", |call| matches!(call, Call::SessionConnect | Call::SessionPopup)),
    ("made-up-session-token", |call| matches!(call, Call::SessionConnect | Call::SessionPopup)),
    ("made-up-public-token", |call| {
        call.is_exchange() || matches!(call, Call::FinishWidget | Call::PublicRefresh | Call::SessionPopup)
    }),
    ("made-up-popup-session", |_| false),
    ("made-up-client-secret", |_| false),
    ("made-up-sealing-key", |_| false),
];
/// Further texts that no log line and no metric may contain.
const NOT_FOR_LOGS: [&str; 2] = ["canary-user", "@example.test"];

#[tokio::test]
async fn no_call_and_no_fault_shows_a_secret_anywhere() {
    let time = PausedTime::begin_alone();
    let capture = LogCapture::default();
    let output = Output::new(capture.clone());
    let all = Targets::new().with_default(tracing::Level::TRACE);
    let _guard = tracing::subscriber::set_default(telemetry::subscriber(all, "canary", "canary", output.clone()));
    let mut world = World::writing_to(output, time).await;
    let mut cases = Vec::new();
    for service in Service::ALL {
        for name in names(service) {
            // A finish meets each fault in every state, and the other calls in one state.
            let states = CALLS.into_iter().flat_map(|call| KNOWN.map(|known| (call, known)));
            let states = states.filter(|(call, known)| *known == Known::ByPopup || call.is_exchange());
            cases.extend(states.map(|(call, known)| (call, known, Wrong { service, name, when: When::Always })));
        }
    }
    let mut lines = 0;
    for (call, known, wrong) in sampled(cases) {
        let (reply, name) = (world.cell(call, known, &[wrong]).await, wrong.name);
        let headers = serde_json::to_string(&reply.headers).unwrap();
        for (canary, may_hold) in CANARIES {
            let told = format!("{canary} in the response to {call:?}, {name}: {}", reply.body);
            assert!(may_hold(call) || !reply.body.contains(canary), "{told}");
            assert!(!headers.contains(canary), "{told}");
        }
        let ticket = reply.json()["finishUrl"].as_str().map(|url| url.rsplit('/').next().unwrap().to_owned());
        let text = capture.take().unwrap();
        for line in text.lines() {
            let canaries = CANARIES.iter().map(|(canary, _)| *canary).chain(NOT_FOR_LOGS);
            for canary in canaries.chain(ticket.as_deref()) {
                assert!(!line.contains(canary), "{canary} in a line of {call:?}, {name}: {line}");
            }
            lines += 1;
        }
    }
    let rows = world.stack.dynamodb.scan().table_name("human-connect").send().await.unwrap();
    let table = format!("{:?}", rows.items());
    for (canary, _) in CANARIES {
        assert!(!table.contains(canary), "{canary} in the table");
    }
    let events = rows.items().iter().zip(1..).flat_map(|(row, number)| {
        let appears = of_change(number, None, Some(row));
        appears.into_iter().chain(of_change(number, Some(row), None))
    });
    let events: Vec<String> = events.map(|event| event.detail("made-up").to_string()).collect();
    for event in &events {
        assert!(!event.contains("sealed") && CANARIES.iter().all(|(canary, _)| !event.contains(canary)), "{event}");
    }
    assert!(events.len() > by_share(20, 100, 200), "only {} events were searched", events.len());
    let bytes = table.len();
    assert!(lines > by_share(400, 2500, 5000) && bytes > 10_000, "only {lines} lines and {bytes} bytes were searched");
    world.done("leaks");
}
