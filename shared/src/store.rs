//! The DynamoDB table: read a row, hold it, commit what was done under the hold, forget it.
//!
//! Every write of a call that holds a row is conditional on the hold's id, which stays in the row after the hold has
//! ended. So a write whose answer was lost can be sent again, and one that arrives late does nothing.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use tokio::time::{Instant, timeout_at};
use tracing::{error, warn};

use crate::clock::{Clock, Millis};
use crate::identity::{UserId, UserKey};
use crate::invocation::{Invocation, lock};
use crate::record::item::{
    self, BORN, DOUBTS, EXPIRES, FINISHED, HELD_UNTIL, HOLD as HOLD_ID, INFLIGHT, TICKETS, USER, USER_KEY, WAITED,
};
use crate::record::{
    Asked, CLOCK_MARGIN, FINISHED_FOR, HOLD, IDLE_ROW_FOR, Inflight, Record, StoredTicket, TICKET_FOR, TICKETS_KEPT,
};
use crate::telemetry::causes;
use crate::token::{NoRandomness, SessionHash, Ticket, TicketHash, random_bytes, random_id};

mod expression;
use expression::Expression;

/// How long a call waits for another one's hold.
const WAIT_FOR_HOLD: Duration = Duration::from_secs(10);
/// First and longest pause between two looks at a held row.
const POLL: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(640));
/// A hold this young covers a request sent now; an older one is renewed first. Less than the clock margin.
const FRESH: Duration = Duration::from_millis(1500);

/// Why the table did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// DynamoDB did not answer in time, or with a fault.
    #[error("DynamoDB is not available")]
    Unavailable,
    /// A row that this project did not write so.
    #[error(transparent)]
    Unreadable(#[from] item::Unreadable),
    /// No random bytes for an id.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// Another call holds the user for too long.
    #[error("another call holds this user")]
    Held {
        /// When its hold can be taken over at the latest.
        retry_after: Duration,
    },
    /// Another call has taken this one's hold over.
    #[error("another call has taken the hold over")]
    TakenOver,
    /// The row was deleted while this call was under way.
    #[error("the row was deleted meanwhile")]
    Deleted,
    /// There is no such row.
    #[error("no such row")]
    Absent,
}

/// The table.
pub struct Store {
    client: Client,
    table: String,
    clock: Clock,
}

/// What a call wants to hold a row for.
pub struct Claim<'a> {
    /// Whose row.
    pub key: UserKey,
    /// The user, where the row may be made.
    pub user: Option<&'a UserId>,
    /// What an earlier read of this call showed: the hold is not given if the row was deleted since.
    pub seen: Option<&'a Record>,
    /// What Human API will be asked for.
    pub request: Asked,
    /// A session that, once finished, needs no hold.
    pub session: Option<&'a SessionHash>,
    /// The ticket that must be good.
    pub ticket: Option<&'a TicketHash>,
}

/// What became of a claim.
pub enum Taken<T, H = Hold> {
    /// The row is held.
    Held(H),
    /// The row as it stands answers the call.
    Answered(T),
}

/// A held row. What the call changes in `record` is written by [`Store::commit`].
pub struct Hold {
    /// Whose row.
    pub key: UserKey,
    /// The row's content.
    pub record: Record,
    /// What an earlier holder left unresolved.
    pub unresolved: Option<Inflight>,
    /// The ticket that this call spends, and on what.
    pub spends: Option<(TicketHash, SessionHash)>,
    id: String,
    doubts: Vec<String>,
    written: Mutex<Instant>,
}

/// How a hold ends.
pub enum Ending {
    /// All is resolved and stored.
    Resolved,
    /// What was asked for is unresolved: the next holder asks again.
    Unresolved,
    /// The hold goes on for another request.
    Next(Asked),
}

impl Store {
    /// The table of this name.
    pub fn new(client: Client, table: String, clock: Clock) -> Self {
        Self { client, table, clock }
    }

    /// The clock that rows are stamped with.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// A strongly consistent read.
    pub async fn read(&self, key: &UserKey, invocation: &Invocation) -> Result<Option<Record>, StoreError> {
        let request =
            self.client.get_item().table_name(&self.table).consistent_read(true).key(USER_KEY, key_value(key));
        let answer = self.run(invocation, request.send()).await?.map_err(|error| unavailable(&error))?;
        Ok(answer.item.as_ref().map(item::decode).transpose()?)
    }

    /// Takes the row's hold as soon as it is free. `answers` sees the row whenever it is not to be had; what it answers
    /// ends the wait.
    pub async fn hold<T>(
        &self,
        claim: Claim<'_>,
        mut answers: impl FnMut(&Record) -> Option<T>,
        invocation: &Invocation,
    ) -> Result<Taken<T>, StoreError> {
        let id = random_id()?;
        let give_up = (Instant::now() + WAIT_FOR_HOLD).min(invocation.upstream_deadline());
        let mut waited = Duration::ZERO;
        let mut born = claim.seen.filter(|seen| !seen.is_bare()).map(|seen| seen.born.clone());
        let mut pause = POLL.0;
        loop {
            let written = Instant::now();
            let held_until = self.clock.now() + HOLD;
            let row = match self.try_hold(&claim, &id, held_until, born.as_deref(), invocation).await? {
                Ok(row) => return Ok(Taken::Held(Hold::new(claim.key, id, row, written))),
                Err(row) => row,
            };
            let Some(row) = row else {
                return Err(if born.is_some() { StoreError::Deleted } else { StoreError::Absent });
            };
            if row.hold.as_ref() == Some(&id) {
                // our own write, its answer was lost
                return Ok(Taken::Held(Hold::new(claim.key, id, row, written)));
            }
            if born.as_ref().is_some_and(|born| *born != row.born) {
                return Err(StoreError::Deleted);
            }
            if let Some(answer) = answers(&row) {
                return Ok(Taken::Answered(answer));
            }
            if born.is_none() && (!row.is_bare() || self.mark_waiting(&claim.key, &row.born, invocation).await?) {
                born = Some(row.born.clone());
            }
            if waited.is_zero() {
                invocation.note(|tally| tally.finish_conflicts += 1);
            }
            if Instant::now() + pause > give_up || waited >= WAIT_FOR_HOLD {
                let left = row.held_until.unwrap_or_default() + CLOCK_MARGIN - self.clock.now();
                return Err(StoreError::Held { retry_after: Duration::from_millis(left.clamp(1000, HOLD) as u64) });
            }
            self.clock.sleep(jittered(pause)).await;
            waited += pause;
            pause = (pause * 2).min(POLL.1);
        }
    }

    async fn try_hold(
        &self,
        claim: &Claim<'_>,
        id: &str,
        held_until: Millis,
        born: Option<&str>,
        invocation: &Invocation,
    ) -> Result<Result<Record, Option<Record>>, StoreError> {
        let now = self.clock.now();
        let inflight = Inflight { by: id.to_owned(), since: now, request: claim.request.clone() };
        let mut e = Expression::default();
        let (hold, until, mine) = (e.name(HOLD_ID), e.name(HELD_UNTIL), e.text(id));
        let ended = e.number(now - CLOCK_MARGIN);
        e.require(format!("(attribute_not_exists({until}) OR {until} < {ended})"));
        // a copy of this very write that arrives late must not take the hold again
        e.require(format!("(attribute_not_exists({hold}) OR {hold} <> {mine})"));
        let unresolved = e.name(INFLIGHT);
        match (born, claim.user) {
            (Some(born), _) => {
                e.require_text(BORN, born);
            }
            (None, None) => {
                let name = e.name(USER_KEY);
                e.require(format!("attribute_exists({name})"));
            }
            (None, Some(_)) => {}
        }
        if let Some(session) = claim.session {
            let (finished, hash, doubts) = (e.name(FINISHED), e.name(&session.0), e.name(DOUBTS));
            let old = e.number(now - FINISHED_FOR);
            e.require(format!(
                "(attribute_not_exists({finished}.{hash}) OR {finished}.{hash} <= {old} \
                 OR attribute_exists({unresolved}) OR attribute_exists({doubts}))"
            ));
        }
        if let Some(ticket) = claim.ticket {
            let (tickets, hash, until) = (e.name(TICKETS), e.name(&ticket.0), e.name(item::UNTIL));
            let spent = e.name(item::SPENT_BY);
            let (now, session) = (e.number(now), e.text(claim.session.map_or("", |session| &session.0)));
            e.require(format!(
                "{tickets}.{hash}.{until} > {now} \
                 AND (attribute_not_exists({tickets}.{hash}.{spent}) OR {tickets}.{hash}.{spent} = {session})"
            ));
        }
        e.set_to(HOLD_ID, &mine);
        e.set(HELD_UNTIL, AttributeValue::N(held_until.to_string()));
        e.set_if_absent(INFLIGHT, item::encode_inflight(&inflight));
        e.set_if_absent(BORN, AttributeValue::S(id.to_owned()));
        if let Some(user) = claim.user {
            e.set_if_absent(USER, AttributeValue::S(user.as_str().to_owned()));
        }
        e.remove(EXPIRES);
        self.update(&claim.key, e, invocation).await
    }

    /// Writes `hold.record` and ends the hold as `ending` says; tries until the invocation's time is up, for this may
    /// be the only copy of a user's tokens.
    /// A row that is left with nothing in it goes away.
    pub async fn commit(&self, hold: &mut Hold, ending: Ending, invocation: &Invocation) -> Result<(), StoreError> {
        let nothing_left = matches!(ending, Ending::Resolved) && hold.record.is_bare();
        if nothing_left && self.drop_bare(hold, invocation).await? {
            return Ok(());
        }
        loop {
            match self.try_commit(hold, &ending, invocation).await {
                Err(StoreError::Unavailable) if Instant::now() + POLL.1 < invocation.deadline() => {
                    self.clock.sleep(jittered(POLL.1)).await;
                }
                Err(StoreError::TakenOver) => {
                    // a session or id token that nobody has costs nothing
                    if hold.record.inflight.as_ref().is_none_or(|inflight| inflight.request != Asked::Start) {
                        self.mark_doubt(hold, invocation).await?;
                    }
                    return Err(StoreError::TakenOver);
                }
                other => return other,
            }
        }
    }

    async fn try_commit(&self, hold: &mut Hold, ending: &Ending, invocation: &Invocation) -> Result<(), StoreError> {
        let now = self.clock.now();
        let written = Instant::now();
        let mut after = hold.record.clone();
        let mut e = Expression::default();
        e.require_text(HOLD_ID, &hold.id);
        e.remove(WAITED);
        for (name, value) in item::encode(&after) {
            match value {
                Some(value) => e.set(name, value),
                None => e.remove(name),
            }
        }
        match ending {
            Ending::Resolved => {
                e.remove(HELD_UNTIL);
                e.remove(INFLIGHT);
                (after.held_until, after.inflight) = (None, None);
            }
            Ending::Unresolved => {
                e.remove(HELD_UNTIL);
                after.held_until = None;
            }
            Ending::Next(request) => {
                let inflight = Inflight { by: hold.id.clone(), since: now, request: request.clone() };
                e.set(HELD_UNTIL, AttributeValue::N((now + HOLD).to_string()));
                e.set(INFLIGHT, item::encode_inflight(&inflight));
                (after.held_until, after.inflight) = (Some(now + HOLD), Some(inflight));
            }
        }
        if !matches!(ending, Ending::Unresolved) && !hold.doubts.is_empty() {
            e.delete_from_set(DOUBTS, hold.doubts.clone());
            after.doubts.clear();
        }
        if let Some((ticket, session)) = &hold.spends
            && let Some(stored) = after.tickets.get_mut(ticket)
        {
            stored.spent_by = Some(session.clone());
            e.set_in(TICKETS, &ticket.0, item::encode_ticket(stored));
        }
        for (ticket, _) in hold.record.tickets.iter().filter(|(_, stored)| stored.until <= now) {
            if hold.spends.as_ref().is_none_or(|(spent, _)| spent != ticket) {
                e.remove_in(TICKETS, &ticket.0);
                after.tickets.remove(ticket);
            }
        }
        if after.matters() {
            e.remove(EXPIRES);
        } else {
            e.set(EXPIRES, idle_row_expiry(now));
        }
        match self.update(&hold.key, e, invocation).await? {
            Ok(_) => {
                if matches!(ending, Ending::Next(_)) {
                    *lock(&hold.written) = written;
                    hold.unresolved = None;
                    hold.doubts.clear();
                    hold.spends = None;
                }
                hold.record = after;
                Ok(())
            }
            Err(row) => Err(hold.lost_to(row.as_ref())),
        }
    }

    /// Ends a hold on a row that holds nothing else, by deleting it. `false` where something was added meanwhile, where
    /// somebody waits, or where this function may not delete.
    async fn drop_bare(&self, hold: &Hold, invocation: &Invocation) -> Result<bool, StoreError> {
        let mut perhaps_gone = false;
        for _ in 0..2 {
            let mut e = Expression::default();
            let (id, mine, tickets, waited) = (e.name(HOLD_ID), e.text(&hold.id), e.name(TICKETS), e.name(WAITED));
            e.require(format!("{id} = {mine} AND attribute_not_exists({tickets}) AND attribute_not_exists({waited})"));
            let request = self
                .client
                .delete_item()
                .table_name(&self.table)
                .key(USER_KEY, key_value(&hold.key))
                .condition_expression(e.condition())
                .set_expression_attribute_names(Some(e.names))
                .set_expression_attribute_values(Some(e.values))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .customize()
                // a second try of the SDK's could not tell its own first from the user's delete
                .config_override(aws_sdk_dynamodb::config::Builder::new().retry_config(RetryConfig::disabled()));
            match self.run(invocation, request.send()).await? {
                Ok(_) => return Ok(true),
                Err(error) => match error.as_service_error() {
                    Some(DeleteItemError::ConditionalCheckFailedException(failed)) => match failed.item() {
                        Some(_) => return Ok(false),
                        None if perhaps_gone => return Ok(true),
                        None => return Err(StoreError::Deleted),
                    },
                    Some(_) => return Ok(false),
                    None => perhaps_gone = true,
                },
            }
        }
        Ok(false)
    }

    /// Says that a call waits which has seen this row. `false` if the row is another one by now, or none.
    async fn mark_waiting(&self, key: &UserKey, born: &str, invocation: &Invocation) -> Result<bool, StoreError> {
        let mut e = Expression::default();
        e.require_text(BORN, born);
        e.set(WAITED, AttributeValue::Bool(true));
        Ok(self.update(key, e, invocation).await?.is_ok())
    }

    /// Makes sure that the hold covers a request that is sent now.
    pub async fn renew(&self, hold: &Hold, invocation: &Invocation) -> Result<(), StoreError> {
        if lock(&hold.written).elapsed() < FRESH {
            return Ok(());
        }
        let written = Instant::now();
        let mut e = Expression::default();
        e.require_text(HOLD_ID, &hold.id);
        e.set(HELD_UNTIL, AttributeValue::N((self.clock.now() + HOLD).to_string()));
        match self.update(&hold.key, e, invocation).await? {
            Ok(_) => {
                *lock(&hold.written) = written;
                Ok(())
            }
            Err(row) => Err(hold.lost_to(row.as_ref())),
        }
    }

    /// Notes that Human API may have answered a hold that was taken over: the next holder asks again.
    async fn mark_doubt(&self, hold: &Hold, invocation: &Invocation) -> Result<(), StoreError> {
        let mut e = Expression::default();
        e.require_text(BORN, &hold.record.born);
        e.add_to_set(DOUBTS, vec![hold.id.clone()]);
        e.remove(EXPIRES);
        invocation.note(|tally| tally.unresolved += 1);
        match self.update(&hold.key, e, invocation).await? {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::Deleted),
        }
    }

    /// Stores a new ticket of the user. Needs no hold: nothing is asked of Human API, and tickets are written one by one.
    pub async fn issue_ticket(
        &self,
        user: &UserId,
        seen: Option<Record>,
        invocation: &Invocation,
    ) -> Result<Ticket, StoreError> {
        let ticket = Ticket::generate(user.key())?;
        self.add_ticket(user, &ticket, seen, invocation).await?;
        Ok(ticket)
    }

    /// Stores this ticket. `seen` is what the call has read of the row.
    pub async fn add_ticket(
        &self,
        user: &UserId,
        ticket: &Ticket,
        mut seen: Option<Record>,
        invocation: &Invocation,
    ) -> Result<(), StoreError> {
        let (key, hash) = (user.key(), ticket.hash());
        let id = random_id()?;
        for _ in 0..8 {
            let row = match self.try_add_ticket(&key, user, &hash, &id, seen.as_ref(), invocation).await? {
                Ok(_) => return Ok(()),
                Err(row) => row,
            };
            if row.as_ref().is_some_and(|row| row.tickets.contains_key(&hash)) {
                // our own write, its answer was lost
                return Ok(());
            }
            if let Some(seen) = seen.as_ref().filter(|seen| !seen.is_bare())
                && row.as_ref().is_none_or(|row| row.born != seen.born)
            {
                return Err(StoreError::Deleted);
            }
            seen = row;
        }
        Err(StoreError::Held { retry_after: Duration::from_secs(1) })
    }

    async fn try_add_ticket(
        &self,
        key: &UserKey,
        user: &UserId,
        hash: &TicketHash,
        id: &str,
        seen: Option<&Record>,
        invocation: &Invocation,
    ) -> Result<Result<Record, Option<Record>>, StoreError> {
        let now = self.clock.now();
        let ticket = item::encode_ticket(&StoredTicket { until: now + TICKET_FOR, spent_by: None });
        let mut e = Expression::default();
        let Some(seen) = seen else {
            let name = e.name(USER_KEY);
            e.require(format!("attribute_not_exists({name})"));
            e.set(USER, AttributeValue::S(user.as_str().to_owned()));
            e.set(BORN, AttributeValue::S(id.to_owned()));
            e.set(HOLD_ID, AttributeValue::S(id.to_owned()));
            e.set(TICKETS, AttributeValue::M(HashMap::from([(hash.0.clone(), ticket)])));
            e.set(EXPIRES, idle_row_expiry(now));
            return self.update(key, e, invocation).await;
        };
        // the same hold id: nobody has held the row since it was read, so what is said of its expiry still holds
        e.require_text(BORN, &seen.born);
        match &seen.hold {
            Some(hold) => {
                e.require_text(HOLD_ID, hold);
            }
            None => {
                let name = e.name(HOLD_ID);
                e.require(format!("attribute_not_exists({name})"));
            }
        }
        let tickets = e.name(TICKETS);
        if seen.tickets.is_empty() {
            let nothing = e.number(0);
            e.require(format!("(attribute_not_exists({tickets}) OR size({tickets}) = {nothing})"));
            e.set(TICKETS, AttributeValue::M(HashMap::from([(hash.0.clone(), ticket)])));
        } else {
            e.require(format!("attribute_exists({tickets})"));
            e.set_in(TICKETS, &hash.0, ticket);
            for old in superfluous(seen, now) {
                e.remove_in(TICKETS, &old.0);
            }
        }
        if !seen.matters() {
            let doubts = e.name(DOUBTS);
            e.require(format!("attribute_not_exists({doubts})"));
            e.set(EXPIRES, idle_row_expiry(now));
        }
        self.update(key, e, invocation).await
    }

    /// Deletes all that is stored about the user.
    pub async fn forget(&self, key: &UserKey, invocation: &Invocation) -> Result<(), StoreError> {
        let request = self.client.delete_item().table_name(&self.table).key(USER_KEY, key_value(key));
        self.run(invocation, request.send()).await?.map(drop).map_err(|error| unavailable(&error))
    }

    /// One conditional update. The inner error is the row as it stands where the condition does not hold.
    async fn update(
        &self,
        key: &UserKey,
        e: Expression,
        invocation: &Invocation,
    ) -> Result<Result<Record, Option<Record>>, StoreError> {
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(USER_KEY, key_value(key))
            .condition_expression(e.condition())
            .update_expression(e.update())
            .set_expression_attribute_names(Some(e.names))
            .set_expression_attribute_values(Some(e.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match self.run(invocation, request.send()).await? {
            Ok(answer) => Ok(Ok(item::decode(&answer.attributes.unwrap_or_default())?)),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Err(failed.item().map(item::decode).transpose()?))
                }
                _ => Err(unavailable(&error)),
            },
        }
    }

    async fn run<T>(&self, invocation: &Invocation, operation: impl Future<Output = T>) -> Result<T, StoreError> {
        let started = Instant::now();
        let outcome = timeout_at(invocation.deadline(), operation).await;
        invocation.note(|tally| tally.store += started.elapsed());
        outcome.map_err(|_| {
            warn!("DynamoDB did not answer within the invocation's time");
            StoreError::Unavailable
        })
    }
}

impl Hold {
    fn new(key: UserKey, id: String, mut record: Record, written: Instant) -> Self {
        let unresolved = record.inflight.clone().filter(|inflight| inflight.by != id);
        let doubts = std::mem::take(&mut record.doubts);
        Self { key, record, unresolved, spends: None, id, doubts, written: Mutex::new(written) }
    }

    /// Whether holds were taken over whose answers may have come since.
    pub fn in_doubt(&self) -> bool {
        !self.doubts.is_empty()
    }

    fn lost_to(&self, row: Option<&Record>) -> StoreError {
        match row {
            Some(row) if row.born == self.record.born => StoreError::TakenOver,
            _ => StoreError::Deleted,
        }
    }
}

/// Tickets that have expired, and the oldest beyond the number that is kept.
fn superfluous(row: &Record, now: Millis) -> Vec<TicketHash> {
    let mut tickets: Vec<_> = row.tickets.iter().collect();
    tickets.sort_by_key(|(_, ticket)| std::cmp::Reverse(ticket.until));
    tickets
        .into_iter()
        .enumerate()
        .filter(|(place, (_, ticket))| *place >= TICKETS_KEPT - 1 || ticket.until <= now)
        .map(|(_, (hash, _))| hash.clone())
        .collect()
}

fn idle_row_expiry(now: Millis) -> AttributeValue {
    AttributeValue::N(((now + IDLE_ROW_FOR) / 1000).to_string())
}

fn key_value(key: &UserKey) -> AttributeValue {
    AttributeValue::S(key.to_string())
}

fn jittered(pause: Duration) -> Duration {
    let random = random_bytes::<1>().map_or(128, |[byte]| byte);
    pause.mul_f64(0.5 + f64::from(random) / 512.0)
}

fn unavailable<E, R>(error: &SdkError<E, R>) -> StoreError
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    error!(error = causes(error), "DynamoDB failed");
    StoreError::Unavailable
}
