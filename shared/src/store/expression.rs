//! Builds a DynamoDB update with its condition; every name and value goes through a placeholder.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::clock::Millis;

/// An update under construction.
#[derive(Default)]
pub(super) struct Expression {
    names: Vec<String>,
    values: Vec<AttributeValue>,
    conditions: Vec<String>,
    sets: Vec<String>,
    removes: Vec<String>,
    adds: Vec<String>,
    deletes: Vec<String>,
}

impl Expression {
    /// The placeholder of an attribute's name.
    pub(super) fn name(&mut self, name: &str) -> String {
        let number = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        format!("#n{number}")
    }

    /// The placeholder of a value.
    pub(super) fn value(&mut self, value: AttributeValue) -> String {
        self.values.push(value);
        format!(":v{}", self.values.len() - 1)
    }

    pub(super) fn text(&mut self, text: &str) -> String {
        self.value(AttributeValue::S(text.to_owned()))
    }

    pub(super) fn number(&mut self, number: Millis) -> String {
        self.value(AttributeValue::N(number.to_string()))
    }

    /// Adds a condition. All conditions must be true.
    pub(super) fn require(&mut self, condition: String) {
        self.conditions.push(condition);
    }

    /// Requires an attribute to have this text.
    pub(super) fn require_text(&mut self, name: &str, text: &str) {
        let (name, text) = (self.name(name), self.text(text));
        self.require(format!("{name} = {text}"));
    }

    /// Requires an attribute to be there.
    pub(super) fn require_exists(&mut self, name: &str) {
        let name = self.name(name);
        self.require(format!("attribute_exists({name})"));
    }

    pub(super) fn set(&mut self, name: &str, value: AttributeValue) {
        let value = self.value(value);
        self.set_to(name, &value);
    }

    /// Sets to a value that has its placeholder already.
    pub(super) fn set_to(&mut self, name: &str, placeholder: &str) {
        let name = self.name(name);
        self.sets.push(format!("{name} = {placeholder}"));
    }

    pub(super) fn set_if_absent(&mut self, name: &str, value: AttributeValue) {
        let (name, value) = (self.name(name), self.value(value));
        self.sets.push(format!("{name} = if_not_exists({name}, {value})"));
    }

    /// Sets an entry of a map that exists.
    pub(super) fn set_in(&mut self, map: &str, entry: &str, value: AttributeValue) {
        let (map, entry, value) = (self.name(map), self.name(entry), self.value(value));
        self.sets.push(format!("{map}.{entry} = {value}"));
    }

    pub(super) fn remove(&mut self, name: &str) {
        let name = self.name(name);
        self.removes.push(name);
    }

    pub(super) fn remove_in(&mut self, map: &str, entry: &str) {
        let (map, entry) = (self.name(map), self.name(entry));
        self.removes.push(format!("{map}.{entry}"));
    }

    pub(super) fn add_to_set(&mut self, name: &str, members: Vec<String>) {
        let (name, members) = (self.name(name), self.value(AttributeValue::Ss(members)));
        self.adds.push(format!("{name} {members}"));
    }

    pub(super) fn delete_from_set(&mut self, name: &str, members: Vec<String>) {
        let (name, members) = (self.name(name), self.value(AttributeValue::Ss(members)));
        self.deletes.push(format!("{name} {members}"));
    }

    /// The names and the values by their placeholders.
    pub(super) fn placeholders(self) -> (HashMap<String, String>, HashMap<String, AttributeValue>) {
        let names = self.names.into_iter().enumerate().map(|(number, name)| (format!("#n{number}"), name));
        let values = self.values.into_iter().enumerate().map(|(number, value)| (format!(":v{number}"), value));
        (names.collect(), values.collect())
    }

    pub(super) fn condition(&self) -> String {
        self.conditions.join(" AND ")
    }

    pub(super) fn update(&self) -> String {
        [("SET", &self.sets), ("REMOVE", &self.removes), ("ADD", &self.adds), ("DELETE", &self.deletes)]
            .into_iter()
            .filter(|(_, parts)| !parts.is_empty())
            .map(|(clause, parts)| format!("{clause} {}", parts.join(", ")))
            .collect::<Vec<_>>()
            .join(" ")
    }
}
