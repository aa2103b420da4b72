//! Writes under a lease: the record is stored, and the lease ends or goes on for another request, in one write.

use aws_sdk_dynamodb::config::Config;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use tokio::time::Instant;

use super::expression::Expression;
use super::lease::{Lease, POLL_MAX, jittered};
use super::{Store, StoreError, idle_row_expiry, key_value};
use crate::clock::Millis;
use crate::invocation::Invocation;
use crate::record::item::{
    self, BORN, DOUBTS, EXPIRES, LEASE_ID, LEASE_UNTIL, PENDING, SEALED_WITH, TICKETS, UNRESOLVED_SINCE, USER_KEY,
    WAITED,
};
use crate::record::{LEASE_DURATION, Pending, Record, Request};

/// What becomes of the lease.
pub enum Release {
    /// It ends: everything is resolved and stored.
    Done,
    /// It ends, and the pending request is unresolved: the next call sends it again.
    Unresolved,
    /// It goes on for another request.
    Continue(Request),
}

impl Store {
    /// Writes `lease.record` and releases the lease. Tries until the invocation's time is up, because this may be the only copy of a
    /// user's tokens. `key` is the version of the sealing key that the call seals with. If the row then has no content, it goes.
    pub async fn commit(
        &self,
        lease: &mut Lease,
        release: Release,
        key: &str,
        invocation: &Invocation,
    ) -> Result<(), StoreError> {
        let nothing_left = matches!(release, Release::Done) && lease.record.is_bare();
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
        let mut after = lease.record.clone();
        let mut e = Expression::default();
        e.require_text(LEASE_ID, &lease.id);
        e.remove(WAITED);
        for (name, value) in item::encode(&after) {
            match value {
                Some(value) => e.set(name, value),
                None => e.remove(name),
            }
        }
        write_release(&mut e, &mut after, lease, release, now);
        match after.sealed_with(key) {
            Some(version) => e.set(SEALED_WITH, AttributeValue::S(version.to_owned())),
            None => e.remove(SEALED_WITH),
        }
        write_tickets(&mut e, &mut after, lease, now);
        if after.must_not_expire() || lease.has_takeovers() {
            e.remove(EXPIRES);
        } else {
            e.set(EXPIRES, idle_row_expiry(now));
        }
        match self.update(&lease.key, e, invocation).await? {
            Ok(_) => {
                if matches!(release, Release::Continue(_)) {
                    lease.written = written;
                    lease.unresolved = None;
                    lease.doubts.clear();
                    lease.spends = None;
                }
                lease.record = after;
                Ok(true)
            }
            Err(row) => {
                let mine = row.as_ref().filter(|row| row.lease_id.as_ref() == Some(&lease.id));
                let doubts = mine.into_iter().flat_map(|row| &row.doubts).filter(|id| !lease.doubts.contains(id));
                let doubts: Vec<String> = doubts.cloned().collect();
                if doubts.iter().all(|id| lease.record.doubts.contains(id)) {
                    return Err(lease.lost(row.as_ref()));
                }
                lease.record.doubts = doubts;
                Ok(false)
            }
        }
    }

    /// Releases the lease of a row without content, by deleting the row. `false` if something was added meanwhile, if a call waits,
    /// or if this function may not delete.
    async fn drop_bare(&self, lease: &Lease, invocation: &Invocation) -> Result<bool, StoreError> {
        let mut perhaps_gone = false;
        for _ in 0..2 {
            let mut e = Expression::default();
            let (id, mine, tickets, waited) = (e.name(LEASE_ID), e.text(&lease.id), e.name(TICKETS), e.name(WAITED));
            e.require(format!("{id} = {mine} AND attribute_not_exists({tickets}) AND attribute_not_exists({waited})"));
            let condition = e.condition();
            let (names, values) = e.placeholders();
            let request = self
                .client
                .delete_item()
                .table_name(&self.table)
                .key(USER_KEY, key_value(&lease.key))
                .condition_expression(condition)
                .set_expression_attribute_names(Some(names))
                .set_expression_attribute_values(Some(values))
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
        let mut e = Expression::default();
        e.require_text(BORN, &lease.record.born);
        e.add_to_set(DOUBTS, vec![lease.id.clone()]);
        e.set_if_absent(UNRESOLVED_SINCE, AttributeValue::N(self.clock.now().to_string()));
        e.remove(EXPIRES);
        invocation.record(|measured| measured.unresolved += 1);
        match self.update(&lease.key, e, invocation).await? {
            Ok(_) => Ok(()),
            Err(row) => Err(lease.lost(row.as_ref())),
        }
    }
}

/// Ends the lease, or goes on with it, in the expression and in the record as it will be.
fn write_release(e: &mut Expression, after: &mut Record, lease: &Lease, release: &Release, now: Millis) {
    match release {
        Release::Done => {
            e.remove(LEASE_UNTIL);
            e.remove(PENDING);
            (after.lease_until, after.pending) = (None, None);
            // a takeover that was marked meanwhile leaves the row unresolved: it must neither expire nor leave the index
            if after.doubts.is_empty() {
                let doubts = e.name(DOUBTS);
                let resolved = match lease.doubts.as_slice() {
                    [] => String::new(),
                    known => format!(" OR {doubts} = {}", e.value(AttributeValue::Ss(known.to_vec()))),
                };
                e.require(format!("(attribute_not_exists({doubts}){resolved})"));
                e.remove(UNRESOLVED_SINCE);
            }
        }
        Release::Unresolved => {
            e.remove(LEASE_UNTIL);
            after.lease_until = None;
        }
        Release::Continue(request) => {
            let until = now + LEASE_DURATION;
            let pending = Pending { by: lease.id.clone(), since: now, request: request.clone() };
            e.set(LEASE_UNTIL, AttributeValue::N(until.to_string()));
            e.set(PENDING, item::encode_pending(&pending));
            e.set(UNRESOLVED_SINCE, AttributeValue::N(now.to_string()));
            (after.lease_until, after.pending) = (Some(until), Some(pending));
        }
    }
    if !matches!(release, Release::Unresolved) && !lease.doubts.is_empty() {
        e.delete_from_set(DOUBTS, lease.doubts.clone());
    }
}

/// Spends this call's ticket and removes expired ones.
fn write_tickets(e: &mut Expression, after: &mut Record, lease: &Lease, now: Millis) {
    if let Some((ticket, session)) = &lease.spends
        && let Some(stored) = after.tickets.get_mut(ticket)
    {
        stored.spent_by = Some(session.clone());
        e.set_in(TICKETS, &ticket.0, item::encode_ticket(stored));
    }
    for (ticket, _) in lease.record.tickets.iter().filter(|(_, stored)| stored.until <= now) {
        if lease.spends.as_ref().is_none_or(|(spent, _)| spent != ticket) {
            e.remove_in(TICKETS, &ticket.0);
            after.tickets.remove(ticket);
        }
    }
}
