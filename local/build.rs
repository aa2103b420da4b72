//! `include_dir` sees changes of a file, but no new file.

fn main() {
    for directory in ["assets", "../web"] {
        println!("cargo::rerun-if-changed={directory}");
    }
}
