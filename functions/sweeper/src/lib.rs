//! The scheduled function. It resolves requests that a crash left unresolved and whose user does not come back, and reseals rows
//! that an older key sealed. Each run does a bounded part of the work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use shared::clock::Millis;
use shared::identity::UserKey;
use shared::invocation::Invocation;
use shared::lambda::Deps;
use shared::lambda::job::{Job, Report, Run};
use shared::store::{IndexPage, LeaseRequest, Request, Row, StoreError};
use shared::telemetry::milliseconds;
use shared::tokens::{Error, TokenService};
use tracing::{info, warn};

/// A younger request may be one that a call still waits for: a lease ends within 30 s.
const ABANDONED: Millis = 60_000;
/// Most users resolved per run. Normally there is time for more.
const MAX_RESOLVED: usize = 100;
/// Most rows resealed per run.
const MAX_RESEALED: usize = 500;
/// No visit to resolve a row begins later than this after the run's start. A visit lasts up to 22 s. Resealing, which needs no
/// response of Human API, keeps the rest of the run's time.
const RESOLVES_UNTIL: Duration = Duration::from_secs(60);
/// No visit begins later than this: Lambda ends the run at 120 s.
const SEALS_UNTIL: Duration = Duration::from_secs(90);

pub struct Sweeper {
    tokens: TokenService,
    /// Number of the run. It begins anywhere.
    run: AtomicUsize,
}

/// The purpose of a visit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Resolved,
    Sealed,
}

/// The result of a visit.
enum Visit {
    /// It is done.
    Done,
    /// There was nothing to do: the index was behind, or the user is deleted.
    Nothing,
    /// Another call is at it, or has to be first.
    Busy,
    /// The row cannot be read.
    Unreadable(StoreError),
    /// Something does not open.
    StillSealed,
}

/// The numbers of a run.
#[derive(Default)]
struct Sums {
    resolved: u64,
    resealed: u64,
    skipped: u64,
    failed: u64,
    /// Since when what is left is unresolved.
    unresolved: Vec<Millis>,
    /// Rows left under older keys, where they could be counted.
    under_older_keys: Option<u64>,
    /// The index has more than was looked at: what is left is more.
    more: bool,
    report: Report,
}

impl Job for Sweeper {
    const NAME: &'static str = "sweeper";

    fn new(deps: Deps<'_>) -> Self {
        let number = usize::try_from(deps.clock.now()).unwrap_or_default();
        Self { tokens: deps.tokens(), run: AtomicUsize::new(number) }
    }

    async fn prepare(&self) {
        self.tokens.prepare().await;
    }

    async fn run(&self, run: &Run<'_>) -> Report {
        let number = self.run.fetch_add(1, Ordering::Relaxed);
        let mut sums = Sums::default();
        if let Err(code) = self.resolve_lost(number, run, &mut sums).await {
            sums.fault(code);
        }
        if let Err(code) = self.reseal(number, run, &mut sums).await {
            sums.fault(code);
        }
        sums.report(self.tokens.store.now(), run)
    }
}

impl Sweeper {
    /// Resolves what a call left unresolved that nobody has come back for.
    async fn resolve_lost(&self, number: usize, run: &Run<'_>, sums: &mut Sums) -> Result<(), &'static str> {
        let part = run.invocation.child();
        let found = async { Ok(self.tokens.store.unresolved(&part).await?) };
        let IndexPage { rows, more } = run.attempt(&part, found).await?;
        let now = self.tokens.store.now();
        let mut lost: Vec<_> = rows.into_iter().filter(|(since, _)| now - since >= ABANDONED).collect();
        lost.sort_unstable_by_key(|(since, _)| *since);
        sums.more |= more;

        let (chosen, later) = choose(lost, MAX_RESOLVED, number);
        sums.unresolved.extend(later.into_iter().map(|(since, _)| since));
        for (since, key) in chosen {
            match self.visit(key, Want::Resolved, run, sums).await {
                Some(Visit::Done) => sums.resolved += 1,
                Some(Visit::Nothing) => {}
                _ => sums.unresolved.push(since),
            }
        }
        Ok(())
    }

    /// Reseals what is under older versions of the key, and counts the rest.
    async fn reseal(&self, number: usize, run: &Run<'_>, sums: &mut Sums) -> Result<(), &'static str> {
        if run.invocation.elapsed() >= SEALS_UNTIL {
            return Ok(());
        }
        let part = run.invocation.child();
        let found = async {
            let mut found = IndexPage { rows: Vec::new(), more: false };
            for version in self.tokens.sealer.older_versions().await? {
                let IndexPage { rows, more } = self.tokens.store.sealed_with(&version, &part).await?;
                found.rows.extend(rows);
                found.more |= more;
            }
            Ok(found)
        };
        let IndexPage { rows, more } = run.attempt(&part, found).await?;
        sums.more |= more;

        let (chosen, later) = choose(rows, MAX_RESEALED, number);
        let mut left = later.len();
        for key in chosen {
            match self.visit(key, Want::Sealed, run, sums).await {
                Some(Visit::Done) => sums.resealed += 1,
                Some(Visit::Nothing) => {}
                _ => left += 1,
            }
        }
        sums.under_older_keys = Some(left as u64);
        Ok(())
    }

    /// Visits one user, with a deadline of its own. `None`: the visit failed, or the run has no time left for it.
    async fn visit(&self, key: UserKey, want: Want, run: &Run<'_>, sums: &mut Sums) -> Option<Visit> {
        let until = if want == Want::Resolved { RESOLVES_UNTIL } else { SEALS_UNTIL };
        if run.invocation.elapsed() >= until {
            return None;
        }
        let part = run.invocation.child();
        // a visit's future is large
        let outcome = Box::pin(async {
            match self.visit_row(key, want, &part).await {
                Err(Error::Store(StoreError::Absent | StoreError::Deleted)) => Ok(Visit::Nothing),
                Err(Error::Store(error @ StoreError::Unreadable(_))) => Ok(Visit::Unreadable(error)),
                outcome => outcome,
            }
        });
        match run.attempt(&part, outcome).await {
            Ok(visit) => {
                let user = part.user().and_then(|user| self.tokens.sealer.user_hash(&user));
                match &visit {
                    Visit::Unreadable(error) => warn!(%error, "a row is left unresolved"),
                    Visit::StillSealed => warn!(user, "something in a row does not open, and stays under an older key"),
                    Visit::Done | Visit::Nothing | Visit::Busy => {}
                }
                sums.skipped += u64::from(!matches!(visit, Visit::Done));
                Some(visit)
            }
            Err(code) => {
                sums.failed += 1;
                *sums.report.errors.entry(code).or_default() += 1;
                None
            }
        }
    }

    /// Does what an ordinary call does before its own request, and nothing after it. The index only says where to look.
    async fn visit_row(&self, key: UserKey, want: Want, invocation: &Invocation) -> Result<Visit, Error> {
        let store = &self.tokens.store;
        let row = store.read(&key, invocation).await?.ok_or(StoreError::Absent)?;
        invocation.set_user(&row.user);
        let now = store.now();
        if row.is_leased(now) {
            return Ok(Visit::Busy);
        }
        match (want, row.is_unresolved(now), self.is_under_older_key(&row).await?) {
            (Want::Resolved, true, _) | (Want::Sealed, false, true) => {}
            // resolving it seals it anew too
            (Want::Sealed, true, _) => return Ok(Visit::Busy),
            (Want::Resolved, false, _) | (Want::Sealed, false, false) => return Ok(Visit::Nothing),
        }
        let request = if want == Want::Resolved { Request::Access } else { Request::Nothing };
        let request = LeaseRequest {
            key,
            user: None,
            seen: Some(&row),
            request,
            session: None,
            ticket: None,
            shares_failure: false,
        };
        let leased_meanwhile = |_: &Row| Some(Ok(Visit::Busy));
        let done = self
            .tokens
            .exclusive(request, leased_meanwhile, |_| Box::pin(async { Ok(Visit::Done) }), invocation)
            .await?;
        Ok(match done {
            (Visit::Done, row) if want == Want::Sealed && self.is_under_older_key(&row).await? => Visit::StillSealed,
            (visit, _) => visit,
        })
    }

    async fn is_under_older_key(&self, row: &Row) -> Result<bool, Error> {
        let key = self.tokens.sealer.current().await?;
        Ok(row.sealed_with(key.version()).is_some_and(|version| version != key.version()))
    }
}

impl Sums {
    /// Counts an error that kept the run from half of its work.
    fn fault(&mut self, code: &'static str) {
        self.report.fault = Some(code);
        *self.report.errors.entry(code).or_default() += 1;
    }

    fn report(mut self, now: Millis, run: &Run<'_>) -> Report {
        let oldest = self.unresolved.iter().min().map(|since| Duration::from_millis((now - since).unsigned_abs()));
        run.invocation.record(|measured| measured.unresolved_age = oldest);
        let measured = run.invocation.measurements();
        let outcome = self.report.fault.unwrap_or("ok");
        let (unresolved, oldest) = (self.unresolved.len(), oldest.map(|age| age.as_secs()));
        let Self { resolved, resealed, skipped, failed, under_older_keys, more, .. } = self;
        info!(
            outcome,
            resolved,
            failed,
            skipped,
            resealed,
            left_unresolved = unresolved,
            oldest_unresolved_seconds = oldest,
            left_under_older_keys = under_older_keys,
            more,
            duration_ms = milliseconds(run.invocation.elapsed()),
            upstream_ms = milliseconds(measured.upstream),
            store_ms = milliseconds(measured.store),
            "run"
        );
        self.report.answer = json!({
            "outcome": outcome,
            "resolved": resolved,
            "failed": failed,
            "skipped": skipped,
            "resealed": resealed,
            "leftUnresolved": unresolved,
            "oldestUnresolvedSeconds": oldest,
            "leftUnderOlderKeys": under_older_keys,
            "more": more,
        });
        self.report.counts = vec![("Swept", resolved), ("Resealed", resealed)];
        self.report.counts.extend(under_older_keys.map(|left| ("SealedWithOlderKey", left)));
        self.report
    }
}

/// The rows that a run visits, in their order, and the rows that are left for later. The oldest row comes first. After it, each run
/// begins at another row, so that slow or failing rows keep no other row waiting for long.
fn choose<T>(mut rows: Vec<T>, most: usize, run: usize) -> (Vec<T>, Vec<T>) {
    if let Some(others) = rows.get_mut(1..).filter(|others| !others.is_empty()) {
        others.rotate_left(elsewhere(run, others.len()));
    }
    let later = rows.split_off(most.min(rows.len()));
    (rows, later)
}

/// A place among so many, each time far from the last ones, and in time everywhere: multiples of the golden ratio.
fn elsewhere(run: usize, places: usize) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let part = (run as u64).wrapping_mul(GOLDEN) >> 32;
    usize::try_from((part * places as u64) >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn where_there_is_room_for_all_all_are_chosen() {
        for run in 0..9 {
            let (mut chosen, later) = choose(vec![1, 2, 3], 3, run);
            assert_eq!(chosen[0], 1, "the oldest first");
            chosen.sort_unstable();
            assert_eq!((chosen, later), (vec![1, 2, 3], vec![]));
        }
        assert_eq!(choose(Vec::<u8>::new(), 3, 7), (vec![], vec![]));
    }

    #[test]
    fn the_oldest_is_always_chosen_and_the_others_in_turn() {
        let mut seen = BTreeSet::new();
        for run in 5..15 {
            let (chosen, later) = choose((0..10).collect(), 4, run);
            assert_eq!((chosen[0], chosen.len(), later.len()), (0, 4, 6));
            seen.extend(chosen);
        }
        assert_eq!(seen, (0..10).collect());
    }

    #[test]
    fn where_time_ends_a_run_early_each_has_a_turn_all_the_same() {
        for count in [2, 3, 10, 37, 300] {
            let reached = (0..count).flat_map(|run| choose((0..count).collect(), 100, run).0.into_iter().take(7));
            assert_eq!(reached.collect::<BTreeSet<_>>(), (0..count).collect(), "{count}");
        }
    }
}
