//! What can be asked about a user, and what is known of the user before.

use local::gateway::{Gateway, Reply};
use local::human_api::{CLIENT_ID, human_id};
use local::laptop::Laptop;
use serde_json::{Value, json};

/// What can be asked about a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    SessionConnect,
    SessionPopup,
    FinishPopup,
    FinishTicket,
    /// With the same session as any other of its kind.
    FinishSame,
    FinishWidget,
    PublicRefresh,
    AccessForce,
    Show,
    Delete,
    /// The schedule's: about whoever was left alone.
    Sweep,
}

impl Call {
    /// Whether it exchanges a popup's session.
    pub(crate) fn is_exchange(self) -> bool {
        matches!(self, Self::FinishPopup | Self::FinishTicket | Self::FinishSame)
    }
}

/// What is stored about the user before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    New,
    ByPopup,
    ByWidget,
}

/// A call with all that it sends.
pub(crate) struct Request {
    call: Call,
    pub(crate) user: String,
    ticket: String,
    body: Value,
}

impl Request {
    /// What the page, the phone or another backend would send; a popup or a widget has connected something for it.
    pub(crate) async fn new(laptop: &Laptop, call: Call, user: &str) -> Self {
        let connect = || laptop.human_api.with(|state| state.connect(user, "made-up-01"));
        let body = match call {
            Call::SessionConnect => json!({"flow": "connect", "refresh": true}),
            Call::SessionPopup => json!({"flow": "popup"}),
            Call::FinishPopup | Call::FinishTicket | Call::FinishSame => {
                connect();
                let same = format!("made-up-session-of-{user}");
                let token = (call == Call::FinishSame).then_some(same.as_str());
                let session = laptop.human_api.with(|state| state.add_session(user, token));
                json!({"humanId": human_id(user), "clientId": CLIENT_ID, "sessionToken": session})
            }
            Call::FinishWidget => {
                connect();
                json!({"status": "SUCCESS", "currentConnections": [{"id": "made-up-01", "name": "Made up"}]})
            }
            Call::PublicRefresh => json!({"refresh": true}),
            Call::AccessForce => json!({"clientUserId": user, "forceRefresh": true}),
            Call::Show | Call::Delete | Call::Sweep => json!({}),
        };
        let mut ticket = String::new();
        if call == Call::FinishTicket {
            let answer = laptop.gateway.as_user("POST /connect/session", user, &json!({"flow": "popup"})).await.json();
            ticket = answer["finishUrl"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        }
        Self { call, user: user.to_owned(), ticket, body }
    }

    /// Sends it, again if need be.
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
            Call::AccessForce => return gateway.as_backend(&self.body).await,
            Call::FinishTicket => return gateway.with_ticket(&self.ticket, &self.body).await,
        };
        gateway.as_user(route, &self.user, &self.body).await
    }
}

/// Makes one call.
pub(crate) async fn ask(laptop: &Laptop, call: Call, user: &str) -> Reply {
    Request::new(laptop, call, user).await.send(&laptop.gateway).await
}

/// Brings a user into a state.
pub(crate) async fn bring(laptop: &Laptop, known: Known, user: &str) {
    match known {
        Known::New => {}
        Known::ByPopup => assert_eq!(ask(laptop, Call::FinishPopup, user).await.status, 201),
        Known::ByWidget => {
            assert_eq!(ask(laptop, Call::SessionConnect, user).await.status, 200);
            assert_eq!(ask(laptop, Call::FinishWidget, user).await.status, 201);
        }
    }
}
