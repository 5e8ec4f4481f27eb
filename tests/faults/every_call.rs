//! SIGKILL, EIO and ENOSPC at every single call by which the writer changes the disk between the
//! birth of its database and a clean stop, each followed by a restart.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use chrono::TimeDelta;

use crate::calls::{self, Call, Fault};
use crate::ledger::{Ledger, centavos, contract, numbered};
use crate::rounds::{Rounds, is_torture};
use crate::support::clock::Clock;
use crate::support::fleet::{Branch, MANILA, Office, database};
use crate::support::{Chance, Daemon, JSON, PATH, Site, State, Till};

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Error("EIO"), Fault::Error("ENOSPC")];

/// The build under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tilld");

/// Numbers of confirmations that belong to one case.
const NUMBERS: u32 = 100;

/// So long may a daemon take that is to end.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// What `tilld sync wait` exits with when it gives up.
const TIMED_OUT: i32 = 75;

/// Cases side by side: each waits for disks and processes most of the time.
const WORKERS: usize = 2;

/// One second crash is tried for so many first faults, unless there is time for all.
const SECOND_CRASHES: usize = 16;

/// One site with one fault, and who sends to it.
struct Case<'a> {
    office: &'a Office,
    branch: Branch,
    clock: Clock,
    ledger: Ledger,
    /// The number of its first confirmation.
    first: u32,
    wrong: Vec<String>,
    /// Commands that a fault may make fail.
    failed_commands: usize,
}

impl<'a> Case<'a> {
    /// Of this program.
    fn new(office: &'a Office, program: &Path, number: usize) -> Case<'a> {
        let mut branch = Branch::of(office, MANILA);
        program.clone_into(&mut branch.site.program);
        let clock = Clock::of(&branch.site);
        let first = u32::try_from(number).expect("few cases") * NUMBERS + 1;
        let ledger = Ledger::begin_at(branch.site.path(), first);
        Case { office, branch, clock, ledger, first, wrong: Vec::new(), failed_commands: 0 }
    }

    fn site(&self) -> &Site {
        &self.branch.site
    }

    /// The whole script, or as much of it as the daemon lives through. After a failed sync it must
    /// not promise anything any more.
    fn live(&mut self, command: std::process::Command, is_sync: bool) {
        let Ok(mut daemon) = Daemon::try_start_by(self.site(), command) else { return };
        let ended = self.script(&daemon, is_sync).is_none();
        let has_failed = is_sync && calls::is_injected(self.site());
        if !ended {
            daemon.sigterm();
        }
        let status = daemon.wait(END_TIME_MAX);
        if has_failed && status.code() != Some(1) {
            self.wrong.push(format!("it ended with {status} after a failed sync"));
        }
    }

    /// `None` when the daemon ended before.
    fn script(&mut self, daemon: &Daemon, is_sync: bool) -> Option<()> {
        let mut till = Till::connect(daemon.address(), daemon.tls()).ok()?;
        for _ in 0..2 {
            self.confirm(&mut till, is_sync)?;
        }
        self.clock.set(TimeDelta::days(1));
        let last = self.confirm(&mut till, is_sync)?;
        for command in [&["reload"] as &[&str], &["backup", "create"]] {
            self.failed_commands += usize::from(!self.site().tilld(command).status.success());
        }
        let refused = numbered(last + NUMBERS / 2).with("amount", "none");
        till.try_post(PATH, JSON, &[], refused.text().as_bytes()).ok()?;
        self.send(&mut till, last, is_sync)?;
        self.confirm(&mut till, is_sync)?;
        Some(())
    }

    /// A new one, which reaches head office if it was recorded.
    fn confirm(&mut self, till: &mut Till, is_sync: bool) -> Option<u32> {
        let number = self.ledger.next();
        self.send(till, number, is_sync)?;
        self.await_delivery()?;
        Some(number)
    }

    fn send(&mut self, till: &mut Till, number: u32, is_sync: bool) -> Option<()> {
        let has_failed = is_sync && calls::is_injected(self.site());
        let code = self.ledger.send(till, number)?;
        if has_failed && code != "-1009" {
            self.wrong.push(format!("{number} was answered {code} after a failed sync"));
        }
        Some(())
    }

    /// Waits until everything is sent. `None` when the daemon ended meanwhile.
    fn await_delivery(&mut self) -> Option<()> {
        let waited = self.site().tilld(&["sync", "wait", "--timeout", "20 s"]);
        if waited.status.code() == Some(TIMED_OUT) {
            self.wrong.push("something is never sent".to_owned());
        }
        waited.status.success().then_some(())
    }

    /// Starts without a fault and holds everything to everybody's ledger.
    fn recover(&mut self) {
        let Some(daemon) = self.restart() else { return };
        self.hold(&daemon);
        let mut till = daemon.till();
        // Who had no answer asks again; and life goes on.
        let new = self.ledger.next();
        for number in self.ledger.entries().sent.into_iter().chain([new]) {
            let code = self.ledger.send(&mut till, number);
            if !matches!(code.as_deref(), Some("1000" | "-1015")) {
                self.wrong.push(format!("{number} is answered {code:?} after the restart"));
            }
        }
        if self.await_delivery().is_none() {
            self.wrong.push("it ends again after the restart".to_owned());
        }
        self.wrong.extend(self.ledger.wrong_in_books(self.site()));
        self.wrong.extend(self.wrong_at_head_office());
        drop(till);
        daemon.stop();
        let verified = self.site().verify();
        if verified.code != Some(0) {
            self.wrong.push(format!("{verified:?}"));
        }
    }

    /// A start without a fault.
    fn restart(&mut self) -> Option<Daemon> {
        match Daemon::try_start(self.site()) {
            Ok(daemon) => Some(daemon),
            Err((code, said)) => {
                self.wrong.push(format!("it does not start: {code:?} {said}"));
                None
            }
        }
    }

    /// Holds books and answers to the ledger.
    fn hold(&mut self, daemon: &Daemon) {
        self.wrong.extend(self.ledger.wrong_in_books(self.site()));
        self.wrong.extend(self.ledger.wrong_when_repeated(daemon));
    }

    /// Everything that was told is at head office once, and nothing else of this case.
    fn wrong_at_head_office(&self) -> Vec<String> {
        let told = self.ledger.entries().told;
        let books = database(&self.office.site);
        let sql = "SELECT count(*), count(*) FILTER (WHERE amount = ?2)
                   FROM collection WHERE contract = ?1";
        let counts = (self.first..self.first + NUMBERS).map(|number| {
            let contract = contract(number);
            let found: (i64, i64) = books
                .query_row(sql, (&contract, centavos(number)), |row| Ok((row.get(0)?, row.get(1)?)))
                .expect("counts");
            let wanted = if told.contains(&number) { (1, 1) } else { (0, 0) };
            (contract, wanted, found)
        });
        let others = counts.filter(|(_, wanted, found)| found != wanted);
        let complaints = others.map(|(contract, wanted, found)| {
            format!("{contract} is at head office {found:?} times, not {wanted:?}: all, and right")
        });
        complaints.collect()
    }

    /// Another crash at a call of the recovery from the one before: at one that chance picks, or
    /// at each. Gives how many there were, and how many of them came too late: what goes to head
    /// office meanwhile is not the same each time.
    fn crash_again(&mut self, chance: &mut Chance) -> (usize, usize) {
        let crashed = State::of(self.site());
        self.recovery(calls::recorded(self.site(), &self.clock));
        let all = calls::calls_of(self.site());
        let picked = chance.sample((0..all.len()).collect(), 1);
        let mut not_reached = 0;
        for call in &picked {
            crashed.put(self.site());
            let command = calls::with_fault(self.site(), &self.clock, &all[*call], Fault::Kill);
            self.recovery(command);
            not_reached += usize::from(!calls::was_reached(self.site()));
            let Some(daemon) = self.restart() else { break };
            self.hold(&daemon);
            daemon.stop();
        }
        (picked.len(), not_reached)
    }

    /// A start and a stop.
    fn recovery(&self, command: std::process::Command) {
        if let Ok(mut daemon) = Daemon::try_start_by(self.site(), command) {
            daemon.sigterm();
            daemon.wait(END_TIME_MAX);
        }
    }
}

/// The calls that the writer makes when nothing goes wrong.
fn all_calls(office: &Office, program: &Path) -> Vec<Call> {
    let mut case = Case::new(office, program, 0);
    let command = calls::recorded(case.site(), &case.clock);
    case.live(command, false);
    let calls = calls::calls_of(case.site());
    case.recover();
    assert!(case.wrong.is_empty(), "{:#?}", case.wrong);
    assert_eq!(case.failed_commands, 0);
    calls
}

/// What is wrong with a program one of whose syncs of the tape fails, at the first where anything
/// is.
pub fn wrong_when_a_sync_of_the_tape_fails(program: &Path) -> Vec<String> {
    let office = Office::open();
    let calls = all_calls(&office, program);
    let syncs = calls.iter().filter(|call| call.is_sync() && call.is_about_tape());
    let mut found = syncs.enumerate().map(|(i, call)| {
        let mut case = Case::new(&office, program, 1 + i);
        let command = calls::with_fault(case.site(), &case.clock, call, Fault::Error("EIO"));
        case.live(command, true);
        case.wrong
    });
    found.find(|wrong| !wrong.is_empty()).unwrap_or_default()
}

#[test]
fn a_commit_is_synced_before_the_tape_tells_of_it_and_the_tape_before_the_next_commit() {
    let (mut is_wal_dirty, mut is_tape_dirty, mut told) = (false, false, 0);
    for call in all_calls(&Office::open(), Path::new(PROGRAM)) {
        match (call.is_about_wal(), call.is_about_tape()) {
            (true, _) => {
                assert!(!is_tape_dirty, "{call:?} while the tape is not synced");
                is_wal_dirty = call.is_write() || is_wal_dirty && !call.is_sync();
            }
            (_, true) => {
                assert!(!is_wal_dirty, "{call:?} while the commit is not synced");
                is_tape_dirty = call.is_write() || is_tape_dirty && !call.is_sync();
                told += usize::from(call.is_write());
            }
            _ => {}
        }
    }
    assert!(!is_wal_dirty && !is_tape_dirty);
    // The birth, four confirmations and what became of each, and a refusal.
    assert!(told >= 10, "{told} writes");
}

#[test]
fn a_line_that_waited_for_the_tape_and_could_not_be_synced_is_not_written_again() {
    let office = Office::open();
    let calls = all_calls(&office, Path::new(PROGRAM));
    let first_sync = calls.iter().find(|call| call.is_sync() && call.is_about_tape()).unwrap();
    let mut case = Case::new(&office, Path::new(PROGRAM), 1);
    case.restart().expect("a start").stop();
    let command = calls::with_fault(case.site(), &case.clock, first_sync, Fault::Error("EIO"));
    let mut daemon = Daemon::try_start_by(case.site(), command).expect("a start");
    let mut till = Till::connect(daemon.address(), daemon.tls()).expect("a connection");
    let (tape, aside) = (first_sync.path(case.site()), case.site().path().join("tape-aside"));
    fs::rename(&tape, &aside).expect("a file of the tape");
    let number = case.ledger.next();
    assert_eq!(case.ledger.send(&mut till, number).as_deref(), Some("-1009"), "it waits");
    fs::rename(&aside, &tape).expect("the same");
    let number = case.ledger.next();
    assert_ne!(case.ledger.send(&mut till, number).as_deref(), Some("1000"));
    assert_eq!(daemon.wait(END_TIME_MAX).code(), Some(1));
    assert!(calls::is_injected(case.site()));
    let writes = calls::calls_of(case.site()).iter().filter(|call| call.is_write()).count();
    assert_eq!(writes, 1, "a second sync may say yes to what the first one lost");
    case.recover();
    assert!(case.wrong.is_empty(), "{:#?}", case.wrong);
}

#[test]
fn a_fault_at_every_call_of_the_writer_loses_and_doubles_nothing() {
    let calls = all_calls(&Office::open(), Path::new(PROGRAM));
    let all = calls.iter().flat_map(|call| FAULTS.map(|fault| (call, fault)));
    let cases: Vec<(&Call, Fault)> = Chance::new().sample(all.collect(), usize::MAX);
    let wrong = Mutex::new(Vec::new());
    let next = Mutex::new(Rounds::of("faults at calls", cases.len(), cases.len()));
    let [done, not_reached, again, not_reached_again] = [const { AtomicUsize::new(0) }; 4];
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let (office, mut chance) = (Office::open(), Chance::new());
                loop {
                    let Some(round) = next.lock().unwrap().next() else { return };
                    let (call, fault) = cases[round];
                    let mut case = Case::new(&office, Path::new(PROGRAM), 1 + round);
                    let command = calls::with_fault(case.site(), &case.clock, call, fault);
                    case.live(command, call.is_sync() && fault != Fault::Kill);
                    done.fetch_add(1, Ordering::Relaxed);
                    if !calls::was_reached(case.site()) {
                        println!("not reached: {fault:?} at {call:?}");
                        not_reached.fetch_add(1, Ordering::Relaxed);
                    }
                    if is_torture() || chance.below(SECOND_CRASHES) == 0 {
                        let (count, too_late) = case.crash_again(&mut chance);
                        again.fetch_add(count, Ordering::Relaxed);
                        not_reached_again.fetch_add(too_late, Ordering::Relaxed);
                    }
                    case.recover();
                    if !case.wrong.is_empty() {
                        let wrongs = (call.clone(), fault, case.wrong);
                        println!("{wrongs:#?}");
                        wrong.lock().unwrap().push(wrongs);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} calls", calls.len());
    // What a recovery sends to head office before it is stopped is not the same each time.
    for (what, count, not_reached, one_in) in
        [("faults", done, not_reached, 20), ("second crashes", again, not_reached_again, 2)]
    {
        let (count, not_reached) = (count.into_inner(), not_reached.into_inner());
        println!("{count} {what}, {not_reached} of them not reached");
        assert!(not_reached * one_in < count, "{not_reached} of {count} {what} were not reached");
    }
}
