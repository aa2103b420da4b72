//! The contract on the real handlers, with embedded DynamoDB, the Human API stand-in, and a clock that the test sets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failed step is a failed test")]

mod callers;
mod deleting;
mod finishing;
mod panicking;
mod resealing;
mod rotation;
mod sealing;
mod serving;
mod starting;
mod sweeping;
mod unresolved;
mod world;
