//! Two witnesses, database and tape: whatever happens to one of them, every collection that was
//! answered 1000 stands. Here the database, its WAL, the clock and the disk suffer, and the end of
//! the tape as a crash leaves it; `tape_damage` is about the tape itself.

use std::fs::{self, Permissions};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use chrono::TimeDelta;
use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::clock::Clock;
use crate::support::fleet::database;
use crate::support::state::{DATABASE, SHM, WAL};
use crate::support::{Chance, Confirmation, Daemon, JSON, PATH, Setup, Site, State, eventually};

/// Collections that were answered 1000 in each state.
pub const COUNT: u32 = 2000;

/// Refusals that were kept among them.
pub const REFUSALS: u32 = 20;

/// The collections up to this one were recorded before a clean stop: what comes later is behind
/// the mark up to which the witnesses were seen to agree.
pub const MARKED: u32 = 500;

/// Keep-alive connections that confirm side by side.
const TILLS: u32 = 16;

/// So many places of a kind are taken of the WAL unless `TILLD_TORTURE` is set: a case takes half a
/// second, which for all is many hours. The store alone is tried at all of a smaller one: see its
/// own tests. A build with checks takes seconds for each.
const WAL_CASES: usize = if cfg!(debug_assertions) { 4 } else { 24 };

/// So many bytes are flipped in the database, one at a time, unless `TILLD_TORTURE` is set.
const DATABASE_CASES: usize = if cfg!(debug_assertions) { 6 } else { 24 };

/// A confirmation whose amount, contract and receipt all follow from `number`.
pub fn numbered(number: u32) -> Confirmation {
    let amount = format!("{}.{:02}", 1 + number / 100, number % 100);
    Confirmation::numbered(number).raw("amount", amount)
}

/// Confirms these side by side and gives those that were answered something else than `code`.
pub fn others_than(
    code: &str,
    daemon: &Daemon,
    numbers: RangeInclusive<u32>,
) -> Vec<(u32, String)> {
    let tills = thread::scope(|scope| {
        let confirm = |first: u32| {
            let numbers = numbers.clone().skip(first as usize).step_by(TILLS as usize);
            scope.spawn(move || {
                let mut till = daemon.till();
                let answers = numbers.map(|number| {
                    let body = numbered(number).text();
                    (number, till.post(PATH, JSON, &[], body.as_bytes()).code())
                });
                answers.filter(|(_, answered)| answered != code).collect::<Vec<_>>()
            })
        };
        let tills: Vec<_> = (0..TILLS).map(confirm).collect();
        tills.into_iter().map(|till| till.join().unwrap()).collect::<Vec<_>>()
    });
    tills.concat()
}

fn confirm(daemon: &Daemon, numbers: RangeInclusive<u32>) {
    assert_eq!(others_than("1000", daemon, numbers), []);
}

/// The state that a daemon left which was killed after [`COUNT`] collections.
pub fn killed() -> State {
    static KILLED: OnceLock<State> = OnceLock::new();
    let make = || {
        let site = Setup::live().prepare();
        let daemon = site.start();
        confirm(&daemon, 1..=MARKED);
        daemon.stop();
        let mut daemon = site.start();
        // Who reads an old state keeps the WAL from being moved, so that it has all that comes now.
        let reader = database(&site);
        reader.execute_batch("BEGIN; SELECT count(*) FROM store").expect("a read state");
        for refused in 1..=REFUSALS {
            let share = (COUNT - MARKED) / REFUSALS;
            let first = MARKED + 1 + share * (refused - 1);
            confirm(&daemon, first..=first + share - 2);
            let wrong = numbered(COUNT + refused).with("amount", "no amount");
            assert_eq!(daemon.code(&wrong), "2003");
            confirm(&daemon, first + share - 1..=first + share - 1);
        }
        daemon.kill();
        let state = State::of(&site);
        drop(reader);
        state
    };
    KILLED.get_or_init(make).clone()
}

/// The same after a start and a clean stop.
pub fn stopped() -> State {
    static STOPPED: OnceLock<State> = OnceLock::new();
    let make = || {
        let site = killed().site();
        site.start().stop();
        State::of(&site)
    };
    STOPPED.get_or_init(make).clone()
}

/// Both witnesses tell of every collection once, and `verify` finds nothing.
pub fn assert_agreement(site: &Site, case: &str) {
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{case}: {verified:?}");
    let count = u64::from(COUNT);
    assert_eq!((verified.differences.len(), verified.counts), (0, (count, count)), "{case}");
}

/// Every collection that was acknowledged still is, and every refusal is still kept.
pub fn assert_all_stand(site: &Site, daemon: &Daemon, case: &str) {
    assert_eq!(others_than("-1015", daemon, 1..=COUNT), [], "{case}");
    assert_eq!(site.refusals().len(), REFUSALS as usize, "{case}");
}

/// Holds a running daemon to the whole promise, then stops it. Gives its log.
fn hold(site: &Site, daemon: Daemon, case: &str) -> String {
    assert_agreement(site, case);
    assert_all_stand(site, &daemon, case);
    let log = daemon.stop();
    assert_agreement(site, case);
    log
}

/// The same with a daemon that is started on this state.
fn recover(state: &State, case: &str) -> String {
    let site = state.site();
    let daemon = site.start();
    hold(&site, daemon, case)
}

/// Where the frames of the WAL end.
fn frame_ends(wal: &[u8]) -> Vec<usize> {
    const HEADER: usize = 32;
    const FRAME_HEADER: usize = 24;
    let page = u32::from_be_bytes(wal[8..12].try_into().unwrap()) as usize;
    let ends: Vec<usize> = (HEADER..=wal.len()).step_by(FRAME_HEADER + page).collect();
    assert!(ends.len() > 100, "{} frames", ends.len());
    ends
}

/// Flips one bit of a byte.
fn flip(bytes: &mut [u8], at: usize, chance: &mut Chance) {
    bytes[at] ^= 1 << chance.below(8);
}

#[test]
fn a_start_after_sigkill_without_any_damage_has_nothing_to_say() {
    let log = recover(&killed(), "killed");
    assert!(!log.contains("damage") && !log.contains("completed"), "{log}");
    let log = recover(&stopped(), "stopped");
    assert!(!log.contains("damage") && !log.contains("completed"), "{log}");
}

#[test]
fn a_deleted_wal_takes_nothing_with_it() {
    for names in [&[WAL] as &[&str], &[WAL, SHM], &[SHM]] {
        let log = recover(&killed().without(names), &format!("without {names:?}"));
        let lost = names.contains(&WAL);
        let all = format!("in the database: {}\n", COUNT - MARKED + REFUSALS);
        assert_eq!(log.contains(&all), lost, "{log}");
    }
}

#[test]
fn a_wal_that_is_cut_takes_nothing_with_it() {
    let mut chance = Chance::new();
    let state = killed();
    let ends = frame_ends(state.clone().file(WAL));
    let mut cuts = chance.sample(ends.clone(), WAL_CASES);
    for frame in chance.sample((1..ends.len()).collect(), WAL_CASES) {
        cuts.push(ends[frame - 1] + 1 + chance.below(ends[frame] - ends[frame - 1] - 1));
    }
    cuts.extend([0, 1, 31, 32, 33]);
    for cut in cuts {
        let mut state = state.clone();
        state.file(WAL).truncate(cut);
        recover(&state, &format!("WAL cut at byte {cut}"));
    }
}

#[test]
fn a_wal_with_a_flipped_byte_takes_nothing_with_it() {
    let mut chance = Chance::new();
    let state = killed();
    let length = state.clone().file(WAL).len();
    for at in chance.sample((0..length).step_by(97).collect(), 2 * WAL_CASES) {
        let mut state = state.clone();
        flip(state.file(WAL), at, &mut chance);
        recover(&state, &format!("WAL flipped at byte {at}"));
    }
}

#[test]
fn a_lost_database_is_rebuilt_at_start_under_a_new_epoch() {
    let mut emptied = killed();
    emptied.file(DATABASE).clear();
    for (state, case) in [
        (killed().without(&[DATABASE]), "deleted"),
        (killed().without(&[DATABASE, WAL, SHM]), "deleted with its WAL"),
        (stopped().without(&[DATABASE]), "deleted after a clean stop"),
        (emptied, "emptied"),
    ] {
        let site = state.site();
        let daemon = site.start();
        hold(&site, daemon, case);
        let mut after = State::of(&site);
        let epochs = births(after.tape());
        assert_eq!(epochs.len(), 2, "{case}: {epochs:?}");
        assert_ne!(epochs[0], epochs[1], "{case}");
        let aside = usize::from(state.has(WAL));
        assert_eq!(after.names("tilld.db-wal.before-").len(), aside, "{case}: moved aside");
    }
}

/// The epochs of the databases whose birth the tape tells.
fn births(tape: &[u8]) -> Vec<String> {
    let lines = str::from_utf8(tape).unwrap().lines();
    lines
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter(|line| line["what"] == "store")
        .map(|line| line["record"]["epoch"].as_str().expect("an epoch").to_owned())
        .collect()
}

/// As an operator does it: what `verify` or the start calls damaged is rebuilt.
fn recover_with_rebuild(state: &State, case: &str) {
    let site = state.site();
    let daemon = match Daemon::try_start(&site) {
        Ok(daemon) if site.verify().code == Some(0) => daemon,
        Ok(daemon) => {
            assert_eq!(site.verify().code, Some(65), "{case}");
            drop(daemon);
            rebuild(&site, &[], case);
            site.start()
        }
        Err((code, log)) => {
            assert_eq!(code, Some(65), "{case}: {log}");
            assert!(log.contains("tilld rebuild"), "{case}: {log}");
            rebuild(&site, &[], case);
            site.start()
        }
    };
    assert_eq!(daemon.code(&numbered(COUNT + 1)), "1000", "{case}");
    assert_all_stand(&site, &daemon, case);
    daemon.stop();
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{case}: {verified:?}");
    let count = u64::from(COUNT + 1);
    assert_eq!(verified.counts, (count, count), "{case}");
}

pub fn rebuild(site: &Site, options: &[&str], case: &str) {
    let output = site.tilld(&[&["rebuild"], options].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = if options.is_empty() { 0 } else { 65 };
    assert_eq!(output.status.code(), Some(code), "{case}: {errors}");
}

#[test]
fn a_database_with_a_flipped_byte_is_used_only_if_it_does_not_matter_and_can_be_rebuilt() {
    let mut chance = Chance::new();
    for (state, when) in [(stopped(), "a clean stop"), (killed(), "SIGKILL")] {
        let length = state.clone().file(DATABASE).len();
        for at in chance.sample((0..length).collect(), DATABASE_CASES) {
            let mut state = state.clone();
            flip(state.file(DATABASE), at, &mut chance);
            recover_with_rebuild(&state, &format!("byte {at} flipped after {when}"));
        }
    }
}

#[test]
fn a_database_whose_schema_reads_otherwise_by_one_bit_is_named_and_can_be_rebuilt() {
    // SQLite takes each of them, and its own check finds nothing. With the first, no collection
    // could be recorded; with the second, those of some channels; with the third, one would be
    // recorded that no rule allows.
    for (text, damaged) in [
        ("IN ('json', 'encrypted')", "IN ('json'- 'encrypted')"),
        ("BETWEEN 0 AND 99999)", "BETWEEN 0 AND 19999)"),
        ("BETWEEN 1 AND 9999999999)", "BETWEEN 0 AND 9999999999)"),
    ] {
        let mut state = stopped();
        write_over(text, damaged, state.file(DATABASE));
        let (code, log) = Daemon::try_start(&state.site()).err().expect(damaged);
        assert_eq!(code, Some(65), "{damaged}: {log}");
        assert!(log.contains("\"collection\" is not declared as it was made"), "{damaged}: {log}");
        let verified = state.site().verify();
        assert_eq!(verified.code, Some(65), "{damaged}: {verified:?}");
        assert!(verified.differences[0].contains("\"collection\""), "{damaged}: {verified:?}");
        recover_with_rebuild(&state, damaged);
    }
}

#[test]
fn what_sqlite_notes_in_the_database_for_itself_is_no_damage() {
    let site = stopped().site();
    Connection::open(site.state_dir().join(DATABASE)).unwrap().execute_batch("ANALYZE").unwrap();
    assert_eq!(site.start().code(&numbered(COUNT + 1)), "1000");
    assert_eq!(site.verify().code, Some(0));
}

/// Writes over a text wherever it stands: also where SQLite has left a copy that it does not read.
fn write_over(text: &str, damaged: &str, file: &mut [u8]) {
    let stands = |at: &usize| file[*at..].starts_with(text.as_bytes());
    let places: Vec<usize> = (0..file.len()).filter(stands).collect();
    assert_ne!(places, [0; 0], "{text} stands nowhere");
    for at in places {
        file[at..at + text.len()].copy_from_slice(damaged.as_bytes());
    }
}

#[test]
fn a_database_with_a_page_of_noise_or_cut_short_can_be_rebuilt() {
    let mut chance = Chance::new();
    let state = stopped();
    let pages = state.clone().file(DATABASE).len() / 4096;
    for page in chance.sample((0..pages).collect(), DATABASE_CASES / 2) {
        let mut noisy = state.clone();
        for byte in &mut noisy.file(DATABASE)[page * 4096..(page + 1) * 4096] {
            *byte = chance.below(256).to_le_bytes()[0];
        }
        recover_with_rebuild(&noisy, &format!("page {page} overwritten"));
        let mut short = state.clone();
        short.file(DATABASE).truncate(page * 4096 + chance.below(4096));
        recover_with_rebuild(&short, &format!("cut within page {page}"));
    }
}

/// The receipts of an early and of a late collection.
const EARLY: &[u8] = b"R-00000077";
const LATE: &[u8] = b"R-00001977";

/// Where a receipt stands in a database: in its row, behind which the phone number follows, and in
/// the index.
fn places_of(receipt: &[u8], database: &[u8]) -> (Vec<usize>, Vec<usize>) {
    let places = (0..database.len() - 50).filter(|at| database[*at..].starts_with(receipt));
    let phone = b"09270348095";
    let (rows, index): (Vec<usize>, Vec<usize>) =
        places.partition(|at| database[*at..*at + 50].windows(11).any(|bytes| bytes == phone));
    assert!(!rows.is_empty() && !index.is_empty(), "{rows:?}, {index:?}");
    (rows, index)
}

/// The state after a clean stop, with an index that does not find this receipt any more.
fn with_forged_index(receipt: &[u8]) -> State {
    let mut state = stopped();
    let database = state.file(DATABASE);
    let (_, index) = places_of(receipt, database);
    forge(database, &index);
    state
}

/// Makes other receipts of these: `R-00000X77`.
fn forge(database: &mut [u8], places: &[usize]) {
    for at in places {
        database[*at + EARLY.len() - 3] = b'X';
    }
}

#[test]
fn a_row_that_was_altered_with_its_index_is_named_and_the_tape_tells_what_it_was() {
    let mut state = stopped();
    let database = state.file(DATABASE);
    let (rows, index) = places_of(EARLY, database);
    forge(database, &rows);
    forge(database, &index);
    let verified = state.site().verify();
    assert_eq!(verified.code, Some(65), "{verified:?}");
    let named = |text: &String| text.contains("R-00000077") || text.contains("R-00000X77");
    assert!(verified.differences.iter().all(named), "{verified:?}");
    recover_with_rebuild(&state, "altered");
}

#[test]
fn a_row_that_its_index_does_not_find_is_named() {
    let state = with_forged_index(EARLY);
    let verified = state.site().verify();
    assert_eq!(verified.code, Some(65), "{verified:?}");
    let named = verified.differences.iter().any(|text| text.contains("receipt R-00000077"));
    assert!(named, "{verified:?}");
    recover_with_rebuild(&state, "not found");
}

#[test]
fn a_start_whose_index_does_not_find_a_late_collection_ends_before_it_is_recorded_twice() {
    let state = with_forged_index(LATE);
    let Err((code, log)) = Daemon::try_start(&state.site()) else { panic!("it serves") };
    assert_eq!(code, Some(65), "{log}");
    assert!(log.contains("cannot be found by contract and receipt"), "{log}");
    assert!(log.contains("tilld rebuild"), "{log}");
}

#[test]
fn a_late_collection_whose_row_was_altered_is_still_found_as_what_it_was() {
    let mut state = stopped();
    let database = state.file(DATABASE);
    let (rows, _) = places_of(LATE, database);
    forge(database, &rows);
    let site = state.site();
    let daemon = site.start();
    assert_eq!(daemon.code(&numbered(1977)), "-1015");
    assert_eq!(site.verify().code, Some(65));
}

#[test]
fn a_damaged_page_silences_only_those_who_need_it_and_status_warns() {
    const INDEX_LEAF: u8 = 10;
    const PAGE_BYTES: usize = 4096;
    let mut state = stopped();
    let database = state.file(DATABASE);
    let pages_of = |number: &u32| -> Vec<usize> {
        let (_, index) = places_of(format!("R-{number:08}").as_bytes(), database);
        index.iter().map(|at| at - at % PAGE_BYTES).collect()
    };
    let is_in_leaf = |number: &u32| pages_of(number).iter().all(|at| database[*at] == INDEX_LEAF);
    let number = (77..200).find(is_in_leaf).expect("most of them are");
    for page in pages_of(&number) {
        database[page] = 77;
    }
    let site = state.site();
    let daemon = site.start();
    assert_eq!(daemon.code(&numbered(number)), "-1009");
    assert_eq!(daemon.code(&numbered(COUNT + 1)), "1000");
    assert_eq!(daemon.code(&numbered(number)), "-1009");
    let status = site.tilld(&["status"]);
    assert_eq!(status.status.code(), Some(6), "{status:?}");
    assert!(String::from_utf8_lossy(&status.stdout).contains("damage found"), "{status:?}");
    recover_with_rebuild(&state, "a damaged page");
}

#[test]
fn a_clock_that_is_set_back_by_a_year_begins_a_new_file_and_breaks_nothing() {
    let site = killed().site();
    let clock = Clock::of(&site);
    let mut daemon = Daemon::start_by(&site, site.wrapped(clock.wrapper()));
    assert_eq!(daemon.code(&numbered(COUNT + 1)), "1000");
    clock.set(TimeDelta::days(-365));
    assert_eq!(daemon.code(&numbered(COUNT + 2)), "1000");
    clock.set(TimeDelta::zero());
    assert_eq!(daemon.code(&numbered(COUNT + 3)), "1000");
    daemon.kill();
    let files = State::of(&site).tape_files();
    let dates: Vec<&str> = files.iter().map(|name| &name["tape/000001-".len()..]).collect();
    assert!(dates.len() == 3 && dates[1] < dates[0] && dates[2] >= dates[0], "{files:?}");

    for names in [&[] as &[&str], &[WAL], &[DATABASE]] {
        let site = State::of(&site).without(names).site();
        let daemon = site.start();
        assert_eq!(others_than("-1015", &daemon, 1..=COUNT + 3), [], "without {names:?}");
        daemon.stop();
        assert_eq!(site.verify().code, Some(0), "without {names:?}");
    }
}

/// Limits how large a file the daemon may make, as a full or read-only disk would.
pub fn limit_files(daemon: &Daemon, bytes: Option<u64>) {
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("a limit");
}

/// A daemon that is not ended by the signal that goes with such a limit.
pub fn start_ignoring_the_limits_signal(site: &Site) -> Daemon {
    let serve = site.command(&["serve"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    command.arg(serve.get_program()).args(serve.get_args());
    Daemon::start_by(site, command)
}

#[test]
fn while_the_tape_cannot_be_written_new_ones_are_minus_1009_and_repeats_minus_1015() {
    let mut state = killed();
    let tape_length = state.tape().len() as u64;
    for room in [0, 1, 100, 5000] {
        let case = format!("room for {room} bytes");
        let site = state.site();
        let mut daemon = start_ignoring_the_limits_signal(&site);
        limit_files(&daemon, Some(tape_length + room));
        let refused = others_than("1000", &daemon, COUNT + 1..=COUNT + 50);
        assert!(refused.iter().all(|(_, code)| code == "-1009"), "{case}: {refused:?}");
        assert!(refused.len() >= 40, "{case}: {refused:?}");
        assert_all_stand(&site, &daemon, &case);
        let (number, _) = refused[0];
        assert_eq!(daemon.code(&numbered(number)), "-1009", "{case}: a repeat of nothing");
        if room == 100 {
            // The part of a line that stands there now is what a crash leaves.
            daemon.kill();
            daemon = site.start();
        }
        limit_files(&daemon, None);
        for number in COUNT + 1..=COUNT + 50 {
            let code = daemon.code(&numbered(number));
            assert!(code == "1000" || code == "-1015", "{case}: {number}: {code}");
        }
        daemon.stop();
        let site = State::of(&site).without(&[WAL]).site();
        let daemon = site.start();
        assert_eq!(others_than("-1015", &daemon, 1..=COUNT + 50), [], "{case}");
        daemon.stop();
        assert_eq!(site.verify().code, Some(0), "{case}");
    }
}

#[test]
fn while_a_new_days_file_cannot_be_made_new_ones_are_minus_1009_and_repeats_minus_1015() {
    let mut state = killed();
    let today = state.tape_files().remove(0);
    state.rename(&today, "tape/000001-2020-01-01.jsonl");
    let site = state.site();
    let daemon = site.start();
    let in_the_way = site.state_dir().join(today.replace("000001", "000002"));
    fs::create_dir(&in_the_way).unwrap();
    assert_eq!(daemon.code(&numbered(COUNT + 1)), "-1009");
    assert_eq!(daemon.code(&numbered(COUNT + 2)), "-1009");
    assert_all_stand(&site, &daemon, "in the way");
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(others_than("-1015", &daemon, COUNT + 2..=COUNT + 2), [(COUNT + 2, "1000".into())]);
    assert_eq!(daemon.code(&numbered(COUNT + 1)), "-1015", "it was committed before the tape");
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn a_tape_that_may_not_be_written_at_start_is_minus_1009_until_it_may() {
    let site = killed().site();
    let tape = site.state_dir().join(State::of(&site).tape_files().remove(0));
    let allow = |mode| fs::set_permissions(&tape, Permissions::from_mode(mode)).unwrap();
    allow(0o440);
    let daemon = site.start_as_nobody();
    assert_eq!(daemon.code(&numbered(COUNT + 1)), "-1009");
    assert_eq!(daemon.code(&numbered(1)), "-1009", "the witnesses are not compared yet");
    allow(0o640);
    eventually(|| daemon.code(&numbered(1)) == "-1015");
    assert_all_stand(&site, &daemon, "may be written");
    assert_eq!(daemon.code(&numbered(COUNT + 1)), "1000");
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn verify_finds_nothing_while_collections_come_in() {
    let site = killed().site();
    let daemon = site.start();
    thread::scope(|scope| {
        let load = scope.spawn(|| others_than("1000", &daemon, COUNT + 1..=2 * COUNT));
        let mut checks = 0;
        while !load.is_finished() || checks == 0 {
            let verified = site.verify();
            assert_eq!(verified.code, Some(0), "{verified:?}");
            checks += 1;
        }
        assert_eq!(load.join().unwrap(), []);
    });
}
