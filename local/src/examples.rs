//! Made-up users in known states, for the files of `events/`. The console offers none of them.

use serde_json::json;
use shared::clock::Clock;
use shared::identity::{UserId, UserKey};
use shared::invocation::Invocation;
use shared::record::Source;
use shared::store::{Store, StoreError};
use shared::token::Ticket;

use crate::faults::{Acts, Fault, Faults, Rule, Service};
use crate::gateway::Gateway;
use crate::human_api::{CATALOGUE, HumanApi, session_token_object};
use crate::local_stack::LocalStack;

/// Users with an unfinished popup session, `made-up-popup-session-of-NAME`.
const WITH_SESSION: [&str; 8] =
    ["emmy", "dorothy", "用户-7 (odd|id+%)", "sofia", "hedy", "lise", "margaret", BY_TICKET];
/// Users who connected through the popup before.
const BY_POPUP: [&str; 2] = ["lise", "margaret"];
/// A user who connected through the Connect widget.
const BY_WIDGET: &str = "alan";
/// A user who connected a source before this backend existed. Human API never told it the humanId.
const UNPROVEN: &str = "edsger";
/// A user who connected through the Connect widget, and whom Human API has deleted since.
const GONE: &str = "barbara";
/// A user whose exchange lost its response.
const LOST: &str = "radia";
/// A user with a ticket whose 32 random bytes are all 1.
const BY_TICKET: &str = "katherine";

/// Sets up the example users that are not in the table yet.
pub async fn set_up(stack: &LocalStack) -> Result<(), StoreError> {
    let http = shared::network::http_client(&stack.config).map_err(|error| StoreError::Unavailable(error.into()))?;
    let client = shared::aws::dynamodb(&stack.config.aws, &http);
    let store = Store::new(client, stack.config.table.clone(), Clock::system());
    let invocation = Invocation::start();
    let examples = Examples { gateway: &stack.gateway, human_api: &stack.human_api, faults: &stack.faults };

    for user in WITH_SESSION {
        examples.add_session(user);
    }
    for user in BY_POPUP.into_iter().chain([BY_WIDGET, UNPROVEN, GONE, LOST]) {
        if store.read(&key(user), &invocation).await?.is_none() {
            examples.set_up(user).await;
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

struct Examples<'a> {
    gateway: &'a Gateway,
    human_api: &'a HumanApi,
    faults: &'a Faults,
}

impl Examples<'_> {
    /// Sets up a user in the state of the list that names the user.
    async fn set_up(&self, user: &str) {
        let (source, name, _) = CATALOGUE[0];
        let connect = || self.human_api.with(|state| state.connect(user, source));
        let report = json!({
            "status": "SUCCESS",
            "currentConnections": [Source { id: source.to_owned(), name: name.to_owned() }],
        });
        match user {
            BY_WIDGET | GONE => {
                self.call("POST /connect/session", user, &json!({"flow": "connect"})).await;
                connect();
                self.call("POST /connect/finish", user, &report).await;
                if user == GONE {
                    self.human_api.with(|state| state.drop_user(user));
                }
            }
            UNPROVEN => {
                connect();
                self.call("POST /connect/finish", user, &report).await;
            }
            LOST => {
                let session = self.add_session(user);
                self.faults.set([Rule::once(Service::HumanApi, Fault::Reset(Acts::First))]);
                self.finish_popup(user, &session).await;
            }
            _ => {
                let session = self.human_api.with(|state| state.add_session(user, None));
                self.finish_popup(user, &session).await;
            }
        }
    }

    fn add_session(&self, user: &str) -> String {
        let session = format!("made-up-popup-session-of-{user}");
        self.human_api.with(|state| state.add_session(user, Some(&session)))
    }

    async fn finish_popup(&self, user: &str, session: &str) {
        self.call("POST /connect/finish", user, &session_token_object(user, session)).await;
    }

    async fn call(&self, route: &'static str, user: &str, body: &serde_json::Value) {
        self.gateway.as_user(route, user, body).await;
    }
}

#[expect(clippy::expect_used, reason = "the names above are no one's input")]
fn key(user: &str) -> UserKey {
    UserId::new(user).expect("an example's name is an id").key()
}
