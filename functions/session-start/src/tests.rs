//! Events of the folder `events`, and a scripted server in place of DynamoDB, Secrets Manager and Human API.

use scripted::{Answer, NOW, item, sealed};
use serde_json::{Value, json};

use super::*;

async fn respond(event: &str, answers: impl IntoIterator<Item = Answer>) -> (u64, Value, Vec<String>) {
    scripted::respond::<SessionStart>(event, answers).await
}

#[tokio::test]
async fn a_new_user_of_the_widget_gets_a_session_token() {
    let session = json!({"session_token": "canary-session", "human_id": "made-up", "expires_in": 3600});
    let answers = [Answer::item(None), Answer::done(), Answer::json(200, &session), Answer::done()];
    let (status, body, asked) = respond("session-start/connect-new-user.json", answers).await;
    let expected = json!({"flow": "connect", "mode": "create", "token": "canary-session", "tokenType": "session_token",
        "humanId": "made-up", "expiresAt": "2026-11-26T11:00:00Z", "expiresIn": 3600});
    assert_eq!((status, body), (200, expected));
    assert_eq!(asked, ["GetItem", "UpdateItem", "token", "UpdateItem"]);
}

#[tokio::test]
async fn a_stored_widget_token_is_served_while_it_lasts() {
    let token = |expires_at: Millis| {
        let token =
            json!({"token": sealed("tim", Kind::Widget, "canary-id"), "kind": "id_token", "expiresAt": expires_at});
        item("tim", &json!({"userRecord": {"connectedAt": NOW, "widgetToken": token}}))
    };
    let lasts = Answer::item(Some(&token(NOW + 5 * 60_000)));
    let (status, body, asked) = respond("session-start/connect-new-user.json", [lasts]).await;
    assert_eq!((status, &body["token"], &body["mode"], asked.len()), (200, &json!("canary-id"), &json!("edit"), 1));

    let row = token(NOW + 5 * 60_000 - 1);
    let new = Answer::json(
        200,
        &json!({"id_token": "canary-new", "refresh_token": "canary-refresh", "id_token_expires_in": 3600,
        "human_id": "made-up", "expires_in": 3600}),
    );
    let answers = [Answer::item(Some(&row)), Answer::json(200, &json!({"Attributes": row})), new, Answer::done()];
    let (status, body, asked) = respond("session-start/connect-new-user.json", answers).await;
    assert_eq!((status, &body["token"], &body["expiresIn"], asked.len()), (200, &json!("canary-new"), &json!(3600), 4));
}

#[tokio::test]
async fn human_api_needs_an_address_to_make_a_user() {
    let (status, body, asked) = respond("session-start/email-required.json", [Answer::item(None)]).await;
    assert_eq!((status, &body["code"], asked.len()), (400, &json!("email_required"), 1));
}

#[tokio::test]
async fn a_popup_is_opened_for_a_new_user_and_for_a_known_one() {
    let (status, body, asked) =
        respond("session-start/popup-new-user.json", [Answer::item(None), Answer::done()]).await;
    assert_eq!((status, &body["mode"], &body["publicToken"]), (200, &json!("create"), &json!("")));
    assert_eq!(
        (&body["clientId"], asked),
        (&json!("made-up-client-id"), vec!["GetItem".to_owned(), "UpdateItem".to_owned()])
    );
    let user = body["clientUserId"].as_str().unwrap().to_owned();
    let ticket = body["finishUrl"].as_str().unwrap().rsplit('/').next().unwrap();
    assert!(*Ticket::parse(ticket).unwrap().user() == UserId::new(user.as_str()).unwrap().key());

    let record = json!({"connectedAt": NOW, "publicToken": sealed(&user, Kind::Public, "canary-public")});
    let row = item(&user, &json!({"userRecord": record}));
    let answers = [Answer::item(Some(&row)), Answer::done()];
    let (status, body, _) = respond("session-start/popup-new-user.json", answers).await;
    assert_eq!((status, &body["mode"], &body["publicToken"]), (200, &json!("edit"), &json!("canary-public")));
}

#[tokio::test]
async fn a_user_who_must_reconnect_gets_the_widget_and_a_session_token_if_human_api_knows_no_user() {
    let row = item("emmy", &json!({"userRecord": {"reconnect": true}}));
    let session = json!({"session_token": "canary-session", "human_id": "made-up", "expires_in": 3600});
    let acquired = Answer::json(200, &json!({"Attributes": row}));
    let (no_id, session) = (Answer::json(404, &json!({})), Answer::json(200, &session));
    let answers = [Answer::item(Some(&row)), acquired, no_id, session, Answer::done()];
    let (status, body, asked) = respond("session-start/popup-new-user.json", answers).await;
    assert_eq!((status, &body["flow"], &body["token"]), (200, &json!("connect"), &json!("canary-session")));
    assert_eq!(asked, ["GetItem", "UpdateItem", "token", "token", "UpdateItem"]);
}

#[tokio::test]
async fn a_request_of_the_wrong_form_reads_nothing() {
    for (event, status, code) in [
        ("session-start/no-claims.json", 401, "unauthenticated"),
        ("session-start/unknown-flow.json", 400, "invalid_request"),
        ("session-start/not-an-address.json", 400, "invalid_request"),
    ] {
        let (answered, body, asked) = respond(event, []).await;
        assert_eq!((answered, &body["code"], asked.len()), (status, &json!(code), 0), "{event}");
    }
}
