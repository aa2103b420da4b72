//! A [`Record`] as a DynamoDB item. Nothing else knows attribute names.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Exchange, Pending, Record, Request, Source, StoredAccessToken, StoredTicket, StoredWidgetToken, UserIdText,
    WidgetTokenKind,
};
use crate::clock::Millis;
use crate::config::Flow;
use crate::identity::UserId;
use crate::seal::Sealed;
use crate::token::{SessionHash, TicketHash};

/// The partition key.
pub(crate) const USER_KEY: &str = "userKey";
/// DynamoDB's time to live, in seconds.
pub(crate) const EXPIRES: &str = "expires";
pub(crate) const USER: &str = "clientUserId";
pub(crate) const BORN: &str = "born";
pub(crate) const LEASE_ID: &str = "leaseId";
pub(crate) const LEASE_UNTIL: &str = "leaseUntil";
pub(crate) const PENDING: &str = "pending";
/// Since when the row has something to be resolved: the key of an index, for the sweeper.
pub(crate) const UNRESOLVED_SINCE: &str = "unresolvedSince";
/// VersionId of a sealing key that something in the row is sealed with, an older one if there is one: the key of an index.
pub(crate) const SEALED_WITH: &str = "sealedWith";
pub(crate) const WAITED: &str = "waited";
pub(crate) const DOUBTS: &str = "doubts";
pub(crate) const FINISHED: &str = "finished";
pub(crate) const TICKETS: &str = "tickets";
pub(crate) const UNTIL: &str = "until";
pub(crate) const SPENT_BY: &str = "spentBy";

/// An item, as the SDK has it.
pub type Item = HashMap<String, AttributeValue>;

/// An attribute that this project did not write so.
#[derive(Debug, thiserror::Error)]
#[error("the stored {0} cannot be read")]
pub struct Unreadable(pub(crate) &'static str);

/// Reads an item.
pub fn decode(item: &Item) -> Result<Record, Unreadable> {
    Ok(Record {
        user: match text(item, USER)? {
            Some(id) => Some(UserIdText(UserId::new(id).ok_or(Unreadable(USER))?)),
            None => None,
        },
        born: text(item, BORN)?.ok_or(Unreadable(BORN))?,
        lease_id: text(item, LEASE_ID)?,
        lease_until: number(item, LEASE_UNTIL)?,
        pending: map(item, PENDING)?.map(decode_pending).transpose()?,
        waited: item.contains_key(WAITED),
        doubts: match item.get(DOUBTS) {
            Some(AttributeValue::Ss(ids)) => ids.clone(),
            Some(_) => return Err(Unreadable(DOUBTS)),
            None => Vec::new(),
        },
        human_id: text(item, "humanId")?,
        sealed_human_id: sealed(item, "sealedHumanId")?,
        public_token: sealed(item, "publicToken")?,
        public_token_refreshed_at: number(item, "publicTokenRefreshedAt")?,
        access_token: map(item, "accessToken")?.map(decode_access).transpose()?,
        failed_at: number(item, "failedAt")?,
        widget_token: map(item, "widgetToken")?.map(decode_start).transpose()?,
        widget_token_refreshed_at: number(item, "widgetTokenRefreshedAt")?,
        flow: match text(item, "flow")? {
            Some(name) => Some(Flow::parse(&name).ok_or(Unreadable("flow"))?),
            None => None,
        },
        sources: match text(item, "sources")? {
            Some(json) => serde_json::from_str(&json).map_err(|_| Unreadable("sources"))?,
            None => Vec::new(),
        },
        connected_at: number(item, "connectedAt")?,
        updated_at: number(item, "updatedAt")?,
        revoked: item.contains_key("revoked"),
        reconnect: text(item, "reconnect")?.map(SessionHash),
        finished: match map(item, FINISHED)? {
            Some(finished) => finished
                .keys()
                .map(|hash| Ok((SessionHash(hash.clone()), number_in(finished, hash, FINISHED)?)))
                .collect::<Result<_, _>>()?,
            None => BTreeMap::new(),
        },
        tickets: match map(item, TICKETS)? {
            Some(tickets) => tickets
                .iter()
                .map(|(hash, ticket)| Ok((TicketHash(hash.clone()), decode_ticket(ticket)?)))
                .collect::<Result<_, _>>()?,
            None => BTreeMap::new(),
        },
    })
}

/// What a commit writes: each attribute with its value, or `None` to remove it. Left out: the key, what the hold itself
/// writes, and tickets (they are written one by one).
pub fn encode(record: &Record) -> Vec<(&'static str, Option<AttributeValue>)> {
    let Record {
        user,
        human_id,
        sealed_human_id,
        public_token,
        public_token_refreshed_at,
        access_token,
        widget_token,
        widget_token_refreshed_at,
        failed_at,
        ..
    } = record;
    let Record { flow, sources, connected_at, updated_at, revoked, reconnect, finished, .. } = record;
    let s = |text: &str| AttributeValue::S(text.to_owned());
    let n = |number: &Millis| AttributeValue::N(number.to_string());
    vec![
        (USER, user.as_ref().map(|user| s(user.0.as_str()))),
        ("humanId", human_id.as_deref().map(s)),
        ("sealedHumanId", sealed_human_id.as_ref().map(encode_sealed)),
        ("publicToken", public_token.as_ref().map(encode_sealed)),
        ("publicTokenRefreshedAt", public_token_refreshed_at.as_ref().map(n)),
        ("accessToken", access_token.as_ref().map(encode_access)),
        ("widgetToken", widget_token.as_ref().map(encode_start)),
        ("failedAt", failed_at.as_ref().map(n)),
        ("widgetTokenRefreshedAt", widget_token_refreshed_at.as_ref().map(n)),
        ("flow", flow.map(|flow| s(flow.as_str()))),
        ("sources", (!sources.is_empty()).then(|| encode_sources(sources))),
        ("connectedAt", connected_at.as_ref().map(n)),
        ("updatedAt", updated_at.as_ref().map(n)),
        ("revoked", revoked.then_some(AttributeValue::Bool(true))),
        ("reconnect", reconnect.as_ref().map(|hash| s(&hash.0))),
        (
            FINISHED,
            (!finished.is_empty())
                .then(|| AttributeValue::M(finished.iter().map(|(hash, at)| (hash.0.clone(), n(at))).collect())),
        ),
    ]
}

fn encode_sources(sources: &[Source]) -> AttributeValue {
    // strings only: cannot fail
    AttributeValue::S(serde_json::to_string(sources).unwrap_or_else(|_| "[]".to_owned()))
}

/// An [`Pending`] as its attribute.
pub(crate) fn encode_pending(pending: &Pending) -> AttributeValue {
    let mut map = Item::from([
        ("by".to_owned(), AttributeValue::S(pending.by.clone())),
        ("since".to_owned(), AttributeValue::N(pending.since.to_string())),
    ]);
    let kind = match &pending.request {
        Request::Exchange(exchange) => {
            map.insert("humanId".to_owned(), AttributeValue::S(exchange.human_id.clone()));
            map.insert("session".to_owned(), encode_sealed(&exchange.session));
            map.insert("hash".to_owned(), AttributeValue::S(exchange.hash.0.clone()));
            if let Some(ticket) = &exchange.ticket {
                map.insert("ticket".to_owned(), AttributeValue::S(ticket.0.clone()));
            }
            "exchange"
        }
        Request::Access => "access",
        Request::PublicToken => "public",
        Request::WidgetToken => "widgetToken",
        Request::Nothing => "nothing",
    };
    map.insert("request".to_owned(), AttributeValue::S(kind.to_owned()));
    AttributeValue::M(map)
}

fn decode_pending(map: &Item) -> Result<Pending, Unreadable> {
    let unreadable = || Unreadable(PENDING);
    let request = match text(map, "request")?.as_deref() {
        Some("exchange") => Request::Exchange(Box::new(Exchange {
            human_id: text(map, "humanId")?.ok_or_else(unreadable)?,
            session: sealed(map, "session")?.ok_or_else(unreadable)?,
            hash: SessionHash(text(map, "hash")?.ok_or_else(unreadable)?),
            ticket: text(map, "ticket")?.map(TicketHash),
        })),
        Some("access") => Request::Access,
        Some("public") => Request::PublicToken,
        Some("widgetToken") => Request::WidgetToken,
        Some("nothing") => Request::Nothing,
        _ => return Err(unreadable()),
    };
    Ok(Pending { by: text(map, "by")?.ok_or_else(unreadable)?, since: number_in(map, "since", PENDING)?, request })
}

fn encode_access(access: &StoredAccessToken) -> AttributeValue {
    let mut map = Item::from([
        ("token".to_owned(), encode_sealed(&access.token)),
        ("obtainedAt".to_owned(), AttributeValue::N(access.obtained_at.to_string())),
        ("from".to_owned(), AttributeValue::S(access.from.as_str().to_owned())),
    ]);
    if let Some(refresh) = &access.refresh {
        map.insert("refresh".to_owned(), encode_sealed(refresh));
    }
    if let Some(at) = access.expires_at {
        map.insert("expiresAt".to_owned(), AttributeValue::N(at.to_string()));
    }
    AttributeValue::M(map)
}

fn decode_access(map: &Item) -> Result<StoredAccessToken, Unreadable> {
    Ok(StoredAccessToken {
        token: sealed(map, "token")?.ok_or(Unreadable("accessToken"))?,
        refresh: sealed(map, "refresh")?,
        expires_at: number(map, "expiresAt")?,
        obtained_at: number_in(map, "obtainedAt", "accessToken")?,
        from: text(map, "from")?.and_then(|name| Flow::parse(&name)).ok_or(Unreadable("accessToken"))?,
    })
}

fn encode_start(start: &StoredWidgetToken) -> AttributeValue {
    let mut map = Item::from([
        ("token".to_owned(), encode_sealed(&start.token)),
        ("kind".to_owned(), AttributeValue::S(start.kind.as_str().to_owned())),
        ("expiresAt".to_owned(), AttributeValue::N(start.expires_at.to_string())),
    ]);
    if let Some(refresh) = &start.refresh {
        map.insert("refresh".to_owned(), encode_sealed(refresh));
    }
    AttributeValue::M(map)
}

fn decode_start(map: &Item) -> Result<StoredWidgetToken, Unreadable> {
    Ok(StoredWidgetToken {
        token: sealed(map, "token")?.ok_or(Unreadable("widgetToken"))?,
        refresh: sealed(map, "refresh")?,
        kind: match text(map, "kind")?.as_deref() {
            Some("session_token") => WidgetTokenKind::Session,
            Some("id_token") => WidgetTokenKind::Id,
            _ => return Err(Unreadable("widgetToken")),
        },
        expires_at: number_in(map, "expiresAt", "widgetToken")?,
    })
}

/// A ticket's entry in the map of tickets.
pub(crate) fn encode_ticket(ticket: &StoredTicket) -> AttributeValue {
    let mut map = Item::from([(UNTIL.to_owned(), AttributeValue::N(ticket.until.to_string()))]);
    if let Some(session) = &ticket.spent_by {
        map.insert(SPENT_BY.to_owned(), AttributeValue::S(session.0.clone()));
    }
    AttributeValue::M(map)
}

fn decode_ticket(value: &AttributeValue) -> Result<StoredTicket, Unreadable> {
    let map = value.as_m().map_err(|_| Unreadable(TICKETS))?;
    Ok(StoredTicket { until: number_in(map, UNTIL, TICKETS)?, spent_by: text(map, SPENT_BY)?.map(SessionHash) })
}

// text rather than binary: what reads tables as JSON (exports, logs of a console, people) stays able to
fn encode_sealed(sealed: &Sealed) -> AttributeValue {
    AttributeValue::M(Item::from([
        ("key".to_owned(), AttributeValue::S(sealed.version.clone())),
        ("sealed".to_owned(), AttributeValue::S(URL_SAFE_NO_PAD.encode(&sealed.bytes))),
    ]))
}

fn sealed(item: &Item, name: &'static str) -> Result<Option<Sealed>, Unreadable> {
    let Some(map) = map(item, name)? else { return Ok(None) };
    match (map.get("key"), map.get("sealed")) {
        (Some(AttributeValue::S(version)), Some(AttributeValue::S(bytes))) => {
            let bytes = URL_SAFE_NO_PAD.decode(bytes).map_err(|_| Unreadable(name))?;
            Ok(Some(Sealed { version: version.clone(), bytes }))
        }
        _ => Err(Unreadable(name)),
    }
}

fn text(item: &Item, name: &'static str) -> Result<Option<String>, Unreadable> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Unreadable(name)),
    }
}

pub(crate) fn number(item: &Item, name: &'static str) -> Result<Option<Millis>, Unreadable> {
    item.get(name).map(|_| number_in(item, name, name)).transpose()
}

fn number_in(item: &Item, name: &str, attribute: &'static str) -> Result<Millis, Unreadable> {
    match item.get(name) {
        // within what arithmetic on times can bear
        Some(AttributeValue::N(text)) => {
            text.parse().ok().filter(|number: &Millis| number.unsigned_abs() < 1 << 60).ok_or(Unreadable(attribute))
        }
        _ => Err(Unreadable(attribute)),
    }
}

fn map<'a>(item: &'a Item, name: &'static str) -> Result<Option<&'a Item>, Unreadable> {
    match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::M(map)) => Ok(Some(map)),
        Some(_) => Err(Unreadable(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Record {
        let sealed = |text: &str| Sealed { version: "v1".into(), bytes: text.as_bytes().to_vec() };
        Record {
            user: UserId::new("ada").map(UserIdText),
            born: "b".into(),
            human_id: Some("h".into()),
            sealed_human_id: Some(sealed("h")),
            public_token: Some(sealed("p")),
            public_token_refreshed_at: Some(1),
            access_token: Some(StoredAccessToken {
                token: sealed("a"),
                refresh: Some(sealed("r")),
                expires_at: Some(2),
                obtained_at: 3,
                from: Flow::Connect,
            }),
            widget_token: Some(StoredWidgetToken {
                token: sealed("s"),
                refresh: None,
                kind: WidgetTokenKind::Id,
                expires_at: 4,
            }),
            widget_token_refreshed_at: Some(5),
            failed_at: Some(5),
            flow: Some(Flow::Popup),
            sources: vec![Source { id: "1".into(), name: "Made-up Clinic".into() }],
            connected_at: Some(6),
            updated_at: Some(7),
            revoked: true,
            reconnect: Some(SessionHash("x".into())),
            finished: BTreeMap::from([(SessionHash("f".into()), 8)]),
            ..Record::default()
        }
    }

    #[test]
    fn a_record_survives_its_item() {
        let mut item: Item =
            encode(&full()).into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        item.insert(BORN.to_owned(), AttributeValue::S("b".into()));
        assert_eq!(decode(&item).unwrap(), full());
    }

    #[test]
    fn every_attribute_of_another_type_is_unreadable() {
        for (name, value) in encode(&full()).into_iter().filter(|(name, _)| *name != "revoked") {
            let mut item = Item::from([(BORN.to_owned(), AttributeValue::S("b".into()))]);
            assert!(value.is_some(), "{name}");
            item.insert(name.to_owned(), AttributeValue::Null(true));
            assert!(decode(&item).is_err(), "{name}");
        }
    }

    #[test]
    fn an_exchange_under_way_survives_its_attribute() {
        let pending = Pending {
            by: "hold".into(),
            since: 9,
            request: Request::Exchange(Box::new(Exchange {
                human_id: "h".into(),
                session: Sealed { version: "v".into(), bytes: vec![1, 2] },
                hash: SessionHash("s".into()),
                ticket: Some(TicketHash("t".into())),
            })),
        };
        assert_eq!(decode_pending(encode_pending(&pending).as_m().unwrap()).unwrap(), pending);
    }
}
