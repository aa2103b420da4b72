//! The DynamoDB table: read a row, acquire its lease, commit under the lease, delete the row.
//!
//! Every write under a lease is conditional on the lease's id, which stays in the row after the release. So a write whose answer was
//! lost can be sent again, and one that arrives late does nothing.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use tokio::time::{Instant, timeout_at};

use crate::clock::{Clock, Millis};
use crate::identity::UserKey;
use crate::invocation::Invocation;
use crate::record::item::{self, USER_KEY};
use crate::record::{IDLE_ROW_TTL, Record};
use crate::token::NoRandomness;

mod commit;
mod expression;
mod index;
mod lease;
mod tickets;

pub use commit::Release;
pub use index::IndexPage;
pub use lease::{Acquired, Lease, LeaseRequest};

use expression::Expression;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the table did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// DynamoDB did not answer in time, or with a fault.
    #[error("DynamoDB is not available")]
    Unavailable(#[source] BoxError),
    /// A row that this project did not write so.
    #[error(transparent)]
    Unreadable(#[from] item::Unreadable),
    /// No random bytes for an id.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// Another call has the user's lease for too long.
    #[error("another call has this user's lease")]
    Locked {
        /// The time until that lease can be taken over, at the latest.
        retry_after: Duration,
    },
    /// Another call has taken this call's lease over.
    #[error("another call has taken the lease over")]
    TakenOver,
    /// The row was deleted while this call was under way.
    #[error("the row was deleted meanwhile")]
    Deleted,
    /// There is no such row.
    #[error("no such row")]
    Absent,
}

/// The table.
pub struct Store {
    client: Client,
    table: String,
    clock: Clock,
}

impl Store {
    /// The table of this name.
    pub fn new(client: Client, table: String, clock: Clock) -> Self {
        Self { client, table, clock }
    }

    /// The clock that rows are stamped with.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The time of that clock.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// A strongly consistent read.
    pub async fn read(&self, key: &UserKey, invocation: &Invocation) -> Result<Option<Record>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).consistent_read(true);
        let request = request.key(USER_KEY, key_value(key)).send();
        let answer = self.run(invocation, request).await?.map_err(unavailable)?;
        Ok(answer.item.as_ref().map(|item| decode(key, item)).transpose()?)
    }

    /// Deletes all that is stored about the user.
    pub async fn delete(&self, key: &UserKey, invocation: &Invocation) -> Result<(), StoreError> {
        let request = self.client.delete_item().table_name(&self.table).key(USER_KEY, key_value(key)).send();
        self.run(invocation, request).await?.map(drop).map_err(unavailable)
    }

    /// One conditional update. The inner error is the row as it stands if the condition is false.
    async fn update(
        &self,
        key: &UserKey,
        e: Expression,
        invocation: &Invocation,
    ) -> Result<Result<(), Option<Record>>, StoreError> {
        let updated = self.send_update(key, e, ReturnValue::None, invocation).await?;
        Ok(updated.map(drop))
    }

    /// The same; what comes back is the row as it is afterwards.
    async fn update_and_read(
        &self,
        key: &UserKey,
        e: Expression,
        invocation: &Invocation,
    ) -> Result<Result<Record, Option<Record>>, StoreError> {
        match self.send_update(key, e, ReturnValue::AllNew, invocation).await? {
            Ok(row) => Ok(Ok(decode(key, &row)?)),
            Err(row) => Ok(Err(row)),
        }
    }

    async fn send_update(
        &self,
        key: &UserKey,
        e: Expression,
        returned: ReturnValue,
        invocation: &Invocation,
    ) -> Result<Result<item::Item, Option<Record>>, StoreError> {
        let (condition, update) = (e.condition(), e.update());
        let (names, values) = e.placeholders();
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(USER_KEY, key_value(key))
            .condition_expression(condition)
            .update_expression(update)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .return_values(returned)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match self.run(invocation, request.send()).await? {
            Ok(answer) => Ok(Ok(answer.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Err(failed.item().map(|item| decode(key, item)).transpose()?))
                }
                _ => Err(unavailable(error)),
            },
        }
    }

    async fn run<T>(&self, invocation: &Invocation, operation: impl Future<Output = T>) -> Result<T, StoreError> {
        let started = Instant::now();
        let outcome = timeout_at(invocation.deadline(), operation).await;
        invocation.record(|measured| measured.store += started.elapsed());
        outcome.map_err(|_| StoreError::Unavailable("no answer within the invocation's time".into()))
    }
}

/// A row of this user: one that was copied from another's key is not read.
fn decode(key: &UserKey, item: &item::Item) -> Result<Record, item::Unreadable> {
    let record = item::decode(item)?;
    match &record.user {
        Some(user) if user.0.key() == *key => Ok(record),
        _ => Err(item::Unreadable(item::USER)),
    }
}

fn idle_row_expiry(now: Millis) -> AttributeValue {
    AttributeValue::N(((now + IDLE_ROW_TTL) / 1000).to_string())
}

fn key_value(key: &UserKey) -> AttributeValue {
    AttributeValue::S(key.to_string())
}

fn unavailable(error: impl Into<BoxError>) -> StoreError {
    StoreError::Unavailable(error.into())
}
