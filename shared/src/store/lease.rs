//! Leases: a call acquires one as soon as the row is free, and renews it before a request that it has to cover.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::config::Config;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use tokio::time::Instant;

use super::item::encode;
use super::row::{CLOCK_MARGIN, FINISHED_TTL, LEASE_DURATION, Pending, Request, Row};
use super::write::Write;
use super::{Store, StoreError, unless_refused};
use crate::clock::Millis;
use crate::identity::{UserId, UserKey};
use crate::invocation::Invocation;
use crate::token::{SessionHash, TicketHash, random_bytes, random_id};

/// How long a call waits for another call's lease.
pub(super) const WAIT_FOR_LEASE: Duration = Duration::from_secs(10);
/// First pause between two looks at a leased row. It doubles up to `POLL_MAX`.
const POLL_MIN: Duration = Duration::from_millis(40);
/// Longest pause between two looks at a leased row.
pub(super) const POLL_MAX: Duration = Duration::from_millis(640);
/// Failures of DynamoDB after which a call gives no further attempt to acquire.
const MAX_FAILURES: u32 = 2;
/// A lease this young covers a request sent now. An older lease is renewed first.
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(1);
/// If writes are slow, a lease that is no older than the clock margin has to do after this many renewals.
const MAX_RENEWALS: u32 = 2;
/// An unresolved row is released with an end this long ago, so that each clock takes the lease as over.
pub(super) const RELEASED_AGO: Millis = 5_000;

/// A call's request for the lease.
pub struct LeaseRequest<'a> {
    pub key: UserKey,
    /// The user, if the call may make the row.
    pub user: Option<&'a UserId>,
    /// The row as this call has read it. If the row was deleted since, there is no lease.
    pub seen: Option<&'a Row>,
    /// The request that the call will send to Human API.
    pub request: Request,
    /// The session that needs no lease once it is finished.
    pub session: Option<&'a SessionHash>,
    /// The ticket that must be good.
    pub ticket: Option<&'a TicketHash>,
    /// If another call has failed at Human API since `seen`, this call fails alike: not all callers retry at once.
    pub shares_failure: bool,
}

impl<'a> LeaseRequest<'a> {
    /// A call of this user that sends `request`, and may make the row.
    pub fn of(user: &'a UserId, request: Request) -> Self {
        Self {
            key: user.key(),
            user: Some(user),
            seen: None,
            request,
            session: None,
            ticket: None,
            shares_failure: false,
        }
    }

    /// A call that sends `request`, has read this row, and may not make it.
    pub fn of_row(row: &'a Row, request: Request) -> Self {
        Self { user: None, seen: Some(row), ..Self::of(&row.user, request) }
    }
}

pub enum Acquired<T> {
    Lease(Lease),
    /// The row as it stands answers the call.
    Answered(T, Row),
}

/// A lease, with the row's content. The call changes its record; [`Store::commit`] writes it.
pub struct Lease {
    pub key: UserKey,
    pub row: Row,
    /// The ticket that this call spends, and the session that it spends the ticket on.
    pub spends: Option<(TicketHash, SessionHash)>,
    /// Human API was asked for something that no write has stored yet.
    pub asked: bool,
    pub(super) id: String,
    /// `leaseUntil` of this call's last accepted write.
    pub(super) until: Millis,
    /// `leaseUntil` of the unresolved row that this lease was acquired over.
    unresolved_until: Option<Millis>,
    /// The start of the last write of `leaseUntil`.
    pub(super) written: Instant,
}

impl Store {
    /// Acquires the lease as soon as the row is free. `answered` sees the row each time the lease is refused; its answer
    /// ends the wait.
    pub async fn acquire<T>(
        &self,
        request: LeaseRequest<'_>,
        mut answered: impl FnMut(&Row) -> Option<T>,
        invocation: &Invocation,
    ) -> Result<Acquired<T>, StoreError> {
        let last_look = (Instant::now() + WAIT_FOR_LEASE).min(invocation.upstream_deadline());
        let mut generation = request.seen.map(|seen| seen.generation.clone());
        let mut attempts = Vec::new();
        let (mut pause, mut waited, mut failures) = (POLL_MIN, Duration::ZERO, 0);
        loop {
            let (id, began) = (random_id()?, Instant::now());
            let attempt = self.try_acquire(&request, &id, generation.as_deref(), invocation).await;
            attempts.push((id, began));
            let mut free_at = self.now();
            match attempt {
                Ok(Ok(lease)) => return Ok(Acquired::Lease(lease)),
                Ok(Err(row)) => match row.filter(|row| !row.has_expired(self.now())) {
                    None if generation.is_some() => return Err(StoreError::Deleted),
                    None if request.user.is_none() => return Err(StoreError::Absent),
                    // deleted meanwhile: the next attempt makes it
                    None => {}
                    Some(row) if generation.as_ref().is_some_and(|known| *known != row.generation) => {
                        return Err(StoreError::Deleted);
                    }
                    Some(row) => {
                        // the answer to an earlier attempt was lost
                        if let Some(lease) = self.adopt(request.key, &row, &attempts) {
                            return Ok(Acquired::Lease(lease));
                        }
                        if let Some(answer) = answered(&row) {
                            return Ok(Acquired::Answered(answer, row));
                        }
                        free_at = row.lease_until.unwrap_or_default() + CLOCK_MARGIN;
                        generation = Some(row.generation);
                        if waited.is_zero() {
                            invocation.record(|measured| measured.finish_conflicts += 1);
                        }
                    }
                },
                Err(StoreError::Unavailable(_)) if failures < MAX_FAILURES => failures += 1,
                Err(error) => return Err(error),
            }
            if Instant::now() + pause > last_look || waited >= WAIT_FOR_LEASE {
                let left = (free_at - self.now()).clamp(1000, LEASE_DURATION);
                return Err(StoreError::Locked { retry_after: Duration::from_millis(left as u64) });
            }
            self.clock.sleep(jittered(pause)).await;
            waited += pause;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    /// One attempt, under an ID of its own and without the SDK's retries: a late copy of it must not pass for another attempt.
    async fn try_acquire(
        &self,
        request: &LeaseRequest<'_>,
        id: &str,
        generation: Option<&str>,
        invocation: &Invocation,
    ) -> Result<Result<Lease, Option<Row>>, StoreError> {
        let (now, written) = (self.now(), Instant::now());
        let until = now + LEASE_DURATION;
        let pending = Pending { by: id.to_owned(), since: now, request: request.request.clone() };
        let mut write = Write::default()
            .when("(attribute_not_exists(leaseUntil) OR leaseUntil < :expired)")
            .set("leaseId = :me, leaseUntil = :until")
            .set("pending = if_not_exists(pending, :pending)")
            .set("generation = if_not_exists(generation, :me)")
            .set("tickets = if_not_exists(tickets, :none)")
            .remove("expires")
            .text(":me", id)
            .number(":until", until)
            .number(":expired", now - CLOCK_MARGIN)
            .value(":pending", encode(&pending))
            .value(":none", AttributeValue::M(HashMap::new()));
        if let Some(user) = request.user {
            write = write.set("clientUserId = if_not_exists(clientUserId, :user)").text(":user", user.as_str());
        }
        write = match generation {
            Some(generation) => write.when("generation = :generation").text(":generation", generation),
            // not the row of another writer
            None => write.when("(attribute_not_exists(userKey) OR attribute_exists(generation))"),
        };
        let write = require_good_ticket(require_unfinished(write, request, now), request, now);
        let once = Config::builder().retry_config(RetryConfig::disabled());
        let update = self.prepare(&request.key, write).return_values(ReturnValue::AllOld);
        let sent = self.run(invocation, update.customize().config_override(once).send()).await?;
        let before = match unless_refused(&request.key, sent)? {
            // of a row that was not there, a store may return the key
            Ok(output) => output.attributes.filter(|item| item.len() > 1),
            Err(row) => return Ok(Err(row)),
        };
        let mut row = match (before, request.user) {
            (Some(item), _) => Row::decode(&request.key, item)?,
            (None, Some(user)) => Row::new(user.clone(), id.to_owned()),
            (None, None) => return Err(StoreError::Absent),
        };
        let unresolved_until = row.lease_until;
        (row.lease_id, row.lease_until) = (Some(id.to_owned()), Some(until));
        row.pending.get_or_insert(pending);
        Ok(Ok(Lease { unresolved_until, ..Lease::of(request.key, row, id, until, written) }))
    }

    /// The lease that an earlier attempt of this call acquired, while it lasts.
    pub(super) fn adopt(&self, key: UserKey, row: &Row, attempts: &[(String, Instant)]) -> Option<Lease> {
        let (id, written) = attempts.iter().find(|(id, _)| row.lease_id.as_ref() == Some(id))?;
        let until = row.lease_until.filter(|until| *until > self.now())?;
        Some(Lease::of(key, row.clone(), id, until, *written))
    }

    /// Makes sure that the lease covers a request that is sent now.
    pub async fn renew(&self, lease: &mut Lease, invocation: &Invocation) -> Result<(), StoreError> {
        for _ in 0..MAX_RENEWALS {
            if lease.written.elapsed() < RENEW_AFTER {
                return Ok(());
            }
            let until = lease.next_end(self.now());
            self.write_under(lease, Write::default(), Some(until), invocation).await?;
        }
        if lease.written.elapsed().as_millis() < CLOCK_MARGIN as u128 {
            Ok(())
        } else {
            Err(StoreError::Unavailable("the lease could not be renewed in time".into()))
        }
    }

    /// One write under the lease, which may set another `leaseUntil`. `false`: a takeover was marked meanwhile, and the write's
    /// own condition does not allow that.
    pub(super) async fn write_under(
        &self,
        lease: &mut Lease,
        write: Write,
        until: Option<Millis>,
        invocation: &Invocation,
    ) -> Result<bool, StoreError> {
        let written = Instant::now();
        let mut write = write
            .when("leaseId = :me")
            // late copies of earlier writes do nothing
            .when("leaseUntil = :last")
            .text(":me", &lease.id)
            .number(":last", lease.until);
        if let Some(until) = until {
            write = write.set("leaseUntil = :until").number(":until", until);
        }
        match self.update(&lease.key, write, invocation).await? {
            Ok(()) => lease.until = until.unwrap_or(lease.until),
            Err(row) => {
                let same = row.filter(|row| row.generation == lease.row.generation);
                let row = same.ok_or(StoreError::Deleted)?;
                if row.lease_id.as_ref() != Some(&lease.id) {
                    self.mark_taken_over(lease, invocation).await?;
                    return Err(StoreError::TakenOver);
                }
                if row.lease_until == Some(lease.until) {
                    return Ok(false);
                }
                // this call's own: the write was performed, and its answer was lost
                lease.until = row.lease_until.unwrap_or(lease.until);
            }
        }
        lease.written = written;
        Ok(true)
    }

    /// If Human API was asked under a lease that is another call's by now, marks that the record may be stale.
    async fn mark_taken_over(&self, lease: &mut Lease, invocation: &Invocation) -> Result<(), StoreError> {
        if !lease.asked {
            return Ok(());
        }
        let write = Write::default()
            .when("generation = :generation")
            .add("takenOver :me")
            .set("leaseUntil = if_not_exists(leaseUntil, :past)")
            .remove("expires")
            .text(":generation", &lease.row.generation)
            .members(":me", &BTreeSet::from([lease.id.clone()]))
            .number(":past", self.now() - RELEASED_AGO);
        invocation.record(|measured| measured.unresolved += 1);
        self.update(&lease.key, write, invocation).await?.map_err(|_| StoreError::Deleted)?;
        lease.asked = false;
        Ok(())
    }
}

/// A session that was finished needs no lease, unless the row is unresolved.
fn require_unfinished(write: Write, request: &LeaseRequest<'_>, now: Millis) -> Write {
    let Some(session) = request.session else { return write };
    write
        .when(
            "(attribute_not_exists(finished.#session) OR finished.#session <= :forgotten \
             OR attribute_exists(leaseUntil))",
        )
        .name("#session", &session.0)
        .number(":forgotten", now - FINISHED_TTL)
}

/// The row exists, and its ticket has not expired and is not spent on another session.
fn require_good_ticket(write: Write, request: &LeaseRequest<'_>, now: Millis) -> Write {
    let Some(ticket) = request.ticket else { return write };
    write
        .when("tickets.#ticket.goodUntil > :now")
        .when("(attribute_not_exists(tickets.#ticket.spentBy) OR tickets.#ticket.spentBy = :session)")
        .name("#ticket", &ticket.0)
        .number(":now", now)
        .text(":session", request.session.map_or("", |session| &session.0))
}

impl Lease {
    /// A lease of a row as it is after the acquire.
    pub(super) fn of(key: UserKey, row: Row, id: &str, until: Millis, written: Instant) -> Self {
        Self { key, spends: None, asked: false, id: id.to_owned(), until, unresolved_until: None, written, row }
    }

    /// The request that an earlier call left pending.
    pub fn unresolved(&self) -> Option<&Pending> {
        self.row.pending.as_ref().filter(|pending| pending.by != self.id)
    }

    /// Leases were taken over whose responses may have come since.
    pub fn has_takeovers(&self) -> bool {
        !self.row.taken_over.is_empty()
    }

    /// The lease's end if it is renewed now. Each end differs from the one before, so that a late copy of a write does nothing.
    pub(super) fn next_end(&self, now: Millis) -> Millis {
        (now + LEASE_DURATION).max(self.until + 1)
    }

    /// The end of a lease that is released unresolved: in the past, and as long ago as the row is unresolved.
    pub(super) fn past_end(&self, now: Millis) -> Millis {
        let past = now - RELEASED_AGO;
        self.unresolved_until.map_or(past, |until| until.min(past))
    }
}

pub(super) fn jittered(pause: Duration) -> Duration {
    let random = random_bytes::<1>().map_or(128, |[byte]| byte);
    pause.mul_f64(0.5 + f64::from(random) / 512.0)
}
