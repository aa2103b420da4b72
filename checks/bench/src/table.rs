//! A DynamoDB table that keeps rows by key and applies updates. Every condition succeeds: other tests cover conditions.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

type Row = Map<String, Value>;

#[derive(Default)]
pub(crate) struct Table(HashMap<String, Row>);

impl Table {
    /// Answers an operation. Returns `None` for an unknown one.
    pub(crate) fn answer(&mut self, operation: &str, body: &Value) -> Option<Value> {
        let object = |name: &str| body[name].as_object();
        Some(match operation {
            "GetItem" => match self.0.get(&key(object("Key")?)) {
                Some(row) => json!({"Item": row}),
                None => json!({}),
            },
            "PutItem" => {
                let row = object("Item")?.clone();
                let id = json!([row.get("userKey")]).to_string();
                self.0.insert(id, row);
                json!({})
            }
            "DeleteItem" => {
                self.0.remove(&key(object("Key")?));
                json!({})
            }
            "UpdateItem" => {
                let none = Row::new();
                let names = object("ExpressionAttributeNames").unwrap_or(&none);
                let values = object("ExpressionAttributeValues")?;
                let new = object("Key")?;
                let before = self.0.get(&key(new)).filter(|_| body["ReturnValues"] == "ALL_OLD").cloned();
                let row = self.0.entry(key(new)).or_insert_with(|| new.clone());
                update(row, body["UpdateExpression"].as_str()?, names, values);
                before.map_or_else(|| json!({}), |before| json!({"Attributes": before}))
            }
            "Scan" => json!({"Items": [], "Count": 0, "ScannedCount": 0}),
            _ => return None,
        })
    }
}

fn key(key: &Row) -> String {
    json!([key.get("userKey")]).to_string()
}

/// Applies `SET a = :x, b = if_not_exists(b, :y), c.d = :z REMOVE e, f`. Changes of sets are ignored.
fn update(row: &mut Row, expression: &str, names: &Row, values: &Row) {
    let parts = expression.replace(", :", " :").replace(" REMOVE ", ", REMOVE ").replace(" ADD ", ", ADD ");
    let mut clause = "";
    for part in parts.split(", ") {
        let part = match part.split_once(' ') {
            Some((word @ ("SET" | "REMOVE" | "ADD" | "DELETE"), rest)) => {
                clause = word;
                rest
            }
            _ => part,
        };
        let (path, value) = part.split_once(" = ").unwrap_or((part, ""));
        let name = |name| names.get(name).and_then(Value::as_str).unwrap_or(name);
        let path: Vec<&str> = path.split('.').map(name).collect();
        let (place, name) = match path.as_slice() {
            [name] => (&mut *row, *name),
            [map, name] => match row.get_mut(*map).and_then(|map| map["M"].as_object_mut()) {
                Some(map) => (map, *name),
                None => continue,
            },
            _ => continue,
        };
        let new = value.trim_end_matches(')').rsplit(' ').next().and_then(|placeholder| values.get(placeholder));
        match (clause, new) {
            ("REMOVE", _) => drop(place.remove(name)),
            ("SET", Some(new)) if value.starts_with("if_not_exists") => {
                place.entry(name).or_insert_with(|| new.clone());
            }
            ("SET", Some(new)) => drop(place.insert(name.to_owned(), new.clone())),
            _ => {}
        }
    }
}
