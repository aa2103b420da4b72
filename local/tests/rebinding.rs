//! A page elsewhere that makes its own name point at this machine reads nothing of the laptop's.

use local::laptop::{Laptop, Options};

#[tokio::test]
async fn no_part_answers_to_another_machines_name() {
    let laptop = Laptop::start(Options::in_memory()).await.unwrap();
    let http = shared::network::http_client(&laptop.config).unwrap();
    let of = |name: &str| laptop.environment.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let state = http.get(format!("{}/local/state", laptop.console)).send().await.unwrap().text().await.unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let widgets = state["widgetOrigin"].as_str().unwrap();
    let parts = [
        format!("{}/local/state", laptop.console),
        format!("{widgets}/popup"),
        of("AWS_ENDPOINT_URL"),
        of("HUMAN_API_USER_URL"),
    ];
    for url in parts {
        let asked = |host: &'static str| http.get(&url).header("host", host).send();
        assert_eq!(asked("evil.example.test").await.unwrap().status(), 421, "{url}");
        assert_ne!(asked("localhost:3000").await.unwrap().status(), 421, "{url}");
    }
}
