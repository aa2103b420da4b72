//! `GET /connect/connection`: whether the user is connected, since when, which sources. `DELETE`: forgets the user.

use std::sync::Arc;
use std::time::Duration;

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use serde_json::json;
use shared::clock::rfc3339;
use shared::http::caller::Claims;
use shared::http::{self, Problem, Route};
use shared::invocation::Invocation;
use shared::lambda::{Deps, Function};
use shared::network::Connections;
use shared::record::Record;
use shared::seal::Sealer;
use shared::store::Store;
use tokio::time::timeout;

const SHOW: Route = Route { method: "GET", path: "/connect/connection" };
const FORGET: Route = Route { method: "DELETE", path: "/connect/connection" };

/// How long the sealing key may take, where it is not cached.
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

    async fn handle(
        &self,
        route: Route,
        request: &Request,
        invocation: &Invocation,
    ) -> Result<Response<Body>, Problem> {
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
            let row = self.store.read(&key, invocation).await?;
            Ok(http::json(StatusCode::OK, &show(&row.map(|row| row.record).unwrap_or_default())))
        };
        // nothing is sealed or opened here: the key is for the log's hash of the user alone, and not waited for long
        let (answer, _) = tokio::join!(work, timeout(FOR_THE_LOG, self.sealer.current()));
        answer
    }
}

fn show(record: &Record) -> serde_json::Value {
    json!({
        "connected": record.connected_at.is_some(),
        "humanId": record.human_id,
        "flow": record.flow,
        "sources": record.sources,
        "connectedAt": record.connected_at.map(rfc3339),
        "updatedAt": record.updated_at.map(rfc3339),
    })
}
