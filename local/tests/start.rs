//! The local program's start: its options, its folder, its ports.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A new folder. Dropping it deletes it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("human-connect-start-{:016x}", fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program. Dropping it kills the process.
struct Program {
    child: Child,
    address: String,
}

impl Program {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command(folder, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| Some(line.unwrap().split_once("open ")?.1.to_owned()));
        Self { child, address: address.unwrap() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
    command.current_dir(folder).args(arguments).env_remove("ALLOWED_ORIGINS").env_remove("CORS_ON_REFUSALS");
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_second_start_in_the_same_folder_names_the_first_and_changes_nothing() {
    let folder = Folder::new();
    let first = Program::start(&folder.0, &["--port", "0"]);
    let before = (folder.read(".local/env"), folder.read(".local/functions.log"));
    assert!(before.0.contains(&format!("PUBLIC_BASE_URL={}\n", first.address)), "{}", before.0);
    for arguments in [&["--port", "0"][..], &["--dir", ".local"], &[]] {
        assert_eq!(refused(&folder.0, arguments), format!("already running at {}\n", first.address));
    }
    assert_eq!((folder.read(".local/env"), folder.read(".local/functions.log")), before);
    TcpStream::connect(first.address.trim_start_matches("http://")).unwrap();
    let elsewhere = Program::start(&folder.0, &["--port", "0", "--dir", "other"]);
    assert_ne!(elsewhere.address, first.address);
}

#[test]
fn a_start_logs_nothing_and_keeps_the_log_of_the_last_one() {
    let folder = Folder::new();
    drop(Program::start(&folder.0, &["--port", "0"]));
    assert_eq!(folder.read(".local/functions.log"), "");
    fs::write(folder.0.join(".local/functions.log"), "made up\n").unwrap();
    drop(Program::start(&folder.0, &["--port", "0", "--origin", "http://localhost:5173"]));
    assert_eq!(folder.read(".local/functions.log"), "made up\n");
}

#[test]
fn a_port_that_is_in_use_is_named() {
    let folder = Folder::new();
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let error = refused(&folder.0, &["--port", &port.to_string()]);
    assert!(error.starts_with(&format!("cannot start: port {port}: ")), "{error}");
}

#[test]
fn an_unknown_option_or_origin_starts_nothing() {
    let folder = Folder::new();
    let output = run(&folder.0, &["--prot", "3000"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--port"));
    for (arguments, expected) in [("--help", "--origin"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = run(&folder.0, &[arguments]);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(expected), "{arguments}");
    }
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    let error = refused(&folder.0, &["--port", "0", "--origin", "http://app.example.test"]);
    assert!(error.contains("http://app.example.test") && error.contains("https origins"), "{error}");
}
