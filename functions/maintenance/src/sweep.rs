//! `sweep` resolves requests that a crash left unresolved and whose user does not come back. Each run does a bounded part of the work.

use std::time::Duration;

use serde_json::{Value, json};
use shared::lambda::Call;
use shared::store::{LeaseRequest, Request, Row, StoreError};
use shared::tokens::Error;
use shared::{clock::Millis, identity::UserKey, invocation::Invocation};

use crate::{Counts, Maintenance, VISITS_UNTIL, Visit};

/// A lease that ended less than this ago is left to its user, in milliseconds. A lease lasts 26 s, so the row is then unresolved for a
/// minute.
const ABANDONED: Millis = 34_000;

impl Maintenance {
    pub(crate) async fn sweep(&self, call: &Call, counts: &mut Counts) -> Value {
        let run = &call.invocation;
        let part = run.child();
        let found = self.attempt(&part, async { Ok(self.tokens.store.unresolved(&part).await?) }, counts).await;
        counts.fault = found.is_err();
        let now = self.tokens.store.now();
        let mut lost = found.unwrap_or_default();
        lost.retain(|(until, _)| now - until >= ABANDONED);
        lost.sort_unstable_by_key(|(until, _)| *until);
        rotate(&mut lost, now);
        let (mut failed, mut skipped) = (0, 0);
        let mut left = Vec::new();
        for (until, key) in lost {
            if run.elapsed() >= VISITS_UNTIL {
                left.push(until);
                continue;
            }
            let part = run.child();
            match self.visit(&part, self.resolve(key, &part), counts).await {
                Visit::Done => counts.swept += 1,
                Visit::Nothing => skipped += 1,
                outcome => {
                    failed += u64::from(matches!(outcome, Visit::Failed));
                    skipped += u64::from(matches!(outcome, Visit::Left));
                    left.push(until);
                }
            }
        }
        let oldest = left.iter().min().map(|until| Duration::from_millis((now - until).unsigned_abs()));
        run.record(|measured| measured.unresolved_age = oldest);
        json!({
            "resolved": counts.swept,
            "failed": failed,
            "skipped": skipped,
            "left": left.len(),
            "oldestSeconds": oldest.map(|age| age.as_secs()),
        })
    }

    /// Does what an ordinary call does before its own request, and nothing after it. The index only says where to look.
    async fn resolve(&self, key: UserKey, part: &Invocation) -> Result<Visit, Error> {
        let row = self.tokens.store.read(&key, part).await?.ok_or(StoreError::Absent)?;
        part.set_user(&row.user);
        let now = self.tokens.store.now();
        if row.is_leased(now) {
            return Ok(Visit::Left);
        }
        if !row.is_unresolved(now) {
            return Ok(Visit::Nothing);
        }
        let request = LeaseRequest::of_row(&row, Request::Nothing);
        let leased_meanwhile = |_: &Row| Some(Ok(Visit::Left));
        let done = self.tokens.exclusive(request, leased_meanwhile, |_| Box::pin(async { Ok(Visit::Done) }), part);
        Ok(done.await?.0)
    }
}

/// The oldest row stays first. After it, each run starts at another row, so that slow or failing rows keep no other row waiting for
/// long. The milliseconds of `now` are random.
fn rotate<T>(rows: &mut [T], now: Millis) {
    if let Some((_, others)) = rows.split_first_mut()
        && !others.is_empty()
    {
        others.rotate_left(now.unsigned_abs() as usize % others.len());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_run_visits_the_oldest_row_first_and_several_runs_visit_all() {
        for count in [0, 1, 2, 3, 10, 37, 300] {
            let mut visited = BTreeSet::new();
            for now in 5..15.max(5 + count) {
                let mut rows: Vec<_> = (0..count).collect();
                rotate(&mut rows, now);
                assert!(rows.first().is_none_or(|first| *first == 0), "{count} rows at {now}");
                // a run has time for seven rows
                visited.extend(rows.into_iter().take(7));
            }
            assert!(visited.into_iter().eq(0..count), "{count} rows");
        }
    }
}
