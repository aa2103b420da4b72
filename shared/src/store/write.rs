//! One conditional update, written out as DynamoDB reads it: expressions with their values beside them.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use crate::clock::Millis;

/// An update under construction. Attribute names stand as they are; hashes that serve as map keys have placeholders.
#[derive(Default)]
pub(super) struct Write {
    conditions: Vec<String>,
    sets: Vec<String>,
    removes: Vec<String>,
    adds: Vec<&'static str>,
    deletes: Vec<&'static str>,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Write {
    /// Adds a condition. All conditions must be true.
    pub(super) fn when(mut self, condition: impl Into<String>) -> Self {
        self.conditions.push(condition.into());
        self
    }

    pub(super) fn set(mut self, assignment: impl Into<String>) -> Self {
        self.sets.push(assignment.into());
        self
    }

    pub(super) fn remove(mut self, path: impl Into<String>) -> Self {
        self.removes.push(path.into());
        self
    }

    pub(super) fn add(mut self, members: &'static str) -> Self {
        self.adds.push(members);
        self
    }

    pub(super) fn delete(mut self, members: &'static str) -> Self {
        self.deletes.push(members);
        self
    }

    pub(super) fn name(mut self, placeholder: impl Into<String>, name: &str) -> Self {
        self.names.insert(placeholder.into(), name.to_owned());
        self
    }

    pub(super) fn value(mut self, placeholder: &str, value: AttributeValue) -> Self {
        self.values.insert(placeholder.to_owned(), value);
        self
    }

    pub(super) fn text(self, placeholder: &str, text: &str) -> Self {
        self.value(placeholder, AttributeValue::S(text.to_owned()))
    }

    pub(super) fn number(self, placeholder: &str, number: Millis) -> Self {
        self.value(placeholder, AttributeValue::N(number.to_string()))
    }

    pub(super) fn members(self, placeholder: &str, members: &BTreeSet<String>) -> Self {
        self.value(placeholder, AttributeValue::Ss(members.iter().cloned().collect()))
    }

    pub(super) fn condition(&self) -> String {
        self.conditions.join(" AND ")
    }

    pub(super) fn update(&self) -> String {
        let clauses = [
            ("SET", self.sets.join(", ")),
            ("REMOVE", self.removes.join(", ")),
            ("ADD", self.adds.join(", ")),
            ("DELETE", self.deletes.join(", ")),
        ];
        let clauses = clauses.into_iter().filter(|(_, parts)| !parts.is_empty());
        clauses.map(|(clause, parts)| format!("{clause} {parts}")).collect::<Vec<_>>().join(" ")
    }
}
