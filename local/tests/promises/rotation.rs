//! Secrets that are rotated while calls are under way fail none of them.

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
use local::laptop::{Laptop, Options};
use local::secrets::{Accepted, CLIENT_SECRET, TOKEN_KEY};
use serde_json::json;
use shared::clock::Clock;
use shared::config::Config;
use shared::telemetry::Output;

use crate::calls::{Call, Known, Request, ask, bring};
use crate::made_up_time::MadeUpTime;

const USERS: usize = 200;

/// What is rotated, and when.
struct Rotation {
    what: &'static str,
    secret: &'static str,
    accepted: Accepted,
    /// When so many calls of Human API have begun; 0: before the first, so that functions begin with the new one.
    at: usize,
    /// How long secrets are cached.
    ttl: Duration,
}

const LONG: Duration = Duration::from_secs(300);
const ROTATIONS: [Rotation; 5] = [
    Rotation { what: "both accepted", secret: CLIENT_SECRET, accepted: Accepted::NewestTwo, at: 100, ttl: LONG },
    Rotation { what: "only the new accepted", secret: CLIENT_SECRET, accepted: Accepted::Newest, at: 100, ttl: LONG },
    Rotation { what: "only the old accepted", secret: CLIENT_SECRET, accepted: Accepted::Previous, at: 0, ttl: LONG },
    Rotation {
        what: "only the old accepted, and nothing cached",
        secret: CLIENT_SECRET,
        accepted: Accepted::Previous,
        at: 100,
        ttl: Duration::ZERO,
    },
    Rotation {
        what: "the sealing key",
        secret: TOKEN_KEY,
        accepted: Accepted::NewestTwo,
        at: 100,
        ttl: Duration::ZERO,
    },
];

/// Does this when the service has been called so often; how often it was called.
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
async fn a_rotation_during_two_hundred_concurrent_calls_fails_none_of_them() {
    let laptop = Box::pin(Laptop::start(Options::in_memory())).await.unwrap();
    let time = MadeUpTime::begin();
    for (round, Rotation { what, secret, accepted, at, ttl }) in ROTATIONS.into_iter().enumerate() {
        let config = Config { secret_ttl: ttl, ..laptop.config.clone() };
        let output = Output::new(std::io::sink());
        let functions =
            Gateway::new(&config, Issuer::new("rotation".into()), Calls::default(), &output, Clock::system()).unwrap();
        let user = |number: usize| format!("user-{round}-{number}");
        let mut calls = Vec::new();
        for number in 0..USERS {
            let (known, call) = match number % 4 {
                0 => (Known::New, Call::FinishPopup),
                1 => (Known::ByPopup, Call::FinishPopup),
                2 => (Known::ByWidget, Call::PublicRefresh),
                _ => (Known::New, Call::SessionConnect),
            };
            time.during(&laptop.faults, bring(&laptop, known, &user(number))).await;
            calls.push(Request::new(&laptop, call, &user(number)).await);
        }
        let secrets = laptop.secrets.clone();
        let rotate = move || {
            secrets.rotate(secret);
            secrets.accept(accepted);
        };
        if at == 0 {
            rotate();
        }
        let (rotates, _) = when_called(at, Service::HumanApi, rotate);
        let (counts, reads) = when_called(0, Service::SecretsManager, || ());
        laptop.faults.set([rotates, counts]);
        let all = join_all(calls.iter().map(|call| call.send(&functions)));
        let replies = time.during(&laptop.faults, all).await;
        laptop.faults.set([]);
        let failed: Vec<_> = replies.iter().filter(|reply| reply.status >= 300).map(|reply| &reply.body).collect();
        assert!(failed.is_empty(), "{what}: {} of {USERS} failed: {failed:?}", failed.len());
        let reads = reads.load(Ordering::SeqCst);
        println!("rotation, {what}: {USERS} concurrent calls, {reads} reads of secrets");
        // three functions with two secrets each, and what a refusal has them look at
        assert!(ttl.is_zero() || reads <= 3 * 4, "{what}: {reads} reads");
        laptop.secrets.accept(Accepted::NewestTwo);
        // whatever was sealed before still opens
        for number in (0..USERS).step_by(4) {
            let public = time.during(&laptop.faults, ask(&laptop, Call::PublicRefresh, &user(number))).await.json();
            assert_eq!(public["humanId"], json!(human_id(&user(number))), "{what}: {public}");
        }
    }
}
