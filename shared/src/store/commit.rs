//! Writes under a lease that store the record: the lease ends, or goes on for another request, in one write.

use tokio::time::Instant;

use super::item::encode;
use super::lease::{Lease, POLL_MAX, jittered};
use super::row::{Pending, Request, Row};
use super::write::Write;
use super::{Store, StoreError, idle_row_expiry, unavailable};
use crate::clock::Millis;
use crate::invocation::Invocation;

/// The lease after the write.
pub enum Release {
    /// It ends: everything is resolved and stored.
    Done,
    /// It ends. What the call did is stored, and a takeover that was marked meanwhile is unresolved.
    TakeoverUnresolved,
    /// It ends, and the pending request is unresolved: the next call sends it again.
    Unresolved,
    /// It goes on until its end, because Human API may perform the request yet.
    Leased,
    /// It goes on for another request.
    Continue(Request),
}

impl Store {
    /// Writes the lease's row and releases the lease. Tries until the invocation's time is up, because this may be the only copy of a
    /// user's tokens.
    pub async fn commit(
        &self,
        lease: &mut Lease,
        mut release: Release,
        invocation: &Invocation,
    ) -> Result<(), StoreError> {
        loop {
            match self.try_commit(lease, &release, invocation).await {
                Ok(true) => return Ok(()),
                Ok(false) if matches!(release, Release::Done) => {
                    invocation.record(|measured| measured.unresolved += 1);
                    release = Release::TakeoverUnresolved;
                }
                Ok(false) | Err(StoreError::Unavailable(_)) if Instant::now() + POLL_MAX < invocation.deadline() => {
                    self.clock.sleep(jittered(POLL_MAX)).await;
                }
                Ok(false) => return Err(unavailable("DynamoDB refused a write without a reason")),
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_commit(
        &self,
        lease: &mut Lease,
        release: &Release,
        invocation: &Invocation,
    ) -> Result<bool, StoreError> {
        let now = self.now();
        let mut after = lease.row.clone();
        let mut write = Write::default()
            .set("userRecord = :record, finished = :finished")
            .value(":record", encode(&after.record))
            .value(":finished", encode(&after.finished));
        write = write_tickets(write, &mut after, lease, now);
        match release {
            Release::Done => {
                (after.lease_until, after.pending) = (None, None);
                write = write.when("attribute_not_exists(takenOver)").remove("leaseUntil").remove("pending");
                if !after.record.must_not_expire() {
                    write = write.set("expires = :expires").number(":expires", idle_row_expiry(now));
                }
            }
            Release::TakeoverUnresolved => {
                (after.lease_until, after.pending) = (Some(lease.past_end(now)), None);
                write = write.remove("pending");
            }
            Release::Unresolved => {
                after.lease_until = Some(lease.past_end(now));
            }
            Release::Leased => {
                after.lease_until = Some(lease.next_end(now));
            }
            Release::Continue(request) => {
                let pending = Pending { by: lease.id.clone(), since: now, request: request.clone() };
                write = write.set("pending = :pending").value(":pending", encode(&pending));
                if lease.has_takeovers() {
                    write = write
                        .delete("takenOver :resolved")
                        .members(":resolved", &std::mem::take(&mut after.taken_over));
                }
                (after.lease_until, after.pending) = (Some(lease.next_end(now)), Some(pending));
            }
        }
        if !self.write_under(lease, write, after.lease_until, invocation).await? {
            return Ok(false);
        }
        if matches!(release, Release::Continue(_)) {
            (lease.spends, lease.asked) = (None, false);
        }
        lease.row = after;
        Ok(true)
    }
}

/// Spends this call's ticket and removes expired ones.
fn write_tickets(mut write: Write, after: &mut Row, lease: &Lease, now: Millis) -> Write {
    if let Some((ticket, session)) = &lease.spends
        && let Some(stored) = after.tickets.get_mut(ticket)
    {
        stored.spent_by = Some(session.clone());
        write = write.set("tickets.#spent = :spent").name("#spent", &ticket.0).value(":spent", encode(stored));
    }
    let expired = lease.row.tickets.iter().filter(|(_, stored)| stored.good_until <= now).map(|(ticket, _)| ticket);
    let kept = lease.spends.as_ref().map(|(spent, _)| spent);
    for (number, ticket) in expired.filter(|ticket| Some(*ticket) != kept).enumerate() {
        write = write.remove(format!("tickets.#t{number}")).name(format!("#t{number}"), &ticket.0);
        after.tickets.remove(ticket);
    }
    write
}
