//! Log lines and metric lines: JSON that Lambda hands from standard output to CloudWatch.
//!
//! Only our own code logs below WARN, whatever `LOG_LEVEL` says: the libraries' debug and trace lines would carry
//! requests with secrets in them.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::{Filter, Layered, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::clock::{Millis, rfc3339};
use crate::invocation::Measurements;

mod lines;

pub use lines::Output;

/// The metrics' namespace.
const NAMESPACE: &str = "HumanConnect";
/// The dimension sets of a metric. CloudWatch counts each set as a metric of its own.
pub type Dimensions = &'static [&'static [&'static str]];
pub const BY_SERVICE: Dimensions = &[&["service"]];
pub const BY_FUNCTION: Dimensions = &[&["service"], &["service", "function"]];
const BY_CODE: Dimensions = &[&["service"], &["service", "code"]];
/// The crates that are ours.
const OURS: [&str; 8] =
    ["shared", "session_start", "finish", "public_token", "access_token", "connection", "sweeper", "local"];

/// The default of `LOG_LEVEL`.
pub fn info() -> Targets {
    Targets::new().with_default(Level::INFO)
}

/// A subscriber that writes each event as one JSON line.
pub fn subscriber(
    level: Targets,
    service: &str,
    function: &str,
    output: Output,
) -> impl Subscriber + Send + Sync + 'static + use<> {
    let ours = |metadata: &Metadata<'_>| OURS.contains(&metadata.target().split("::").next().unwrap_or_default());
    // so that the libraries' trace points cost a comparison each
    let most = Filter::<Registry>::max_level_hint(&level).unwrap_or(LevelFilter::TRACE).max(LevelFilter::WARN);
    let allowed = FilterFn::new(move |metadata: &Metadata<'_>| {
        if ours(metadata) {
            level.would_enable(metadata.target(), metadata.level())
        } else {
            *metadata.level() <= Level::WARN
        }
    })
    .with_max_level_hint(most);
    let subscriber: Layered<_, Registry> =
        tracing_subscriber::registry().with(lines::JsonLines::new(service, function, output).with_filter(allowed));
    subscriber
}

/// One call of a backend: the caller, the user, the outcome.
#[derive(Serialize)]
pub struct AuditLine<'a> {
    level: &'static str,
    timestamp: String,
    message: &'static str,
    service: &'a str,
    function_name: &'a str,
    function_request_id: &'a str,
    caller: Option<&'a str>,
    user: Option<&'a str>,
    outcome: &'a str,
}

impl<'a> AuditLine<'a> {
    /// The caller as AWS names it, and the user's hash, as far as they are known.
    pub fn new(
        service: &'a str,
        function_name: &'a str,
        function_request_id: &'a str,
        caller: Option<&'a str>,
        user: Option<&'a str>,
        outcome: &'a str,
        at: Millis,
    ) -> Self {
        let (level, timestamp, message) = ("INFO", rfc3339(at), "audit");
        Self { level, timestamp, message, service, function_name, function_request_id, caller, user, outcome }
    }
}

/// The outcome of one invocation.
pub struct Outcome<'a> {
    /// `SERVICE_NAME`, a dimension of every metric.
    pub service: &'a str,
    /// The function's name, a dimension of some metrics.
    pub function: &'a str,
    /// Lambda's id of the invocation.
    pub request_id: &'a str,
    /// The answer's status.
    pub status: u16,
    /// The error code, or `ok`.
    pub code: &'a str,
    /// The first invocation of this process.
    pub cold_start: bool,
    pub measurements: &'a Measurements,
    /// When it ended.
    pub at: Millis,
}

impl Outcome<'_> {
    /// The metrics, as one line of CloudWatch's embedded metric format.
    pub fn metrics(&self) -> MetricLine<'_> {
        let mut line = MetricLine::new(self.service, self.function, self.request_id, self.at);
        line.count(BY_FUNCTION, "Requests", 1);
        line.count(BY_FUNCTION, "Faults", u64::from(self.status >= 500));
        line.count(BY_FUNCTION, "ColdStart", u64::from(self.cold_start));
        line.measurements(self.measurements);
        if self.code != "ok" {
            line.errors(self.code, 1);
        }
        line
    }
}

/// A line of CloudWatch's [embedded metric format](https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
#[derive(Serialize)]
pub struct MetricLine<'a> {
    service: &'a str,
    function: &'a str,
    function_request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(flatten, serialize_with = "as_members")]
    values: Vec<(&'static str, Value)>,
    #[serde(rename = "_aws")]
    about: About,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct About {
    timestamp: Millis,
    cloud_watch_metrics: Vec<Directive>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: Dimensions,
    metrics: Vec<Metric>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    name: &'static str,
    unit: &'static str,
}

fn as_members<S: Serializer>(values: &[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(name, value)| (name, value)))
}

impl<'a> MetricLine<'a> {
    pub fn new(service: &'a str, function: &'a str, request_id: &'a str, at: Millis) -> Self {
        let about = About { timestamp: at, cloud_watch_metrics: Vec::new() };
        Self { service, function, function_request_id: request_id, code: None, values: Vec::new(), about }
    }

    fn add(&mut self, dimensions: Dimensions, name: &'static str, unit: &'static str, value: Value) {
        debug_assert!(self.values.iter().all(|(known, _)| *known != name), "{name} twice");
        let directives = &mut self.about.cloud_watch_metrics;
        match directives.iter_mut().find(|directive| directive.dimensions == dimensions) {
            Some(directive) => directive.metrics.push(Metric { name, unit }),
            None => {
                directives.push(Directive { namespace: NAMESPACE, dimensions, metrics: vec![Metric { name, unit }] })
            }
        }
        self.values.push((name, value));
    }

    pub fn count(&mut self, dimensions: Dimensions, name: &'static str, count: u64) {
        self.add(dimensions, name, "Count", count.into());
    }

    /// An invocation's measurements, without those that are zero.
    pub fn measurements(&mut self, measurements: &Measurements) {
        if measurements.upstream_calls > 0 {
            self.add(BY_FUNCTION, "UpstreamLatency", "Milliseconds", milliseconds(measurements.upstream).into());
        }
        if !measurements.store.is_zero() {
            self.add(BY_FUNCTION, "StoreLatency", "Milliseconds", milliseconds(measurements.store).into());
        }
        for (name, count) in [
            ("TokensStored", measurements.tokens_stored),
            ("TokensRecovered", measurements.tokens_recovered),
            ("SecretRefreshed", measurements.secret_refreshed),
            ("FinishConflicts", measurements.finish_conflicts),
            ("Unresolved", measurements.unresolved),
        ] {
            if count > 0 {
                self.count(BY_SERVICE, name, count.into());
            }
        }
        if let Some(age) = measurements.unresolved_age {
            self.add(BY_SERVICE, "UnresolvedAgeSeconds", "Seconds", age.as_secs().into());
        }
    }

    pub fn errors(&mut self, code: &'a str, count: u64) {
        self.code = Some(code);
        self.count(BY_CODE, "Errors", count);
    }
}

/// The whole chain of causes in one line, as they display. Never the `Debug` of an SDK error: that holds the response's
/// body, and with it a row.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A duration in milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(status: u16, code: &str, measurements: Measurements) -> Value {
        let measurements = &measurements;
        let (service, function, request_id) = ("human-connect", "finish", "r");
        json!(Outcome { service, function, request_id, status, code, cold_start: true, measurements, at: 1 }.metrics())
    }

    #[test]
    fn every_named_metric_has_its_value_beside_it() {
        let measurements =
            Measurements { tokens_stored: 1, unresolved_age: Some(Duration::from_secs(7)), ..Measurements::default() };
        let line = outcome(503, "store_unavailable", measurements);
        names_what_it_has(&line);
        assert_eq!((&line["Faults"], &line["UnresolvedAgeSeconds"]), (&json!(1), &json!(7)));
    }

    #[test]
    fn a_line_of_single_counts_names_them_too() {
        let mut line = MetricLine::new("human-connect", "sweeper", "r", 1);
        line.count(BY_SERVICE, "Swept", 3);
        line.errors("upstream_timeout", 2);
        names_what_it_has(&json!(line));
    }

    fn names_what_it_has(line: &Value) {
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            assert_eq!(directive["Namespace"], "HumanConnect");
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric}");
            }
            for name in directive["Dimensions"].as_array().unwrap().iter().flat_map(|set| set.as_array().unwrap()) {
                assert!(line[name.as_str().unwrap()].is_string(), "{name}");
            }
        }
    }

    #[test]
    fn a_callers_error_is_no_fault() {
        let line = outcome(422, "session_rejected", Measurements::default());
        assert_eq!((&line["Faults"], &line["Errors"]), (&json!(0), &json!(1)));
        assert!(outcome(201, "ok", Measurements::default()).get("Errors").is_none());
    }
}
