//! `POST /connect/session`: what the page needs to open the widget for this user.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use serde_json::json;
use shared::clock::{Millis, rfc3339};
use shared::config::Flow;
use shared::connect::{Connect, Error};
use shared::http::body::Fields;
use shared::http::caller::{Claims, User};
use shared::http::{self, Problem, Route};
use shared::identity::EmailAddress;
use shared::invocation::Invocation;
use shared::lambda::{Function, Parts};
use shared::record::{Asked, REFRESH_WINDOW, Record};
use shared::seal::Kind;
use shared::store::{Claim, Taken};

/// The function.
pub struct SessionStart {
    connect: Connect,
    claims: Claims,
    default_flow: Flow,
    public_base_url: Option<String>,
}

/// What the page asks for.
struct Wish {
    flow: Flow,
    email: Option<EmailAddress>,
    refresh: bool,
}

impl Function for SessionStart {
    const NAME: &'static str = "session-start";
    const ROUTES: &'static [Route] = &[Route { method: "POST", path: "/connect/session" }];

    fn new(parts: Parts<'_>) -> Self {
        Self {
            connect: parts.connect(),
            claims: Claims::new(parts.config),
            default_flow: parts.config.default_flow,
            public_base_url: parts.config.public_base_url.clone(),
        }
    }

    async fn prepare(&self) {
        self.connect.prepare().await;
    }

    async fn handle(
        &self,
        route: Route,
        request: &Request,
        invocation: &Invocation,
    ) -> Result<Response<Body>, Problem> {
        let user = self.claims.user(request)?;
        invocation.is_about(&user.id);
        let wish = self.wish(request, &user)?;
        let record = self.connect.store.read(&user.id.key(), invocation).await?;
        if wish.flow == Flow::Popup && !record.as_ref().is_some_and(Record::must_reconnect) {
            let base = self.public_base_url.clone().or_else(|| route.base_url(request));
            self.popup(base, &user, &wish, record, invocation).await
        } else {
            self.widget(&user, &wish, record, invocation).await
        }
    }
}

impl SessionStart {
    fn wish(&self, request: &Request, user: &User) -> Result<Wish, Problem> {
        let fields = Fields::json(request)?;
        let flow = match fields.optional_text("flow")? {
            None => self.default_flow,
            Some(name) => {
                Flow::parse(&name).ok_or_else(|| Problem::invalid_request("flow must be connect or popup"))?
            }
        };
        let email = match fields.optional_text("clientUserEmail")? {
            None => None,
            Some(text) => Some(EmailAddress::parse(&text).ok_or_else(|| {
                Problem::invalid_request("clientUserEmail must be an e-mail address of at most 254 bytes")
            })?),
        };
        Ok(Wish { flow, email: user.email.clone().or(email), refresh: fields.flag("refresh")? })
    }

    /// The Connect widget: a session or id token, the stored one while it lasts.
    async fn widget(
        &self,
        user: &User,
        wish: &Wish,
        seen: Option<Record>,
        invocation: &Invocation,
    ) -> Result<Response<Body>, Problem> {
        let serves = |row: &Record| {
            let now = self.connect.store.now();
            let just_refreshed = row.start_refreshed_at.is_some_and(|at| now - at < REFRESH_WINDOW);
            !row.unresolved(now) && row.serving_start(now).is_some() && (!wish.refresh || just_refreshed)
        };
        if let Some(row) = seen.as_ref().filter(|row| serves(row)) {
            return self.widget_answer(user, row).await;
        }
        // what is unresolved or under way may make the user known
        let known = seen.as_ref().is_some_and(|row| {
            row.connected_at.is_some() || row.reconnect.is_some() || row.inflight.is_some() || !row.doubts.is_empty()
        });
        if wish.email.is_none() && !known {
            return Err(Error::EmailRequired.into());
        }
        let claim = Claim {
            key: user.id.key(),
            user: Some(&user.id),
            seen: seen.as_ref(),
            request: Asked::Start,
            session: None,
            ticket: None,
        };
        let row = match self.connect.turn(claim, |row| serves(row).then(|| row.clone()), invocation).await? {
            Taken::Answered(row) => row,
            Taken::Held(mut turn) => {
                let story = async {
                    turn.settle(Asked::Start).await?;
                    if serves(turn.record()) {
                        return Ok(());
                    }
                    turn.start(wish.email.as_ref()).await?;
                    if wish.refresh {
                        turn.record_mut().start_refreshed_at = Some(turn.now());
                    }
                    Ok(())
                };
                let outcome = story.await;
                turn.close(outcome).await?.1
            }
        };
        self.widget_answer(user, &row).await
    }

    async fn widget_answer(&self, user: &User, row: &Record) -> Result<Response<Body>, Problem> {
        let start = row.start.as_ref().ok_or(Error::ReconnectRequired)?;
        let token = self.connect.open(&user.id, Kind::Start, &start.token).await?;
        let left: Millis = start.expires_at - self.connect.store.now();
        Ok(http::json(
            StatusCode::OK,
            &json!({
                "flow": "connect",
                "mode": start.kind.mode(),
                "token": token,
                "tokenType": start.kind.as_str(),
                "humanId": row.human_id,
                "expiresAt": rfc3339(start.expires_at),
                "expiresIn": left.max(0) / 1000,
            }),
        ))
    }

    /// The popup: create mode for a new user, edit mode with the publicToken for a known one.
    async fn popup(
        &self,
        base: Option<String>,
        user: &User,
        wish: &Wish,
        seen: Option<Record>,
        invocation: &Invocation,
    ) -> Result<Response<Body>, Problem> {
        let base = base.ok_or_else(|| Problem::invalid_request("the event names no domain for finishUrl"))?;
        let row = match seen {
            Some(row) if self.needs_recovery(&row) => Some(self.recover(user, row, invocation).await?),
            other => other,
        };
        // a humanId without a publicToken: Human API has none to give
        if row.as_ref().is_some_and(|row| row.must_reconnect() || row.lacks_public_token()) {
            return self.widget(user, wish, row, invocation).await;
        }
        let public_token = match row.as_ref().and_then(|row| row.public.as_ref()) {
            Some(sealed) => self.connect.open(&user.id, Kind::Public, sealed).await?,
            None => String::new(),
        };
        let ticket = self.connect.store.issue_ticket(&user.id, row, invocation).await?;
        Ok(http::json(
            StatusCode::OK,
            &json!({
                "flow": "popup",
                "mode": if public_token.is_empty() { "create" } else { "edit" },
                "clientId": self.connect.human_api.client_id(),
                "clientUserId": user.id.percent_encoded(),
                "publicToken": public_token,
                "finishUrl": format!("{base}/connect/finish/{}", ticket.expose()),
            }),
        ))
    }

    fn needs_recovery(&self, row: &Record) -> bool {
        row.unresolved(self.connect.store.now()) || row.lacks_public_token()
    }

    /// Resolves what is unresolved, and fetches the publicToken of a proven humanId.
    async fn recover(&self, user: &User, seen: Record, invocation: &Invocation) -> Result<Record, Problem> {
        let claim = Claim {
            key: user.id.key(),
            user: Some(&user.id),
            seen: Some(&seen),
            request: Asked::Public,
            session: None,
            ticket: None,
        };
        let answers = |row: &Record| (!self.needs_recovery(row) || row.must_reconnect()).then(|| row.clone());
        match self.connect.turn(claim, answers, invocation).await? {
            Taken::Answered(row) => Ok(row),
            Taken::Held(mut turn) => {
                let story = async {
                    turn.settle(Asked::Public).await?;
                    let row = turn.record();
                    if row.public.is_none() && !row.must_reconnect() {
                        turn.public_token().await?;
                    }
                    Ok(())
                };
                let outcome = story.await;
                Ok(turn.close(outcome).await?.1)
            }
        }
    }
}
