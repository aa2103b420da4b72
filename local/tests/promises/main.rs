//! The promises about tokens (section 4 of the contract), on the real handlers.
//!
//! `schedules` covers every order of overlapping calls and every death of a call. `faults` covers every fault of a
//! service. `rotation` changes secrets during calls. `leaks` searches all output for secrets.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test"
)]

mod calls;
mod driver;
mod expectations;
mod faults;
mod gates;
mod invariants;
mod leaks;
mod paused_time;
mod rotation;
mod schedules;

/// Returns `true` if `PROMISES=all` is set. The complete search takes most of an hour.
fn everything() -> bool {
    std::env::var("PROMISES").is_ok_and(|promises| promises == "all")
}
