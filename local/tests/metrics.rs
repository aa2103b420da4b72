//! The functions' metrics have the dimension sets of the contract. The template's dashboard and alarms watch only metrics that
//! the functions emit or that a filter of the template counts. The dashboard leaves none out.

use std::collections::BTreeSet;
use std::time::Duration;

use local::gateway::ACCESS_TOKEN;
use local::local_stack::{LocalStack, Options};
use serde_json::{Value, json};
use shared::http::Code;
use shared::invocation::Measurements;
use shared::lambda::Function;
use shared::lambda::job::Job;
use shared::telemetry::{Outcome, Output};
use test_support::LogCapture;

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

/// The metrics that also have the dimension `function`, by `CONTRACT.md` 6.
const BY_FUNCTION: [&str; 5] = ["Requests", "Faults", "ColdStart", "UpstreamLatency", "StoreLatency"];

/// The other metrics. `Errors` also has the dimension `code`.
const BY_SERVICE: [&str; 10] = [
    "Errors",
    "TokensStored",
    "TokensRecovered",
    "SecretRefreshed",
    "FinishConflicts",
    "Unresolved",
    "UnresolvedAgeSeconds",
    "Swept",
    "Resealed",
    "Imported",
];

fn metric(name: &str, dimensions: &[&str]) -> Metric {
    (name.to_owned(), dimensions.iter().map(|dimension| (*dimension).to_owned()).collect())
}

/// Returns the functions' namespace and all their metrics. The sources are an invocation with every event, a run of
/// `sweep`, and a refused call.
async fn emitted() -> (String, BTreeSet<Metric>) {
    let measurements = Measurements {
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
    let outcome = Outcome {
        service: "human-connect",
        function: "finish",
        request_id: "r",
        status: 503,
        code,
        cold_start: true,
        measurements: &measurements,
        at: 1,
    };
    let line = json!(outcome.metrics());
    let namespace = text(&line["_aws"]["CloudWatchMetrics"][0]["Namespace"]);
    let mut metrics = BTreeSet::new();
    let lines = [line].into_iter().chain(written("human-connect").await);
    let directives = lines.filter_map(|line| line["_aws"]["CloudWatchMetrics"].as_array().cloned()).flatten();
    for directive in directives {
        assert_eq!(directive["Namespace"], namespace);
        for metric in directive["Metrics"].as_array().unwrap() {
            for dimensions in directive["Dimensions"].as_array().unwrap() {
                let dimensions = dimensions.as_array().unwrap().iter().map(text).collect();
                metrics.insert((text(&metric["Name"]), dimensions));
            }
        }
    }
    (namespace, metrics)
}

/// Returns the lines of one run of `sweep` and one refused call of `access-token`. One of them is an audit line, and
/// the others have metrics.
async fn written(service: &'static str) -> Vec<Value> {
    let capture = LogCapture::default();
    let (output, variables) = (Output::new(capture.clone()), vec![("SERVICE_NAME", service)]);
    let stack = LocalStack::start(Options { output, variables, ..Options::in_memory() }).await.unwrap();
    stack.gateway.sweep().await;
    stack.gateway.as_backend(ACCESS_TOKEN, &json!({"clientUserId": "ada"})).await;
    let lines = capture.lines().unwrap();
    let functions: Vec<&Value> = lines.iter().map(|line| line.get("function").unwrap_or(&line["message"])).collect();
    assert_eq!(functions, ["maintenance", "audit", "access-token"]);
    lines
}

/// Returns the metrics of the template's metric filters.
fn counted(template: &Value, namespace: &str) -> BTreeSet<Metric> {
    let transformations =
        of_type(template, "AWS::Logs::MetricFilter").map(|(_, filter)| &filter["MetricTransformations"][0]);
    let ours = transformations.filter(|metric| metric["MetricNamespace"] == namespace);
    ours.map(|metric| {
        let dimensions = metric["Dimensions"].as_array().unwrap().iter();
        (text(&metric["MetricName"]), dimensions.map(|dimension| text(&dimension["Key"])).collect())
    })
    .collect()
}

fn dashboard_text(dashboard: &Value) -> &str {
    dashboard["DashboardBody"][0].as_str().unwrap()
}

/// Collects the metrics of the dashboard's rows and searches in this namespace. Each must name the stack as its service.
fn shown(value: &Value, namespace: &str, metrics: &mut BTreeSet<Metric>) {
    match value {
        // ["HumanConnect", "Swept", "service", "${AWS::StackName}", {…}]
        Value::Array(row) if row.first().is_some_and(|first| first == namespace) => {
            let names: Vec<String> = row.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            assert_eq!(names[2..4], ["service", "${AWS::StackName}"], "{names:?}");
            metrics.insert((names[1].clone(), names[2..].chunks(2).map(|pair| pair[0].clone()).collect()));
        }
        // SEARCH('{HumanConnect,service,function} MetricName="Faults" service="${AWS::StackName}"', 'Sum')
        Value::String(expression) if expression.starts_with("SEARCH(") => {
            let (schema, rest) = expression.strip_prefix("SEARCH('{").unwrap().split_once('}').unwrap();
            let mut schema = schema.split(',');
            if schema.next() == Some(namespace) {
                assert!(rest.contains(r#"" service="${AWS::StackName}"', '"#), "{expression}");
                let name = rest.split('"').nth(1).unwrap();
                metrics.insert((name.to_owned(), schema.map(str::to_owned).collect()));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| shown(item, namespace, metrics)),
        Value::Object(fields) => fields.values().for_each(|field| shown(field, namespace, metrics)),
        _ => {}
    }
}

/// Returns the metrics of an alarm: the alarm itself, or the metrics of its expression.
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
async fn each_metric_has_the_dimension_sets_of_the_contract() {
    let by_service = BY_FUNCTION.iter().chain(&BY_SERVICE).map(|name| metric(name, &["service"]));
    let by_function = BY_FUNCTION.iter().map(|name| metric(name, &["service", "function"]));
    let expected = by_service.chain(by_function).chain([metric("Errors", &["service", "code"])]).collect();
    let (namespace, emitted) = emitted().await;
    assert_eq!((namespace.as_str(), emitted), ("HumanConnect", expected));
}

#[tokio::test]
async fn two_services_do_not_mix() {
    for service in ["human-connect-dev", "human-connect-prod"] {
        for line in written(service).await {
            assert_eq!(line["service"], service, "{line}");
        }
    }
}

/// A metric filter takes its dimension from a field of the access log.
#[test]
fn a_metric_filter_counts_the_access_log_of_its_stack() {
    let template = template();
    let (_, api) = of_type(&template, "AWS::Serverless::HttpApi").next().unwrap();
    // API Gateway puts this variable into quotes of its own
    let format = text(&api["AccessLogSettings"]["Format"]).replace("$context.error.messageString", "\"\"");
    let format: Value = serde_json::from_str(&format).unwrap();
    assert_eq!(format["service"], "${AWS::StackName}");
    let mut filters = 0;
    for (name, filter) in of_type(&template, "AWS::Logs::MetricFilter") {
        filters += 1;
        let metric = &filter["MetricTransformations"][0];
        assert_eq!(metric["Dimensions"], json!([{"Key": "service", "Value": "$.service"}]), "{name}");
        // CloudWatch Logs refuses a default value together with dimensions.
        assert!(metric.get("DefaultValue").is_none(), "{name}");
    }
    assert_eq!(filters, 2);
}

#[tokio::test]
async fn the_dashboard_shows_every_existing_metric_and_no_other() {
    let template = template();
    let (namespace, emitted) = emitted().await;
    let there = &emitted | &counted(&template, &namespace);
    let (_, dashboard) = of_type(&template, "AWS::CloudWatch::Dashboard").next().unwrap();
    let body: Value = serde_json::from_str(&dashboard_text(dashboard).replace("${MoreAlarms}", "")).unwrap();
    let mut metrics = BTreeSet::new();
    shown(&body, &namespace, &mut metrics);
    assert_eq!(metrics.difference(&there).collect::<Vec<_>>(), Vec::<&Metric>::new());
    let names = |metrics: &BTreeSet<Metric>| metrics.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
    assert_eq!(names(&metrics), names(&there));
}

#[tokio::test]
async fn each_alarm_watches_an_existing_metric() {
    let template = template();
    let (namespace, emitted) = emitted().await;
    let there = &emitted | &counted(&template, &namespace);
    let functions = [
        session_start::SessionStart::NAME,
        finish::Finish::NAME,
        public_token::PublicToken::NAME,
        access_token::AccessToken::NAME,
        connection::Connection::NAME,
        maintenance::Maintenance::NAME,
        publisher::Publisher::NAME,
    ];
    let mut ours = 0;
    for (name, alarm) in of_type(&template, "AWS::CloudWatch::Alarm") {
        for metric in watched(alarm).into_iter().filter(|metric| metric["Namespace"] == namespace.as_str()) {
            ours += 1;
            let known = (text(&metric["MetricName"]), dimensions(metric).map(|(name, _)| name).collect());
            assert!(there.contains(&known), "{name}: {known:?}");
            for (dimension, value) in dimensions(metric) {
                let exists = match dimension.as_str() {
                    "service" => value == "AWS::StackName",
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
    // the second part has the alarms that are not in every stack
    let body = format!("{}{}", dashboard_text(dashboard), dashboard["DashboardBody"][1]);
    for (name, _) in of_type(&template, "AWS::CloudWatch::Alarm") {
        assert!(body.contains(&format!("${{{name}.Arn}}")), "{name}");
    }
}
