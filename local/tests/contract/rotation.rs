//! Rotation of the client secret.

use local::secrets::{Accepted, CLIENT_SECRET};
use serde_json::json;

use crate::world::{World, garble, is, refuse};

#[tokio::test]
async fn a_rotated_client_secret_fails_no_call() {
    let world = World::new().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    // Human API accepts the two newest secrets. After two rotations, it refuses the cached one.
    world.stack.secrets.rotate(CLIENT_SECRET);
    world.stack.secrets.rotate(CLIENT_SECRET);
    is(&world.access("ada", true).await, 200, "ok");
}

/// Returns a world after a complete rotation. Human API knows only the newest client secret, and AWSPREVIOUS still
/// exists.
async fn rotated() -> World {
    let world = World::new().await;
    world.stack.secrets.rotate(CLIENT_SECRET);
    world.stack.secrets.accept(Accepted::Newest);
    world
}

#[tokio::test]
async fn a_403_about_the_user_keeps_its_meaning_if_an_older_secret_exists() {
    let world = rotated().await;
    world.connect("ada").await;
    world.pass_seconds(11);
    world.fault([refuse(403, "{}")]);
    is(&world.access("ada", true).await, 410, "connection_revoked");

    let world = rotated().await;
    world.connect("ada").await;
    world.stack.human_api.with(|state| state.drop_user("ada"));
    world.fault([refuse(403, "{}")]);
    assert_eq!(is(&world.session("ada", json!({})).await, 200, "ok")["tokenType"], "session_token");

    let world = rotated().await;
    world.finish("ada", &world.popup("ada")).await;
    world.fault([garble(500, "{}")]);
    is(&world.finish("ada", &world.popup("ada")).await, 503, "upstream_unavailable");
    world.fault([refuse(403, "{}")]);
    is(&world.access("ada", false).await, 200, "ok");
}
