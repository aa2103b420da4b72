//! DynamoDB's attributes, written and read by serde.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Serialize, de::DeserializeOwned};
use serde_dynamo::AttributeValue as Decoded;

use super::StoreError;
use crate::clock::Millis;

pub type Item = HashMap<String, AttributeValue>;

/// A value as an attribute, without its nulls.
pub fn encode(value: &impl Serialize) -> AttributeValue {
    // strings, numbers and lists of them: cannot fail
    let value: Decoded = serde_dynamo::to_attribute_value(value).unwrap_or(Decoded::Null(true));
    without_nulls(value).into()
}

fn without_nulls(value: Decoded) -> Decoded {
    match value {
        Decoded::M(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !matches!(value, Decoded::Null(_)));
            Decoded::M(fields.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        other => other,
    }
}

/// Takes an attribute out of the item, and reads it. A missing attribute reads as null.
pub(super) fn take<T: DeserializeOwned>(item: &mut Item, attribute: &'static str) -> Result<T, StoreError> {
    let value = item.remove(attribute).map_or(Decoded::Null(true), Decoded::from);
    // the error is not logged, because it can quote the value
    let read = has_bounded_numbers(&value).then(|| serde_dynamo::from_attribute_value(value).ok());
    read.flatten().ok_or(StoreError::Unreadable(attribute))
}

/// Numbers are times in milliseconds, and no list has one. A number that arithmetic on times cannot bear is none of ours.
fn has_bounded_numbers(value: &Decoded) -> bool {
    match value {
        Decoded::N(text) => text.parse().is_ok_and(|number: Millis| number.unsigned_abs() < 1 << 60),
        Decoded::M(fields) => fields.values().all(has_bounded_numbers),
        _ => true,
    }
}
