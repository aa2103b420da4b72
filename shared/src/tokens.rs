//! The protocol: Human API and the store joined. A response that was lost is found, and what it brought is fetched again.
//!
//! A call that asks Human API about a user runs under the user's lease. [`TokenService::exclusive`] acquires it and resolves what an
//! earlier call left pending. Then it lends the leased user to the call, and commits. See `docs/token-protocol.md`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::{error, warn};

use crate::clock::Millis;
use crate::human_api::{Cause, Failure, HumanApi};
use crate::identity::{UserId, UserKey};
use crate::invocation::Invocation;
use crate::network::Connections;
use crate::record::Record;
use crate::seal::{CurrentKey, Kind, SealError, Sealed, Sealer};
use crate::secret::{Secret, SecretError};
use crate::store::{Acquired, Exchange, Lease, LeaseRequest, Release, Request, Row, Store, StoreError};
use crate::telemetry::error_chain;
use crate::token::{ClientSecret, SessionHash, SessionToken, TicketHash};

mod exchange;
mod fetch;
mod import;
mod reseal;
mod resolve;
mod send;
#[cfg(test)]
mod tests;
mod widget_token;

pub use import::Imported;

/// Longest life of a token that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a call about a user failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    HumanApi(#[from] Failure),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lease could not be renewed before an attempt, so this attempt was not sent.
    #[error(transparent)]
    LeaseNotRenewed(StoreError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("a panic was caught")]
    Panicked,
    /// Human API's response names another user than the caller, or another humanId than was posted.
    #[error("Human API's answer is about another user")]
    UserMismatch,
    #[error("Human API refuses this session token")]
    SessionRejected,
    /// A token was lost for good; only the user can bring a new one.
    #[error("the user must reconnect")]
    ReconnectRequired,
    #[error("the user is not connected")]
    NotConnected,
    #[error("the connection is revoked")]
    Revoked,
    #[error("the ticket is unknown, expired or spent")]
    BadTicket,
    #[error("a new user needs an e-mail address")]
    EmailRequired,
}

/// Human API, the store and the seal, joined.
pub struct TokenService {
    pub human_api: HumanApi,
    pub client_secret: Secret<ClientSecret>,
    pub store: Store,
    pub sealer: Arc<Sealer>,
    pub connections: Connections,
}

/// A popup's sessionTokenObject without the clientId.
pub struct Popup<'a> {
    pub human_id: &'a str,
    pub session: &'a SessionToken,
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
                Err(error) => error!(error = error_chain(&error), "the client secret cannot be read"),
            }
        };
        tokio::join!(secrets, self.connections.open());
    }

    /// Runs `work` under the user's lease, and commits what it has changed in the record. Before that, it resolves what an earlier
    /// call left pending. If `answered` finds an answer in the row while another call has the lease, this is the answer.
    ///
    /// Both futures are boxed. `work` cannot say that its future is `Send`, which `lambda_http` requires. The future of this method is
    /// large, and many calls need no lease.
    pub fn exclusive<'a, T: Send + 'a>(
        &'a self,
        request: LeaseRequest<'a>,
        answered: impl FnMut(&Row) -> Option<Result<T, Error>> + Send + 'a,
        work: impl for<'b> FnOnce(&'b mut LeasedUser<'a>) -> BoxFuture<'b, Result<T, Error>> + Send + 'a,
        invocation: &'a Invocation,
    ) -> BoxFuture<'a, Result<(T, Row), Error>> {
        Box::pin(async move {
            // the sealing key first: without it, Human API's response could not be stored
            let key = self.sealer.current().await?;
            let next = request.request.clone();
            let failed_before = request.shares_failure.then(|| request.seen.and_then(|seen| seen.record.failed_at));
            let lease = match self.store.acquire(request, answered, invocation).await? {
                Acquired::Answered(answer, row) => return Ok((answer?, row)),
                Acquired::Lease(lease) => lease,
            };
            let mut leased = LeasedUser {
                service: self,
                invocation,
                user: lease.row.user.clone(),
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
        })
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

    pub async fn open(&self, user: &UserId, kind: Kind, sealed: &Sealed) -> Result<String, Error> {
        Ok(self.sealer.open(&user.key(), kind, sealed).await?)
    }

    /// Whether `sealed` contains `text`. What does not open does not.
    async fn contains(&self, user: &UserId, kind: Kind, sealed: &Sealed, text: &str) -> Result<bool, Error> {
        match self.open(user, kind, sealed).await {
            Ok(opened) => Ok(opened == text),
            Err(Error::Seal(error)) if error.is_permanent() => Ok(false),
            Err(error) => Err(error),
        }
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
    /// The pending request of an earlier call is older than a session lives.
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
    pub fn row(&self) -> &Row {
        &self.lease.row
    }

    pub fn record(&self) -> &Record {
        &self.lease.row.record
    }

    pub fn record_mut(&mut self) -> &mut Record {
        &mut self.lease.row.record
    }

    /// This call has resolved this session, which an earlier call left pending.
    pub fn has_resolved(&self, session: &SessionHash) -> bool {
        self.resolved.as_ref() == Some(session)
    }

    /// The time of the clock that rows are stamped with.
    pub fn now(&self) -> Millis {
        self.service.store.now()
    }

    /// Stores what this call has changed; the lease goes on, for `next`.
    pub async fn checkpoint(&mut self, next: Request) -> Result<(), Error> {
        self.write(Release::Continue(next)).await?;
        Ok(())
    }

    /// Ends the lease: what the work changed is committed. After an error, the row is left as Human API's response, or its lack,
    /// demands.
    async fn end<T>(mut self, outcome: Result<T, Error>) -> Result<(T, Row), Error> {
        match outcome {
            Ok(answer) => {
                let committed = self.write(Release::Done).await;
                committed.inspect_err(|error| {
                    if matches!(error, StoreError::Unavailable(_)) {
                        self.invocation.record(|measured| measured.unresolved += 1);
                    }
                })?;
                Ok((answer, self.lease.row))
            }
            Err(error) => Err(self.release_after(error).await),
        }
    }

    async fn release_after(mut self, error: Error) -> Error {
        let had_unresolved = self.lease.unresolved().is_some() || self.lease.has_takeovers();
        let release = match &error {
            // DynamoDB does not answer, or the lease is not this call's any more
            Error::Store(_) | Error::LeaseNotRenewed(StoreError::TakenOver | StoreError::Deleted) => return error,
            // Human API may perform the request yet: no call may ask again before the lease has expired
            Error::HumanApi(Failure { cause: Cause::Timeout, maybe_performed: true, .. }) => Release::Leased,
            Error::HumanApi(Failure { maybe_performed: true, .. }) | Error::Panicked => Release::Unresolved,
            _ if had_unresolved || self.response_at_risk => Release::Unresolved,
            _ => Release::Done,
        };
        if matches!(release, Release::Unresolved | Release::Leased) {
            self.invocation.record(|measured| measured.unresolved += 1);
        }
        match self.write(release).await {
            // what Human API said may be about what another call has done meanwhile
            Err(gone @ (StoreError::Deleted | StoreError::TakenOver)) => gone.into(),
            Err(other) => {
                warn!(error = error_chain(&other), "the lease could not be released; it expires");
                error
            }
            Ok(()) => error,
        }
    }

    /// Reseals what an older key has sealed, and writes the record.
    async fn write(&mut self, release: Release) -> Result<(), StoreError> {
        self.reseal().await;
        self.service.store.commit(&mut self.lease, release, self.invocation).await?;
        let Unsaved { stored, recovered } = std::mem::take(&mut self.unsaved);
        self.invocation.record(|measured| {
            measured.tokens_stored += stored;
            measured.tokens_recovered += recovered;
        });
        Ok(())
    }

    fn seal(&self, kind: Kind, text: &str) -> Result<Sealed, SealError> {
        self.key.seal(&self.user.key(), kind, text)
    }
}

fn millis(life: Duration) -> Millis {
    Millis::try_from(life.min(LONGEST_LIFE).as_millis()).unwrap_or_default()
}
