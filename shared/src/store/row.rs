//! A user's row: the record, and the attributes of the protocol beside it. The writes of this module's parent name them too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::item::{Item, take};
use super::{StoreError, USER_KEY};
use crate::clock::Millis;
use crate::identity::{UserId, UserKey};
use crate::record::Record;
use crate::seal::Sealed;
use crate::token::{SessionHash, TicketHash};

/// A lease lasts this long from its write. Human API is assumed to perform a request within this time of its sending, or never.
pub const LEASE_DURATION: Millis = 26_000;
/// Clocks of two instances may disagree by this much: an expired lease is taken over only after it.
pub(super) const CLOCK_MARGIN: Millis = 2_000;
/// Finished sessions remembered of a user.
pub(super) const MAX_FINISHED: usize = 8;
pub(super) const FINISHED_TTL: Millis = 24 * 3_600_000;
pub(super) const TICKET_TTL: Millis = 3_600_000;
/// Live tickets of a user; the oldest goes first.
pub(super) const MAX_TICKETS: usize = 8;
/// DynamoDB may drop a row without content after this time. It is longer than anything in such a row is good for.
pub(super) const IDLE_ROW_TTL: Millis = 25 * 3_600_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub user: UserId,
    /// Random ID made with the row: tells it from one that is made after a delete.
    pub(super) generation: String,
    /// ID of the last lease; stays after release.
    pub(super) lease_id: Option<String>,
    /// Present if, and only if, a call is at work or something is unresolved. In the past, it says for how long.
    pub lease_until: Option<Millis>,
    /// The request that was about to be sent. After the lease has ended, it is unresolved.
    pub(super) pending: Option<Pending>,
    /// Leases that were taken over after they had asked Human API: its responses came too late to be stored.
    pub(super) taken_over: BTreeSet<String>,
    /// The last finished sessions, and when.
    pub(super) finished: BTreeMap<SessionHash, Millis>,
    pub tickets: BTreeMap<TicketHash, StoredTicket>,
    pub record: Record,
    /// DynamoDB's time to live, in seconds. DynamoDB may delete the row much later.
    pub(super) expires: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredTicket {
    pub good_until: Millis,
    /// The one session that it finished.
    pub spent_by: Option<SessionHash>,
}

/// A request that was about to be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The lease that wrote it. A later call finds an ID that is not its own, and so a request to resolve.
    pub by: String,
    pub since: Millis,
    pub request: Request,
}

/// The requests whose response can be lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// A popup's exchange, with all that is needed to send it again.
    Exchange(Box<Exchange>),
    Access,
    PublicToken,
    /// A session or ID token. A lost one costs nothing.
    WidgetToken,
    /// The row is leased to be resealed.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    /// The humanId that the request named. Not proven.
    pub human_id: String,
    pub session: Sealed,
    pub hash: SessionHash,
    pub ticket: Option<TicketHash>,
}

impl Row {
    pub(super) fn new(user: UserId, generation: String) -> Self {
        Self {
            user,
            generation,
            lease_id: None,
            lease_until: None,
            pending: None,
            taken_over: BTreeSet::new(),
            finished: BTreeMap::new(),
            tickets: BTreeMap::new(),
            record: Record::default(),
            expires: None,
        }
    }

    /// Reads an item of this user. An item that was copied from another user's key is not read.
    pub fn decode(key: &UserKey, mut item: Item) -> Result<Self, StoreError> {
        let item = &mut item;
        let row = Self {
            user: take(item, "clientUserId")?,
            generation: take(item, "generation")?,
            lease_id: take(item, "leaseId")?,
            lease_until: take(item, "leaseUntil")?,
            pending: take(item, "pending")?,
            taken_over: take::<Option<_>>(item, "takenOver")?.unwrap_or_default(),
            finished: take::<Option<_>>(item, "finished")?.unwrap_or_default(),
            tickets: take::<Option<_>>(item, "tickets")?.unwrap_or_default(),
            record: take::<Option<_>>(item, "userRecord")?.unwrap_or_default(),
            expires: take(item, "expires")?,
        };
        if row.user.key() == *key { Ok(row) } else { Err(StoreError::Unreadable("clientUserId")) }
    }

    /// Reads an image of the table's stream.
    pub fn decode_image(image: serde_dynamo::Item) -> Result<Self, StoreError> {
        let item = Item::from(image);
        let key = item.get(USER_KEY).and_then(|key| UserKey::parse(key.as_s().ok()?));
        Self::decode(&key.ok_or(StoreError::Unreadable(USER_KEY))?, item)
    }

    /// A call has the lease: no other call may take it over yet.
    pub fn is_leased(&self, now: Millis) -> bool {
        self.lease_until.is_some_and(|until| now <= until + CLOCK_MARGIN)
    }

    pub(super) fn has_expired(&self, now: Millis) -> bool {
        self.expires.is_some_and(|expires| expires.saturating_mul(1000) <= now)
    }

    /// A response of Human API is missing that no call waits for any more.
    pub fn is_unresolved(&self, now: Millis) -> bool {
        self.lease_until.is_some() && !self.is_leased(now)
    }

    /// Human API may have performed a request whose outcome is not in the record yet. A call may be at work on it.
    pub fn awaits_an_outcome(&self) -> bool {
        let is_request = |pending: &Pending| pending.request != Request::Nothing;
        self.lease_until.is_some() && (self.pending.as_ref().is_some_and(is_request) || !self.taken_over.is_empty())
    }

    /// The row as it will be after the release.
    pub fn as_released(&self) -> Self {
        Self { lease_until: None, pending: None, ..self.clone() }
    }

    /// Everything that is sealed in the row is sealed with this version of the key.
    pub fn is_sealed_with(&self, version: &str) -> bool {
        let session = self.pending.as_ref().and_then(|pending| match &pending.request {
            Request::Exchange(exchange) => Some(&exchange.session),
            _ => None,
        });
        self.record.clone().sealed_mut().all(|(_, sealed)| sealed.version == version)
            && session.is_none_or(|sealed| sealed.version == version)
    }

    /// This session was finished within the time that is remembered.
    pub fn has_finished(&self, session: &SessionHash, now: Millis) -> bool {
        self.finished.get(session).is_some_and(|at| now - at < FINISHED_TTL)
    }

    /// Remembers a finished session; the oldest beyond `MAX_FINISHED` is forgotten.
    pub fn remember_finished(&mut self, session: SessionHash, now: Millis) {
        self.finished.retain(|_, at| now - *at < FINISHED_TTL);
        self.finished.insert(session, now);
        while self.finished.len() > MAX_FINISHED {
            let oldest = self.finished.iter().min_by_key(|(_, at)| **at).map(|(hash, _)| hash.clone());
            oldest.map(|hash| self.finished.remove(&hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::record::{Flow, Source, StoredAccessToken, StoredWidgetToken, WidgetTokenKind};
    use crate::store::encode;

    fn hash(text: &str) -> SessionHash {
        SessionHash(text.to_owned())
    }

    fn sealed(version: &str) -> Sealed {
        Sealed { version: version.into(), bytes: vec![0, 255] }
    }

    fn row() -> Row {
        Row::new(UserId::new("ada").unwrap(), "g".into())
    }

    fn full() -> Row {
        let token = || sealed("v1");
        let access = StoredAccessToken {
            token: token(),
            refresh: Some(token()),
            expires_at: Some(2),
            obtained_at: 3,
            from: Flow::Connect,
        };
        let widget = StoredWidgetToken { token: token(), refresh: None, kind: WidgetTokenKind::Id, expires_at: 4 };
        let exchange =
            Exchange { human_id: "h".into(), session: token(), hash: hash("s"), ticket: Some(TicketHash("t".into())) };
        Row {
            lease_id: Some("l".into()),
            lease_until: Some(1),
            pending: Some(Pending { by: "l".into(), since: 9, request: Request::Exchange(Box::new(exchange)) }),
            taken_over: BTreeSet::from(["d".into()]),
            finished: BTreeMap::from([(hash("f"), 8)]),
            tickets: BTreeMap::from([
                (TicketHash("t".into()), StoredTicket { good_until: 7, spent_by: Some(hash("s")) }),
                (TicketHash("u".into()), StoredTicket { good_until: 7, spent_by: None }),
            ]),
            record: Record {
                human_id: Some("h".into()),
                sealed_human_id: Some(token()),
                public_token: Some(token()),
                access_token: Some(access),
                widget_token: Some(widget),
                flow: Some(Flow::Popup),
                sources: vec![Source { id: "1".into(), name: "Made-up Clinic".into() }],
                connected_at: Some(6),
                revoked: true,
                lost_session: Some(hash("x")),
                ..Record::default()
            },
            ..row()
        }
    }

    fn item(row: &Row) -> Item {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let attributes = [
            ("clientUserId", text(row.user.as_str())),
            ("generation", text(&row.generation)),
            ("leaseId", encode(&row.lease_id)),
            ("leaseUntil", encode(&row.lease_until)),
            ("pending", encode(&row.pending)),
            ("takenOver", AttributeValue::Ss(row.taken_over.iter().cloned().collect())),
            ("finished", encode(&row.finished)),
            ("tickets", encode(&row.tickets)),
            ("userRecord", encode(&row.record)),
            ("expires", encode(&row.expires)),
        ];
        attributes.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn a_row_survives_its_item() {
        let key = UserId::new("ada").unwrap().key();
        for request in [Request::Access, Request::PublicToken, Request::WidgetToken, Request::Nothing] {
            let pending = Some(Pending { by: "l".into(), since: 9, request });
            let row = Row { pending, ..full() };
            assert_eq!(Row::decode(&key, item(&row)).unwrap(), row);
        }
        assert_eq!(Row::decode(&key, item(&full())).unwrap(), full());
        assert!(Row::decode(&UserId::new("eve").unwrap().key(), item(&full())).is_err(), "a copy");
    }

    #[test]
    fn an_unreadable_row_names_its_attribute() {
        let key = UserId::new("ada").unwrap().key();
        let change = |path: &[&str], value: AttributeValue| {
            let mut item = item(&full());
            let mut fields = &mut item;
            for name in &path[..path.len() - 1] {
                fields = match fields.get_mut(*name) {
                    Some(AttributeValue::M(inner)) => inner,
                    other => panic!("{other:?}"),
                };
            }
            fields.insert(path[path.len() - 1].to_owned(), value);
            Row::decode(&key, item).unwrap_err().to_string()
        };
        let text = || AttributeValue::S("made-up".into());
        assert_eq!(change(&["leaseUntil"], text()), "the stored leaseUntil cannot be read");
        assert_eq!(change(&["userRecord", "flow"], text()), "the stored userRecord cannot be read");
        assert!(change(&["userRecord", "accessToken", "token", "sealed"], text()).contains("userRecord"));
        assert!(change(&["pending", "request"], text()).contains("pending"));
        assert!(change(&["generation"], AttributeValue::N("1".into())).contains("generation"));
        for number in ["1152921504606846976", "-9223372036854775808", "1e3", "1.5"] {
            assert!(change(&["userRecord", "connectedAt"], AttributeValue::N(number.into())).contains("userRecord"));
        }
        let mut bare = item(&full());
        bare.remove("generation");
        assert!(Row::decode(&key, bare).unwrap_err().to_string().contains("generation"));
    }

    #[test]
    fn the_last_eight_sessions_are_remembered_for_a_day() {
        let mut row = row();
        for i in 0..9 {
            row.remember_finished(hash(&i.to_string()), i);
        }
        assert!(!row.has_finished(&hash("0"), 9));
        assert!((1..9).all(|i| row.has_finished(&hash(&i.to_string()), 9)));
        assert!(!row.has_finished(&hash("8"), 8 + FINISHED_TTL));
        // the older ones are forgotten then
        row.remember_finished(hash("new"), 7 + FINISHED_TTL);
        assert_eq!(row.finished.into_keys().collect::<Vec<_>>(), [hash("8"), hash("new")]);
    }

    #[test]
    fn a_row_is_unresolved_after_its_lease_and_released_without_one() {
        let leased = |until| Row { lease_until: until, ..full() };
        for (until, is_unresolved) in [(None, false), (Some(1000), false), (Some(999), true)] {
            assert_eq!(leased(until).is_unresolved(1000 + CLOCK_MARGIN), is_unresolved, "{until:?}");
        }
        assert_eq!(full().as_released(), Row { lease_until: None, pending: None, ..full() });
    }

    #[test]
    fn a_row_is_sealed_with_a_version_if_everything_in_it_is() {
        assert!(full().is_sealed_with("v1") && !full().is_sealed_with("v2"));
        assert!(row().is_sealed_with("v2"), "nothing is sealed");
        let mut other = full();
        other.record.public_token = Some(sealed("v2"));
        assert!(!other.is_sealed_with("v1"));
        let mut other = full();
        if let Some(Request::Exchange(exchange)) = other.pending.as_mut().map(|pending| &mut pending.request) {
            exchange.session = sealed("v2");
        }
        assert!(!other.is_sealed_with("v1"));
    }

    #[test]
    fn a_row_is_absent_from_the_second_of_its_expiry() {
        let row = Row { expires: Some(7), ..row() };
        assert!(!row.has_expired(6_999) && row.has_expired(7_000));
    }

    #[test]
    fn a_lease_can_be_taken_over_only_after_the_margin() {
        let row = Row { lease_until: Some(1000), ..row() };
        assert!(row.is_leased(1000 + CLOCK_MARGIN));
        assert!(!row.is_leased(1001 + CLOCK_MARGIN));
    }
}
