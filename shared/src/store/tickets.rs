//! New tickets: written one by one, without a lease.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::item::encode;
use super::row::{MAX_TICKETS, Row, StoredTicket, TICKET_TTL};
use super::write::Write;
use super::{Store, StoreError, idle_row_expiry};
use crate::clock::Millis;
use crate::identity::{UserId, UserKey};
use crate::invocation::Invocation;
use crate::token::{Ticket, TicketHash, random_id};

impl Store {
    /// Stores a new ticket of the user. Needs no lease: nothing is asked of Human API, and tickets are written one by one.
    pub async fn issue_ticket(
        &self,
        user: &UserId,
        seen: Option<Row>,
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
        mut seen: Option<Row>,
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
        seen: Option<&Row>,
        invocation: &Invocation,
    ) -> Result<Result<Row, Option<Row>>, StoreError> {
        let now = self.clock.now();
        let ticket = StoredTicket { good_until: now + TICKET_TTL, spent_by: None };
        let Some(seen) = seen else {
            let write = Write::default()
                .when("attribute_not_exists(userKey)")
                .set("clientUserId = :user, born = :me, leaseId = :me, tickets = :tickets, expires = :expires")
                .text(":user", user.as_str())
                .text(":me", id)
                .value(":tickets", encode(&BTreeMap::from([(hash, ticket)])))
                .number(":expires", idle_row_expiry(now));
            return self.update_and_read(key, write, invocation).await;
        };
        // the same lease: no call has leased the row since it was read, so its expiry is still as read
        let mut write = Write::default().when("born = :born").text(":born", &seen.born);
        write = match &seen.lease_id {
            Some(lease) => write.when("leaseId = :lease").text(":lease", lease),
            None => write.when("attribute_not_exists(leaseId)"),
        };
        if seen.tickets.is_empty() {
            write = write
                .when("(attribute_not_exists(tickets) OR size(tickets) = :none)")
                .set("tickets = :tickets")
                .number(":none", 0)
                .value(":tickets", encode(&BTreeMap::from([(hash, ticket)])));
        } else {
            write = write
                .when("attribute_exists(tickets)")
                .set("tickets.#ticket = :ticket")
                .name("#ticket", &hash.0)
                .value(":ticket", encode(&ticket));
            for (number, old) in tickets_to_evict(seen, now).into_iter().enumerate() {
                write = write.remove(format!("tickets.#t{number}")).name(format!("#t{number}"), &old.0);
            }
        }
        if !seen.must_not_expire() {
            write = write
                .when("attribute_not_exists(doubts)")
                .set("expires = :expires")
                .number(":expires", idle_row_expiry(now));
        }
        self.update_and_read(key, write, invocation).await
    }
}

/// Tickets that have expired, and the oldest beyond the number that is kept.
fn tickets_to_evict(row: &Row, now: Millis) -> Vec<TicketHash> {
    let mut tickets: Vec<_> = row.tickets.iter().collect();
    tickets.sort_by_key(|(_, ticket)| Reverse(ticket.good_until));
    tickets
        .into_iter()
        .enumerate()
        .filter(|(place, (_, ticket))| *place >= MAX_TICKETS - 1 || ticket.good_until <= now)
        .map(|(_, (hash, _))| hash.clone())
        .collect()
}
