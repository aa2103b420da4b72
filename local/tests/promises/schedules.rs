//! Every interleaving and every crash, on the real handlers.
//!
//! Each call runs with gates before its requests to DynamoDB and Human API. A driver opens one gate at a time and walks
//! through all orders; or it lets a call die at a gate, before or after the other side has acted. After each schedule the
//! promises of the contract's section 4 are checked. Time is made up: nothing here waits for a clock.

use crate::calls::{Call, Known};
use crate::driver::{ABANDONED, HOLD_IS_OVER, World};
use crate::everything;
use crate::gates::{Death, Step};
use crate::invariants;
use crate::made_up_time::MadeUpTime;

const CALLS: [Call; 7] = [
    Call::SessionConnect,
    Call::SessionPopup,
    Call::FinishPopup,
    Call::FinishWidget,
    Call::PublicRefresh,
    Call::AccessForce,
    Call::Delete,
];

/// One decision of a schedule: who could move, who did, and who need not be let move first, for an order that was walked
/// through before leads to the same.
struct Decision {
    steps: Vec<(usize, Step)>,
    chosen: usize,
    asleep: Vec<usize>,
}

/// The orders to walk through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Orders {
    /// Every one.
    All,
    /// One of those that differ only in the order of neighbouring steps that commute (sleep sets, Godefroid 1996).
    AllButCommuted,
}

/// Walks through the orders of these calls about one user; how many there are.
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
            // everybody who could move sleeps: this order was walked through before; it is only brought to its end
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
        // depth first: the last decision that has another way goes that way
        while path.last_mut().is_some_and(|decision| !decision.goes_another_way(orders)) {
            path.pop();
        }
        if path.is_empty() {
            return schedules;
        }
    }
}

impl Decision {
    /// Who sleeps after this: those whose step is the same after the chosen one.
    fn asleep_after(&self) -> Vec<usize> {
        let (_, chosen) = self.steps[self.chosen];
        let commutes = |actor: &usize| self.steps.iter().any(|(who, step)| who == actor && step.commutes_with(chosen));
        self.asleep.iter().copied().filter(commutes).collect()
    }

    /// Chooses the next that has not been chosen here; `false` where there is none.
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
    let _standing_still = MadeUpTime::begin();
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
async fn no_hold_is_taken_over_before_its_time_though_clocks_disagree() {
    // one clock is almost the margin ahead of the other, and at some moment almost the time of a hold passes
    let _standing_still = MadeUpTime::begin();
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
async fn a_call_whose_hold_is_taken_over_while_it_works_loses_nothing() {
    let _standing_still = MadeUpTime::begin();
    let (states, calls): (&[Known], &[Call]) = if everything() {
        (&[Known::New, Known::ByPopup, Known::ByWidget], &CALLS)
    } else {
        (&[Known::New, Known::ByPopup], &[Call::FinishPopup, Call::AccessForce, Call::Delete])
    };
    let mut total = 0;
    for known in states {
        for (i, one) in calls.iter().enumerate() {
            for other in &calls[i..] {
                total += walk(&[*one, *other], *known, &[0, 0], Orders::AllButCommuted, Some(HOLD_IS_OVER)).await;
            }
        }
    }
    println!("two overlapping calls, clocks that jump: {total} schedules");
}

#[tokio::test]
async fn the_same_session_twice_at_the_same_time_is_exchanged_once_in_every_order() {
    let _standing_still = MadeUpTime::begin();
    let mut total = 0;
    for known in [Known::New, Known::ByPopup, Known::ByWidget] {
        total += walk(&[Call::FinishSame; 2], known, &[0, 0], Orders::All, None).await;
        total += walk(&[Call::FinishSame; 2], known, &[0, 0], Orders::AllButCommuted, Some(HOLD_IS_OVER)).await;
    }
    println!("the same session twice: {total} schedules");
}

#[tokio::test]
async fn three_overlapping_finishes_keep_the_promises_in_every_order() {
    let _standing_still = MadeUpTime::begin();
    let orders = if everything() { Orders::All } else { Orders::AllButCommuted };
    let total = walk(&[Call::FinishPopup; 3], Known::ByPopup, &[0, 0, 0], orders, None).await;
    println!("three overlapping finishes: {total} schedules");
}

#[tokio::test]
async fn three_overlapping_finishes_of_a_new_user_keep_the_promises_in_every_order() {
    let _standing_still = MadeUpTime::begin();
    let total = walk(&[Call::FinishPopup; 3], Known::New, &[0, 0, 0], Orders::AllButCommuted, None).await;
    println!("three overlapping finishes of a new user: {total} schedules");
}

#[tokio::test]
async fn a_call_that_dies_at_any_gate_loses_nothing_and_wedges_nobody() {
    let others = CALLS.iter().flat_map(|dying| CALLS.iter().map(move |next| (*dying, *next)));
    let pairs: Vec<_> = others.chain([(Call::FinishSame, Call::FinishSame)]).collect();
    println!("deaths: {} schedules", die_everywhere(&pairs).await);
}

#[tokio::test]
async fn whatever_a_call_dies_of_is_resolved_by_the_sweeper_alone() {
    let pairs = CALLS.map(|dying| (dying, Call::Sweep));
    println!("deaths that the sweeper finds: {} schedules", die_everywhere(&pairs).await);
}

/// Lets the first of each pair die at each of its gates, before and after the other side has acted, and then the second one act.
async fn die_everywhere(pairs: &[(Call, Call)]) -> usize {
    let _standing_still = MadeUpTime::begin();
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
    // at some moment so much time passes that it takes a call for dead which is at work
    let _standing_still = MadeUpTime::begin();
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
