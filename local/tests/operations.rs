//! `docs/operations.md` has a row for each error code and each alarm.

use serde_json::Value;
use shared::http::Code;

const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[test]
fn every_error_code_has_its_row() {
    let row = |code: &Code| format!("\n| `{}` | {} |", code.name(), code.status().as_u16());
    let missing: Vec<_> = Code::ALL.iter().map(row).filter(|row| !OPERATIONS.contains(row)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let section = OPERATIONS.split("## Error codes").nth(1).and_then(|rest| rest.split("\n#").next()).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, Code::ALL.len(), "a row for an unknown code");
}

#[test]
fn every_alarm_has_its_row() {
    let template: Value = serde_saphyr::from_str(include_str!("../../template.yaml")).unwrap();
    let resources = template["Resources"].as_object().unwrap();
    let alarms = resources.iter().filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm");
    let mut count = 0;
    for (name, _) in alarms {
        count += 1;
        assert!(OPERATIONS.contains(&format!("\n| `{name}`")), "{name}");
    }
    assert!(count > 10, "{count}");
}
