//! What must hold after every schedule.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use local::gateway::Reply;
use local::laptop::Laptop;
use serde_json::json;

use crate::calls::{Call, Known};
use crate::driver::{Run, World};

/// Checks the promises; `calls` are those that were answered.
pub(crate) async fn check(world: &World, run: &Run, calls: &[Call]) {
    let told = |what: &str| {
        let answers: Vec<_> = run.replies.iter().map(|reply| format!("{} {}", reply.status, reply.body)).collect();
        format!("{what}\n{calls:?} {:?} died {:?}\n{:#?}\n{answers:#?}", run.known, run.died, run.trace)
    };
    for (call, reply) in calls.iter().zip(&run.replies) {
        let with_delete = calls.contains(&Call::Delete) || run.died == Some(Call::Delete);
        assert!(may_answer(*call, reply, run, with_delete), "{}", told(&format!("{call:?} answered {}", reply.status)));
    }

    let row = row(&world.laptop, &run.user).await;

    // a delete wins: what is there now began after it. A read that found nothing is no beginning: there was nothing that
    // the delete could have taken away, and so nothing by which the call could know of it
    if let Some(delete) = calls.iter().position(|call| *call == Call::Delete).filter(|_| run.died.is_none()) {
        let deleted_at = run.trace.iter().position(|(actor, _)| *actor == delete).unwrap();
        let begins = |what: &str| run.known != Known::New || what != "GetItem";
        let began_after =
            |actor: usize| run.trace.iter().position(|(who, what)| *who == actor && begins(what)) > Some(deleted_at);
        let somebody = (0..calls.len()).any(|actor| actor != delete && began_after(actor));
        assert!(row.is_none() || somebody, "{}", told("a row after its delete"));
    }

    // nobody is wedged, nothing is unresolved
    let swept = run.died.is_some() && calls == [Call::Sweep];
    if (run.died.is_none() && !run.taken_over) || swept {
        assert_eq!(left(row.as_ref()), [""; 0], "{}", told("something is left"));
    }
    if run.died.is_none() && !run.taken_over && calls.iter().all(|call| *call == Call::FinishSame) {
        let exchanges = run.trace.iter().filter(|(_, what)| what.ends_with("/tokens")).count();
        assert_eq!(exchanges, 1, "{}", told("one session is exchanged once"));
    }

    let deleted = calls.contains(&Call::Delete) || run.died == Some(Call::Delete);
    let stored = run.replies.iter().zip(calls).any(|(reply, call)| reply.status == 201 && *call != Call::Delete);
    let expected = Expected {
        // whatever Human API has given of late is there, or has been replaced
        access: !deleted && (stored || run.known != Known::New || has_token(&world.laptop, &run.user)),
        public: !deleted && run.known == Known::ByPopup,
    };
    if let Err(broken) = nothing_is_lost_or_stale(&world.laptop, &run.user, expected).await {
        panic!("{}", told(&broken));
    }
}

/// The row as it is. Whatever it is in: the sweeper finds it if, and only if, it is unresolved.
pub(crate) async fn row(laptop: &Laptop, user: &str) -> Option<HashMap<String, AttributeValue>> {
    let row = laptop.row(&shared::identity::UserId::new(user.to_owned()).unwrap()).await.unwrap();
    let has = |attribute| row.as_ref().is_some_and(|row| row.contains_key(attribute));
    assert_eq!(has("unresolvedSince"), has("pending") || has("doubts"), "{row:?}");
    row
}

/// What of a call under way is in the row.
fn left(row: Option<&HashMap<String, AttributeValue>>) -> Vec<&'static str> {
    let of_calls = ["leaseUntil", "pending", "doubts"].into_iter();
    of_calls.filter(|attribute| row.is_some_and(|row| row.contains_key(*attribute))).collect()
}

/// Whether Human API has given an access token for this user.
pub(crate) fn has_token(laptop: &Laptop, user: &str) -> bool {
    laptop.human_api.with(|state| state.newest(user)).0.is_some()
}

/// What must be there for a user in any case.
pub(crate) struct Expected {
    pub(crate) access: bool,
    pub(crate) public: bool,
}

/// Asks for the user's tokens: what is served is the newest that Human API gave, what must be there is, and nothing of an
/// earlier call is left.
pub(crate) async fn nothing_is_lost_or_stale(laptop: &Laptop, user: &str, expected: Expected) -> Result<(), String> {
    let (_, newest_public) = laptop.human_api.with(|state| state.newest(user));
    let access = laptop.gateway.as_backend(&json!({"clientUserId": user})).await;
    let public = laptop.gateway.as_user("POST /connect/public-token", user, &json!({})).await;
    // `access` may have been asked just now
    let (newest_access, _) = laptop.human_api.with(|state| state.newest(user));
    let text = |reply: &Reply, field: &str| reply.json()[field].as_str().map(str::to_owned);
    match access.status {
        200 if text(&access, "accessToken") != newest_access => return Err("a stale access token".to_owned()),
        200 => {}
        404 | 409 | 410 if !expected.access => {}
        status => return Err(format!("access-token answers {status} afterwards: {}", access.body)),
    }
    match public.status {
        200 if newest_public.is_some() && text(&public, "publicToken") != newest_public => {
            return Err("a stale publicToken".to_owned());
        }
        200 => {}
        404 | 409 if !expected.public => {}
        status => return Err(format!("public-token answers {status} afterwards: {}", public.body)),
    }
    match left(row(laptop, user).await.as_ref())[..] {
        [] => Ok(()),
        ref left => Err(format!("{left:?} is left")),
    }
}

fn may_answer(call: Call, reply: &Reply, run: &Run, with_delete: bool) -> bool {
    let body = reply.json();
    let code = body["code"].as_str().unwrap_or("ok").to_owned();
    let fresh = run.known == Known::New || with_delete;
    match (reply.status, code.as_str()) {
        // the one that was taken over; its session, where that was spent on an answer that came too late
        (409, "finish_in_progress") => run.taken_over,
        (409, "reconnect_required") if call == Call::FinishPopup => run.taken_over && run.known == Known::New,
        (409, "reconnect_required") if call == Call::FinishSame => {
            run.known == Known::New && (run.died.is_some() || run.taken_over)
        }
        (200 | 201, "ok") if call == Call::FinishSame => true,
        (410, "connection_deleted") => with_delete && call != Call::Delete,
        (200, "ok") => {
            matches!(
                call,
                Call::SessionConnect
                    | Call::SessionPopup
                    | Call::PublicRefresh
                    | Call::AccessForce
                    | Call::FinishWidget
                    | Call::Sweep
            ) || (call == Call::FinishPopup && run.died.is_some())
        }
        (201, "ok") => matches!(call, Call::FinishPopup | Call::FinishWidget),
        (204, "ok") => call == Call::Delete,
        (404, "not_connected") => matches!(call, Call::PublicRefresh | Call::AccessForce) && fresh,
        (409, "reconnect_required") => call == Call::PublicRefresh && fresh,
        _ => false,
    }
}
