//! What was called, newest last; the page shows it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use shared::clock::{Clock, rfc3339};

use crate::lock;

const KEPT: usize = 500;

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Counts up.
    pub id: u64,
    /// When it ended, RFC 3339 to the millisecond.
    pub at: String,
    /// Who called.
    pub from: &'static str,
    /// Who was called.
    pub to: &'static str,
    /// The route or operation; never a path with a ticket in it.
    pub what: String,
    /// The answer's status; 0 where none came.
    pub status: u16,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// The list.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<VecDeque<Call>>>);

impl Calls {
    /// Adds a call.
    pub fn add(&self, from: &'static str, to: &'static str, what: impl Into<String>, status: u16, took: Duration) {
        let mut calls = lock(&self.0);
        let id = calls.back().map_or(0, |call| call.id) + 1;
        let now = Clock::system().now();
        let at = format!("{}.{:03}Z", rfc3339(now).trim_end_matches('Z'), now.rem_euclid(1000));
        calls.push_back(Call { id, at, from, to, what: what.into(), status, ms: took.as_secs_f64() * 1000.0 });
        if calls.len() > KEPT {
            calls.pop_front();
        }
    }

    /// The calls after this id, and the last id.
    pub fn after(&self, id: u64) -> (Vec<Call>, u64) {
        let calls = lock(&self.0);
        (calls.iter().filter(|call| call.id > id).cloned().collect(), calls.back().map_or(0, |call| call.id))
    }
}
