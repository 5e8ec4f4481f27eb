//! A disk that fills up while tills confirm, and is freed again.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::rounds::Rounds;
use crate::support::fleet::{Branch, MANILA, Office, assert_same_books};
use crate::support::wan::Line;
use crate::support::{Chance, Setup, Site, eventually};

const DISK_MEBIBYTES: u64 = 32;
const RESERVE: &str = "6 MiB";

const CLIENTS: usize = 8;

/// Answers that are waited for, while there is room and while there is none.
const ANSWERS: usize = 20;

const KIBIBYTE: usize = 1024;

/// What else lies on the disk and grows: somebody's films, a log, a download.
struct Ballast(PathBuf);

impl Ballast {
    /// Fills the disk and leaves so many KiB free.
    fn fill(state_dir: &Path, left: usize) -> Ballast {
        let ballast = Ballast(state_dir.join("ballast"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&ballast.0).unwrap();
        for size in [256 * KIBIBYTE, 4 * KIBIBYTE, KIBIBYTE] {
            while file.write_all(&vec![0xff; size]).is_ok() {}
        }
        file.sync_all().expect("a disk that is only full");
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub((left * KIBIBYTE) as u64)).unwrap();
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What `tilld status` says and exits with.
fn status(site: &Site) -> (Option<i32>, String) {
    let output = site.tilld(&["status"]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Without a reserve a confirmation meets the full disk itself.
pub fn setup_without_reserve() -> Setup {
    Setup { disk_reserve: "0 MiB", ..Setup::live() }
}

/// Fills the disk of a site to the last byte between confirmations, and frees it. Gives what is
/// wrong after a restart.
pub fn wrong_after_a_full_disk(site: &Site) -> Vec<String> {
    let image = site.path().join("image");
    let _disk = Disk::made(&image, &site.state_dir(), DISK_MEBIBYTES);
    let ledger = Ledger::begin(site.path());
    let daemon = site.start();
    let confirm = |answers: usize| {
        ledger.clients(CLIENTS, daemon.address(), daemon.tls(), |told| {
            assert_eq!(told.iter().take(answers).count(), answers, "the daemon went away");
        });
    };
    confirm(ANSWERS);
    let ballast = Ballast::fill(&site.state_dir(), 0);
    // More than what has a place on the disk already takes.
    confirm(50 * ANSWERS);
    drop(ballast);
    confirm(ANSWERS);
    daemon.stop();
    let daemon = site.start();
    let mut wrong = ledger.wrong_in_books(site);
    wrong.extend(ledger.wrong_when_repeated(&daemon));
    daemon.stop();
    wrong
}

#[test]
fn what_meets_a_full_disk_without_a_reserve_is_answered_only_if_it_stands() {
    let wrong = wrong_after_a_full_disk(&setup_without_reserve().prepare());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_disk_filled_and_freed_20_times_is_minus_1009_while_full_and_goes_on_by_itself() {
    let office = Office::open();
    let setup = Setup { disk_reserve: RESERVE, ..Setup::live() };
    let mut branch = Branch::with(MANILA, &setup, &office.way());
    let image = branch.site.path().join("image");
    let _disk = Disk::made(&image, &branch.site.state_dir(), DISK_MEBIBYTES);
    let ledger = Ledger::begin(branch.site.path());
    let mut chance = Chance::new();
    branch.start();
    let (address, tls) = (branch.daemon().address(), branch.daemon().tls().clone());
    let until_recorded = || {
        let seen = ledger.clients(CLIENTS, address, &tls, |told| {
            told.iter().filter(|code| code == "1000").take(ANSWERS).count()
        });
        assert_eq!(seen, ANSWERS, "the daemon went away");
    };
    let while_full = || {
        let codes: Vec<String> = ledger.clients(CLIENTS, address, &tls, |told| {
            // What is there already is found without room.
            told.iter().filter(|code| code != "-1015").take(ANSWERS).collect()
        });
        assert_eq!(codes, ["-1009"; ANSWERS]);
    };
    for round in Rounds::of("full disks", 20, 60) {
        office.wan.set(Line::Cut);
        until_recorded();
        // Below the reserve; every second time to the last byte.
        let left = if round % 2 == 0 { 0 } else { 1024 + chance.below(4096) };
        let ballast = Ballast::fill(&branch.site.state_dir(), left);
        while_full();
        let (code, said) = status(&branch.site);
        assert!(code == Some(6) && said.contains("-1009"), "{code:?} {said}");
        office.wan.set(Line::Up);
        if left > 0 {
            branch.await_empty_outbox();
            while_full();
        }
        drop(ballast);
        until_recorded();
        eventually(|| status(&branch.site).0 == Some(0));
        let wrong = ledger.wrong_in_books(&branch.site);
        assert!(wrong.is_empty(), "round {round}: {wrong:#?}");
    }
    let wrong = ledger.wrong_when_repeated(branch.daemon());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_same_books(&office.site, &[&branch]);
    branch.stop();
}
