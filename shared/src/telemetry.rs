//! Log lines and metric lines: JSON that Lambda hands from standard output to CloudWatch.
//!
//! Only our own code logs below WARN, whatever `LOG_LEVEL` says: the libraries' debug and trace lines would carry
//! requests with secrets in them.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use crate::clock::{Millis, rfc3339};
use crate::invocation::Measurements;

mod lines;

pub use lines::Output;

const NAMESPACE: &str = "HumanConnect";
/// The dimension sets of a metric. CloudWatch counts each set as a metric of its own.
pub type Dimensions = &'static [&'static [&'static str]];
pub const BY_SERVICE: Dimensions = &[&["service"]];
pub const BY_FUNCTION: Dimensions = &[&["service"], &["service", "function"]];
const BY_CODE: Dimensions = &[&["service"], &["service", "code"]];
const OURS: [&str; 9] = [
    "shared",
    "session_start",
    "finish",
    "public_token",
    "access_token",
    "connection",
    "maintenance",
    "publisher",
    "local",
];

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
    // with this hint, a trace point of a library costs one comparison
    let most = Filter::<Registry>::max_level_hint(&level).unwrap_or(LevelFilter::TRACE).max(LevelFilter::WARN);
    let allowed = FilterFn::new(move |metadata: &Metadata<'_>| {
        if OURS.contains(&metadata.target().split("::").next().unwrap_or_default()) {
            level.would_enable(metadata.target(), metadata.level())
        } else {
            *metadata.level() <= Level::WARN
        }
    });
    let lines = lines::JsonLines { service: service.to_owned(), function: function.to_owned(), output };
    Registry::default().with(lines.with_filter(allowed.with_max_level_hint(most)))
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
    route: Option<String>,
    caller: Option<&'a str>,
    user: Option<&'a str>,
    outcome: &'a str,
}

impl<'a> AuditLine<'a> {
    /// `caller` is an ARN, and `user` is the user's hash.
    pub fn new(outcome: &Outcome<'a>, route: Option<String>, caller: Option<&'a str>, user: Option<&'a str>) -> Self {
        Self {
            level: "INFO",
            timestamp: rfc3339(outcome.at),
            message: "audit",
            service: outcome.service,
            function_name: outcome.function,
            function_request_id: outcome.request_id,
            route,
            caller,
            user,
            outcome: outcome.code,
        }
    }
}

/// The outcome of one invocation.
pub struct Outcome<'a> {
    pub service: &'a str,
    pub function: &'a str,
    pub request_id: &'a str,
    pub status: u16,
    /// The error code, or `ok`.
    pub code: &'a str,
    pub cold_start: bool,
    pub measurements: &'a Measurements,
    /// The invocation's end.
    pub at: Millis,
}

impl Outcome<'_> {
    pub fn metrics(&self) -> MetricLine<'_> {
        let mut line = MetricLine::new(self.service, self.function, self.request_id, self.at);
        line.count(BY_FUNCTION, "Requests", 1);
        line.count(BY_FUNCTION, "Faults", (self.status >= 500).into());
        line.count(BY_FUNCTION, "ColdStart", self.cold_start.into());
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

    /// Leaves out measurements that are zero.
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

/// The whole chain of causes in one line, as they display. The `Debug` of an SDK error is never logged: it contains the
/// response's body, and with it a row.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(status: u16, code: &str, measurements: &Measurements) -> Value {
        let (service, function, request_id) = ("human-connect", "finish", "r");
        let outcome = Outcome { service, function, request_id, status, code, cold_start: true, measurements, at: 1 };
        check(json!(outcome.metrics()))
    }

    /// Checks that each metric and each dimension that the line names has its value in the line.
    fn check(line: Value) -> Value {
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            assert_eq!(directive["Namespace"], "HumanConnect");
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric}");
            }
            for name in directive["Dimensions"].as_array().unwrap().iter().flat_map(|set| set.as_array().unwrap()) {
                assert!(line[name.as_str().unwrap()].is_string(), "{name}");
            }
        }
        line
    }

    #[test]
    fn a_line_of_single_counts_names_them_too() {
        let mut line = MetricLine::new("human-connect", "maintenance", "r", 1);
        line.count(BY_SERVICE, "Swept", 3);
        line.errors("upstream_timeout", 2);
        check(json!(line));
    }

    #[test]
    fn a_fault_counts_with_the_measurements_and_a_callers_error_is_no_fault() {
        let unresolved_age = Some(Duration::from_secs(7));
        let line =
            outcome(503, "store_unavailable", &Measurements { tokens_stored: 1, unresolved_age, ..Default::default() });
        assert_eq!((&line["Faults"], &line["UnresolvedAgeSeconds"]), (&json!(1), &json!(7)));
        let line = outcome(422, "session_rejected", &Measurements::default());
        assert_eq!((&line["Faults"], &line["Errors"]), (&json!(0), &json!(1)));
        assert!(outcome(201, "ok", &Measurements::default()).get("Errors").is_none());
    }
}
