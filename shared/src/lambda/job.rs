//! A function that a schedule starts: nobody waits for its answer, so what it came to is for the log and the metrics.

use std::collections::BTreeMap;
use std::process::ExitCode;

use futures_util::TryFutureExt;
use lambda_http::{Context, LambdaEvent};
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::{Instrument, warn};

use super::{Deps, Runner, Serve, guarded, serve};
use crate::clock::Clock;
use crate::config::Config;
use crate::http::Problem;
use crate::invocation::Invocation;
use crate::network::NetworkError;
use crate::seal::Sealer;
use crate::telemetry::{Output, RunOutcome, error_chain};
use crate::tokens::Error;

/// A function that a schedule starts.
pub trait Job: Send + Sync + Sized + 'static {
    /// Its name, as the template has it.
    const NAME: &'static str;

    /// Builds the clients it uses, and no others.
    fn new(deps: Deps<'_>) -> Self;

    /// Does beforehand what a first run would have to wait for. Failures are left to the first run.
    fn prepare(&self) -> impl Future<Output = ()> + Send;

    /// Does the work. It ends by itself before Lambda ends it.
    fn run(&self, run: &Run<'_>) -> impl Future<Output = Report> + Send;
}

/// The result of a run.
#[derive(Default)]
pub struct Report {
    /// For whoever looks at the answer.
    pub answer: Value,
    /// The metrics that only this function has.
    pub counts: Vec<(&'static str, u64)>,
    /// The code of what kept the run from doing what it is for.
    pub fault: Option<&'static str>,
    /// The errors by code, with their counts; the fault too.
    pub errors: BTreeMap<&'static str, u64>,
}

/// One run.
pub struct Run<'a> {
    /// Its measurements. Its [children](Invocation::child) have a deadline of their own.
    pub invocation: Invocation,
    sealer: &'a Sealer,
}

impl Run<'_> {
    /// Does one part of the work, in its time. What goes wrong with it, a panic too, is logged and ends nothing else; its
    /// code is the error.
    pub async fn attempt<T>(
        &self,
        part: &Invocation,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, &'static str> {
        guarded(part, work.map_err(Problem::from)).await.map_err(|problem| {
            let (code, cause) = (problem.code().name(), problem.cause().map(|cause| error_chain(cause)));
            let user = part.user().and_then(|user| self.sealer.user_hash(&user));
            warn!(code, cause, user, "a part of the run failed");
            code
        })
    }
}

/// A job with what is around it.
pub struct Scheduled<J>(Runner<J>);

impl<J: Job> Scheduled<J> {
    /// Builds the function; its metrics go to `output`.
    pub fn new(config: &Config, clock: Clock, output: Output) -> Result<Self, NetworkError> {
        Ok(Self(Runner::build(config, clock, output, J::new)?))
    }

    /// One run, whatever the event is: it ends in a report, and so does every fault.
    pub async fn run(&self, context: &Context) -> Value {
        let host = &self.0;
        let (cold_start, span) = host.begin(context);
        let run = Run { invocation: Invocation::start(), sealer: &host.sealer };
        let report = host.function.run(&run).instrument(span).await;
        let outcome = RunOutcome {
            service: &host.service,
            function: J::NAME,
            request_id: &context.request_id,
            fault: report.fault.is_some(),
            errors: &report.errors,
            counts: &report.counts,
            cold_start,
            measurements: &run.invocation.measurements(),
            at: host.clock.now(),
        };
        outcome.metrics().iter().for_each(|line| host.output.line(line));
        report.answer
    }
}

impl<J: Job> Serve for Scheduled<J> {
    async fn prepare(&self) {
        self.0.prepare_with(self.0.function.prepare()).await;
    }

    async fn serve(&self, event: LambdaEvent<Box<RawValue>>) -> String {
        self.run(&event.context).await.to_string()
    }
}

/// A job's `main`: reads the environment, builds, prepares, and serves until Lambda ends the process.
pub async fn run<J: Job>() -> ExitCode {
    serve(J::NAME, Scheduled::<J>::new).await
}
