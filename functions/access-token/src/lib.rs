//! `POST /internal/access-token`: a valid access token of one user, for another backend of the same team.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use serde_json::json;
use shared::clock::rfc3339;
use shared::connect::{Connect, Error};
use shared::http::body::Fields;
use shared::http::caller::{aws_arn, require_aws_caller};
use shared::http::{self, Problem, Route};
use shared::human_api::{Cause, Failure};
use shared::identity::UserId;
use shared::invocation::Invocation;
use shared::lambda::{Function, Parts};
use shared::record::{Asked, REFRESH_WINDOW, Record};
use shared::seal::Kind;
use shared::store::{Claim, Taken};

/// The function.
pub struct AccessToken {
    connect: Connect,
}

impl Function for AccessToken {
    const NAME: &'static str = "access-token";
    const ROUTES: &'static [Route] = &[Route { method: "POST", path: "/internal/access-token" }];
    const AUDITED: bool = true;

    fn new(parts: Parts<'_>) -> Self {
        Self { connect: parts.connect() }
    }

    async fn prepare(&self) {
        self.connect.prepare().await;
    }

    async fn handle(&self, _: Route, request: &Request, invocation: &Invocation) -> Result<Response<Body>, Problem> {
        if let Some(arn) = aws_arn(request) {
            invocation.is_called_by(arn);
        }
        require_aws_caller(request)?;
        let fields = Fields::json(request)?;
        let user = UserId::new(fields.text("clientUserId")?)
            .ok_or_else(|| Problem::invalid_request("clientUserId is longer than 1024 bytes"))?;
        invocation.is_about(&user);
        let force = fields.flag("forceRefresh")?;

        let row = self.connect.store.read(&user.key(), invocation).await?.ok_or(Error::NotConnected)?;
        let row = match self.decide(&row, force).transpose()? {
            Some(()) => row,
            None => self.refresh(&user, &row, force, invocation).await?,
        };
        let access = row.access.as_ref().ok_or(Error::ReconnectRequired)?;
        let token = self.connect.open(&user, Kind::Access, &access.token).await?;
        Ok(http::json(
            StatusCode::OK,
            &json!({
                "accessToken": token,
                "tokenType": "Bearer",
                "expiresAt": access.expires_at.map(rfc3339),
                "humanId": row.human_id,
            }),
        ))
    }
}

impl AccessToken {
    /// The row's own answer; `None` where Human API has to be asked.
    fn decide(&self, row: &Record, force: bool) -> Option<Result<(), Error>> {
        let now = self.connect.store.now();
        if row.unresolved(now) {
            return None;
        }
        if let Some(access) = row.serving_access(now)
            && (!force || now - access.obtained_at < REFRESH_WINDOW)
        {
            return Some(Ok(()));
        }
        match row {
            Record { revoked: true, .. } => Some(Err(Error::Revoked)),
            Record { connected_at: Some(_), .. } => None,
            Record { reconnect: Some(_), .. } => Some(Err(Error::ReconnectRequired)),
            // a first finish is under way: its outcome is waited for
            row if row.held(now) => None,
            _ => Some(Err(Error::NotConnected)),
        }
    }

    /// One refresh at a time: others are served the token while it is valid, or wait for the new one.
    async fn refresh(
        &self,
        user: &UserId,
        seen: &Record,
        force: bool,
        invocation: &Invocation,
    ) -> Result<Record, Problem> {
        let claim = Claim {
            key: user.key(),
            user: None,
            seen: Some(seen),
            request: Asked::Access,
            session: None,
            ticket: None,
        };
        let answers = |row: &Record| {
            let now = self.connect.store.now();
            let valid = row.access.as_ref().is_some_and(|access| access.expires_at.is_none_or(|at| at > now));
            let served = matches!(self.decide(row, force), Some(Ok(()))) || (row.held(now) && valid && !force);
            served.then(|| row.clone())
        };
        let mut turn = match self.connect.turn(claim, answers, invocation).await? {
            Taken::Answered(row) => return Ok(row),
            Taken::Held(turn) => turn,
        };
        let just_failed = turn.record().failed_at.is_some_and(|at| seen.failed_at != Some(at));
        let story = async {
            if just_failed {
                // this call waited for one that failed: not everybody asks again at once
                let cause = Cause::Unavailable { retry_after: None };
                return Err(Failure { cause, performed: false }.into());
            }
            turn.settle(Asked::Access).await?;
            if let Some(decision) = self.decide(&turn.record().as_given_back(), force) {
                return decision;
            }
            if turn.access().await? {
                Ok(())
            } else if turn.gone() {
                Err(Error::Revoked)
            } else if turn.record().access.is_some() {
                // a popup's token: Human API's refusal of `access` says nothing about it
                Ok(())
            } else {
                Err(Error::ReconnectRequired)
            }
        };
        let outcome = story.await;
        if !just_failed && matches!(outcome, Err(Error::HumanApi(_))) {
            turn.record_mut().failed_at = Some(turn.now());
        }
        Ok(turn.close(outcome).await?.1)
    }
}
