//! A disk whose sync fails: what it holds is unknown from then on, so the process gives no 1000 any
//! more, ends, and the next one finds out.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::{Confirmation, Daemon, JSON, PATH, Setup, Site};

/// So long may the daemon take to notice and to end.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// More than any of the failing syncs below leaves time for.
const CONFIRMATIONS_MAX: usize = 200;

/// `tilld serve`, in which the `number`-th time that a thread makes this call is a write error.
fn serve_with_failing(site: &Site, call: &str, number: usize) -> Command {
    let mut command = Command::new("strace");
    // The tracer steps aside (-D): the child is the daemon itself, with its signals and exit code.
    command.args(["-D", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"]);
    command.arg(site.path().join("syncs"));
    command.args(["-e", &format!("inject={call}:error=EIO:when={number}")]);
    let serve = site.command(&["serve"]);
    command.arg(serve.get_program()).args(serve.get_args());
    command
}

/// Posts one after the other until the daemon is gone; gives those that were answered 1000.
fn confirm_until_the_end(daemon: &Daemon) -> Vec<Confirmation> {
    let mut told = Vec::new();
    let mut has_failed = false;
    let mut till = daemon.till();
    for _ in 0..CONFIRMATIONS_MAX {
        let confirmation = Confirmation::fresh();
        let answer = till.try_post(PATH, JSON, &[], confirmation.text().as_bytes());
        match answer.map(|answer| answer.code()).as_deref() {
            Ok("1000") => {
                assert!(!has_failed, "1000 after a failed sync");
                told.push(confirmation);
            }
            Ok(code) => {
                assert_eq!(code, "-1009");
                has_failed = true;
            }
            Err(_) => return told,
        }
    }
    panic!("it serves on after {CONFIRMATIONS_MAX} confirmations");
}

#[test]
fn after_a_failed_sync_no_1000_is_given_and_a_restart_keeps_every_one_that_was() {
    let site = Setup::live().prepare();
    site.start().stop();
    let mut told = Vec::new();
    // SQLite uses the one and the tape the other. The first four fsyncs are the start's, which
    // removes `undelivered` and empties the WAL; after it only the writer syncs.
    for (call, number) in [
        ("fdatasync", 1),
        ("fdatasync", 2),
        ("fdatasync", 9),
        ("fsync", 5),
        ("fsync", 6),
        ("fsync", 7),
        ("fsync", 14),
    ] {
        let case = format!("{call} {number}");
        let mut daemon = Daemon::start_by(&site, serve_with_failing(&site, call, number));
        told.extend(confirm_until_the_end(&daemon));
        assert_eq!(daemon.wait(END_TIME_MAX).code(), Some(1), "{case}");
        let syncs = fs::read_to_string(site.path().join("syncs")).unwrap();
        assert_eq!(syncs.matches("(INJECTED)").count(), 1, "{case}: {syncs}");

        let daemon = site.start();
        let mut till = daemon.till();
        for confirmation in &told {
            let answer = till.post(PATH, JSON, &[], confirmation.text().as_bytes());
            assert_eq!(answer.code(), "-1015", "{case}: {}", confirmation.text());
        }
        drop(till);
        daemon.stop();
        let verified = site.tilld(&["verify"]);
        let said = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "{case}: {said}");
        println!("{case}: {} told so far", told.len());
    }
    assert!(told.len() > 5, "only {} were answered 1000 before a sync failed", told.len());
}
