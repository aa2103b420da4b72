//! Session and id tokens: what opens the Connect widget.

use super::{Error, Turn, millis};
use crate::human_api::{Cause, Failure};
use crate::identity::EmailAddress;
use crate::record::{Start, StartKind};
use crate::seal::Kind;

impl Turn<'_> {
    /// Asks for what opens the widget: an id token first for a user who is known to be connected, a session token first
    /// for all others; where Human API refuses one, the other.
    pub async fn start(&mut self, email: Option<&EmailAddress>) -> Result<(), Error> {
        let record = &self.hold.record;
        let order = if record.connected_at.is_some() || record.reconnect.is_some() {
            [StartKind::Id, StartKind::Session]
        } else {
            [StartKind::Session, StartKind::Id]
        };
        let mut refused = None;
        for kind in order {
            let asked_at = self.now();
            let answer = match (kind, email) {
                (StartKind::Id, _) => self.connect.human_api.id(&self.user, self, self.invocation).await,
                (StartKind::Session, Some(email)) => {
                    self.connect.human_api.session(&self.user, email, self, self.invocation).await
                }
                (StartKind::Session, None) => return Err(Error::EmailRequired),
            };
            match answer {
                Ok(started) => {
                    let token = self.seal(Kind::Start, started.token.expose())?;
                    let refresh =
                        started.refresh.map(|refresh| self.seal(Kind::StartRefresh, refresh.expose())).transpose()?;
                    if let Some(human_id) = started.human_id {
                        let proof = self.seal(Kind::HumanId, &human_id)?;
                        self.hold.record.prove(human_id, proof);
                    }
                    self.hold.record.start =
                        Some(Start { token, refresh, kind, expires_at: asked_at + millis(started.expires_in) });
                    return Ok(());
                }
                // 400 to a session is a mistake of ours; every other refusal says that this is not this user's token
                Err(Failure { cause: Cause::Refused(status), .. })
                    if kind == StartKind::Id || status.as_u16() != 400 =>
                {
                    refused = Some(Failure { cause: Cause::Refused(status), performed: false });
                }
                // a token that may have been made and that nobody has costs nothing: nothing is unresolved
                Err(failure) => return Err(Failure { performed: false, ..failure }.into()),
            }
        }
        Err(refused.map_or(Error::NotConnected, Error::HumanApi))
    }
}
