//! What backups promise: one that has its name is whole, making one holds up nobody, and restoring
//! one loses nothing that the tape still has. And what `undelivered` says of what may be deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde_json::Value;
use tilld::system::clock::now;

use crate::support::clock::Clock;
use crate::support::fleet::{Branch, MANILA, Office, altering, database};
use crate::support::site::NOBODY;
use crate::support::state::DATABASE;
use crate::support::{Confirmation, Daemon, JSON, PATH, Setup, Site, State, eventually};

/// Tills that post beside a backup.
const TILLS: usize = 8;

/// Where the backups of a site are.
pub fn directory(site: &Site) -> PathBuf {
    site.state_dir().join("backups")
}

/// What lies there, leftovers included, in order; but for the note of when one was found good.
fn entries(site: &Site) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory(site)) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "last-verified");
    names.sort();
    names
}

/// Exit code and everything that a command wrote.
pub fn told(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.tilld(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

pub fn ok(site: &Site, arguments: &[&str]) -> String {
    let (code, text) = told(site, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

/// Makes a backup and gives its name.
pub fn create(site: &Site) -> String {
    let before = entries(site);
    ok(site, &["backup", "create"]);
    let mut new = entries(site);
    new.retain(|name| !before.contains(name));
    assert_eq!(new.len(), 1, "{new:?}");
    new.remove(0)
}

/// The backups that `tilld backup list` prints.
fn list(site: &Site) -> Vec<Value> {
    let printed = ok(site, &["backup", "list", "--output", "json"]);
    let printed: Value = serde_json::from_str(&printed).expect("JSON");
    printed["backups"].as_array().expect("backups").clone()
}

/// Confirms so many new ones, which must be answered 1000.
pub fn collect(daemon: &Daemon, count: usize) -> Vec<Confirmation> {
    let confirmations: Vec<_> = (0..count).map(|_| Confirmation::fresh()).collect();
    assert_answered(daemon, &confirmations, "1000");
    confirmations
}

pub fn assert_answered(daemon: &Daemon, confirmations: &[Confirmation], code: &str) {
    let mut till = daemon.till();
    for confirmation in confirmations {
        let answer = till.post(PATH, JSON, &[], confirmation.text().as_bytes());
        assert_eq!(answer.code(), code, "{}", confirmation.text());
    }
}

/// Gives the tape's only file another day, as if it had been written before midnight.
fn end_the_day(site: &Site) {
    let mut names: Vec<_> = fs::read_dir(site.state_dir().join("tape"))
        .expect("a tape")
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let [only] = &names[..] else { panic!("one file: {names:?}") };
    fs::rename(only, only.with_file_name("000001-2020-01-01.jsonl")).unwrap();
}

/// A stopped site with a closed file on its tape, what was confirmed, and the name of a backup.
pub fn backed_up() -> (Site, Vec<Confirmation>, String) {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut told = collect(&daemon, 30);
    daemon.stop();
    end_the_day(&site);
    let daemon = site.start();
    told.extend(collect(&daemon, 30));
    let name = create(&site);
    daemon.stop();
    (site, told, name)
}

pub fn assert_all_there(site: &Site, told: &[Confirmation]) {
    let daemon = site.start();
    assert_answered(&daemon, told, "-1015");
    daemon.stop();
    assert_eq!(site.all().len(), told.len());
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

/// Ends the load also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_backup_under_load_holds_everything_that_was_answered_before_and_holds_up_nobody() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let told: Mutex<Vec<String>> = Mutex::default();
    let is_over = AtomicBool::new(false);
    let post = || {
        let mut till = daemon.till();
        while !is_over.load(Ordering::Relaxed) {
            let confirmation = Confirmation::fresh();
            let answer = till.post(PATH, JSON, &[], confirmation.text().as_bytes());
            assert_eq!(answer.code(), "1000");
            told.lock().unwrap().push(confirmation.get("contractNumber"));
        }
    };
    thread::scope(|scope| {
        let _over = Over(&is_over);
        for _ in 0..TILLS {
            scope.spawn(post);
        }
        for round in 1..=3 {
            let enough = 300 * round;
            eventually(|| told.lock().unwrap().len() >= enough);
            let before = told.lock().unwrap().clone();
            let name = create(&site);
            let after = told.lock().unwrap().len();
            assert!(after > before.len(), "nobody was answered while {name} was made");
            let path = directory(&site).join(&name).join(DATABASE);
            let copy = Connection::open(path).expect("a copy");
            for contract in &before {
                let sql = "SELECT count(*) FROM collection WHERE contract = ?1";
                let count: i64 = copy.query_row(sql, [contract], |row| row.get(0)).unwrap();
                assert_eq!(count, 1, "{contract} of {} is not in {name}", before.len());
            }
        }
    });
    ok(&site, &["backup", "verify"]);
    assert_eq!(list(&site).len(), 3);
    let sums = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .current_dir(directory(&site).join(&entries(&site)[0]))
        .status();
    assert!(sums.expect("sha256sum can be run").success());
}

#[test]
fn an_old_backup_and_the_tape_beyond_it_give_everything_back() {
    let (site, mut told, name) = backed_up();
    let daemon = site.start();
    told.extend(collect(&daemon, 40));
    daemon.stop();
    let old = fs::read(site.state_dir().join(DATABASE)).unwrap();
    let epoch = epoch(&site);
    let text = ok(&site, &["backup", "restore", &name]);
    assert!(text.contains("60 collections") && text.contains("it: 40 collections"), "{text}");
    let aside = State::of(&site).names("tilld.db.before-");
    let [aside] = &aside[..] else { panic!("{aside:?}") };
    assert!(text.contains(aside), "{text}");
    assert!(fs::read(site.state_dir().join(aside)).unwrap() == old, "it was changed");
    assert_ne!(self::epoch(&site), epoch);
    assert_all_there(&site, &told);
}

fn epoch(site: &Site) -> String {
    database(site)
        .query_row("SELECT epoch FROM birth ORDER BY line DESC", [], |row| row.get(0))
        .expect("an epoch")
}

#[test]
fn without_the_tape_a_restore_gives_what_the_backup_had_and_says_so() {
    let (site, told, name) = backed_up();
    let daemon = site.start();
    let later = collect(&daemon, 40);
    daemon.stop();
    let mut lost = State::of(&site);
    for name in lost.names("t").into_iter().chain(lost.names("lock")) {
        lost = lost.without(&[&name]);
    }
    let site = lost.site();
    let text = ok(&site, &["backup", "restore", &name]);
    assert!(
        text.contains("60 collections") && text.contains("the tape beyond it is lost"),
        "{text}"
    );
    assert!(text.contains("000001-2020-01-01.jsonl comes from the backup"), "{text}");
    assert_all_there(&site, &told);
    let daemon = site.start();
    assert_answered(&daemon, &later, "1000");
}

#[test]
fn a_database_that_has_what_backup_and_tape_have_not_is_left_in_place() {
    let (site, mut told, name) = backed_up();
    let daemon = site.start();
    told.extend(collect(&daemon, 40));
    daemon.stop();
    let whole = State::of(&site);
    let [first, last] = &whole.tape_files()[..] else { panic!("two files") };
    for (without, count) in [(&[last] as &[&String], 40), (&[first, last], 40)] {
        let without: Vec<&str> = without.iter().map(|name| name.as_str()).collect();
        let site = whole.clone().without(&without).site();
        let before = State::of(&site);
        let (code, text) = self::told(&site, &["backup", "restore", &name]);
        assert_eq!(code, Some(65), "{text}");
        let words = format!("{count} collections and {count} lines are in the present");
        assert!(text.contains(&words) && text.contains("--despite-loss"), "{text}");
        let names = |state: &State| [state.names("tape"), state.names("tilld.db")].concat();
        assert_eq!(names(&before), names(&State::of(&site)));
        assert!(before.clone().file(DATABASE) == State::of(&site).file(DATABASE));
        assert_all_there(&site, &told);
    }
    let site = whole.without(&[last]).site();
    let (code, text) = self::told(&site, &["backup", "restore", &name, "--despite-loss"]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("it is in place, but not whole"), "{text}");
    assert_eq!(State::of(&site).names("tilld.db.before-").len(), 1);
    assert_eq!(site.all().len(), 60);
}

#[test]
fn a_new_machine_that_was_started_once_can_be_restored_and_one_that_was_used_is_left_alone() {
    let (site, told, name) = backed_up();
    let copy = |to: &Site| {
        let copied =
            Command::new("cp").arg("-a").arg(directory(&site)).arg(to.state_dir()).status();
        assert!(copied.expect("cp can be run").success());
    };
    let new = Setup::live().prepare();
    new.start().stop();
    copy(&new);
    ok(&new, &["backup", "restore", &name]);
    assert_eq!(State::of(&new).names("tape.before-").len(), 1);
    assert_all_there(&new, &told);

    let used = Setup::live().prepare();
    let daemon = used.start();
    let own = collect(&daemon, 1);
    daemon.stop();
    copy(&used);
    let before = State::of(&used);
    let (code, text) = self::told(&used, &["backup", "restore", &name]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("not the one that this backup belongs to"), "{text}");
    assert_eq!(before.tape_files(), State::of(&used).tape_files());
    assert_all_there(&used, &own);
}

/// A command under strace, in which the `number`-th of these calls is the last thing that it does.
pub fn killed_at(site: &Site, arguments: &[&str], calls: &str, number: usize) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", &format!("trace={calls}"), "-o", "/dev/null"]);
    command.args(["-e", &format!("inject={calls}:signal=KILL:when={number}")]);
    let tilld = site.command(arguments);
    command.arg(tilld.get_program()).args(tilld.get_args());
    command
}

/// What changes names.
const RENAMES: &str = "rename,link,unlink,mkdir";

/// And what makes anything durable. Each is counted for itself.
pub const STEPS: [&str; 6] = ["rename", "link", "unlink", "mkdir", "fsync", "fdatasync"];

#[test]
fn a_backup_that_is_killed_at_any_step_leaves_no_half_one_and_the_next_one_cleans_up() {
    let (site, told, first) = backed_up();
    let (mut leftovers, mut steps) = (0, 0);
    for step in STEPS {
        for number in 1.. {
            let mut create = killed_at(&site, &["backup", "create"], step, number);
            let is_through = create.output().expect("strace can be run").status.success();
            let (left, named): (Vec<_>, Vec<_>) =
                entries(&site).into_iter().partition(|name| name.contains(".new-"));
            leftovers += left.len();
            ok(&site, &["backup", "verify"]);
            assert!(named.contains(&first), "{step} {number}: {named:?}");
            assert_eq!(list(&site).len(), named.len(), "{step} {number}");
            if is_through {
                assert_eq!(left, Vec::<String>::new());
                break;
            }
            steps += 1;
        }
    }
    assert!(leftovers > 3 && steps > 8, "{leftovers} leftovers in {steps} steps");
    assert_all_there(&site, &told);
}

#[test]
fn a_restore_that_is_killed_at_any_step_leaves_the_old_state_or_the_new_one() {
    let (site, told, name) = backed_up();
    let daemon = site.start();
    let mut later = told.clone();
    later.extend(collect(&daemon, 10));
    daemon.stop();
    let whole = State::of(&site);
    // Without a tape nobody would notice an empty database.
    let tape = whole.names("tape/");
    let without_tape = whole.clone().without(&tape.iter().map(String::as_str).collect::<Vec<_>>());
    for (state, is_tape_there) in [(whole, true), (without_tape, false)] {
        let mut outcomes = [0, 0];
        for number in 1.. {
            let site = state.site();
            let restore = ["backup", "restore", &name, "--despite-loss"];
            let mut restore = killed_at(&site, &restore, RENAMES, number);
            let is_through = restore.output().expect("strace can be run").status.code().is_some();
            let daemon = site.start();
            assert_answered(&daemon, &told, "-1015");
            daemon.stop();
            let count = site.all().len();
            let is_new = count == told.len();
            assert!(count == later.len() || (is_new && !is_tape_there), "{count} at {number}");
            outcomes[usize::from(is_new)] += 1;
            if is_through {
                break;
            }
        }
        assert!(is_tape_there || outcomes.iter().all(|count| *count > 1), "{outcomes:?}");
    }
}

#[test]
fn so_many_days_are_kept_and_a_clock_that_jumps_ten_years_removes_but_one() {
    let extra = "[backup]\nkeep_days = 3\n".to_owned();
    let site = Setup { extra, ..Setup::live() }.prepare();
    site.start().stop();
    let clock = Clock::of(&site);
    let create_on = |day: &str| {
        let morning: DateTime<Utc> = format!("{day}T04:00:00+08:00").parse().unwrap();
        clock.set(morning - now());
        let mut create = clock.wrapper();
        create.arg(env!("CARGO_BIN_EXE_tilld")).args(["backup", "create", "--config"]);
        let output = create.arg(site.config()).output().expect("tilld can be run");
        assert!(output.status.success(), "{day}: {}", String::from_utf8_lossy(&output.stderr));
        entries(&site).iter().map(|name| name[..10].to_owned()).collect::<Vec<_>>()
    };
    create_on("2030-05-01");
    create_on("2030-05-02");
    assert_eq!(create_on("2030-05-02").len(), 3, "two in one second");
    create_on("2030-05-03");
    let kept = create_on("2030-05-04");
    assert_eq!(kept, ["2030-05-02", "2030-05-02", "2030-05-03", "2030-05-04"]);
    assert_eq!(create_on("2040-05-05"), ["2030-05-03", "2030-05-04", "2040-05-05"]);
    assert_eq!(create_on("2030-05-05"), ["2030-05-03", "2030-05-04", "2030-05-05"]);
    ok(&site, &["backup", "verify"]);
}

#[test]
fn a_disk_without_room_is_refused_and_nothing_is_left_there() {
    let disk = "/mnt";
    let extra = format!("[backup]\ndirectory = {disk:?}\n");
    let site = Setup { extra, ..Setup::live() }.prepare();
    let daemon = site.start();
    let told = collect(&daemon, 20);
    // Too small for what is wanted; and large enough by the look of it, but full before the end.
    for (size, limit, words) in
        [("1M", "unlimited", "no backup was begun"), ("64M", "64", "no backup was made")]
    {
        let script = format!(
            "mount -t tmpfs -o size={size} tmpfs {disk} && trap '' XFSZ && ulimit -f {limit} && \
             \"$@\"; code=$?; ls -A {disk}; exit $code"
        );
        let tilld = site.command(&["backup", "create"]);
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        let output = command.arg(tilld.get_program()).args(tilld.get_args()).output();
        let output = output.expect("unshare can be run");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{size}: {errors}");
        assert!(errors.contains(words), "{size}: {errors}");
        let left = String::from_utf8_lossy(&output.stdout);
        assert_eq!(left, "", "{size}: left behind");
    }
    assert_answered(&daemon, &told, "-1015");
}

#[test]
fn a_restore_without_room_leaves_nothing_behind_nor_does_a_killed_one_after_a_start() {
    let (site, told, name) = backed_up();
    let before = State::of(&site).names("t");
    // Less room than is wanted by the look of it; and enough, but full before the end.
    for (disk_reserve, limit, words) in
        [("1000000 GiB", "unlimited", "nothing changed"), ("1 MiB", "64", "tilld.db.restoring")]
    {
        site.configure(&Setup { disk_reserve, ..Setup::live() });
        let tilld = site.command(&["backup", "restore", &name]);
        let script = format!("trap '' XFSZ && ulimit -f {limit} && exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(tilld.get_program()).args(tilld.get_args());
        let output = command.output().expect("sh can be run");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{disk_reserve}: {errors}");
        assert!(errors.contains(words), "{disk_reserve}: {errors}");
        assert_eq!(State::of(&site).names("t"), before, "{disk_reserve}");
    }
    for leftover in ["tilld.db.restoring", "tilld.db.restoring-wal", "tilld.db.rebuilding"] {
        fs::write(site.state_dir().join(leftover), "killed").unwrap();
    }
    assert_all_there(&site, &told);
    assert_eq!(State::of(&site).names("tilld.db.re"), Vec::<String>::new());
}

#[test]
fn beside_a_running_daemon_nothing_is_restored_and_nothing_counted() {
    let (site, mut told, name) = backed_up();
    let daemon = site.start();
    for arguments in [&["backup", "restore", &name] as &[&str], &["undelivered"]] {
        let (code, text) = self::told(&site, arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(text.contains("another tilld is running"), "{arguments:?}: {text}");
    }
    told.extend(collect(&daemon, 1));
    daemon.stop();
    assert_all_there(&site, &told);
}

/// Writes the checksums of a backup anew, as somebody would who has changed it.
fn sum_anew(backup: &Path) {
    let script = "sha256sum tilld.db tape/*.jsonl > SHA256SUMS";
    let summed = Command::new("sh").args(["-c", script]).current_dir(backup).status();
    assert!(summed.expect("sh can be run").success());
}

/// What is done to a backup.
type Damage<'a> = &'a dyn Fn(&Path);

/// Alters a collection whose line is on the tape's open file, which no backup has.
fn alter(database: &Connection) {
    database.execute("UPDATE collection SET amount = 1 WHERE sequence = 50", []).unwrap();
}

#[test]
fn a_damaged_backup_is_named_and_not_restored() {
    let (site, told, name) = backed_up();
    let state = State::of(&site);
    let tape = "tape/000001-2020-01-01.jsonl";
    let flip = |backup: &Path, file: &str, at: usize| {
        let mut bytes = fs::read(backup.join(file)).unwrap();
        bytes[at] ^= 1;
        fs::write(backup.join(file), bytes).unwrap();
    };
    let cases: [(&str, Damage<'_>); 7] = [
        ("tilld.db is not what it was", &|backup| flip(backup, DATABASE, 20_000)),
        ("tape/000001-2020-01-01.jsonl is not", &|backup| flip(backup, tape, 500)),
        ("tape/000001-2020-01-01.jsonl is missing", &|backup| {
            fs::remove_file(backup.join(tape)).unwrap();
        }),
        ("tilld.db is missing", &|backup| fs::remove_file(backup.join(DATABASE)).unwrap()),
        ("SHA256SUMS is missing", &|backup| fs::remove_file(backup.join("SHA256SUMS")).unwrap()),
        ("collection 50 was altered", &|backup| {
            alter(&altering(&backup.join(DATABASE)));
            sum_anew(backup);
        }),
        ("no good line", &|backup| {
            flip(backup, tape, 500);
            sum_anew(backup);
        }),
    ];
    for (words, damage) in cases {
        let site = state.site();
        damage(&directory(&site).join(&name));
        let before = State::of(&site).names("");
        for verb in ["verify", "restore"] {
            let (code, text) = self::told(&site, &["backup", verb, &name]);
            assert_eq!(code, Some(65), "{verb}, {words}: {text}");
            assert!(text.contains(words), "{verb}, {words}: {text}");
        }
        let after = State::of(&site).names("");
        let is_kept = |name: &String| after.contains(name) || name == "undelivered";
        assert!(before.iter().all(is_kept), "{words}: {before:?} became {after:?}");
        assert_all_there(&site, &told);
    }
}

#[test]
fn damaged_books_get_no_backup_and_the_earlier_ones_stay() {
    let (site, _, name) = backed_up();
    alter(&altering(&site.state_dir().join(DATABASE)));
    let (code, text) = told(&site, &["backup", "create"]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("collection 50 was altered"), "{text}");
    assert_eq!(entries(&site), [name]);
}

#[test]
fn a_damaged_tape_gets_backups_that_are_marked_and_remove_no_whole_one() {
    let (site, told, name) = backed_up();
    let extra = "[backup]\nkeep_days = 1\n".to_owned();
    site.configure(&Setup { extra, ..Setup::live() });
    let tape = site.state_dir().join("tape/000001-2020-01-01.jsonl");
    let mut bytes = fs::read(&tape).unwrap();
    bytes[500] ^= 1;
    fs::write(tape, bytes).unwrap();
    let (code, text) = self::told(&site, &["backup", "create"]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("stands no good line"), "{text}");
    let names = entries(&site);
    let [whole, marked] = &names[..] else { panic!("{names:?}") };
    assert!(*whole == name && marked.ends_with("-damaged"), "{names:?}");
    assert_eq!(list(&site)[1]["name"].as_str(), Some(&**marked));
    let (code, text) = self::told(&site, &["backup", "verify", marked]);
    assert_eq!(code, Some(65), "{text}");

    // Better than nothing, when all else is lost.
    let mut lost = State::of(&site);
    for name in lost.names("t").into_iter().chain(lost.names("lock")) {
        lost = lost.without(&[&name]);
    }
    let site = lost.site();
    let (code, text) = self::told(&site, &["backup", "restore", marked]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("it is in place, but not whole"), "{text}");
    let daemon = site.start();
    assert_answered(&daemon, &told, "-1015");
}

/// What is missing there was on the tape before the file that no backup has.
#[test]
fn a_tape_whose_newest_closed_file_is_cut_or_gone_gets_backups_that_are_marked() {
    let cut = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(path, lines[..20].concat()).unwrap();
    };
    let torn = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    };
    let gone = |path: &Path| fs::remove_file(path).unwrap();
    let cases: [(&str, Damage<'_>); 3] = [("cut", &cut), ("torn", &torn), ("gone", &gone)];
    for (case, damage) in cases {
        let (site, _, name) = backed_up();
        damage(&site.state_dir().join("tape/000001-2020-01-01.jsonl"));
        let (code, text) = self::told(&site, &["backup", "create"]);
        assert_eq!(code, Some(65), "{case}: {text}");
        let names = entries(&site);
        let [whole, marked] = &names[..] else { panic!("{case}: {names:?}") };
        assert!(*whole == name && marked.ends_with("-damaged"), "{case}: {names:?}");
    }
}

/// A directory in the place of a file fails to be read, as a bad sector does.
#[test]
fn a_closed_file_of_the_tape_that_cannot_be_read_keeps_no_backup_from_being_made() {
    let (site, _, name) = backed_up();
    let closed = site.state_dir().join("tape/000001-2020-01-01.jsonl");
    fs::remove_file(&closed).unwrap();
    fs::create_dir(&closed).unwrap();
    let whole = create(&site);
    assert_ne!(whole, name);
    ok(&site, &["backup", "verify", &whole]);
    for made in entries(&site) {
        fs::remove_dir_all(directory(&site).join(made)).unwrap();
    }
    let (code, text) = self::told(&site, &["backup", "create"]);
    assert_eq!(code, Some(65), "no backup has that file: {text}");
    assert!(text.contains("000001-2020-01-01.jsonl cannot be read to its end"), "{text}");
    let names = entries(&site);
    assert!(matches!(&names[..], [marked] if marked.ends_with("-damaged")), "{names:?}");
}

#[test]
fn how_a_backup_command_ends_says_what_was_wrong() {
    let site = Setup::live().prepare();
    fs::create_dir_all(site.state_dir()).unwrap();
    assert!(ok(&site, &["backup", "create"]).contains("no database"), "before the first start");
    site.start().stop();
    let database = site.state_dir().join(DATABASE);
    fs::rename(&database, database.with_extension("away")).unwrap();
    let (code, text) = told(&site, &["backup", "create"]);
    assert_eq!(code, Some(1), "gone: {text}");
    fs::rename(database.with_extension("away"), database).unwrap();
    let list = |output: &str| ok(&site, &["backup", "list", "--output", output]);
    assert_eq!(list("csv"), "name,made_at,collections,bytes,size,age_s,age\n");
    for arguments in [
        &["backup", "verify"] as &[&str],
        &["backup", "verify", "2026-11-22T021500"],
        &["backup", "restore", "../backups"],
    ] {
        let (code, text) = told(&site, arguments);
        assert_eq!(code, Some(5), "{arguments:?}: {text}");
        assert!(text.contains("there is no backup"), "{arguments:?}: {text}");
    }
    let name = create(&site);
    let table = list("table");
    assert!(table.contains(&name) && table.contains("0 min"), "{table}");
    assert_eq!(self::list(&site)[0]["collections"], 0);

    let backup = directory(&site).join(&name);
    let newer = "PRAGMA user_version = 100";
    Connection::open(backup.join(DATABASE)).unwrap().execute_batch(newer).unwrap();
    fs::write(backup.join("tape/000001-2020-01-01.jsonl"), "").unwrap();
    sum_anew(&backup);
    for verb in ["verify", "restore"] {
        let (code, text) = told(&site, &["backup", verb, &name]);
        assert_eq!(code, Some(78), "{verb}: {text}");
        assert!(text.contains("a newer tilld"), "{verb}: {text}");
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(site.state_dir(), Some(NOBODY), None).unwrap();
        for verb in [&["create"] as &[&str], &["restore", &name]] {
            let (code, text) = told(&site, &[&["backup"], verb].concat());
            assert_eq!(code, Some(4), "{verb:?}: {text}");
            assert!(text.contains(&format!("sudo -u '#{NOBODY}' tilld backup")), "{text}");
        }
    }
}

/// What `undelivered` says, if it is there.
fn undelivered(site: &Site) -> Option<String> {
    fs::read_to_string(site.state_dir().join("undelivered")).ok()
}

#[test]
fn undelivered_is_right_after_a_clean_stop_and_missing_at_any_other_time() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(undelivered(&site), None, "while it runs");
    collect(&daemon, 3);
    daemon.stop();
    assert_eq!(undelivered(&site).as_deref(), Some("3\n"));
    let mut daemon = site.start();
    assert_eq!(undelivered(&site), None, "while it runs");
    collect(&daemon, 1);
    daemon.kill();
    assert_eq!(undelivered(&site), None, "after SIGKILL");
    let (code, text) = told(&site, &["undelivered"]);
    assert_eq!(code, Some(65), "{text}");
    assert_eq!(undelivered(&site), None, "not everything could be seen");
    site.start().stop();
    fs::remove_file(site.state_dir().join("undelivered")).unwrap();
    assert_eq!(ok(&site, &["undelivered"]), "4\n");
    assert_eq!(undelivered(&site).as_deref(), Some("4\n"));

    let lost = "DELETE FROM outbox; DELETE FROM collection WHERE sequence = 2";
    altering(&site.state_dir().join(DATABASE)).execute_batch(lost).unwrap();
    let (code, text) = told(&site, &["undelivered"]);
    assert_eq!(code, Some(65), "{text}");
    assert_eq!(undelivered(&site), None, "a row is missing");
}

#[test]
fn undelivered_is_nought_only_when_head_office_has_everything() {
    let mut office = Office::open();
    let mut branch = Branch::of(&office, MANILA).started();
    branch.collect(5);
    branch.await_empty_outbox();
    office.stop();
    branch.collect(2);
    branch.stop();
    assert_eq!(undelivered(&branch.site).as_deref(), Some("2\n"));
    office.start();
    branch.start();
    branch.await_empty_outbox();
    branch.stop();
    assert_eq!(undelivered(&branch.site).as_deref(), Some("0\n"));
}

/// Purges a site as the package would.
fn purge(site: &Site) -> String {
    let script = fs::read_to_string("packaging/debian/tilld.postrm").expect("the script");
    let nowhere = site.path().join("nowhere");
    let script = script
        .replace("/var/lib/tilld", site.state_dir().to_str().unwrap())
        .replace("/etc/tilld", nowhere.to_str().unwrap())
        .replace("/run/tilld", nowhere.to_str().unwrap())
        .replace("/usr/share/debconf", nowhere.to_str().unwrap());
    let output = Command::new("sh").args(["-c", &script, "sh", "purge"]).output();
    let output = output.expect("sh can be run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_was_set_aside_is_neither_counted_as_delivered_nor_purged() {
    let site = Setup::live().prepare();
    site.start().stop();
    create(&site);
    let state = State::of(&site);
    assert_eq!(undelivered(&site).as_deref(), Some("0\n"));
    let names = ["tilld.db.before-1", "tape.before-1/000001-2020-01-01.jsonl"];
    for name in names.into_iter().chain(["tape/000001-2020-01-01.jsonl.torn-1"]) {
        let site = state.site();
        let aside = site.state_dir().join(name);
        fs::create_dir_all(aside.parent().unwrap()).unwrap();
        fs::write(&aside, "payers' cash").unwrap();
        let (code, text) = told(&site, &["undelivered"]);
        assert_eq!(code, Some(65), "{name}: {text}");
        assert!(text.contains("was set aside"), "{name}: {text}");
        assert_eq!(undelivered(&site), None, "{name}");
        site.start().stop();
        assert_eq!(undelivered(&site), None, "{name}");
        let text = purge(&site);
        assert!(text.contains("stays as it is"), "{name}: {text}");
        assert!(aside.exists() && site.state_dir().join(DATABASE).exists(), "{name}");
    }
}

#[test]
fn a_purge_deletes_what_the_package_knows_and_names_what_else_is_there() {
    let site = Setup::live().prepare();
    site.start().stop();
    create(&site);
    let state = State::of(&site);
    assert_eq!(purge(&site), "");
    assert!(!site.state_dir().exists());
    for name in ["branch-2/tilld.db", "tilld.db.before-1"] {
        let site = state.site();
        let foreign = site.state_dir().join(name);
        fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        fs::write(&foreign, "payers' cash").unwrap();
        let text = purge(&site);
        assert!(text.contains(name.split('/').next().unwrap()), "{text}");
        assert!(foreign.exists() && !site.state_dir().join(DATABASE).exists(), "{text}");
    }
}
