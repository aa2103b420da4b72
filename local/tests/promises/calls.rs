//! The calls about one user, and the states of a user before a call.

use local::faults::{Acts, Answer, Fault, Rule, Service};
use local::gateway::{ACCESS_TOKEN, FORGET, Gateway, Reply};
use local::human_api::{human_id, session_token_object};
use local::local_stack::LocalStack;
use serde_json::{Value, json};

/// A call about one user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    SessionConnect,
    SessionPopup,
    FinishPopup,
    FinishTicket,
    /// Uses the same session as every other call of this kind.
    FinishSame,
    FinishWidget,
    PublicRefresh,
    AccessForce,
    Show,
    Delete,
    /// Another backend's `DELETE`.
    Forget,
    /// The operator's `import` of a popup user with tokens.
    ImportTokens,
    /// The operator's `import` of a Connect user.
    ImportByAccess,
    /// The scheduled `sweep`. It resolves users whom no other call has resolved.
    Sweep,
}

impl Call {
    /// Returns `true` if the call deletes everything about the user.
    pub(crate) fn is_delete(self) -> bool {
        matches!(self, Self::Delete | Self::Forget)
    }

    pub(crate) fn is_import(self) -> bool {
        matches!(self, Self::ImportTokens | Self::ImportByAccess)
    }

    /// Returns `true` if the call exchanges a popup's session.
    pub(crate) fn is_exchange(self) -> bool {
        matches!(self, Self::FinishPopup | Self::FinishTicket | Self::FinishSame)
    }
}

/// The stored data of the user before the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    New,
    ByPopup,
    ByWidget,
    /// As `ByPopup`, and then an exchange whose response was lost. The session is spent.
    Lost,
}

impl Known {
    /// Returns `true` if the user has a publicToken.
    pub(crate) fn has_public_token(self) -> bool {
        matches!(self, Self::ByPopup | Self::Lost)
    }
}

/// A call with its body and its ticket.
pub(crate) struct Request {
    call: Call,
    pub(crate) user: String,
    ticket: String,
    body: Value,
}

impl Request {
    /// Prepares the call as the page, the phone or another backend would send it. For a finish, the user has connected a
    /// source.
    pub(crate) async fn new(stack: &LocalStack, call: Call, user: &str) -> Self {
        let connect = || stack.human_api.with(|state| state.connect(user, "made-up-01"));
        let body = match call {
            Call::SessionConnect => json!({"flow": "connect", "refresh": true}),
            Call::SessionPopup => json!({"flow": "popup"}),
            Call::FinishPopup | Call::FinishTicket | Call::FinishSame => {
                let popup = stack.human_api.popup(user);
                let same = format!("made-up-session-of-{user}");
                if call == Call::FinishSame {
                    let session = stack.human_api.with(|state| state.add_session(user, Some(&same)));
                    session_token_object(user, &session)
                } else {
                    popup
                }
            }
            Call::ImportTokens => json!({
                "clientUserId": user,
                "humanId": human_id(user),
                "accessToken": imported_access_token(user),
                "publicToken": imported_public_token(user),
            }),
            Call::ImportByAccess => {
                connect();
                json!({"clientUserId": user})
            }
            Call::FinishWidget => {
                connect();
                json!({"status": "SUCCESS", "currentConnections": [{"id": "made-up-01", "name": "Made up"}]})
            }
            Call::PublicRefresh => json!({"refresh": true}),
            Call::AccessForce => json!({"clientUserId": user, "forceRefresh": true}),
            Call::Forget => json!({"clientUserId": user}),
            Call::Show | Call::Delete | Call::Sweep => json!({}),
        };
        let mut ticket = String::new();
        if call == Call::FinishTicket {
            let answer = stack.gateway.as_user("POST /connect/session", user, &json!({"flow": "popup"})).await.json();
            ticket = answer["finishUrl"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        }
        Self { call, user: user.to_owned(), ticket, body }
    }

    /// Sends the request. It can be sent more than once.
    pub(crate) async fn send(&self, gateway: &Gateway) -> Reply {
        let route = match self.call {
            Call::SessionConnect | Call::SessionPopup => "POST /connect/session",
            Call::FinishPopup | Call::FinishSame | Call::FinishWidget => "POST /connect/finish",
            Call::PublicRefresh => "POST /connect/public-token",
            Call::Show => "GET /connect/connection",
            Call::Delete => "DELETE /connect/connection",
            Call::Sweep => {
                let report = gateway.sweep().await;
                return Reply { status: 200, headers: serde_json::Map::new(), body: report.to_string() };
            }
            Call::ImportTokens | Call::ImportByAccess => return import(gateway, &self.body).await,
            Call::AccessForce => return gateway.as_backend(ACCESS_TOKEN, &self.body).await,
            Call::Forget => return gateway.as_backend(FORGET, &self.body).await,
            Call::FinishTicket => return gateway.with_ticket(&self.ticket, &self.body).await,
        };
        gateway.as_user(route, &self.user, &self.body).await
    }
}

/// Imports one user, and returns the outcome as a response.
async fn import(gateway: &Gateway, user: &Value) -> Reply {
    let answer = gateway.maintain(&json!({"task": "import", "users": [user]})).await.unwrap();
    let result = &answer["results"][0];
    let status = match (result["result"].as_str(), result["code"].as_str()) {
        (Some("created"), _) => 201,
        (Some("unchanged" | "conflict" | "not_connected"), _) => 200,
        (_, Some("finish_in_progress")) => 409,
        (_, Some("connection_deleted")) => 410,
        _ => 500,
    };
    Reply { status, headers: serde_json::Map::new(), body: result.to_string() }
}

/// The access token that an operator imports. Human API does not know it.
pub(crate) fn imported_access_token(user: &str) -> String {
    format!("made-up-access-token-imported-{user}")
}

pub(crate) fn imported_public_token(user: &str) -> String {
    format!("made-up-public-token-imported-{user}")
}

/// Prepares and sends one call.
pub(crate) async fn send(stack: &LocalStack, call: Call, user: &str) -> Reply {
    Request::new(stack, call, user).await.send(&stack.gateway).await
}

/// Sets up a user in this state.
pub(crate) async fn set_up(stack: &LocalStack, known: Known, user: &str) {
    match known {
        Known::New => {}
        Known::ByPopup => assert_eq!(send(stack, Call::FinishPopup, user).await.status, 201),
        Known::Lost => {
            assert_eq!(send(stack, Call::FinishPopup, user).await.status, 201);
            stack.faults.set([Rule::once(Service::HumanApi, Fault::Answer(Acts::First, Answer::json(500, "{}")))]);
            assert_eq!(send(stack, Call::FinishPopup, user).await.status, 503);
        }
        Known::ByWidget => {
            assert_eq!(send(stack, Call::SessionConnect, user).await.status, 200);
            assert_eq!(send(stack, Call::FinishWidget, user).await.status, 201);
        }
    }
}
