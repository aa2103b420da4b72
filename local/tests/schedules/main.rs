//! Every interleaving and every crash, on the real handlers.
//!
//! Each call runs with gates before its requests to DynamoDB and Human API. A driver opens one gate at a time and walks
//! through all orders; or it lets a call die at a gate, before or after the other side has acted. After each schedule the
//! promises of the contract's section 4 are checked. Time is made up: nothing here waits for a clock.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test"
)]

mod gates;
mod promises;
mod world;

use gates::Death;
use world::{Call, Known, World};

const CALLS: [Call; 7] = [
    Call::SessionConnect,
    Call::SessionPopup,
    Call::FinishPopup,
    Call::FinishWidget,
    Call::PublicRefresh,
    Call::AccessForce,
    Call::Delete,
];

/// Walks through all orders of these calls about one user; the number of orders.
async fn all_orders(calls: &[Call], known: Known, skews: &[i64]) -> usize {
    let world = World::new(skews).await;
    let mut choices = Vec::new();
    let mut schedules = 0;
    loop {
        let run = Box::pin(world.interleave(calls, known, &choices)).await;
        Box::pin(promises::check(&world, &run, calls)).await;
        schedules += 1;
        // depth first: the last decision that has another way goes that way
        let mut taken = run.decisions.clone();
        while taken.last().is_some_and(|(chosen, ways)| chosen + 1 == *ways) {
            taken.pop();
        }
        let Some((last, _)) = taken.pop() else { return schedules };
        choices = taken.iter().map(|(chosen, _)| *chosen).chain([last + 1]).collect();
    }
}

#[tokio::test]
async fn two_overlapping_calls_keep_the_promises_in_every_order() {
    let mut total = 0;
    for known in [Known::New, Known::ByPopup, Known::ByWidget] {
        for (i, one) in CALLS.iter().enumerate() {
            for other in &CALLS[i..] {
                total += all_orders(&[*one, *other], known, &[0, 0]).await;
            }
        }
    }
    println!("two overlapping calls: {total} schedules");
}

#[tokio::test]
async fn two_overlapping_calls_keep_the_promises_though_their_clocks_disagree() {
    let mut total = 0;
    for skews in [[0, 1900], [1900, 0]] {
        for (one, other) in [
            (Call::FinishPopup, Call::FinishPopup),
            (Call::FinishPopup, Call::AccessForce),
            (Call::AccessForce, Call::AccessForce),
            (Call::FinishWidget, Call::PublicRefresh),
        ] {
            total += all_orders(&[one, other], Known::ByPopup, &skews).await;
        }
    }
    println!("two overlapping calls, clocks apart: {total} schedules");
}

#[tokio::test]
async fn three_overlapping_finishes_keep_the_promises_in_every_order() {
    let total = all_orders(&[Call::FinishPopup; 3], Known::ByPopup, &[0, 0, 0]).await;
    println!("three overlapping finishes: {total} schedules");
}

#[tokio::test]
async fn a_call_that_dies_at_any_gate_loses_nothing_and_wedges_nobody() {
    let mut total = 0;
    for single_use in [true, false] {
        for known in [Known::New, Known::ByPopup, Known::ByWidget] {
            for dying in CALLS {
                for next in CALLS {
                    let world = World::new(&[0]).await;
                    world.single_use(single_use);
                    for death in [Death::BeforeActing, Death::AfterActing] {
                        for gate in 0.. {
                            let Some(run) = Box::pin(world.die(dying, known, gate, death, next)).await else { break };
                            Box::pin(promises::check(&world, &run, &[next])).await;
                            total += 1;
                        }
                    }
                }
            }
        }
    }
    println!("deaths: {total} schedules");
}
