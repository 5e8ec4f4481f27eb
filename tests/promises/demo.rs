//! `tilld demo`: what it shows, that what it prints works, and that it leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::till::parse_reply;

/// `tilld demo` with a place of its own for temporary files.
fn demo(place: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilld"));
    command.arg("demo").args(arguments).env("TMPDIR", place.path());
    command
}

fn is_empty(place: &TempDir) -> bool {
    fs::read_dir(place.path()).unwrap().next().is_none()
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("a living child");
}

#[test]
fn the_demo_shows_each_documented_answer_in_order() {
    let place = TempDir::new().unwrap();
    let output = demo(&place, &["--once"]).output().expect("tilld can be run");
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{errors}");
    let codes: Vec<String> = shown
        .split("\"responseCode\"")
        .skip(1)
        .map(|rest| {
            let code = |c: char| c == '-' || c.is_ascii_digit();
            rest.trim_start_matches(|c| !code(c)).chars().take_while(|c| code(*c)).collect()
        })
        .collect();
    let expected = ["1000", "-1015", "1000", "1000", "2005", "-1026", "-1001"];
    assert_eq!(codes.get(..7), Some(&expected.map(str::to_owned)[..]), "{shown}");
    let malformed = codes.get(7).map(String::as_str);
    assert!(matches!(malformed, Some("2001" | "2002" | "2003")), "{shown}");
    assert!(shown.contains("curl "), "{shown}");
    assert!(is_empty(&place), "its directory is still there");
}

#[test]
fn the_printed_curl_line_works_until_ctrl_c_which_removes_the_demo_s_directory() {
    let place = TempDir::new().unwrap();
    let mut child = demo(&place, &[]).stdout(Stdio::piped()).spawn().expect("tilld can be run");
    let mut shown = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
    let mut next_line_with = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(shown.read_line(&mut line).unwrap() > 0, "it ended without {text:?}");
        }
        line
    };
    let curl = next_line_with("curl ");
    next_line_with("Serving until Ctrl-C");
    let tried = Command::new("sh").args(["-c", curl.trim()]).output().expect("sh can be run");
    assert!(tried.status.success(), "{curl}: {}", String::from_utf8_lossy(&tried.stderr));
    assert_eq!(parse_reply(&String::from_utf8_lossy(&tried.stdout)).0, "1000", "{curl}");
    assert!(!is_empty(&place));
    signal(&child, Signal::INT);
    let mut rest = String::new();
    shown.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(is_empty(&place), "its directory is still there");
}

#[test]
fn a_demo_that_is_ended_early_removes_its_directory_too() {
    for ending in [Signal::INT, Signal::TERM, Signal::HUP] {
        let place = TempDir::new().unwrap();
        let mut command = demo(&place, &[]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("tilld can be run");
        let mut shown = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        shown.read_line(&mut String::new()).unwrap();
        signal(&child, ending);
        let mut rest = String::new();
        shown.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().code().is_some(), "{ending:?} killed it");
        assert!(is_empty(&place), "{ending:?}: its directory is still there");
    }
}

#[test]
fn a_demo_that_nobody_reads_ends_quietly_and_leaves_nothing() {
    let place = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = demo(&place, &[]).stdout(writer).output().expect("tilld can be run");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_empty(&place), "its directory is still there");
}
