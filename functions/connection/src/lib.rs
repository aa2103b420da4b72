//! `GET /connect/connection`: returns the user's connection: since when, which sources. `DELETE`: forgets the user.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lambda_http::{Body, Request, Response, http::StatusCode};
use serde_json::json;
use shared::http::{self, Route, caller::Claims};
use shared::lambda::{Deps, Function};
use shared::{clock::rfc3339, invocation::Invocation, network::Connections, seal::Sealer, store::Store};
use tokio::time::timeout;

const SHOW: Route = Route { method: "GET", path: "/connect/connection" };
const FORGET: Route = Route { method: "DELETE", path: "/connect/connection" };

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
    const ROUTES: &'static [Route] = &[SHOW, FORGET];

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
        let user = self.claims.user(request)?.id;
        invocation.set_user(&user);
        let key = user.key();
        let work = async {
            if route == FORGET {
                self.store.delete(&key, invocation).await?;
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NO_CONTENT;
                return Ok(response);
            }
            let record = self.store.read(&key, invocation).await?.map(|row| row.record).unwrap_or_default();
            let body = json!({
                "connected": record.connected_at.is_some(),
                "humanId": record.human_id,
                "flow": record.flow,
                "sources": record.sources,
                "connectedAt": record.connected_at.map(rfc3339),
                "updatedAt": record.updated_at.map(rfc3339),
            });
            Ok(http::json(StatusCode::OK, &body))
        };
        // nothing is sealed or opened here: only the log's hash of the user needs the key, so the wait is short
        let (answer, _) = tokio::join!(work, timeout(FOR_THE_LOG, self.sealer.current()));
        answer
    }
}
