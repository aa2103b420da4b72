//! New tickets: written one by one, without a lease.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use super::expression::Expression;
use super::{Store, StoreError, idle_row_expiry};
use crate::clock::Millis;
use crate::identity::{UserId, UserKey};
use crate::invocation::Invocation;
use crate::record::item::{self, BORN, DOUBTS, EXPIRES, LEASE_ID, TICKETS, USER, USER_KEY};
use crate::record::{MAX_TICKETS, Record, StoredTicket, TICKET_TTL};
use crate::token::{Ticket, TicketHash, random_id};

impl Store {
    /// Stores a new ticket of the user. Needs no lease: nothing is asked of Human API, and tickets are written one by one.
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
        Err(StoreError::Locked { retry_after: Duration::from_secs(1) })
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
        let ticket = item::encode_ticket(&StoredTicket { until: now + TICKET_TTL, spent_by: None });
        let mut e = Expression::default();
        let Some(seen) = seen else {
            let name = e.name(USER_KEY);
            e.require(format!("attribute_not_exists({name})"));
            e.set(USER, AttributeValue::S(user.as_str().to_owned()));
            e.set(BORN, AttributeValue::S(id.to_owned()));
            e.set(LEASE_ID, AttributeValue::S(id.to_owned()));
            e.set(TICKETS, AttributeValue::M(HashMap::from([(hash.0.clone(), ticket)])));
            e.set(EXPIRES, idle_row_expiry(now));
            return self.update_and_read(key, e, invocation).await;
        };
        // the same lease id: no call has leased the row since it was read, so its expiry is still as read
        e.require_text(BORN, &seen.born);
        match &seen.lease_id {
            Some(lease) => e.require_text(LEASE_ID, lease),
            None => {
                let name = e.name(LEASE_ID);
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
            for old in tickets_to_evict(seen, now) {
                e.remove_in(TICKETS, &old.0);
            }
        }
        if !seen.must_not_expire() {
            let doubts = e.name(DOUBTS);
            e.require(format!("attribute_not_exists({doubts})"));
            e.set(EXPIRES, idle_row_expiry(now));
        }
        self.update_and_read(key, e, invocation).await
    }
}

/// Tickets that have expired, and the oldest beyond the number that is kept.
fn tickets_to_evict(row: &Record, now: Millis) -> Vec<TicketHash> {
    let mut tickets: Vec<_> = row.tickets.iter().collect();
    tickets.sort_by_key(|(_, ticket)| std::cmp::Reverse(ticket.until));
    tickets
        .into_iter()
        .enumerate()
        .filter(|(place, (_, ticket))| *place >= MAX_TICKETS - 1 || ticket.until <= now)
        .map(|(_, (hash, _))| hash.clone())
        .collect()
}
