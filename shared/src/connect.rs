//! The exchange: Human API and the store joined so that no token is lost, stale or crossed.
//!
//! A call that asks Human API about a user takes a [`Turn`]: it holds the user's row, first resolves what an earlier
//! call left unresolved, asks, and commits. `docs/token-protocol.md` has the whole of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::warn;

use crate::clock::Millis;
use crate::config::Flow;
use crate::human_api::{Cause, Exchanged, Failure, Granted, HumanApi, Permit};
use crate::identity::UserId;
use crate::invocation::{Invocation, lock};
use crate::network::Connections;
use crate::record::{Access, Asked, Exchange, Record, StartKind};
use crate::seal::{CurrentKey, Kind, SealError, Sealed, Sealer};
use crate::secret::SecretError;
use crate::store::{Claim, Ending, Hold, Store, StoreError, Taken};
use crate::token::{SessionHash, SessionToken, TicketHash};

mod reseal;
mod settle;
mod start;

/// Longest life of a token that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a call about a user failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Human API brought no answer to work with.
    #[error(transparent)]
    HumanApi(#[from] Failure),
    /// The table did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Human API's answer names another user than the caller, or another humanId than was posted.
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

/// What the functions that ask Human API work with.
pub struct Connect {
    /// Human API.
    pub human_api: HumanApi,
    /// The table.
    pub store: Store,
    /// The seal of tokens in the table.
    pub sealer: Arc<Sealer>,
    /// What start-up opens.
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

impl Connect {
    /// Reads the client secret and opens connections at the same time, so that the first request need not.
    pub async fn prepare(&self) {
        let secret = async {
            // one after the other: over one connection, for a handshake costs more than a second answer does
            let _ = self.sealer.current().await;
            match self.human_api.read_secret().await {
                // the read itself has logged it
                Ok(()) | Err(SecretError::Malformed { .. }) => {}
                Err(error) => tracing::error!(error = %error, "the client secret cannot be read"),
            }
        };
        tokio::join!(secret, self.connections.open());
    }

    /// Takes the user's turn to ask Human API, or is answered by the row as it stands.
    pub async fn turn<'a, T>(
        &'a self,
        claim: Claim<'_>,
        answers: impl FnMut(&Record) -> Option<T>,
        invocation: &'a Invocation,
    ) -> Result<Taken<T, Turn<'a>>, Error> {
        // first the key: what Human API answers must not be lost for want of it
        let key = self.sealer.current().await?;
        let user = claim.user.cloned();
        match self.store.hold(claim, answers, invocation).await? {
            Taken::Answered(answer) => Ok(Taken::Answered(answer)),
            Taken::Held(hold) => {
                let row_user = hold.record.user.as_ref().map(|user| user.0.clone());
                let user = user.or(row_user).ok_or(Error::NotConnected)?;
                Ok(Taken::Held(Turn {
                    connect: self,
                    invocation,
                    user,
                    key,
                    hold,
                    answer_at_risk: false,
                    overdue: false,
                    lost: Mutex::default(),
                }))
            }
        }
    }

    /// What a claim says of a popup's exchange.
    pub async fn popup_request(&self, user: &crate::identity::UserKey, popup: &Popup<'_>) -> Result<Asked, Error> {
        let key = self.sealer.current().await?;
        Ok(Asked::Exchange(Box::new(Exchange {
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

/// One call's turn with a user.
pub struct Turn<'a> {
    connect: &'a Connect,
    invocation: &'a Invocation,
    user: UserId,
    key: CurrentKey,
    hold: Hold,
    /// Human API may have given something that is not in `hold.record` yet.
    answer_at_risk: bool,
    /// What an earlier call left unresolved has been so for too long.
    overdue: bool,
    /// Why the hold could not be renewed.
    lost: Mutex<Option<StoreError>>,
}

impl Permit for Turn<'_> {
    async fn may_send(&self, invocation: &Invocation) -> bool {
        match self.connect.store.renew(&self.hold, invocation).await {
            Ok(()) => true,
            Err(error) => {
                *lock(&self.lost) = Some(error);
                false
            }
        }
    }
}

impl Turn<'_> {
    /// The row as it is, with what this turn has changed.
    pub fn record(&self) -> &Record {
        &self.hold.record
    }

    /// The row, to be changed.
    pub fn record_mut(&mut self) -> &mut Record {
        &mut self.hold.record
    }

    /// Whose turn it is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Now.
    pub fn now(&self) -> Millis {
        self.connect.store.now()
    }

    /// Exchanges what the popup handed to the page. `Ok` where tokens were stored, by the exchange or, where its answer
    /// was lost and the session is spent, by what Human API gives for a proven humanId.
    pub async fn exchange(&mut self, popup: &Popup<'_>) -> Result<(), Error> {
        let hash = popup.session.hash();
        match self.connect.human_api.tokens(popup.human_id, popup.session, self, self.invocation).await {
            Ok(exchanged) => {
                self.verify(&exchanged, popup.human_id)?;
                self.keep_exchanged(exchanged, hash, popup.ticket.clone())
            }
            Err(Failure { cause: Cause::Refused(status), performed: false }) if status.as_u16() != 403 => {
                Err(Error::SessionRejected)
            }
            // refused, but an earlier try may have been performed: the session is taken for spent
            Err(Failure { cause: Cause::Refused(status), performed: true }) if status.as_u16() != 403 => {
                self.answer_at_risk = true;
                self.recover(Some((&hash, popup.ticket.as_ref()))).await?;
                if self.hold.record.has_finished(&hash, self.now()) { Ok(()) } else { Err(Error::ReconnectRequired) }
            }
            Err(failure) => Err(unauthorized_if_forbidden(failure).into()),
        }
    }

    /// Asks for an access token. `false`: Human API says that there is no connection.
    pub async fn access(&mut self) -> Result<bool, Error> {
        let asked_at = self.now();
        match self.connect.human_api.access(&self.user, self, self.invocation).await {
            Ok(granted) => self.keep_granted(granted, asked_at).map(|()| true),
            Err(Failure { cause: Cause::Refused(status), performed: false })
                if matches!(status.as_u16(), 403 | 404 | 410) =>
            {
                Ok(false)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Asks for a publicToken with the proven humanId. `false`: there is none, or Human API does not know it; the user
    /// must reconnect.
    pub async fn public_token(&mut self) -> Result<bool, Error> {
        let Some(human_id) = self.proven_human_id().await? else {
            return Ok(false);
        };
        match self.connect.human_api.public_token(&human_id, self, self.invocation).await {
            Ok(token) => {
                self.hold.record.public = Some(self.seal(Kind::Public, token.expose())?);
                self.hold.record.updated_at = Some(self.now());
                self.invocation.note(|tally| tally.tokens_recovered += 1);
                Ok(true)
            }
            Err(Failure { cause: Cause::Refused(status), performed: false }) if status.as_u16() == 404 => {
                let record = &mut self.hold.record;
                if record.public.take().is_some() || record.connected_at.is_some() {
                    record.reconnect.get_or_insert_with(SessionHash::none);
                }
                Ok(false)
            }
            Err(failure) => Err(unauthorized_if_forbidden(failure).into()),
        }
    }

    /// Ends the turn: what it changed is committed; a failure leaves the row as Human API's answer, or its lack, demands.
    pub async fn close<T>(mut self, outcome: Result<T, Error>) -> Result<(T, Record), Error> {
        match outcome {
            Ok(answer) => {
                self.reseal().await;
                self.connect
                    .store
                    .commit(&mut self.hold, Ending::Resolved, self.key.version(), self.invocation)
                    .await
                    .inspect_err(|error| {
                        if matches!(error, StoreError::Unavailable(_)) {
                            self.invocation.note(|tally| tally.unresolved += 1);
                        }
                    })?;
                Ok((answer, self.hold.record))
            }
            Err(error) => Err(self.give_up(error).await),
        }
    }

    async fn give_up(mut self, mut error: Error) -> Error {
        if let Error::HumanApi(Failure { cause: Cause::HoldLost, performed }) = &error {
            let sent = *performed;
            self.answer_at_risk |= sent;
            let lost = lock(&self.lost).take();
            error = lost.unwrap_or(StoreError::TakenOver).into();
            if !sent && !matches!(error, Error::Store(StoreError::Unavailable(_))) {
                return error;
            }
        } else if matches!(error, Error::Store(_)) {
            // whatever may have been written, DynamoDB does not answer or the hold is not ours: time ends it
            return error;
        }
        let earlier = self.hold.unresolved.is_some() || self.hold.in_doubt();
        let ending = match &error {
            // Human API may perform it yet: nobody may ask again before the hold has run out
            Error::HumanApi(Failure { cause: Cause::Timeout, performed: true }) => {
                self.invocation.note(|tally| tally.unresolved += 1);
                return error;
            }
            Error::HumanApi(Failure { performed: true, .. }) => Ending::Unresolved,
            _ if earlier || self.answer_at_risk => Ending::Unresolved,
            _ => Ending::Resolved,
        };
        if matches!(ending, Ending::Unresolved) {
            self.invocation.note(|tally| tally.unresolved += 1);
        }
        // or a value of an older key could hide behind the newest
        self.reseal().await;
        match self.connect.store.commit(&mut self.hold, ending, self.key.version(), self.invocation).await {
            // what Human API said may be about what another call has done meanwhile
            Err(gone @ (StoreError::Deleted | StoreError::TakenOver)) => gone.into(),
            Err(other) => {
                warn!(error = %other, "a hold could not be given back; time ends it");
                error
            }
            Ok(()) => error,
        }
    }

    /// The humanId that Human API tied to this user. Whoever can write to the table can put another one there, but not its
    /// proof.
    async fn proven_human_id(&self) -> Result<Option<String>, Error> {
        let Record { human_id: Some(human_id), human_proof: Some(proof), .. } = &self.hold.record else {
            return Ok(None);
        };
        match self.connect.open(&self.user, Kind::HumanId, proof).await {
            Ok(proven) if proven == *human_id => Ok(Some(proven)),
            Err(error) if !matches!(&error, Error::Seal(error) if error.is_for_good()) => Err(error),
            Ok(_) | Err(_) => {
                warn!("the proof of a stored humanId does not open: it is taken for unproven");
                Ok(None)
            }
        }
    }

    fn verify(&self, exchanged: &Exchanged, human_id: &str) -> Result<(), Error> {
        let same = self.user.is_named_by(&exchanged.client_user_id) && exchanged.human_id == human_id;
        if same { Ok(()) } else { Err(Error::UserMismatch) }
    }

    fn keep_exchanged(
        &mut self,
        exchanged: Exchanged,
        session: SessionHash,
        ticket: Option<TicketHash>,
    ) -> Result<(), Error> {
        let now = self.now();
        self.answer_at_risk = true;
        let token = self.seal(Kind::Access, exchanged.access.expose())?;
        let public = self.seal(Kind::Public, exchanged.public.expose())?;
        let proof = self.seal(Kind::HumanId, &exchanged.human_id)?;
        let record = &mut self.hold.record;
        record.prove(exchanged.human_id, proof);
        record.public = Some(public);
        record.access = Some(Access { token, refresh: None, expires_at: None, obtained_at: now, from: Flow::Popup });
        record.flow = Some(Flow::Popup);
        self.answer_at_risk = false;
        self.connected(now);
        self.finished(session, ticket, now);
        self.invocation.note(|tally| tally.tokens_stored += 1);
        Ok(())
    }

    fn keep_granted(&mut self, granted: Granted, asked_at: Millis) -> Result<(), Error> {
        self.answer_at_risk = true;
        let token = self.seal(Kind::Access, granted.access.expose())?;
        let refresh = granted.refresh.map(|refresh| self.seal(Kind::AccessRefresh, refresh.expose())).transpose()?;
        let expires_at = granted.expires_in.map(|life| asked_at + millis(life));
        let now = self.now();
        self.hold.record.access = Some(Access { token, refresh, expires_at, obtained_at: now, from: Flow::Connect });
        self.answer_at_risk = false;
        self.connected(now);
        self.invocation.note(|tally| tally.tokens_stored += 1);
        Ok(())
    }

    /// Human API has given tokens for this user.
    fn connected(&mut self, now: Millis) {
        let record = &mut self.hold.record;
        record.connected_at.get_or_insert(now);
        record.updated_at = Some(now);
        record.revoked = false;
        record.failed_at = None;
        // a session token is for users without a source; the next start asks for an id token
        if record.start.as_ref().is_some_and(|start| start.kind == StartKind::Session) {
            record.start = None;
        }
    }

    fn finished(&mut self, session: SessionHash, ticket: Option<TicketHash>, now: Millis) {
        self.hold.spends = ticket.map(|ticket| (ticket, session.clone()));
        self.hold.record.make_good(now);
        self.hold.record.remember_finished(session, now);
    }

    fn seal(&self, kind: Kind, text: &str) -> Result<Sealed, SealError> {
        self.key.seal(&self.user.key(), kind, text)
    }
}

/// The popup's endpoints document no 403: it speaks of our credentials.
fn unauthorized_if_forbidden(failure: Failure) -> Failure {
    match failure.cause {
        Cause::Refused(status) if status.as_u16() == 403 => Failure { cause: Cause::Unauthorized, ..failure },
        _ => failure,
    }
}

fn millis(life: Duration) -> Millis {
    Millis::try_from(life.min(LONGEST_LIFE).as_millis()).unwrap_or_default()
}
