//! A change of a row, as the table's stream tells it, and the events that it means.

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use shared::clock::{Millis, parse_rfc3339, rfc3339};
use shared::record::Record;
use shared::store::Row;

/// DynamoDB itself deletes expired rows. Source: DynamoDB's guide, "DynamoDB Streams and Time to Live".
const TIME_TO_LIVE: &str = "dynamodb.amazonaws.com";

/// A record of the stream, as Lambda hands it over or the AWS CLI prints it.
pub struct Change {
    id: String,
    pub sequence_number: String,
    at: Millis,
    is_expiry: bool,
    before: Option<Row>,
    after: Option<Row>,
}

/// Why a record cannot be read. It has nothing of the record's content.
#[derive(Debug)]
pub struct Unreadable {
    pub sequence_number: Option<String>,
    pub problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connected,
    Updated,
    Revoked,
    ReconnectRequired,
    Forgotten,
}

/// What has become of a user's connection.
pub struct Event {
    pub kind: Kind,
    /// The same if the record is delivered again.
    pub id: String,
    pub occurred_at: Millis,
    user: String,
    record: Record,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StreamRecord {
    #[serde(rename = "eventID")]
    event_id: String,
    user_identity: Option<UserIdentity>,
    dynamodb: Images,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserIdentity {
    #[serde(alias = "PrincipalId")]
    principal_id: String,
}

/// Lambda hands over a number. The AWS CLI prints a text, and `docs/events.md` hands that over.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(f64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Images {
    approximate_creation_date_time: Time,
    sequence_number: String,
    old_image: Option<serde_dynamo::Item>,
    new_image: Option<serde_dynamo::Item>,
}

/// The part of a record that is needed to speak of it.
#[derive(Deserialize)]
struct Numbered {
    dynamodb: Number,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Number {
    sequence_number: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

/// The records of a stream's event.
pub fn records(event: &RawValue) -> Result<Vec<&RawValue>, String> {
    let batch: Batch<'_> = serde_json::from_str(event.get()).map_err(|_| "Records must be a list of stream records")?;
    Ok(batch.records)
}

impl Change {
    pub fn read(record: &RawValue) -> Result<Self, Unreadable> {
        let unreadable = |problem: String| {
            let numbered: Option<Numbered> = serde_json::from_str(record.get()).ok();
            Unreadable { sequence_number: numbered.map(|numbered| numbered.dynamodb.sequence_number), problem }
        };
        // the error is not logged, because it can quote the record
        let read: StreamRecord =
            serde_json::from_str(record.get()).map_err(|_| unreadable("it is no record of a stream".to_owned()))?;
        let Images { approximate_creation_date_time, sequence_number, old_image, new_image } = read.dynamodb;
        let at = match approximate_creation_date_time {
            Time::Seconds(seconds) => Some((seconds * 1000.0) as Millis),
            Time::Text(text) => parse_rfc3339(&text),
        };
        let row = |image: Option<serde_dynamo::Item>| {
            image.map(Row::decode_image).transpose().map_err(|error| unreadable(error.to_string()))
        };
        Ok(Self {
            id: read.event_id,
            sequence_number,
            at: at.ok_or_else(|| unreadable("its time is none".to_owned()))?,
            is_expiry: read.user_identity.is_some_and(|identity| identity.principal_id == TIME_TO_LIVE),
            before: row(old_image)?,
            after: row(new_image)?,
        })
    }

    /// The events of this change, in their order.
    pub fn events(&self) -> Vec<Event> {
        let (old, new) = (self.before.as_ref(), self.after.as_ref());
        let Some(row) = new.or(old).filter(|_| !self.is_expiry) else { return Vec::new() };
        let kinds = kinds(old.map(|row| &row.record), new.map(|row| &row.record));
        let event = |kind: Kind| Event {
            kind,
            id: format!("{}-{}", self.id, kind.suffix()),
            occurred_at: self.at,
            user: row.user.as_str().to_owned(),
            // a connection also ends if Human API names another humanId
            record: old.filter(|_| kind == Kind::Revoked).unwrap_or(row).record.clone(),
        };
        kinds.into_iter().map(event).collect()
    }
}

/// What a change of the record means for the user's connection. No record: the row is not there.
pub fn kinds(before: Option<&Record>, after: Option<&Record>) -> Vec<Kind> {
    let none = Record::default();
    let before = before.unwrap_or(&none);
    let Some(after) = after else {
        // a row with tickets only was never a connection
        let was_known = before.connected_at.is_some() || before.revoked || before.reconnect;
        return was_known.then_some(Kind::Forgotten).into_iter().collect();
    };
    let is_updated = after.sources != before.sources || after.finishes != before.finishes;
    let connection = match (before.connected_at.is_some(), after.connected_at.is_some()) {
        (false, true) => Some(Kind::Connected),
        (true, true) => is_updated.then_some(Kind::Updated),
        (true, false) => Some(Kind::Revoked),
        (false, false) => None,
    };
    let reconnect = (after.reconnect && !before.reconnect).then_some(Kind::ReconnectRequired);
    connection.into_iter().chain(reconnect).collect()
}

impl Kind {
    pub fn detail_type(self) -> &'static str {
        match self {
            Self::Connected => "Connection Connected",
            Self::Updated => "Connection Updated",
            Self::Revoked => "Connection Revoked",
            Self::ReconnectRequired => "Connection Reconnect Required",
            Self::Forgotten => "Connection Forgotten",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Updated => "updated",
            Self::Revoked => "revoked",
            Self::ReconnectRequired => "reconnect-required",
            Self::Forgotten => "forgotten",
        }
    }
}

impl Event {
    /// The event's detail. A connection that has ended has no sources any more.
    pub fn detail(&self, service: &str) -> Value {
        let sources =
            if matches!(self.kind, Kind::Forgotten | Kind::Revoked) { &[] } else { self.record.sources.as_slice() };
        json!({
            "id": self.id,
            "service": service,
            "clientUserId": self.user,
            "humanId": self.record.human_id,
            "flow": self.record.flow,
            "sources": sources,
            "occurredAt": rfc3339(self.occurred_at),
        })
    }
}
