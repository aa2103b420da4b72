//! The promises about tokens (section 4 of the contract), on the real handlers: every order of overlapping calls, every
//! death of a call (`schedules`), every fault of what they call (`faults`), secrets that change meanwhile (`rotation`);
//! and that none of it shows anywhere (`leaks`).
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
mod made_up_time;
mod rotation;
mod schedules;

/// Whether to walk through all that there is, for the better part of an hour.
fn everything() -> bool {
    std::env::var("PROMISES").is_ok_and(|promises| promises == "all")
}
