//! Puts connection events on EventBridge, from the records of the table's stream.

pub mod change;
#[cfg(test)]
mod tests;

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::primitives::DateTime;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use serde_json::{Value, json, value::RawValue};
use shared::config::{Config, ConfigError};
use shared::lambda::{Call, Deps, job::Job};
use shared::telemetry::{BY_FUNCTION, MetricLine, Output, error_chain, milliseconds};
use shared::{aws, clock::Clock};
use tokio::time::timeout_at;
use tracing::{error, info};

use change::{Change, Event};

const SOURCE: &str = "human-connect";
/// Most entries of a request. Source: EventBridge's API reference, `PutEvents`.
const MAX_ENTRIES: usize = 10;
/// Most bytes of the details in a request. EventBridge takes 256 KB with everything else in the entries.
const MAX_BYTES: usize = 200 * 1024;

pub struct Publisher {
    bus: Client,
    bus_name: String,
    service: String,
    clock: Clock,
    output: Output,
}

/// An event, and the record that it comes from.
struct Entry {
    sequence_number: String,
    event: Event,
    detail: String,
}

impl Job for Publisher {
    const NAME: &'static str = "publisher";

    fn check(config: &Config) -> Result<(), ConfigError> {
        config.required_event_bus().map(drop)
    }

    fn new(deps: Deps<'_>) -> Self {
        Self {
            bus: aws::eventbridge(&deps.config.aws, deps.http),
            bus_name: deps.config.event_bus.clone(),
            service: deps.config.service.clone(),
            clock: deps.clock.clone(),
            output: deps.output.clone(),
        }
    }

    async fn prepare(&self) {}

    async fn run(&self, event: &RawValue, call: &Call) -> Result<Value, String> {
        let records = change::records(event)?;
        let (entries, unreadable) = self.read(&records);
        let mut refused = None;
        for request in requests(&entries) {
            refused = self.put(request, call).await.err();
            if refused.is_some() {
                // Lambda repeats everything from here on, so the order of a user's events stays
                break;
            }
        }
        self.report(records.len(), entries.len(), unreadable, refused.is_some(), call);
        let failures: Vec<Value> = refused.iter().map(|number| json!({"itemIdentifier": number})).collect();
        Ok(json!({"batchItemFailures": failures}))
    }
}

impl Publisher {
    /// Reads the events of the records, and counts the records that cannot be read. Such a record will never be readable, so it is not
    /// tried again.
    fn read(&self, records: &[&RawValue]) -> (Vec<Entry>, usize) {
        let (mut entries, mut unreadable) = (Vec::new(), 0);
        for record in records {
            match Change::read(record) {
                Ok(change) => entries.extend(change.events().into_iter().map(|event| Entry {
                    sequence_number: change.sequence_number.clone(),
                    detail: event.detail(&self.service).to_string(),
                    event,
                })),
                Err(error) => {
                    let sequence_number = error.sequence_number.as_deref();
                    error!(sequence_number, problem = error.problem, "a record of the stream cannot be read");
                    unreadable += 1;
                }
            }
        }
        (entries, unreadable)
    }

    /// Puts these events on the bus. The error is the sequence number of the first record that the bus has not taken.
    async fn put(&self, entries: &[Entry], call: &Call) -> Result<(), String> {
        let request = self.bus.put_events().set_entries(Some(entries.iter().map(|entry| self.entry(entry)).collect()));
        let sent = timeout_at(call.invocation.deadline(), request.send()).await;
        let (refused, cause) = match sent {
            Ok(Ok(output)) => {
                let is_refused = |entry: &aws_sdk_eventbridge::types::PutEventsResultEntry| entry.error_code.is_some();
                let first = output.entries().iter().position(is_refused);
                let cause = first.and_then(|first| output.entries().get(first)?.error_code.clone());
                // a count without an entry: nobody can say which one it is
                (first.or((output.failed_entry_count() > 0).then_some(0)), cause.unwrap_or_default())
            }
            Ok(Err(error)) => (Some(0), error_chain(&error)),
            Err(_) => (Some(0), "no answer within the invocation's time".to_owned()),
        };
        match refused.and_then(|first| entries.get(first)) {
            None => Ok(()),
            Some(Entry { sequence_number, .. }) => {
                error!(sequence_number, cause, "the event bus has not taken an event");
                Err(sequence_number.clone())
            }
        }
    }

    fn entry(&self, entry: &Entry) -> PutEventsRequestEntry {
        PutEventsRequestEntry::builder()
            .event_bus_name(&self.bus_name)
            .source(SOURCE)
            .detail_type(entry.event.kind.detail_type())
            .time(DateTime::from_millis(entry.event.occurred_at))
            .detail(&entry.detail)
            .build()
    }

    fn report(&self, records: usize, events: usize, unreadable: usize, is_refused: bool, call: &Call) {
        let duration_ms = milliseconds(call.invocation.elapsed());
        info!(records, events, unreadable, is_refused, duration_ms, "published");
        let mut line = MetricLine::new(&self.service, Self::NAME, &call.request_id, self.clock.now());
        line.count(BY_FUNCTION, "Faults", unreadable as u64 + u64::from(is_refused));
        line.count(BY_FUNCTION, "ColdStart", u64::from(call.cold_start));
        self.output.line(&line);
    }
}

/// Cuts the entries into requests, in their order.
fn requests(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut bytes = entries.first().map_or(0, |first| first.detail.len());
    let mut count = 1;
    entries.chunk_by(move |_, next| {
        count += 1;
        bytes += next.detail.len();
        let fits = count <= MAX_ENTRIES && bytes <= MAX_BYTES;
        if !fits {
            (count, bytes) = (1, next.detail.len());
        }
        fits
    })
}
