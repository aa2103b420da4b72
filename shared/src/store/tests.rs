//! The writes as DynamoDB gets them, and what a call makes of DynamoDB's answers. Behind the real SDK stands an HTTP server.
//! `docs/token-protocol.md` has the same writes as a table.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use scripted::{Answer, Server, StoppedTime};
use serde_json::{Value, json};

use super::lease::{POLL_MAX, RELEASED_AGO, RENEW_AFTER, WAIT_FOR_LEASE, jittered};
use super::row::{CLOCK_MARGIN, FINISHED_TTL, IDLE_ROW_TTL, MAX_FINISHED, MAX_TICKETS, TICKET_TTL};
use super::*;
use crate::aws::{dynamodb, tests::config};
use crate::identity::UserId;
use crate::invocation::BUDGET;
use crate::network::http_client;
use crate::record::Record;
use crate::seal::Sealed;
use crate::token::{SessionHash, Ticket, TicketHash};

const NOW: Millis = 1_795_687_200_000;
const SESSION: &str = "made-up-session-hash";
const TICKET: &str = "made-up-ticket-hash";

/// A store whose DynamoDB answers as told, at a time that stands still.
struct Table {
    server: Server,
    store: Store,
}

impl Table {
    async fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::of(Server::answering(answers).await, Clock::with_sleep(|| NOW, |_| tokio::task::yield_now().boxed()))
    }

    fn of(server: Server, clock: Clock) -> Self {
        let config = config(&[("AWS_ENDPOINT_URL", &server.url)]);
        let client = dynamodb(&config.aws, &http_client(&config).unwrap());
        Self { store: Store::new(client, "made-up".into(), clock), server }
    }

    /// The requests so far, as JSON.
    fn requests(&self) -> Vec<Value> {
        self.server.requests().iter().map(scripted::Request::json).collect()
    }

    /// The condition, the effect and the values of the last write.
    fn last_write(&self) -> (String, String, Value) {
        let last = self.requests().pop().unwrap();
        let text = |name: &str| last[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(last["Key"], json!({"userKey": {"S": ada().key().to_string()}}));
        assert_eq!(last["TableName"], "made-up");
        (text("ConditionExpression"), text("UpdateExpression"), last["ExpressionAttributeValues"].clone())
    }
}

fn ada() -> UserId {
    UserId::new("ada").unwrap()
}

/// The condition is false, because the row stands like this.
fn refused(item: Value) -> Answer {
    Answer::refused(Some(&item).filter(|item| !item.is_null()))
}

fn unavailable() -> Answer {
    Answer::json(400, &json!({"__type": "com.amazon.coral.service#AccessDeniedException"}))
}

fn item(lease: &str, until: Option<Millis>) -> Value {
    let mut item = json!({"clientUserId": {"S": "ada"}, "generation": {"S": "g"}, "leaseId": {"S": lease}});
    if let Some(until) = until {
        item["leaseUntil"] = json!({"N": until.to_string()});
    }
    item
}

fn item_of_generation(generation: &str) -> Value {
    let mut item = item("other", None);
    item["generation"] = json!({"S": generation});
    item
}

fn row() -> Row {
    Row::new(ada(), "g".into())
}

/// A lease with the ID `me` until `NOW` + 10 s, of a row with content.
fn lease() -> Lease {
    let mut row = row();
    let sealed = Sealed { version: "v1".into(), bytes: vec![1] };
    row.record = Record { human_id: Some("made-up".into()), public_token: Some(sealed), ..Record::default() };
    Lease::of(ada().key(), row, "me", NOW + 10_000, Instant::now())
}

async fn acquire(table: &Table, request: LeaseRequest<'_>) -> Result<Acquired<()>, StoreError> {
    table.store.acquire(request, |_| None, &Invocation::start()).await
}

fn leased(acquired: Result<Acquired<()>, StoreError>) -> Lease {
    match acquired.unwrap() {
        Acquired::Lease(lease) => lease,
        Acquired::Answered((), _) => panic!("nothing answers"),
    }
}

/// The page that explains the protocol.
const PAGE: &str = include_str!("../../../docs/token-protocol.md");

#[test]
fn the_page_of_the_protocol_has_the_figures_of_the_code() {
    assert!(PAGE.lines().count() <= 120);
    let hours = |time: Millis| time / 3_600_000;
    for figure in [
        format!("`leaseUntil` = now + {} s", LEASE_DURATION / 1000),
        format!("it is more than {} s past", CLOCK_MARGIN / 1000),
        format!("Clocks differ by {} s at most", CLOCK_MARGIN / 1000),
        format!("the call waits, for {} s at most", WAIT_FOR_LEASE.as_secs()),
        format!("a lease that is older than {} s", RENEW_AFTER.as_secs()),
        format!("*In the past* means {} s ago", RELEASED_AGO / 1000),
        format!("hashes of the last {MAX_FINISHED} finished sessions, each for {} hours", hours(FINISHED_TTL)),
        format!("at most {MAX_TICKETS} tickets: until when each is good ({} hour)", hours(TICKET_TTL)),
        format!("only if nothing in the row matters after {} hours", hours(IDLE_ROW_TTL)),
    ] {
        assert!(PAGE.contains(&figure), "{figure}");
    }
}

const FREE: &str = "(attribute_not_exists(leaseUntil) OR leaseUntil < :expired)";
const UNDER_LEASE: &str = "leaseId = :me AND leaseUntil = :last";

#[tokio::test]
async fn an_acquire_of_a_row_that_nobody_has_read() {
    let table = Table::answering([Answer::done()]).await;
    let user = ada();
    let lease = leased(acquire(&table, LeaseRequest::of(&user, Request::Access)).await);
    let (condition, effect, values) = table.last_write();
    assert_eq!(condition, format!("{FREE} AND (attribute_not_exists(userKey) OR attribute_exists(generation))"));
    assert_eq!(
        effect,
        "SET leaseId = :me, leaseUntil = :until, pending = if_not_exists(pending, :pending), \
         generation = if_not_exists(generation, :me), tickets = if_not_exists(tickets, :none), \
         clientUserId = if_not_exists(clientUserId, :user) REMOVE expires"
    );
    let pending = json!({"by": {"S": lease.id}, "since": {"N": NOW.to_string()}, "request": {"S": "access"}});
    let expected = json!({
        ":me": {"S": lease.id},
        ":until": {"N": (NOW + 26_000).to_string()},
        ":expired": {"N": (NOW - 2_000).to_string()},
        ":pending": {"M": pending},
        ":none": {"M": {}},
        ":user": {"S": "ada"},
    });
    assert_eq!(values, expected);
    assert_eq!((lease.row.generation.as_str(), lease.until), (lease.id.as_str(), NOW + 26_000));
}

#[tokio::test]
async fn an_acquire_for_a_session_with_a_ticket_of_a_row_that_was_read() {
    let before = Answer::json(200, &json!({"Attributes": item("other", Some(NOW - 60_000))}));
    let table = Table::answering([before]).await;
    let (row, session, ticket) = (row(), SessionHash(SESSION.into()), TicketHash(TICKET.into()));
    let request = LeaseRequest {
        session: Some(&session),
        ticket: Some(&ticket),
        ..LeaseRequest::of_row(&row, Request::PublicToken)
    };
    let lease = leased(acquire(&table, request).await);
    let (condition, effect, values) = table.last_write();
    assert_eq!(
        condition,
        format!(
            "{FREE} AND generation = :generation AND (attribute_not_exists(finished.#session) \
             OR finished.#session <= :forgotten OR attribute_exists(leaseUntil)) \
             AND tickets.#ticket.goodUntil > :now \
             AND (attribute_not_exists(tickets.#ticket.spentBy) OR tickets.#ticket.spentBy = :session)"
        )
    );
    assert!(!effect.contains("clientUserId"), "this call may not make the row: {effect}");
    for (value, expected) in [
        (":generation", json!({"S": "g"})),
        (":forgotten", json!({"N": (NOW - FINISHED_TTL).to_string()})),
        (":now", json!({"N": NOW.to_string()})),
        (":session", json!({"S": SESSION})),
    ] {
        assert_eq!(values[value], expected, "{value}");
    }
    let names = &table.requests()[0]["ExpressionAttributeNames"];
    assert_eq!(*names, json!({"#session": SESSION, "#ticket": TICKET}));
    assert_eq!(lease.past_end(NOW), NOW - 60_000, "unresolved since then");
}

#[tokio::test]
async fn each_attempt_to_acquire_has_an_id_of_its_own_and_learns_the_generation() {
    let table = Table::answering([unavailable(), refused(item("other", Some(NOW))), Answer::done()]).await;
    let user = ada();
    // DynamoDB gives no row back, so this call finds that it was deleted meanwhile
    let request = LeaseRequest { user: None, ..LeaseRequest::of(&user, Request::Access) };
    assert!(matches!(acquire(&table, request).await, Err(StoreError::Absent)));
    let requests = table.requests();
    let values = |attempt: usize| &requests[attempt]["ExpressionAttributeValues"];
    assert_eq!(requests.len(), 3, "the SDK itself sends no acquire again");
    assert!(values(0)[":me"] != values(1)[":me"] && values(1)[":me"] != values(2)[":me"]);
    assert_eq!((&values(1)[":generation"], &values(2)[":generation"]), (&Value::Null, &json!({"S": "g"})));
}

#[tokio::test]
async fn an_unavailable_table_is_asked_three_times_for_a_lease() {
    let table = Table::answering((0..9).map(|_| Answer::json(500, &json!({})))).await;
    let user = ada();
    let outcome = acquire(&table, LeaseRequest::of(&user, Request::Access)).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
    assert_eq!(table.requests().len(), 3);
}

#[tokio::test]
async fn a_refused_acquire_is_read_in_the_order_of_the_protocol() {
    let outcome = async |item: Value, request: LeaseRequest<'_>| {
        let table = Table::answering([refused(item), Answer::done()]).await;
        let outcome = table.store.acquire(request, |row| row.is_leased(NOW).then_some(()), &Invocation::start()).await;
        (outcome, table.requests().len())
    };
    let (row, user) = (row(), ada());
    let mut expired = item("other", None);
    expired["expires"] = json!({"N": (NOW / 1000).to_string()});
    for gone in [Value::Null, expired, item_of_generation("h")] {
        let known = outcome(gone.clone(), LeaseRequest::of_row(&row, Request::Access)).await;
        assert!(matches!(known, (Err(StoreError::Deleted), 1)), "{gone}");
    }
    let may_not_make = LeaseRequest { user: None, ..LeaseRequest::of(&user, Request::Access) };
    assert!(matches!(outcome(Value::Null, may_not_make).await, (Err(StoreError::Absent), 1)));
    let makes = outcome(Value::Null, LeaseRequest::of(&user, Request::Access)).await;
    assert!(matches!(makes, (Ok(Acquired::Lease(_)), 2)));
    let answered = outcome(item("other", Some(NOW)), LeaseRequest::of(&user, Request::Access)).await;
    assert!(matches!(answered, (Ok(Acquired::Answered((), _)), 1)));
    let waits = outcome(item("other", None), LeaseRequest::of(&user, Request::Access)).await;
    assert!(matches!(waits, (Ok(Acquired::Lease(_)), 2)));
}

#[tokio::test]
async fn a_call_that_waits_in_vain_says_when_the_lease_is_free() {
    let until = NOW + 5_000;
    let table = Table::answering((0..64).map(|_| refused(item("other", Some(until))))).await;
    let invocation = Invocation::start();
    let (row, user) = (row(), ada());
    for request in [LeaseRequest::of(&user, Request::Access), LeaseRequest::of_row(&row, Request::Access)] {
        let outcome = table.store.acquire(request, |_| None::<()>, &invocation).await;
        let retry_after = match outcome {
            Err(StoreError::Locked { retry_after }) => retry_after,
            _ => panic!("the row is leased"),
        };
        assert_eq!(retry_after, Duration::from_secs(7), "with the clocks' margin");
    }
    assert_eq!(invocation.measurements().finish_conflicts, 2);
    assert!(table.requests().len() > 2 * 10, "the pauses do not exceed {POLL_MAX:?}");
}

#[tokio::test]
async fn a_call_waits_no_longer_than_it_may_ask_human_api() {
    let _stopped = StoppedTime::begin();
    let clock = Clock::with_sleep(|| NOW, |pause| tokio::time::advance(pause).boxed());
    let leased = Server::playing(|_| refused(item("other", Some(NOW + 5_000)))).await;
    let table = Table::of(leased, clock);
    let (user, invocation) = (ada(), Invocation::start());
    tokio::time::advance(Duration::from_secs(18)).await;
    let outcome = table.store.acquire(LeaseRequest::of(&user, Request::Access), |_| None::<()>, &invocation).await;
    assert!(matches!(outcome, Err(StoreError::Locked { .. })));
    assert!(Instant::now() <= invocation.upstream_deadline(), "{:?}", invocation.elapsed());
    assert!(Instant::now() + 2 * POLL_MAX > invocation.upstream_deadline(), "{:?}", invocation.elapsed());
}

#[tokio::test]
async fn a_row_that_was_not_there_may_come_back_as_its_key() {
    let key = json!({"Attributes": {"userKey": {"S": ada().key().to_string()}}});
    let table = Table::answering([Answer::json(200, &key)]).await;
    let user = ada();
    let lease = leased(acquire(&table, LeaseRequest::of(&user, Request::Access)).await);
    assert_eq!(lease.row.generation, lease.id);
}

#[tokio::test]
async fn a_call_adopts_the_lease_of_its_own_attempt_only_while_it_lasts() {
    for (left, adopted) in [(1, true), (0, false)] {
        let table = Table::answering([]).await;
        let me = Lease::of(ada().key(), row(), "me", NOW + left, Instant::now());
        let mut row = row();
        (row.lease_id, row.lease_until) = (Some("me".into()), Some(NOW + left));
        let attempts = [("first".to_owned(), Instant::now()), ("me".to_owned(), me.written)];
        let lease = table.store.adopt(ada().key(), &row, &attempts);
        assert_eq!(lease.map(|lease| (lease.id, lease.until)), adopted.then_some((me.id, me.until)));
        assert!(table.store.adopt(ada().key(), &row, &attempts[..1]).is_none());
    }
}

#[tokio::test]
async fn a_lease_older_than_a_second_is_renewed_and_ends_later() {
    let table = Table::answering([Answer::done()]).await;
    let _stopped = StoppedTime::begin();
    let mut lease = lease();
    tokio::time::advance(Duration::from_millis(999)).await;
    lease.until = NOW + 26_000;
    table.store.renew(&mut lease, &Invocation::start()).await.unwrap();
    assert!(table.requests().is_empty(), "a young lease");
    tokio::time::advance(Duration::from_millis(1)).await;
    table.store.renew(&mut lease, &Invocation::start()).await.unwrap();
    let (condition, effect, values) = table.last_write();
    assert_eq!((condition.as_str(), effect.as_str()), (UNDER_LEASE, "SET leaseUntil = :until"));
    let number = |number: Millis| json!({"N": number.to_string()});
    let expected = json!({":me": {"S": "me"}, ":last": number(NOW + 26_000), ":until": number(NOW + 26_001)});
    assert_eq!((values, lease.until), (expected, NOW + 26_001));
    assert!(lease.written.elapsed().is_zero());
}

#[tokio::test]
async fn a_checkpoint_stores_the_record_and_the_next_request_and_ends_takeovers() {
    let table = Table::answering([Answer::done(), Answer::done()]).await;
    let mut lease = lease();
    lease.row.taken_over = ["one".to_owned()].into();
    (lease.asked, lease.spends) = (true, Some((TicketHash(TICKET.into()), SessionHash(SESSION.into()))));
    for takeovers in [true, false] {
        let next = Release::Continue(Request::Access);
        table.store.commit(&mut lease, next, &Invocation::start()).await.unwrap();
        let (condition, effect, values) = table.last_write();
        assert_eq!(condition, UNDER_LEASE);
        let ends = if takeovers { " DELETE takenOver :resolved" } else { "" };
        let sets = "SET userRecord = :record, finished = :finished, pending = :pending, leaseUntil = :until";
        assert_eq!(effect, format!("{sets}{ends}"));
        assert_eq!(values[":resolved"]["SS"], if takeovers { json!(["one"]) } else { Value::Null });
        assert_eq!(values[":pending"]["M"]["by"], json!({"S": "me"}));
        assert_eq!(values[":until"], json!({"N": lease.until.to_string()}));
        assert!(!lease.asked && lease.spends.is_none() && !lease.has_takeovers());
    }
    assert_eq!(lease.until, NOW + 26_001, "later than the one before");
}

#[tokio::test]
async fn a_commit_stores_the_record_spends_the_ticket_and_ends_the_lease() {
    let table = Table::answering([Answer::done()]).await;
    let (mut lease, ticket) = (lease(), TicketHash(TICKET.into()));
    let tickets = [("old", NOW), (TICKET, NOW), ("good", NOW + 1)];
    let stored = |until| StoredTicket { good_until: until, spent_by: None };
    lease.row.tickets = tickets.map(|(hash, until)| (TicketHash(hash.into()), stored(until))).into();
    lease.row.remember_finished(SessionHash(SESSION.into()), NOW);
    lease.spends = Some((ticket, SessionHash(SESSION.into())));
    table.store.commit(&mut lease, Release::Done, &Invocation::start()).await.unwrap();
    let (condition, effect, values) = table.last_write();
    assert_eq!(condition, format!("attribute_not_exists(takenOver) AND {UNDER_LEASE}"));
    assert_eq!(
        effect,
        "SET userRecord = :record, finished = :finished, tickets.#spent = :spent \
         REMOVE tickets.#t0, leaseUntil, pending"
    );
    let spent = json!({"M": {"goodUntil": {"N": NOW.to_string()}, "spentBy": {"S": SESSION}}});
    let finished = json!({"M": {SESSION: {"N": NOW.to_string()}}});
    assert_eq!((&values[":spent"], &values[":finished"]), (&spent, &finished));
    assert_eq!(values[":record"]["M"]["humanId"], json!({"S": "made-up"}));
    let names = &table.requests()[0]["ExpressionAttributeNames"];
    assert_eq!(*names, json!({"#spent": TICKET, "#t0": "old"}));
    assert_eq!((lease.row.lease_until, lease.row.tickets.len()), (None, 2));
}

#[tokio::test]
async fn a_commit_of_a_row_without_content_lets_it_expire() {
    let table = Table::answering([Answer::done()]).await;
    let mut lease = lease();
    lease.row.record = Record::default();
    table.store.commit(&mut lease, Release::Done, &Invocation::start()).await.unwrap();
    let (_, effect, values) = table.last_write();
    let sets = "SET userRecord = :record, finished = :finished, expires = :expires";
    assert_eq!(effect, format!("{sets} REMOVE leaseUntil, pending"));
    assert_eq!(values[":expires"], json!({"N": ((NOW + IDLE_ROW_TTL) / 1000).to_string()}));
}

#[tokio::test]
async fn each_other_release_leaves_what_is_unresolved() {
    let cases = [
        (Release::TakeoverUnresolved, " REMOVE pending", NOW - 5_000),
        (Release::Unresolved, "", NOW - 5_000),
        (Release::Leased, "", NOW + 26_000),
    ];
    for (release, removes, until) in cases {
        let table = Table::answering([Answer::done()]).await;
        let mut lease = lease();
        table.store.commit(&mut lease, release, &Invocation::start()).await.unwrap();
        let (condition, effect, values) = table.last_write();
        let sets = "SET userRecord = :record, finished = :finished, leaseUntil = :until";
        assert_eq!((condition.as_str(), effect), (UNDER_LEASE, format!("{sets}{removes}")));
        assert_eq!(values[":until"], json!({"N": until.to_string()}));
        assert_eq!(lease.row.lease_until, Some(until));
    }
}

#[tokio::test]
async fn a_commit_that_a_takeover_refuses_is_written_unresolved() {
    let mut marked = item("me", Some(NOW + 10_000));
    marked["takenOver"] = json!({"SS": ["other"]});
    let table = Table::answering([refused(marked), Answer::done()]).await;
    let invocation = Invocation::start();
    table.store.commit(&mut lease(), Release::Done, &invocation).await.unwrap();
    let (condition, effect, _) = table.last_write();
    assert_eq!(condition, UNDER_LEASE);
    assert!(effect.ends_with("leaseUntil = :until REMOVE pending"), "{effect}");
    assert_eq!((table.requests().len(), invocation.measurements().unresolved), (2, 1));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_has_succeeded() {
    for until in [None, Some(NOW + 26_000)] {
        let table = Table::answering([refused(item("me", until))]).await;
        let mut lease = lease();
        table.store.commit(&mut lease, Release::Done, &Invocation::start()).await.unwrap();
        assert_eq!(table.requests().len(), 1);
        assert_eq!(lease.until, until.unwrap_or(NOW + 10_000));
    }
}

#[tokio::test]
async fn a_call_whose_lease_is_another_calls_marks_that_it_has_asked() {
    for (asked, marked, expected) in [
        (true, Answer::done(), "taken over"),
        (false, Answer::done(), "taken over"),
        (true, refused(Value::Null), "deleted"),
        (true, refused(item_of_generation("h")), "deleted"),
    ] {
        let table = Table::answering([refused(item("other", Some(NOW))), marked]).await;
        let invocation = Invocation::start();
        let mut lease = lease();
        lease.asked = asked;
        let outcome = match table.store.commit(&mut lease, Release::Done, &invocation).await {
            Err(StoreError::TakenOver) => "taken over",
            Err(StoreError::Deleted) => "deleted",
            _ => "something else",
        };
        assert_eq!(outcome, expected);
        assert_eq!(
            (table.requests().len(), invocation.measurements().unresolved),
            (1 + usize::from(asked), u32::from(asked))
        );
        if asked {
            let (condition, effect, values) = table.last_write();
            assert_eq!(condition, "generation = :generation");
            let sets = "SET leaseUntil = if_not_exists(leaseUntil, :past)";
            assert_eq!(effect, format!("{sets} REMOVE expires ADD takenOver :me"));
            let past = json!({"N": (NOW - 5_000).to_string()});
            assert_eq!(values, json!({":generation": {"S": "g"}, ":me": {"SS": ["me"]}, ":past": past}));
        }
    }
}

#[tokio::test]
async fn a_write_under_the_lease_of_a_deleted_row_marks_nothing() {
    for gone in [Value::Null, item_of_generation("h")] {
        let table = Table::answering([refused(gone)]).await;
        let mut lease = lease();
        lease.asked = true;
        let outcome = table.store.commit(&mut lease, Release::Done, &Invocation::start()).await;
        assert!(matches!(outcome, Err(StoreError::Deleted)));
        assert_eq!(table.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_commit_is_tried_until_dynamodb_takes_it() {
    let table = Table::answering([unavailable(), unavailable(), Answer::done()]).await;
    table.store.commit(&mut lease(), Release::Done, &Invocation::start()).await.unwrap();
    let requests = table.requests();
    assert!(requests.len() == 3 && requests[0] == requests[2], "each is the same write");
}

#[tokio::test]
async fn the_first_ticket_makes_a_row_that_expires() {
    let table = Table::answering([Answer::done()]).await;
    let ticket = Ticket::generate(ada().key()).unwrap();
    table.store.add_ticket(&ada(), &ticket, None, &Invocation::start()).await.unwrap();
    let (condition, effect, values) = table.last_write();
    assert_eq!(condition, "attribute_not_exists(userKey)");
    assert_eq!(effect, "SET clientUserId = :user, generation = :generation, tickets = :tickets, expires = :expires");
    let stored = json!({"M": {"goodUntil": {"N": (NOW + TICKET_TTL).to_string()}}});
    assert_eq!(values[":tickets"], json!({"M": {ticket.hash().0: stored}}));
    assert_eq!(values[":expires"], json!({"N": ((NOW + IDLE_ROW_TTL) / 1000).to_string()}));
    assert_eq!(values[":user"], json!({"S": "ada"}));
}

#[tokio::test]
async fn a_ticket_in_a_row_evicts_the_oldest_and_delays_the_expiry() {
    for expires in [None, Some(NOW / 1000 + 60)] {
        let table = Table::answering([Answer::done()]).await;
        let ticket = Ticket::generate(ada().key()).unwrap();
        let mut row = Row { expires, ..row() };
        let stored = |good_until| StoredTicket { good_until, spent_by: None };
        let old = (0..MAX_TICKETS as Millis).map(|age| (TicketHash(format!("t{age}")), stored(NOW + 8 - age)));
        row.tickets = old.collect::<BTreeMap<_, _>>();
        row.tickets.insert(TicketHash("late".into()), stored(NOW));
        table.store.add_ticket(&ada(), &ticket, Some(row), &Invocation::start()).await.unwrap();
        let (condition, effect, values) = table.last_write();
        let known = "generation = :generation AND attribute_not_exists(tickets.#ticket)";
        let (delays, expiring) = match expires {
            None => ("", ""),
            Some(_) => (", expires = :expires", " AND attribute_exists(expires)"),
        };
        assert_eq!(condition, format!("{known}{expiring}"));
        assert_eq!(effect, format!("SET tickets.#ticket = :ticket{delays} REMOVE tickets.#t0, tickets.#t1"));
        let names = &table.requests()[0]["ExpressionAttributeNames"];
        assert_eq!(*names, json!({"#ticket": ticket.hash().0, "#t0": "t7", "#t1": "late"}));
        assert_eq!(values[":ticket"]["M"]["goodUntil"], json!({"N": (NOW + TICKET_TTL).to_string()}));
    }
}

#[tokio::test]
async fn a_refused_ticket_is_its_own_or_anothers_or_the_row_was_deleted() {
    let ticket = Ticket::generate(ada().key()).unwrap();
    let mut own = item("other", None);
    own["tickets"] = json!({"M": {ticket.hash().0: {"M": {"goodUntil": {"N": "1"}}}}});
    let other = || item("other", None);
    for (seen, answers, expected) in [
        (None, vec![refused(own.clone())], "stored 1"),
        (None, vec![refused(other()), Answer::done()], "stored 2"),
        (None, vec![refused(other()), refused(item_of_generation("h"))], "deleted 2"),
        (Some(row()), vec![refused(other()), Answer::done()], "stored 2"),
        (Some(row()), vec![refused(Value::Null)], "deleted 1"),
        (Some(row()), vec![refused(item_of_generation("h"))], "deleted 1"),
        (None, (0..9).map(|_| refused(other())).collect(), "locked 8"),
    ] {
        let table = Table::answering(answers).await;
        let outcome = match table.store.add_ticket(&ada(), &ticket, seen, &Invocation::start()).await {
            Ok(()) => "stored",
            Err(StoreError::Deleted) => "deleted",
            Err(StoreError::Locked { .. }) => "locked",
            Err(_) => "something else",
        };
        assert_eq!(format!("{outcome} {}", table.requests().len()), expected);
    }
}

#[tokio::test]
async fn a_delete_removes_the_row_that_it_has_read_and_no_other() {
    let found = || Answer::json(200, &json!({"Item": item("other", None)}));
    for answer in [Answer::done(), refused(item_of_generation("h"))] {
        let table = Table::answering([found(), answer]).await;
        table.store.delete(&ada().key(), &Invocation::start()).await.unwrap();
        let (condition, _, values) = table.last_write();
        assert_eq!((condition.as_str(), values), ("generation = :generation", json!({":generation": {"S": "g"}})));
    }
    let table = Table::answering([found(), unavailable()]).await;
    assert!(matches!(table.store.delete(&ada().key(), &Invocation::start()).await, Err(StoreError::Unavailable(_))));
    let table = Table::answering([Answer::done()]).await;
    table.store.delete(&ada().key(), &Invocation::start()).await.unwrap();
    assert_eq!(table.requests().len(), 1, "there is nothing to delete");
}

#[tokio::test]
async fn a_row_is_read_consistently_and_an_expired_one_is_absent() {
    for (expires, found) in [(NOW / 1000 + 1, true), (NOW / 1000, false)] {
        let mut item = item("other", None);
        item["expires"] = json!({"N": expires.to_string()});
        let table = Table::answering([Answer::json(200, &json!({"Item": item}))]).await;
        let row = table.store.read(&ada().key(), &Invocation::start()).await.unwrap();
        assert_eq!(row.is_some(), found);
        assert_eq!(table.requests()[0]["ConsistentRead"], true);
    }
}

#[tokio::test]
async fn a_commit_that_dynamodb_never_takes_ends_with_the_invocation() {
    let _stopped = StoppedTime::begin();
    let clock = Clock::with_sleep(|| NOW, |pause| tokio::time::advance(pause).boxed());
    let table = Table::of(Server::playing(|_| unavailable()).await, clock);
    let invocation = Invocation::start();
    let outcome = table.store.commit(&mut lease(), Release::Done, &invocation).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
    let elapsed = invocation.elapsed();
    assert!(elapsed <= BUDGET && elapsed + 2 * POLL_MAX >= BUDGET, "{elapsed:?}");
}

#[tokio::test]
async fn only_a_commit_becomes_unresolved_by_a_takeover() {
    let refusal = || refused(item("me", Some(NOW + 10_000)));
    let table = Table::answering([refusal(), Answer::done()]).await;
    table.store.commit(&mut lease(), Release::Unresolved, &Invocation::start()).await.unwrap();
    let (_, effect, _) = table.last_write();
    assert!(!effect.contains("REMOVE"), "{effect}");
}

fn of_key(key: &str, until: Option<Millis>) -> Value {
    let mut item = item("me", until);
    item["userKey"] = json!({"S": key});
    item
}

fn page(items: &[Value], last: Option<&str>) -> Answer {
    let mut page = json!({"Items": items, "Count": items.len(), "ScannedCount": items.len()});
    if let Some(last) = last {
        page["LastEvaluatedKey"] = json!({"userKey": {"S": last}});
    }
    Answer::json(200, &page)
}

#[tokio::test]
async fn the_first_pages_of_the_index_are_read() {
    let key = ada().key().to_string();
    let foreign = json!({"userKey": {"S": "of another writer"}, "leaseUntil": {"N": "1"}});
    let first = page(&[of_key(&key, Some(1)), foreign, of_key(&key, None)], Some(&key));
    let table = Table::answering([first, page(&[of_key(&key, Some(2))], None)]).await;
    let found = table.store.unresolved(&Invocation::start()).await.unwrap();
    assert!(found == [(1, ada().key()), (2, ada().key())]);
    let requests = table.requests();
    assert_eq!((&requests[0]["IndexName"], requests[0].get("ExclusiveStartKey")), (&json!("unresolved"), None));
    assert_eq!(requests[1]["ExclusiveStartKey"], json!({"userKey": {"S": key}}));

    let table = Table::answering(["a", "b", "c", "d", "e"].map(|last| page(&[], Some(last)))).await;
    table.store.unresolved(&Invocation::start()).await.unwrap();
    assert_eq!(table.requests().len(), 4);
    let table = Table::answering([unavailable()]).await;
    assert!(matches!(table.store.unresolved(&Invocation::start()).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_page_of_the_table_says_where_the_next_begins_and_which_rows_cannot_be_read() {
    let (key, eve) = (ada().key().to_string(), UserId::new("eve").unwrap().key().to_string());
    let rows = [of_key(&key, None), of_key("of another writer", None), of_key(&eve, None)];
    let table = Table::answering([page(&rows, Some(&eve)), page(&[], None)]).await;
    let first = table.store.scan(None, 1, 3, &Invocation::start()).await.unwrap();
    let keys: Vec<_> = first.rows.iter().map(|row| (row.key.as_str(), row.row.is_ok())).collect();
    assert_eq!(keys, [(key.as_str(), true), ("of another writer", false), (eve.as_str(), false)]);
    assert_eq!(first.next.as_deref(), Some(eve.as_str()));
    let last = table.store.scan(Some(&eve), 0, 1, &Invocation::start()).await.unwrap();
    assert!(last.rows.is_empty() && last.next.is_none());
    let [first, last] = [0, 1].map(|request| table.requests()[request].clone());
    assert_eq!(
        (&first["Segment"], &first["TotalSegments"], &first["ConsistentRead"]),
        (&json!(1), &json!(3), &json!(true))
    );
    assert_eq!((first.get("ExclusiveStartKey"), &last["ExclusiveStartKey"]), (None, &json!({"userKey": {"S": eve}})));
}

#[test]
fn a_pause_is_random_between_its_half_and_itself() {
    let pauses: Vec<_> = (0..256).map(|_| jittered(POLL_MAX)).collect();
    assert!(pauses.iter().all(|pause| (POLL_MAX / 2..POLL_MAX).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause != pauses[0]));
}
