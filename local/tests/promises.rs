//! The promises about tokens (section 4 of the contract), on the real handlers.
//!
//! `schedules` covers every order of overlapping calls and every death of a call. `faults` covers every fault of a
//! service. `events` follows the table's stream beside them. `maintenance` delays its tasks. `rotation` changes secrets during calls. `leaks` searches all output for secrets.

mod calls;
mod driver;
mod events;
mod expectations;
mod faults;
mod gates;
mod invariants;
mod leaks;
mod maintenance;
mod paused_time;
mod rotation;
mod schedules;

/// How many of the cases a run takes. `PROMISES` says it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// `cargo test` takes one case of eleven, and a few orders of each set of calls.
    Sample,
    /// `.ci/run` takes five cases of eleven, and more orders (`PROMISES=more`).
    More,
    /// Everything (`PROMISES=all`).
    All,
}

/// Reads `PROMISES`.
fn share() -> Share {
    match std::env::var("PROMISES").as_deref() {
        Ok("all") => Share::All,
        Ok("more") => Share::More,
        Ok(other) => panic!("PROMISES={other} is neither `more` nor `all`"),
        Err(_) => Share::Sample,
    }
}

/// Returns the value for this run's share.
fn by_share<T>(sample: T, more: T, all: T) -> T {
    match share() {
        Share::Sample => sample,
        Share::More => more,
        Share::All => all,
    }
}

/// Takes one of eleven cases in their order, five, or all. Eleven has no common factor with the number of calls, of states, of writes or
/// of disturbances. So each of them is met, if there are enough cases.
fn sampled<T>(cases: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    let taken = by_share(1, 5, 11);
    cases.into_iter().enumerate().filter(move |(number, _)| number * 7 % 11 < taken).map(|(_, case)| case)
}

/// Compares a number of cases with the table in `docs/token-protocol.md`. Another number means that gates, faults or the sample
/// have changed.
fn counted(what: &str, number: usize) {
    println!("{what}: {number} cases");
    let page = include_str!("../../docs/token-protocol.md");
    let row = page.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(what)?.strip_prefix(" | "));
    let mut figures = row.unwrap_or_default().split(" | ").map(|cell| cell.trim_end_matches(" |"));
    let figure = figures.nth(share() as usize);
    // nobody has counted these yet
    let is_uncounted = share() == Share::All && figure == Some("–");
    assert!(
        number > 0 && (is_uncounted || figure == Some(number.to_string().as_str())),
        "{what}: {number}, and docs/token-protocol.md has {figure:?}"
    );
}
