//! Unusual but real callers: bodies of older SDKs, lists as claims, pasted secrets, mapped domains.

use local::gateway::{ACCESS_TOKEN, CONNECTION, FORGET, Reply, backend_event, user_event};
use local::secrets::{Accepted, CLIENT_SECRET};
use serde_json::{Value, json};
use shared::telemetry::{Output, info, subscriber};
use test_support::LogCapture;
use tracing::subscriber::DefaultGuard;

use crate::world::{SOURCE, World, is, refuse};

const SESSION: &str = "POST /connect/session";

/// Captures the log lines of this thread. The whole test runs in it.
fn capture_log() -> (LogCapture, DefaultGuard) {
    let capture = LogCapture::default();
    let guard = tracing::subscriber::set_default(subscriber(info(), "test", "test", Output::new(capture.clone())));
    (capture, guard)
}

/// Takes the lines that contain all of these texts.
fn lines_with(capture: &LogCapture, texts: &[&str]) -> Vec<Value> {
    let lines = capture.lines().unwrap();
    lines.into_iter().filter(|line| texts.iter().all(|text| line.to_string().contains(text))).collect()
}

/// Makes the body that Human API's older iOS SDK gives to the app.
fn ios(object: &Value) -> Value {
    json!({
        "status": "auth",
        "human_id": object["humanId"],
        "client_id": object["clientId"],
        "session_token": object["sessionToken"],
    })
}

/// Converts an event to payload format 1.0.
fn as_v1(event: &mut Value, path: &str) {
    event["version"] = json!("1.0");
    (event["resource"], event["httpMethod"]) = (json!(path), json!("POST"));
    let context = &mut event["requestContext"];
    (context["resourcePath"], context["httpMethod"]) = (json!(path), json!("POST"));
}

/// Starts a session for an event with this authorizer.
async fn start(world: &World, version: &str, authorizer: Value, body: Value) -> Reply {
    let mut event = user_event(SESSION, "ada", &body);
    if version == "1.0" {
        as_v1(&mut event, "/connect/session");
    }
    event["requestContext"]["authorizer"] = authorizer;
    world.stack.gateway.invoke(SESSION, &event).await
}

#[tokio::test]
async fn both_spellings_of_a_popup_body_are_exchanged() {
    let world = World::new().await;
    is(&world.finish("ada", &ios(&world.popup("ada"))).await, 201, "ok");
    assert_eq!(world.take_requests(), ["tokens"]);

    let mut both = world.popup("ada");
    both["session_token"] = both["sessionToken"].clone();
    is(&world.finish("ada", &both).await, 201, "ok");

    let session = world.session("bob", json!({"flow": "popup"})).await.json();
    let ticket = session["finishUrl"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    is(&world.stack.gateway.with_ticket(&ticket, &ios(&world.popup("bob"))).await, 201, "ok");
}

#[tokio::test]
async fn a_body_of_an_unknown_kind_gets_an_error_that_names_both_kinds() {
    let world = World::new().await;
    let object = world.popup("ada");
    for body in [json!({"sessionTokenObject": object}), json!({"token": "x"}), json!({"SessionToken": "x"})] {
        let problem = is(&world.finish("ada", &body).await, 400, "invalid_request");
        let detail = problem["detail"].as_str().unwrap();
        for name in ["humanId", "clientId", "sessionToken", "status", "sessionResults", "currentConnections"] {
            assert!(detail.contains(name), "{detail}");
        }
    }
    for (field, alias) in [("humanId", "human_id"), ("clientId", "client_id"), ("sessionToken", "session_token")] {
        let mut body = object.clone();
        body[alias] = json!("another");
        let problem = is(&world.finish("ada", &body).await, 400, "invalid_request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(field) && detail.contains(alias) && !detail.contains("another"), "{detail}");
    }
    for body in [json!({"sessionToken": "x"}), json!({"status": "auth", "human_id": "x"})] {
        is(&world.finish("ada", &body).await, 400, "invalid_request");
    }
    assert_eq!((world.take_requests().len(), world.rows().await), (0, 0));
    // An empty object is a Connect response without information.
    is(&world.finish("ada", &json!({})).await, 201, "ok");
    assert_eq!(world.take_requests(), ["token (access)"]);
}

#[tokio::test]
async fn a_ticket_does_not_accept_a_connect_response() {
    let world = World::new().await;
    let session = world.session("ada", json!({"flow": "popup"})).await.json();
    let ticket = session["finishUrl"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    for body in [json!({}), json!({"status": "SUCCESS"}), json!({"connections": []})] {
        let problem = is(&world.stack.gateway.with_ticket(&ticket, &body).await, 400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains("sessionToken"), "{problem}");
    }
    assert_eq!(world.take_requests().len(), 0);
    is(&world.stack.gateway.with_ticket(&ticket, &world.popup("ada")).await, 201, "ok");
}

#[tokio::test]
async fn a_ticket_that_is_not_good_writes_nothing() {
    let world = World::new().await;
    let ticket = async || {
        let session = world.session("ada", json!({"flow": "popup"})).await.json();
        session["finishUrl"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    };
    let (spent, expired) = (ticket().await, ticket().await);
    is(&world.stack.gateway.with_ticket(&spent, &world.popup("ada")).await, 201, "ok");
    let before = world.row("ada").await;
    is(&world.stack.gateway.with_ticket(&spent, &world.popup("ada")).await, 401, "unauthenticated");
    world.pass_seconds(3601);
    is(&world.stack.gateway.with_ticket(&expired, &world.popup("ada")).await, 401, "unauthenticated");
    assert_eq!(world.row("ada").await, before);
    world.delete("ada").await;
    is(&world.stack.gateway.with_ticket(&expired, &world.popup("ada")).await, 401, "unauthenticated");
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn a_widget_report_is_always_checked_with_human_api() {
    let world = World::new().await;
    world.stack.human_api.with(|state| state.connect("ada", SOURCE));
    let source = |id: &str| json!({"id": id, "name": "Made up"});
    for (report, sources) in [
        (json!({"sessionResults": {"connected": [source("a")]}, "connections": [source("a")]}), json!([source("a")])),
        (json!({"sessionResults": {"connected": [source("b")]}}), json!([source("a"), source("b")])),
        (json!({"sessionResults": {"disconnected": [source("a")]}}), json!([source("b")])),
        (json!({"currentConnections": [{"id": 4711, "name": "Made up"}]}), json!([source("4711")])),
        (json!({"currentConnections": "x", "sessionResults": 1, "status": []}), json!([source("4711")])),
        (json!({"currentConnections": [1, {"id": "c"}, source("d")]}), json!([source("d")])),
        (json!({"currentConnections": []}), json!([])),
    ] {
        let answer = is(&world.finish("ada", &report).await, 201, "ok");
        assert_eq!(answer["sources"], sources, "{report}");
        assert_eq!(world.take_requests(), ["token (access)"], "{report}");
    }
}

#[tokio::test]
async fn a_list_of_one_email_address_counts_as_the_address() {
    for (version, authorizer) in [
        ("2.0", json!({"jwt": {"claims": {"sub": "ada", "emails": "[ada@example.test]"}}})),
        ("2.0", json!({"lambda": {"sub": "ada", "emails": ["ada@example.test"]}})),
        ("1.0", json!({"claims": {"sub": "ada", "emails": "[\"ada@example.test\"]"}})),
        ("1.0", json!({"sub": "ada", "emails": ["ada@example.test"]})),
    ] {
        let world = World::with(vec![("USER_EMAIL_CLAIM", "emails")]).await;
        is(&start(&world, version, authorizer, json!({})).await, 200, "ok");
        let email = world.stack.human_api.with(|state| state.email("ada"));
        assert_eq!(email.as_deref(), Some("ada@example.test"), "{version}");
    }
    let world = World::new().await;
    for email in ["[a@example.test b@example.test]", "ada", "ada@", "a b@example.test"] {
        let authorizer = json!({"jwt": {"claims": {"sub": "ada", "email": email}}});
        is(&start(&world, "2.0", authorizer, json!({})).await, 400, "email_required");
    }
    assert_eq!((world.take_requests().len(), world.rows().await), (0, 0));
}

#[tokio::test]
async fn an_invalid_email_address_is_the_callers_error() {
    let world = World::new().await;
    for email in ["ada@", "@example.test", "ada", "a@b@c", "a b@c", "<a@b>", "a@b,c@d", "a@b\n", ""] {
        let problem = is(&world.session("ada", json!({"clientUserEmail": email})).await, 400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains("clientUserEmail"), "{problem}");
    }
    assert_eq!((world.take_requests().len(), world.rows().await), (0, 0));
}

#[tokio::test]
async fn an_email_address_that_human_api_rejects_is_the_callers_error_and_not_a_fault() {
    let refusal = r#"{"statusCode":400,"error":"Bad Request","message":"made up","validation":{"source":"payload","keys":["client_user_email"]}}"#;
    let capture = LogCapture::default();
    let world = World::writing_to(Output::new(capture.clone()), vec![]).await;
    let (log, _guard) = capture_log();
    for status in [400, 422] {
        world.fault([refuse(status, refusal)]);
        let problem = is(&world.session("ada", json!({"clientUserEmail": "a@b"})).await, 400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains("clientUserEmail"), "{problem}");
        assert_eq!(world.take_requests(), ["token (session)"], "no request for an id token follows");
        let lines = capture.lines().unwrap();
        let faults: Vec<_> = lines.iter().filter(|line| line.get("Faults").is_some()).collect();
        assert_eq!((faults.len(), &faults[0]["Faults"]), (1, &json!(0)));
    }
    assert!(lines_with(&log, &["\"ERROR\""]).is_empty());
    assert_eq!(world.kept_rows().await, 0);

    // Other refusals keep their codes.
    let other = r#"{"validation":{"keys":["client_user_id"]}}"#;
    world.fault([refuse(400, other)]);
    is(&world.session("ada", json!({})).await, 502, "upstream_invalid");
    world.fault([refuse(422, other)]);
    world.stack.human_api.with(|state| state.connect("ada", SOURCE));
    assert_eq!(is(&world.session("ada", json!({})).await, 200, "ok")["tokenType"], "id_token");
}

#[tokio::test]
async fn a_finish_url_has_the_stage_or_the_mapping_key() {
    let world = World::with(vec![("PUBLIC_BASE_URL", "")]).await;
    let url = async |version: &str, path: &str, domain: &str| {
        let mut event = user_event(SESSION, "ada", &json!({"flow": "popup"}));
        event["headers"]["host"] = json!("evil.example.test");
        let context = &mut event["requestContext"];
        (context["domainName"], context["stage"]) = (json!(domain), json!("prod"));
        (context["path"], context["http"]["path"]) = (json!(path), json!(path));
        if version == "1.0" {
            as_v1(&mut event, "/connect/session");
            event["requestContext"]["authorizer"] = json!({"claims": {"sub": "ada"}});
        }
        let session = is(&world.stack.gateway.invoke(SESSION, &event).await, 200, "ok");
        let url = session["finishUrl"].as_str().unwrap().to_owned();
        url.rsplit_once('/').unwrap().0.to_owned()
    };
    for version in ["1.0", "2.0"] {
        for (path, prefix) in [
            ("/connect/session", ""),
            ("/prod/connect/session", "/prod"),
            ("/health/connect/session", "/health"),
            ("/health/v1.2/connect/session", "/health/v1.2"),
            ("/he%61lth/connect/session", ""),
            ("//evil.example.test/connect/session", ""),
        ] {
            for domain in ["api.example.test", "abc.execute-api.eu-west-1.amazonaws.com"] {
                assert_eq!(
                    url(version, path, domain).await,
                    format!("https://{domain}{prefix}/connect/finish"),
                    "{version}"
                );
            }
        }
    }
    let world = World::with(vec![("PUBLIC_BASE_URL", "https://api.example.test/health/")]).await;
    let session = is(&world.session("ada", json!({"flow": "popup"})).await, 200, "ok");
    assert!(session["finishUrl"].as_str().unwrap().starts_with("https://api.example.test/health/connect/finish/"));
}

#[tokio::test]
async fn a_client_secret_with_pasted_characters_around_it_works() {
    for pasted in ["\u{feff}made-up", " made-up\r\n", "{\"clientSecret\":\"\\ufeff made-up\\n\"}"] {
        let world = World::new().await;
        world.stack.secrets.accept(Accepted::Newest);
        world.stack.secrets.put(CLIENT_SECRET, pasted);
        is(&world.session("ada", json!({})).await, 200, "ok");
    }
}

#[tokio::test]
async fn an_unusable_client_secret_is_replaced_by_the_previous_one() {
    for slip in ["\"made-up\"", "'made-up'", "\u{feff} ", r#"{"clientSecret":"\"made-up\""}"#] {
        let (capture, _guard) = capture_log();
        let world = World::new().await;
        world.stack.secrets.put(CLIENT_SECRET, slip);
        world.stack.secrets.accept(Accepted::Previous);
        // A new instance has never read a usable value.
        world.stack.gateway.restart();
        for user in ["ada", "bob"] {
            is(&world.session(user, json!({})).await, 200, "ok");
        }
        let reads = lines_with(&capture, &["is not usable", CLIENT_SECRET, "\"ERROR\""]);
        assert_eq!(reads.len(), 1, "one line for one read: {reads:?}");
        assert!(!reads[0].to_string().contains("made-up"), "{reads:?}");

        // No version has a usable value.
        world.stack.secrets.put(CLIENT_SECRET, slip);
        world.stack.gateway.restart();
        let requests = world.take_requests().len();
        is(&world.session("eve", json!({})).await, 503, "secret_unavailable");
        assert_eq!((requests, world.take_requests().len()), (2, 0), "such a value is never sent");
        assert_eq!(lines_with(&capture, &["is not usable", "\"problem\""]).len(), 2, "AWSCURRENT and AWSPREVIOUS");
        // The operator corrects the value.
        world.stack.secrets.put(CLIENT_SECRET, "made-up-again");
        world.stack.secrets.accept(Accepted::Newest);
        is(&world.session("eve", json!({})).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_claim_that_names_no_user_is_logged_without_its_value() {
    let world = World::new().await;
    // So many digits stand in no timestamp.
    let canary = 4_711_471_147_114_711_i64;
    let text = canary.to_string();
    for (authorizer, reason) in [
        (json!({"lambda": {"sub": canary}}), "not a string"),
        (json!({"lambda": {"sub": [text]}}), "not a string"),
        (json!({"lambda": {"sub": " \t "}}), "blank"),
        (json!({"lambda": {"sub": text.repeat(65)}}), "too long"),
        (json!({"lambda": {"other": text}}), "absent"),
        (json!({"lambda": {"sub": null}}), "absent"),
        (json!({"jwt": {"claims": {}}}), "absent"),
        (json!(null), "absent"),
    ] {
        let (capture, _guard) = capture_log();
        is(&start(&world, "2.0", authorizer.clone(), json!({})).await, 401, "unauthenticated");
        let lines = capture.lines().unwrap();
        let about_claim: Vec<_> = lines.iter().filter(|line| line["claim"] == "sub").collect();
        assert_eq!((about_claim.len(), &about_claim[0]["reason"]), (1, &json!(reason)), "{authorizer}");
        assert!(!lines.iter().any(|line| line.to_string().contains(&text)), "{lines:?}");
    }
}

#[tokio::test]
async fn a_lifetime_as_text_is_read_as_a_number() {
    let world = World::new().await;
    world.fault([refuse(200, r#"{"session_token":"made-up","human_id":"made-up","expires_in":"3600"}"#)]);
    let session = is(&world.session("ada", json!({})).await, 200, "ok");
    assert!((3590..=3600).contains(&session["expiresIn"].as_u64().unwrap()), "{session}");
    world.fault([refuse(200, r#"{"access_token":"made-up","expires_in":"86400","refresh_token":7}"#)]);
    is(&world.finish("ada", &json!({})).await, 201, "ok");
    assert!(is(&world.access("ada", false).await, 200, "ok")["expiresAt"].is_string());
}

#[tokio::test]
async fn the_test_console_of_a_rest_api_is_no_backend() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    for (route, status) in [(ACCESS_TOKEN, 200), (CONNECTION, 200), (FORGET, 204)] {
        let mut event = backend_event(route, &json!({"clientUserId": "ada"}));
        as_v1(&mut event, route.strip_prefix("POST ").unwrap());
        event["requestContext"]["authorizer"] = Value::Null;
        let arn = "arn:aws:iam::000000000000:user/made-up";
        event["requestContext"]["identity"] = json!({"userArn": arn, "apiKey": "test-invoke-api-key"});
        is(&world.stack.gateway.invoke(route, &event).await, 403, "forbidden");
        event["requestContext"]["identity"]["apiKey"] = Value::Null;
        is(&world.stack.gateway.invoke(route, &event).await, status, "ok");
    }
}

#[tokio::test]
async fn another_backend_sees_what_the_user_sees_and_the_states_behind_it() {
    let world = World::new().await;
    let shown = async |user: &str| {
        let reply = world.stack.gateway.as_backend(CONNECTION, &json!({"clientUserId": user})).await;
        let mut shown = is(&reply, 200, "ok");
        let states = ["revoked", "reconnectRequired", "unresolved"].map(|state| shown[state].as_bool().unwrap());
        shown
            .as_object_mut()
            .unwrap()
            .retain(|name, _| !["revoked", "reconnectRequired", "unresolved"].contains(&name.as_str()));
        assert_eq!(shown, world.connection(user).await, "{user}");
        (shown["connected"].as_bool().unwrap(), states)
    };
    assert_eq!(shown("nobody").await, (false, [false; 3]));
    world.finish("ada", &world.popup("ada")).await;
    assert_eq!(shown("ada").await, (true, [false; 3]));
    // the next exchange is lost, and then its session is spent
    let object = world.lose("ada").await;
    assert_eq!(shown("ada").await, (true, [false, false, true]));
    world.stack.human_api.with(|state| state.single_use = true);
    is(&world.finish("ada", &object).await, 201, "ok");
    assert_eq!(shown("ada").await, (true, [false; 3]));
    world.connect("grace").await;
    world.stack.human_api.with(|state| state.drop_user("grace"));
    world.pass_seconds(11);
    is(&world.access("grace", true).await, 410, "connection_revoked");
    assert_eq!(shown("grace").await, (false, [true, false, false]));
    world.lose("hedy").await;
    world.pass_seconds(3601);
    is(&world.access("hedy", false).await, 200, "ok");
    assert_eq!(shown("hedy").await, (true, [false, true, false]));
}

#[tokio::test]
async fn another_backend_forgets_a_user_as_the_user_does() {
    let world = World::new().await;
    for user in ["ada", "grace"] {
        world.finish(user, &world.popup(user)).await;
    }
    for _ in 0..2 {
        let reply = world.stack.gateway.as_backend(FORGET, &json!({"clientUserId": "ada"})).await;
        assert_eq!((reply.status, reply.body.as_str()), (204, ""));
    }
    assert_eq!(world.rows().await, 1, "only the other user's row is left");
    is(&world.access("ada", false).await, 404, "not_connected");
    is(&world.access("grace", false).await, 200, "ok");
}
