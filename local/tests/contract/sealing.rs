//! Tokens at rest.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::FutureExt;
use local::secrets::TOKEN_KEY;
use serde_json::json;
use shared::identity::UserId;

use crate::world::{LOSE_ANSWER, World, is, refuse};

#[tokio::test]
async fn rows_sealed_with_an_older_key_open_and_are_sealed_anew() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.laptop.secrets.rotate(TOKEN_KEY);
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
async fn no_token_is_in_the_table_in_plain_text() {
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
async fn a_key_that_is_gone_is_a_clear_error_and_new_tokens_make_good() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    world.finish("ada", &world.popup("ada")).await;
    world.connect("alan").await;
    let before = [row(&world, "ada").await, row(&world, "alan").await];
    world.laptop.secrets.rotate(TOKEN_KEY);
    world.laptop.secrets.drop_old_versions(TOKEN_KEY);
    world.laptop.gateway.restart();
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
    let after = [row(&world, "ada").await, row(&world, "alan").await];
    assert_eq!(after, before, "nothing is thrown away: the version may come back");

    is(&world.access("alan", true).await, 200, "ok");
    // whose humanId it is cannot be proven any more
    is(&world.public_token("ada", true).await, 409, "reconnect_required");
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    is(&world.access("ada", false).await, 200, "ok");
    assert!(!format!("{:?}", row(&world, "ada").await).contains("000000000001"), "nothing is left of the old key");
}

#[tokio::test]
async fn an_exchange_whose_key_is_gone_wedges_nobody() {
    let world = World::with(vec![("SECRET_TTL_SECONDS", "0")]).await;
    world.connect("ada").await;
    world.fault([LOSE_ANSWER, refuse(503, ""), refuse(503, "")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    world.laptop.secrets.rotate(TOKEN_KEY);
    world.laptop.secrets.drop_old_versions(TOKEN_KEY);
    world.laptop.gateway.restart();
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
}

#[tokio::test]
async fn a_sealing_key_that_is_weak_or_no_plain_text_seals_nothing() {
    for value in ["made-up-but-short", "{\"key\":\"made-up-sealing-key-for-this-laptop-only-1\"}"] {
        let world = World::new().await;
        world.laptop.secrets.put(TOKEN_KEY, value);
        is(&world.finish("ada", &world.popup("ada")).await, 503, "secret_unavailable");
        is(&world.session("ada", json!({})).await, 503, "secret_unavailable");
        assert!(world.table().await.is_empty() && world.asked().is_empty(), "nothing to seal was asked for");
    }
}

#[tokio::test]
async fn a_sealed_value_opens_in_no_other_row_and_no_other_field() {
    let world = World::new().await;
    for user in ["ada", "eve"] {
        world.connect(user).await;
        world.finish(user, &world.popup(user)).await;
    }
    let (ada, eve) = (row(&world, "ada").await, row(&world, "eve").await);
    let access = |row: &Item| record(row)["accessToken"].as_m().unwrap()["token"].clone();
    for (field, value, asks) in [
        ("accessToken", record(&ada)["accessToken"].clone(), world.access("eve", false).boxed()),
        ("publicToken", record(&ada)["publicToken"].clone(), world.public_token("eve", false).boxed()),
        ("publicToken", access(&eve), world.public_token("eve", false).boxed()),
    ] {
        let mut forged = eve.clone();
        record_mut(&mut forged).insert(field.to_owned(), value);
        put(&world, forged).await;
        is(&asks.await, 503, "store_unavailable");
    }
}

#[tokio::test]
async fn a_row_that_was_copied_from_somebody_else_is_not_read() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    world.connect("ada").await;
    let (ada, eve) = (row(&world, "ada").await, UserId::new("eve").unwrap());
    for as_whom in [Some("ada"), Some("eve"), None] {
        let mut copy = ada.clone();
        copy.insert("userKey".to_owned(), AttributeValue::S(eve.key().to_string()));
        match as_whom {
            Some(user) => copy.insert("clientUserId".to_owned(), AttributeValue::S(user.to_owned())),
            None => copy.remove("clientUserId"),
        };
        put(&world, copy).await;
        world.asked();
        let replies = [
            world.laptop.gateway.as_user("GET /connect/connection", "eve", &json!({})).await,
            world.public_token("eve", true).await,
            world.access("eve", true).await,
            world.session("eve", json!({"refresh": true})).await,
        ];
        assert!(!world.asked().contains(&"publictokens".to_owned()), "as {as_whom:?}");
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
    let (ada, mut eve) = (row(&world, "ada").await, row(&world, "eve").await);
    for with_proof in [false, true] {
        record_mut(&mut eve).insert("humanId".to_owned(), record(&ada)["humanId"].clone());
        if with_proof {
            record_mut(&mut eve).insert("sealedHumanId".to_owned(), record(&ada)["sealedHumanId"].clone());
        }
        put(&world, eve.clone()).await;
        world.asked();
        is(&world.public_token("eve", true).await, 409, "reconnect_required");
        assert!(world.asked().is_empty());
    }
}

type Item = HashMap<String, AttributeValue>;

fn record(row: &Item) -> &Item {
    row["userRecord"].as_m().unwrap()
}

fn record_mut(row: &mut Item) -> &mut Item {
    let record = row.get_mut("userRecord").and_then(|value| match value {
        AttributeValue::M(record) => Some(record),
        _ => None,
    });
    record.unwrap()
}

async fn row(world: &World, user: &str) -> Item {
    world.laptop.row(&UserId::new(user).unwrap()).await.unwrap().unwrap()
}

async fn put(world: &World, item: Item) {
    let put = world.laptop.dynamodb.put_item().table_name("human-connect").set_item(Some(item));
    put.send().await.unwrap();
}
