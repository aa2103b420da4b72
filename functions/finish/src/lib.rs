//! `POST /connect/finish`: the widget's callback, exchanged, stored, answered.
//! `POST /connect/finish/{ticket}`: the same for callers that cannot send a header.

pub mod report;

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, RequestExt, Response};
use serde_json::json;
use shared::clock::rfc3339;
use shared::config::Flow;
use shared::connect::{Connect, Error, Popup, Turn};
use shared::http::body::Fields;
use shared::http::caller::Claims;
use shared::http::{self, Problem, Route};
use shared::identity::{UserId, UserKey};
use shared::invocation::Invocation;
use shared::lambda::{Function, Parts};
use shared::record::{Asked, Record};
use shared::seal::Kind;
use shared::store::{Claim, StoreError, Taken};
use shared::token::{SessionToken, Ticket, TicketHash};

use report::Report;

const BY_USER: Route = Route { method: "POST", path: "/connect/finish" };
const BY_TICKET: Route = Route { method: "POST", path: "/connect/finish/{ticket}" };

/// The function.
pub struct Finish {
    connect: Connect,
    claims: Claims,
}

/// Who finishes: a user whom the authorizer vouches for, or the holder of a user's ticket.
enum Caller {
    User(UserId),
    Ticket(UserKey, TicketHash),
}

/// What the popup hands to the page.
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

/// What a finish came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    Stored,
    Replayed,
    NotConnected,
}

impl Function for Finish {
    const NAME: &'static str = "finish";
    const ROUTES: &'static [Route] = &[BY_USER, BY_TICKET];

    fn new(parts: Parts<'_>) -> Self {
        Self { connect: parts.connect(), claims: Claims::new(parts.config) }
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
        let caller = if route == BY_TICKET {
            let ticket = request.path_parameters_ref().and_then(|parameters| parameters.first("ticket"));
            let ticket = ticket.and_then(Ticket::parse).ok_or_else(Problem::bad_ticket)?;
            Caller::Ticket(*ticket.user(), ticket.hash())
        } else {
            let user = self.claims.user(request)?.id;
            invocation.is_about(&user);
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
        if let Some(user) = &row.user {
            invocation.is_about(&user.0);
        }
        self.answer_with(finished, &row, caller.key()).await
    }
}

impl Finish {
    /// The popup's callback: signed, exchanged, stored. Hold, exchange, commit: three calls.
    async fn finish_popup(
        &self,
        caller: &Caller,
        object: &SessionTokenObject,
        invocation: &Invocation,
    ) -> Result<(Finished, Record), Problem> {
        if object.client_id != self.connect.human_api.client_id() {
            return Err(Problem::client_mismatch());
        }
        let popup = Popup { human_id: &object.human_id, session: &object.session, ticket: caller.ticket().cloned() };
        let session = object.session.hash();
        let request = self.connect.popup_request(&caller.key(), &popup).await?;
        let claim = Claim {
            key: caller.key(),
            user: caller.user(),
            seen: None,
            request: request.clone(),
            session: Some(&session),
            ticket: caller.ticket(),
        };
        let replay = |row: &Record| self.replay(caller, &popup, row);
        let turn = match self.connect.turn(claim, replay, invocation).await {
            Ok(Taken::Answered(row)) => return Ok((Finished::Replayed, row?)),
            Ok(Taken::Held(turn)) => turn,
            Err(Error::Store(StoreError::Absent)) if caller.ticket().is_some() => return Err(Problem::bad_ticket()),
            Err(error) => return Err(error.into()),
        };
        exchange(turn, &popup, request).await
    }

    /// The row's own answer, where there is one: this session was finished, or the ticket is not good.
    fn replay(&self, caller: &Caller, popup: &Popup<'_>, row: &Record) -> Option<Result<Record, Error>> {
        let now = self.connect.store.now();
        let session = popup.session.hash();
        if let Some(ticket) = caller.ticket() {
            match row.tickets.get(ticket).filter(|ticket| ticket.until > now) {
                None => return Some(Err(Error::BadTicket)),
                Some(ticket) => match &ticket.spent_by {
                    Some(by) if *by == session => return Some(Ok(row.clone())),
                    Some(_) => return Some(Err(Error::BadTicket)),
                    None => {}
                },
            }
        }
        (row.has_finished(&session, now) && !row.unresolved(now)).then(|| Ok(row.clone()))
    }

    /// The Connect widget's `onClose`: what the browser reports is a hint; Human API's own answer decides.
    async fn finish_widget(
        &self,
        user: &UserId,
        report: &Report,
        invocation: &Invocation,
    ) -> Result<(Finished, Record), Problem> {
        let claim = Claim {
            key: user.key(),
            user: Some(user),
            seen: None,
            request: Asked::Access,
            session: None,
            ticket: None,
        };
        let mut turn = match self.connect.turn(claim, |_| None::<()>, invocation).await? {
            Taken::Held(turn) => turn,
            Taken::Answered(()) => return Err(Problem::fault()),
        };
        let story = async {
            turn.settle(Asked::Access).await?;
            if report.session_token_failed && turn.record_mut().start.take().is_some() {
                // at once: what `access` says is another matter
                turn.checkpoint(Asked::Access).await?;
            }
            let connected = turn.access().await?;
            if !connected {
                turn.gone();
            }
            let now = turn.now();
            let row = turn.record_mut();
            if connected {
                row.flow = Some(Flow::Connect);
                row.make_good(now);
                row.report(report.sources(&row.sources));
            }
            Ok(if connected { Finished::Stored } else { Finished::NotConnected })
        };
        let outcome = story.await;
        Ok(turn.close(outcome).await?)
    }

    async fn answer_with(&self, finished: Finished, row: &Record, key: UserKey) -> Result<Response<Body>, Problem> {
        let public_token = match &row.public {
            Some(sealed) => Some(self.connect.sealer.open(&key, Kind::Public, sealed).await.map_err(Error::from)?),
            None => None,
        };
        let body = json!({
            "connected": row.connected_at.is_some(),
            "humanId": row.human_id,
            "publicToken": public_token,
            "flow": row.flow.map(Flow::as_str),
            "sources": row.sources,
            "updatedAt": row.updated_at.map(rfc3339),
        });
        let status = if finished == Finished::Stored { StatusCode::CREATED } else { StatusCode::OK };
        Ok(http::json(status, &body))
    }
}

/// The turn of a popup's finish.
async fn exchange(mut turn: Turn<'_>, popup: &Popup<'_>, request: Asked) -> Result<(Finished, Record), Problem> {
    let session = popup.session.hash();
    let replayed = turn.record().has_finished(&session, turn.now());
    let story = async {
        turn.settle(request).await?;
        let row = turn.record();
        let spent_by = popup.ticket.as_ref().and_then(|ticket| row.tickets.get(ticket)?.spent_by.as_ref());
        if row.has_finished(&session, turn.now()) || spent_by == Some(&session) {
            return Ok(if replayed || spent_by.is_some() { Finished::Replayed } else { Finished::Stored });
        }
        if spent_by.is_some() {
            return Err(Error::BadTicket);
        }
        if row.reconnect.as_ref() == Some(&session) {
            return Err(Error::ReconnectRequired);
        }
        turn.exchange(popup).await.map(|()| Finished::Stored)
    };
    let outcome = story.await;
    Ok(turn.close(outcome).await?)
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
