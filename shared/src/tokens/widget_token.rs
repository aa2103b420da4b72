//! Session and ID tokens: they open the Connect widget.

use super::{Error, LeasedUser, millis};
use crate::human_api::{Cause, Failure, IdRequest, SessionRequest, WidgetTokenResponse};
use crate::identity::EmailAddress;
use crate::record::{StoredWidgetToken, WidgetTokenKind};
use crate::seal::Kind;

impl LeasedUser<'_> {
    /// Asks for a token that opens the widget: for a user who is known to be connected an ID token first, for all others a session
    /// token first. If Human API refuses one, the other is asked for.
    pub async fn widget_token(&mut self, email: Option<&EmailAddress>) -> Result<(), Error> {
        let record = self.record();
        let order = if record.connected_at.is_some() || record.reconnect {
            [WidgetTokenKind::Id, WidgetTokenKind::Session]
        } else {
            [WidgetTokenKind::Session, WidgetTokenKind::Id]
        };
        let mut refused = Error::NotConnected;
        for kind in order {
            let requested_at = self.now();
            match self.request_widget_token(kind, email).await {
                Ok(response) => {
                    let expires_at = requested_at + millis(response.expires_in);
                    return self.set_widget_token(response, kind, expires_at);
                }
                // 400 to a `session` is a mistake of ours; every other refusal says that this token is not for this user
                Err(Error::HumanApi(Failure { cause: Cause::Refused(status), .. }))
                    if kind == WidgetTokenKind::Id || status.as_u16() != 400 =>
                {
                    refused = Cause::Refused(status).not_performed().into();
                }
                // a widget token that nobody has costs nothing, so nothing is unresolved
                Err(Error::HumanApi(failure)) => return Err(Failure { maybe_performed: false, ..failure }.into()),
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    async fn request_widget_token(
        &mut self,
        kind: WidgetTokenKind,
        email: Option<&EmailAddress>,
    ) -> Result<WidgetTokenResponse, Error> {
        let user = &self.user.clone();
        match (kind, email) {
            (WidgetTokenKind::Id, _) => self.send(&IdRequest { user }).await,
            (WidgetTokenKind::Session, Some(email)) => self.send(&SessionRequest { user, email }).await,
            (WidgetTokenKind::Session, None) => Err(Error::EmailRequired),
        }
    }

    fn set_widget_token(
        &mut self,
        response: WidgetTokenResponse,
        kind: WidgetTokenKind,
        expires_at: crate::clock::Millis,
    ) -> Result<(), Error> {
        let token = self.seal(Kind::Start, response.token.expose())?;
        let refresh = response.refresh.map(|refresh| self.seal(Kind::StartRefresh, refresh.expose())).transpose()?;
        if let Some(human_id) = response.human_id {
            let sealed = self.seal(Kind::HumanId, &human_id)?;
            self.record_mut().set_human_id(human_id, sealed);
        }
        self.record_mut().widget_token = Some(StoredWidgetToken { token, refresh, kind, expires_at });
        Ok(())
    }
}
