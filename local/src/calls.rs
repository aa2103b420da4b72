//! The calls, newest last. The console draws them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::clock::Clock;

use crate::lock;

const KEPT: usize = 500;

/// What the user did in the console, or a switch. It has caused the calls with its id.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// A number that increases, with gaps.
    pub id: u64,
    pub title: String,
    pub kind: ActionKind,
    /// Start time in milliseconds since the Unix epoch.
    pub began: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionKind {
    /// An action of the user.
    User,
    /// The console reads the connection again. Its diagram hides these calls.
    Console,
    /// A switch. It causes no call.
    Switch,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// A number that increases, with gaps.
    pub id: u64,
    /// The id of the request to API Gateway that this call is, or belongs to, if known.
    pub request: Option<u64>,
    /// The id of the action that has caused the call, if any.
    pub action: Option<u64>,
    /// Start time in milliseconds since the Unix epoch, by a clock that never goes back.
    pub began: f64,
    pub from: &'static str,
    pub to: &'static str,
    /// The route or operation. A path with a ticket never appears here.
    pub what: String,
    /// The response's status: 0 if none came, `None` while the call is in flight.
    pub status: Option<u16>,
    /// Duration in milliseconds.
    pub ms: Option<f64>,
    /// The function's event.
    #[serde(skip)]
    pub event: Option<Value>,
    /// The response.
    #[serde(skip)]
    pub answer: Option<Value>,
    #[serde(skip)]
    revision: u64,
}

#[derive(Clone)]
pub struct Calls {
    started: (Instant, i64),
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    calls: VecDeque<Call>,
    actions: VecDeque<Action>,
    /// The action that is in progress. New calls belong to it.
    action: Option<u64>,
    /// Counts the starts and the ends of calls.
    revision: u64,
    /// The requests to API Gateway in flight.
    requests: Vec<u64>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { started: (Instant::now(), Clock::system().now()), log: Arc::default() }
    }
}

impl Calls {
    /// Records the start of a request to API Gateway.
    pub fn request(&self, from: &'static str, what: impl Into<String>) -> Underway {
        let mut log = lock(&self.log);
        let id = log.revision + 1;
        log.requests.push(id);
        self.begin(&mut log, Some(id), (from, "API Gateway"), what.into())
    }

    /// Records the start of a run that no request started. The calls of the run belong to it.
    pub fn run(&self, from: &'static str, what: impl Into<String>) -> Underway {
        let mut log = lock(&self.log);
        let id = log.revision + 1;
        log.requests.push(id);
        self.begin(&mut log, Some(id), (from, "function"), what.into())
    }

    /// Records the start of a call that belongs to this request, or to none.
    pub fn child(
        &self,
        request: Option<u64>,
        from: &'static str,
        to: &'static str,
        what: impl Into<String>,
    ) -> Underway {
        self.begin(&mut lock(&self.log), request, (from, to), what.into())
    }

    /// Records the start of a function's call. The call does not say which request it belongs to. If several requests are
    /// in flight, it belongs to none.
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
        log.revision += 1;
        let id = log.revision;
        let began = self.time(Instant::now());
        let of_request = request.and_then(|request| log.calls.iter().rfind(|call| call.id == request));
        let action = of_request.map_or(log.action, |request| request.action);
        log.calls.push_back(Call {
            id,
            request,
            action,
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
        Underway { calls: self.clone(), id, status: 0 }
    }

    /// Records an action. The calls from now on belong to it, until it ends or another action begins. A switch has no calls.
    pub fn begin_action(&self, title: String, kind: ActionKind) -> u64 {
        let mut log = lock(&self.log);
        log.revision += 1;
        let id = log.revision;
        log.actions.push_back(Action { id, title, kind, began: self.time(Instant::now()) });
        if log.actions.len() > KEPT {
            log.actions.pop_front();
        }
        if kind != ActionKind::Switch {
            log.action = Some(id);
        }
        id
    }

    pub fn end_action(&self, id: u64) {
        let mut log = lock(&self.log);
        log.action = log.action.filter(|action| *action != id);
    }

    /// Returns the actions after this revision.
    pub fn actions_after(&self, revision: u64) -> Vec<Action> {
        lock(&self.log).actions.iter().filter(|action| action.id > revision).cloned().collect()
    }

    /// Returns milliseconds since the Unix epoch. All times come from here, or a call could end before its cause.
    fn time(&self, now: Instant) -> f64 {
        let (start, epoch) = self.started;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch fit a JSON number")]
        let epoch = epoch as f64;
        epoch + now.duration_since(start).as_secs_f64() * 1000.0
    }

    /// Returns the calls that started or ended after this revision, and the last revision.
    pub fn after(&self, revision: u64) -> (Vec<Call>, u64) {
        let log = lock(&self.log);
        (log.calls.iter().filter(|call| call.revision > revision).cloned().collect(), log.revision)
    }

    /// The last revision.
    pub fn last(&self) -> u64 {
        lock(&self.log).revision
    }

    /// Returns what the functions have asked for after this revision. They read secrets at their start, so that is left out.
    pub fn of_functions_after(&self, revision: u64) -> Vec<String> {
        let calls = self.after(revision).0.into_iter().filter(|call| call.from == "function");
        calls.map(|call| call.what).filter(|what| !what.starts_with("GetSecretValue")).collect()
    }

    /// Returns the call with this id, unless newer calls have replaced it.
    pub fn get(&self, id: u64) -> Option<Call> {
        lock(&self.log).calls.iter().find(|call| call.id == id).cloned()
    }

    pub fn clear(&self) {
        let mut log = lock(&self.log);
        log.calls.clear();
        log.actions.clear();
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Call)) {
        if let Some(call) = lock(&self.log).calls.iter_mut().rfind(|call| call.id == id) {
            change(call);
        }
    }
}

/// Guard of a call in flight. If it is dropped before [`end`](Underway::end), the call had no response.
pub struct Underway {
    calls: Calls,
    id: u64,
    status: u16,
}

impl Underway {
    /// Returns the call's id. Calls of the same request name it as their request.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sets the function's event.
    pub fn event(&self, event: Value) {
        self.calls.change(self.id, |call| call.event = Some(event));
    }

    /// Sets the response.
    pub fn answer(&self, answer: Value) {
        self.calls.change(self.id, |call| call.answer = Some(answer));
    }

    /// Ends the call with this status.
    pub fn end(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let ended = self.calls.time(Instant::now());
        let mut log = lock(&self.calls.log);
        log.requests.retain(|request| *request != self.id);
        log.revision += 1;
        let revision = log.revision;
        if let Some(call) = log.calls.iter_mut().rfind(|call| call.id == self.id) {
            (call.status, call.ms, call.revision) = (Some(self.status), Some(ended - call.began), revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_call_belongs_to_the_only_request_in_flight() {
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
    fn a_call_ends_before_the_call_that_has_caused_it() {
        let calls = Calls::default();
        for _ in 0..1000 {
            let request = calls.request("browser", "GET /");
            let cause = calls.child(Some(request.id()), "API Gateway", "function", "made up");
            calls.of_function("DynamoDB", "GetItem").end(200);
            cause.end(200);
            request.end(200);
            let times: Vec<_> =
                calls.after(0).0.iter().map(|call| (call.began, call.began + call.ms.unwrap())).collect();
            for (outer, inner) in times.iter().zip(times.iter().skip(1)) {
                assert!(outer.0 <= inner.0 && inner.1 <= outer.1, "{times:?}");
            }
            calls.clear();
        }
    }

    #[test]
    fn the_calls_of_an_action_and_of_its_requests_belong_to_it() {
        let calls = Calls::default();
        calls.request("browser", "GET /").end(200);
        let action = calls.begin_action("made up".to_owned(), ActionKind::User);
        let request = calls.request("browser", "GET /");
        let switch = calls.begin_action("a switch".to_owned(), ActionKind::Switch);
        calls.of_function("DynamoDB", "GetItem").end(200);
        calls.end_action(action);
        calls.child(Some(request.id()), "API Gateway", "function", "made up").end(200);
        calls.request("browser", "GET /").end(200);
        let actions: Vec<_> = calls.actions_after(0).iter().map(|action| action.id).collect();
        assert_eq!(actions, [action, switch]);
        let of: Vec<_> = calls.after(0).0.iter().map(|call| call.action).collect();
        assert_eq!(of, [None, Some(action), Some(action), Some(action), None]);
    }

    #[test]
    fn a_call_is_listed_when_it_starts_and_again_when_it_ends() {
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
