//! The tasks of operators and of the schedule: `sweep` resolves what is unresolved, `reseal` seals again what an older key sealed, and
//! `import` brings connections of users.

mod import;
mod reseal;
mod sweep;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, value::RawValue};
use shared::http::Problem;
use shared::lambda::{Call, Deps, guarded, job::Job};
use shared::store::StoreError;
use shared::telemetry::{BY_FUNCTION, BY_SERVICE, MetricLine, Output, error_chain, milliseconds};
use shared::tokens::{Error, TokenService};
use shared::{clock::Millis, invocation::Invocation};
use tracing::{info, warn};

use import::Import;
use reseal::Reseal;

/// No visit begins later than this after the run's start. A visit lasts up to 22 s, and Lambda ends the run at 120 s.
const VISITS_UNTIL: Duration = Duration::from_secs(90);

pub struct Maintenance {
    tokens: TokenService,
    service: String,
    output: Output,
}

enum Task {
    Sweep,
    Reseal(Reseal),
    Import(Import),
}

/// The outcome of a visit to a row.
enum Visit {
    Done,
    /// There was nothing to do, or the user is deleted.
    Nothing,
    /// Another call is at work, or the row cannot be read or opened.
    Left,
    /// An error, logged and counted.
    Failed,
}

/// The metrics of a task.
#[derive(Default)]
struct Counts {
    swept: u64,
    resealed: u64,
    imported: u64,
    /// The task could not do its work.
    fault: bool,
    /// The number of errors by code, with the fault.
    errors: BTreeMap<&'static str, u64>,
}

impl Job for Maintenance {
    const NAME: &'static str = "maintenance";

    fn new(deps: Deps<'_>) -> Self {
        Self { tokens: deps.tokens(), service: deps.config.service.clone(), output: deps.output.clone() }
    }

    async fn prepare(&self) {
        self.tokens.prepare().await;
    }

    async fn run(&self, event: &RawValue, call: &Call) -> Result<Value, String> {
        let task = read_task(event)?;
        let mut counts = Counts::default();
        let (task, response) = match task {
            Task::Sweep => ("sweep", self.sweep(call, &mut counts).await),
            Task::Reseal(reseal) => ("reseal", self.reseal(reseal, call, &mut counts).await),
            Task::Import(import) => ("import", self.import(import, call, &mut counts).await),
        };
        let measured = call.invocation.measurements();
        let count = |name: &str| response.get(name).and_then(Value::as_u64);
        info!(
            task,
            resolved = count("resolved"),
            resealed = count("resealed"),
            unchanged = count("unchanged"),
            failed = count("failed"),
            skipped = count("skipped"),
            left = count("left"),
            oldest_seconds = count("oldestSeconds"),
            imported = counts.imported,
            next = count("next"),
            duration_ms = milliseconds(call.invocation.elapsed()),
            upstream_ms = milliseconds(measured.upstream),
            store_ms = milliseconds(measured.store),
            "task"
        );
        counts.metrics(&self.service, call, self.tokens.store.now()).iter().for_each(|line| self.output.line(line));
        Ok(response)
    }
}

/// An event without a task, such as the schedule's, is a `sweep`. The error names the field.
fn read_task(event: &RawValue) -> Result<Task, String> {
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(event.get()).map_err(|_| "the event is not a JSON object")?;
    match fields.get("task").map(|task| serde_json::from_str(task.get())) {
        None | Some(Ok("sweep")) => Ok(Task::Sweep),
        Some(Ok("reseal")) => Reseal::read(&fields).map(Task::Reseal),
        Some(Ok("import")) => Import::read(&fields).map(Task::Import),
        Some(_) => Err("task must be sweep, reseal or import".to_owned()),
    }
}

impl Maintenance {
    /// Visits one row, with a deadline of its own. An error or a panic ends no other visit.
    async fn visit(
        &self,
        part: &Invocation,
        work: impl Future<Output = Result<Visit, Error>>,
        counts: &mut Counts,
    ) -> Visit {
        let work = async {
            match work.await {
                Err(Error::Store(StoreError::Absent | StoreError::Deleted)) => Ok(Visit::Nothing),
                Err(Error::Store(error @ StoreError::Unreadable(_))) => {
                    warn!(%error, "a row cannot be read");
                    Ok(Visit::Left)
                }
                outcome => outcome,
            }
        };
        self.attempt(part, work, counts).await.unwrap_or(Visit::Failed)
    }

    /// Does one part of a task. An error is logged with its cause, and counted by its code.
    async fn attempt<T>(
        &self,
        part: &Invocation,
        work: impl Future<Output = Result<T, Error>>,
        counts: &mut Counts,
    ) -> Result<T, Problem> {
        // boxed: the future of a visit is large
        let outcome = guarded(part, Box::pin(async { Ok(work.await?) })).await;
        outcome.inspect_err(|problem| {
            let (code, cause) = (problem.code().name(), problem.cause().map(|cause| error_chain(cause)));
            let user = part.user().and_then(|user| self.tokens.sealer.user_hash(&user));
            warn!(code, cause, user, "a part of the task failed");
            *counts.errors.entry(code).or_default() += 1;
        })
    }
}

impl Counts {
    /// One line, and one more for each code, because a line has one value of a dimension. Nobody has requested a task, so `Requests`
    /// is not among the metrics.
    fn metrics<'a>(&self, service: &'a str, call: &'a Call, at: Millis) -> Vec<MetricLine<'a>> {
        let new_line = || MetricLine::new(service, Maintenance::NAME, &call.request_id, at);
        let mut line = new_line();
        line.count(BY_FUNCTION, "Faults", u64::from(self.fault));
        line.count(BY_FUNCTION, "ColdStart", u64::from(call.cold_start));
        line.measurements(&call.invocation.measurements());
        line.count(BY_SERVICE, "Swept", self.swept);
        line.count(BY_SERVICE, "Resealed", self.resealed);
        line.count(BY_SERVICE, "Imported", self.imported);
        let mut lines = vec![line];
        for (code, count) in &self.errors {
            let mut line = new_line();
            line.errors(code, *count);
            lines.push(line);
        }
        lines
    }
}
