//! New tickets: written one by one, without a lease, because nothing is asked of Human API.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::item::encode;
use super::row::{MAX_TICKETS, Row, StoredTicket, TICKET_TTL};
use super::write::Write;
use super::{Store, StoreError, idle_row_expiry};
use crate::clock::Millis;
use crate::identity::UserId;
use crate::invocation::Invocation;
use crate::token::{Ticket, TicketHash, random_id};

/// Attempts to write a ticket beside other writers.
const MAX_ATTEMPTS: u32 = 8;

impl Store {
    /// Stores this ticket. `seen` is what the call has read of the row.
    pub async fn add_ticket(
        &self,
        user: &UserId,
        ticket: &Ticket,
        seen: Option<Row>,
        invocation: &Invocation,
    ) -> Result<(), StoreError> {
        let (hash, generation) = (ticket.hash(), random_id()?);
        let mut known = seen.as_ref().map(|row| row.generation.clone());
        let mut row = seen;
        for _ in 0..MAX_ATTEMPTS {
            let write = match &row {
                None => new_row(user, &generation, &hash, self.now()),
                Some(row) => in_row(row, &hash, self.now()),
            };
            let refused = self.update(&user.key(), write, invocation).await?;
            let Err(current) = refused else { return Ok(()) };
            if current.as_ref().is_some_and(|row| row.tickets.contains_key(&hash)) {
                // this call's own write, whose answer was lost
                return Ok(());
            }
            let current_generation = current.as_ref().map(|row| row.generation.clone());
            if known.is_some() && known != current_generation {
                return Err(StoreError::Deleted);
            }
            known = current_generation;
            row = current;
        }
        Err(StoreError::Locked { retry_after: Duration::from_secs(1) })
    }
}

fn ticket(now: Millis) -> StoredTicket {
    StoredTicket { good_until: now + TICKET_TTL, spent_by: None }
}

fn new_row(user: &UserId, generation: &str, hash: &TicketHash, now: Millis) -> Write {
    Write::default()
        .when("attribute_not_exists(userKey)")
        .set("clientUserId = :user, generation = :generation, tickets = :tickets, expires = :expires")
        .text(":user", user.as_str())
        .text(":generation", generation)
        .value(":tickets", encode(&BTreeMap::from([(hash, ticket(now))])))
        .number(":expires", idle_row_expiry(now))
}

/// A row that expires, expires later. A row that does not expire since it was read has gained something that must not.
fn in_row(row: &Row, hash: &TicketHash, now: Millis) -> Write {
    let mut write = Write::default()
        .when("generation = :generation AND attribute_not_exists(tickets.#ticket)")
        .set("tickets.#ticket = :ticket")
        .text(":generation", &row.generation)
        .name("#ticket", &hash.0)
        .value(":ticket", encode(&ticket(now)));
    if row.expires.is_some() {
        write =
            write.when("attribute_exists(expires)").set("expires = :expires").number(":expires", idle_row_expiry(now));
    }
    for (number, old) in tickets_to_evict(row, now).into_iter().enumerate() {
        write = write.remove(format!("tickets.#t{number}")).name(format!("#t{number}"), &old.0);
    }
    write
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
