//! What is stored about one user: one item, everything in it. How it looks in DynamoDB is in `item`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::config::Flow;
use crate::identity::UserId;
use crate::seal::Sealed;
use crate::token::{SessionHash, TicketHash};

pub mod item;

/// A lease lasts this long from its write. Human API is assumed to perform a request within this time of its sending, or never.
pub const LEASE_DURATION: Millis = 26_000;
/// Clocks of two instances may disagree by this much: an expired lease is taken over only after it.
pub const CLOCK_MARGIN: Millis = 2_000;
/// A stored token is handed out while at least this much of its time is left.
pub const MIN_REMAINING: Millis = 5 * 60_000;
/// A refresh that is asked for within this time of the last is answered with what that brought.
pub const REFRESH_WINDOW: Millis = 10_000;
/// Finished sessions remembered of a user.
pub const MAX_FINISHED: usize = 8;
/// How long a finished session is remembered.
pub const FINISHED_TTL: Millis = 24 * 3_600_000;
/// Most sources of a user, and most bytes of their ids and names together: a row that grew without end could not be written,
/// and each look at it costs by its size.
pub const MAX_SOURCES: usize = 200;
/// See [`MAX_SOURCES`].
pub const MAX_SOURCES_BYTES: usize = 16 * 1024;
/// How long a ticket is good.
pub const TICKET_TTL: Millis = 3_600_000;
/// Live tickets of a user; the oldest goes first.
pub const MAX_TICKETS: usize = 8;
/// When DynamoDB may drop a row in which nothing must_not_expire any more; longer than anything in such a row is good for.
pub const IDLE_ROW_TTL: Millis = 25 * 3_600_000;

/// One user's row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The application's id of the user; absent only in a row that this project did not write.
    pub user: Option<UserIdText>,
    /// Id made with the row: tells this row from one that is made after a delete.
    pub born: String,
    /// The last lease's id; stays after release.
    pub lease_id: Option<String>,
    /// The lease's end; absent after release.
    pub lease_until: Option<Millis>,
    /// The request that was about to be sent. After the lease has ended, it is unresolved.
    pub pending: Option<Pending>,
    /// Whether a call waits that has seen the row with nothing else in it: the row then stays, so that a call can tell a
    /// delete from a row that went because nothing was in it.
    pub waited: bool,
    /// Leases that were taken over after they had asked Human API: its responses came too late to be stored.
    pub doubts: Vec<String>,
    /// Human API's id of the user. Only ever one that Human API itself tied to this user.
    pub human_id: Option<String>,
    /// The same, sealed: who can write to the table cannot tie another's humanId to this user.
    pub sealed_human_id: Option<Sealed>,
    /// For the popup's edit mode.
    pub public_token: Option<Sealed>,
    /// When `refresh` last brought a publicToken.
    pub public_token_refreshed_at: Option<Millis>,
    /// For the user's health data.
    pub access_token: Option<StoredAccessToken>,
    /// When Human API last failed to give an access token; who waited for that is answered alike.
    pub failed_at: Option<Millis>,
    /// Opens the Connect widget.
    pub widget_token: Option<StoredWidgetToken>,
    /// When `refresh` last brought a session or id token.
    pub widget_token_refreshed_at: Option<Millis>,
    /// The generation of the last finish.
    pub flow: Option<Flow>,
    /// What the widget reported as connected; for display, proves nothing.
    pub sources: Vec<Source>,
    /// Since when the user is connected; absent where not.
    pub connected_at: Option<Millis>,
    /// The last commit that stored tokens or ended a connection.
    pub updated_at: Option<Millis>,
    /// Human API said that the connection is gone.
    pub revoked: bool,
    /// An answer with tokens was lost for good; the value is the hash of the session that was spent on it.
    pub reconnect: Option<SessionHash>,
    /// The last sessions that were finished, and when.
    pub finished: BTreeMap<SessionHash, Millis>,
    /// Tickets of `finishUrl`s.
    pub tickets: BTreeMap<TicketHash, StoredTicket>,
}

/// The user id of a row; printable nowhere.
#[derive(Clone, PartialEq)]
pub struct UserIdText(pub UserId);

impl std::fmt::Debug for UserIdText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserId(…)")
    }
}

/// A stored access token.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAccessToken {
    /// The token.
    pub token: Sealed,
    /// What came with it.
    pub refresh: Option<Sealed>,
    /// When it expires; unknown for a popup's.
    pub expires_at: Option<Millis>,
    /// When it was obtained.
    pub obtained_at: Millis,
    /// VersionSelector request brought it: an exchange (popup) or `access` (connect).
    pub from: Flow,
}

/// A stored session or id token.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredWidgetToken {
    /// The token.
    pub token: Sealed,
    /// What came with it.
    pub refresh: Option<Sealed>,
    /// VersionSelector of the two it is.
    pub kind: WidgetTokenKind,
    /// When it expires.
    pub expires_at: Millis,
}

/// The two tokens that open the Connect widget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WidgetTokenKind {
    /// For a user without a connected source.
    Session,
    /// For a user with one.
    Id,
}

impl WidgetTokenKind {
    /// Its name on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session_token",
            Self::Id => "id_token",
        }
    }

    /// The widget's mode that it opens.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Session => "create",
            Self::Id => "edit",
        }
    }
}

/// A data source, as the widget reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Human API's id of it.
    pub id: String,
    /// Its name for people.
    pub name: String,
}

/// A ticket's row entry.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTicket {
    /// When it expires.
    pub until: Millis,
    /// The one session that it finished.
    pub spent_by: Option<SessionHash>,
}

/// What a holder asks Human API for.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// The lease that wrote it. A later call finds an id that is not its own, and so a request to resolve.
    pub by: String,
    /// Since when.
    pub since: Millis,
    /// What was asked for.
    pub request: Request,
}

/// The requests of which an answer can be lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A popup's exchange. All that is needed to do it again.
    Exchange(Box<Exchange>),
    /// An access token.
    Access,
    /// A publicToken.
    PublicToken,
    /// A session or id token: to lose one costs nothing.
    WidgetToken,
    /// Nothing: the row is leased to be resealed.
    Nothing,
}

/// A popup's exchange under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// What the request named. Not proven.
    pub human_id: String,
    /// The session token.
    pub session: Sealed,
    /// Its hash.
    pub hash: SessionHash,
    /// The ticket it came with.
    pub ticket: Option<TicketHash>,
}

impl Record {
    /// Whether a call has the lease: no other call may take it over yet.
    pub fn is_leased(&self, now: Millis) -> bool {
        self.lease_until.is_some_and(|until| now <= until + CLOCK_MARGIN)
    }

    /// Whether an answer of Human API is missing that nobody waits for any more.
    pub fn is_unresolved(&self, now: Millis) -> bool {
        !self.is_leased(now) && (self.pending.is_some() || !self.doubts.is_empty())
    }

    /// The row as it will be after the release.
    pub fn as_released(&self) -> Self {
        Self { lease_until: None, pending: None, ..self.clone() }
    }

    /// Whether the row has no content but a lease, now or once.
    pub fn is_bare(&self) -> bool {
        let bookkeeping = Self {
            user: self.user.clone(),
            born: self.born.clone(),
            lease_id: self.lease_id.clone(),
            lease_until: self.lease_until,
            pending: self.pending.clone(),
            ..Self::default()
        };
        *self == bookkeeping
    }

    /// Whether the row must not expire.
    pub fn must_not_expire(&self) -> bool {
        self.connected_at.is_some()
            || self.access_token.is_some()
            || self.public_token.is_some()
            || self.widget_token.is_some()
            || self.lease_until.is_some()
            || self.pending.is_some()
            || !self.doubts.is_empty()
            || self.reconnect.is_some()
            || self.revoked
    }

    /// The version of the sealing key that something in the row is sealed with: one that is not `current`, if there is one.
    pub fn sealed_with(&self, current: &str) -> Option<&str> {
        let access = self.access_token.iter().flat_map(|access| [Some(&access.token), access.refresh.as_ref()]);
        let start = self.widget_token.iter().flat_map(|start| [Some(&start.token), start.refresh.as_ref()]);
        let session = self.pending.as_ref().and_then(|pending| match &pending.request {
            Request::Exchange(exchange) => Some(&exchange.session),
            Request::Access | Request::PublicToken | Request::WidgetToken | Request::Nothing => None,
        });
        let others = [self.public_token.as_ref(), self.sealed_human_id.as_ref(), session];
        let versions = access.chain(start).chain(others).flatten().map(|sealed| sealed.version.as_str());
        versions.max_by_key(|version| *version != current)
    }

    /// The access token, if it may be handed out.
    pub fn serving_access_token(&self, now: Millis) -> Option<&StoredAccessToken> {
        self.access_token.as_ref().filter(|access| access.expires_at.is_none_or(|at| at - now >= MIN_REMAINING))
    }

    /// The session or id token, if it may be handed out.
    pub fn serving_widget_token(&self, now: Millis) -> Option<&StoredWidgetToken> {
        self.widget_token.as_ref().filter(|start| start.expires_at - now >= MIN_REMAINING)
    }

    /// Whether the popup cannot be opened for this user: known to Human API, but without publicToken and without a
    /// proven humanId to recover one.
    pub fn must_reconnect(&self) -> bool {
        let known = self.connected_at.is_some() || self.revoked;
        self.reconnect.is_some() || (known && self.public_token.is_none() && self.human_id.is_none())
    }

    /// Whether the publicToken is missing and there is a proven humanId to recover it with.
    pub fn lacks_public_token(&self) -> bool {
        self.public_token.is_none() && self.human_id.is_some()
    }

    /// Whether this session was finished within the time that is remembered.
    pub fn has_finished(&self, session: &SessionHash, now: Millis) -> bool {
        self.finished.get(session).is_some_and(|at| now - at < FINISHED_TTL)
    }

    /// The user has connected again: what was lost for good is so no more. The session that it was lost with counts as
    /// finished; Human API would only refuse it.
    pub fn clear_reconnect(&mut self, now: Millis) {
        if let Some(lost) = self.reconnect.take().filter(|lost| *lost != SessionHash::none()) {
            self.remember_finished(lost, now);
        }
    }

    /// Remembers a finished session; the oldest beyond [`MAX_FINISHED`] is forgotten.
    pub fn remember_finished(&mut self, session: SessionHash, now: Millis) {
        self.finished.retain(|_, at| now - *at < FINISHED_TTL);
        self.finished.insert(session, now);
        while self.finished.len() > MAX_FINISHED {
            let oldest = self.finished.iter().min_by_key(|(_, at)| **at).map(|(hash, _)| hash.clone());
            oldest.map(|hash| self.finished.remove(&hash));
        }
    }

    /// Ends the connection: its tokens are of no use any more.
    pub fn disconnect(&mut self, now: Millis) {
        self.access_token = None;
        self.widget_token = None;
        self.connected_at = None;
        self.sources.clear();
        self.updated_at = Some(now);
    }

    /// Takes over a humanId that Human API tied to this user. What belongs to another one is dropped.
    pub fn set_human_id(&mut self, human_id: String, proof: Sealed) {
        if self.human_id.as_ref().is_some_and(|known| *known != human_id) {
            self.public_token = None;
            self.access_token = None;
            self.connected_at = None;
            self.sources.clear();
        }
        self.human_id = Some(human_id);
        self.sealed_human_id = Some(proof);
    }

    /// Takes over what the widget reports, as far as there is room: the last ones.
    pub fn report(&mut self, sources: Vec<Source>) {
        let mut room = MAX_SOURCES_BYTES;
        let fits = |source: &Source| {
            let left = room.checked_sub(source.id.len() + source.name.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        self.sources = sources.into_iter().rev().take(MAX_SOURCES).take_while(fits).collect();
        self.sources.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> SessionHash {
        SessionHash(text.to_owned())
    }

    #[test]
    fn the_last_eight_sessions_are_remembered_for_a_day() {
        let mut record = Record::default();
        for i in 0..9 {
            record.remember_finished(hash(&i.to_string()), i);
        }
        assert!(!record.has_finished(&hash("0"), 9));
        assert!((1..9).all(|i| record.has_finished(&hash(&i.to_string()), 9)));
        assert!(!record.has_finished(&hash("8"), 8 + FINISHED_TTL));
    }

    #[test]
    fn a_lease_can_be_taken_over_only_after_the_margin() {
        let record = Record { lease_until: Some(1000), pending: None, ..Record::default() };
        assert!(record.is_leased(1000 + CLOCK_MARGIN));
        assert!(!record.is_leased(1001 + CLOCK_MARGIN));
    }

    #[test]
    fn a_row_with_tokens_a_lease_or_a_mark_must_not_expire() {
        let sealed = Sealed { version: "v".into(), bytes: vec![] };
        assert!(!Record::default().must_not_expire());
        assert!(Record { lease_until: Some(1), ..Record::default() }.must_not_expire());
        assert!(Record { doubts: vec!["x".into()], ..Record::default() }.must_not_expire());
        assert!(Record { public_token: Some(sealed), ..Record::default() }.must_not_expire());
        assert!(Record { reconnect: Some(hash("x")), ..Record::default() }.must_not_expire());
    }

    #[test]
    fn sources_without_end_do_not_fit_and_the_last_ones_stay() {
        let source = |number: usize, length| Source { id: number.to_string(), name: "n".repeat(length) };
        let mut record = Record::default();
        record.report((0..100).map(|number| source(number, 4000)).collect());
        assert_eq!(
            record.sources.iter().map(|source| source.id.as_str()).collect::<Vec<_>>(),
            ["96", "97", "98", "99"]
        );
        record.report((0..1000).map(|number| source(number, 1)).collect());
        assert_eq!((record.sources.len(), record.sources[199].id.as_str()), (MAX_SOURCES, "999"));
    }

    #[test]
    fn what_a_row_is_sealed_with_is_an_older_version_if_there_is_one() {
        let sealed = |version: &str| Sealed { version: version.into(), bytes: vec![] };
        let start = StoredWidgetToken { token: sealed("v2"), refresh: None, kind: WidgetTokenKind::Id, expires_at: 0 };
        let mut record = Record { widget_token: Some(start), public_token: Some(sealed("v2")), ..Record::default() };
        assert_eq!(Record::default().sealed_with("v2"), None);
        assert_eq!((record.sealed_with("v2"), record.sealed_with("v3")), (Some("v2"), Some("v2")));
        let session = Exchange { human_id: "h".into(), session: sealed("v1"), hash: hash("s"), ticket: None };
        let request = Request::Exchange(Box::new(session));
        record.pending = Some(Pending { by: "b".into(), since: 0, request });
        assert_eq!(record.sealed_with("v2"), Some("v1"));
        record.pending = None;
        record.widget_token.as_mut().unwrap().refresh = Some(sealed("v1"));
        assert_eq!(record.sealed_with("v2"), Some("v1"));
    }

    #[test]
    fn another_human_id_takes_the_old_ones_tokens_away() {
        let sealed = Sealed { version: "v".into(), bytes: vec![] };
        let mut record =
            Record { human_id: Some("one".into()), public_token: Some(sealed.clone()), ..Record::default() };
        record.set_human_id("one".into(), sealed.clone());
        assert!(record.public_token.is_some());
        record.set_human_id("two".into(), sealed);
        assert_eq!((record.public_token, record.human_id.as_deref()), (None, Some("two")));
    }
}
