//! Holding a row: a hold is taken as soon as the row is free, and renewed before a request that it has to cover.

use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::time::Instant;

use super::expression::Expression;
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::identity::{UserId, UserKey};
use crate::invocation::{Invocation, lock};
use crate::record::item::{
    self, BORN, DOUBTS, EXPIRES, FINISHED, HELD_UNTIL, HOLD as HOLD_ID, INFLIGHT, TICKETS, UNRESOLVED_SINCE, USER,
    USER_KEY, WAITED,
};
use crate::record::{Asked, CLOCK_MARGIN, FINISHED_FOR, HOLD, Inflight, Record};
use crate::token::{SessionHash, TicketHash, random_bytes, random_id};

/// How long a call waits for another one's hold.
const WAIT_FOR_HOLD: Duration = Duration::from_secs(10);
/// First and longest pause between two looks at a held row.
pub(super) const POLL: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(640));
/// A hold this young covers a request sent now; an older one is renewed first.
const FRESH: Duration = Duration::from_secs(1);
/// Where writing takes long, one that is no older than the clock margin has to do after so many renewals.
const RENEWALS: u32 = 2;

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
    pub(super) id: String,
    pub(super) doubts: Vec<String>,
    pub(super) written: Mutex<Instant>,
}

impl Store {
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
            let mut free_at = self.clock.now();
            match row {
                None if born.is_some() => return Err(StoreError::Deleted),
                None if claim.user.is_none() => return Err(StoreError::Absent),
                // gone since: the next try makes it
                None => {}
                Some(row) if row.hold.as_ref() == Some(&id) => {
                    // our own write, its answer was lost
                    return Ok(Taken::Held(Hold::new(claim.key, id, row, written)));
                }
                Some(row) if born.as_ref().is_some_and(|born| *born != row.born) => return Err(StoreError::Deleted),
                Some(row) => {
                    if let Some(answer) = answers(&row) {
                        return Ok(Taken::Answered(answer));
                    }
                    if born.is_none()
                        && (!row.is_bare() || self.mark_waiting(&claim.key, &row.born, invocation).await?)
                    {
                        born = Some(row.born.clone());
                    }
                    free_at = row.held_until.unwrap_or_default() + CLOCK_MARGIN;
                }
            }
            if waited.is_zero() {
                invocation.note(|tally| tally.finish_conflicts += 1);
            }
            if Instant::now() + pause > give_up || waited >= WAIT_FOR_HOLD {
                let left = (free_at - self.clock.now()).clamp(1000, HOLD);
                return Err(StoreError::Held { retry_after: Duration::from_millis(left as u64) });
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
        e.set_if_absent(UNRESOLVED_SINCE, AttributeValue::N(now.to_string()));
        e.set_if_absent(BORN, AttributeValue::S(id.to_owned()));
        if let Some(user) = claim.user {
            e.set_if_absent(USER, AttributeValue::S(user.as_str().to_owned()));
        }
        e.remove(EXPIRES);
        self.update_and_read(&claim.key, e, invocation).await
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
        for _ in 0..RENEWALS {
            if lock(&hold.written).elapsed() < FRESH {
                return Ok(());
            }
            let written = Instant::now();
            let mut e = Expression::default();
            e.require_text(HOLD_ID, &hold.id);
            e.set(HELD_UNTIL, AttributeValue::N((self.clock.now() + HOLD).to_string()));
            match self.update(&hold.key, e, invocation).await? {
                Ok(_) => *lock(&hold.written) = written,
                Err(row) => return Err(hold.lost_to(row.as_ref())),
            }
        }
        if lock(&hold.written).elapsed().as_millis() < CLOCK_MARGIN as u128 {
            Ok(())
        } else {
            Err(StoreError::Unavailable("the lease could not be renewed in time".into()))
        }
    }
}

impl Hold {
    fn new(key: UserKey, id: String, mut record: Record, written: Instant) -> Self {
        let unresolved = record.inflight.clone().filter(|inflight| inflight.by != id);
        let doubts = std::mem::take(&mut record.doubts);
        // whoever this was taken over from may yet come back, and must not take a row that is gone for one that was deleted
        record.waited |= unresolved.is_some();
        Self { key, record, unresolved, spends: None, id, doubts, written: Mutex::new(written) }
    }

    /// Whether holds were taken over whose answers may have come since.
    pub fn in_doubt(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// Whether an answer that comes too late is nobody's loss.
    pub(super) fn asks_for_nothing_lasting(&self) -> bool {
        let request = self.record.inflight.as_ref().map(|inflight| &inflight.request);
        matches!(request, Some(Asked::Start | Asked::Nothing))
    }

    pub(super) fn lost_to(&self, row: Option<&Record>) -> StoreError {
        match row {
            Some(row) if row.born == self.record.born => StoreError::TakenOver,
            _ => StoreError::Deleted,
        }
    }
}

pub(super) fn jittered(pause: Duration) -> Duration {
    let random = random_bytes::<1>().map_or(128, |[byte]| byte);
    pause.mul_f64(0.5 + f64::from(random) / 512.0)
}
