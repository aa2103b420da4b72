//! What an earlier call left unresolved is resolved by the next one, before it asks for anything of its own.

use std::time::Duration;

use super::{Error, Turn, unauthorized_if_forbidden};
use crate::config::Flow;
use crate::human_api::{Cause, Failure};
use crate::record::{Asked, Exchange, Inflight};
use crate::seal::Kind;
use crate::store::Ending;
use crate::token::{SessionHash, SessionToken, TicketHash};

/// A session that is older than this is taken for spent, and what Human API refuses by then for not to be had.
const SESSION_LIFE: Duration = Duration::from_secs(3600);

impl Turn<'_> {
    /// Resolves what is unresolved and commits what came of it; the hold goes on, for `next`.
    /// Costs nothing where nothing is unresolved.
    pub async fn settle(&mut self, next: Asked) -> Result<(), Error> {
        let unresolved = self.hold.unresolved.clone();
        if unresolved.is_none() && !self.hold.in_doubt() {
            return Ok(());
        }
        if let Some(Inflight { since, .. }) = unresolved {
            let age = Duration::from_millis(u64::try_from(self.now() - since).unwrap_or_default());
            self.invocation.note(|tally| tally.unresolved_age = Some(age));
            self.overdue = age > SESSION_LIFE;
        }
        // tokens of an exchange made now supersede whatever answers came too late
        let superseded = match unresolved.map(|inflight| inflight.request) {
            Some(Asked::Exchange(exchange)) => self.exchange_again(*exchange).await?,
            Some(Asked::Access) => self.access_again().await.map(|()| false)?,
            Some(Asked::Public) => self.public_again().await.map(|()| false)?,
            Some(Asked::Start) => {
                self.hold.record.start = None;
                false
            }
            Some(Asked::Nothing) | None => false,
        };
        if self.hold.in_doubt() && !superseded {
            self.recover(None).await?;
        }
        self.checkpoint(next).await
    }

    /// Commits what this turn has changed; the hold goes on, for `next`.
    pub async fn checkpoint(&mut self, next: Asked) -> Result<(), Error> {
        self.reseal().await;
        self.connect.store.commit(&mut self.hold, Ending::Next(next), self.key.version(), self.invocation).await?;
        Ok(())
    }

    /// The same exchange again; where the session is spent, what Human API gives without it. `true` if it was exchanged.
    async fn exchange_again(&mut self, exchange: Exchange) -> Result<bool, Error> {
        let lost = (&exchange.hash, exchange.ticket.as_ref());
        if self.overdue {
            return self.recover(Some(lost)).await.map(|()| false);
        }
        let session = match self.connect.open(&self.user, Kind::Session, &exchange.session).await {
            Ok(session) => SessionToken::new(session),
            Err(Error::Seal(error)) if error.is_for_good() => {
                return self.recover(Some(lost)).await.map(|()| false);
            }
            Err(error) => return Err(error),
        };
        let failure = match self.connect.human_api.tokens(&exchange.human_id, &session, self, self.invocation).await {
            // about somebody else: was never ours to store
            Ok(exchanged) if self.verify(&exchanged, &exchange.human_id).is_err() => return Ok(false),
            Ok(exchanged) => {
                self.invocation.note(|tally| tally.tokens_recovered += 1);
                return self.keep_exchanged(exchanged, exchange.hash, exchange.ticket).map(|()| true);
            }
            Err(failure) => failure,
        };
        let spent = match &failure.cause {
            Cause::Refused(status) if status.as_u16() == 403 => self.credentials_are_good().await?,
            Cause::Refused(_) => true,
            // a session that Human API stumbles over each time; for a proven humanId there is another way
            Cause::Unavailable { .. } | Cause::Invalid(_) => self.hold.record.human_id.is_some(),
            _ => false,
        };
        if spent {
            return self.recover(Some(lost)).await.map(|()| false);
        }
        Err(unauthorized_if_forbidden(failure).into())
    }

    /// A 403 to an exchange means our credentials, or a session that is spent. `access` knows the difference: it answers,
    /// or refuses the user and not us.
    async fn credentials_are_good(&self) -> Result<bool, Error> {
        match self.connect.human_api.access(&self.user, self, self.invocation).await {
            Ok(_) => Ok(true),
            Err(Failure { cause: Cause::Refused(status), .. }) => Ok(status.as_u16() != 403),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn access_again(&mut self) -> Result<(), Error> {
        if !self.access().await? {
            self.gone();
        }
        Ok(())
    }

    async fn public_again(&mut self) -> Result<(), Error> {
        if !self.public_token_if_any().await? {
            // which of two publicTokens is the right one cannot be known
            self.hold.record.public = None;
            self.hold.record.reconnect.get_or_insert_with(SessionHash::none);
        }
        Ok(())
    }

    /// As [`Turn::public_token`]; what Human API has refused for so long, in whatever way, is not to be had.
    async fn public_token_if_any(&mut self) -> Result<bool, Error> {
        match self.public_token().await {
            Err(Error::HumanApi(Failure { cause: Cause::Refused(_), .. })) if self.overdue => Ok(false),
            other => other,
        }
    }

    /// Human API refused `access`: a connection whose token came from there has ended. `true` if so.
    pub fn gone(&mut self) -> bool {
        let now = self.now();
        let record = &mut self.hold.record;
        let from_access = record.access.as_ref().is_some_and(|access| access.from == Flow::Connect);
        if from_access {
            record.end(now);
            record.revoked = true;
        }
        from_access
    }

    /// An answer with tokens is lost for good. What Human API gives without a session is fetched: a publicToken, if the
    /// humanId is proven, and an access token. What was stored before may be superseded and is not served any more.
    pub(super) async fn recover(&mut self, lost: Option<(&SessionHash, Option<&TicketHash>)>) -> Result<(), Error> {
        let now = self.now();
        let popup = lost.is_some() || self.hold.record.public.is_some();
        let public = popup && self.public_token_if_any().await?;
        if popup && !public {
            self.hold.record.public = None;
            self.hold.record.reconnect = Some(lost.map_or_else(SessionHash::none, |(session, _)| session.clone()));
        }
        if public && let Some((session, ticket)) = lost {
            self.hold.record.access = None;
            self.hold.record.flow = Some(Flow::Popup);
            self.connected(now);
            self.finished(session.clone(), ticket.cloned(), now);
            // where Human API is slow, the next call goes on from here
            self.checkpoint(Asked::Access).await?;
        }
        match self.access().await {
            Ok(true) => {
                self.hold.record.flow.get_or_insert(Flow::Connect);
            }
            Ok(false) if self.gone() => {}
            Ok(false) | Err(Error::HumanApi(Failure { cause: Cause::Refused(_), performed: false })) => {
                self.hold.record.access = None;
            }
            Err(error) => return Err(error),
        }
        self.answer_at_risk = false;
        if public {
            self.connected(now);
        }
        Ok(())
    }
}
