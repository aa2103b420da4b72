//! The promises about tokens (section 4 of the contract), on the real handlers.
//!
//! `schedules` covers every order of overlapping calls and every death of a call. `faults` covers every fault of a
//! service. `maintenance` delays its tasks. `rotation` changes secrets during calls. `leaks` searches all output for secrets.
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
mod maintenance;
mod paused_time;
mod rotation;
mod schedules;

/// Compares a number of schedules with the table in `docs/token-protocol.md`. Another number means that gates, faults or the
/// sample have changed.
fn counted(what: &str, number: usize) {
    println!("{what}: {number} schedules");
    let page = include_str!("../../../docs/token-protocol.md");
    let row = page.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(what)?.strip_prefix(" | "));
    let mut figures = row.unwrap_or_default().split(" | ").map(|cell| cell.trim_end_matches(" |"));
    let figure = figures.nth(usize::from(everything()));
    // nobody has counted these orders yet
    let is_uncounted = everything() && figure == Some("–");
    assert!(
        number > 0 && (is_uncounted || figure == Some(number.to_string().as_str())),
        "{what}: docs/token-protocol.md"
    );
}

/// Returns `true` if `PROMISES=all` is set. The complete search takes most of an hour.
fn everything() -> bool {
    std::env::var("PROMISES").is_ok_and(|promises| promises == "all")
}
