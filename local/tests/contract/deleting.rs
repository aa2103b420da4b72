//! DELETE removes everything stored about a user.

use local::faults::{Acts, Fault, LateCopies, Rule, Service};

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

#[tokio::test]
async fn a_late_copy_of_a_delete_removes_no_later_connection() {
    let world = World::new().await;
    world.finish("ada", &world.popup("ada")).await;
    let copies = LateCopies::default();
    world.stack.faults.set([Rule::once(Service::DynamoDb, Fault::Copy(Acts::Not, copies.clone())).of("DeleteItem")]);
    assert_eq!(world.delete("ada").await, 204);
    is(&world.finish("ada", &world.popup("ada")).await, 201, "ok");
    assert_eq!(copies.deliver().await, [400]);
    is(&world.access("ada", false).await, 200, "ok");
}
