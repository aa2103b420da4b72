//! `POST /connect/public-token`: the stored publicToken, or a recovered one.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use serde_json::json;
use shared::connect::{Connect, Error};
use shared::http::body::Fields;
use shared::http::caller::Claims;
use shared::http::{self, Problem, Route};
use shared::identity::UserId;
use shared::invocation::Invocation;
use shared::lambda::{Function, Parts};
use shared::record::{Asked, REFRESH_WINDOW, Record};
use shared::seal::Kind;
use shared::store::{Claim, Taken};

/// The function.
pub struct PublicToken {
    connect: Connect,
    claims: Claims,
}

impl Function for PublicToken {
    const NAME: &'static str = "public-token";
    const ROUTES: &'static [Route] = &[Route { method: "POST", path: "/connect/public-token" }];

    fn new(parts: Parts<'_>) -> Self {
        Self { connect: parts.connect(), claims: Claims::new(parts.config) }
    }

    async fn prepare(&self) {
        self.connect.prepare().await;
    }

    async fn handle(&self, _: Route, request: &Request, invocation: &Invocation) -> Result<Response<Body>, Problem> {
        let user = self.claims.user(request)?.id;
        invocation.is_about(&user);
        let refresh = Fields::json(request)?.flag("refresh")?;
        let row = self.connect.store.read(&user.key(), invocation).await?.ok_or(Error::NotConnected)?;
        let (recovered, row) = match self.decide(&row, refresh).transpose()? {
            Some(()) => (false, row),
            None => self.recover(&user, row, refresh, invocation).await?,
        };
        let sealed = row.public.as_ref().ok_or(Error::ReconnectRequired)?;
        let public_token = self.connect.open(&user, Kind::Public, sealed).await?;
        Ok(http::json(
            StatusCode::OK,
            &json!({ "humanId": row.human_id, "publicToken": public_token, "recovered": recovered }),
        ))
    }
}

impl PublicToken {
    /// The row's own answer; `None` where Human API has to be asked.
    fn decide(&self, row: &Record, refresh: bool) -> Option<Result<(), Error>> {
        let now = self.connect.store.now();
        if row.unresolved(now) {
            return None;
        }
        let just_refreshed = row.public_refreshed_at.is_some_and(|at| now - at < REFRESH_WINDOW);
        match &row.public {
            Some(_) if !refresh || just_refreshed => Some(Ok(())),
            _ if row.reconnect.is_some() => Some(Err(Error::ReconnectRequired)),
            _ if row.human_id.is_some() => None,
            _ if row.connected_at.is_some() || row.revoked => Some(Err(Error::ReconnectRequired)),
            // tickets of a user who has never finished
            _ if !row.held(now) => Some(Err(Error::NotConnected)),
            _ => None,
        }
    }

    async fn recover(
        &self,
        user: &UserId,
        seen: Record,
        refresh: bool,
        invocation: &Invocation,
    ) -> Result<(bool, Record), Problem> {
        let claim = Claim {
            key: user.key(),
            user: None,
            seen: Some(&seen),
            request: Asked::Public,
            session: None,
            ticket: None,
        };
        // what another call is about to change is waited for
        let answers = |row: &Record| match self.decide(row, refresh) {
            Some(Ok(())) => Some(row.clone()),
            _ => None,
        };
        let mut turn = match self.connect.turn(claim, answers, invocation).await? {
            Taken::Answered(row) => return Ok((false, row)),
            Taken::Held(turn) => turn,
        };
        let story = async {
            turn.settle(Asked::Public).await?;
            if let Some(decision) = self.decide(&turn.record().as_given_back(), refresh) {
                return decision.map(|()| turn.record().public != seen.public);
            }
            if !turn.public_token().await? {
                return Err(Error::ReconnectRequired);
            }
            if refresh {
                turn.record_mut().public_refreshed_at = Some(turn.now());
            }
            Ok(true)
        };
        let outcome = story.await;
        Ok(turn.close(outcome).await?)
    }
}
