//! Everything secret here is made up and recognisable. Every call and every fault, with all that our code can log: none of
//! it is in a log line, a metric, an answer that is not its own, or the table.

use local::faults::Service;
use local::heard::Heard;
use shared::telemetry::{self, Output};
use tracing_subscriber::filter::Targets;

use crate::calls::{Call, Known};
use crate::faults::{CALLS, KNOWN, When, World, Wrong, names};
use crate::made_up_time::MadeUpTime;

/// Whether the answer to a call may hold a secret.
type May = fn(Call) -> bool;

/// How each secret begins, and whose answer it is.
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
/// What no log line and no metric may hold beside these.
const NOT_FOR_LOGS: [&str; 2] = ["canary-user", "@example.test"];

#[tokio::test]
async fn no_call_and_no_fault_shows_a_secret_anywhere() {
    let time = MadeUpTime::begin_alone();
    let heard = Heard::default();
    let output = Output::new(heard.clone());
    let all = Targets::new().with_default(tracing::Level::TRACE);
    let _guard = tracing::subscriber::set_default(telemetry::subscriber(all, "canary", "canary", output.clone()));
    let mut world = World::writing_to(output, time).await;
    let (mut searched, mut lines) = (0, 0);
    for service in Service::ALL {
        for name in names(service) {
            for call in CALLS {
                for known in KNOWN {
                    // each fault is met by a finish in every state, and by the others in one
                    if known != Known::ByPopup && !call.is_exchange() {
                        continue;
                    }
                    let reply = world.cell(call, known, &[Wrong { service, name, when: When::Always }]).await;
                    let headers = serde_json::to_string(&reply.headers).unwrap();
                    for (canary, may_hold) in CANARIES {
                        let told = format!("{canary} in the answer to {call:?}, {name}: {}", reply.body);
                        assert!(may_hold(call) || !reply.body.contains(canary), "{told}");
                        assert!(!headers.contains(canary), "{told}");
                    }
                    let ticket =
                        reply.json()["finishUrl"].as_str().map(|url| url.rsplit('/').next().unwrap().to_owned());
                    let text = heard.take().unwrap();
                    for line in text.lines() {
                        let canaries = CANARIES.iter().map(|(canary, _)| *canary).chain(NOT_FOR_LOGS);
                        let canaries = canaries.chain(ticket.as_deref());
                        for canary in canaries {
                            assert!(!line.contains(canary), "{canary} in a line of {call:?}, {name}: {line}");
                        }
                        lines += 1;
                    }
                    searched += text.len();
                }
            }
        }
    }
    let rows = world.laptop.dynamodb.scan().table_name("human-connect").send().await.unwrap();
    let table = format!("{:?}", rows.items());
    for (canary, _) in CANARIES {
        assert!(!table.contains(canary), "{canary} in the table");
    }
    println!("leaks: {lines} lines, {searched} bytes of logs and metrics, {} bytes of table searched", table.len());
    assert!(lines > 5000 && table.len() > 10_000, "there was something to search");
    world.done("leaks");
}
