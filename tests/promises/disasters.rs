//! Processes die, machines are restored and rows are tampered with: what a branch answered 1000 is
//! at head office once all the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use crate::support::fleet::{
    BRANCHES, Branch, MANILA, Office, altering, assert_same_books, assert_verified, database,
    number,
};
use crate::support::state::DATABASE;
use crate::support::wan::{Line, Wan};
use crate::support::{Confirmation, JSON, PATH, Till};

const TILLS: usize = 6;

/// Tills that post side by side, over a line of their own whose end stays where it is when the
/// branch comes back elsewhere.
struct Load {
    lan: Wan,
    next: AtomicU32,
    answered: AtomicUsize,
    is_over: AtomicBool,
    /// Receipts answered 1000 or -1015, by contract.
    told: Mutex<BTreeMap<String, String>>,
}

impl Load {
    fn new() -> Load {
        Load {
            lan: Wan::new(),
            next: AtomicU32::new(0),
            answered: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }

    /// One till: what has no answer is posted again until it has one.
    fn post(&self, tls: &std::sync::Arc<rustls::ClientConfig>) {
        let mut till: Option<Till> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let amount = format!("{}.{:02}", 1 + number / 100, number % 100);
            let confirmation = Confirmation::fresh().by_till().with("amount", amount);
            loop {
                let open = till.take().or_else(|| Till::connect(self.lan.address(), tls).ok());
                let Some(mut open) = open else { continue };
                let body = confirmation.text();
                let Ok(answer) = open.try_post(PATH, JSON, &[], body.as_bytes()) else { continue };
                till = Some(open);
                let code = answer.code();
                if code == "1000" || code == "-1015" {
                    break;
                }
                assert_eq!(code, "-1009");
            }
            let (contract, receipt) =
                (confirmation.get("contractNumber"), confirmation.get("receiptNumber"));
            self.told.lock().unwrap().insert(contract, receipt);
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until so many more were answered.
    fn await_answers(&self, more: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) < before + more {
            thread::yield_now();
        }
    }
}

/// Kills of one daemon, of the other, and of both, while tills post.
#[test]
fn killed_again_and_again_under_load_branch_and_head_office_end_with_the_same_books() {
    const ROUNDS: usize = 9;
    let mut office = Office::open();
    let mut branch = Branch::of(&office, MANILA).started();
    let load = Load::new();
    load.lan.lead_to(branch.daemon().address());
    let tls = branch.daemon().tls().clone();
    thread::scope(|scope| {
        for _ in 0..TILLS {
            scope.spawn(|| load.post(&tls));
        }
        for round in 0..ROUNDS {
            load.await_answers(20 + round * 37 % 90);
            let (kills_office, kills_branch) = (round % 3 != 0, round % 3 != 1);
            if kills_office {
                office.kill();
            }
            if kills_branch {
                branch.kill();
                branch.start();
                load.lan.lead_to(branch.daemon().address());
            }
            load.await_answers(20);
            if kills_office {
                office.start();
            }
        }
        load.await_answers(20);
        load.is_over.store(true, Ordering::Relaxed);
    });
    assert_same_books(&office.site, &[&branch]);
    let told = load.told.into_inner().unwrap();
    let rows = office.site.all();
    let arrived: BTreeMap<&str, &str> = rows
        .iter()
        .map(|row| (row["contract"].as_str().unwrap(), row["receipt"].as_str().unwrap()))
        .collect();
    for (contract, receipt) in &told {
        assert_eq!(arrived.get(contract.as_str()), Some(&receipt.as_str()), "{contract}");
    }
    println!("{} confirmed, {} at head office", told.len(), rows.len());
    let sql = "SELECT sum(already_there) FROM delivery";
    assert_eq!(number(&branch.site, sql), 0, "its own tries were taken for another's");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn what_a_head_office_lost_that_was_restored_from_a_backup_comes_again() {
    for is_branch_killed_meanwhile in [false, true] {
        let mut office = Office::open();
        let mut branches = BRANCHES.map(|name| Branch::of(&office, name).started());
        for branch in &branches {
            branch.collect(200);
            branch.await_empty_outbox();
        }
        office.stop();
        let backup = office.site.path().join("backup");
        copy(&office.site.state_dir(), &backup);
        office.start();
        for branch in &branches {
            branch.collect(2500);
            branch.await_empty_outbox();
        }
        let lost = office.site.all().len();
        assert_eq!(lost, 5400);
        office.stop();
        fs::remove_dir_all(office.site.state_dir()).unwrap();
        fs::rename(&backup, office.site.state_dir()).unwrap();
        office.start();
        assert_eq!(office.site.all().len(), 400, "restored from yesterday");
        for branch in &branches {
            branch.collect(1);
        }
        if is_branch_killed_meanwhile {
            for branch in &mut branches {
                branch.daemon().await_line("head office has less of this branch than it had");
                branch.kill();
                branch.start();
            }
        }
        let complete = |branch: &Branch| {
            let sql = format!("SELECT count(*) FROM collection WHERE branch = '{}'", branch.name);
            office.await_count(&sql, |count| count == 2701);
        };
        for branch in &branches {
            complete(branch);
        }
        assert_same_books(&office.site, &[&branches[0], &branches[1]]);
        for branch in &branches {
            branch.await_count("SELECT have FROM store", |have| have == 2701);
            let sql = "SELECT sum(already_there) FROM delivery";
            assert_eq!(number(&branch.site, sql), 0, "its own tries were taken for another's");
        }
    }
}

#[test]
fn a_branch_rebuilt_from_its_tape_has_a_new_epoch_and_head_office_all_of_it_once() {
    let office = Office::open();
    let mut branch = Branch::of(&office, MANILA).started();
    branch.collect(300);
    branch.await_empty_outbox();
    office.wan.set(Line::Cut);
    branch.collect(50);
    branch.stop();
    let epoch = |branch: &Branch| -> String {
        database(&branch.site)
            .query_row("SELECT epoch FROM birth ORDER BY line DESC", [], |row| row.get(0))
            .unwrap()
    };
    let old = epoch(&branch);
    let rebuilt = branch.site.tilld(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let new = epoch(&branch);
    assert_ne!(old, new);
    assert_eq!(number(&branch.site, "SELECT count(*) FROM outbox"), 50);
    office.wan.set(Line::Up);
    branch.start();
    let sql =
        format!("SELECT coalesce(max(last), 0) FROM relayed WHERE epoch = '{new}' AND first = 1");
    office.await_count(&sql, |have| have == 350);
    assert_same_books(&office.site, &[&branch]);
    assert_eq!(office.site.all().len(), 350);
    let sql = "SELECT sum(already_there) FROM delivery";
    assert_eq!(number(&branch.site, sql), 0, "its own tries were taken for another's");
}

/// As after the image of a disk was laid back.
#[test]
fn a_branch_that_goes_on_from_its_own_past_is_told_of_until_it_has_an_epoch_of_its_own() {
    let office = Office::open();
    let mut branch = Branch::of(&office, MANILA).started();
    branch.collect(3);
    branch.await_empty_outbox();
    branch.stop();
    let past = branch.site.path().join("past");
    copy(&branch.site.state_dir(), &past);
    branch.start();
    branch.collect(5);
    branch.await_empty_outbox();
    branch.stop();
    fs::remove_dir_all(branch.site.state_dir()).unwrap();
    fs::rename(&past, branch.site.state_dir()).unwrap();
    branch.start();
    branch.collect(1);
    branch.await_empty_outbox();
    assert_eq!(office.site.all().len(), 9);
    let warning = "this database is a copy of an older one";
    let status = |branch: &Branch| {
        let told = branch.site.tilld(&["status"]);
        (told.status.code(), String::from_utf8(told.stdout).unwrap())
    };
    let (code, told) = status(&branch);
    assert!(code == Some(6) && told.contains(warning), "{code:?}: {told}");
    branch.stop();
    let rebuilt = branch.site.tilld(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    branch.start();
    branch.collect(1);
    branch.await_empty_outbox();
    let (_, told) = status(&branch);
    assert!(!told.contains(warning), "{told}");
    assert_eq!(office.site.all().len(), 10);
}

/// Somebody with rights on the machine changes an amount before it is sent.
#[test]
fn a_row_altered_in_the_database_is_never_sent_and_is_parked_and_named() {
    let office = Office::open();
    office.wan.set(Line::Cut);
    let mut branch = Branch::of(&office, MANILA).started();
    let confirmations = branch.collect(10);
    branch.stop();
    let contract = confirmations[4].get("contractNumber");
    let sql = "UPDATE collection SET amount = 1 WHERE contract = ?1";
    altering(&branch.site.state_dir().join(DATABASE)).execute(sql, [&contract]).unwrap();
    office.wan.set(Line::Up);
    branch.start();
    let line = branch.daemon().await_line("is damaged and was not sent to head office");
    assert!(line.contains("collection 5 "), "{line}");
    branch.await_empty_outbox();
    let arrived = office.site.all();
    assert_eq!(arrived.len(), 9);
    assert!(arrived.iter().all(|row| row["contract"] != contract.as_str()));
    let story = branch.story(&contract);
    assert_eq!(story["head_office"], "parked", "{story}");
    assert_eq!(story["deliveries"][0]["fate"], "damaged", "{story}");
    assert_verified(&office.site);
    let verified = branch.site.verify();
    assert_eq!(verified.code, Some(65), "{verified:?}");
    assert!(verified.differences.iter().any(|text| text.contains(&contract)), "{verified:?}");
}

#[test]
fn a_row_whose_collection_is_gone_holds_up_no_other() {
    let office = Office::open();
    office.wan.set(Line::Cut);
    let mut branch = Branch::of(&office, MANILA).started();
    branch.collect(5);
    branch.stop();
    let lost = "PRAGMA foreign_keys = OFF; DELETE FROM collection WHERE sequence = 2";
    altering(&branch.site.state_dir().join(DATABASE)).execute_batch(lost).unwrap();
    office.wan.set(Line::Up);
    branch.start();
    branch.collect(3);
    branch.await_empty_outbox();
    assert_eq!(office.site.all().len(), 7);
    assert_verified(&office.site);
    assert_eq!(branch.site.verify().code, Some(65));
}
