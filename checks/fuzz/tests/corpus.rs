//! Replays the corpus through each target, so that findings of the fuzzer stay fixed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target));
    assert!(!corpus.is_empty());
    for file in corpus {
        println!("{}", file.display());
        check(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn events() {
    replay("event", fuzz::event);
    for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events")) {
        fuzz::event(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn bodies() {
    replay("body", fuzz::body);
}

#[test]
fn tickets() {
    replay("ticket", fuzz::ticket);
}

#[test]
fn answers_of_human_api() {
    replay("answer", fuzz::answer);
}

#[test]
fn sealed_values() {
    replay("sealed", fuzz::sealed);
}

#[test]
fn stored_items() {
    replay("item", fuzz::item);
}

#[test]
fn user_ids() {
    replay("user_id", fuzz::user_id);
}
