//! The template's dashboard and alarms watch only what is there: metrics that the functions emit or that a filter of the template
//! counts, by the dimensions that they have. And the dashboard leaves none out.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed step is a failed test")]

use std::collections::BTreeSet;
use std::time::Duration;

use local::heard::Heard;
use local::laptop::{Laptop, Options};
use serde_json::{Value, json};
use shared::http::Code;
use shared::invocation::Tally;
use shared::lambda::Function;
use shared::lambda::job::Job;
use shared::telemetry::{Outcome, Output};

const TEMPLATE: &str = include_str!("../../template.yaml");

/// A metric and the names of its dimensions.
type Metric = (String, BTreeSet<String>);

fn template() -> Value {
    serde_saphyr::from_str(TEMPLATE).unwrap()
}

fn of_type<'a>(template: &'a Value, kind: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let resources = template["Resources"].as_object().unwrap().iter();
    resources
        .filter(move |(_, resource)| resource["Type"] == kind)
        .map(|(name, resource)| (name, &resource["Properties"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The functions' namespace, and all that they emit: of an invocation in which everything has happened, and of a run of the
/// sweeper, which has some of its own.
async fn emitted() -> (String, BTreeSet<Metric>) {
    let tally = Tally {
        upstream: Duration::from_secs(1),
        upstream_calls: 1,
        store: Duration::from_secs(1),
        tokens_stored: 1,
        tokens_recovered: 1,
        secret_refreshed: 1,
        finish_conflicts: 1,
        unresolved: 1,
        unresolved_age: Some(Duration::from_secs(1)),
    };
    let code = Code::StoreUnavailable.name();
    let outcome =
        Outcome { function: "finish", request_id: "r", status: 503, code, cold_start: true, tally: &tally, at: 1 };
    let line = json!(outcome.metrics());
    let namespace = text(&line["_aws"]["CloudWatchMetrics"][0]["Namespace"]);
    let lines = [line].into_iter().chain(of_the_sweeper().await);
    let mut metrics = BTreeSet::new();
    for directive in lines.flat_map(|line| line["_aws"]["CloudWatchMetrics"].as_array().unwrap().clone()) {
        for metric in directive["Metrics"].as_array().unwrap() {
            for dimensions in directive["Dimensions"].as_array().unwrap() {
                let dimensions = dimensions.as_array().unwrap().iter().map(text).collect();
                metrics.insert((text(&metric["Name"]), dimensions));
            }
        }
    }
    (namespace, metrics)
}

/// Its metric lines of one run.
async fn of_the_sweeper() -> Vec<Value> {
    let heard = Heard::default();
    let laptop = Laptop::start(Options { output: Output::new(heard.clone()), ..Options::in_memory() }).await.unwrap();
    laptop.gateway.sweep().await;
    let lines = heard
        .lines()
        .unwrap()
        .into_iter()
        .filter(|line| line["function"] == sweeper::Sweeper::NAME)
        .collect::<Vec<_>>();
    assert_eq!(lines.len(), 1);
    lines
}

/// What the template's metric filters count.
fn counted(template: &Value, namespace: &str) -> BTreeSet<Metric> {
    let transformations =
        of_type(template, "AWS::Logs::MetricFilter").map(|(_, filter)| &filter["MetricTransformations"][0]);
    let ours = transformations.filter(|metric| metric["MetricNamespace"] == namespace);
    ours.map(|metric| (text(&metric["MetricName"]), BTreeSet::new())).collect()
}

/// The dashboard's rows and searches in this namespace.
fn shown(value: &Value, namespace: &str, metrics: &mut BTreeSet<Metric>) {
    match value {
        // ["HumanConnect", "Faults", "function", "finish", {…}]
        Value::Array(row) if row.first().is_some_and(|first| first == namespace) => {
            let names: Vec<String> = row.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            metrics.insert((names[1].clone(), names[2..].chunks(2).map(|pair| pair[0].clone()).collect()));
        }
        // SEARCH('{HumanConnect,function} MetricName="Faults"', 'Sum')
        Value::String(expression) if expression.starts_with("SEARCH(") => {
            let (schema, rest) = expression.strip_prefix("SEARCH('{").unwrap().split_once('}').unwrap();
            let mut schema = schema.split(',');
            if schema.next() == Some(namespace) {
                let name = rest.split('"').nth(1).unwrap();
                metrics.insert((name.to_owned(), schema.map(str::to_owned).collect()));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| shown(item, namespace, metrics)),
        Value::Object(fields) => fields.values().for_each(|field| shown(field, namespace, metrics)),
        _ => {}
    }
}

/// The metrics of an alarm: itself, or those that its expression is about.
fn watched(alarm: &Value) -> Vec<&Value> {
    match alarm["Metrics"].as_array() {
        Some(queries) => {
            queries.iter().filter_map(|query| query.get("MetricStat")).map(|stat| &stat["Metric"]).collect()
        }
        None => vec![alarm],
    }
}

fn dimensions(metric: &Value) -> impl Iterator<Item = (String, String)> {
    let list = metric["Dimensions"].as_array().into_iter().flatten();
    list.map(|dimension| (text(&dimension["Name"]), text(&dimension["Value"])))
}

#[tokio::test]
async fn the_dashboard_shows_every_metric_that_there_is_and_no_other() {
    let template = template();
    let (namespace, emitted) = emitted().await;
    let there = &emitted | &counted(&template, &namespace);
    let (_, dashboard) = of_type(&template, "AWS::CloudWatch::Dashboard").next().unwrap();
    let body: Value = serde_json::from_str(dashboard["DashboardBody"].as_str().unwrap()).unwrap();
    let mut metrics = BTreeSet::new();
    shown(&body, &namespace, &mut metrics);
    assert_eq!(metrics.difference(&there).collect::<Vec<_>>(), Vec::<&Metric>::new());
    let names = |metrics: &BTreeSet<Metric>| metrics.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
    assert_eq!(names(&metrics), names(&there));
}

#[tokio::test]
async fn each_alarm_watches_a_metric_that_there_is() {
    let template = template();
    let (namespace, emitted) = emitted().await;
    let there = &emitted | &counted(&template, &namespace);
    let functions = [
        session_start::SessionStart::NAME,
        finish::Finish::NAME,
        public_token::PublicToken::NAME,
        access_token::AccessToken::NAME,
        connection::Connection::NAME,
        sweeper::Sweeper::NAME,
    ];
    let mut ours = 0;
    for (name, alarm) in of_type(&template, "AWS::CloudWatch::Alarm") {
        for metric in watched(alarm).into_iter().filter(|metric| metric["Namespace"] == namespace.as_str()) {
            ours += 1;
            let known = (text(&metric["MetricName"]), dimensions(metric).map(|(name, _)| name).collect());
            assert!(there.contains(&known), "{name}: {known:?}");
            for (dimension, value) in dimensions(metric) {
                let exists = match dimension.as_str() {
                    "function" => functions.contains(&value.as_str()),
                    _ => Code::ALL.iter().any(|code| code.name() == value),
                };
                assert!(exists, "{name}: {dimension} {value}");
            }
        }
    }
    assert!(ours > 0);
}

#[test]
fn the_dashboard_shows_every_alarm() {
    let template = template();
    let (_, dashboard) = of_type(&template, "AWS::CloudWatch::Dashboard").next().unwrap();
    let body = dashboard["DashboardBody"].as_str().unwrap();
    for (name, _) in of_type(&template, "AWS::CloudWatch::Alarm") {
        assert!(body.contains(&format!("\"${{{name}.Arn}}\"")), "{name}");
    }
}
