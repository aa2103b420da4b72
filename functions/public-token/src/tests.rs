//! Events of the folder `events`, and a scripted server in place of DynamoDB, Secrets Manager and Human API.

use scripted::{Answer, NOW, item, sealed};
use serde_json::{Value, json};

use super::*;

async fn respond(event: &str, answers: impl IntoIterator<Item = Answer>) -> (u64, Value, Vec<String>) {
    scripted::respond::<PublicToken>(event, answers).await
}

/// A user with a proven humanId and no publicToken.
fn without_public_token() -> Value {
    let human_id = sealed("alan", Kind::HumanId, "made-up");
    item("alan", &json!({"userRecord": {"humanId": "made-up", "sealedHumanId": human_id, "connectedAt": NOW}}))
}

#[tokio::test]
async fn a_stored_token_is_served_with_one_read() {
    let record =
        json!({"humanId": "made-up", "connectedAt": NOW, "publicToken": sealed("alan", Kind::Public, "canary-token")});
    let row = item("alan", &json!({"userRecord": record}));
    let (status, body, asked) = respond("public-token/recovered.json", [Answer::item(Some(&row))]).await;
    let expected = json!({"humanId": "made-up", "publicToken": "canary-token", "recovered": false});
    assert_eq!((status, body, asked), (200, expected, vec!["GetItem".to_owned()]));
}

#[tokio::test]
async fn a_lost_token_is_recovered_under_the_lease() {
    let row = without_public_token();
    let recovered = Answer::json(200, &json!({"humanId": "made-up", "publicToken": "canary-new"}));
    let answers = [Answer::item(Some(&row)), Answer::json(200, &json!({"Attributes": row})), recovered, Answer::done()];
    let (status, body, asked) = respond("public-token/recovered.json", answers).await;
    assert_eq!((status, &body["publicToken"], &body["recovered"]), (200, &json!("canary-new"), &json!(true)));
    assert_eq!(asked, ["GetItem", "UpdateItem", "publictokens", "UpdateItem"]);
}

#[tokio::test]
async fn if_human_api_has_no_token_the_user_must_reconnect() {
    let row = without_public_token();
    let refused = Answer::json(404, &json!({}));
    let answers = [Answer::item(Some(&row)), Answer::json(200, &json!({"Attributes": row})), refused, Answer::done()];
    let (status, body, _) = respond("public-token/recovered.json", answers).await;
    assert_eq!((status, &body["code"]), (409, &json!("reconnect_required")));
}

#[tokio::test]
async fn a_row_without_a_human_id_answers_by_itself() {
    for (attributes, status, code) in [
        (json!({}), 404, "not_connected"),
        (json!({"userRecord": {"reconnect": true}}), 409, "reconnect_required"),
        (json!({"userRecord": {"connectedAt": NOW}}), 409, "reconnect_required"),
        (json!({"userRecord": {"revoked": true}}), 409, "reconnect_required"),
    ] {
        let row = item("alan", &attributes);
        let (answered, body, asked) = respond("public-token/recovered.json", [Answer::item(Some(&row))]).await;
        assert_eq!((answered, &body["code"], asked.len()), (status, &json!(code), 1), "{attributes}");
    }
}

#[tokio::test]
async fn a_request_of_the_wrong_form_reads_nothing() {
    for (event, status, code) in [
        ("public-token/no-claims.json", 401, "unauthenticated"),
        ("public-token/wrong-type.json", 400, "invalid_request"),
        ("public-token/not-json.json", 400, "invalid_request"),
    ] {
        let (answered, body, asked) = respond(event, []).await;
        assert_eq!((answered, &body["code"], asked.len()), (status, &json!(code), 0), "{event}");
    }
}
