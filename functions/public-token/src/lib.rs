//! `POST /connect/public-token`: returns the stored publicToken or a recovered one.

#[cfg(test)]
mod tests;

use lambda_http::{Request, http::StatusCode};
use serde_json::json;
use shared::http::{self, Route, body::Fields, caller::Claims};
use shared::lambda::{Deps, Function};
use shared::store::{self, LeaseRequest, Row};
use shared::tokens::{Error, LeasedUser, TokenService};
use shared::{invocation::Invocation, record::REFRESH_WINDOW, seal::Kind};

pub struct PublicToken {
    tokens: TokenService,
    claims: Claims,
}

impl Function for PublicToken {
    const NAME: &'static str = "public-token";
    const ROUTES: &'static [Route] = &[Route { method: "POST", path: "/connect/public-token" }];

    fn new(deps: Deps<'_>) -> Self {
        Self { tokens: deps.tokens(), claims: Claims::new(deps.config) }
    }

    async fn prepare(&self) {
        self.tokens.prepare().await;
    }

    async fn handle(&self, _: Route, request: &Request, invocation: &Invocation) -> http::Result {
        let user = self.claims.user(request)?.id;
        invocation.set_user(&user);
        let refresh = Fields::json(request)?.flag("refresh")?;
        let row = self.tokens.store.read(&user.key(), invocation).await?.ok_or(Error::NotConnected)?;
        let (recovered, row) = match self.decide(&row, refresh).transpose()? {
            Some(()) => (false, row),
            None => self.recover(&row, refresh, invocation).await?,
        };
        let sealed = row.record.public_token.as_ref().ok_or(Error::ReconnectRequired)?;
        let public_token = self.tokens.open(&user, Kind::Public, sealed).await?;
        let body = json!({"humanId": row.record.human_id, "publicToken": public_token, "recovered": recovered});
        Ok(http::json(StatusCode::OK, &body))
    }
}

impl PublicToken {
    /// The row's own answer; `None` if Human API must be asked.
    fn decide(&self, row: &Row, refresh: bool) -> Option<Result<(), Error>> {
        let now = self.tokens.store.now();
        if row.is_unresolved(now) {
            return None;
        }
        let just_refreshed = row.record.public_token_refreshed_at.is_some_and(|at| now - at < REFRESH_WINDOW);
        match &row.record.public_token {
            Some(_) if !refresh || just_refreshed => Some(Ok(())),
            _ if row.record.reconnect => Some(Err(Error::ReconnectRequired)),
            _ if row.record.human_id.is_some() => None,
            _ if row.record.connected_at.is_some() || row.record.revoked => Some(Err(Error::ReconnectRequired)),
            // the row of a user who has never finished has only tickets
            _ if !row.is_leased(now) => Some(Err(Error::NotConnected)),
            _ => None,
        }
    }

    async fn recover(&self, seen: &Row, refresh: bool, invocation: &Invocation) -> Result<(bool, Row), Error> {
        let request = LeaseRequest::of_row(seen, store::Request::PublicToken);
        // an error of the row does not answer the call: another call may be about to change the row
        let answered = |row: &Row| matches!(self.decide(row, refresh), Some(Ok(()))).then_some(Ok(false));
        self.tokens
            .exclusive(request, answered, |user| Box::pin(self.request_public_token(user, seen, refresh)), invocation)
            .await
    }

    /// Returns `true` if the publicToken is another one than before.
    async fn request_public_token(
        &self,
        user: &mut LeasedUser<'_>,
        before: &Row,
        refresh: bool,
    ) -> Result<bool, Error> {
        if let Some(decision) = self.decide(&user.row().as_released(), refresh) {
            return decision.map(|()| user.record().public_token != before.record.public_token);
        }
        if !user.public_token().await? {
            return Err(Error::ReconnectRequired);
        }
        if refresh {
            user.record_mut().public_token_refreshed_at = Some(user.now());
        }
        Ok(true)
    }
}
