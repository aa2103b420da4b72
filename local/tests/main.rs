//! Black-box tests: the real handlers, with DynamoDB embedded and a stand-in for Human API.
//!
//! | module | what it proves |
//! |---|---|
//! | [`contract`] | routes, answers and errors, one subject for each file |
//! | [`promises`] | the promises about tokens, in every order of calls, every death and every fault |
//! | [`authorization`] | who may do what: each shape of a caller on each route |
//! | [`late`] | late copies and resends of each write, with the built functions |
//! | [`start`] | the start of the local program |
//! | [`soak`] | built functions that are killed at work |
//! | [`events`], [`hostile`] | `events/` through the built functions; the same events with any part replaced |
//! | [`cors`], [`mobile`], [`rebinding`] | browsers of other origins, Human API's SDKs, other machines' names |
//! | [`docs`], [`metrics`], [`openapi`], [`operations`] | what documents and the template say about the code |
//!
//! [`world`] has the harness.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test"
)]

mod authorization;
mod contract;
mod cors;
mod docs;
mod events;
mod hostile;
mod late;
mod metrics;
mod mobile;
mod openapi;
mod operations;
mod promises;
mod rebinding;
mod soak;
mod start;
mod world;
