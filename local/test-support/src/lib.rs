//! What the tests and the benchmark need beside the local stack.
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a failed step is a failed test")]

mod gate;
mod log_capture;
pub mod runtime_api;

pub use gate::Gate;
pub use log_capture::LogCapture;
