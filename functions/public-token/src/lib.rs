//! `POST /connect/public-token`: the stored publicToken, or a recovered one.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use serde_json::json;
use shared::http::body::Fields;
use shared::http::caller::Claims;
use shared::http::{self, Problem, Route};
use shared::identity::UserId;
use shared::invocation::Invocation;
use shared::lambda::{Deps, Function};
use shared::record::{self, REFRESH_WINDOW, Record};
use shared::seal::Kind;
use shared::store::LeaseRequest;
use shared::tokens::{Error, LeasedUser, TokenService};

/// The function.
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

    async fn handle(&self, _: Route, request: &Request, invocation: &Invocation) -> Result<Response<Body>, Problem> {
        let user = self.claims.user(request)?.id;
        invocation.set_user(&user);
        let refresh = Fields::json(request)?.flag("refresh")?;
        let row = self.tokens.store.read(&user.key(), invocation).await?.ok_or(Error::NotConnected)?;
        let (recovered, row) = match self.decide(&row, refresh).transpose()? {
            Some(()) => (false, row),
            None => self.recover(&user, row, refresh, invocation).await?,
        };
        let sealed = row.public_token.as_ref().ok_or(Error::ReconnectRequired)?;
        let public_token = self.tokens.open(&user, Kind::Public, sealed).await?;
        Ok(http::json(
            StatusCode::OK,
            &json!({ "humanId": row.human_id, "publicToken": public_token, "recovered": recovered }),
        ))
    }
}

impl PublicToken {
    /// The row's own answer; `None` where Human API has to be asked.
    fn decide(&self, row: &Record, refresh: bool) -> Option<Result<(), Error>> {
        let now = self.tokens.store.now();
        if row.is_unresolved(now) {
            return None;
        }
        let just_refreshed = row.public_token_refreshed_at.is_some_and(|at| now - at < REFRESH_WINDOW);
        match &row.public_token {
            Some(_) if !refresh || just_refreshed => Some(Ok(())),
            _ if row.reconnect.is_some() => Some(Err(Error::ReconnectRequired)),
            _ if row.human_id.is_some() => None,
            _ if row.connected_at.is_some() || row.revoked => Some(Err(Error::ReconnectRequired)),
            // tickets of a user who has never finished
            _ if !row.is_leased(now) => Some(Err(Error::NotConnected)),
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
        let request =
            LeaseRequest { user: None, seen: Some(&seen), ..LeaseRequest::of(user, record::Request::PublicToken) };
        // what another call is about to change is waited for
        let answered = |row: &Record| match self.decide(row, refresh) {
            Some(Ok(())) => Some(Ok(false)),
            _ => None,
        };
        let before = &seen;
        Ok(self
            .tokens
            .exclusive(request, answered, |user| Box::pin(self.ask_public_token(user, before, refresh)), invocation)
            .await?)
    }

    /// Asks under the user's lease. `true`: the publicToken is another one than before.
    async fn ask_public_token(&self, user: &mut LeasedUser<'_>, before: &Record, refresh: bool) -> Result<bool, Error> {
        if let Some(decision) = self.decide(&user.record().as_released(), refresh) {
            return decision.map(|()| user.record().public_token != before.public_token);
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
