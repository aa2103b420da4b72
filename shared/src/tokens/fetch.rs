//! The requests that bring tokens without a session, and how tokens enter the record.

use tracing::warn;

use super::{Error, LeasedUser, millis};
use crate::clock::Millis;
use crate::human_api::{AccessRequest, Cause, ExchangeResponse, Failure, PublicTokenRequest};
use crate::record::{Flow, Record, StoredAccessToken, WidgetTokenKind};
use crate::seal::Kind;
use crate::token::{SessionHash, TicketHash};

impl LeasedUser<'_> {
    /// Asks for an access token. `false`: Human API says that there is no connection.
    pub async fn access_token(&mut self) -> Result<bool, Error> {
        let requested_at = self.now();
        let user = self.user.clone();
        let response = match self.send(&AccessRequest { client_user_id: user.as_str() }).await {
            Ok(response) => response,
            Err(Error::HumanApi(Failure { cause: Cause::Refused(status), maybe_performed: false, .. }))
                // 403: `send` has tried every secret, so it is about the user
                if matches!(status.as_u16(), 403 | 404 | 410) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.response_at_risk = true;
        let refresh = response.refresh_token;
        self.set_access_token(StoredAccessToken {
            token: self.seal(Kind::Access, response.access_token.expose())?,
            refresh: refresh.map(|refresh| self.seal(Kind::AccessRefresh, refresh.expose())).transpose()?,
            expires_at: response.expires_in.map(|life| requested_at + millis(life)),
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
            Ok(response) if response.human_id != human_id => {
                Err(Cause::Invalid("names another humanId").maybe_performed().into())
            }
            Ok(response) => {
                let now = self.now();
                let at_risk = std::mem::replace(&mut self.response_at_risk, true);
                self.record_mut().public_token = Some(self.seal(Kind::Public, response.public_token.expose())?);
                self.response_at_risk = at_risk;
                self.record_mut().updated_at = Some(now);
                self.unsaved.recovered += 1;
                Ok(true)
            }
            Err(Error::HumanApi(Failure { cause: Cause::Refused(status), maybe_performed: false, .. }))
                if status.as_u16() == 404 =>
            {
                let record = self.record_mut();
                if record.public_token.take().is_some() || record.connected_at.is_some() {
                    record.reconnect = true;
                }
                Ok(false)
            }
            Err(Error::HumanApi(failure)) => Err(unauthorized_if_forbidden(failure).into()),
            Err(error) => Err(error),
        }
    }

    /// The humanId that Human API tied to this user. Whoever can write to the table can put another one there, but cannot seal it.
    pub(super) async fn proven_human_id(&self) -> Result<Option<String>, Error> {
        let Record { human_id: Some(human_id), sealed_human_id: Some(sealed), .. } = self.record() else {
            return Ok(None);
        };
        if self.service.contains(&self.user, Kind::HumanId, sealed, human_id).await? {
            return Ok(Some(human_id.clone()));
        }
        warn!("the sealed humanId does not open: the humanId counts as unproven");
        Ok(None)
    }

    pub(super) fn verify(&self, response: &ExchangeResponse, human_id: &str) -> Result<(), Error> {
        let same = self.user.is_named_by(&response.client_user_id) && response.human_id == human_id;
        if same { Ok(()) } else { Err(Error::UserMismatch) }
    }

    pub(super) fn set_exchanged_tokens(
        &mut self,
        response: ExchangeResponse,
        session: SessionHash,
        ticket: Option<TicketHash>,
    ) -> Result<(), Error> {
        let now = self.now();
        self.response_at_risk = true;
        let token = self.seal(Kind::Access, response.access_token.expose())?;
        let public_token = self.seal(Kind::Public, response.public_token.expose())?;
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
        self.record_mut().flow.get_or_insert(token.from);
        self.record_mut().access_token = Some(token);
        self.response_at_risk = false;
        self.set_connected(now);
        self.unsaved.stored += 1;
    }

    /// Human API has given tokens for this user.
    pub(super) fn set_connected(&mut self, now: Millis) {
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

    pub(super) fn set_finished(&mut self, session: SessionHash, ticket: Option<TicketHash>, now: Millis) {
        self.lease.spends = ticket.map(|ticket| (ticket, session.clone()));
        self.clear_reconnect();
        self.lease.row.remember_finished(session, now);
        self.record_mut().finishes += 1;
    }

    /// `access` has brought tokens for a user who has connected in the Connect widget.
    pub fn set_finished_by_access(&mut self) {
        self.clear_reconnect();
        self.record_mut().flow = Some(Flow::Connect);
        self.record_mut().finishes += 1;
    }

    /// Ends a connection that came from `access`, after Human API has refused `access`. `true` if it did.
    pub fn end_if_revoked(&mut self) -> bool {
        let now = self.now();
        let record = self.record_mut();
        let from_access = record.access_token.as_ref().is_some_and(|access| access.from == Flow::Connect);
        if from_access {
            record.disconnect(now);
            record.revoked = true;
        }
        from_access
    }

    /// The user has connected again: nothing is lost any more.
    pub(super) fn clear_reconnect(&mut self) {
        if let Some(lost) = self.record_mut().clear_reconnect() {
            let now = self.now();
            self.lease.row.remember_finished(lost, now);
        }
    }
}

/// The popup's endpoints document no 403. Unless `access` has shown that our credentials are good, a 403 is about them.
pub(super) fn unauthorized_if_forbidden(failure: Failure) -> Failure {
    match failure.cause {
        Cause::Refused(status) if status.as_u16() == 403 => Failure { cause: Cause::Unauthorized, ..failure },
        _ => failure,
    }
}
