//! The Connect widget's `onClose` response. The function keeps it for display and believes nothing of it. So nothing in it
//! is an error: a field of another type counts as absent.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::http::body::{FIELD_LIMIT, Fields};
use shared::record::Source;

/// The fields that a Connect response has. `connections` is the name in the client's README.
pub const FIELDS: [&str; 4] = ["status", "sessionResults", "currentConnections", "connections"];

pub struct Report {
    /// The widget did not accept its token.
    pub session_token_failed: bool,
    now: Option<Vec<Source>>,
    connected: Vec<Source>,
    disconnected: Vec<Source>,
}

impl Report {
    pub fn read(fields: &Fields) -> Self {
        let results: HashMap<String, Raw> = fields.get("sessionResults").unwrap_or_default();
        let result = |name: &str| Some(sources(serde_json::from_str(results.get(name)?.get()).ok()?));
        Self {
            session_token_failed: fields.get("status").is_some_and(|text: String| text.starts_with("SESSION_TOKEN_")),
            now: fields.get("currentConnections").or_else(|| fields.get("connections")).map(sources),
            connected: result("connectedSources").or_else(|| result("connected")).unwrap_or_default(),
            disconnected: result("disconnectedSources").or_else(|| result("disconnected")).unwrap_or_default(),
        }
    }

    /// The sources as reported: the present ones, or what the session added to and took from `before`.
    pub fn sources(&self, before: &[Source]) -> Vec<Source> {
        if let Some(now) = &self.now {
            return now.clone();
        }
        let changed = |id: &str| self.disconnected.iter().chain(&self.connected).any(|source| source.id == id);
        before.iter().filter(|source| !changed(&source.id)).chain(&self.connected).cloned().collect()
    }
}

/// Part of the report, read by itself: an error in it spoils no other part.
type Raw = Box<RawValue>;

fn sources(list: Vec<Raw>) -> Vec<Source> {
    list.iter().filter_map(|source| read_source(source)).collect()
}

/// A source, or `None` if it has no ID or name to show. A number keeps its digits as they came.
fn read_source(source: &RawValue) -> Option<Source> {
    #[derive(Deserialize)]
    struct Reported {
        id: Raw,
        name: String,
    }
    // serde reads a struct from an array too
    let object = Some(source.get()).filter(|text| text.starts_with('{'))?;
    let Reported { id, name } = serde_json::from_str(object).ok()?;
    let id = match id.get() {
        number if number.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => number.to_owned(),
        text => serde_json::from_str(text).ok()?,
    };
    let is_usable = |text: &str| !text.trim().is_empty() && text.len() <= FIELD_LIMIT;
    (is_usable(&id) && is_usable(&name)).then_some(Source { id, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lambda_http::Request;
    use serde_json::{Value, json};

    fn read(body: Value) -> Report {
        Report::read(&Fields::json_or_form(&Request::new(body.to_string().into())).unwrap())
    }

    fn source(id: &str) -> Source {
        Source { id: id.into(), name: format!("Made-up {id}") }
    }

    #[test]
    fn current_connections_win_and_without_them_the_session_changes_what_was_known() {
        let [a, b] = ["a", "b"].map(source);
        let sources = |ids: Vec<&str>| ids.into_iter().map(source).collect::<Vec<_>>();
        for (body, before, expected) in [
            (json!({"currentConnections": [a], "sessionResults": {"connectedSources": [b]}}), vec!["c"], vec!["a"]),
            (json!({"connections": [a]}), vec![], vec!["a"]),
            (json!({"currentConnections": [a], "connections": [b]}), vec![], vec!["a"]),
            (json!({"currentConnections": {}, "connections": [b]}), vec![], vec!["b"]),
            (
                json!({"sessionResults": {"connectedSources": [b], "disconnectedSources": [a]}}),
                vec!["a", "c"],
                vec!["c", "b"],
            ),
            (json!({"sessionResults": {"connected": [b], "disconnected": [a]}}), vec!["a"], vec!["b"]),
            (json!({}), vec!["a"], vec!["a"]),
            // a field of another type counts as absent
            (json!({"status": 1}), vec!["a"], vec!["a"]),
            (json!({"status": ""}), vec!["a"], vec!["a"]),
            (json!({"status": "SUCCESS"}), vec!["a"], vec!["a"]),
            (json!({"sessionResults": []}), vec!["a"], vec!["a"]),
            (json!({"sessionResults": "x"}), vec!["a"], vec!["a"]),
            (json!({"sessionResults": {"connectedSources": {}, "disconnected": 1}}), vec!["a"], vec!["a"]),
            (json!({"currentConnections": "x"}), vec!["a"], vec!["a"]),
            (json!({"currentConnections": null, "connections": {}}), vec!["a"], vec!["a"]),
        ] {
            let report = read(body.clone());
            assert!(!report.session_token_failed, "{body}");
            assert_eq!(report.sources(&sources(before)), sources(expected), "{body}");
        }
        assert!(read(json!({"status": "SESSION_TOKEN_EXPIRED"})).session_token_failed);
    }

    #[test]
    fn a_numeric_id_becomes_text_and_an_unusable_source_is_left_out() {
        let long = "x".repeat(FIELD_LIMIT + 1);
        let report = read(json!({"currentConnections": [
            {"id": 4711, "name": "A"}, {"id": 1.5, "name": "B"}, {"id": -1, "name": "C"},
            1, null, "x", [], ["1", "A"], {}, {"id": "1"}, {"name": "x"}, {"id": "", "name": "x"}, {"id": "1", "name": " "},
            {"id": true, "name": "x"}, {"id": "1", "name": 4711}, {"id": long, "name": "x"}, {"id": "1", "name": long},
            {"id": "d", "name": "D", "more": 1},
        ]}));
        let ids: Vec<_> = report.sources(&[]).into_iter().map(|source| source.id).collect();
        assert_eq!(ids, ["4711", "1.5", "-1", "d"]);
    }

    #[test]
    fn a_broken_source_spoils_no_other_and_a_number_keeps_its_digits() {
        let read = |connections: &str| {
            let body = format!(r#"{{"status":"\ud83d","currentConnections":[{connections}]}}"#);
            let report = Report::read(&Fields::json_or_form(&Request::new(body.into())).unwrap());
            report.sources(&[]).into_iter().map(|source| source.id).collect::<Vec<_>>()
        };
        assert_eq!(read(r#"{"id":"1","name":"\ud83d"},{"id":"2","name":"\ud83d\ude00"}"#), ["2"]);
        assert_eq!(read(r#"{"id":12345678901234567890123,"name":"A"}"#), ["12345678901234567890123"]);
        assert_eq!(read(r#"{"id":1e999,"name":"A"},{"id":0,"name":"B"}"#), ["1e999", "0"]);
    }
}
