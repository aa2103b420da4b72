//! The contract on the real handlers, with embedded DynamoDB, the Human API stand-in, and a clock that the test sets.

mod callers;
mod deleting;
mod finishing;
mod importing;
mod panicking;
mod publishing;
mod resealing;
mod rotation;
mod sealing;
mod serving;
mod starting;
mod sweeping;
mod unresolved;
