//! Events of the folder `events`, and a scripted server in place of DynamoDB, Secrets Manager and Human API.

use scripted::{Answer, NOW, item, sealed};
use serde_json::{Value, json};
use shared::clock::Millis;

use super::*;

async fn respond(event: &str, answers: impl IntoIterator<Item = Answer>) -> (u64, Value, Vec<String>) {
    scripted::respond::<AccessToken>(event, answers).await
}

/// A popup's access token that expires at this time.
fn token(expires_at: Option<Millis>) -> Value {
    json!({"token": sealed("emmy", Kind::Access, "canary-token"), "expiresAt": expires_at, "obtainedAt": NOW - 60_000, "from": "popup"})
}

const EVENT: &str = "access-token/popup-user.json";

#[tokio::test]
async fn a_stored_token_is_served_with_one_read() {
    for expires_at in [None, Some(NOW + 5 * 60_000)] {
        let record = json!({"humanId": "made-up", "connectedAt": NOW, "accessToken": token(expires_at)});
        let row = item("emmy", &json!({"userRecord": record}));
        let (status, body, asked) = respond(EVENT, [Answer::item(Some(&row))]).await;
        assert_eq!((status, &body["accessToken"], &body["tokenType"]), (200, &json!("canary-token"), &json!("Bearer")));
        assert_eq!((&body["humanId"], body["expiresAt"].is_string()), (&json!("made-up"), expires_at.is_some()));
        assert_eq!(asked, ["GetItem"]);
    }
}

#[tokio::test]
async fn a_token_that_expires_soon_is_refreshed_under_the_lease() {
    let record = json!({"connectedAt": NOW, "accessToken": token(Some(NOW + 5 * 60_000 - 1))});
    let row = item("emmy", &json!({"userRecord": record}));
    let new = json!({"access_token": "canary-new", "expires_in": 3600});
    let acquired = Answer::json(200, &json!({"Attributes": row}));
    let answers = [Answer::item(Some(&row)), acquired, Answer::json(200, &new), Answer::done()];
    let (status, body, asked) = respond(EVENT, answers).await;
    assert_eq!(
        (status, &body["accessToken"], &body["expiresAt"]),
        (200, &json!("canary-new"), &json!("2026-11-26T11:00:00Z"))
    );
    assert_eq!(asked, ["GetItem", "UpdateItem", "token", "UpdateItem"]);
}

#[tokio::test]
async fn a_row_without_a_token_answers_by_itself() {
    for (attributes, status, code) in [
        (json!({}), 404, "not_connected"),
        (json!({"userRecord": {"revoked": true}}), 410, "connection_revoked"),
        (json!({"userRecord": {"reconnect": true}}), 409, "reconnect_required"),
    ] {
        let row = item("emmy", &attributes);
        let (answered, body, asked) = respond(EVENT, [Answer::item(Some(&row))]).await;
        assert_eq!((answered, &body["code"], asked.len()), (status, &json!(code), 1), "{attributes}");
    }
    let (status, body, _) = respond(EVENT, [Answer::item(None)]).await;
    assert_eq!((status, &body["code"]), (404, &json!("not_connected")));
}

#[tokio::test]
async fn a_refusal_of_human_api_ends_a_connection_that_access_has_brought_and_no_other() {
    for (from, status, answer) in [("connect", 410, "connection_revoked"), ("popup", 200, "ok")] {
        let mut token = token(Some(NOW + 1));
        token["from"] = json!(from);
        let row =
            item("emmy", &json!({"userRecord": {"humanId": "made-up", "connectedAt": NOW, "accessToken": token}}));
        let acquired = Answer::json(200, &json!({"Attributes": row}));
        let answers = [Answer::item(Some(&row)), acquired, Answer::json(404, &json!({})), Answer::done()];
        let (answered, body, asked) = respond(EVENT, answers).await;
        assert_eq!((answered, body["code"].as_str().unwrap_or("ok")), (status, answer), "{from}");
        assert_eq!(asked, ["GetItem", "UpdateItem", "token", "UpdateItem"]);
    }
}

#[tokio::test]
async fn without_an_aws_identity_or_a_user_nothing_is_read() {
    for (event, status, code) in [
        ("access-token/users-jwt.json", 403, "forbidden"),
        ("access-token/no-authorizer.json", 401, "unauthenticated"),
        ("access-token/missing-user.json", 400, "invalid_request"),
        ("access-token/wrong-type.json", 400, "invalid_request"),
    ] {
        let (answered, body, asked) = respond(event, []).await;
        assert_eq!((answered, &body["code"], asked.len()), (status, &json!(code), 0), "{event}");
    }
}
