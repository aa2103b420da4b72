//! DELETE removes everything stored about a user.

use crate::world::{World, is};

#[tokio::test]
async fn a_delete_wins_over_a_call_in_flight() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let (object, gate) = (world.popup("ada"), world.block_human_api(None));
    let (finished, deleted) = tokio::join!(world.finish("ada", &object), gate.meanwhile(world.delete("ada")));
    assert_eq!(deleted, 204);
    is(&finished, 410, "connection_deleted");
    assert_eq!((world.rows().await, world.delete("ada").await), (0, 204));
}

#[tokio::test]
async fn a_delete_ends_a_waiting_call_too() {
    let world = World::new().await;
    let (first, second) = (world.popup("ada"), world.popup("ada"));
    let gate = world.block_human_api(None);
    let delete = async {
        // The first call has the lease, and the second has read the row.
        world.wait_for_a_waiter().await;
        world.delete("ada").await
    };
    let (one, two, deleted) =
        tokio::join!(world.finish("ada", &first), world.finish("ada", &second), gate.meanwhile(delete));
    assert_eq!(deleted, 204);
    is(&one, 410, "connection_deleted");
    is(&two, 410, "connection_deleted");
    assert_eq!(world.rows().await, 0);
}
