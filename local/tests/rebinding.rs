//! DNS rebinding: a page whose name points at this machine reads nothing of the local stack.

use local::local_stack::{LocalStack, Options};

#[tokio::test]
async fn every_part_refuses_another_machines_name() {
    let stack = LocalStack::start(Options::in_memory()).await.unwrap();
    let http = shared::network::http_client(&stack.config).unwrap();
    let of = |name: &str| stack.environment.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let state = http.get(format!("{}/local/state", stack.console)).send().await.unwrap().text().await.unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let widgets = state["widgetOrigin"].as_str().unwrap();
    let parts = [
        format!("{}/local/state", stack.console),
        format!("{widgets}/popup"),
        of("AWS_ENDPOINT_URL"),
        of("HUMAN_API_USER_URL"),
    ];
    for url in parts {
        let get_as = |host: &'static str| http.get(&url).header("host", host).send();
        assert_eq!(get_as("evil.example.test").await.unwrap().status(), 421, "{url}");
        assert_ne!(get_as("localhost:3000").await.unwrap().status(), 421, "{url}");
    }
}
