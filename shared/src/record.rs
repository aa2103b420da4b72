//! What is stored about one user: one item, everything in it. How it looks in DynamoDB is in `item`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::config::Flow;
use crate::identity::UserId;
use crate::seal::Sealed;
use crate::token::{SessionHash, TicketHash};

pub mod item;

/// A hold lasts this long from its write. Human API is assumed to perform a request within this time of its sending, or never.
pub const HOLD: Millis = 26_000;
/// Clocks of two instances may disagree by this much: an ended hold is taken over only after it.
pub const CLOCK_MARGIN: Millis = 2_000;
/// A stored token is handed out while at least this much of its time is left.
pub const LEAST_LEFT: Millis = 5 * 60_000;
/// A refresh that is asked for within this time of the last is answered with what that brought.
pub const REFRESH_WINDOW: Millis = 10_000;
/// Finished sessions remembered of a user.
pub const FINISHED_KEPT: usize = 8;
/// How long a finished session is remembered.
pub const FINISHED_FOR: Millis = 24 * 3_600_000;
/// Most sources of a user, and most bytes of their ids and names together: a row that grew without end could not be written,
/// and each look at it costs by its size.
pub const SOURCES_KEPT: usize = 200;
/// See [`SOURCES_KEPT`].
pub const SOURCES_BYTES: usize = 16 * 1024;
/// How long a ticket is good.
pub const TICKET_FOR: Millis = 3_600_000;
/// Live tickets of a user; the oldest goes first.
pub const TICKETS_KEPT: usize = 8;
/// When DynamoDB may drop a row in which nothing matters any more; longer than anything in such a row is good for.
pub const IDLE_ROW_FOR: Millis = 25 * 3_600_000;

/// One user's row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The application's id of the user; absent only in a row that this project did not write.
    pub user: Option<UserIdText>,
    /// The first hold's id: tells this row from one that is made after a delete.
    pub born: String,
    /// The last hold's id; stays after the hold has ended.
    pub hold: Option<String>,
    /// Until when the hold lasts; absent when it was given back.
    pub held_until: Option<Millis>,
    /// What the holder asks Human API for. After a hold has ended: what is unresolved.
    pub inflight: Option<Inflight>,
    /// Whether a call waits that has seen the row with nothing else in it: the row then stays, so that a call can tell a
    /// delete from a row that went because nothing was in it.
    pub waited: bool,
    /// Holds that were taken over while Human API worked for them: its answers came too late to be stored.
    pub doubts: Vec<String>,
    /// Human API's id of the user. Only ever one that Human API itself tied to this user.
    pub human_id: Option<String>,
    /// The same, sealed: who can write to the table cannot tie another's humanId to this user.
    pub human_proof: Option<Sealed>,
    /// For the popup's edit mode.
    pub public: Option<Sealed>,
    /// When `refresh` last brought a publicToken.
    pub public_refreshed_at: Option<Millis>,
    /// For the user's health data.
    pub access: Option<Access>,
    /// When Human API last failed to give an access token; who waited for that is answered alike.
    pub failed_at: Option<Millis>,
    /// Opens the Connect widget.
    pub start: Option<Start>,
    /// When `refresh` last brought a session or id token.
    pub start_refreshed_at: Option<Millis>,
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
pub struct Access {
    /// The token.
    pub token: Sealed,
    /// What came with it.
    pub refresh: Option<Sealed>,
    /// When it expires; unknown for a popup's.
    pub expires_at: Option<Millis>,
    /// When it was obtained.
    pub obtained_at: Millis,
    /// Which request brought it: an exchange (popup) or `access` (connect).
    pub from: Flow,
}

/// A stored session or id token.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The token.
    pub token: Sealed,
    /// What came with it.
    pub refresh: Option<Sealed>,
    /// Which of the two it is.
    pub kind: StartKind,
    /// When it expires.
    pub expires_at: Millis,
}

/// The two tokens that open the Connect widget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartKind {
    /// For a user without a connected source.
    Session,
    /// For a user with one.
    Id,
}

impl StartKind {
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
pub struct Inflight {
    /// The hold that wrote it: a later holder finds an id that is not its own, and with it work to resolve.
    pub by: String,
    /// Since when.
    pub since: Millis,
    /// What was asked for.
    pub request: Asked,
}

/// The requests of which an answer can be lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// A popup's exchange. All that is needed to do it again.
    Exchange(Box<Exchange>),
    /// An access token.
    Access,
    /// A publicToken.
    Public,
    /// A session or id token: to lose one costs nothing.
    Start,
    /// Nothing: the row is held to be sealed anew.
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
    /// Whether a call holds the row: no other may take it over yet.
    pub fn held(&self, now: Millis) -> bool {
        self.held_until.is_some_and(|until| now <= until + CLOCK_MARGIN)
    }

    /// Whether an answer of Human API is missing that nobody waits for any more.
    pub fn unresolved(&self, now: Millis) -> bool {
        !self.held(now) && (self.inflight.is_some() || !self.doubts.is_empty())
    }

    /// The row as it will look when its holder, who asks this, has given it back.
    pub fn as_given_back(&self) -> Self {
        Self { held_until: None, inflight: None, ..self.clone() }
    }

    /// Whether the row says nothing but that somebody holds or held it.
    pub fn is_bare(&self) -> bool {
        let bookkeeping = Self {
            user: self.user.clone(),
            born: self.born.clone(),
            hold: self.hold.clone(),
            held_until: self.held_until,
            inflight: self.inflight.clone(),
            ..Self::default()
        };
        *self == bookkeeping
    }

    /// Whether the row must not expire.
    pub fn matters(&self) -> bool {
        self.connected_at.is_some()
            || self.access.is_some()
            || self.public.is_some()
            || self.start.is_some()
            || self.held_until.is_some()
            || self.inflight.is_some()
            || !self.doubts.is_empty()
            || self.reconnect.is_some()
            || self.revoked
    }

    /// The version of the sealing key that something in the row is sealed with: one that is not `current`, if there is one.
    pub fn sealed_with(&self, current: &str) -> Option<&str> {
        let access = self.access.iter().flat_map(|access| [Some(&access.token), access.refresh.as_ref()]);
        let start = self.start.iter().flat_map(|start| [Some(&start.token), start.refresh.as_ref()]);
        let session = self.inflight.as_ref().and_then(|inflight| match &inflight.request {
            Asked::Exchange(exchange) => Some(&exchange.session),
            Asked::Access | Asked::Public | Asked::Start | Asked::Nothing => None,
        });
        let others = [self.public.as_ref(), self.human_proof.as_ref(), session];
        let versions = access.chain(start).chain(others).flatten().map(|sealed| sealed.version.as_str());
        versions.max_by_key(|version| *version != current)
    }

    /// The access token, if it may be handed out.
    pub fn serving_access(&self, now: Millis) -> Option<&Access> {
        self.access.as_ref().filter(|access| access.expires_at.is_none_or(|at| at - now >= LEAST_LEFT))
    }

    /// The session or id token, if it may be handed out.
    pub fn serving_start(&self, now: Millis) -> Option<&Start> {
        self.start.as_ref().filter(|start| start.expires_at - now >= LEAST_LEFT)
    }

    /// Whether the popup cannot be opened for this user: known to Human API, but without publicToken and without a
    /// proven humanId to recover one.
    pub fn must_reconnect(&self) -> bool {
        let known = self.connected_at.is_some() || self.revoked;
        self.reconnect.is_some() || (known && self.public.is_none() && self.human_id.is_none())
    }

    /// Whether the publicToken is missing and there is a proven humanId to recover it with.
    pub fn lacks_public_token(&self) -> bool {
        self.public.is_none() && self.human_id.is_some()
    }

    /// Whether this session was finished within the time that is remembered.
    pub fn has_finished(&self, session: &SessionHash, now: Millis) -> bool {
        self.finished.get(session).is_some_and(|at| now - at < FINISHED_FOR)
    }

    /// The user has connected again: what was lost for good is so no more. The session that it was lost with counts as
    /// finished; Human API would only refuse it.
    pub fn make_good(&mut self, now: Millis) {
        if let Some(lost) = self.reconnect.take().filter(|lost| *lost != SessionHash::none()) {
            self.remember_finished(lost, now);
        }
    }

    /// Remembers a finished session; the oldest beyond [`FINISHED_KEPT`] is forgotten.
    pub fn remember_finished(&mut self, session: SessionHash, now: Millis) {
        self.finished.retain(|_, at| now - *at < FINISHED_FOR);
        self.finished.insert(session, now);
        while self.finished.len() > FINISHED_KEPT {
            let oldest = self.finished.iter().min_by_key(|(_, at)| **at).map(|(hash, _)| hash.clone());
            oldest.map(|hash| self.finished.remove(&hash));
        }
    }

    /// Ends the connection: its tokens are of no use any more.
    pub fn end(&mut self, now: Millis) {
        self.access = None;
        self.start = None;
        self.connected_at = None;
        self.sources.clear();
        self.updated_at = Some(now);
    }

    /// Takes over a humanId that Human API tied to this user. What belongs to another one is dropped.
    pub fn prove(&mut self, human_id: String, proof: Sealed) {
        if self.human_id.as_ref().is_some_and(|known| *known != human_id) {
            self.public = None;
            self.access = None;
            self.connected_at = None;
            self.sources.clear();
        }
        self.human_id = Some(human_id);
        self.human_proof = Some(proof);
    }

    /// Takes over what the widget reports, as far as there is room: the last ones.
    pub fn report(&mut self, sources: Vec<Source>) {
        let mut room = SOURCES_BYTES;
        let fits = |source: &Source| {
            let left = room.checked_sub(source.id.len() + source.name.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        self.sources = sources.into_iter().rev().take(SOURCES_KEPT).take_while(fits).collect();
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
        assert!(!record.has_finished(&hash("8"), 8 + FINISHED_FOR));
    }

    #[test]
    fn a_hold_can_be_taken_over_only_after_the_margin() {
        let record = Record { held_until: Some(1000), inflight: None, ..Record::default() };
        assert!(record.held(1000 + CLOCK_MARGIN));
        assert!(!record.held(1001 + CLOCK_MARGIN));
    }

    #[test]
    fn a_row_with_tokens_a_hold_or_a_mark_matters() {
        let sealed = Sealed { version: "v".into(), bytes: vec![] };
        assert!(!Record::default().matters());
        assert!(Record { held_until: Some(1), ..Record::default() }.matters());
        assert!(Record { doubts: vec!["x".into()], ..Record::default() }.matters());
        assert!(Record { public: Some(sealed), ..Record::default() }.matters());
        assert!(Record { reconnect: Some(hash("x")), ..Record::default() }.matters());
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
        assert_eq!((record.sources.len(), record.sources[199].id.as_str()), (SOURCES_KEPT, "999"));
    }

    #[test]
    fn what_a_row_is_sealed_with_is_an_older_version_if_there_is_one() {
        let sealed = |version: &str| Sealed { version: version.into(), bytes: vec![] };
        let start = Start { token: sealed("v2"), refresh: None, kind: StartKind::Id, expires_at: 0 };
        let mut record = Record { start: Some(start), public: Some(sealed("v2")), ..Record::default() };
        assert_eq!(Record::default().sealed_with("v2"), None);
        assert_eq!((record.sealed_with("v2"), record.sealed_with("v3")), (Some("v2"), Some("v2")));
        let session = Exchange { human_id: "h".into(), session: sealed("v1"), hash: hash("s"), ticket: None };
        let request = Asked::Exchange(Box::new(session));
        record.inflight = Some(Inflight { by: "b".into(), since: 0, request });
        assert_eq!(record.sealed_with("v2"), Some("v1"));
        record.inflight = None;
        record.start.as_mut().unwrap().refresh = Some(sealed("v1"));
        assert_eq!(record.sealed_with("v2"), Some("v1"));
    }

    #[test]
    fn another_human_id_takes_the_old_ones_tokens_away() {
        let sealed = Sealed { version: "v".into(), bytes: vec![] };
        let mut record = Record { human_id: Some("one".into()), public: Some(sealed.clone()), ..Record::default() };
        record.prove("one".into(), sealed.clone());
        assert!(record.public.is_some());
        record.prove("two".into(), sealed);
        assert_eq!((record.public, record.human_id.as_deref()), (None, Some("two")));
    }
}
