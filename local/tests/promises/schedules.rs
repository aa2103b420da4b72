//! Every interleaving and every crash, on the real handlers.
//!
//! Each call runs with gates before its requests to DynamoDB and Human API. A driver opens one gate at a time and walks
//! through all orders. Or the driver lets a call die at a gate, before or after the service has performed the request. After each
//! schedule, the test checks the promises of the contract's section 4. Time is paused, so no test waits for a clock.

use super::calls::{Call, Known};
use super::driver::{ABANDONED, Disturbance, How, LEASE_IS_OVER, Plan, World};
use super::gates::{Death, Step};
use super::invariants;
use super::paused_time::PausedTime;
use super::{by_share, counted, sampled};

const CALLS: [Call; 8] = [
    Call::SessionConnect,
    Call::SessionPopup,
    Call::FinishPopup,
    Call::FinishWidget,
    Call::PublicRefresh,
    Call::AccessForce,
    Call::Delete,
    Call::Forget,
];
const KNOWN: [Known; 3] = [Known::New, Known::ByPopup, Known::ByWidget];

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
    /// This many orders. A generator chooses each step; the plan itself is its seed.
    Some(usize),
}

/// Walks through the orders of this plan. Returns the number of orders. Orders in which nothing is disturbed do not count if
/// something should be.
async fn walk(world: &World, plan: Plan<'_>, orders: Orders) -> usize {
    match orders {
        Orders::Some(number) => sample(world, plan, number).await,
        _ => search(world, plan, orders == Orders::AllButCommuted).await,
    }
}

async fn sample(world: &World, plan: Plan<'_>, number: usize) -> usize {
    let mut schedules = 0;
    let mut random = fastrand::Rng::with_seed(format!("{plan:?}").bytes().map(u64::from).sum());
    for _ in 0..number {
        let run = Box::pin(world.interleave(&plan, |steps| random.usize(..steps.len()))).await;
        Box::pin(invariants::check(world, &run, plan.calls)).await;
        schedules += usize::from(plan.disturbance.is_none() || run.disturbed.is_some());
    }
    schedules
}

async fn search(world: &World, plan: Plan<'_>, skips_commuted: bool) -> usize {
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
        let run = Box::pin(world.interleave(&plan, choose)).await;
        if new {
            Box::pin(invariants::check(world, &run, plan.calls)).await;
            schedules += usize::from(plan.disturbance.is_none() || run.disturbed.is_some());
        }
        // Depth first: the last decision with another choice takes it.
        while path.last_mut().is_some_and(|decision| !decision.goes_another_way(skips_commuted)) {
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
    fn goes_another_way(&mut self, skips_commuted: bool) -> bool {
        if skips_commuted {
            self.asleep.push(self.steps[self.chosen].0);
        }
        let next = (self.chosen + 1..self.steps.len()).find(|place| !self.asleep.contains(&self.steps[*place].0));
        self.chosen = next.unwrap_or(self.chosen);
        next.is_some()
    }
}

/// Returns each pair of these calls once.
fn pairs(calls: &[Call]) -> impl Iterator<Item = [Call; 2]> {
    calls.iter().enumerate().flat_map(move |(i, one)| calls[i..].iter().map(move |other| [*one, *other]))
}

fn plan(calls: &[Call], known: Known) -> Plan<'_> {
    Plan { calls, known, leap: None, disturbance: None }
}

#[tokio::test]
async fn two_overlapping_calls_keep_the_promises_in_every_order() {
    let orders = by_share(Orders::Some(2), Orders::All, Orders::All);
    let _paused = PausedTime::begin();
    let world = World::new(&[0, 0]).await;
    let mut total = 0;
    for known in KNOWN {
        for calls in pairs(&CALLS) {
            total += walk(&world, plan(&calls, known), orders).await;
        }
    }
    counted("two overlapping calls", total);
}

#[tokio::test]
async fn a_late_copy_or_a_resend_of_any_write_keeps_the_promises_in_every_order() {
    let orders = by_share(Orders::Some(2), Orders::Some(5), Orders::AllButCommuted);
    let _paused = PausedTime::begin();
    let world = World::new(&[0, 0]).await;
    let mut cases = Vec::new();
    for known in KNOWN {
        for calls in pairs(&CALLS) {
            for (actor, write) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
                let hows = [How::Copied, How::Late, How::AnswerLost];
                cases.extend(hows.map(|how| (known, calls, Disturbance { actor, write, how })));
            }
        }
    }
    let mut total = 0;
    for (known, calls, disturbance) in sampled(cases) {
        total += walk(&world, Plan { disturbance: Some(disturbance), ..plan(&calls, known) }, orders).await;
    }
    counted("two overlapping calls, a write is disturbed", total);
}

#[tokio::test]
async fn a_lease_is_not_taken_over_before_it_expires_if_clocks_disagree() {
    let orders = by_share(Orders::Some(20), Orders::AllButCommuted, Orders::AllButCommuted);
    // One clock is almost the margin ahead of the other, and almost the duration of a lease passes at some moment.
    let _paused = PausedTime::begin();
    let mut total = 0;
    for skews in [[0, 1900], [1900, 0]] {
        let world = World::new(&skews).await;
        for calls in [
            [Call::FinishPopup, Call::FinishPopup],
            [Call::FinishPopup, Call::AccessForce],
            [Call::AccessForce, Call::AccessForce],
            [Call::FinishWidget, Call::PublicRefresh],
        ] {
            let plan = Plan { leap: Some(25_900), ..plan(&calls, Known::ByPopup) };
            total += walk(&world, plan, orders).await;
        }
    }
    counted("two overlapping calls, clocks that disagree", total);
}

#[tokio::test]
async fn a_call_whose_lease_is_taken_over_while_it_works_loses_nothing() {
    let orders = by_share(Orders::Some(3), Orders::Some(20), Orders::AllButCommuted);
    let _paused = PausedTime::begin();
    let world = World::new(&[0, 0]).await;
    let mut total = 0;
    for known in KNOWN {
        for calls in pairs(&CALLS) {
            let plan = Plan { leap: Some(LEASE_IS_OVER), ..plan(&calls, known) };
            total += walk(&world, plan, orders).await;
        }
    }
    counted("two overlapping calls, clocks that jump", total);
}

#[tokio::test]
async fn a_call_that_is_taken_over_while_it_resolves_loses_nothing() {
    // It resolves with two requests, and the lease is renewed before the second.
    let _paused = PausedTime::begin();
    let orders = by_share(Orders::Some(25), Orders::Some(400), Orders::AllButCommuted);
    let world = World::new(&[0, 0]).await;
    let mut total = 0;
    for calls in pairs(&[Call::PublicRefresh, Call::AccessForce, Call::FinishWidget]) {
        total += walk(&world, Plan { leap: Some(LEASE_IS_OVER), ..plan(&calls, Known::Lost) }, orders).await;
    }
    counted("two overlapping calls that resolve, clocks that jump", total);
}

#[tokio::test]
async fn the_same_session_twice_at_the_same_time_is_exchanged_once_in_every_order() {
    let orders = by_share(Orders::Some(10), Orders::All, Orders::All);
    let _paused = PausedTime::begin();
    let world = World::new(&[0, 0]).await;
    let mut total = 0;
    for known in KNOWN {
        let plan = plan(&[Call::FinishSame; 2], known);
        total += walk(&world, plan, orders).await;
        let leaps = by_share(Orders::Some(10), Orders::AllButCommuted, Orders::AllButCommuted);
        total += walk(&world, Plan { leap: Some(LEASE_IS_OVER), ..plan }, leaps).await;
    }
    counted("the same session twice", total);
}

#[tokio::test]
async fn three_overlapping_finishes_keep_the_promises_in_every_order() {
    let _paused = PausedTime::begin();
    let orders = by_share(Orders::Some(30), Orders::AllButCommuted, Orders::All);
    let world = World::new(&[0, 0, 0]).await;
    let total = walk(&world, plan(&[Call::FinishPopup; 3], Known::ByPopup), orders).await;
    counted("three overlapping finishes", total);
}

#[tokio::test]
async fn three_overlapping_finishes_of_a_new_user_keep_the_promises_in_every_order() {
    let _paused = PausedTime::begin();
    let world = World::new(&[0, 0, 0]).await;
    let orders = by_share(Orders::Some(30), Orders::AllButCommuted, Orders::AllButCommuted);
    let total = walk(&world, plan(&[Call::FinishPopup; 3], Known::New), orders).await;
    counted("three overlapping finishes of a new user", total);
}

const IMPORTS: [Call; 2] = [Call::ImportTokens, Call::ImportByAccess];

/// Each import, beside each call that changes the same things, and beside itself.
fn with_imports() -> impl Iterator<Item = [Call; 2]> {
    let others = [Call::FinishPopup, Call::FinishWidget, Call::Delete, Call::AccessForce, Call::PublicRefresh];
    let beside = others.into_iter().flat_map(|other| IMPORTS.map(|import| [import, other]));
    beside.chain(pairs(&IMPORTS))
}

#[tokio::test]
async fn an_import_beside_another_call_keeps_the_promises_in_every_order() {
    let _paused = PausedTime::begin();
    let world = World::new(&[0, 0]).await;
    let orders = by_share(Orders::Some(5), Orders::All, Orders::All);
    let leaps = by_share(Orders::Some(3), Orders::Some(20), Orders::AllButCommuted);
    let copies = by_share(Orders::Some(1), Orders::Some(5), Orders::AllButCommuted);
    let mut total = 0;
    for known in KNOWN {
        for calls in with_imports() {
            let plan = plan(&calls, known);
            total += walk(&world, plan, orders).await;
            total += walk(&world, Plan { leap: Some(LEASE_IS_OVER), ..plan }, leaps).await;
            for (write, how) in [(0, How::Copied), (0, How::Late), (1, How::Copied), (1, How::AnswerLost)] {
                let disturbance = Some(Disturbance { actor: 0, write, how });
                total += walk(&world, Plan { disturbance, ..plan }, copies).await;
            }
        }
    }
    counted("an import and another call", total);
}

#[tokio::test]
async fn an_import_that_dies_at_any_gate_can_be_repeated_and_blocks_nobody() {
    let nexts = [Call::FinishPopup, Call::FinishWidget, Call::Forget, Call::AccessForce, Call::Sweep];
    let pairs =
        IMPORTS.into_iter().flat_map(|import| nexts.map(|next| (import, next)).into_iter().chain([(import, import)]));
    let before = [Call::FinishPopup, Call::FinishWidget, Call::AccessForce];
    let pairs = pairs.chain(before.into_iter().flat_map(|dying| IMPORTS.map(|import| (dying, import))));
    counted("deaths beside an import", die_everywhere(&pairs.collect::<Vec<_>>()).await);
}

#[tokio::test]
async fn a_call_that_dies_at_any_gate_loses_nothing_and_blocks_nobody() {
    let others = CALLS.iter().flat_map(|dying| CALLS.iter().map(move |next| (*dying, *next)));
    let pairs: Vec<_> = others.chain([(Call::FinishSame, Call::FinishSame)]).collect();
    counted("deaths", die_everywhere(&pairs).await);
}

#[tokio::test]
async fn the_sweep_alone_resolves_a_call_that_died_at_any_gate() {
    let pairs = CALLS.map(|dying| (dying, Call::Sweep));
    counted("deaths that the sweep finds", die_everywhere(&pairs).await);
}

/// Lets the first call of each pair die at each of its gates, before and after the service has acted. Then sends the
/// second call.
async fn die_everywhere(pairs: &[(Call, Call)]) -> usize {
    let _paused = PausedTime::begin();
    let mut total = 0;
    let states = [true, false].into_iter().flat_map(|single_use| KNOWN.map(|known| (single_use, known)));
    let cases = states.flat_map(|state| pairs.iter().map(move |pair| (state, *pair)));
    for ((single_use, known), (dying, next)) in sampled(cases) {
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
    total
}

#[tokio::test]
async fn the_sweep_takes_nothing_from_a_call_that_still_works() {
    // So much time passes at some moment that `sweep` treats a working call as dead.
    let _paused = PausedTime::begin();
    let world = World::new(&[0, 0]).await;
    let mut total = 0;
    for (call, known) in [
        (Call::FinishPopup, Known::New),
        (Call::FinishPopup, Known::ByPopup),
        (Call::AccessForce, Known::ByWidget),
        (Call::Delete, Known::ByPopup),
    ] {
        let calls = [call, Call::Sweep];
        let plan = Plan { leap: Some(ABANDONED), ..plan(&calls, known) };
        total += walk(&world, plan, by_share(Orders::Some(15), Orders::All, Orders::All)).await;
    }
    counted("the sweep and another call, clocks that jump", total);
}
