//! The protocol: Human API and the store joined, so that no token is lost, stale or mixed up.
//!
//! A call that asks Human API about a user runs under the user's lease: [`TokenService::exclusive`] acquires it, resolves what an
//! earlier call left pending, lends the leased user to the call, and commits. `docs/token-protocol.md` describes it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{error, warn};

use crate::clock::Millis;
use crate::config::Flow;
use crate::human_api::{
    AccessRequest, Cause, ExchangeRequest, ExchangeResponse, Failure, HumanApi, PublicTokenRequest,
};
use crate::identity::{UserId, UserKey};
use crate::invocation::Invocation;
use crate::network::Connections;
use crate::record::{Exchange, Record, Request, StoredAccessToken, WidgetTokenKind};
use crate::seal::{CurrentKey, Kind, SealError, Sealed, Sealer};
use crate::secret::{Secret, SecretError};
use crate::store::{Acquired, Lease, LeaseRequest, Release, Store, StoreError};
use crate::token::{ClientSecret, SessionHash, SessionToken, TicketHash};

mod reseal;
mod resolve;
mod send;
mod widget_token;

/// Longest life of a token that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a call about a user failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Human API gave no response to work with.
    #[error(transparent)]
    HumanApi(#[from] Failure),
    /// The client secret is not to be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The table did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lease could not be renewed before an attempt, so nothing was sent.
    #[error(transparent)]
    LeaseNotRenewed(StoreError),
    /// A token could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The work under the lease panicked.
    #[error("a panic was caught")]
    Panicked,
    /// Human API's response names another user than the caller, or another humanId than was posted.
    #[error("Human API's answer is about another user")]
    UserMismatch,
    /// Human API refuses this session token.
    #[error("Human API refuses this session token")]
    SessionRejected,
    /// A token was lost for good; only the user can bring a new one.
    #[error("the user must reconnect")]
    ReconnectRequired,
    /// The user has no connection here.
    #[error("the user is not connected")]
    NotConnected,
    /// Human API said that the connection is gone.
    #[error("the connection is revoked")]
    Revoked,
    /// The ticket is unknown, expired or spent on another session.
    #[error("the ticket is unknown, expired or spent")]
    BadTicket,
    /// A new user's session needs an e-mail address.
    #[error("a new user needs an e-mail address")]
    EmailRequired,
}

/// Human API, the store and the seal, joined.
pub struct TokenService {
    /// Human API.
    pub human_api: HumanApi,
    /// Our client secret at Human API.
    pub client_secret: Secret<ClientSecret>,
    /// The table.
    pub store: Store,
    /// The seal of tokens in the table.
    pub sealer: Arc<Sealer>,
    /// The connections that start-up opens.
    pub connections: Connections,
}

/// A popup's sessionTokenObject without the clientId.
pub struct Popup<'a> {
    /// The humanId that the request names.
    pub human_id: &'a str,
    /// The session token.
    pub session: &'a SessionToken,
    /// The ticket it came with.
    pub ticket: Option<TicketHash>,
}

impl TokenService {
    /// Reads the secrets and opens connections at the same time, so that the first request need not.
    pub async fn prepare(&self) {
        let secrets = async {
            // one after the other, over one connection: a handshake costs more than a second response does
            let _ = self.sealer.current().await;
            match self.client_secret.current_or_previous().await {
                // the read itself has logged it
                Ok(_) | Err(SecretError::Malformed { .. }) => {}
                Err(error) => error!(error = %error, "the client secret cannot be read"),
            }
        };
        tokio::join!(secrets, self.connections.open());
    }

    /// Runs `work` under the user's lease, and commits what it has changed in the record. Before that, it resolves what an earlier
    /// call left pending. If `answered` finds an answer in the row while another call has the lease, this is the answer.
    ///
    /// The future is boxed because an async closure cannot say that its future is `Send`, and `lambda_http` wants it to be.
    pub async fn exclusive<'a, T>(
        &'a self,
        request: LeaseRequest<'_>,
        answered: impl FnMut(&Record) -> Option<Result<T, Error>>,
        work: impl for<'b> FnOnce(&'b mut LeasedUser<'a>) -> BoxFuture<'b, Result<T, Error>>,
        invocation: &'a Invocation,
    ) -> Result<(T, Record), Error> {
        // the sealing key first: without it, Human API's response could not be stored
        let key = self.sealer.current().await?;
        let (user, next) = (request.user.cloned(), request.request.clone());
        let failed_before = request.shares_failure.then(|| request.seen.and_then(|seen| seen.failed_at));
        let lease = match self.store.acquire(request, answered, invocation).await? {
            Acquired::Answered(answer, row) => return Ok((answer?, row)),
            Acquired::Lease(lease) => lease,
        };
        let row_user = lease.record.user.as_ref().map(|user| user.0.clone());
        let user = user.or(row_user).ok_or(Error::NotConnected)?;
        let mut leased = LeasedUser {
            service: self,
            invocation,
            user,
            key,
            lease,
            response_at_risk: false,
            overdue: false,
            resolved: None,
            unsaved: Unsaved::default(),
        };
        if failed_before.is_some_and(|before| leased.record().failed_at.is_some_and(|at| before != Some(at))) {
            let cause = Cause::Unavailable { retry_after: None };
            return leased.end(Err(cause.not_performed().into())).await;
        }
        let outcome = AssertUnwindSafe(async {
            leased.resolve_pending(next).await?;
            work(&mut leased).await
        });
        let outcome = outcome.catch_unwind().await.unwrap_or(Err(Error::Panicked));
        if failed_before.is_some() && matches!(outcome, Err(Error::HumanApi(_))) {
            leased.record_mut().failed_at = Some(leased.now());
        }
        leased.end(outcome).await
    }

    /// The pending request of a popup's exchange.
    pub async fn pending_exchange(&self, user: &UserKey, popup: &Popup<'_>) -> Result<Request, Error> {
        let key = self.sealer.current().await?;
        Ok(Request::Exchange(Box::new(Exchange {
            human_id: popup.human_id.to_owned(),
            session: key.seal(user, Kind::Session, popup.session.expose())?,
            hash: popup.session.hash(),
            ticket: popup.ticket.clone(),
        })))
    }

    /// Opens a sealed value of this user.
    pub async fn open(&self, user: &UserId, kind: Kind, sealed: &Sealed) -> Result<String, Error> {
        Ok(self.sealer.open(&user.key(), kind, sealed).await?)
    }
}

/// A user under this call's lease. Changes of the record are stored when the work ends.
pub struct LeasedUser<'a> {
    service: &'a TokenService,
    invocation: &'a Invocation,
    user: UserId,
    key: CurrentKey,
    lease: Lease,
    /// Human API may have given something that is not in the record yet.
    response_at_risk: bool,
    /// What an earlier call left pending has been so for too long.
    overdue: bool,
    /// The session of an earlier call that this call has exchanged or recovered.
    resolved: Option<SessionHash>,
    unsaved: Unsaved,
}

/// Tokens in the record that no write has stored yet, for the metrics.
#[derive(Default)]
struct Unsaved {
    stored: u32,
    recovered: u32,
}

impl LeasedUser<'_> {
    /// The record, with what this call has changed.
    pub fn record(&self) -> &Record {
        &self.lease.record
    }

    /// The record, to be changed.
    pub fn record_mut(&mut self) -> &mut Record {
        &mut self.lease.record
    }

    /// Whether this call has resolved this session, which an earlier call left pending.
    pub fn has_resolved(&self, session: &SessionHash) -> bool {
        self.resolved.as_ref() == Some(session)
    }

    /// The time of the clock that rows are stamped with.
    pub fn now(&self) -> Millis {
        self.service.store.now()
    }

    /// Exchanges what the popup handed to the page. `Ok`: tokens are in the record. They come from the exchange or, if its response
    /// was lost and the session is spent, from what Human API gives for a proven humanId.
    pub async fn exchange(&mut self, popup: &Popup<'_>) -> Result<(), Error> {
        let hash = popup.session.hash();
        match self.send(&ExchangeRequest { human_id: popup.human_id, session: popup.session }).await {
            Ok(response) => {
                self.verify(&response, popup.human_id)?;
                self.set_exchanged_tokens(response, hash, popup.ticket.clone())
            }
            Err(Error::HumanApi(Failure { cause: Cause::Refused(status), maybe_performed, .. }))
                if status.as_u16() != 403 =>
            {
                if !maybe_performed {
                    return Err(Error::SessionRejected);
                }
                // an earlier attempt may have been performed: the session counts as spent
                self.response_at_risk = true;
                self.fetch_without_session(Some((&hash, popup.ticket.as_ref()))).await?;
                let is_finished = self.record().has_finished(&hash, self.now());
                if is_finished { Ok(()) } else { Err(Error::ReconnectRequired) }
            }
            Err(Error::HumanApi(failure)) => Err(unauthorized_if_forbidden(failure).into()),
            Err(error) => Err(error),
        }
    }

    /// Asks for an access token. `false`: Human API says that there is no connection.
    pub async fn access_token(&mut self) -> Result<bool, Error> {
        let requested_at = self.now();
        let user = &self.user.clone();
        let response = match self.send(&AccessRequest { user }).await {
            Ok(response) => response,
            Err(Error::HumanApi(Failure { cause: Cause::Refused(status), maybe_performed: false, .. }))
                if matches!(status.as_u16(), 403 | 404 | 410) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.response_at_risk = true;
        let token = self.seal(Kind::Access, response.access.expose())?;
        let refresh = response.refresh.map(|refresh| self.seal(Kind::AccessRefresh, refresh.expose())).transpose()?;
        let expires_at = response.expires_in.map(|life| requested_at + millis(life));
        self.set_access_token(StoredAccessToken {
            token,
            refresh,
            expires_at,
            obtained_at: self.now(),
            from: Flow::Connect,
        });
        Ok(true)
    }

    /// Asks for a publicToken with the proven humanId. `false`: there is no proven humanId, or Human API does not know it; the user
    /// must reconnect.
    pub async fn public_token(&mut self) -> Result<bool, Error> {
        let Some(human_id) = self.proven_human_id().await? else {
            return Ok(false);
        };
        match self.send(&PublicTokenRequest { human_id: &human_id }).await {
            Ok(response) => {
                let now = self.now();
                self.record_mut().public_token = Some(self.seal(Kind::Public, response.public.expose())?);
                self.record_mut().updated_at = Some(now);
                self.unsaved.recovered += 1;
                Ok(true)
            }
            Err(Error::HumanApi(Failure { cause: Cause::Refused(status), maybe_performed: false, .. }))
                if status.as_u16() == 404 =>
            {
                let record = self.record_mut();
                if record.public_token.take().is_some() || record.connected_at.is_some() {
                    record.reconnect.get_or_insert_with(SessionHash::none);
                }
                Ok(false)
            }
            Err(Error::HumanApi(failure)) => Err(unauthorized_if_forbidden(failure).into()),
            Err(error) => Err(error),
        }
    }

    /// Stores what this call has changed; the lease goes on, for `next`.
    pub async fn checkpoint(&mut self, next: Request) -> Result<(), Error> {
        self.write(Release::Continue(next)).await?;
        Ok(())
    }

    /// Ends the lease: what the work changed is committed. After an error, the row is left as Human API's response, or its lack,
    /// demands.
    async fn end<T>(mut self, outcome: Result<T, Error>) -> Result<(T, Record), Error> {
        match outcome {
            Ok(answer) => {
                let committed = self.write(Release::Done).await;
                committed.inspect_err(|error| {
                    if matches!(error, StoreError::Unavailable(_)) {
                        self.invocation.record(|measured| measured.unresolved += 1);
                    }
                })?;
                Ok((answer, self.lease.record))
            }
            Err(error) => Err(self.release_after(error).await),
        }
    }

    async fn release_after(mut self, error: Error) -> Error {
        let had_unresolved = self.lease.unresolved.is_some() || self.lease.has_takeovers();
        let release = match &error {
            // DynamoDB does not answer, or the lease is not ours any more: the lease expires
            Error::Store(_) => return error,
            // the lease was lost before anything was sent
            Error::LeaseNotRenewed(lost) if !self.response_at_risk && !matches!(lost, StoreError::Unavailable(_)) => {
                return error;
            }
            // Human API may perform the request yet: no call may ask again before the lease has expired
            Error::HumanApi(Failure { cause: Cause::Timeout, maybe_performed: true, .. }) => {
                self.invocation.record(|measured| measured.unresolved += 1);
                return error;
            }
            Error::HumanApi(Failure { maybe_performed: true, .. }) | Error::Panicked => Release::Unresolved,
            _ if had_unresolved || self.response_at_risk => Release::Unresolved,
            _ => Release::Done,
        };
        if matches!(release, Release::Unresolved) {
            self.invocation.record(|measured| measured.unresolved += 1);
        }
        match self.write(release).await {
            // what Human API said may be about what another call has done meanwhile
            Err(gone @ (StoreError::Deleted | StoreError::TakenOver)) => gone.into(),
            Err(other) => {
                warn!(error = %other, "the lease could not be released; it expires");
                error
            }
            Ok(()) => error,
        }
    }

    /// Reseals what an older key has sealed, and writes the record.
    async fn write(&mut self, release: Release) -> Result<(), StoreError> {
        self.reseal().await;
        self.service.store.commit(&mut self.lease, release, self.key.version(), self.invocation).await?;
        let Unsaved { stored, recovered } = std::mem::take(&mut self.unsaved);
        self.invocation.record(|measured| {
            measured.tokens_stored += stored;
            measured.tokens_recovered += recovered;
        });
        Ok(())
    }

    /// The humanId that Human API tied to this user. Whoever can write to the table can put another one there, but cannot seal it.
    async fn proven_human_id(&self) -> Result<Option<String>, Error> {
        let Record { human_id: Some(human_id), sealed_human_id: Some(sealed), .. } = self.record() else {
            return Ok(None);
        };
        match self.service.open(&self.user, Kind::HumanId, sealed).await {
            Ok(proven) if proven == *human_id => Ok(Some(proven)),
            Err(error) if !matches!(&error, Error::Seal(error) if error.is_permanent()) => Err(error),
            Ok(_) | Err(_) => {
                warn!("the sealed humanId does not open: the humanId counts as unproven");
                Ok(None)
            }
        }
    }

    fn verify(&self, response: &ExchangeResponse, human_id: &str) -> Result<(), Error> {
        let same = self.user.is_named_by(&response.client_user_id) && response.human_id == human_id;
        if same { Ok(()) } else { Err(Error::UserMismatch) }
    }

    fn set_exchanged_tokens(
        &mut self,
        response: ExchangeResponse,
        session: SessionHash,
        ticket: Option<TicketHash>,
    ) -> Result<(), Error> {
        let now = self.now();
        self.response_at_risk = true;
        let token = self.seal(Kind::Access, response.access.expose())?;
        let public_token = self.seal(Kind::Public, response.public.expose())?;
        let sealed_human_id = self.seal(Kind::HumanId, &response.human_id)?;
        let record = self.record_mut();
        record.set_human_id(response.human_id, sealed_human_id);
        record.public_token = Some(public_token);
        record.flow = Some(Flow::Popup);
        let access = StoredAccessToken { token, refresh: None, expires_at: None, obtained_at: now, from: Flow::Popup };
        self.set_access_token(access);
        self.set_finished(session, ticket, now);
        Ok(())
    }

    fn set_access_token(&mut self, token: StoredAccessToken) {
        let now = token.obtained_at;
        self.record_mut().access_token = Some(token);
        self.response_at_risk = false;
        self.set_connected(now);
        self.unsaved.stored += 1;
    }

    /// Human API has given tokens for this user.
    fn set_connected(&mut self, now: Millis) {
        let record = self.record_mut();
        record.connected_at.get_or_insert(now);
        record.updated_at = Some(now);
        record.revoked = false;
        record.failed_at = None;
        // a session token is for users without a source; the next session asks for an ID token
        if record.widget_token.as_ref().is_some_and(|token| token.kind == WidgetTokenKind::Session) {
            record.widget_token = None;
        }
    }

    fn set_finished(&mut self, session: SessionHash, ticket: Option<TicketHash>, now: Millis) {
        self.lease.spends = ticket.map(|ticket| (ticket, session.clone()));
        self.record_mut().clear_reconnect(now);
        self.record_mut().remember_finished(session, now);
    }

    fn seal(&self, kind: Kind, text: &str) -> Result<Sealed, SealError> {
        self.key.seal(&self.user.key(), kind, text)
    }
}

/// The popup's endpoints document no 403, so a 403 is about our credentials.
fn unauthorized_if_forbidden(failure: Failure) -> Failure {
    match failure.cause {
        Cause::Refused(status) if status.as_u16() == 403 => Failure { cause: Cause::Unauthorized, ..failure },
        _ => failure,
    }
}

fn millis(life: Duration) -> Millis {
    Millis::try_from(life.min(LONGEST_LIFE).as_millis()).unwrap_or_default()
}
