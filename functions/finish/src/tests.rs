//! Events of the folder `events`, and a scripted server in place of DynamoDB, Secrets Manager and Human API.

use scripted::{Answer, NOW, item};
use serde_json::{Value, json};

use super::*;

async fn respond(event: &str, answers: impl IntoIterator<Item = Answer>) -> (u64, Value, Vec<String>) {
    scripted::respond::<Finish>(event, answers).await
}

const POPUP: &str = "finish/popup-new-user.json";

fn tokens() -> Answer {
    Answer::json(
        200,
        &json!({"humanId": "c541435befefd132b09d5357", "accessToken": "canary-access", "publicToken": "canary-public", "clientUserId": "emmy"}),
    )
}

/// The hash of the session that `POPUP` has.
fn session() -> Value {
    json!(SessionToken::new("made-up-popup-session-of-emmy").hash())
}

#[tokio::test]
async fn a_popup_is_exchanged_with_two_writes_and_its_access_token_stays_here() {
    let (status, body, asked) = respond(POPUP, [Answer::done(), tokens(), Answer::done()]).await;
    let expected = json!({"connected": true, "humanId": "c541435befefd132b09d5357", "publicToken": "canary-public", "flow": "popup",
        "sources": [], "updatedAt": "2026-11-26T10:00:00Z"});
    assert_eq!((status, body), (201, expected));
    assert_eq!(asked, ["UpdateItem", "tokens", "UpdateItem"]);
}

#[tokio::test]
async fn a_finished_session_is_answered_by_its_row() {
    let finished = session().as_str().unwrap().to_owned();
    let row = item("emmy", &json!({"userRecord": {"connectedAt": NOW}, "finished": {finished: NOW - 1000}}));
    let (status, body, asked) = respond(POPUP, [Answer::refused(Some(&row))]).await;
    assert_eq!((status, &body["connected"], asked.len()), (200, &json!(true), 1));
}

#[tokio::test]
async fn a_session_that_human_api_refuses_is_rejected_and_the_lease_ends() {
    let answers = [Answer::done(), Answer::json(422, &json!({})), Answer::done()];
    let (status, body, asked) = respond(POPUP, answers).await;
    assert_eq!((status, &body["code"], asked.len()), (422, &json!("session_rejected"), 3));
}

#[tokio::test]
async fn a_response_about_another_user_is_refused() {
    let other = json!({"humanId": "made-up", "accessToken": "canary", "publicToken": "canary", "clientUserId": "eve"});
    let (status, body, _) = respond(POPUP, [Answer::done(), Answer::json(200, &other), Answer::done()]).await;
    assert_eq!((status, &body["code"]), (403, &json!("user_mismatch")));
}

#[tokio::test]
async fn a_widgets_report_is_believed_only_after_human_api() {
    let access = json!({"access_token": "canary-access", "expires_in": 3600});
    for (answer, connected, sources) in
        [(Answer::json(200, &access), true, 1), (Answer::json(404, &json!({})), false, 0)]
    {
        let answers = [Answer::done(), answer, Answer::done()];
        let (status, body, asked) = respond("finish/widget-connected.json", answers).await;
        assert_eq!((status, asked.len()), (if connected { 201 } else { 200 }, 3), "{body}");
        assert_eq!(body["connected"], json!(connected));
        assert!(body["sources"].as_array().unwrap().len() >= sources, "{body}");
    }
}

#[tokio::test]
async fn a_request_of_the_wrong_form_or_ticket_acquires_no_lease() {
    for (event, status, code) in [
        ("finish/no-claims.json", 401, "unauthenticated"),
        ("finish/client-mismatch.json", 403, "client_mismatch"),
        ("finish/missing-field.json", 400, "invalid_request"),
        ("finish/not-json.json", 400, "invalid_request"),
    ] {
        let (answered, body, asked) = respond(event, []).await;
        assert_eq!((answered, &body["code"], asked.len()), (status, &json!(code), 0), "{event}");
    }
    // the acquire's condition refuses a ticket that no row has
    let (status, body, asked) = respond("finish/ticket-unknown.json", [Answer::refused(None)]).await;
    assert_eq!((status, &body["code"], asked.len()), (401, &json!("unauthenticated"), 1));
}
