//! The conditions that every schedule must satisfy at its end.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use local::gateway::{ACCESS_TOKEN, Reply};
use local::local_stack::LocalStack;
use serde_json::json;

use super::calls::{Call, Known, imported_access_token, imported_public_token};
use super::driver::{Disturbed, LEASE_IS_OVER, Run, World};
use super::events;

pub(crate) type Item = HashMap<String, AttributeValue>;

pub(crate) fn record(row: &Item) -> Option<&Item> {
    row.get("userRecord")?.as_m().ok()
}

/// Checks the promises. `calls` are the calls that were answered.
pub(crate) async fn check(world: &World, run: &Run, calls: &[Call]) {
    let told = |what: &str| {
        let answers: Vec<_> = run.replies.iter().map(|reply| format!("{} {}", reply.status, reply.body)).collect();
        format!("{what}\n{calls:?} {:?} died {:?}\n{:#?}\n{answers:#?}", run.known, run.died, run.trace)
    };
    for (call, reply) in calls.iter().zip(&run.replies) {
        let with_delete = calls.iter().copied().chain(run.died).any(Call::is_delete);
        assert!(may_answer(*call, reply, run, with_delete), "{}", told(&format!("{call:?} answered {}", reply.status)));
    }

    let row = row(&world.stack, &run.user).await;
    let events = world.take_events();
    if let Err(wrong) = events::check(&events, run, row.as_ref()) {
        panic!("{}", told(&wrong));
    }
    if run.died.is_none()
        && !run.taken_over
        && run.disturbed.is_none()
        && run.known != Known::Lost
        && let Err(wrong) = events::check_number(&events, run, calls)
    {
        panic!("{}", told(&wrong));
    }
    let may_make_a_row = run.disturbed.as_ref().is_some_and(Disturbed::may_make_a_row);

    // A delete wins: a row that exists now was started after the delete. A read that found nothing does not count as a
    // start. A write without an answer does not count either, because the call cannot know of the delete.
    if let Some(delete) = calls.iter().position(|call| call.is_delete()).filter(|_| run.died.is_none()) {
        let deleted_at = run.trace.iter().position(|(actor, _)| *actor == delete).unwrap();
        let begins = |what: &str| match what.split_once(' ') {
            Some((_, how)) => how == "Copied",
            None => run.known != Known::New || what != "GetItem",
        };
        let began_after =
            |actor: usize| run.trace.iter().position(|(who, what)| *who == actor && begins(what)) > Some(deleted_at);
        let somebody = (0..calls.len()).any(|actor| actor != delete && began_after(actor));
        let without_tokens = row.as_ref().is_none_or(|row| !row.contains_key("userRecord"));
        let is_copy = |what: &str| what == "a late copy arrives: 200";
        let arrived_after = run.trace.iter().position(|(_, what)| is_copy(what)) > Some(deleted_at);
        let was_answered = run.disturbed.as_ref().is_some_and(Disturbed::was_answered);
        let of_a_copy = may_make_a_row && (without_tokens || (was_answered && arrived_after));
        assert!(row.is_none() || somebody || of_a_copy, "{}", told("a row after its delete"));
    }

    // No user is blocked, and nothing is unresolved.
    let swept = run.died.is_some() && calls == [Call::Sweep];
    if (run.died.is_none() && !run.taken_over) || swept {
        assert_eq!(left(row.as_ref()), [""; 0], "{}", told("something is left"));
    }
    if run.died.is_none() && !run.taken_over && calls.iter().all(|call| *call == Call::FinishSame) {
        let exchanges = run.trace.iter().filter(|(_, what)| what.ends_with("/tokens")).count();
        assert_eq!(exchanges, 1, "{}", told("one session is exchanged once"));
    }

    if may_make_a_row {
        world.pass(LEASE_IS_OVER);
    }
    let deleted = calls.iter().copied().chain(run.died).any(Call::is_delete);
    let stored = run.replies.iter().zip(calls).any(|(reply, call)| reply.status == 201 && !call.is_delete());
    let expected = Expected {
        // Every token that Human API has given is stored, or a newer one has replaced it.
        access: !deleted && (stored || run.known != Known::New || has_token(&world.stack, &run.user)),
        public: !deleted && run.known.has_public_token(),
        may_be_imported: deleted && calls.iter().copied().chain(run.died).any(Call::is_import),
    };
    if let Err(broken) = nothing_is_lost_or_stale(&world.stack, &run.user, expected).await {
        panic!("{}", told(&broken));
    }
}

/// Reads the row. In every state, the index has the row if, and only if, a call is at work or something is unresolved.
pub(crate) async fn row(stack: &LocalStack, user: &str) -> Option<Item> {
    let row = stack.row(&shared::identity::UserId::new(user.to_owned()).unwrap()).await.unwrap();
    let has = |attribute| row.as_ref().is_some_and(|row| row.contains_key(attribute));
    assert_eq!(has("leaseUntil"), has("pending") || has("takenOver"), "{row:?}");
    assert!(!(has("leaseUntil") && has("expires")), "{row:?}");
    row
}

/// Returns the row's attributes that only a call in flight may set.
fn left(row: Option<&Item>) -> Vec<&'static str> {
    let of_calls = ["leaseUntil", "pending", "takenOver"].into_iter();
    of_calls.filter(|attribute| row.is_some_and(|row| row.contains_key(*attribute))).collect()
}

/// Returns `true` if Human API has given an access token for this user.
pub(crate) fn has_token(stack: &LocalStack, user: &str) -> bool {
    stack.human_api.with(|state| state.newest(user)).0.is_some()
}

/// The tokens that a user must have.
pub(crate) struct Expected {
    pub(crate) access: bool,
    pub(crate) public: bool,
    /// A delete may come before an import. Then nothing tells the imported tokens from newer ones.
    pub(crate) may_be_imported: bool,
}

/// Requests the user's tokens. A served token must be the newest one of Human API, and the expected tokens must exist. No trace of
/// an earlier call may be left.
pub(crate) async fn nothing_is_lost_or_stale(stack: &LocalStack, user: &str, expected: Expected) -> Result<(), String> {
    let access = stack.gateway.as_backend(ACCESS_TOKEN, &json!({"clientUserId": user})).await;
    let public = stack.gateway.as_user("POST /connect/public-token", user, &json!({})).await;
    // The requests may have fetched new tokens.
    let (newest_access, newest_public) = stack.human_api.with(|state| state.newest(user));
    let text = |reply: &Reply, field: &str| reply.json()[field].as_str().map(str::to_owned);
    match access.status {
        // an imported token is served until Human API has given another one
        200 if text(&access, "accessToken") == Some(imported_access_token(user))
            && (expected.may_be_imported || newest_access.is_none()) => {}
        200 if text(&access, "accessToken") != newest_access => return Err("a stale access token".to_owned()),
        200 => {}
        404 | 409 | 410 if !expected.access => {}
        status => return Err(format!("access-token answers {status} afterwards: {}", access.body)),
    }
    match public.status {
        200 if text(&public, "publicToken") == Some(imported_public_token(user))
            && (expected.may_be_imported || newest_public.is_none()) => {}
        200 if text(&public, "publicToken") != newest_public => {
            return Err("a stale publicToken".to_owned());
        }
        200 => {}
        404 | 409 if !expected.public => {}
        status => return Err(format!("public-token answers {status} afterwards: {}", public.body)),
    }
    match left(row(stack, user).await.as_ref())[..] {
        [] => Ok(()),
        ref left => Err(format!("{left:?} is left")),
    }
}

fn may_answer(call: Call, reply: &Reply, run: &Run, with_delete: bool) -> bool {
    let body = reply.json();
    let code = body["code"].as_str().unwrap_or("ok").to_owned();
    let fresh = run.known == Known::New || with_delete;
    let may_make_a_row = run.disturbed.as_ref().is_some_and(Disturbed::may_make_a_row);
    match (reply.status, code.as_str()) {
        // A call that was taken over gets this. If its session was spent for a response that came too late, a new user
        // must reconnect.
        (409, "finish_in_progress") => run.taken_over || run.disturbed.as_ref().is_some_and(Disturbed::holds_up_others),
        (409, "reconnect_required") if may_make_a_row && with_delete => true,
        (409, "reconnect_required") if call == Call::FinishPopup => run.taken_over && run.known == Known::New,
        (409, "reconnect_required") if call == Call::FinishSame => {
            run.known == Known::New && (run.died.is_some() || run.taken_over)
        }
        (200 | 201, "ok") if call == Call::FinishSame => true,
        (410, "connection_deleted") => with_delete && !call.is_delete(),
        (200, "ok") => {
            matches!(
                call,
                Call::SessionConnect
                    | Call::SessionPopup
                    | Call::PublicRefresh
                    | Call::AccessForce
                    | Call::FinishWidget
                    | Call::ImportTokens
                    | Call::ImportByAccess
                    | Call::Sweep
            ) || (call == Call::FinishPopup && run.died.is_some())
        }
        (201, "ok") => matches!(call, Call::FinishPopup | Call::FinishWidget) || call.is_import(),
        (204, "ok") => call.is_delete(),
        (404, "not_connected") => matches!(call, Call::PublicRefresh | Call::AccessForce) && fresh,
        (409, "reconnect_required") => call == Call::PublicRefresh && fresh,
        _ => false,
    }
}
