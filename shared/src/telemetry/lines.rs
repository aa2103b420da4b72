//! Events as JSON lines with the keys that AWS Powertools uses. The enclosing spans' fields stand beside the event's own.

use std::io::Write;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::invocation::lock;

/// The destination of lines: standard output on Lambda, a file in the local program. Clones share it.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Box<dyn Write + Send>>>);

impl Output {
    pub fn stdout() -> Self {
        Self::new(std::io::stdout())
    }

    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(writer))))
    }

    /// Writes the line in one piece, so that no two lines mix.
    pub fn line(&self, line: &impl Serialize) {
        // strings and numbers: cannot fail
        self.write(serde_json::to_vec(line).unwrap_or_default());
    }

    fn write(&self, mut line: Vec<u8>) {
        line.push(b'\n');
        let mut writer = lock(&self.0);
        // a failure has nowhere to be reported
        let _ = writer.write_all(&line).and_then(|()| writer.flush());
    }
}

pub(super) struct JsonLines {
    pub(super) service: String,
    pub(super) function: String,
    pub(super) output: Output,
}

/// The fields of a span or an event, as members of a JSON object: `,"name":value` each.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn add(&mut self, name: &str, value: impl Serialize) {
        self.0.push(b',');
        // into memory, strings and numbers: cannot fail
        let _ = serde_json::to_writer(&mut self.0, name);
        self.0.push(b':');
        let _ = serde_json::to_writer(&mut self.0, &value);
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Fields::default();
        let timestamp = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        line.add("level", event.metadata().level().as_str());
        line.add("timestamp", timestamp);
        line.add("service", &self.service);
        line.add("function_name", &self.function);
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.0.extend_from_slice(&fields.0);
            }
        }
        event.record(&mut line);
        if let Some(comma) = line.0.first_mut() {
            *comma = b'{';
        }
        line.0.push(b'}');
        self.output.write(line.0);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), value);
    }
}
