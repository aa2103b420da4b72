//! `import` brings connections of users into the table.

use local::faults::{Acts, Answer, Fault};
use local::human_api::human_id;
use serde_json::{Value, json};

use crate::world::{World, is, record, refuse};

/// A popup user with made-up tokens.
fn popup(user: &str) -> Value {
    json!({
        "clientUserId": user,
        "humanId": format!("made-up-human-of-{user}"),
        "accessToken": format!("made-up-access-token-of-{user}"),
        "publicToken": format!("made-up-public-token-of-{user}"),
        "connectedAt": "2020-01-02T03:04:05Z",
    })
}

fn changed(user: &str, name: &str, value: &str) -> Value {
    let mut popup = popup(user);
    popup[name] = json!(value);
    popup
}

async fn import_with(world: &World, users: &[Value], more: Value) -> Value {
    let mut event = json!({"task": "import", "users": users});
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.stack.gateway.maintain(&event).await.unwrap()
}

/// Returns each result; a failure is its code.
fn results(response: &Value) -> Vec<&str> {
    let results = response["results"].as_array().unwrap();
    assert!(results.iter().enumerate().all(|(index, result)| result["index"] == index), "{response}");
    results.iter().map(|result| result["code"].as_str().or(result["result"].as_str()).unwrap()).collect()
}

async fn import(world: &World, users: &[Value]) -> Vec<String> {
    let response = import_with(world, users, json!({})).await;
    assert_eq!(response["next"], Value::Null, "{response}");
    results(&response).into_iter().map(str::to_owned).collect()
}

async fn replace(world: &World, users: &[Value]) -> Vec<String> {
    let response = import_with(world, users, json!({"onConflict": "replace"})).await;
    results(&response).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_popup_user_is_served_from_the_imported_tokens_without_a_request() {
    let world = World::new().await;
    assert_eq!(import(&world, &[popup("ada")]).await, ["created"]);
    let access = is(&world.access("ada", false).await, 200, "ok");
    assert_eq!((&access["accessToken"], &access["humanId"]), (&popup("ada")["accessToken"], &popup("ada")["humanId"]));
    assert_eq!(is(&world.public_token("ada", false).await, 200, "ok")["publicToken"], popup("ada")["publicToken"]);
    let shown = world.connection("ada").await;
    assert_eq!(
        (&shown["connected"], &shown["flow"], &shown["connectedAt"]),
        (&json!(true), &json!("popup"), &popup("ada")["connectedAt"])
    );
    let session = is(&world.session("ada", json!({"flow": "popup"})).await, 200, "ok");
    assert_eq!((&session["mode"], &session["publicToken"]), (&json!("edit"), &popup("ada")["publicToken"]));
    assert_eq!(world.take_requests(), [""; 0]);
    let table = world.table().await.concat();
    assert!(!table.contains("made-up-access-token") && !table.contains("made-up-public-token"), "{table}");
}

#[tokio::test]
async fn a_missing_public_token_is_recovered_with_the_imported_human_id() {
    let world = World::new().await;
    // Human API knows the user, as after a finish in the other backend
    world.popup("ada");
    let mut user = popup("ada");
    user["humanId"] = json!(human_id("ada"));
    user["publicToken"] = Value::Null;
    assert_eq!(import(&world, &[user]).await, ["created"]);
    let recovered = is(&world.public_token("ada", false).await, 200, "ok");
    assert_eq!((&recovered["recovered"], world.take_requests()), (&json!(true), vec!["publictokens".to_owned()]));
}

#[tokio::test]
async fn a_connect_user_is_imported_by_access_or_is_not_connected() {
    let world = World::new().await;
    world.stack.human_api.with(|state| state.connect("ada", crate::world::SOURCE));
    let users = [json!({"clientUserId": "ada"}), json!({"clientUserId": "nobody"})];
    let dry = import_with(&world, &users, json!({"dryRun": true})).await;
    assert_eq!((results(&dry), world.take_requests().len(), world.rows().await), (vec!["unknown"; 2], 0, 0));
    assert_eq!(import(&world, &users).await, ["created", "not_connected"]);
    assert_eq!(world.take_requests(), ["token (access)", "token (access)"]);
    assert_eq!(world.kept_rows().await, 1, "a user who is not connected leaves no row that stays");
    assert_eq!(
        (&world.connection("ada").await["flow"], &world.connection("nobody").await["connected"]),
        (&json!("connect"), &json!(false))
    );
    is(&world.access("ada", false).await, 200, "ok");
    assert_eq!(replace(&world, &users[..1]).await, ["unchanged"]);
    assert_eq!(world.take_requests(), [""; 0]);
}

#[tokio::test]
async fn keep_leaves_a_connection_and_replace_replaces_it_once() {
    let world = World::new().await;
    let (old, new) = (popup("ada"), changed("ada", "accessToken", "made-up-access-token-2"));
    assert_eq!(import(&world, std::slice::from_ref(&old)).await, ["created"]);
    let before = world.row("ada").await;
    assert_eq!(import(&world, &[old.clone(), new.clone()]).await, ["unchanged", "conflict"]);
    let dry = import_with(&world, std::slice::from_ref(&new), json!({"onConflict": "replace", "dryRun": true})).await;
    assert_eq!((results(&dry), world.row("ada").await), (vec!["replaced"], before));
    assert_eq!(replace(&world, std::slice::from_ref(&new)).await, ["replaced"]);
    assert_eq!(is(&world.access("ada", false).await, 200, "ok")["accessToken"], new["accessToken"]);
    let after = world.row("ada").await;
    assert_eq!(replace(&world, std::slice::from_ref(&new)).await, ["unchanged"]);
    assert_eq!(world.row("ada").await, after);
}

#[tokio::test]
async fn a_repeated_import_puts_no_older_token_over_a_refreshed_one() {
    let world = World::new().await;
    assert_eq!(import(&world, &[popup("ada")]).await, ["created"]);
    world.stack.human_api.with(|state| state.connect("ada", crate::world::SOURCE));
    let fresh = is(&world.access("ada", true).await, 200, "ok");
    assert_ne!(fresh["accessToken"], popup("ada")["accessToken"]);
    assert_eq!(replace(&world, &[popup("ada")]).await, ["unchanged"]);
    assert_eq!(is(&world.access("ada", false).await, 200, "ok")["accessToken"], fresh["accessToken"]);
}

#[tokio::test]
async fn another_human_id_replaces_the_tokens_of_the_one_before() {
    let world = World::new().await;
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    let mut user = popup("ada");
    user["publicToken"] = Value::Null;
    assert_eq!(import(&world, std::slice::from_ref(&user)).await, ["conflict"]);
    assert_eq!(replace(&world, std::slice::from_ref(&user)).await, ["replaced"]);
    assert!(
        !record(&world.row("ada").await).get("publicToken").is_some_and(|token| token.is_m()),
        "of another humanId"
    );
}

#[tokio::test]
async fn two_users_with_the_same_human_id_are_a_conflict_even_if_one_of_them_is_bad() {
    let world = World::new().await;
    let same = |user| changed(user, "humanId", "made-up-shared");
    assert_eq!(import(&world, &[same("ada"), popup("grace"), same("hedy")]).await, ["conflict", "created", "conflict"]);
    let mut bad = same("hedy");
    bad["connectedAt"] = json!("yesterday");
    assert_eq!(import(&world, &[same("ada"), bad]).await, ["conflict", "invalid_request"]);
    assert_eq!(import(&world, &[same("ada"), same("ada")]).await, ["created", "unchanged"]);
}

#[tokio::test]
async fn a_bad_user_fails_alone() {
    let world = World::new().await;
    let users = [
        json!({}),
        json!(7),
        changed("ada", "accessToken", " "),
        json!({"clientUserId": "ada", "humanId": "h"}),
        popup("ada"),
    ];
    assert_eq!(
        import(&world, &users).await,
        ["invalid_request", "invalid_request", "invalid_request", "invalid_request", "created"]
    );
}

#[tokio::test]
async fn an_import_stops_at_429_and_goes_on_from_there() {
    let world = World::new().await;
    let users = [popup("ada"), json!({"clientUserId": "grace"}), json!({"clientUserId": "hedy"})];
    for user in ["grace", "hedy"] {
        world.stack.human_api.with(|state| state.connect(user, crate::world::SOURCE));
    }
    let slower = Answer { headers: vec![("retry-after", "3600".into())], ..Answer::json(429, "{}") };
    world.fault([Fault::Answer(Acts::Not, slower)]);
    let stopped = import_with(&world, &users, json!({})).await;
    assert_eq!((results(&stopped), &stopped["next"]), (vec!["created"], &json!(1)));
    assert_eq!(import(&world, &users[1..]).await, ["created"; 2]);
}

#[tokio::test]
async fn a_failure_of_human_api_names_its_code_and_the_task_goes_on() {
    let world = World::new().await;
    world.stack.human_api.with(|state| state.connect("grace", crate::world::SOURCE));
    world.fault([refuse(500, "{}")]);
    let users = ["ada", "grace"].map(|user| json!({"clientUserId": user}));
    assert_eq!(import(&world, &users).await, ["upstream_unavailable", "created"]);
}

#[tokio::test]
async fn an_unresolved_exchange_is_resolved_before_the_import() {
    let world = World::new().await;
    world.lose("ada").await;
    assert_eq!(import(&world, &[popup("ada")]).await, ["conflict"]);
    let (newest, _) = world.stack.human_api.with(|state| state.newest("ada"));
    assert_eq!(is(&world.access("ada", false).await, 200, "ok")["accessToken"], json!(newest));
}
