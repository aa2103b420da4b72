//! The table's stream: every change with the row before and after it, in order.

use std::sync::Mutex;

use dynoxide::Database;
use dynoxide::actions::get_records::GetRecordsRequest;
use dynoxide::actions::get_shard_iterator::GetShardIteratorRequest;
use dynoxide::streams::{shard_id, stream_arn};
use serde_json::Value;

use crate::aws::TABLE;
use crate::lock;

/// Most records of a batch, as in `template.yaml`.
const BATCH: usize = 100;

pub struct TableStream {
    pub(crate) database: Database,
    /// The last record that was taken.
    last: Mutex<Option<String>>,
}

impl TableStream {
    pub(crate) fn new(database: Database) -> Self {
        Self { database, last: Mutex::default() }
    }

    /// The next records, as an event of Lambda has them.
    pub fn read(&self) -> Result<Vec<Value>, String> {
        let last = lock(&self.last).clone();
        let kind = if last.is_some() { "AFTER_SEQUENCE_NUMBER" } else { "TRIM_HORIZON" };
        let iterator = self.database.get_shard_iterator(GetShardIteratorRequest {
            stream_arn: stream_arn(TABLE, "made-up"),
            shard_id: shard_id(TABLE),
            shard_iterator_type: kind.to_owned(),
            sequence_number: last,
        });
        let shard_iterator = iterator.map_err(|error| error.to_string())?.shard_iterator.unwrap_or_default();
        let request = GetRecordsRequest { shard_iterator, limit: Some(BATCH) };
        let records = self.database.get_records(request).map_err(|error| error.to_string())?.records;
        records.into_iter().map(|record| serde_json::to_value(record).map_err(|error| error.to_string())).collect()
    }

    /// The next read begins after these records.
    pub fn go_on_after(&self, records: &[Value]) {
        if let Some(number) = records.last().and_then(sequence_number) {
            *lock(&self.last) = Some(number.to_owned());
        }
    }
}

pub(crate) fn sequence_number(record: &Value) -> Option<&str> {
    record.pointer("/dynamodb/SequenceNumber")?.as_str()
}
