//! The connection events of a schedule: each write's change of the row goes through `publisher`'s own function.

pub(crate) use publisher::change::Event;
use publisher::change::{Change, Kind};
use serde_json::json;
use serde_json::value::to_raw_value;

use super::calls::{Call, Known};
use super::driver::Run;
use super::invariants::{Item, record};

/// Returns the events of a change.
pub(crate) fn of_change(number: usize, before: Option<&Item>, after: Option<&Item>) -> Vec<Event> {
    let image = |row: Option<&Item>| row.map(|row| serde_dynamo::Item::from(row.clone()));
    let images = json!({
        "SequenceNumber": number.to_string(),
        "ApproximateCreationDateTime": number,
        "OldImage": image(before),
        "NewImage": image(after),
    });
    let record = to_raw_value(&json!({"eventID": format!("made-up-{number}"), "dynamodb": images})).unwrap();
    let events = || Change::read(&record).unwrap().events();
    let same = |(one, other): (Event, Event)| one.kind == other.kind && one.detail("") == other.detail("");
    assert!(events().into_iter().zip(events()).all(same), "a repeated record has the same events and IDs");
    events()
}

/// Checks that the events tell what has become of a user's connection. `row` is the user's row after them.
pub(crate) fn check(events: &[Event], run: &Run, row: Option<&Item>) -> Result<(), String> {
    let kinds = kinds(events);
    let mut is_connected = run.known != Known::New;
    let mut is_known = is_connected;
    for kind in &kinds {
        let fits = match kind {
            Kind::Connected => !is_connected,
            Kind::Updated | Kind::Revoked => is_connected,
            Kind::ReconnectRequired => true,
            Kind::Forgotten => is_known,
        };
        if !fits {
            return Err(format!("{kind:?} does not fit: {kinds:?}"));
        }
        is_connected = match kind {
            Kind::Connected => true,
            Kind::Updated | Kind::ReconnectRequired => is_connected,
            Kind::Revoked | Kind::Forgotten => false,
        };
        is_known = *kind != Kind::Forgotten;
    }
    let of_user = |event: &Event| event.detail("")["clientUserId"] == run.user.as_str();
    let mut ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let has_connection = row.and_then(record).is_some_and(|record| record.contains_key("connectedAt"));
    match () {
        () if ids.len() != events.len() => Err(format!("two events have the same ID: {kinds:?}")),
        () if !events.iter().all(of_user) => Err("an event of another user".to_owned()),
        () if is_connected != has_connection => Err(format!("the events do not tell how the row stands: {kinds:?}")),
        () => Ok(()),
    }
}

/// Checks the number of events of a schedule in which nothing went wrong: each call that stored a connection has one.
pub(crate) fn check_number(events: &[Event], run: &Run, calls: &[Call]) -> Result<(), String> {
    let kinds = kinds(events);
    let number = |these: &[Kind]| kinds.iter().filter(|kind| these.contains(kind)).count();
    let stored = run.replies.iter().filter(|reply| reply.status == 201).count();
    let deletes = calls.iter().filter(|call| call.is_delete()).count();
    let least = usize::from(run.known != Known::New && deletes > 0);
    let is_right = number(&[Kind::Connected, Kind::Updated]) == stored
        && number(&[Kind::Revoked]) == 0
        && (least..=deletes).contains(&number(&[Kind::Forgotten]));
    let told = || format!("{stored} calls have stored a connection, and {deletes} were to delete it: {kinds:?}");
    if is_right { Ok(()) } else { Err(told()) }
}

fn kinds(events: &[Event]) -> Vec<Kind> {
    events.iter().map(|event| event.kind).collect()
}
