//! What was called, newest last; the page draws it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use shared::clock::Clock;

use crate::lock;

const KEPT: usize = 500;

/// One call.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Counts up, with gaps.
    pub id: u64,
    /// The request to API Gateway that it is, or is part of, where that is known.
    pub request: Option<u64>,
    /// When it began, in milliseconds since the Unix epoch, by a clock that never goes back.
    pub began: f64,
    /// Who called.
    pub from: &'static str,
    /// Who was called.
    pub to: &'static str,
    /// The route or operation; never a path with a ticket in it.
    pub what: String,
    /// The answer's status; 0 where none came, nothing while it is under way.
    pub status: Option<u16>,
    /// How long it took, in milliseconds.
    pub ms: Option<f64>,
    /// What the function was handed, masked.
    #[serde(skip)]
    pub event: Option<Value>,
    /// What was answered, masked.
    #[serde(skip)]
    pub answer: Option<Value>,
    #[serde(skip)]
    revision: u64,
}

/// The list.
#[derive(Clone)]
pub struct Calls {
    started: (Instant, i64),
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    calls: VecDeque<Call>,
    /// Counts what began and what ended.
    revision: u64,
    /// The requests to API Gateway that are under way.
    requests: Vec<u64>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { started: (Instant::now(), Clock::system().now()), log: Arc::default() }
    }
}

impl Calls {
    /// A request to API Gateway begins.
    pub fn request(&self, from: &'static str, what: impl Into<String>) -> Underway {
        let mut log = lock(&self.log);
        let id = log.revision + 1;
        log.requests.push(id);
        self.begin(&mut log, Some(id), (from, "API Gateway"), what.into())
    }

    /// A run begins that no request asked for; what it calls is part of it.
    pub fn run(&self, from: &'static str, what: impl Into<String>) -> Underway {
        let mut log = lock(&self.log);
        let id = log.revision + 1;
        log.requests.push(id);
        self.begin(&mut log, Some(id), (from, "function"), what.into())
    }

    /// A call begins that is part of this request, or of none.
    pub fn child(
        &self,
        request: Option<u64>,
        from: &'static str,
        to: &'static str,
        what: impl Into<String>,
    ) -> Underway {
        self.begin(&mut lock(&self.log), request, (from, to), what.into())
    }

    /// A function's call begins. Nothing in it says which request it is part of: where several are under way, none is named.
    pub fn of_function(&self, to: &'static str, what: impl Into<String>) -> Underway {
        let mut log = lock(&self.log);
        let request = if let [only] = log.requests.as_slice() { Some(*only) } else { None };
        self.begin(&mut log, request, ("function", to), what.into())
    }

    fn begin(
        &self,
        log: &mut Log,
        request: Option<u64>,
        (from, to): (&'static str, &'static str),
        what: String,
    ) -> Underway {
        let (at, epoch) = self.started;
        log.revision += 1;
        let id = log.revision;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch fit a JSON number")]
        let began = epoch as f64 + milliseconds(at);
        log.calls.push_back(Call {
            id,
            request,
            began,
            from,
            to,
            what,
            status: None,
            ms: None,
            event: None,
            answer: None,
            revision: id,
        });
        if log.calls.len() > KEPT {
            log.calls.pop_front();
        }
        Underway { calls: self.clone(), id, began: Instant::now(), status: 0 }
    }

    /// The calls that began or ended after this revision, and the last revision.
    pub fn after(&self, revision: u64) -> (Vec<Call>, u64) {
        let log = lock(&self.log);
        (log.calls.iter().filter(|call| call.revision > revision).cloned().collect(), log.revision)
    }

    /// The call of this id, if it is still kept.
    pub fn get(&self, id: u64) -> Option<Call> {
        lock(&self.log).calls.iter().find(|call| call.id == id).cloned()
    }

    /// Forgets all calls.
    pub fn clear(&self) {
        lock(&self.log).calls.clear();
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Call)) {
        if let Some(call) = lock(&self.log).calls.iter_mut().rfind(|call| call.id == id) {
            change(call);
        }
    }
}

/// A call under way. Dropped before its [end](Underway::end), it has had no answer.
pub struct Underway {
    calls: Calls,
    id: u64,
    began: Instant,
    status: u16,
}

impl Underway {
    /// The call's id; a request's id for its parts.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the function is handed, masked.
    pub fn event(&self, event: Value) {
        self.calls.change(self.id, |call| call.event = Some(event));
    }

    /// What is answered, masked.
    pub fn answer(&self, answer: Value) {
        self.calls.change(self.id, |call| call.answer = Some(answer));
    }

    /// It was answered with this status.
    pub fn end(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let took = milliseconds(self.began);
        let mut log = lock(&self.calls.log);
        log.requests.retain(|request| *request != self.id);
        log.revision += 1;
        let revision = log.revision;
        if let Some(call) = log.calls.iter_mut().rfind(|call| call.id == self.id) {
            (call.status, call.ms, call.revision) = (Some(self.status), Some(took), revision);
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_s_call_belongs_to_the_only_request_under_way() {
        let calls = Calls::default();
        let request = calls.request("browser", "GET /");
        calls.of_function("DynamoDB", "GetItem").end(200);
        let other = calls.request("browser", "GET /");
        calls.of_function("DynamoDB", "GetItem").end(200);
        let (id, seen) = (request.id(), calls.after(0).0);
        drop((request, other));
        let of = |call: &&Call| call.to == "DynamoDB";
        assert_eq!(seen.iter().filter(of).map(|call| call.request).collect::<Vec<_>>(), [Some(id), None]);
    }

    #[test]
    fn what_began_is_seen_and_seen_again_when_it_ended() {
        let calls = Calls::default();
        let call = calls.of_function("DynamoDB", "GetItem");
        let (seen, last) = calls.after(0);
        assert_eq!(seen.iter().map(|call| call.status).collect::<Vec<_>>(), [None]);
        call.end(200);
        assert_eq!(calls.after(last).0.iter().map(|call| call.status).collect::<Vec<_>>(), [Some(200)]);
        drop(calls.of_function("DynamoDB", "GetItem"));
        assert_eq!(calls.after(0).0.last().and_then(|call| call.status), Some(0));
    }
}
