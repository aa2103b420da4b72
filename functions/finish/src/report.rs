//! The Connect widget's `onClose` response. The function keeps it for display and believes nothing of it. So nothing in it is an
//! error: a field that has another type counts as absent.

use serde_json::Value;
use shared::http::body::{FIELD_LIMIT, Fields};
use shared::record::Source;

/// The fields that a Connect response has. `connections` is the name in the client's README.
pub const FIELDS: [&str; 4] = ["status", "sessionResults", "currentConnections", "connections"];

/// What the widget reports.
pub struct Report {
    /// The token it was opened with did not serve.
    pub session_token_failed: bool,
    now: Option<Vec<Source>>,
    connected: Vec<Source>,
    disconnected: Vec<Source>,
}

impl Report {
    /// Reads the response; every part of it is optional.
    pub fn read(fields: &Fields) -> Self {
        let result = |name: &str| fields.get("sessionResults").and_then(|results| results.get(name));
        let status = fields.get("status").and_then(Value::as_str).unwrap_or_default();
        Self {
            session_token_failed: status.starts_with("SESSION_TOKEN_"),
            now: sources([fields.get("currentConnections"), fields.get("connections")]),
            connected: sources([result("connectedSources"), result("connected")]).unwrap_or_default(),
            disconnected: sources([result("disconnectedSources"), result("disconnected")]).unwrap_or_default(),
        }
    }

    /// The sources as reported: the present ones, or what the session added to and took from `before`.
    pub fn sources(&self, before: &[Source]) -> Vec<Source> {
        if let Some(now) = &self.now {
            return now.clone();
        }
        let mut sources: Vec<Source> = before.to_vec();
        sources
            .retain(|source| !self.disconnected.iter().chain(&self.connected).any(|changed| changed.id == source.id));
        sources.extend(self.connected.iter().cloned());
        sources
    }
}

/// The sources in the first value that is a list.
fn sources(values: [Option<&Value>; 2]) -> Option<Vec<Source>> {
    let list = values.into_iter().flatten().find_map(Value::as_array)?;
    Some(list.iter().filter_map(source).collect())
}

/// A source, or `None` if it has no ID or name to show.
fn source(source: &Value) -> Option<Source> {
    let usable = |text: &str| !text.trim().is_empty() && text.len() <= FIELD_LIMIT;
    let id = match source.get("id")? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let name = source.get("name")?.as_str()?;
    (usable(&id) && usable(name)).then(|| Source { id, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lambda_http::Request;
    use serde_json::json;

    fn read(body: Value) -> Report {
        Report::read(&Fields::json_or_form(&Request::new(body.to_string().into())).unwrap())
    }

    fn source(id: &str) -> Source {
        Source { id: id.into(), name: format!("Made-up {id}") }
    }

    #[test]
    fn current_connections_are_taken_as_reported() {
        let report =
            read(json!({"currentConnections": [source("a")], "sessionResults": {"connectedSources": [source("b")]}}));
        assert_eq!(report.sources(&[source("c")]), [source("a")]);
    }

    #[test]
    fn without_them_the_session_changes_what_was_known() {
        let report =
            read(json!({"sessionResults": {"connectedSources": [source("b")], "disconnectedSources": [source("a")]}}));
        assert_eq!(report.sources(&[source("a"), source("c")]), [source("c"), source("b")]);
        assert_eq!(read(json!({})).sources(&[source("a")]), [source("a")]);
    }

    #[test]
    fn the_names_in_the_clients_readme_are_read_too() {
        let results = json!({"connected": [source("b")], "disconnected": [source("a")]});
        assert_eq!(read(json!({"sessionResults": results})).sources(&[source("a")]), [source("b")]);
        assert_eq!(read(json!({"connections": [source("a")]})).sources(&[]), [source("a")]);
        let both = json!({"currentConnections": [source("a")], "connections": [source("b")]});
        assert_eq!(read(both).sources(&[]), [source("a")]);
        let unusable = json!({"currentConnections": {}, "connections": [source("b")]});
        assert_eq!(read(unusable).sources(&[]), [source("b")]);
    }

    #[test]
    fn a_field_of_another_type_counts_as_absent() {
        for body in [
            json!({"status": 1}),
            json!({"status": ""}),
            json!({"sessionResults": []}),
            json!({"sessionResults": "x"}),
            json!({"sessionResults": {"connectedSources": {}, "disconnected": 1}}),
            json!({"currentConnections": "x"}),
            json!({"currentConnections": null, "connections": {}}),
        ] {
            let report = read(body.clone());
            assert!(!report.session_token_failed, "{body}");
            assert_eq!(report.sources(&[source("a")]), [source("a")], "{body}");
        }
    }

    #[test]
    fn a_numeric_id_becomes_text_and_an_unusable_source_is_left_out() {
        let long = "x".repeat(FIELD_LIMIT + 1);
        let report = read(json!({"currentConnections": [
            {"id": 4711, "name": "A"}, {"id": 1.5, "name": "B"}, {"id": -1, "name": "C"},
            1, null, "x", [], {}, {"id": "1"}, {"name": "x"}, {"id": "", "name": "x"}, {"id": "1", "name": " "},
            {"id": true, "name": "x"}, {"id": "1", "name": 4711}, {"id": long, "name": "x"}, {"id": "1", "name": long},
            {"id": "d", "name": "D", "more": 1},
        ]}));
        let ids: Vec<_> = report.sources(&[]).into_iter().map(|source| source.id).collect();
        assert_eq!(ids, ["4711", "1.5", "-1", "d"]);
    }

    #[test]
    fn a_session_token_status_is_noticed() {
        assert!(read(json!({"status": "SESSION_TOKEN_EXPIRED"})).session_token_failed);
        assert!(!read(json!({"status": "SUCCESS"})).session_token_failed);
    }
}
