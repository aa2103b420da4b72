//! Made-up users in known states: what `events/` is written for.

use serde_json::json;
use shared::clock::Clock;
use shared::identity::UserId;
use shared::invocation::Invocation;
use shared::record::Source;
use shared::store::{Store, StoreError};
use shared::token::Ticket;

use crate::human_api::{CATALOGUE, CLIENT_ID, human_id};
use crate::laptop::Laptop;

/// New users with a popup session of their own, `made-up-popup-session-of-NAME`.
const NEW: [&str; 4] = ["ada", "dorothy", "用户-7 (odd|id+%)", "mallory"];
/// Connected by the popup; each has one more session.
const BY_POPUP: [&str; 2] = ["grace", "margaret"];
/// Connected by the Connect widget.
const BY_WIDGET: [&str; 2] = ["alan", "edsger"];
/// Has a session and a ticket whose random part is 32 times the number one.
const BY_TICKET: &str = "katherine";

/// The session token of an example user.
fn session_of(user: &str) -> String {
    format!("made-up-popup-session-of-{user}")
}

/// Brings the examples into their states, where they are not in the table yet.
pub async fn set_up(laptop: &Laptop) -> Result<(), StoreError> {
    let http = shared::network::http_client(&laptop.config).map_err(|_| StoreError::Unavailable)?;
    let client = shared::network::dynamodb(&laptop.config, &http);
    let store = Store::new(client, laptop.config.table.clone(), Clock::system());
    let invocation = Invocation::start();
    let (human_api, gateway) = (&laptop.human_api, &laptop.gateway);

    human_api.with(|state| {
        for user in NEW.iter().chain(&BY_POPUP).chain([&BY_TICKET]) {
            state.add_session(user, Some(&session_of(user)));
        }
    });
    for user in BY_POPUP {
        if store.read(&key(user), &invocation).await?.is_none() {
            let session = human_api.with(|state| state.add_session(user, None));
            let object = json!({"humanId": human_id(user), "clientId": CLIENT_ID, "sessionToken": session});
            gateway.as_user("POST /connect/finish", user, &object).await;
        }
    }
    for user in BY_WIDGET {
        if store.read(&key(user), &invocation).await?.is_none() {
            let (source, name, _) = CATALOGUE[0];
            gateway.as_user("POST /connect/session", user, &json!({"flow": "connect"})).await;
            human_api.with(|state| state.connect(user, source));
            let source = Source { id: source.to_owned(), name: name.to_owned() };
            let report = json!({"status": "SUCCESS", "currentConnections": [source]});
            gateway.as_user("POST /connect/finish", user, &report).await;
        }
    }
    let ticket = Ticket::from_parts(key(BY_TICKET), [1; Ticket::RANDOM_BYTES]);
    let seen = store.read(&key(BY_TICKET), &invocation).await?;
    if seen.as_ref().is_none_or(|row| !row.tickets.contains_key(&ticket.hash()))
        && let Some(user) = UserId::new(BY_TICKET)
    {
        store.add_ticket(&user, &ticket, seen, &invocation).await?;
    }
    Ok(())
}

#[expect(clippy::expect_used, reason = "the names above are no one's input")]
fn key(user: &str) -> shared::identity::UserKey {
    UserId::new(user).expect("an example's name is an id").key()
}
