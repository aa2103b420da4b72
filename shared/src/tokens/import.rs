//! Connections that an operator brings from another database.

use super::{Error, LeasedUser, TokenService};
use crate::clock::Millis;
use crate::identity::UserId;
use crate::record::{Flow, REFRESH_WINDOW, Record, StoredAccessToken};
use crate::seal::Kind;
use crate::token::{AccessToken, ImportHash, PublicToken};

/// A popup user's connection, as the other database has it.
pub struct Imported {
    pub human_id: String,
    pub access_token: AccessToken,
    pub public_token: Option<PublicToken>,
    pub connected_at: Option<Millis>,
}

impl Imported {
    pub fn hash(&self) -> ImportHash {
        ImportHash::of(&self.human_id, &self.access_token, self.public_token.as_ref())
    }
}

impl TokenService {
    /// The record has the tokens of this import, or had them and has newer ones by now.
    pub async fn has_imported(&self, user: &UserId, record: &Record, imported: &Imported) -> Result<bool, Error> {
        if record.import.as_ref() == Some(&imported.hash()) {
            return Ok(true);
        }
        let Some(access) = &record.access_token else { return Ok(false) };
        let has_public = match (&imported.public_token, &record.public_token) {
            (None, _) => true,
            (Some(wanted), Some(sealed)) => self.contains(user, Kind::Public, sealed, wanted.expose()).await?,
            (Some(_), None) => false,
        };
        Ok(has_public
            && record.human_id.as_ref() == Some(&imported.human_id)
            && self.contains(user, Kind::Access, &access.token, imported.access_token.expose()).await?)
    }
}

impl LeasedUser<'_> {
    /// Stores a popup connection by the operator's word: its humanId counts as proven. A publicToken of the same humanId stays if the
    /// import has none.
    pub fn import(&mut self, imported: &Imported) -> Result<(), Error> {
        let now = self.now();
        let connected_at = imported.connected_at.map(|at| at.min(now));
        let token = self.seal(Kind::Access, imported.access_token.expose())?;
        let public_token = imported.public_token.as_ref().map(|token| self.seal(Kind::Public, token.expose()));
        let public_token = public_token.transpose()?;
        let sealed_human_id = self.seal(Kind::HumanId, &imported.human_id)?;
        // Human API has not given this token now, so a caller's `forceRefresh` still asks it
        let obtained_at = connected_at.unwrap_or(now).min(now - REFRESH_WINDOW);
        let record = self.record_mut();
        record.set_human_id(imported.human_id.clone(), sealed_human_id);
        record.public_token = public_token.or(record.public_token.take());
        record.access_token =
            Some(StoredAccessToken { token, refresh: None, expires_at: None, obtained_at, from: Flow::Popup });
        record.flow = Some(Flow::Popup);
        record.connected_at = connected_at.or(record.connected_at);
        record.finishes += 1;
        record.import = Some(imported.hash());
        self.set_connected(now);
        self.clear_reconnect();
        self.unsaved.stored += 1;
        Ok(())
    }
}
