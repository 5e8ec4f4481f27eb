//! When the database misbehaves: what one bad row or another program does to it stays with those
//! whom it concerns, and passes when it is over.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::fleet::altering;
use crate::support::{Confirmation, Daemon, Setup, Site};

/// A till repeats for at least this long.
const PATIENCE: Duration = Duration::from_secs(60);

fn database(site: &Site) -> Connection {
    Connection::open(site.state_dir().join("tilld.db")).expect("a database")
}

/// Posts the same confirmation until it is answered otherwise than -1009, as a till does.
fn persist(daemon: &Daemon, confirmation: &Confirmation) -> String {
    let since = tilld::system::clock::monotonic();
    loop {
        let code = daemon.code(confirmation);
        if code != "-1009" || since.elapsed() > PATIENCE {
            return code;
        }
    }
}

#[test]
fn one_damaged_row_silences_nobody_else() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let damaged = Confirmation::fresh();
    assert_eq!(daemon.code(&damaged), "1000");
    daemon.stop();
    altering(&site.state_dir().join("tilld.db"))
        .execute("UPDATE collection SET phone = 'none'", [])
        .unwrap();
    let daemon = site.start();
    assert_eq!(daemon.code(&damaged), "-1009");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    assert_eq!(daemon.code(&damaged), "-1009");
    let listed = site.tilld(&["list"]);
    assert_eq!(listed.status.code(), Some(65));
    let words = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(words.contains("collection 1 is damaged"), "{words}");
    assert_eq!(site.tilld(&["verify"]).status.code(), Some(65));
}

#[test]
fn a_database_that_another_program_has_locked_is_waited_for() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let other = database(&site);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let confirmation = Confirmation::fresh();
    assert_eq!(daemon.code(&confirmation), "-1009");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(persist(&daemon, &confirmation), "1000");
}

#[test]
fn what_an_earlier_run_left_is_answered_from_only_when_it_is_recovered() {
    let site = Setup::live().prepare();
    let mut daemon = site.start();
    let reader = database(&site);
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM collection", [], |_| Ok(())).unwrap();
    let confirmation = Confirmation::fresh();
    assert_eq!(daemon.code(&confirmation), "1000");
    daemon.kill();
    let daemon = site.start();
    assert_eq!(daemon.code(&confirmation), "-1009");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(persist(&daemon, &confirmation), "-1015");
}

/// Whether the daemon has a lock on its database, by which other programs know of it.
fn holds_its_database(daemon: &Daemon, site: &Site) -> bool {
    let inode = fs::metadata(site.state_dir().join("tilld.db")).expect("a database").ino();
    let locks = fs::read_to_string("/proc/locks").expect("Linux tells its locks");
    let (pid, file) = (format!(" {} ", daemon.pid()), format!(":{inode} "));
    locks
        .lines()
        .any(|line| line.contains(" POSIX ") && line.contains(&pid) && line.contains(&file))
}

#[test]
fn the_daemon_s_own_readers_do_not_cost_it_the_lock_on_its_database() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    // By now it has opened the database beside its writer, to count; and it checks it.
    let status = site.tilld(&["status"]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let has_checked = || {
        let status = site.tilld(&["status", "--output", "json"]);
        let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
        status["last_check"].is_object()
    };
    while !has_checked() {}
    // Without it another program that closes the database last would remove the WAL.
    assert!(holds_its_database(&daemon, &site));
}
