//! `GET /connect/connection`: returns the user's connection: since when, which sources. `DELETE`: forgets the user.
//! `POST /internal/connection` and `POST /internal/forget`: the same for another backend, which names the user.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lambda_http::{Body, Request, Response, http::StatusCode};
use serde_json::{Value, json};
use shared::http::{self, Route, caller::Claims, caller::backend_request};
use shared::lambda::{Deps, Function};
use shared::record::Record;
use shared::{clock::rfc3339, invocation::Invocation, network::Connections, seal::Sealer, store::Store};
use tokio::time::timeout;

const SHOW: Route = Route { method: "GET", path: "/connect/connection" };
const FORGET: Route = Route { method: "DELETE", path: "/connect/connection" };
const SHOW_TO_BACKEND: Route = Route { method: "POST", path: "/internal/connection" };
const FORGET_FOR_BACKEND: Route = Route { method: "POST", path: "/internal/forget" };

/// Time limit of the sealing key, if it is not cached.
const FOR_THE_LOG: Duration = Duration::from_secs(1);

pub struct Connection {
    sealer: Arc<Sealer>,
    store: Store,
    claims: Claims,
    connections: Connections,
}

impl Function for Connection {
    const NAME: &'static str = "connection";
    const ROUTES: &'static [Route] = &[SHOW, FORGET, SHOW_TO_BACKEND, FORGET_FOR_BACKEND];

    fn new(deps: Deps<'_>) -> Self {
        Self {
            sealer: deps.sealer.clone(),
            store: deps.store(),
            claims: Claims::new(deps.config),
            connections: Connections::new(deps.config, deps.http, &[]),
        }
    }

    async fn prepare(&self) {
        self.connections.open().await;
    }

    async fn handle(&self, route: Route, request: &Request, invocation: &Invocation) -> http::Result {
        let is_backend = route == SHOW_TO_BACKEND || route == FORGET_FOR_BACKEND;
        let user = if is_backend { backend_request(request, invocation)?.0 } else { self.claims.user(request)?.id };
        invocation.set_user(&user);
        let key = user.key();
        let work = async {
            if route == FORGET || route == FORGET_FOR_BACKEND {
                self.store.delete(&key, invocation).await?;
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NO_CONTENT;
                return Ok(response);
            }
            let row = self.store.read(&key, invocation).await?;
            let unresolved = row.as_ref().is_some_and(|row| row.awaits_an_outcome());
            let record = row.map(|row| row.record).unwrap_or_default();
            let mut body = connection(&record);
            let states =
                [("revoked", record.revoked), ("reconnectRequired", record.reconnect), ("unresolved", unresolved)];
            if is_backend && let Some(fields) = body.as_object_mut() {
                fields.extend(states.map(|(name, state)| (name.to_owned(), json!(state))));
            }
            Ok(http::json(StatusCode::OK, &body))
        };
        // nothing is sealed or opened here: only the log's hash of the user needs the key, so the wait is short
        let (answer, _) = tokio::join!(work, timeout(FOR_THE_LOG, self.sealer.current()));
        answer
    }
}

fn connection(record: &Record) -> Value {
    json!({
        "connected": record.connected_at.is_some(),
        "humanId": record.human_id,
        "flow": record.flow,
        "sources": record.sources,
        "connectedAt": record.connected_at.map(rfc3339),
        "updatedAt": record.updated_at.map(rfc3339),
    })
}
