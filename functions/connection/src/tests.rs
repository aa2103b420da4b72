//! Events of the folder `events`, and a scripted server in place of DynamoDB, Secrets Manager and Human API.

use scripted::{Answer, NOW, item};
use serde_json::{Value, json};

use super::*;

async fn respond(event: &str, answers: impl IntoIterator<Item = Answer>) -> (u64, Value, Vec<String>) {
    scripted::respond::<Connection>(event, answers).await
}

#[tokio::test]
async fn a_connection_is_shown_with_one_read() {
    let record = json!({"humanId": "made-up", "flow": "popup", "connectedAt": NOW, "updatedAt": NOW, "sources": [{"id": "1", "name": "A"}]});
    let row = item("emmy", &json!({"userRecord": record}));
    let (status, body, asked) = respond("connection/popup-user.json", [Answer::item(Some(&row))]).await;
    let expected = json!({"connected": true, "humanId": "made-up", "flow": "popup", "sources": [{"id": "1", "name": "A"}],
        "connectedAt": "2026-11-26T10:00:00Z", "updatedAt": "2026-11-26T10:00:00Z"});
    assert_eq!((status, body, asked), (200, expected, vec!["GetItem".to_owned()]));
}

#[tokio::test]
async fn a_user_without_a_row_is_not_connected() {
    let (status, body, _) = respond("connection/not-connected.json", [Answer::item(None)]).await;
    assert_eq!((status, &body["connected"], &body["sources"]), (200, &json!(false), &json!([])));
}

#[tokio::test]
async fn a_delete_removes_what_it_has_read_and_another_call_may_be_first() {
    let row = item("emmy", &json!({}));
    for answer in [Answer::done(), Answer::refused(None)] {
        let (status, _, asked) = respond("connection/forget.json", [Answer::item(Some(&row)), answer]).await;
        assert_eq!((status, asked), (204, vec!["GetItem".to_owned(), "DeleteItem".to_owned()]));
    }
    let (status, _, asked) = respond("connection/forget.json", [Answer::item(None)]).await;
    assert_eq!((status, asked), (204, vec!["GetItem".to_owned()]));
}

#[tokio::test]
async fn without_a_user_nothing_is_read() {
    let (status, body, asked) = respond("connection/no-claims.json", []).await;
    assert_eq!((status, &body["code"], asked.len()), (401, &json!("unauthenticated"), 0));
}
