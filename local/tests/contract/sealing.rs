//! Tokens in the table are sealed.

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::FutureExt;
use local::secrets::TOKEN_KEY;
use serde_json::json;
use shared::identity::UserId;
use shared::store::Item;

use crate::world::{LOSE_RESPONSE, World, is, record, record_mut, refuse};

#[tokio::test]
async fn rows_sealed_with_an_older_key_open_and_are_resealed() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.stack.secrets.rotate(TOKEN_KEY);
    is(&world.access("ada", false).await, 200, "ok");
    let version = |number: usize| format!("00000000-0000-4000-8000-{number:012}");
    assert!(world.table().await.concat().contains(&version(1)));
    world.pass_seconds(11);
    is(&world.public_token("ada", true).await, 200, "ok");
    let table = world.table().await.concat();
    assert!(table.contains(&version(2)) && !table.contains(&version(1)), "all of the row is under the new key");
    is(&world.access("ada", false).await, 200, "ok");
}

#[tokio::test]
async fn the_table_has_no_token_in_plain_text() {
    let world = World::new().await;
    let object = world.popup("ada");
    let ticket = world.session("ada", json!({"flow": "popup"})).await.json()["finishUrl"].as_str().unwrap().to_owned();
    world.finish("ada", &object).await;
    world.connect("alan").await;
    world.session("alan", json!({})).await;
    let table = world.table().await.concat();
    for secret in
        ["made-up-access-token", "made-up-public-token", "made-up-session-token", "made-up-id-token", "refresh-token"]
    {
        assert!(!table.contains(secret), "{secret}");
    }
    assert!(!table.contains(object["sessionToken"].as_str().unwrap()));
    assert!(!table.contains(ticket.rsplit('/').next().unwrap()));
}

#[tokio::test]
async fn a_deleted_key_gives_a_clear_error_until_new_tokens_are_stored() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.connect("alan").await;
    let before = [world.row("ada").await, world.row("alan").await];
    world.stack.secrets.rotate(TOKEN_KEY);
    world.stack.secrets.drop_old_versions(TOKEN_KEY);
    world.stack.gateway.restart();
    world.pass_seconds(11);

    for reply in [
        world.access("ada", false).await,
        world.access("alan", false).await,
        world.public_token("ada", false).await,
        world.session("ada", json!({"flow": "popup"})).await,
    ] {
        let problem = is(&reply, 503, "secret_unavailable");
        assert!(problem["detail"].as_str().unwrap().contains("sealed a stored token"), "{problem}");
        assert!(reply.headers.contains_key("retry-after"));
    }
    let after = [world.row("ada").await, world.row("alan").await];
    assert_eq!(after, before, "the sealed values stay: the version may come back");

    is(&world.access("alan", true).await, 200, "ok");
    // The humanId is not proven any more.
    is(&world.public_token("ada", true).await, 409, "reconnect_required");
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    is(&world.access("ada", false).await, 200, "ok");
    assert!(!format!("{:?}", world.row("ada").await).contains("000000000001"), "no value is sealed with the old key");
}

#[tokio::test]
async fn a_pending_exchange_sealed_with_a_deleted_key_blocks_nobody() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    world.connect("ada").await;
    world.fault([LOSE_RESPONSE, refuse(503, ""), refuse(503, "")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    world.stack.secrets.rotate(TOKEN_KEY);
    world.stack.secrets.drop_old_versions(TOKEN_KEY);
    world.stack.gateway.restart();
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
}

#[tokio::test]
async fn a_sealing_key_that_is_weak_or_not_plain_text_seals_nothing() {
    for value in ["made-up-but-short", "{\"key\":\"made-up-sealing-key-for-local-use-only-1\"}"] {
        let world = World::new().await;
        world.stack.secrets.put(TOKEN_KEY, value);
        is(&world.finish("ada", &world.popup("ada")).await, 503, "secret_unavailable");
        is(&world.session("ada", json!({})).await, 503, "secret_unavailable");
        assert!(
            world.table().await.is_empty() && world.take_requests().is_empty(),
            "no token was requested that could not be sealed"
        );
    }
}

#[tokio::test]
async fn a_sealed_value_opens_in_no_other_row_and_no_other_field() {
    let world = World::new().await;
    for user in ["ada", "eve"] {
        world.connect(user).await;
        world.finish(user, &world.popup(user)).await;
    }
    let (ada, eve) = (world.row("ada").await, world.row("eve").await);
    let access = |row: &Item| record(row)["accessToken"].as_m().unwrap()["token"].clone();
    for (field, value, request) in [
        ("accessToken", record(&ada)["accessToken"].clone(), world.access("eve", false).boxed()),
        ("publicToken", record(&ada)["publicToken"].clone(), world.public_token("eve", false).boxed()),
        ("publicToken", access(&eve), world.public_token("eve", false).boxed()),
    ] {
        let mut forged = eve.clone();
        record_mut(&mut forged).insert(field.to_owned(), value);
        world.put(forged).await;
        is(&request.await, 503, "store_unavailable");
    }
}

#[tokio::test]
async fn a_row_that_was_copied_from_another_user_is_not_read() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.connect("ada").await;
    let (ada, eve) = (world.row("ada").await, UserId::new("eve").unwrap());
    for as_whom in [Some("ada"), Some("eve"), None] {
        let mut copy = ada.clone();
        copy.insert("userKey".to_owned(), AttributeValue::S(eve.key().to_string()));
        match as_whom {
            Some(user) => copy.insert("clientUserId".to_owned(), AttributeValue::S(user.to_owned())),
            None => copy.remove("clientUserId"),
        };
        world.put(copy).await;
        world.take_requests();
        let replies = [
            world.stack.gateway.as_user("GET /connect/connection", "eve", &json!({})).await,
            world.public_token("eve", true).await,
            world.access("eve", true).await,
            world.session("eve", json!({"refresh": true})).await,
        ];
        assert!(!world.take_requests().contains(&"publictokens".to_owned()), "as {as_whom:?}");
        if as_whom != Some("eve") {
            for reply in replies {
                is(&reply, 503, "store_unavailable");
            }
        }
    }
}

#[tokio::test]
async fn a_human_id_that_was_written_into_the_table_proves_nothing() {
    let world = World::new().await;
    for user in ["ada", "eve"] {
        world.finish(user, &world.popup(user)).await;
    }
    let (ada, mut eve) = (world.row("ada").await, world.row("eve").await);
    for with_proof in [false, true] {
        record_mut(&mut eve).insert("humanId".to_owned(), record(&ada)["humanId"].clone());
        if with_proof {
            record_mut(&mut eve).insert("sealedHumanId".to_owned(), record(&ada)["sealedHumanId"].clone());
        }
        world.put(eve.clone()).await;
        world.take_requests();
        is(&world.public_token("eve", true).await, 409, "reconnect_required");
        assert!(world.take_requests().is_empty());
    }
}

#[tokio::test]
async fn a_row_of_another_writer_stays_as_it_is() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let mut foreign = world.row("ada").await;
    foreign.remove("generation");
    foreign.remove("clientUserId");
    world.put(foreign.clone()).await;
    for _ in 0..2 {
        is(&world.access("ada", true).await, 503, "store_unavailable");
        is(&world.finish("ada", &world.popup("ada")).await, 503, "store_unavailable");
        is(&world.session("ada", json!({"flow": "popup"})).await, 503, "store_unavailable");
    }
    assert_eq!(world.row("ada").await, foreign);
}
