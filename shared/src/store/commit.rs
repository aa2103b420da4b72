//! Committing what was done under a hold: the hold ends, or goes on for another request, in the same write.

use aws_sdk_dynamodb::config::Config;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use tokio::time::Instant;

use super::expression::Expression;
use super::hold::{Hold, POLL, jittered};
use super::{Store, StoreError, idle_row_expiry, key_value};
use crate::invocation::{Invocation, lock};
use crate::record::item::{
    self, BORN, DOUBTS, EXPIRES, HELD_UNTIL, HOLD as HOLD_ID, INFLIGHT, SEALED_WITH, TICKETS, UNRESOLVED_SINCE,
    USER_KEY, WAITED,
};
use crate::record::{Asked, HOLD, Inflight};

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
    /// Writes `hold.record` and ends the hold as `ending` says; tries until the invocation's time is up, for this may
    /// be the only copy of a user's tokens. `key` is the version of the sealing key that the call seals with.
    /// A row that is left with nothing in it goes away.
    pub async fn commit(
        &self,
        hold: &mut Hold,
        ending: Ending,
        key: &str,
        invocation: &Invocation,
    ) -> Result<(), StoreError> {
        let nothing_left = matches!(ending, Ending::Resolved) && hold.record.is_bare();
        if nothing_left && self.drop_bare(hold, invocation).await? {
            return Ok(());
        }
        loop {
            let outcome = match self.try_commit(hold, &ending, key, invocation).await {
                Ok(true) => Ok(()),
                // once more: now the doubt is known
                Ok(false) => continue,
                // a session or id token that nobody has costs nothing
                Err(StoreError::TakenOver) if !hold.asks_for_nothing_lasting() => {
                    self.mark_doubt(hold, invocation).await.and(Err(StoreError::TakenOver))
                }
                Err(error) => Err(error),
            };
            match outcome {
                Err(StoreError::Unavailable(_)) if Instant::now() + POLL.1 < invocation.deadline() => {
                    self.clock.sleep(jittered(POLL.1)).await;
                }
                other => return other,
            }
        }
    }

    /// `false` where nothing was written, for somebody whom this hold was taken over from has marked a doubt meanwhile.
    async fn try_commit(
        &self,
        hold: &mut Hold,
        ending: &Ending,
        key: &str,
        invocation: &Invocation,
    ) -> Result<bool, StoreError> {
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
                // a doubt that was marked meanwhile leaves the row unresolved: it must neither expire nor be lost from sight
                if after.doubts.is_empty() {
                    let doubts = e.name(DOUBTS);
                    let settled = match hold.doubts.as_slice() {
                        [] => String::new(),
                        known => format!(" OR {doubts} = {}", e.value(AttributeValue::Ss(known.to_vec()))),
                    };
                    e.require(format!("(attribute_not_exists({doubts}){settled})"));
                    e.remove(UNRESOLVED_SINCE);
                }
            }
            Ending::Unresolved => {
                e.remove(HELD_UNTIL);
                after.held_until = None;
            }
            Ending::Next(request) => {
                let inflight = Inflight { by: hold.id.clone(), since: now, request: request.clone() };
                e.set(HELD_UNTIL, AttributeValue::N((now + HOLD).to_string()));
                e.set(INFLIGHT, item::encode_inflight(&inflight));
                e.set(UNRESOLVED_SINCE, AttributeValue::N(now.to_string()));
                (after.held_until, after.inflight) = (Some(now + HOLD), Some(inflight));
            }
        }
        if !matches!(ending, Ending::Unresolved) && !hold.doubts.is_empty() {
            e.delete_from_set(DOUBTS, hold.doubts.clone());
        }
        match after.sealed_with(key) {
            Some(version) => e.set(SEALED_WITH, AttributeValue::S(version.to_owned())),
            None => e.remove(SEALED_WITH),
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
        if after.matters() || hold.in_doubt() {
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
                Ok(true)
            }
            Err(row) => {
                let mine = row.as_ref().filter(|row| row.hold.as_ref() == Some(&hold.id));
                let doubts = mine.into_iter().flat_map(|row| &row.doubts).filter(|id| !hold.doubts.contains(id));
                let doubts: Vec<String> = doubts.cloned().collect();
                if doubts.iter().all(|id| hold.record.doubts.contains(id)) {
                    return Err(hold.lost_to(row.as_ref()));
                }
                hold.record.doubts = doubts;
                Ok(false)
            }
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
            let condition = e.condition();
            let (names, values) = e.placeholders();
            let request = self
                .client
                .delete_item()
                .table_name(&self.table)
                .key(USER_KEY, key_value(&hold.key))
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

    /// Notes that Human API may have answered a hold that was taken over: the next holder asks again.
    async fn mark_doubt(&self, hold: &Hold, invocation: &Invocation) -> Result<(), StoreError> {
        let mut e = Expression::default();
        e.require_text(BORN, &hold.record.born);
        e.add_to_set(DOUBTS, vec![hold.id.clone()]);
        e.set_if_absent(UNRESOLVED_SINCE, AttributeValue::N(self.clock.now().to_string()));
        e.remove(EXPIRES);
        invocation.note(|tally| tally.unresolved += 1);
        match self.update(&hold.key, e, invocation).await? {
            Ok(_) => Ok(()),
            Err(row) => Err(hold.lost_to(row.as_ref())),
        }
    }
}
