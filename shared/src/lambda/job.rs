//! A function that a schedule, an operator or a stream invokes: a JSON event in, JSON out. It writes its own log lines and metrics.

use std::process::ExitCode;

use lambda_http::LambdaEvent;
use serde_json::{Value, value::RawValue};
use tracing::Instrument;

use super::{Call, Deps, Runner, exit_code, serve, within_init};
use crate::config::{Config, ConfigError};
use crate::{clock::Clock, network::NetworkError, telemetry::Output};

pub trait Job: Send + Sync + Sized + 'static {
    const NAME: &'static str;

    /// Checks variables that only this function requires.
    fn check(_config: &Config) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Builds the clients it uses, and no others.
    fn new(deps: Deps<'_>) -> Self;

    /// Does what a first run would have to wait for. If a step fails, the first run tries it again.
    fn prepare(&self) -> impl Future<Output = ()> + Send;

    /// Handles one event. It ends by itself before Lambda ends it. An error is a Lambda error: the event is malformed.
    fn run(&self, event: &RawValue, call: &Call) -> impl Future<Output = Result<Value, String>> + Send;
}

impl<J: Job> Runner<J> {
    pub fn of_job(config: &Config, clock: Clock, output: Output) -> Result<Self, NetworkError> {
        Self::build(config, clock, output, J::new)
    }

    pub async fn run_job(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Value, String> {
        let (call, span) = self.begin(&event.context);
        self.function.run(&event.payload, &call).instrument(span).await
    }
}

/// A job's `main`.
pub async fn run<J: Job>() -> ExitCode {
    let build = |config: &Config, clock, output| {
        J::check(config)?;
        Ok(Runner::of_job(config, clock, output)?)
    };
    let prepare = async |runner: &Runner<J>| within_init(runner.function.prepare()).await;
    let handle = async |runner: &Runner<J>, event| runner.run_job(event).await.map(|answer| answer.to_string());
    exit_code(serve(J::NAME, build, prepare, handle).await)
}
