//! The two sparse indexes: rows that are unresolved, and rows that an older key has sealed. An index follows the table a little later
//! and has only keys, so it says where to look, and nothing else. Only the sweeper reads the indexes.

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::TryFutureExt;

use super::item::take;
use super::{Item, Store, StoreError, USER_KEY, unavailable};
use crate::clock::Millis;
use crate::identity::UserKey;
use crate::invocation::Invocation;

/// The index of rows by `unresolvedSince`. Sparse: what is resolved is not in it.
const UNRESOLVED: &str = "unresolved";
/// The index of rows by `sealedWith`.
const SEALED: &str = "sealedWith";
/// Most pages of an index that are read at a time, a megabyte each: some thousands of rows.
const PAGES: usize = 4;

/// The first pages of an index.
pub struct IndexPage<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The index has more rows.
    pub more: bool,
}

impl Store {
    /// Rows that have something to be resolved, leased ones among them, and since when.
    pub async fn unresolved(&self, invocation: &Invocation) -> Result<IndexPage<(Millis, UserKey)>, StoreError> {
        let page = |after| {
            let scan = self.client.scan().table_name(&self.table).index_name(UNRESOLVED);
            scan.set_exclusive_start_key(after).send().map_ok(|answer| (answer.items, answer.last_evaluated_key))
        };
        let (mut items, more) = self.pages(page, invocation).await?;
        let entry = |item: &mut Item| Some((take(item, "unresolvedSince").ok()?, key(item)?));
        Ok(IndexPage { rows: items.iter_mut().filter_map(entry).collect(), more })
    }

    /// Rows in which something is sealed with this version of the sealing key.
    pub async fn sealed_with(&self, version: &str, invocation: &Invocation) -> Result<IndexPage<UserKey>, StoreError> {
        let page = |after| {
            let query = self.client.query().table_name(&self.table).index_name(SEALED);
            let query = query.key_condition_expression("sealedWith = :version");
            let query = query.expression_attribute_values(":version", AttributeValue::S(version.to_owned()));
            query.set_exclusive_start_key(after).send().map_ok(|answer| (answer.items, answer.last_evaluated_key))
        };
        let (items, more) = self.pages(page, invocation).await?;
        Ok(IndexPage { rows: items.iter().filter_map(key).collect(), more })
    }

    /// The first pages, and whether there are more.
    async fn pages<E, R, F>(
        &self,
        page: impl Fn(Option<Item>) -> F,
        invocation: &Invocation,
    ) -> Result<(Vec<Item>, bool), StoreError>
    where
        F: Future<Output = Result<(Option<Vec<Item>>, Option<Item>), SdkError<E, R>>>,
        E: std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let (mut rows, mut after) = (Vec::new(), None);
        for _ in 0..PAGES {
            let (items, last) = self.run(invocation, page(after)).await?.map_err(unavailable)?;
            rows.extend(items.unwrap_or_default());
            after = last;
            if after.is_none() {
                break;
            }
        }
        Ok((rows, after.is_some()))
    }
}

/// Whose row it is; `None` for a key that this project did not write.
fn key(item: &Item) -> Option<UserKey> {
    UserKey::parse(item.get(USER_KEY)?.as_s().ok()?)
}
