//! The data stored about a user, and questions about that data. Serde reads and writes it as one map. Leases and tickets are the
//! [store](crate::store)'s.

use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::seal::{Kind, Sealed};
use crate::token::{ImportHash, SessionHash};

/// A stored token is handed out while at least this much of its life remains.
pub const MIN_REMAINING: Millis = 5 * 60_000;
/// A refresh within this time of the last one is answered with what that one brought.
pub const REFRESH_WINDOW: Millis = 10_000;
/// Most sources of a user. A row that grew without end could not be written, and each read costs by its size.
const MAX_SOURCES: usize = 200;
/// Most bytes of a user's sources, IDs and names together.
const MAX_SOURCES_BYTES: usize = 16 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Human API's ID of the user. Only ever one that Human API itself tied to this user.
    pub human_id: Option<String>,
    /// The same, sealed: a writer of the table cannot tie another user's humanId to this user.
    pub sealed_human_id: Option<Sealed>,
    /// Opens the popup in edit mode.
    pub public_token: Option<Sealed>,
    /// The time of the last `refresh` that brought a publicToken.
    pub public_token_refreshed_at: Option<Millis>,
    pub access_token: Option<StoredAccessToken>,
    /// The time of Human API's last failure to give an access token. Callers that waited for it fail alike.
    pub failed_at: Option<Millis>,
    pub widget_token: Option<StoredWidgetToken>,
    /// The time of the last `refresh` that brought a widget token.
    pub widget_token_refreshed_at: Option<Millis>,
    /// The generation of the last finish.
    pub flow: Option<Flow>,
    /// The sources that the widget reported. They are for display and prove nothing.
    pub sources: Vec<Source>,
    /// Since when the user is connected; absent if the user is not.
    pub connected_at: Option<Millis>,
    /// The last write that stored tokens or ended a connection.
    pub updated_at: Option<Millis>,
    /// Number of finishes and imports that brought tokens. A refresh does not count. Connection events go by it.
    pub finishes: u64,
    /// The last import that stored tokens. The same import again changes nothing, whatever has become of them.
    pub import: Option<ImportHash>,
    /// Human API said that the connection is gone.
    pub revoked: bool,
    /// A response with tokens was lost for good.
    pub reconnect: bool,
    /// The session that was spent on that response, if it was an exchange's.
    pub lost_session: Option<SessionHash>,
}

/// The two generations of Human API's widget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Flow {
    /// The Connect widget (2019 on): opened with a widget token, proven by `access`.
    Connect,
    /// The popup (2013 to 2018): opened with a publicToken, finished by an exchange.
    Popup,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredAccessToken {
    pub token: Sealed,
    /// The refresh token that came with it; not used.
    pub refresh: Option<Sealed>,
    /// Unknown for a popup's token.
    pub expires_at: Option<Millis>,
    pub obtained_at: Millis,
    /// The request that brought it: an exchange (popup) or `access` (connect).
    pub from: Flow,
}

/// A stored session token or ID token. It opens the Connect widget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredWidgetToken {
    pub token: Sealed,
    /// The refresh token that came with it; not used.
    pub refresh: Option<Sealed>,
    pub kind: WidgetTokenKind,
    pub expires_at: Millis,
}

/// The two tokens that open the Connect widget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WidgetTokenKind {
    /// For a user without a connected source.
    #[serde(rename = "session_token")]
    Session,
    /// For a user with a connected source.
    #[serde(rename = "id_token")]
    Id,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub id: String,
    pub name: String,
}

impl Flow {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "connect" => Some(Self::Connect),
            "popup" => Some(Self::Popup),
            _ => None,
        }
    }
}

impl WidgetTokenKind {
    /// The widget's mode that it opens.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Session => "create",
            Self::Id => "edit",
        }
    }
}

impl Record {
    pub fn serving_access_token(&self, now: Millis) -> Option<&StoredAccessToken> {
        self.access_token.as_ref().filter(|token| token.expires_at.is_none_or(|at| at - now >= MIN_REMAINING))
    }

    pub fn serving_widget_token(&self, now: Millis) -> Option<&StoredWidgetToken> {
        self.widget_token.as_ref().filter(|token| token.expires_at - now >= MIN_REMAINING)
    }

    /// The popup cannot be opened for this user. Human API knows the user, but there is no publicToken, and no proven humanId to recover
    /// one.
    pub fn must_reconnect(&self) -> bool {
        let known = self.connected_at.is_some() || self.revoked;
        self.reconnect || (known && self.public_token.is_none() && self.human_id.is_none())
    }

    /// The publicToken is missing, and there is a proven humanId to recover it with.
    pub fn lacks_public_token(&self) -> bool {
        self.public_token.is_none() && self.human_id.is_some()
    }

    /// The record has something that must not expire.
    pub fn must_not_expire(&self) -> bool {
        self.connected_at.is_some()
            || self.access_token.is_some()
            || self.public_token.is_some()
            || self.widget_token.is_some()
            || self.reconnect
            || self.revoked
    }

    /// Everything that is sealed in the record, with its kind.
    pub fn sealed_mut(&mut self) -> impl Iterator<Item = (Kind, &mut Sealed)> {
        let access = self.access_token.iter_mut().flat_map(|access| {
            [(Kind::Access, Some(&mut access.token)), (Kind::AccessRefresh, access.refresh.as_mut())]
        });
        let widget = self.widget_token.iter_mut().flat_map(|widget| {
            [(Kind::Widget, Some(&mut widget.token)), (Kind::WidgetRefresh, widget.refresh.as_mut())]
        });
        let others = [(Kind::Public, self.public_token.as_mut()), (Kind::HumanId, self.sealed_human_id.as_mut())];
        access.chain(widget).chain(others).filter_map(|(kind, sealed)| Some((kind, sealed?)))
    }

    /// Says that a response with tokens is lost for good, and the session that was spent on it.
    pub fn set_reconnect(&mut self, lost_session: Option<SessionHash>) {
        self.reconnect = true;
        self.lost_session = lost_session.or_else(|| self.lost_session.take());
    }

    /// The user has connected again. Returns the session that was lost: it counts as finished, because Human API would only refuse it.
    pub fn clear_reconnect(&mut self) -> Option<SessionHash> {
        self.reconnect = false;
        self.lost_session.take()
    }

    /// Ends the connection: its tokens are of no use any more.
    pub fn disconnect(&mut self, now: Millis) {
        self.access_token = None;
        self.widget_token = None;
        self.connected_at = None;
        self.sources.clear();
        self.updated_at = Some(now);
    }

    /// Takes over a humanId that Human API tied to this user. Tokens of another humanId are dropped.
    pub fn set_human_id(&mut self, human_id: String, sealed: Sealed) {
        if self.human_id.as_ref().is_some_and(|known| *known != human_id) {
            self.public_token = None;
            self.access_token = None;
            self.widget_token = None;
            self.connected_at = None;
            self.sources.clear();
        }
        self.human_id = Some(human_id);
        self.sealed_human_id = Some(sealed);
    }

    /// Takes over the reported sources: the last ones, as far as there are bytes left.
    pub fn set_sources(&mut self, sources: Vec<Source>) {
        let mut bytes_left = MAX_SOURCES_BYTES;
        let fits = |source: &Source| {
            let left = bytes_left.checked_sub(source.id.len() + source.name.len());
            bytes_left = left.unwrap_or_default();
            left.is_some()
        };
        self.sources = sources.into_iter().rev().take(MAX_SOURCES).take_while(fits).collect();
        self.sources.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sources_are_kept_as_far_as_they_fit() {
        let source = |number: usize, length| Source { id: number.to_string(), name: "n".repeat(length) };
        let mut record = Record::default();
        record.set_sources((0..100).map(|number| source(number, 4000)).collect());
        assert_eq!(
            record.sources.iter().map(|source| source.id.as_str()).collect::<Vec<_>>(),
            ["96", "97", "98", "99"]
        );
        record.set_sources((0..1000).map(|number| source(number, 1)).collect());
        assert_eq!((record.sources.len(), record.sources[199].id.as_str()), (MAX_SOURCES, "999"));
    }

    #[test]
    fn a_record_with_tokens_or_a_loss_must_not_expire() {
        let sealed = Sealed { version: "v".into(), bytes: vec![] };
        assert!(!Record::default().must_not_expire());
        for record in [
            Record { public_token: Some(sealed), ..Record::default() },
            Record { reconnect: true, ..Record::default() },
            Record { revoked: true, ..Record::default() },
        ] {
            assert!(record.must_not_expire());
        }
    }

    #[test]
    fn another_human_id_drops_the_tokens_of_the_one_before() {
        let sealed = Sealed { version: "v".into(), bytes: vec![] };
        let mut record =
            Record { human_id: Some("one".into()), public_token: Some(sealed.clone()), ..Record::default() };
        record.set_human_id("one".into(), sealed.clone());
        assert!(record.public_token.is_some());
        record.set_human_id("two".into(), sealed);
        assert_eq!((record.public_token, record.human_id.as_deref()), (None, Some("two")));
    }
}
