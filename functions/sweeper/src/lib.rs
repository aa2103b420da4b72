//! The scheduled function. It resolves requests that a crash left unresolved and whose user does not come back, and reseals rows
//! that an older key sealed. Each run does a bounded part of the work.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json, value::RawValue};
use shared::lambda::{Call, Deps, guarded, job::Job};
use shared::store::{IndexPage, LeaseRequest, Request, Row, StoreError};
use shared::telemetry::{BY_FUNCTION, BY_SERVICE, MetricLine, Output, error_chain, milliseconds};
use shared::tokens::{Error, TokenService};
use shared::{clock::Millis, identity::UserKey, invocation::Invocation};
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
    service: String,
    output: Output,
}

/// The purpose of a visit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Resolved,
    Sealed,
}

/// The result of a visit.
enum Visit {
    Done,
    /// There was nothing to do: the index was behind, or the user is deleted.
    Nothing,
    /// The row stays in the index. Another call is at work, the row cannot be read or opened, or the run has no time left.
    Left,
}

/// The numbers of a run.
#[derive(Default)]
struct Sums {
    resolved: u64,
    resealed: u64,
    skipped: u64,
    failed: u64,
    /// For each request left unresolved: since when.
    unresolved: Vec<Millis>,
    /// Rows left under older keys. `None` if the run could not count them.
    under_older_keys: Option<u64>,
    /// The index has more rows than the run has read.
    more: bool,
    /// The code of the last error that kept the run from half of its work.
    fault: Option<&'static str>,
    /// The number of errors by code, with the faults.
    errors: BTreeMap<&'static str, u64>,
}

impl Job for Sweeper {
    const NAME: &'static str = "sweeper";

    fn new(deps: Deps<'_>) -> Self {
        Self { tokens: deps.tokens(), service: deps.config.service.clone(), output: deps.output.clone() }
    }

    async fn prepare(&self) {
        self.tokens.prepare().await;
    }

    async fn run(&self, _: &RawValue, call: &Call) -> Value {
        let mut sums = Sums::default();
        let resolved = self.resolve_lost(&call.invocation, &mut sums).await;
        let resealed = self.reseal(&call.invocation, &mut sums).await;
        for code in [resolved, resealed].into_iter().filter_map(Result::err) {
            sums.fault = Some(code);
            *sums.errors.entry(code).or_default() += 1;
        }
        let now = self.tokens.store.now();
        let answer = sums.report(now, &call.invocation);
        sums.metrics(&self.service, call, now).iter().for_each(|line| self.output.line(line));
        answer
    }
}

impl Sweeper {
    /// Resolves what a call left unresolved that nobody has come back for.
    async fn resolve_lost(&self, run: &Invocation, sums: &mut Sums) -> Result<(), &'static str> {
        let part = run.child();
        let found = async { Ok(self.tokens.store.unresolved(&part).await?) };
        let IndexPage { rows, more } = self.attempt(&part, found).await?;
        let now = self.tokens.store.now();
        let mut lost: Vec<_> = rows.into_iter().filter(|(since, _)| now - since >= ABANDONED).collect();
        lost.sort_unstable_by_key(|(since, _)| *since);
        sums.more |= more;

        let (chosen, later) = choose(lost, MAX_RESOLVED, now);
        sums.unresolved.extend(later.into_iter().map(|(since, _)| since));
        for (since, key) in chosen {
            match self.visit(key, Want::Resolved, run, sums).await {
                Visit::Done => sums.resolved += 1,
                Visit::Nothing => {}
                Visit::Left => sums.unresolved.push(since),
            }
        }
        Ok(())
    }

    /// Reseals what is under older versions of the key, and counts the rest.
    async fn reseal(&self, run: &Invocation, sums: &mut Sums) -> Result<(), &'static str> {
        if run.elapsed() >= SEALS_UNTIL {
            return Ok(());
        }
        let part = run.child();
        let found = async {
            let mut found = IndexPage { rows: Vec::new(), more: false };
            for version in self.tokens.sealer.older_versions().await? {
                let IndexPage { rows, more } = self.tokens.store.sealed_with(&version, &part).await?;
                found.rows.extend(rows);
                found.more |= more;
            }
            Ok(found)
        };
        let IndexPage { rows, more } = self.attempt(&part, found).await?;
        sums.more |= more;

        let (chosen, later) = choose(rows, MAX_RESEALED, self.tokens.store.now());
        let mut left = later.len() as u64;
        for key in chosen {
            match self.visit(key, Want::Sealed, run, sums).await {
                Visit::Done => sums.resealed += 1,
                Visit::Nothing => {}
                Visit::Left => left += 1,
            }
        }
        sums.under_older_keys = Some(left);
        Ok(())
    }

    /// Does one part of the run, in its own time. An error or a panic is logged and ends nothing else. Returns its code.
    async fn attempt<T>(
        &self,
        part: &Invocation,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, &'static str> {
        guarded(part, async { Ok(work.await?) }).await.map_err(|problem| {
            let (code, cause) = (problem.code().name(), problem.cause().map(|cause| error_chain(cause)));
            let user = part.user().and_then(|user| self.tokens.sealer.user_hash(&user));
            warn!(code, cause, user, "a part of the run failed");
            code
        })
    }

    /// Visits one user, with a deadline of its own.
    async fn visit(&self, key: UserKey, want: Want, run: &Invocation, sums: &mut Sums) -> Visit {
        let until = if want == Want::Resolved { RESOLVES_UNTIL } else { SEALS_UNTIL };
        if run.elapsed() >= until {
            return Visit::Left;
        }
        let part = run.child();
        // a visit's future is large
        let outcome = Box::pin(async {
            match self.visit_row(key, want, &part).await {
                Err(Error::Store(StoreError::Absent | StoreError::Deleted)) => Ok(Visit::Nothing),
                Err(Error::Store(error @ StoreError::Unreadable(_))) => {
                    warn!(%error, "a row cannot be read");
                    Ok(Visit::Left)
                }
                outcome => outcome,
            }
        });
        match self.attempt(&part, outcome).await {
            Ok(visit) => {
                sums.skipped += u64::from(!matches!(visit, Visit::Done));
                visit
            }
            Err(code) => {
                sums.failed += 1;
                *sums.errors.entry(code).or_default() += 1;
                Visit::Left
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
            return Ok(Visit::Left);
        }
        let request = match (want, row.is_unresolved(now), self.is_under_older_key(&row).await?) {
            (Want::Resolved, true, _) => Request::Access,
            (Want::Sealed, false, true) => Request::Nothing,
            // resolving it reseals it too
            (Want::Sealed, true, _) => return Ok(Visit::Left),
            (Want::Resolved, false, _) | (Want::Sealed, false, false) => return Ok(Visit::Nothing),
        };
        // without a user, it makes no row
        let request = LeaseRequest { user: None, seen: Some(&row), ..LeaseRequest::of(&row.user, request) };
        let leased_meanwhile = |_: &Row| Some(Ok(Visit::Left));
        let exclusive =
            self.tokens.exclusive(request, leased_meanwhile, |_| Box::pin(async { Ok(Visit::Done) }), invocation);
        let (visit, row) = exclusive.await?;
        if matches!(visit, Visit::Done) && want == Want::Sealed && self.is_under_older_key(&row).await? {
            let user = self.tokens.sealer.user_hash(&row.user);
            warn!(user, "something in a row does not open, and stays under an older key");
            return Ok(Visit::Left);
        }
        Ok(visit)
    }

    async fn is_under_older_key(&self, row: &Row) -> Result<bool, Error> {
        let key = self.tokens.sealer.current().await?;
        Ok(row.sealed_with(key.version()).is_some_and(|version| version != key.version()))
    }
}

impl Sums {
    /// Logs the run, and returns its answer.
    fn report(&self, now: Millis, run: &Invocation) -> Value {
        let oldest = self.unresolved.iter().min().map(|since| Duration::from_millis((now - since).unsigned_abs()));
        run.record(|measured| measured.unresolved_age = oldest);
        let measured = run.measurements();
        let outcome = self.fault.unwrap_or("ok");
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
            duration_ms = milliseconds(run.elapsed()),
            upstream_ms = milliseconds(measured.upstream),
            store_ms = milliseconds(measured.store),
            "run"
        );
        json!({
            "outcome": outcome,
            "resolved": resolved,
            "failed": failed,
            "skipped": skipped,
            "resealed": resealed,
            "leftUnresolved": unresolved,
            "oldestUnresolvedSeconds": oldest,
            "leftUnderOlderKeys": under_older_keys,
            "more": more,
        })
    }

    /// The run's metrics, and one more line for each code, because a line has one value of a dimension. Nobody has requested a
    /// run, so `Requests` is not among them.
    fn metrics<'a>(&self, service: &'a str, call: &'a Call, at: Millis) -> Vec<MetricLine<'a>> {
        let new_line = || MetricLine::new(service, Sweeper::NAME, &call.request_id, at);
        let mut line = new_line();
        line.count(BY_FUNCTION, "Faults", u64::from(self.fault.is_some()));
        line.count(BY_FUNCTION, "ColdStart", u64::from(call.cold_start));
        line.measurements(&call.invocation.measurements());
        line.count(BY_SERVICE, "Swept", self.resolved);
        line.count(BY_SERVICE, "Resealed", self.resealed);
        if let Some(left) = self.under_older_keys {
            line.count(BY_SERVICE, "SealedWithOlderKey", left);
        }
        let mut lines = vec![line];
        for (code, count) in &self.errors {
            let mut line = new_line();
            line.errors(code, *count);
            lines.push(line);
        }
        lines
    }
}

/// Splits rows into those that a run visits and those that it leaves for later. The oldest row comes first. After it, each run
/// starts at another row, so that slow or failing rows keep no other row waiting for long. The milliseconds of `now` are random.
fn choose<T>(mut rows: Vec<T>, most: usize, now: Millis) -> (Vec<T>, Vec<T>) {
    if let Some((_, others)) = rows.split_first_mut()
        && !others.is_empty()
    {
        others.rotate_left(now.unsigned_abs() as usize % others.len());
    }
    let later = rows.split_off(most.min(rows.len()));
    (rows, later)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_run_visits_the_oldest_row_and_several_runs_visit_all() {
        // the number of rows, the most that a run visits, and for how many of them it has time
        let all_fit = [(0, 3, 3), (3, 3, 3)];
        let some_fit = [(10, 4, 4)];
        let early_end = [2, 3, 10, 37, 300].map(|count| (count, 100, 7));
        for (count, most, in_time) in all_fit.into_iter().chain(some_fit).chain(early_end) {
            let all: BTreeSet<usize> = (0..count).collect();
            let mut visited = BTreeSet::new();
            for now in 5..15.max(5 + count as Millis) {
                let (chosen, later) = choose((0..count).collect(), most, now);
                assert_eq!((chosen.first(), chosen.len()), (all.first(), most.min(count)), "{count} rows at {now}");
                assert_eq!(chosen.iter().chain(&later).copied().collect::<BTreeSet<_>>(), all, "{count} rows at {now}");
                assert_eq!(chosen.len() + later.len(), count);
                visited.extend(chosen.into_iter().take(in_time));
            }
            assert_eq!(visited, all, "{count} rows");
        }
    }

    #[test]
    fn a_run_has_a_metric_line_for_each_code_and_no_request() {
        let errors = BTreeMap::from([("upstream_timeout", 2), ("upstream_unauthorized", 1)]);
        let sums = Sums { resolved: 3, errors, ..Sums::default() };
        let call = Call { request_id: "r".into(), cold_start: false, invocation: Invocation::start() };
        let lines = sums.metrics("human-connect", &call, 1).into_iter().map(|line| json!(line)).collect::<Vec<_>>();
        assert_eq!((lines.len(), &lines[0]["Swept"], lines[0].get("Requests")), (3, &json!(3), None));
        for (line, code, count) in [(&lines[1], "upstream_timeout", 2), (&lines[2], "upstream_unauthorized", 1)] {
            assert_eq!((&line["code"], &line["Errors"]), (&json!(code), &json!(count)));
        }
    }
}
