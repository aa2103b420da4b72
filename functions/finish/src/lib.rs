//! `POST /connect/finish`: the widget's callback, exchanged, stored, answered.
//! `POST /connect/finish/{ticket}`: the same for callers that cannot send a header.

pub mod report;

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, RequestExt, Response};
use serde_json::json;
use shared::clock::rfc3339;
use shared::http::body::Fields;
use shared::http::caller::Claims;
use shared::http::{self, Problem, Route};
use shared::identity::{UserId, UserKey};
use shared::invocation::Invocation;
use shared::lambda::{Deps, Function};
use shared::record::Flow;
use shared::seal::Kind;
use shared::store::{self, LeaseRequest, Row, StoreError};
use shared::token::{SessionToken, Ticket, TicketHash};
use shared::tokens::{Error, LeasedUser, Popup, TokenService};

use report::Report;

const BY_USER: Route = Route { method: "POST", path: "/connect/finish" };
const BY_TICKET: Route = Route { method: "POST", path: "/connect/finish/{ticket}" };

pub struct Finish {
    tokens: TokenService,
    claims: Claims,
}

/// The caller: a user whom the authorizer vouches for, or the holder of a user's ticket.
enum Caller {
    User(UserId),
    Ticket(UserKey, TicketHash),
}

/// The object that the popup hands to the page.
struct SessionTokenObject {
    human_id: String,
    client_id: String,
    session: SessionToken,
}

/// The two kinds of bodies that a page posts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Popup,
    ConnectResponse,
}

/// The outcome of a finish.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    Stored,
    Replayed,
    NotConnected,
}

impl Function for Finish {
    const NAME: &'static str = "finish";
    const ROUTES: &'static [Route] = &[BY_USER, BY_TICKET];

    fn new(deps: Deps<'_>) -> Self {
        Self { tokens: deps.tokens(), claims: Claims::new(deps.config) }
    }

    async fn prepare(&self) {
        self.tokens.prepare().await;
    }

    async fn handle(
        &self,
        route: Route,
        request: &Request,
        invocation: &Invocation,
    ) -> Result<Response<Body>, Problem> {
        let caller = if route == BY_TICKET {
            let ticket = request.path_parameters_ref().and_then(|parameters| parameters.first("ticket"));
            let ticket = ticket.and_then(Ticket::parse).ok_or_else(Problem::bad_ticket)?;
            Caller::Ticket(*ticket.user(), ticket.hash())
        } else {
            let user = self.claims.user(request)?.id;
            invocation.set_user(&user);
            Caller::User(user)
        };
        let fields = Fields::json_or_form(request)?;
        let (finished, row) = match (BodyKind::of(&fields)?, &caller) {
            (BodyKind::Popup, _) => self.finish_popup(&caller, &SessionTokenObject::read(&fields)?, invocation).await?,
            (BodyKind::ConnectResponse, Caller::User(user)) => {
                self.finish_widget(user, &Report::read(&fields), invocation).await?
            }
            (BodyKind::ConnectResponse, Caller::Ticket(..)) => {
                let detail =
                    "this route takes humanId, clientId and sessionToken; post a Connect response to /connect/finish";
                return Err(Problem::invalid_request(detail));
            }
        };
        invocation.set_user(&row.user);
        self.answer_with(finished, &row, caller.key()).await
    }
}

impl Finish {
    /// The popup's callback: signed, exchanged, stored. Acquire, exchange, commit: three calls.
    async fn finish_popup(
        &self,
        caller: &Caller,
        object: &SessionTokenObject,
        invocation: &Invocation,
    ) -> Result<(Finished, Row), Problem> {
        if object.client_id != self.tokens.human_api.client_id() {
            return Err(Problem::client_mismatch());
        }
        let popup = Popup { human_id: &object.human_id, session: &object.session, ticket: caller.ticket().cloned() };
        let request = LeaseRequest {
            key: caller.key(),
            user: caller.user(),
            seen: None,
            request: self.tokens.pending_exchange(&caller.key(), &popup).await?,
            session: Some(&object.session.hash()),
            ticket: caller.ticket(),
            shares_failure: false,
        };
        let replayed = |row: &Row| self.replayed(caller, &popup, row);
        match self.tokens.exclusive(request, replayed, |user| Box::pin(exchange(user, &popup)), invocation).await {
            Err(Error::Store(StoreError::Absent)) if caller.ticket().is_some() => Err(Problem::bad_ticket()),
            outcome => Ok(outcome?),
        }
    }

    /// The row's own answer, if it has one: this session was finished, or the ticket is not good.
    fn replayed(&self, caller: &Caller, popup: &Popup<'_>, row: &Row) -> Option<Result<Finished, Error>> {
        let now = self.tokens.store.now();
        let session = popup.session.hash();
        if let Some(ticket) = caller.ticket() {
            match row.tickets.get(ticket).filter(|ticket| ticket.good_until > now) {
                None => return Some(Err(Error::BadTicket)),
                Some(ticket) => match &ticket.spent_by {
                    Some(by) if *by == session => return Some(Ok(Finished::Replayed)),
                    Some(_) => return Some(Err(Error::BadTicket)),
                    None => {}
                },
            }
        }
        (row.has_finished(&session, now) && !row.is_unresolved(now)).then_some(Ok(Finished::Replayed))
    }

    /// The Connect widget's `onClose`: the browser's report is a hint; Human API's own answer decides.
    async fn finish_widget(
        &self,
        user: &UserId,
        report: &Report,
        invocation: &Invocation,
    ) -> Result<(Finished, Row), Problem> {
        let request = LeaseRequest::of(user, store::Request::Access);
        let nothing = |_: &Row| None;
        Ok(self.tokens.exclusive(request, nothing, |user| Box::pin(ask_access(user, report)), invocation).await?)
    }

    async fn answer_with(&self, finished: Finished, row: &Row, key: UserKey) -> Result<Response<Body>, Problem> {
        let record = &row.record;
        let public_token = match &record.public_token {
            Some(sealed) => Some(self.tokens.sealer.open(&key, Kind::Public, sealed).await.map_err(Error::from)?),
            None => None,
        };
        let body = json!({
            "connected": record.connected_at.is_some(),
            "humanId": record.human_id,
            "publicToken": public_token,
            "flow": record.flow,
            "sources": record.sources,
            "updatedAt": record.updated_at.map(rfc3339),
        });
        let status = if finished == Finished::Stored { StatusCode::CREATED } else { StatusCode::OK };
        Ok(http::json(status, &body))
    }
}

/// Exchanges the popup's session under the user's lease.
async fn exchange(user: &mut LeasedUser<'_>, popup: &Popup<'_>) -> Result<Finished, Error> {
    let session = popup.session.hash();
    let row = user.row();
    let spent_by = popup.ticket.as_ref().and_then(|ticket| row.tickets.get(ticket)?.spent_by.as_ref());
    if row.has_finished(&session, user.now()) || spent_by == Some(&session) {
        return Ok(if user.has_resolved(&session) { Finished::Stored } else { Finished::Replayed });
    }
    if spent_by.is_some() {
        return Err(Error::BadTicket);
    }
    if row.record.lost_session.as_ref() == Some(&session) {
        return Err(Error::ReconnectRequired);
    }
    user.exchange(popup).await?;
    Ok(Finished::Stored)
}

/// Asks Human API for an access token under the user's lease, and stores what the widget reports if there is one.
async fn ask_access(user: &mut LeasedUser<'_>, report: &Report) -> Result<Finished, Error> {
    if report.session_token_failed && user.record_mut().widget_token.take().is_some() {
        // at once, whatever `access` says
        user.checkpoint(store::Request::Access).await?;
    }
    if !user.access_token().await? {
        user.end_if_revoked();
        return Ok(Finished::NotConnected);
    }
    user.clear_reconnect();
    let record = user.record_mut();
    record.flow = Some(Flow::Connect);
    record.set_sources(report.sources(&record.sources));
    Ok(Finished::Stored)
}

impl Caller {
    fn key(&self) -> UserKey {
        match self {
            Self::User(user) => user.key(),
            Self::Ticket(key, _) => *key,
        }
    }

    fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::Ticket(..) => None,
        }
    }

    fn ticket(&self) -> Option<&TicketHash> {
        match self {
            Self::User(_) => None,
            Self::Ticket(_, ticket) => Some(ticket),
        }
    }
}

impl BodyKind {
    /// A body that neither kind knows a field of is an error: it may hold a one-time session under another name.
    fn of(fields: &Fields) -> Result<Self, Problem> {
        if fields.is_form || fields.has_any(SessionTokenObject::NAMES.into_iter().flatten()) {
            Ok(Self::Popup)
        } else if fields.is_empty() || fields.has_any(report::FIELDS) {
            Ok(Self::ConnectResponse)
        } else {
            let detail = "the body has no field of a popup's session (humanId, clientId, sessionToken) \
                          nor of a Connect response (status, sessionResults, currentConnections)";
            Err(Problem::invalid_request(detail))
        }
    }
}

impl SessionTokenObject {
    /// Each field's name, and its name in Human API's older mobile SDKs.
    const NAMES: [[&'static str; 2]; 3] =
        [["humanId", "human_id"], ["clientId", "client_id"], ["sessionToken", "session_token"]];

    fn read(fields: &Fields) -> Result<Self, Problem> {
        let [human_id, client_id, session_token] = Self::NAMES.map(|[name, alias]| fields.text_of(name, alias));
        Ok(Self { human_id: human_id?, client_id: client_id?, session: SessionToken::new(session_token?) })
    }
}
