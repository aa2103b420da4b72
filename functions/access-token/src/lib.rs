//! `POST /internal/access-token`: a valid access token of one user, for another backend of the same team.

#[cfg(test)]
mod tests;

use lambda_http::{Request, http::StatusCode};
use serde_json::json;
use shared::http::{self, Route, caller::backend_request};
use shared::lambda::{Deps, Function};
use shared::store::{self, LeaseRequest, Row};
use shared::tokens::{Error, LeasedUser, TokenService};
use shared::{clock::rfc3339, invocation::Invocation, record::REFRESH_WINDOW, seal::Kind};

pub struct AccessToken {
    tokens: TokenService,
}

impl Function for AccessToken {
    const NAME: &'static str = "access-token";
    const ROUTES: &'static [Route] = &[Route { method: "POST", path: "/internal/access-token" }];

    fn new(deps: Deps<'_>) -> Self {
        Self { tokens: deps.tokens() }
    }

    async fn prepare(&self) {
        self.tokens.prepare().await;
    }

    async fn handle(&self, _: Route, request: &Request, invocation: &Invocation) -> http::Result {
        let (user, fields) = backend_request(request, invocation)?;
        let force = fields.flag("forceRefresh")?;

        let row = self.tokens.store.read(&user.key(), invocation).await?.ok_or(Error::NotConnected)?;
        let row = match self.decide(&row, force).transpose()? {
            Some(()) => row,
            None => self.refresh(&row, force, invocation).await?,
        };
        let access = row.record.access_token.as_ref().ok_or(Error::ReconnectRequired)?;
        let token = self.tokens.open(&user, Kind::Access, &access.token).await?;
        let body = json!({
            "accessToken": token,
            "tokenType": "Bearer",
            "expiresAt": access.expires_at.map(rfc3339),
            "humanId": row.record.human_id,
        });
        Ok(http::json(StatusCode::OK, &body))
    }
}

impl AccessToken {
    /// The row's own answer; `None` if Human API must be asked.
    fn decide(&self, row: &Row, force: bool) -> Option<Result<(), Error>> {
        let now = self.tokens.store.now();
        if row.is_unresolved(now) {
            return None;
        }
        if let Some(access) = row.record.serving_access_token(now)
            && (!force || now - access.obtained_at < REFRESH_WINDOW)
        {
            return Some(Ok(()));
        }
        match &row.record {
            record if record.revoked => Some(Err(Error::Revoked)),
            record if record.connected_at.is_some() => None,
            record if record.reconnect => Some(Err(Error::ReconnectRequired)),
            // a first finish is under way: the call waits for its outcome
            _ if row.is_leased(now) => None,
            _ => Some(Err(Error::NotConnected)),
        }
    }

    /// Refreshes once for all callers: a caller is served the present token while it is valid, or waits for the new one.
    async fn refresh(&self, seen: &Row, force: bool, invocation: &Invocation) -> Result<Row, Error> {
        let request = LeaseRequest { shares_failure: true, ..LeaseRequest::of_row(seen, store::Request::Access) };
        let answered = |row: &Row| {
            let now = self.tokens.store.now();
            let valid =
                row.record.access_token.as_ref().is_some_and(|access| access.expires_at.is_none_or(|at| at > now));
            let served = matches!(self.decide(row, force), Some(Ok(()))) || (row.is_leased(now) && valid && !force);
            served.then_some(Ok(()))
        };
        let ((), row) = self
            .tokens
            .exclusive(request, answered, |user| Box::pin(self.request_access_token(user, force)), invocation)
            .await?;
        Ok(row)
    }

    async fn request_access_token(&self, user: &mut LeasedUser<'_>, force: bool) -> Result<(), Error> {
        if let Some(decision) = self.decide(&user.row().as_released(), force) {
            return decision;
        }
        if user.access_token().await? {
            Ok(())
        } else if user.end_if_revoked() {
            Err(Error::Revoked)
        } else if user.record().access_token.is_some() {
            // the popup's token stays: Human API's refusal of `access` says nothing about it
            Ok(())
        } else {
            Err(Error::ReconnectRequired)
        }
    }
}
