//! Session and ID tokens: they open the Connect widget.

use super::{Error, LeasedUser, millis};
use crate::human_api::{Cause, Failure, IdRequest, SessionRequest};
use crate::identity::EmailAddress;
use crate::record::{StoredWidgetToken, WidgetTokenKind};
use crate::seal::Kind;

impl LeasedUser<'_> {
    /// Requests a token that opens the widget: an ID token first for a user who is known to be connected, else a session token first.
    /// If Human API refuses one, the other is requested.
    pub async fn widget_token(&mut self, email: Option<&EmailAddress>) -> Result<(), Error> {
        let record = self.record();
        let order = if record.connected_at.is_some() || record.reconnect {
            [WidgetTokenKind::Id, WidgetTokenKind::Session]
        } else {
            [WidgetTokenKind::Session, WidgetTokenKind::Id]
        };
        let mut refused = Error::NotConnected;
        for kind in order {
            match self.request_widget_token(kind, email).await {
                Ok(()) => return Ok(()),
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

    async fn request_widget_token(&mut self, kind: WidgetTokenKind, email: Option<&EmailAddress>) -> Result<(), Error> {
        let user = self.user.clone();
        let requested_at = self.now();
        let (token, refresh, expires_in) = match (kind, email) {
            (WidgetTokenKind::Id, _) => {
                let response = self.send(&IdRequest { client_user_id: user.as_str() }).await?;
                (response.id_token, response.id_refresh_token, response.expires_in)
            }
            (WidgetTokenKind::Session, Some(email)) => {
                let request = SessionRequest { client_user_id: user.as_str(), client_user_email: email.as_str() };
                let response = self.send(&request).await?;
                if let Some(human_id) = response.human_id {
                    let sealed = self.seal(Kind::HumanId, &human_id)?;
                    self.record_mut().set_human_id(human_id, sealed);
                }
                (response.session_token, None, response.expires_in)
            }
            (WidgetTokenKind::Session, None) => return Err(Error::EmailRequired),
        };
        self.record_mut().widget_token = Some(StoredWidgetToken {
            token: self.seal(Kind::Widget, token.expose())?,
            refresh: refresh.map(|refresh| self.seal(Kind::WidgetRefresh, refresh.expose())).transpose()?,
            kind,
            expires_at: requested_at + millis(expires_in),
        });
        Ok(())
    }
}
