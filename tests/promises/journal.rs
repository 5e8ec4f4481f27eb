//! The log as journald gets it: fields and ids of each line, none of a stranger's flood, and a
//! journald that is stuck or gone holds up nobody.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Confirmation, Daemon, JSON, PATH, Setup, Site, TILL_7, Till, received};

const CATALOG: &str = include_str!("../../systemd/tilld.catalog");

/// A private `/run` with `$1` as journald's directory there, and standard error taken for its
/// stream, as systemd's environment would have it.
const UNDER_JOURNALD: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
     mount --bind \"$1\" /run/systemd/journal && shift && \
     JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec \"$@\"";

/// Journald's own socket, where the test takes what it gets.
struct Journald {
    directory: TempDir,
    socket: Option<UnixDatagram>,
}

/// The fields of a line.
type Entry = HashMap<String, String>;

impl Journald {
    fn new() -> Journald {
        let mut journald =
            Journald { directory: TempDir::new().expect("a directory"), socket: None };
        journald.start();
        journald
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn start(&mut self) {
        let socket = UnixDatagram::bind(self.path()).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        self.socket = Some(socket);
    }

    fn stop(&mut self) {
        self.socket = None;
        fs::remove_file(self.path()).expect("a socket");
    }

    /// Sends to it until it takes no more, as any other program's lines would.
    fn clog(&self) {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("a socket that does not wait");
        while sender.send_to(b"MESSAGE=clogged\n", self.path()).is_ok() {}
    }

    /// The next line of the daemon with one of these events.
    fn await_event(&self, events: &[&str]) -> Entry {
        let socket = self.socket.as_ref().expect("a journald that runs");
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = received(socket, &mut buffer).expect("a line with that event");
            let entry = parse(&buffer[..length]);
            if entry.get("TILLD_EVENT").is_some_and(|found| events.contains(&found.as_str())) {
                return entry;
            }
        }
    }

    /// A daemon that takes this for systemd's.
    fn serve(&self, site: &Site) -> Daemon {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", UNDER_JOURNALD, "sh"]).arg(self.directory.path());
        Daemon::start_without_log(site, site.wrapped(command), || {
            let status = site.tilld(&["status", "--output", "json"]);
            let status = serde_json::from_slice::<Value>(&status.stdout).unwrap_or_default();
            status["endpoint"].as_str().and_then(|text| text.parse().ok())
        })
    }
}

/// Journald's native protocol: `NAME=VALUE`, or `NAME`, the value's length in 64 bits, the value;
/// a line feed behind each.
fn parse(mut payload: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = payload.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&payload[..end]).into_owned();
        payload = &payload[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            entry.insert(name.to_owned(), value.to_owned());
        } else {
            let (length, rest) = payload.split_first_chunk().expect("a length");
            let (value, rest) =
                rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            entry.insert(line, String::from_utf8_lossy(value).into_owned());
            payload = &rest[1..];
        }
    }
    entry
}

#[test]
fn a_collection_and_a_refusal_have_their_fields_and_their_entry_in_the_catalog() {
    let (site, journald) = (Setup::live().prepare(), Journald::new());
    let daemon = journald.serve(&site);
    let confirmation = Confirmation::fresh().by_till().with("payChannel", "10");
    assert_eq!(daemon.code(&confirmation), "1000");
    let ready = journald.await_event(&["ready"]);
    let taken = journald.await_event(&["collection"]);
    assert_eq!(daemon.code(&confirmation.with("amount", "1.00")), "2005");
    let refused = journald.await_event(&["refused"]);
    let wanted = [
        ("TILLD_SEQUENCE", "1"),
        ("TILLD_CALLER", TILL_7),
        ("TILLD_CHANNEL", "10"),
        ("TILLD_CODE", "1000"),
        ("SYSLOG_IDENTIFIER", "tilld"),
    ];
    for (name, value) in wanted {
        assert_eq!(taken.get(name).map(String::as_str), Some(value), "{name} in {taken:?}");
    }
    assert_eq!(refused["TILLD_CODE"], "2005");
    for entry in [&taken, &refused] {
        assert!(entry["DURATION_US"].parse::<u64>().is_ok_and(|us| us > 0), "{entry:?}");
    }
    for entry in [ready, taken, refused] {
        let heading = format!("\n-- {}\n", entry["MESSAGE_ID"]);
        assert!(CATALOG.contains(&heading), "{entry:?}");
    }
}

#[test]
fn a_journald_that_is_stuck_holds_up_neither_the_start_nor_a_cashier() {
    let (site, journald) = (Setup::live().prepare(), Journald::new());
    journald.clog();
    let daemon = journald.serve(&site);
    let confirmation = Confirmation::fresh();
    assert_eq!(daemon.code(&confirmation), "1000");
    // What waited comes when it takes lines again.
    journald.await_event(&["ready"]);
    assert_eq!(journald.await_event(&["collection"])["TILLD_CODE"], "1000");
}

#[test]
fn lines_come_again_after_a_restart_of_journald_and_the_lost_ones_are_counted() {
    let (site, mut journald) = (Setup::live().prepare(), Journald::new());
    let daemon = journald.serve(&site);
    // The last line that comes by itself.
    journald.await_event(&["verified"]);
    journald.stop();
    for _ in 0..20 {
        assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    }
    journald.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    // The lost ones are told of as soon as nothing waits, before or after the last collection.
    let (mut is_there, mut dropped) = (false, 0);
    while !is_there || dropped == 0 {
        let entry = journald.await_event(&["collection", "lines-dropped"]);
        is_there |= entry.get("TILLD_SEQUENCE").is_some_and(|sequence| sequence == "21");
        dropped += entry.get("TILLD_DROPPED").map_or(0, |count| count.parse().expect("a number"));
    }
    assert!(dropped <= 20, "{dropped} of 20 were lost");
}

#[test]
fn strangers_cannot_fill_the_log_and_what_they_caused_is_counted() {
    let site = Setup { log_level: "debug", ..Setup::live() }.prepare();
    let daemon = site.start();
    for host in 1..=60 {
        let source = Ipv4Addr::new(127, 0, 1, host);
        let mut till = Till::connect_from(source, daemon.address(), daemon.tls()).unwrap();
        let wrong = Confirmation::fresh().by(TILL_7, "wrong").text();
        assert_eq!(till.post(PATH, JSON, &[], wrong.as_bytes()).code(), "-1001");
        assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    }
    let log = daemon.stop();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let written = lines("-1001 to 127.0.1.");
    // A slow machine gives one more every 5 s.
    assert!((20..60).contains(&written), "{written} lines");
    let told = format!("{} lines about wrong keys and unknown callers were", 60 - written);
    assert_eq!(lines(&told), 1, "{told}: {log}");
    assert_eq!(lines(" 1000 to AppName@skypay"), 60, "a caller's lines are not limited");
}
