//! A rotation of secrets during calls makes no call fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use local::calls::Calls;
use local::faults::{Fault, Rule, Service};
use local::gateway::Gateway;
use local::human_api::human_id;
use local::issuer::Issuer;
use local::local_stack::{LocalStack, Options};
use local::secrets::{Accepted, CLIENT_SECRET, TOKEN_KEY};
use serde_json::json;
use shared::clock::Clock;
use shared::config::Config;
use shared::telemetry::Output;

use super::by_share;
use super::calls::{Call, Known, Request, send, set_up};
use super::paused_time::PausedTime;

/// A rotation of one secret.
struct Rotation {
    what: &'static str,
    secret: &'static str,
    accepted: Accepted,
    /// It happens amid the calls. Otherwise, the functions start with the new secret.
    amid: bool,
    /// Cache time of secrets.
    ttl: Duration,
}

const LONG: Duration = Duration::from_secs(300);
const ROTATIONS: [Rotation; 5] = [
    Rotation { what: "both accepted", secret: CLIENT_SECRET, accepted: Accepted::NewestTwo, amid: true, ttl: LONG },
    Rotation {
        what: "only the new accepted",
        secret: CLIENT_SECRET,
        accepted: Accepted::Newest,
        amid: true,
        ttl: LONG,
    },
    Rotation {
        what: "only the old accepted",
        secret: CLIENT_SECRET,
        accepted: Accepted::Previous,
        amid: false,
        ttl: LONG,
    },
    Rotation {
        what: "only the old accepted, and nothing cached",
        secret: CLIENT_SECRET,
        accepted: Accepted::Previous,
        amid: true,
        ttl: Duration::ZERO,
    },
    Rotation {
        what: "the sealing key",
        secret: TOKEN_KEY,
        accepted: Accepted::NewestTwo,
        amid: true,
        ttl: Duration::ZERO,
    },
];

/// Runs `what` at call number `times` of the service. Returns the rule and the counter of calls.
fn when_called(times: usize, service: Service, what: impl Fn() + Send + Sync + 'static) -> (Rule, Arc<AtomicUsize>) {
    let called = Arc::new(AtomicUsize::new(0));
    let (count, what) = (called.clone(), Arc::new(what));
    let event = move || {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == times {
            what();
        }
        std::future::ready(()).boxed()
    };
    (Rule::always(service, Fault::After(Arc::new(event))), called)
}

#[tokio::test]
async fn a_rotation_during_many_concurrent_calls_makes_no_call_fail() {
    let users = by_share(40, 200, 200);
    let stack = Box::pin(LocalStack::start(Options::in_memory())).await.unwrap();
    let time = PausedTime::begin();
    for (round, Rotation { what, secret, accepted, amid, ttl }) in ROTATIONS.into_iter().enumerate() {
        let config = Config { secret_ttl: ttl, ..stack.config.clone() };
        let output = Output::new(std::io::sink());
        let functions =
            Gateway::new(&config, Issuer::new("rotation".into()), Calls::default(), &output, Clock::system()).unwrap();
        let user = |number: usize| format!("user-{round}-{number}");
        let mut calls = Vec::new();
        for number in 0..users {
            let (known, call) = match number % 4 {
                0 => (Known::New, Call::FinishPopup),
                1 => (Known::ByPopup, Call::FinishPopup),
                2 => (Known::ByWidget, Call::PublicRefresh),
                _ => (Known::New, Call::SessionConnect),
            };
            time.during(&stack.faults, set_up(&stack, known, &user(number))).await;
            calls.push(Request::new(&stack, call, &user(number)).await);
        }
        let secrets = stack.secrets.clone();
        let rotate = move || {
            secrets.rotate(secret);
            secrets.accept(accepted);
        };
        if !amid {
            rotate();
        }
        let (rotates, _) = when_called(if amid { users / 2 } else { 0 }, Service::HumanApi, rotate);
        let (counts, reads) = when_called(0, Service::SecretsManager, || ());
        stack.faults.set([rotates, counts]);
        let all = join_all(calls.iter().map(|call| call.send(&functions)));
        let replies = time.during(&stack.faults, all).await;
        stack.faults.set([]);
        let failed: Vec<_> = replies.iter().filter(|reply| reply.status >= 300).map(|reply| &reply.body).collect();
        assert!(failed.is_empty(), "{what}: {} of {users} failed: {failed:?}", failed.len());
        let reads = reads.load(Ordering::SeqCst);
        // Three functions read two secrets each, and read them again after a refusal.
        assert!(reads >= 3 * 2 && (ttl.is_zero() || reads <= 3 * 4), "{what}: {reads} reads");
        stack.secrets.accept(Accepted::NewestTwo);
        // A value that was sealed before the rotation still opens.
        for number in (0..users).step_by(4) {
            let public = time.during(&stack.faults, send(&stack, Call::PublicRefresh, &user(number))).await.json();
            assert_eq!(public["humanId"], json!(human_id(&user(number))), "{what}: {public}");
        }
    }
}
