//! What else happens in a back room: the clock jumps, the disk hangs, files cannot be opened any
//! more, and somebody leaves a program open that reads the database.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use chrono::TimeDelta;
use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tilld::system::clock::monotonic;

use crate::ledger::{Ledger, contract, numbered};
use crate::support::clock::Clock;
use crate::support::fleet::{Branch, MANILA, Office, assert_same_books};
use crate::support::state::{DATABASE, WAL};
use crate::support::{Daemon, Setup, Site, eventually, received};

const CLIENTS: usize = 16;

/// What the unit says (`WatchdogSec`).
const WATCHDOG: Duration = Duration::from_secs(90);

/// How long the disk hangs.
const STALL: Duration = Duration::from_secs(30);

/// So many tills do not wait for a disk that hangs.
const IMPATIENT_MAX: usize = 2000;

/// What a daemon may use that nobody has to wait for, in KiB. A build with checks takes more.
const MEMORY_KIB_MAX: u64 = 64 * 1024;

const WAL_BYTES_MAX: u64 = 64 << 20;

/// Sends until so many were answered 1000.
fn collect(ledger: &Ledger, daemon: &Daemon, count: usize) {
    let seen = ledger.clients(CLIENTS, daemon.address(), daemon.tls(), |told| {
        told.iter().filter(|code| code == "1000").take(count).count()
    });
    assert_eq!(seen, count, "the daemon went away");
}

fn assert_kept(ledger: &Ledger, site: &Site) {
    let wrong = ledger.wrong_in_books(site);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn clocks_that_jump_ten_years_either_way_under_load_lose_and_double_nothing() {
    let office = Office::open();
    let mut branch = Branch::of(&office, MANILA);
    let ledger = Ledger::begin(branch.site.path());
    let clock = Clock::of(&branch.site);
    for life in [0, -3652, 3652] {
        clock.set(TimeDelta::days(life));
        branch.start_by(clock.wrapper());
        for jump in [3652, -3652, 0, 7304, life] {
            ledger.clients(CLIENTS, branch.daemon().address(), branch.daemon().tls(), |told| {
                let recorded = || told.iter().filter(|code| code == "1000").take(200).count();
                assert_eq!(recorded(), 200, "the daemon went away");
                clock.set(TimeDelta::days(jump));
                assert_eq!(recorded(), 200, "{life}, {jump}");
            });
        }
        branch.kill();
    }
    branch.start();
    assert_kept(&ledger, &branch.site);
    assert_eq!(ledger.entries().refused, [], "a clock is no reason to refuse cash");
    let wrong = ledger.wrong_when_repeated(branch.daemon());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_same_books(&office.site, &[&branch]);
    branch.stop();
}

/// Bytes that a process has used at most, in KiB.
fn peak_memory_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_disk_that_hangs_for_30_seconds_costs_neither_the_process_nor_memory_nor_a_confirmation() {
    let site = Setup::live().prepare();
    site.start().stop();
    let path = site.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(WATCHDOG)).unwrap();
    let mut strace = Command::new("strace");
    strace.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let delay = format!("inject=fdatasync:delay_enter={}:when=20", STALL.as_micros());
    // The tracer steps aside (-D): the child is the daemon itself.
    strace.args(["-D", "-f", "-qq", "-e", "trace=fdatasync", "-e", &delay, "-o", "/dev/null"]);
    let watching = thread::spawn(move || longest_silence(&systemd));
    let daemon = Daemon::start_by(&site, site.wrapped(strace));
    let ledger = Ledger::begin(site.path());
    let since = monotonic();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| give_up_again_and_again(&ledger, &daemon, &is_over));
        collect(&ledger, &daemon, 2000);
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(since.elapsed() >= STALL, "the disk never hung");
    let memory = peak_memory_kib(&daemon);
    assert!(memory <= MEMORY_KIB_MAX, "{memory} KiB");
    daemon.stop();
    let silence = watching.join().unwrap();
    assert!(silence < WATCHDOG, "systemd would have killed it after {silence:?}");
    assert_kept(&ledger, &site);
    assert_eq!(ledger.entries().refused, []);
}

/// How long systemd heard nothing at the most, until it is told that the daemon ends.
fn longest_silence(systemd: &UnixDatagram) -> Duration {
    let mut heard_at = monotonic();
    let mut silences = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let length = received(systemd, &mut bytes).expect("a word before systemd would kill it");
        let words = String::from_utf8_lossy(&bytes[..length]);
        if words.contains("STOPPING=1") {
            return silences.into_iter().max().expect("a sign of life");
        }
        if words.contains("WATCHDOG=1") {
            silences.push(heard_at.elapsed());
            heard_at = monotonic();
        }
    }
}

/// Tills that send a confirmation and are gone before its answer, one after the other.
fn give_up_again_and_again(ledger: &Ledger, daemon: &Daemon, is_over: &AtomicBool) {
    for _ in 0..IMPATIENT_MAX {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        ledger.send_and_leave(daemon.address(), daemon.tls());
    }
}

/// `tilld serve` from a disk that cannot read the tape's first file any more.
fn with_bad_sector(site: &Site) -> Command {
    let files = fs::read_dir(site.state_dir().join("tape")).unwrap();
    let file = files.map(|file| file.unwrap().path()).min().expect("a file");
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"]).arg(file);
    strace.args(["-e", "trace=read,pread64", "-e", "inject=read,pread64:error=EIO"]);
    site.wrapped(strace)
}

#[test]
fn a_tape_that_cannot_be_read_any_more_is_named_and_keeps_nobody_from_confirming() {
    let site = Setup::live().prepare();
    let ledger = Ledger::begin(site.path());
    let daemon = site.start();
    collect(&ledger, &daemon, 20);
    daemon.stop();
    let mut command = with_bad_sector(&site);
    for _ in 0..2 {
        let daemon = Daemon::start_by(&site, command);
        daemon.await_line("cannot be read");
        let wrong = ledger.wrong_when_repeated(&daemon);
        assert!(wrong.is_empty(), "{wrong:#?}");
        collect(&ledger, &daemon, 20);
        daemon.stop();
        // The disk does not get better by itself.
        command = with_bad_sector(&site);
    }
    let told: BTreeSet<String> = ledger.entries().told.into_iter().map(contract).collect();
    let rows = site.all();
    let there: BTreeSet<String> =
        rows.iter().map(|row| row["contract"].as_str().unwrap().to_owned()).collect();
    assert!(told.is_subset(&there) && there.len() == rows.len());
}

/// Limits how many files the daemon may have open.
fn limit_descriptors(daemon: &Daemon, count: Option<u64>) {
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: count.or(maximum), maximum };
    prlimit(pid, Resource::Nofile, limit).expect("a limit");
}

#[test]
fn without_a_free_file_descriptor_those_who_are_connected_go_on_and_when_one_is_free_all_do() {
    let office = Office::open();
    let branch = Branch::of(&office, MANILA).started();
    let ledger = Ledger::begin(branch.site.path());
    let daemon = branch.daemon();
    collect(&ledger, daemon, 200);
    branch.await_empty_outbox();
    for _ in 0..3 {
        let (sender, waited) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            ledger.clients(CLIENTS, daemon.address(), daemon.tls(), |told| {
                assert_eq!(told.iter().take(CLIENTS).count(), CLIENTS);
                limit_descriptors(daemon, Some(0));
                // Somebody who comes now must wait, and those who are there do not.
                let late = numbered(ledger.next());
                scope.spawn(move || sender.send(daemon.code(&late)));
                assert_eq!(told.iter().take(1000).count(), 1000, "the daemon went away");
                limit_descriptors(daemon, None);
            });
            assert!(waited.recv().is_ok_and(|code| code == "1000"));
        });
    }
    assert_eq!(ledger.entries().refused, [], "those who were connected had to wait");
    let status = branch.site.tilld(&["sync", "wait", "--timeout", "60 s"]);
    assert!(status.status.success(), "{status:?}");
    assert_same_books(&office.site, &[&branch]);
}

fn wal_bytes(site: &Site) -> u64 {
    fs::metadata(site.state_dir().join(WAL)).expect("a WAL").len()
}

/// Sends for a day of the branch's clock, and looks at the WAL each hour. Gives its length in bytes
/// at most.
fn simulate_a_day(site: &Site, daemon: &Daemon, clock: &Clock, ledger: &Ledger) -> u64 {
    let hours = (0..24).map(|hour| {
        clock.set(TimeDelta::hours(hour));
        collect(ledger, daemon, 500);
        wal_bytes(site)
    });
    hours.max().expect("a day has hours")
}

#[test]
fn a_leaked_reader_does_not_make_the_wal_grow_beyond_64_mib_in_a_day() {
    let site = Setup::live().prepare();
    let clock = Clock::of(&site);
    let daemon = Daemon::start_by(&site, site.wrapped(clock.wrapper()));
    let ledger = Ledger::begin(site.path());
    collect(&ledger, &daemon, 2000);
    // As `tilld list | less` that somebody left open in the evening: nobody takes its lines.
    let mut list = site.command(&["list", "--limit", "1000000", "--output", "json"]);
    let mut leaked = list.stdout(Stdio::piped()).spawn().expect("tilld can be run");
    let mut lines = leaked.stdout.take().expect("a pipe");
    lines.read_exact(&mut [0; 100]).expect("the first of what is listed");
    let peak = simulate_a_day(&site, &daemon, &clock, &ledger);
    assert!(leaked.try_wait().unwrap().is_none(), "it was not open all day");
    leaked.kill().unwrap();
    leaked.wait().unwrap();
    assert!(peak <= WAL_BYTES_MAX, "{peak} bytes");

    // Another program that does it wrong is named, and when it is gone all is well by itself.
    let other = Connection::open(site.state_dir().join(DATABASE)).unwrap();
    other.execute_batch("BEGIN").unwrap();
    other.query_row("SELECT count(*) FROM collection", [], |_| Ok(())).unwrap();
    let grown = simulate_a_day(&site, &daemon, &clock, &ledger);
    println!("WAL: {peak} bytes with a reader of our own, {grown} with another");
    assert!(grown > WAL_BYTES_MAX, "{grown} bytes: this day is too quiet to show anything");
    let status = || String::from_utf8(site.tilld(&["status"]).stdout).unwrap();
    eventually(|| status().contains("keeps an old state of tilld.db open"));
    other.execute_batch("COMMIT").unwrap();
    eventually(|| wal_bytes(&site) <= WAL_BYTES_MAX);
    eventually(|| !status().contains("an old state"));
    drop(other);
    assert_kept(&ledger, &site);
    daemon.stop();
}
