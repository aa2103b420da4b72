//! Every interleaving and every crash, on the real handlers.
//!
//! Each call runs with gates before its requests to DynamoDB and Human API. A driver opens one gate at a time and walks
//! through all orders. Or the driver lets a call die at a gate, before or after the service has performed the request. After each
//! schedule, the test checks the promises of the contract's section 4. Time is paused, so no test waits for a clock.

use crate::calls::{Call, Known};
use crate::driver::{ABANDONED, LEASE_IS_OVER, World};
use crate::everything;
use crate::gates::{Death, Step};
use crate::invariants;
use crate::paused_time::PausedTime;

const CALLS: [Call; 7] = [
    Call::SessionConnect,
    Call::SessionPopup,
    Call::FinishPopup,
    Call::FinishWidget,
    Call::PublicRefresh,
    Call::AccessForce,
    Call::Delete,
];

/// One decision of a schedule: the actors that could move, the chosen one, and the actors to skip. A skipped actor would
/// only repeat an order that was walked before.
struct Decision {
    steps: Vec<(usize, Step)>,
    chosen: usize,
    asleep: Vec<usize>,
}

/// The orders to walk through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Orders {
    /// All orders.
    All,
    /// One order of each set that differs only in adjacent steps that commute (sleep sets, Godefroid 1996).
    AllButCommuted,
}

/// Walks through the orders of these calls of one user. Returns the number of orders.
async fn walk(calls: &[Call], known: Known, skews: &[i64], orders: Orders, leap: Option<i64>) -> usize {
    let world = World::new(skews).await;
    let mut path: Vec<Decision> = Vec::new();
    let mut schedules = 0;
    loop {
        let (mut depth, mut new) = (0, true);
        let choose = |steps: &[(usize, Step)]| {
            depth += 1;
            if let Some(decision) = path.get(depth - 1) {
                return decision.chosen;
            }
            let asleep = path.last().filter(|_| new).map_or_else(Vec::new, Decision::asleep_after);
            let awake = steps.iter().position(|(actor, _)| !asleep.contains(actor));
            // If all actors that could move are asleep, this order was walked before. The schedule is only completed.
            new &= awake.is_some();
            let chosen = awake.unwrap_or_default();
            if new {
                path.push(Decision { steps: steps.to_vec(), chosen, asleep });
            }
            chosen
        };
        let run = Box::pin(world.interleave(calls, known, leap, choose)).await;
        if new {
            Box::pin(invariants::check(&world, &run, calls)).await;
            schedules += 1;
        }
        // Depth first: the last decision with another choice takes it.
        while path.last_mut().is_some_and(|decision| !decision.goes_another_way(orders)) {
            path.pop();
        }
        if path.is_empty() {
            return schedules;
        }
    }
}

impl Decision {
    /// Returns the actors that stay asleep after this decision: their step commutes with the chosen one.
    fn asleep_after(&self) -> Vec<usize> {
        let (_, chosen) = self.steps[self.chosen];
        let commutes = |actor: &usize| self.steps.iter().any(|(who, step)| who == actor && step.commutes_with(chosen));
        self.asleep.iter().copied().filter(commutes).collect()
    }

    /// Chooses the next actor that was not chosen here. Returns `false` if there is none.
    fn goes_another_way(&mut self, orders: Orders) -> bool {
        if orders == Orders::AllButCommuted {
            self.asleep.push(self.steps[self.chosen].0);
        }
        let next = (self.chosen + 1..self.steps.len()).find(|place| !self.asleep.contains(&self.steps[*place].0));
        self.chosen = next.unwrap_or(self.chosen);
        next.is_some()
    }
}

#[tokio::test]
async fn two_overlapping_calls_keep_the_promises_in_every_order() {
    let _paused = PausedTime::begin();
    let mut total = 0;
    for known in [Known::New, Known::ByPopup, Known::ByWidget] {
        for (i, one) in CALLS.iter().enumerate() {
            for other in &CALLS[i..] {
                total += walk(&[*one, *other], known, &[0, 0], Orders::All, None).await;
            }
        }
    }
    println!("two overlapping calls: {total} schedules");
}

#[tokio::test]
async fn a_lease_is_not_taken_over_before_it_expires_if_clocks_disagree() {
    // One clock is almost the margin ahead of the other, and almost the duration of a lease passes at some moment.
    let _paused = PausedTime::begin();
    let mut total = 0;
    for skews in [[0, 1900], [1900, 0]] {
        for (one, other) in [
            (Call::FinishPopup, Call::FinishPopup),
            (Call::FinishPopup, Call::AccessForce),
            (Call::AccessForce, Call::AccessForce),
            (Call::FinishWidget, Call::PublicRefresh),
        ] {
            total += walk(&[one, other], Known::ByPopup, &skews, Orders::AllButCommuted, Some(25_900)).await;
        }
    }
    println!("two overlapping calls, clocks that disagree: {total} schedules");
}

#[tokio::test]
async fn a_call_whose_lease_is_taken_over_while_it_works_loses_nothing() {
    let _paused = PausedTime::begin();
    let (states, calls): (&[Known], &[Call]) = if everything() {
        (&[Known::New, Known::ByPopup, Known::ByWidget], &CALLS)
    } else {
        (&[Known::New, Known::ByPopup], &[Call::FinishPopup, Call::AccessForce, Call::Delete])
    };
    let mut total = 0;
    for known in states {
        for (i, one) in calls.iter().enumerate() {
            for other in &calls[i..] {
                total += walk(&[*one, *other], *known, &[0, 0], Orders::AllButCommuted, Some(LEASE_IS_OVER)).await;
            }
        }
    }
    println!("two overlapping calls, clocks that jump: {total} schedules");
}

#[tokio::test]
async fn the_same_session_twice_at_the_same_time_is_exchanged_once_in_every_order() {
    let _paused = PausedTime::begin();
    let mut total = 0;
    for known in [Known::New, Known::ByPopup, Known::ByWidget] {
        total += walk(&[Call::FinishSame; 2], known, &[0, 0], Orders::All, None).await;
        total += walk(&[Call::FinishSame; 2], known, &[0, 0], Orders::AllButCommuted, Some(LEASE_IS_OVER)).await;
    }
    println!("the same session twice: {total} schedules");
}

#[tokio::test]
async fn three_overlapping_finishes_keep_the_promises_in_every_order() {
    let _paused = PausedTime::begin();
    let orders = if everything() { Orders::All } else { Orders::AllButCommuted };
    let total = walk(&[Call::FinishPopup; 3], Known::ByPopup, &[0, 0, 0], orders, None).await;
    println!("three overlapping finishes: {total} schedules");
}

#[tokio::test]
async fn three_overlapping_finishes_of_a_new_user_keep_the_promises_in_every_order() {
    let _paused = PausedTime::begin();
    let total = walk(&[Call::FinishPopup; 3], Known::New, &[0, 0, 0], Orders::AllButCommuted, None).await;
    println!("three overlapping finishes of a new user: {total} schedules");
}

#[tokio::test]
async fn a_call_that_dies_at_any_gate_loses_nothing_and_blocks_nobody() {
    let others = CALLS.iter().flat_map(|dying| CALLS.iter().map(move |next| (*dying, *next)));
    let pairs: Vec<_> = others.chain([(Call::FinishSame, Call::FinishSame)]).collect();
    println!("deaths: {} schedules", die_everywhere(&pairs).await);
}

#[tokio::test]
async fn the_sweeper_alone_resolves_a_call_that_died_at_any_gate() {
    let pairs = CALLS.map(|dying| (dying, Call::Sweep));
    println!("deaths that the sweeper finds: {} schedules", die_everywhere(&pairs).await);
}

/// Lets the first call of each pair die at each of its gates, before and after the service has acted. Then sends the
/// second call.
async fn die_everywhere(pairs: &[(Call, Call)]) -> usize {
    let _paused = PausedTime::begin();
    let mut total = 0;
    for single_use in [true, false] {
        for known in [Known::New, Known::ByPopup, Known::ByWidget] {
            for (dying, next) in pairs.iter().copied() {
                let world = World::new(&[0]).await;
                world.single_use(single_use);
                for death in [Death::BeforeActing, Death::AfterActing] {
                    for gate in 0.. {
                        let Some(run) = Box::pin(world.die(dying, known, gate, death, next)).await else { break };
                        Box::pin(invariants::check(&world, &run, &[next])).await;
                        total += 1;
                    }
                }
            }
        }
    }
    total
}

#[tokio::test]
async fn the_sweeper_takes_nothing_from_a_call_that_still_works() {
    // So much time passes at some moment that the sweeper treats a working call as dead.
    let _paused = PausedTime::begin();
    let mut total = 0;
    for (call, known) in [
        (Call::FinishPopup, Known::New),
        (Call::FinishPopup, Known::ByPopup),
        (Call::AccessForce, Known::ByWidget),
        (Call::Delete, Known::ByPopup),
    ] {
        total += walk(&[call, Call::Sweep], known, &[0, 0], Orders::All, Some(ABANDONED)).await;
    }
    println!("the sweeper and another call, clocks that jump: {total} schedules");
}
