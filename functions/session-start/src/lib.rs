//! `POST /connect/session`: returns the data that the page needs to open the widget for this user.

#[cfg(test)]
mod tests;

use lambda_http::{Request, http::StatusCode};
use serde_json::json;
use shared::clock::{Millis, rfc3339};
use shared::http::caller::{Claims, User};
use shared::http::{self, Problem, Route, body::Fields};
use shared::identity::{EmailAddress, UserId};
use shared::lambda::{Deps, Function};
use shared::record::{Flow, REFRESH_WINDOW};
use shared::store::{self, LeaseRequest, Row, StoreError};
use shared::token::Ticket;
use shared::tokens::{Error, LeasedUser, TokenService};
use shared::{invocation::Invocation, seal::Kind};

pub struct SessionStart {
    tokens: TokenService,
    claims: Claims,
    default_flow: Flow,
    public_base_url: Option<String>,
}

struct SessionRequest {
    user: UserId,
    flow: Flow,
    email: Option<EmailAddress>,
    refresh: bool,
}

impl Function for SessionStart {
    const NAME: &'static str = "session-start";
    const ROUTES: &'static [Route] = &[Route { method: "POST", path: "/connect/session" }];

    fn new(deps: Deps<'_>) -> Self {
        Self {
            tokens: deps.tokens(),
            claims: Claims::new(deps.config),
            default_flow: deps.config.default_flow,
            public_base_url: deps.config.public_base_url.clone(),
        }
    }

    async fn prepare(&self) {
        self.tokens.prepare().await;
    }

    async fn handle(&self, route: Route, request: &Request, invocation: &Invocation) -> http::Result {
        let user = self.claims.user(request)?;
        invocation.set_user(&user.id);
        let wanted = self.read(request, user)?;
        let row = self.tokens.store.read(&wanted.user.key(), invocation).await?;
        if wanted.flow == Flow::Connect || row.as_ref().is_some_and(|row| row.record.must_reconnect()) {
            return self.widget(&wanted, row, invocation).await;
        }
        let base = self.public_base_url.clone().or_else(|| route.base_url(request));
        let base = base.ok_or_else(|| Problem::invalid_request("the event names no domain for finishUrl"))?;
        self.popup(&base, &wanted, row, invocation).await
    }
}

impl SessionStart {
    fn read(&self, request: &Request, user: User) -> http::Result<SessionRequest> {
        let fields = Fields::json(request)?;
        let flow = fields.parsed("flow", "must be connect or popup", Flow::parse)?;
        let problem = "must be an e-mail address of at most 254 bytes";
        let email = fields.parsed("clientUserEmail", problem, EmailAddress::parse)?;
        Ok(SessionRequest {
            user: user.id,
            flow: flow.unwrap_or(self.default_flow),
            email: user.email.or(email),
            refresh: fields.flag("refresh")?,
        })
    }

    /// Answers with a session or id token for the Connect widget: the stored one while it lasts.
    async fn widget(&self, wanted: &SessionRequest, seen: Option<Row>, invocation: &Invocation) -> http::Result {
        if let Some(row) = seen.as_ref().filter(|row| self.serves(row, wanted)) {
            return self.widget_answer(&wanted.user, row).await;
        }
        // an unresolved request, or one under way, may make the user known
        let is_known =
            |row: &Row| row.record.connected_at.is_some() || row.record.reconnect || row.lease_until.is_some();
        if wanted.email.is_none() && !seen.as_ref().is_some_and(is_known) {
            return Err(Error::EmailRequired.into());
        }
        let request =
            LeaseRequest { seen: seen.as_ref(), ..LeaseRequest::of(&wanted.user, store::Request::WidgetToken) };
        let answered = |row: &Row| self.serves(row, wanted).then_some(Ok(()));
        let ((), row) = self
            .tokens
            .exclusive(request, answered, |user| Box::pin(self.request_widget_token(user, wanted)), invocation)
            .await?;
        self.widget_answer(&wanted.user, &row).await
    }

    fn serves(&self, row: &Row, wanted: &SessionRequest) -> bool {
        let now = self.tokens.store.now();
        let just_refreshed = row.record.widget_token_refreshed_at.is_some_and(|at| now - at < REFRESH_WINDOW);
        !row.is_unresolved(now) && row.record.serving_widget_token(now).is_some() && (!wanted.refresh || just_refreshed)
    }

    async fn request_widget_token(&self, user: &mut LeasedUser<'_>, wanted: &SessionRequest) -> Result<(), Error> {
        if self.serves(user.row(), wanted) {
            return Ok(());
        }
        user.widget_token(wanted.email.as_ref()).await?;
        if wanted.refresh {
            user.record_mut().widget_token_refreshed_at = Some(user.now());
        }
        Ok(())
    }

    async fn widget_answer(&self, user: &UserId, row: &Row) -> http::Result {
        let stored = row.record.widget_token.as_ref().ok_or(Error::ReconnectRequired)?;
        let token = self.tokens.open(user, Kind::Widget, &stored.token).await?;
        let left: Millis = stored.expires_at - self.tokens.store.now();
        let body = json!({
            "flow": "connect",
            "mode": stored.kind.mode(),
            "token": token,
            "tokenType": stored.kind,
            "humanId": row.record.human_id,
            "expiresAt": rfc3339(stored.expires_at),
            "expiresIn": left.max(0) / 1000,
        });
        Ok(http::json(StatusCode::OK, &body))
    }

    /// Answers with the popup's data: create mode for a new user, edit mode with the publicToken for a known one.
    async fn popup(
        &self,
        base: &str,
        wanted: &SessionRequest,
        seen: Option<Row>,
        invocation: &Invocation,
    ) -> http::Result {
        let row = match seen {
            Some(row) if self.needs_recovery(&row) => Some(self.recover(&wanted.user, &row, invocation).await?),
            other => other,
        };
        // a humanId without a publicToken: Human API has none to give
        if row.as_ref().is_some_and(|row| row.record.must_reconnect() || row.record.lacks_public_token()) {
            return self.widget(wanted, row, invocation).await;
        }
        let public_token = match row.as_ref().and_then(|row| row.record.public_token.as_ref()) {
            Some(sealed) => self.tokens.open(&wanted.user, Kind::Public, sealed).await?,
            None => String::new(),
        };
        let ticket = Ticket::generate(wanted.user.key()).map_err(StoreError::from)?;
        self.tokens.store.add_ticket(&wanted.user, &ticket, row, invocation).await?;
        let body = json!({
            "flow": "popup",
            "mode": if public_token.is_empty() { "create" } else { "edit" },
            "clientId": self.tokens.human_api.client_id(),
            "clientUserId": wanted.user.percent_encoded(),
            "publicToken": public_token,
            "finishUrl": format!("{base}/connect/finish/{}", ticket.expose()),
        });
        Ok(http::json(StatusCode::OK, &body))
    }

    fn needs_recovery(&self, row: &Row) -> bool {
        row.is_unresolved(self.tokens.store.now()) || row.record.lacks_public_token()
    }

    /// Resolves what is unresolved, and fetches the publicToken of a proven humanId.
    async fn recover(&self, user: &UserId, seen: &Row, invocation: &Invocation) -> http::Result<Row> {
        let request = LeaseRequest { seen: Some(seen), ..LeaseRequest::of(user, store::Request::PublicToken) };
        let answered = |row: &Row| (!self.needs_recovery(row) || row.record.must_reconnect()).then_some(Ok(()));
        Ok(self.tokens.exclusive(request, answered, |user| Box::pin(fetch_public_token(user)), invocation).await?.1)
    }
}

async fn fetch_public_token(user: &mut LeasedUser<'_>) -> Result<(), Error> {
    if user.record().public_token.is_none() && !user.record().must_reconnect() {
        user.public_token().await?;
    }
    Ok(())
}
