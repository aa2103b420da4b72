//! Leases: a call acquires one as soon as the row is free, and renews it before a request that it has to cover.

use std::time::Duration;

use tokio::time::Instant;

use super::item::encode;
use super::row::{CLOCK_MARGIN, FINISHED_TTL, LEASE_DURATION, Pending, Request, Row};
use super::write::Write;
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::identity::{UserId, UserKey};
use crate::invocation::Invocation;
use crate::token::{SessionHash, TicketHash, random_bytes, random_id};

/// How long a call waits for another call's lease.
const WAIT_FOR_LEASE: Duration = Duration::from_secs(10);
/// First pause between two looks at a leased row. It doubles up to `POLL_MAX`.
const POLL_MIN: Duration = Duration::from_millis(40);
/// Longest pause between two looks at a leased row.
pub(super) const POLL_MAX: Duration = Duration::from_millis(640);
/// A lease this young covers a request sent now. An older lease is renewed first.
const RENEW_AFTER: Duration = Duration::from_secs(1);
/// If writes are slow, a lease that is no older than the clock margin has to do after this many renewals.
const MAX_RENEWALS: u32 = 2;

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
}

pub enum Acquired<T> {
    Lease(Lease),
    Answered(T, Row),
}

/// A lease, with the row's content. The call changes its record; [`Store::commit`] writes it.
pub struct Lease {
    pub key: UserKey,
    pub row: Row,
    /// The request that an earlier call left pending.
    pub unresolved: Option<Pending>,
    /// The ticket that this call spends, and the session that it spends the ticket on.
    pub spends: Option<(TicketHash, SessionHash)>,
    pub(super) id: String,
    pub(super) doubts: Vec<String>,
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
        let id = random_id()?;
        let last_look = (Instant::now() + WAIT_FOR_LEASE).min(invocation.upstream_deadline());
        let mut waited = Duration::ZERO;
        let mut born = request.seen.filter(|seen| !seen.is_bare()).map(|seen| seen.born.clone());
        let mut pause = POLL_MIN;
        loop {
            let written = Instant::now();
            let row = match self.try_acquire(&request, &id, born.as_deref(), invocation).await? {
                Ok(row) => return Ok(Acquired::Lease(Lease::new(request.key, id, row, written))),
                Err(row) => row,
            };
            let mut free_at = self.clock.now();
            match row {
                None if born.is_some() => return Err(StoreError::Deleted),
                None if request.user.is_none() => return Err(StoreError::Absent),
                // gone since: the next attempt makes it
                None => {}
                Some(row) if row.lease_id.as_ref() == Some(&id) => {
                    // this call's own write, whose answer was lost
                    return Ok(Acquired::Lease(Lease::new(request.key, id, row, written)));
                }
                Some(row) if born.as_ref().is_some_and(|born| *born != row.born) => return Err(StoreError::Deleted),
                Some(row) => {
                    if let Some(answer) = answered(&row) {
                        return Ok(Acquired::Answered(answer, row));
                    }
                    if born.is_none()
                        && (!row.is_bare() || self.mark_waiting(&request.key, &row.born, invocation).await?)
                    {
                        born = Some(row.born.clone());
                    }
                    free_at = row.lease_until.unwrap_or_default() + CLOCK_MARGIN;
                }
            }
            if waited.is_zero() {
                invocation.record(|measured| measured.finish_conflicts += 1);
            }
            if Instant::now() + pause > last_look || waited >= WAIT_FOR_LEASE {
                let left = (free_at - self.clock.now()).clamp(1000, LEASE_DURATION);
                return Err(StoreError::Locked { retry_after: Duration::from_millis(left as u64) });
            }
            self.clock.sleep(jittered(pause)).await;
            waited += pause;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    async fn try_acquire(
        &self,
        request: &LeaseRequest<'_>,
        id: &str,
        born: Option<&str>,
        invocation: &Invocation,
    ) -> Result<Result<Row, Option<Row>>, StoreError> {
        let now = self.clock.now();
        let pending = Pending { by: id.to_owned(), since: now, request: request.request.clone() };
        let mut write = Write::default()
            .when("(attribute_not_exists(leaseUntil) OR leaseUntil < :expired)")
            // a copy of this very write that arrives late must not acquire the lease again
            .when("(attribute_not_exists(leaseId) OR leaseId <> :me)")
            .set("leaseId = :me")
            .set("leaseUntil = :until")
            .set("pending = if_not_exists(pending, :pending)")
            .set("unresolvedSince = if_not_exists(unresolvedSince, :now)")
            .set("born = if_not_exists(born, :me)")
            .remove("expires")
            .text(":me", id)
            .value(":pending", encode(&pending))
            .number(":now", now)
            .number(":until", now + LEASE_DURATION)
            .number(":expired", now - CLOCK_MARGIN);
        if let Some(user) = request.user {
            write = write.set("clientUserId = if_not_exists(clientUserId, :user)").text(":user", user.as_str());
        }
        write = match (born, request.user) {
            (Some(born), _) => write.when("born = :born").text(":born", born),
            (None, None) => write.when("attribute_exists(userKey)"),
            (None, Some(_)) => write,
        };
        let write = require_good_ticket(require_unfinished(write, request, now), request);
        self.update_and_read(&request.key, write, invocation).await
    }

    /// Says that a call waits which has seen this row. `false` if the row is another one by now, or none.
    async fn mark_waiting(&self, key: &UserKey, born: &str, invocation: &Invocation) -> Result<bool, StoreError> {
        let write = Write::default()
            .when("born = :born")
            .set("waited = :true")
            .text(":born", born)
            .value(":true", encode(&true));
        Ok(self.update(key, write, invocation).await?.is_ok())
    }

    /// Makes sure that the lease covers a request that is sent now.
    pub async fn renew(&self, lease: &mut Lease, invocation: &Invocation) -> Result<(), StoreError> {
        for _ in 0..MAX_RENEWALS {
            if lease.written.elapsed() < RENEW_AFTER {
                return Ok(());
            }
            let written = Instant::now();
            let write = Write::default()
                .when("leaseId = :me")
                .set("leaseUntil = :until")
                .text(":me", &lease.id)
                .number(":until", self.clock.now() + LEASE_DURATION);
            match self.update(&lease.key, write, invocation).await? {
                Ok(_) => lease.written = written,
                Err(row) => return Err(lease.lost(row.as_ref())),
            }
        }
        if lease.written.elapsed().as_millis() < CLOCK_MARGIN as u128 {
            Ok(())
        } else {
            Err(StoreError::Unavailable("the lease could not be renewed in time".into()))
        }
    }
}

/// A session that was finished needs no lease, unless the row is unresolved.
fn require_unfinished(write: Write, request: &LeaseRequest<'_>, now: Millis) -> Write {
    let Some(session) = request.session else { return write };
    write
        .when(
            "(attribute_not_exists(finished.#session) OR finished.#session <= :forgotten \
             OR attribute_exists(pending) OR attribute_exists(doubts))",
        )
        .name("#session", &session.0)
        .number(":forgotten", now - FINISHED_TTL)
}

/// The ticket has not expired, and is not spent on another session.
fn require_good_ticket(write: Write, request: &LeaseRequest<'_>) -> Write {
    let Some(ticket) = request.ticket else { return write };
    write
        .when("tickets.#ticket.goodUntil > :now")
        .when("(attribute_not_exists(tickets.#ticket.spentBy) OR tickets.#ticket.spentBy = :session)")
        .name("#ticket", &ticket.0)
        .text(":session", request.session.map_or("", |session| &session.0))
}

impl Lease {
    fn new(key: UserKey, id: String, mut row: Row, written: Instant) -> Self {
        let unresolved = row.pending.clone().filter(|pending| pending.by != id);
        let doubts = std::mem::take(&mut row.doubts);
        // the call that this lease was taken over from must not report a delete if the row goes for lack of content
        row.waited |= unresolved.is_some();
        Self { key, row, unresolved, spends: None, id, doubts, written }
    }

    /// Leases were taken over whose responses may have come since.
    pub fn has_takeovers(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// A response that comes too late is nobody's loss.
    pub(super) fn asks_for_nothing_lasting(&self) -> bool {
        let request = self.row.pending.as_ref().map(|pending| &pending.request);
        matches!(request, Some(Request::WidgetToken | Request::Nothing))
    }

    /// The reason why a write under this lease was refused.
    pub(super) fn lost(&self, row: Option<&Row>) -> StoreError {
        match row {
            Some(row) if row.born == self.row.born => StoreError::TakenOver,
            _ => StoreError::Deleted,
        }
    }
}

pub(super) fn jittered(pause: Duration) -> Duration {
    let random = random_bytes::<1>().map_or(128, |[byte]| byte);
    pause.mul_f64(0.5 + f64::from(random) / 512.0)
}
