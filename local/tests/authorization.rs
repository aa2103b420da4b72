//! Authorization: every function, every shape of authorizer, and every part of a request that could try to choose a user.
//! Also another user's sessions, tickets, humanIds and publicTokens.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use local::faults::{Acts, Answer, Fault, Rule, Service};
use local::gateway::{ACCESS_TOKEN, CONNECTION, FORGET};
use local::human_api::{CLIENT_ID, human_id};
use serde_json::{Value, json};
use shared::identity::{UserId, UserKey};
use shared::token::Ticket;

use crate::world::World;

/// The user whose data no other user may see or change.
const VICTIM: &str = "victim";
/// The signed-in user, if there is one.
const CALLER: &str = "caller";

const USER_ROUTES: [&str; 5] = [
    "POST /connect/session",
    "POST /connect/finish",
    "POST /connect/public-token",
    "GET /connect/connection",
    "DELETE /connect/connection",
];
const BACKEND_ROUTES: [&str; 3] = [ACCESS_TOKEN, CONNECTION, FORGET];
const TICKET_ROUTE: &str = "POST /connect/finish/{ticket}";

type Row = HashMap<String, AttributeValue>;

fn key(user: &str) -> UserKey {
    UserId::new(user.to_owned()).unwrap().key()
}

/// A shape of a request context, and the expected result of user routes and the backend routes.
struct Shape {
    name: String,
    version: &'static str,
    context: Value,
    names_caller: bool,
    backend: u16,
}

impl Shape {
    /// Returns `true` if `lambda_http` cannot decode the shape. No API Gateway sends such a shape.
    fn is_undecodable(&self) -> bool {
        self.backend == 400
    }
}

/// Returns every shape: authorizers of each kind with subjects of each kind, and mixtures.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut add = |name: String, version, context: Value, names_caller, backend| {
        shapes.push(Shape { name, version, context, names_caller, backend });
    };
    let good = json!({"sub": CALLER, "email": "caller@example.test"});
    let iam = json!({"userArn": "arn:aws:sts::000000000000:assumed-role/made-up/x", "cognitoIdentity": null});
    for version in ["2.0", "1.0"] {
        add("no authorizer".into(), version, json!({}), false, 401);
        add("null".into(), version, json!({"authorizer": null}), false, 401);
        add("empty".into(), version, json!({"authorizer": {}}), false, 401);
        add("text".into(), version, json!({"authorizer": CALLER}), false, 400);
    }
    let subjects = [
        ("good", json!(CALLER), true),
        ("missing", Value::Null, false),
        ("empty", json!(""), false),
        ("blank", json!(" \t"), false),
        ("array", json!([CALLER]), false),
        ("number", json!(7), false),
        ("flag", json!(true), false),
        ("object", json!({"sub": CALLER}), false),
        ("oversized", json!("x".repeat(1025)), false),
    ];
    for (kind, subject, names) in subjects {
        let mut claims = json!({"email": "caller@example.test", "name": VICTIM});
        if !subject.is_null() {
            claims["sub"] = subject;
        }
        let text = claims["sub"].is_string() || claims["sub"].is_null();
        let backend = if text { 403 } else { 400 };
        add(format!("JWT, {kind} subject"), "2.0", json!({"authorizer": {"jwt": {"claims": claims}}}), names, backend);
        add(format!("Lambda authorizer, {kind} subject"), "2.0", json!({"authorizer": {"lambda": claims}}), names, 403);
        add(format!("Cognito, {kind} subject"), "1.0", json!({"authorizer": {"claims": claims}}), names, 403);
        add(format!("Lambda authorizer 1.0, {kind} subject"), "1.0", json!({"authorizer": claims}), names, 403);
    }
    add("IAM".into(), "2.0", json!({"authorizer": {"iam": iam}}), false, 200);
    add("IAM 1.0".into(), "1.0", json!({"identity": iam}), false, 200);
    let cognito = json!({"userArn": "arn:x", "cognitoIdentity": {"identityId": "made-up", "amr": []}});
    add(
        "Cognito identity without amr".into(),
        "2.0",
        json!({"authorizer": {"iam": {"userArn": "arn:x", "cognitoIdentity": {}}}}),
        false,
        400,
    );
    add("Cognito identity".into(), "2.0", json!({"authorizer": {"iam": cognito}}), false, 403);
    let cognito = json!({"userArn": "arn:x", "cognitoIdentityId": "made-up"});
    add("Cognito identity 1.0".into(), "1.0", json!({"identity": cognito}), false, 403);
    add("IAM without ARN".into(), "2.0", json!({"authorizer": {"iam": {}}}), false, 401);
    let mixed = json!({"authorizer": {"jwt": {"claims": good}, "iam": iam}});
    add("JWT and IAM".into(), "2.0", mixed, true, 403);
    let mixed = json!({"authorizer": {"jwt": {"claims": {}}, "lambda": good}});
    add("JWT without subject, Lambda authorizer with".into(), "2.0", mixed, false, 403);
    let mixed = json!({"authorizer": {"claims": {}, "sub": CALLER}});
    add("Cognito without subject, top level with".into(), "1.0", mixed, false, 403);
    let mixed = json!({"authorizer": {"claims": good}, "identity": iam});
    add("Cognito and IAM".into(), "1.0", mixed, true, 403);
    shapes
}

/// Returns the places where a request could try to name a user.
fn tries() -> Vec<(&'static str, Value)> {
    let body = json!({
        "clientUserId": VICTIM, "client_user_id": VICTIM, "userId": VICTIM, "user": VICTIM, "sub": VICTIM,
    });
    let headers = json!({
        "content-type": "application/json", "x-user-id": VICTIM, "x-amzn-oidc-identity": VICTIM,
        "x-forwarded-user": VICTIM, "cookie": format!("sub={VICTIM}"),
        // {"alg":"none"}.{"sub":"victim"}. : this token is never verified, so it must never be read.
        "authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ2aWN0aW0ifQ.",
    });
    vec![
        ("nowhere", json!({})),
        ("body", json!({"body": body})),
        ("header", json!({"headers": headers})),
        ("query", json!({"query": {"clientUserId": VICTIM, "sub": VICTIM, "userId": VICTIM}})),
    ]
}

fn event(route: &str, shape: &Shape, tried: &Value, body: &Value) -> Value {
    let (method, path) = route.split_once(' ').unwrap();
    let mut fields = tried["body"].as_object().cloned().unwrap_or_default();
    fields.extend(body.as_object().cloned().unwrap_or_default());
    let body = if method == "POST" { json!(Value::Object(fields).to_string()) } else { Value::Null };
    let headers = tried.get("headers").cloned().unwrap_or_else(|| json!({"content-type": "application/json"}));
    let query = tried.get("query").cloned().unwrap_or(Value::Null);
    let mut context = shape.context.clone();
    context["requestId"] = json!("made-up");
    context["stage"] = json!("$default");
    if shape.version == "2.0" {
        context["routeKey"] = json!(route);
        context["http"] = json!({"method": method, "path": path});
        return json!({"version": "2.0", "routeKey": route, "rawPath": path, "headers": headers, "body": body,
            "queryStringParameters": query, "requestContext": context, "isBase64Encoded": false});
    }
    context["httpMethod"] = json!(method);
    context["resourcePath"] = json!(path);
    json!({"version": "1.0", "resource": path, "path": path, "httpMethod": method, "headers": headers, "body": body,
        "queryStringParameters": query, "requestContext": context, "isBase64Encoded": false})
}

/// A world in which the victim is connected.
struct Victims(World);

impl std::ops::Deref for Victims {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Victims {
    async fn new() -> Self {
        let world = World::new().await;
        assert_eq!(world.finish(VICTIM, &world.popup(VICTIM)).await.status, 201);
        Self(world)
    }

    /// Returns every row by its key.
    async fn table(&self) -> BTreeMap<String, Row> {
        let rows = self.stack.dynamodb.scan().table_name("human-connect").send().await.unwrap();
        rows.items().iter().map(|row| (row["userKey"].as_s().unwrap().clone(), row.clone())).collect()
    }

    async fn row(&self, user: &str) -> Option<Row> {
        self.table().await.remove(&key(user).to_string())
    }

    /// Returns the victim's values that no response may contain.
    fn secrets(&self) -> Vec<String> {
        let (access, public) = self.stack.human_api.with(|state| state.newest(VICTIM));
        access.into_iter().chain(public).chain([human_id(VICTIM)]).collect()
    }
}

#[tokio::test]
async fn only_the_authorizer_says_who_calls() {
    let world = Victims::new().await;
    let before = world.row(VICTIM).await;
    let secrets = world.secrets();
    let mut cells = 0;
    for shape in shapes() {
        for (place, tried) in tries() {
            for route in USER_ROUTES {
                // In a widget's report, only the authorizer names the user.
                let body = if route.ends_with("finish") { json!({"status": "SUCCESS"}) } else { json!({}) };
                let told = format!("{route}, {}, user in {place}", shape.name);
                let rows = world.table().await;
                let since = world.stack.calls.last();
                let reply = world.stack.gateway.invoke(route, &event(route, &shape, &tried, &body)).await;
                cells += 1;
                if shape.names_caller {
                    assert_ne!(reply.status, 401, "{told}: {}", reply.body);
                } else {
                    let refusal =
                        if shape.is_undecodable() { (400, "invalid_request") } else { (401, "unauthenticated") };
                    assert_eq!((reply.status, reply.json()["code"].as_str()), (refusal.0, Some(refusal.1)), "{told}");
                    assert_eq!(
                        (world.stack.calls.of_functions_after(since), world.table().await),
                        (vec![], rows),
                        "{told}"
                    );
                }
                assert!(secrets.iter().all(|secret| !reply.body.contains(secret)), "{told}: {}", reply.body);
            }
            let (_, tried_body) = &tries()[0];
            let tried = if place == "body" { tried_body } else { &tried };
            for route in BACKEND_ROUTES {
                let forgets = route == FORGET && shape.backend == 200;
                let body = json!({"clientUserId": if forgets { "nobody" } else { VICTIM }});
                let reply = world.stack.gateway.invoke(route, &event(route, &shape, tried, &body)).await;
                cells += 1;
                let expected = if forgets { 204 } else { shape.backend };
                assert_eq!(reply.status, expected, "{route}, {}, {place}: {}", shape.name, reply.body);
            }
            // An authorizer does not replace a ticket.
            let mut event = event(TICKET_ROUTE, &shape, tried, &world.popup(CALLER));
            event["pathParameters"] = json!({"ticket": "made-up"});
            let reply = world.stack.gateway.invoke(TICKET_ROUTE, &event).await;
            cells += 1;
            let code = if shape.is_undecodable() { "invalid_request" } else { "unauthenticated" };
            assert_eq!(reply.json()["code"], code, "{TICKET_ROUTE}, {}: {}", shape.name, reply.body);
        }
    }
    assert_eq!(world.row(VICTIM).await, before, "the victim's row is unchanged");
    assert_eq!(cells, 1944, "the matrix has another size");
}

/// Returns the row without `leaseId`, which every lease changes.
fn without_lease_id(row: Option<Row>) -> Option<Row> {
    row.map(|mut row| {
        row.remove("leaseId");
        row
    })
}

#[tokio::test]
async fn a_session_of_another_user_is_refused_and_leaves_no_token() {
    let world = Victims::new().await;
    let before = world.row(VICTIM).await;
    let reply = world.finish(CALLER, &world.popup(VICTIM)).await;
    assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("user_mismatch")));
    assert!(world.secrets().iter().all(|secret| !reply.body.contains(secret)), "{}", reply.body);
    assert_eq!(world.row(VICTIM).await, before);
    let row = world.row(CALLER).await.unwrap();
    assert!(row.contains_key("expires") && !format!("{row:?}").contains("sealed"), "{row:?}");
}

#[tokio::test]
async fn a_ticket_finishes_for_its_own_user_only() {
    let world = Victims::new().await;
    let start = world.stack.gateway.as_user("POST /connect/session", VICTIM, &json!({"flow": "popup"})).await.json();
    let ticket = start["finishUrl"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let before = world.row(VICTIM).await;
    // Another user has found the ticket, and sends another session with it.
    let reply = world.stack.gateway.with_ticket(&ticket, &world.popup(CALLER)).await;
    assert_eq!((reply.status, &reply.json()["code"]), (403, &json!("user_mismatch")));
    assert!(world.secrets().iter().all(|secret| !reply.body.contains(secret)), "{}", reply.body);
    assert_eq!(world.row(CALLER).await, None);
    assert_eq!(without_lease_id(world.row(VICTIM).await), without_lease_id(before));
}

#[tokio::test]
async fn a_made_up_ticket_reveals_nothing_about_its_user() {
    let world = Victims::new().await;
    let mut told = Vec::new();
    for user in [VICTIM, "nobody we know"] {
        let before = world.table().await;
        let ticket = Ticket::from_parts(key(user), [7; Ticket::RANDOM_BYTES]);
        let since = world.stack.calls.last();
        let reply = world.stack.gateway.with_ticket(&ticket.expose(), &world.popup(CALLER)).await;
        let mut body = reply.json();
        body["requestId"] = json!("…");
        told.push((reply.status, body, world.stack.calls.of_functions_after(since)));
        assert_eq!(world.table().await, before);
    }
    assert_eq!(told[0].0, 401);
    assert_eq!(told[0], told[1], "the same answer after the same calls");
}

#[tokio::test]
async fn a_human_id_that_a_request_names_opens_nothing_even_if_the_answer_is_lost() {
    let junk = json!({"humanId": human_id(VICTIM), "clientId": CLIENT_ID, "sessionToken": "made-up-junk"});
    let lost = [
        vec![],
        vec![Fault::Reset(Acts::First)],
        vec![Fault::Answer(Acts::First, Answer::json(500, "{}"))],
        vec![Fault::HalfBody, Fault::refuse(403, "{}")],
    ];
    for faults in lost {
        let world = Victims::new().await;
        let before = world.row(VICTIM).await;
        let since = world.stack.calls.last();
        world.stack.faults.set(faults.into_iter().map(|fault| Rule::once(Service::HumanApi, fault)));
        let mut replies = vec![world.finish(CALLER, &junk).await];
        for (route, body) in [
            ("POST /connect/public-token", json!({"refresh": true})),
            ("POST /connect/session", json!({"flow": "popup"})),
            ("POST /connect/finish", junk.clone()),
            ("GET /connect/connection", json!({})),
        ] {
            replies.push(world.stack.gateway.as_user(route, CALLER, &body).await);
        }
        replies.push(
            world.stack.gateway.as_backend(ACCESS_TOKEN, &json!({"clientUserId": CALLER, "forceRefresh": true})).await,
        );
        for reply in replies {
            assert!(world.secrets().iter().all(|secret| !reply.body.contains(secret)), "{}", reply.body);
        }
        assert!(
            world.stack.calls.of_functions_after(since).iter().all(|what| !what.ends_with("publictokens")),
            "{:?}",
            world.stack.calls.of_functions_after(since)
        );
        assert_eq!(world.row(VICTIM).await, before);
    }
}
