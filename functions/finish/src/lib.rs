//! `POST /connect/finish`: handles the widget's callback: exchanges, stores, responds.
//! `POST /connect/finish/{ticket}`: does the same for callers that cannot send a header.

#[cfg(test)]
mod tests;

pub mod report;

use lambda_http::{Request, RequestExt, http::StatusCode};
use serde_json::json;
use shared::http::{self, Code, Problem, Route, body::Fields, caller::Claims};
use shared::identity::{UserId, UserKey};
use shared::lambda::{Deps, Function};
use shared::store::{self, LeaseRequest, Row, StoreError};
use shared::token::{SessionToken, Ticket, TicketHash};
use shared::tokens::{Error, LeasedUser, Popup, TokenService};
use shared::{clock::rfc3339, invocation::Invocation, seal::Kind};

use report::Report;

const BY_USER: Route = Route { method: "POST", path: "/connect/finish" };
const BY_TICKET: Route = Route { method: "POST", path: "/connect/finish/{ticket}" };

/// The fields of the popup's session: each name, and its name in Human API's older mobile SDKs.
const POPUP_FIELDS: [[&str; 2]; 3] =
    [["humanId", "human_id"], ["clientId", "client_id"], ["sessionToken", "session_token"]];

pub struct Finish {
    tokens: TokenService,
    claims: Claims,
}

/// A user whom the authorizer vouches for, or the holder of a user's ticket.
struct Caller {
    key: UserKey,
    user: Option<UserId>,
    ticket: Option<TicketHash>,
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

    async fn handle(&self, route: Route, request: &Request, invocation: &Invocation) -> http::Result {
        let caller = if route == BY_TICKET {
            let ticket = request.path_parameters_ref().and_then(|parameters| parameters.first("ticket"));
            let ticket = ticket.and_then(Ticket::parse).ok_or_else(Problem::bad_ticket)?;
            Caller { key: *ticket.user(), user: None, ticket: Some(ticket.hash()) }
        } else {
            let user = self.claims.user(request)?.id;
            invocation.set_user(&user);
            Caller { key: user.key(), user: Some(user), ticket: None }
        };
        let fields = Fields::json_or_form(request)?;
        let (status, row) = if is_popup(&fields)? {
            self.finish_popup(&caller, &fields, invocation).await?
        } else if let Some(user) = &caller.user {
            let report = Report::read(&fields);
            let wanted = LeaseRequest::of(user, store::Request::Access);
            self.tokens
                .exclusive(wanted, |_| None, |leased| Box::pin(finish_widget(leased, &report)), invocation)
                .await?
        } else {
            let detail =
                "this route takes humanId, clientId and sessionToken; post a Connect response to /connect/finish";
            return Err(Problem::invalid_request(detail));
        };
        invocation.set_user(&row.user);
        self.respond(status, &row, &caller.key).await
    }
}

impl Finish {
    /// The popup's callback: signed, exchanged, stored. Returns the response's status, and the row for its body.
    async fn finish_popup(
        &self,
        caller: &Caller,
        fields: &Fields,
        invocation: &Invocation,
    ) -> http::Result<(StatusCode, Row)> {
        let [human_id, client_id, session] = POPUP_FIELDS.map(|[name, alias]| fields.text_of(name, alias));
        let (human_id, client_id, session) = (human_id?, client_id?, SessionToken::new(session?));
        if client_id != self.tokens.human_api.client_id() {
            return Err(Problem::new(Code::ClientMismatch, "clientId is not the client of this backend"));
        }
        let popup = Popup { human_id: &human_id, session: &session, ticket: caller.ticket.clone() };
        let wanted = LeaseRequest {
            key: caller.key,
            user: caller.user.as_ref(),
            seen: None,
            request: self.tokens.pending_exchange(&caller.key, &popup).await?,
            session: Some(&session.hash()),
            ticket: caller.ticket.as_ref(),
            shares_failure: false,
        };
        let finished = self.tokens.exclusive(
            wanted,
            |row| self.replayed(&popup, row),
            |leased| Box::pin(exchange(leased, &popup)),
            invocation,
        );
        match finished.await {
            Err(Error::Store(StoreError::Absent)) if caller.ticket.is_some() => Err(Problem::bad_ticket()),
            outcome => Ok(outcome?),
        }
    }

    /// The row's own answer, if it has one: this session was finished, or the ticket is not good.
    fn replayed(&self, popup: &Popup<'_>, row: &Row) -> Option<Result<StatusCode, Error>> {
        let now = self.tokens.store.now();
        let session = popup.session.hash();
        if let Some(ticket) = &popup.ticket {
            let Some(ticket) = row.tickets.get(ticket).filter(|ticket| ticket.good_until > now) else {
                return Some(Err(Error::BadTicket));
            };
            if let Some(spent_by) = &ticket.spent_by {
                return Some(if *spent_by == session { Ok(StatusCode::OK) } else { Err(Error::BadTicket) });
            }
        }
        (row.has_finished(&session, now) && !row.is_unresolved(now)).then_some(Ok(StatusCode::OK))
    }

    async fn respond(&self, status: StatusCode, row: &Row, key: &UserKey) -> http::Result {
        let record = &row.record;
        let public_token = match &record.public_token {
            Some(sealed) => Some(self.tokens.sealer.open(key, Kind::Public, sealed).await.map_err(Error::from)?),
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
        Ok(http::json(status, &body))
    }
}

/// Exchanges the popup's session, unless an earlier call or the resolving of its pending request has finished it. The ticket was good
/// when the lease was acquired, so its expiry does not count any more.
async fn exchange(leased: &mut LeasedUser<'_>, popup: &Popup<'_>) -> Result<StatusCode, Error> {
    let session = popup.session.hash();
    let row = leased.row();
    let spent_by = popup.ticket.as_ref().and_then(|ticket| row.tickets.get(ticket)?.spent_by.as_ref());
    if row.has_finished(&session, leased.now()) || spent_by == Some(&session) {
        return Ok(if leased.has_resolved(&session) { StatusCode::CREATED } else { StatusCode::OK });
    }
    if spent_by.is_some() {
        return Err(Error::BadTicket);
    }
    if row.record.lost_session.as_ref() == Some(&session) {
        return Err(Error::ReconnectRequired);
    }
    leased.exchange(popup).await?;
    Ok(StatusCode::CREATED)
}

/// Asks Human API for an access token under the user's lease. The widget's report is a hint for display only: Human API's
/// response decides.
async fn finish_widget(leased: &mut LeasedUser<'_>, report: &Report) -> Result<StatusCode, Error> {
    if report.session_token_failed && leased.record_mut().widget_token.take().is_some() {
        // at once, whatever `access` says
        leased.checkpoint(store::Request::Access).await?;
    }
    if !leased.access_token().await? {
        leased.end_if_revoked();
        return Ok(StatusCode::OK);
    }
    leased.set_finished_by_access();
    let record = leased.record_mut();
    record.set_sources(report.sources(&record.sources));
    Ok(StatusCode::CREATED)
}

/// `false`: a Connect response. If neither kind knows a field of the body, it may hold a one-time session under another name.
fn is_popup(fields: &Fields) -> http::Result<bool> {
    if fields.is_form || fields.has_any(POPUP_FIELDS.into_iter().flatten()) {
        Ok(true)
    } else if fields.is_empty() || fields.has_any(report::FIELDS) {
        Ok(false)
    } else {
        let detail = "the body has no field of a popup's session (humanId, clientId, sessionToken) \
                      nor of a Connect response (status, sessionResults, currentConnections)";
        Err(Problem::invalid_request(detail))
    }
}
