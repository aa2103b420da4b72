//! The Connect widget's `onClose` response. What it says is kept for display and believed in nothing.

use std::borrow::Cow;

use serde_json::Value;
use shared::http::Problem;
use shared::http::body::{Fields, check_text, list};
use shared::record::Source;

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
    pub fn read(fields: &Fields) -> Result<Self, Problem> {
        let status = fields.optional_text("status")?.unwrap_or_default();
        let results = fields.optional_object("sessionResults")?;
        let result = |name: &str| results.and_then(|results| results.get(name));
        let connected = list(result("connectedSources"), "sessionResults.connectedSources")?;
        let disconnected = list(result("disconnectedSources"), "sessionResults.disconnectedSources")?;
        Ok(Self {
            session_token_failed: status.starts_with("SESSION_TOKEN_"),
            now: fields
                .optional_list("currentConnections")?
                .map(|list| sources(list, "currentConnections"))
                .transpose()?,
            connected: connected.map(|list| sources(list, "connectedSources")).transpose()?.unwrap_or_default(),
            disconnected: disconnected
                .map(|list| sources(list, "disconnectedSources"))
                .transpose()?
                .unwrap_or_default(),
        })
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

fn sources(list: &[Value], name: &'static str) -> Result<Vec<Source>, Problem> {
    let text = |source: &Value, field: &str| {
        let name = format!("{name}[].{field}");
        match source.get(field) {
            Some(Value::String(text)) => check_text(Cow::Owned(name), text).map(str::to_owned),
            _ => Err(Problem::invalid_request(format!("{name} must be a string"))),
        }
    };
    list.iter().map(|source| Ok(Source { id: text(source, "id")?, name: text(source, "name")? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared::http::Request;

    fn read(body: Value) -> Result<Report, Problem> {
        let event = json!({"body": body.to_string()}).to_string();
        Report::read(&Fields::json_or_form(&Request::read(&event).unwrap()).unwrap())
    }

    fn source(id: &str) -> Source {
        Source { id: id.into(), name: format!("Made-up {id}") }
    }

    #[test]
    fn current_connections_are_taken_as_reported() {
        let report =
            read(json!({"currentConnections": [source("a")], "sessionResults": {"connectedSources": [source("b")]}}));
        assert_eq!(report.unwrap().sources(&[source("c")]), [source("a")]);
    }

    #[test]
    fn without_them_the_session_changes_what_was_known() {
        let report =
            read(json!({"sessionResults": {"connectedSources": [source("b")], "disconnectedSources": [source("a")]}}));
        assert_eq!(report.unwrap().sources(&[source("a"), source("c")]), [source("c"), source("b")]);
        assert_eq!(read(json!({})).unwrap().sources(&[source("a")]), [source("a")]);
    }

    #[test]
    fn wrong_types_are_named() {
        for body in [
            json!({"status": 1}),
            json!({"sessionResults": []}),
            json!({"sessionResults": {"connectedSources": {}}}),
            json!({"currentConnections": "x"}),
            json!({"currentConnections": [1]}),
            json!({"currentConnections": [{"id": "1"}]}),
            json!({"currentConnections": [{"id": 1, "name": "x"}]}),
            json!({"currentConnections": [{"id": "", "name": "x"}]}),
        ] {
            assert_eq!(read(body.clone()).err().map(|problem| problem.status()), Some(400), "{body}");
        }
    }

    #[test]
    fn a_session_token_status_is_noticed() {
        assert!(read(json!({"status": "SESSION_TOKEN_EXPIRED"})).unwrap().session_token_failed);
        assert!(!read(json!({"status": "SUCCESS"})).unwrap().session_token_failed);
    }
}
