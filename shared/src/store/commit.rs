//! Writes under a lease: the record is stored, and the lease ends or goes on for another request, in one write.

use aws_sdk_dynamodb::config::Config;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use tokio::time::Instant;

use super::item::encode;
use super::lease::{Lease, POLL_MAX, jittered};
use super::row::{LEASE_DURATION, Pending, Request, Row};
use super::write::Write;
use super::{Store, StoreError, USER_KEY, idle_row_expiry, key_value};
use crate::clock::Millis;
use crate::invocation::Invocation;

/// The lease after the write.
pub enum Release {
    /// It ends, and nothing is unresolved.
    Done,
    /// It ends, and the pending request is unresolved: the next call sends it again.
    Unresolved,
    /// It goes on for another request.
    Continue(Request),
}

impl Store {
    /// Writes the lease's row and releases the lease. Tries until the invocation's time is up, because this may be the only copy of a
    /// user's tokens. `key` is the version of the sealing key that the call seals with. If the row then has no content, it goes.
    pub async fn commit(
        &self,
        lease: &mut Lease,
        release: Release,
        key: &str,
        invocation: &Invocation,
    ) -> Result<(), StoreError> {
        let nothing_left = matches!(release, Release::Done) && lease.row.is_bare();
        if nothing_left && self.drop_bare(lease, invocation).await? {
            return Ok(());
        }
        loop {
            let outcome = match self.try_commit(lease, &release, key, invocation).await {
                Ok(true) => Ok(()),
                // once more: now the takeover is known
                Ok(false) => continue,
                // a widget token that nobody has costs nothing
                Err(StoreError::TakenOver) if !lease.asks_for_nothing_lasting() => {
                    self.mark_taken_over(lease, invocation).await.and(Err(StoreError::TakenOver))
                }
                Err(error) => Err(error),
            };
            match outcome {
                Err(StoreError::Unavailable(_)) if Instant::now() + POLL_MAX < invocation.deadline() => {
                    self.clock.sleep(jittered(POLL_MAX)).await;
                }
                other => return other,
            }
        }
    }

    /// `false` if nothing was written because a call that this lease was taken over from has marked the row meanwhile.
    async fn try_commit(
        &self,
        lease: &mut Lease,
        release: &Release,
        key: &str,
        invocation: &Invocation,
    ) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let written = Instant::now();
        let mut after = lease.row.clone();
        let mut write = Write::default()
            .when("leaseId = :me")
            .set("userRecord = :record")
            .set("finished = :finished")
            .remove("waited")
            .text(":me", &lease.id)
            .value(":record", encode(&after.record))
            .value(":finished", encode(&after.finished));
        write = write_release(write, &mut after, lease, release, now);
        write = match after.sealed_with(key) {
            Some(version) => write.set("sealedWith = :version").text(":version", version),
            None => write.remove("sealedWith"),
        };
        write = write_tickets(write, &mut after, lease, now);
        write = match after.must_not_expire() || lease.has_takeovers() {
            true => write.remove("expires"),
            false => write.set("expires = :expires").number(":expires", idle_row_expiry(now)),
        };
        match self.update(&lease.key, write, invocation).await? {
            Ok(_) => {
                if matches!(release, Release::Continue(_)) {
                    lease.written = written;
                    lease.unresolved = None;
                    lease.doubts.clear();
                    lease.spends = None;
                }
                lease.row = after;
                Ok(true)
            }
            Err(row) => {
                let mine = row.as_ref().filter(|row| row.lease_id.as_ref() == Some(&lease.id));
                let doubts = mine.into_iter().flat_map(|row| &row.doubts).filter(|id| !lease.doubts.contains(id));
                let doubts: Vec<String> = doubts.cloned().collect();
                if doubts.iter().all(|id| lease.row.doubts.contains(id)) {
                    return Err(lease.lost(row.as_ref()));
                }
                lease.row.doubts = doubts;
                Ok(false)
            }
        }
    }

    /// Releases the lease of a row without content, by deleting the row. `false` if something was added meanwhile, if a call waits,
    /// or if this function may not delete.
    async fn drop_bare(&self, lease: &Lease, invocation: &Invocation) -> Result<bool, StoreError> {
        let mut perhaps_gone = false;
        for _ in 0..2 {
            let condition = "leaseId = :me AND attribute_not_exists(tickets) AND attribute_not_exists(waited)";
            let request = self
                .client
                .delete_item()
                .table_name(&self.table)
                .key(USER_KEY, key_value(&lease.key))
                .condition_expression(condition)
                .expression_attribute_values(":me", encode(&lease.id))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            // a second attempt of the SDK could not tell its own first attempt from the user's delete
            let once = Config::builder().retry_config(RetryConfig::disabled());
            match self.run(invocation, request.customize().config_override(once).send()).await? {
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

    /// Marks that Human API may have answered a lease that was taken over: the next call asks again.
    async fn mark_taken_over(&self, lease: &Lease, invocation: &Invocation) -> Result<(), StoreError> {
        let write = Write::default()
            .when("born = :born")
            .add("doubts :me")
            .set("unresolvedSince = if_not_exists(unresolvedSince, :now)")
            .remove("expires")
            .text(":born", &lease.row.born)
            .members(":me", std::slice::from_ref(&lease.id))
            .number(":now", self.clock.now());
        invocation.record(|measured| measured.unresolved += 1);
        match self.update(&lease.key, write, invocation).await? {
            Ok(_) => Ok(()),
            Err(row) => Err(lease.lost(row.as_ref())),
        }
    }
}

/// Ends the lease, or goes on with it, in the write and in the row as it will be.
fn write_release(mut write: Write, after: &mut Row, lease: &Lease, release: &Release, now: Millis) -> Write {
    match release {
        Release::Done => {
            (after.lease_until, after.pending) = (None, None);
            write = write.remove("leaseUntil").remove("pending");
            // a takeover that was marked meanwhile leaves the row unresolved: it must neither expire nor leave the index
            if after.doubts.is_empty() {
                let known = if lease.doubts.is_empty() { "" } else { " OR doubts = :doubts" };
                write = write.when(format!("(attribute_not_exists(doubts){known})")).remove("unresolvedSince");
            }
        }
        Release::Unresolved => {
            after.lease_until = None;
            write = write.remove("leaseUntil");
        }
        Release::Continue(request) => {
            let until = now + LEASE_DURATION;
            let pending = Pending { by: lease.id.clone(), since: now, request: request.clone() };
            write = write
                .set("leaseUntil = :until")
                .set("pending = :pending")
                .set("unresolvedSince = :now")
                .number(":until", until)
                .value(":pending", encode(&pending))
                .number(":now", now);
            (after.lease_until, after.pending) = (Some(until), Some(pending));
        }
    }
    if matches!(release, Release::Unresolved) || lease.doubts.is_empty() {
        return write;
    }
    write.delete("doubts :doubts").members(":doubts", &lease.doubts)
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
