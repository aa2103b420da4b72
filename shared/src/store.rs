//! The DynamoDB table: read a row, acquire its lease, commit under the lease, delete the row.
//!
//! A write under a lease is conditional on the lease's ID and on the `leaseUntil` of the call's last write. So a write whose answer was
//! lost can be sent again, and a copy that arrives late does nothing.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use tokio::time::{Instant, timeout_at};

use crate::clock::{Clock, Millis};
use crate::identity::UserKey;
use crate::invocation::Invocation;
use crate::token::NoRandomness;

mod commit;
mod index;
mod item;
mod lease;
mod row;
#[cfg(test)]
mod tests;
mod tickets;
mod write;

pub use commit::Release;
pub use index::{TablePage, TableRow};
pub use item::{Item, encode};
pub use lease::{Acquired, Lease, LeaseRequest};
pub use row::{Exchange, LEASE_DURATION, Pending, Request, Row, StoredTicket};

use row::IDLE_ROW_TTL;
use write::Write;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("DynamoDB is not available")]
    Unavailable(#[source] BoxError),
    /// A row that this project did not write so, and the attribute.
    #[error("the stored {0} cannot be read")]
    Unreadable(&'static str),
    #[error(transparent)]
    Random(#[from] NoRandomness),
    #[error("another call has this user's lease")]
    Locked {
        /// The time until that lease can be taken over, at the latest.
        retry_after: Duration,
    },
    #[error("another call has taken the lease over")]
    TakenOver,
    #[error("the row was deleted meanwhile")]
    Deleted,
    #[error("no such row")]
    Absent,
}

pub struct Store {
    client: Client,
    table: String,
    clock: Clock,
}

impl Store {
    pub fn new(client: Client, table: String, clock: Clock) -> Self {
        Self { client, table, clock }
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// A strongly consistent read. A row that has expired counts as absent.
    pub async fn read(&self, key: &UserKey, invocation: &Invocation) -> Result<Option<Row>, StoreError> {
        let item = self.get(key, invocation).await?;
        let row = item.map(|item| Row::decode(key, item)).transpose()?;
        Ok(row.filter(|row| !row.has_expired(self.now())))
    }

    /// Deletes all that is stored about the user, unless another row was made since this call began.
    pub async fn delete(&self, key: &UserKey, invocation: &Invocation) -> Result<(), StoreError> {
        let Some(item) = self.get(key, invocation).await? else { return Ok(()) };
        let generation = item.get("generation").ok_or_else(|| StoreError::Unreadable("generation"))?;
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(USER_KEY, key_value(key))
            .condition_expression("generation = :generation")
            .expression_attribute_values(":generation", generation.clone());
        let sent = self.run(invocation, request.send()).await?;
        let refused = |error: &DeleteItemError| error.is_conditional_check_failed_exception();
        match sent {
            Err(error) if error.as_service_error().is_some_and(refused) => Ok(()),
            sent => sent.map(drop).map_err(unavailable),
        }
    }

    async fn get(&self, key: &UserKey, invocation: &Invocation) -> Result<Option<Item>, StoreError> {
        let request =
            self.client.get_item().table_name(&self.table).key(USER_KEY, key_value(key)).consistent_read(true);
        Ok(self.run(invocation, request.send()).await?.map_err(unavailable)?.item)
    }

    /// One conditional update. If the condition is false, the inner error is the row as it stands.
    async fn update(
        &self,
        key: &UserKey,
        write: Write,
        invocation: &Invocation,
    ) -> Result<Result<(), Option<Row>>, StoreError> {
        let sent = self.run(invocation, self.prepare(key, write).send()).await?;
        Ok(unless_refused(key, sent)?.map(drop))
    }

    fn prepare(&self, key: &UserKey, write: Write) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .key(USER_KEY, key_value(key))
            .condition_expression(write.condition())
            .update_expression(write.update())
            .set_expression_attribute_names(Some(write.names).filter(|names| !names.is_empty()))
            .set_expression_attribute_values(Some(write.values).filter(|values| !values.is_empty()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    async fn run<T>(&self, invocation: &Invocation, operation: impl Future<Output = T>) -> Result<T, StoreError> {
        let started = Instant::now();
        // boxed: the SDK's future is large, and each layer around it would move it
        let outcome = timeout_at(invocation.deadline(), Box::pin(operation)).await;
        invocation.record(|measured| measured.store += started.elapsed());
        outcome.map_err(|_| StoreError::Unavailable("no answer within the invocation's time".into()))
    }
}

/// The partition key.
const USER_KEY: &str = "userKey";

/// DynamoDB's time to live of a row without content, in seconds.
fn idle_row_expiry(now: Millis) -> Millis {
    (now + IDLE_ROW_TTL) / 1000
}

/// The output of an update, or the row as it stands if the condition is false.
fn unless_refused<R: std::fmt::Debug + Send + Sync + 'static>(
    key: &UserKey,
    sent: Result<UpdateItemOutput, SdkError<UpdateItemError, R>>,
) -> Result<Result<UpdateItemOutput, Option<Row>>, StoreError> {
    match sent {
        Ok(output) => Ok(Ok(output)),
        Err(error) => match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                Ok(Err(refused.item().map(|item| Row::decode(key, item.clone())).transpose()?))
            }
            _ => Err(unavailable(error)),
        },
    }
}

fn key_value(key: &UserKey) -> AttributeValue {
    AttributeValue::S(key.to_string())
}

fn unavailable(error: impl Into<BoxError>) -> StoreError {
    StoreError::Unavailable(error.into())
}
