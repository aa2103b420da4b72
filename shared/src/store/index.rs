//! Reads of many rows: the sparse index of rows with a lease or something unresolved, and the pages of the table. The index follows
//! the table a little later and has only keys, so it says where to look, and nothing else.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::item::take;
use super::{Item, Row, Store, StoreError, USER_KEY, unavailable};
use crate::clock::Millis;
use crate::identity::UserKey;
use crate::invocation::Invocation;

/// The index on `leaseUntil`.
const UNRESOLVED: &str = "unresolved";
/// Most pages of the index that are read at a time, a megabyte each: some thousands of rows.
const MAX_PAGES: usize = 4;

/// A page of the table.
pub struct TablePage {
    pub rows: Vec<TableRow>,
    /// The key after which the next page begins.
    pub next: Option<String>,
}

pub struct TableRow {
    /// The partition key. Another writer's may be no [`UserKey`].
    pub key: String,
    pub row: Result<Row, StoreError>,
}

impl Store {
    /// Reads the page that comes after this key, in one of the segments that DynamoDB's parallel Scan cuts the table into.
    pub async fn scan(
        &self,
        after: Option<&str>,
        segment: u32,
        segments: u32,
        invocation: &Invocation,
    ) -> Result<TablePage, StoreError> {
        let after = after.map(|key| HashMap::from([(USER_KEY.to_owned(), AttributeValue::S(key.to_owned()))]));
        let scan = self.client.scan().table_name(&self.table).consistent_read(true).set_exclusive_start_key(after);
        let scan = scan.segment(segment as i32).total_segments(segments as i32);
        let page = self.run(invocation, scan.send()).await?.map_err(unavailable)?;
        let row = |item: Item| {
            let key = key(&item)?.clone();
            let row = match UserKey::parse(&key) {
                Some(user) => Row::decode(&user, item),
                None => Err(StoreError::Unreadable(USER_KEY)),
            };
            Some(TableRow { key, row })
        };
        Ok(TablePage {
            rows: page.items.unwrap_or_default().into_iter().filter_map(row).collect(),
            next: page.last_evaluated_key.and_then(|last| key(&last).cloned()),
        })
    }

    /// Reads the first pages of the index: the end of each row's lease.
    pub async fn unresolved(&self, invocation: &Invocation) -> Result<Vec<(Millis, UserKey)>, StoreError> {
        let mut pages = self.client.scan().table_name(&self.table).index_name(UNRESOLVED).into_paginator().send();
        let mut rows = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(page) = self.run(invocation, pages.next()).await? else { break };
            rows.extend(page.map_err(unavailable)?.items.unwrap_or_default().into_iter().filter_map(entry));
        }
        Ok(rows)
    }
}

/// `None` for a key that this project did not write.
fn entry(mut item: Item) -> Option<(Millis, UserKey)> {
    Some((take(&mut item, "leaseUntil").ok()?, UserKey::parse(key(&item)?)?))
}

fn key(item: &Item) -> Option<&String> {
    item.get(USER_KEY)?.as_s().ok()
}
