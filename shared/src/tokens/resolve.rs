//! A call resolves what an earlier call left unresolved, before it asks for anything of its own.

use std::time::Duration;

use super::fetch::unauthorized_if_forbidden;
use super::{Error, LeasedUser};
use crate::human_api::{AccessRequest, Cause, ExchangeRequest, Failure};
use crate::record::Flow;
use crate::seal::Kind;
use crate::store::{Exchange, Pending, Request};
use crate::token::{SessionHash, SessionToken, TicketHash};

/// A session that is older than this counts as spent, and whatever Human API refuses by then is not to be had.
const SESSION_LIFE: Duration = Duration::from_secs(3600);

impl LeasedUser<'_> {
    /// Resolves a pending request of an earlier call and stores the result; the lease goes on, for `next`. Costs nothing if nothing
    /// is unresolved.
    pub(super) async fn resolve_pending(&mut self, next: Request) -> Result<(), Error> {
        let unresolved = self.lease.unresolved().cloned();
        if unresolved.is_none() && !self.lease.has_takeovers() {
            return Ok(());
        }
        if let Some(Pending { since, .. }) = unresolved {
            let age = Duration::from_millis(u64::try_from(self.now() - since).unwrap_or_default());
            self.invocation.record(|measured| measured.unresolved_age = Some(age));
            self.overdue = age > SESSION_LIFE;
        }
        // tokens of an exchange made now supersede whatever answers came too late
        let superseded = match unresolved.map(|pending| pending.request) {
            Some(Request::Exchange(exchange)) => self.exchange_again(*exchange).await?,
            Some(Request::Access) => self.access_again().await.map(|()| false)?,
            Some(Request::PublicToken) => self.public_token_again().await.map(|()| false)?,
            Some(Request::WidgetToken) => {
                self.record_mut().widget_token = None;
                false
            }
            Some(Request::Nothing) | None => false,
        };
        if self.lease.has_takeovers() && !superseded {
            self.fetch_without_session(None).await?;
        }
        self.checkpoint(next).await
    }

    /// Sends the same exchange again. If the session is spent, fetches what Human API gives without it. `true` if it was exchanged.
    async fn exchange_again(&mut self, exchange: Exchange) -> Result<bool, Error> {
        self.resolved = Some(exchange.hash.clone());
        let lost = (&exchange.hash, exchange.ticket.as_ref());
        if self.overdue {
            return self.fetch_without_session(Some(lost)).await.map(|()| false);
        }
        let session = match self.service.open(&self.user, Kind::Session, &exchange.session).await {
            Ok(session) => SessionToken::new(session),
            Err(Error::Seal(error)) if error.is_permanent() => {
                return self.fetch_without_session(Some(lost)).await.map(|()| false);
            }
            Err(error) => return Err(error),
        };
        let request = ExchangeRequest { human_id: &exchange.human_id, session_token: &session };
        let failure = match self.send(&request).await {
            // about somebody else: was never ours to store
            Ok(response) if self.verify(&response, &exchange.human_id).is_err() => return Ok(false),
            Ok(response) => {
                self.unsaved.recovered += 1;
                return self.set_exchanged_tokens(response, exchange.hash, exchange.ticket).map(|()| true);
            }
            Err(Error::HumanApi(failure)) => failure,
            Err(error) => return Err(error),
        };
        let is_spent = match &failure.cause {
            Cause::Refused(status) if status.as_u16() == 403 => self.credentials_are_good().await?,
            Cause::Refused(_) => true,
            // Human API has failed on this session twice; for a proven humanId there is another way
            Cause::Unavailable { .. } | Cause::RateLimited { .. } | Cause::Invalid(_) if failure.maybe_performed => {
                self.proven_human_id().await?.is_some()
            }
            _ => false,
        };
        if is_spent {
            return self.fetch_without_session(Some(lost)).await.map(|()| false);
        }
        Err(unauthorized_if_forbidden(failure).into())
    }

    /// A 403 to an exchange is ambiguous: bad credentials, or a spent session. `access` tells which: if it answers, or refuses with
    /// another status, our credentials are good.
    async fn credentials_are_good(&mut self) -> Result<bool, Error> {
        let user = self.user.clone();
        match self.send(&AccessRequest { client_user_id: user.as_str() }).await {
            Ok(_) => Ok(true),
            Err(Error::HumanApi(Failure { cause: Cause::Refused(status), .. })) => Ok(status.as_u16() != 403),
            Err(error) => Err(error),
        }
    }

    async fn access_again(&mut self) -> Result<(), Error> {
        if !self.access_token().await? {
            self.end_if_revoked();
        }
        Ok(())
    }

    async fn public_token_again(&mut self) -> Result<(), Error> {
        if !self.public_token_if_any().await? {
            // nobody can know which of two publicTokens is the right one
            self.record_mut().public_token = None;
            self.record_mut().reconnect = true;
        }
        Ok(())
    }

    /// As [`LeasedUser::public_token`]. A refusal after an hour counts as final.
    async fn public_token_if_any(&mut self) -> Result<bool, Error> {
        match self.public_token().await {
            Err(Error::HumanApi(Failure { cause: Cause::Refused(_), .. })) if self.overdue => Ok(false),
            other => other,
        }
    }

    /// Fetches what Human API gives without a session, after a response with tokens was lost: a publicToken, if the humanId is proven,
    /// and an access token. Tokens that were stored before may be superseded, so they are not served any more.
    pub(super) async fn fetch_without_session(
        &mut self,
        lost: Option<(&SessionHash, Option<&TicketHash>)>,
    ) -> Result<(), Error> {
        let now = self.now();
        let is_popup = lost.is_some() || self.record().public_token.is_some();
        let public = is_popup && self.public_token_if_any().await?;
        if is_popup && !public {
            self.record_mut().public_token = None;
            self.record_mut().set_reconnect(lost.map(|(session, _)| session.clone()));
        }
        if public && let Some((session, ticket)) = lost {
            self.record_mut().access_token = None;
            self.record_mut().flow = Some(Flow::Popup);
            self.set_connected(now);
            self.set_finished(session.clone(), ticket.cloned(), now);
            // if Human API is slow, the next call goes on from here
            self.checkpoint(Request::Access).await?;
        }
        match self.access_token().await {
            Ok(true) => {}
            Ok(false) if self.end_if_revoked() => {}
            Ok(false) | Err(Error::HumanApi(Failure { cause: Cause::Refused(_), maybe_performed: false, .. })) => {
                self.record_mut().access_token = None;
            }
            Err(error) => return Err(error),
        }
        self.response_at_risk = false;
        if public {
            self.set_connected(now);
        }
        Ok(())
    }
}
