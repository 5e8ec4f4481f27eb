//! What a restore promises of the tape: it gets from a backup what it lacks, keeps what it has, is
//! never told anything twice, and can itself be lost and written again, to the byte.

use std::collections::BTreeSet;
use std::fs;

use crate::backup::{
    STEPS, assert_all_there, assert_answered, backed_up, collect, create, killed_at, ok,
    told as told_by,
};
use crate::support::fleet::{Branch, MANILA, Office};
use crate::support::state::DATABASE;
use crate::support::{Setup, Site, State};

/// The closed file of the tape of a backed-up site.
const CLOSED: &str = "tape/000001-2020-01-01.jsonl";

/// All lines of a tape, whatever its files are called.
fn tape(site: &Site) -> Vec<u8> {
    let mut state = State::of(site);
    let names = state.tape_files();
    names.iter().flat_map(|name| state.file(name).clone()).collect()
}

fn without_tape(site: &Site) -> Site {
    let state = State::of(site);
    let names = state.names("tape/");
    state.without(&names.iter().map(String::as_str).collect::<Vec<_>>()).site()
}

#[test]
fn a_file_of_the_tape_that_suffered_comes_whole_from_the_backup() {
    let (site, told, name) = backed_up();
    let whole = State::of(&site);
    let length = whole.clone().file(CLOSED).len();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut state = whole.clone();
        change(state.file(CLOSED));
        state
    };
    let half = whole.clone().file(CLOSED)[..length / 2].iter().rposition(|byte| *byte == b'\n');
    let half = half.expect("a line") + 1;
    let older = changed(&|file| file.truncate(half));
    let cases = [
        (changed(&|file| file[length / 2] ^= 1), "a byte changed"),
        (changed(&|file| file.truncate(length / 2)), "torn"),
        (older.clone(), "shorter"),
        (older.without(&[DATABASE, &whole.tape_files()[1]]), "all of an older state"),
    ];
    for (mut state, case) in cases {
        let site = state.site();
        let text = ok(&site, &["backup", "restore", &name]);
        assert!(text.contains("000001-2020-01-01.jsonl"), "{case}: {text}");
        let mut after = State::of(&site);
        assert!(after.file(CLOSED) == whole.clone().file(CLOSED), "{case}");
        let aside = after.names("tape.before-").remove(0);
        assert!(text.contains(aside.split('/').next().unwrap()), "{case}: {text}");
        assert!(after.file(&aside) == state.file(CLOSED), "{case}: not as it was");
        assert_all_there(&site, &told);
    }
}

#[test]
fn a_file_of_the_tape_that_tells_what_the_backup_does_not_stays() {
    let (site, _, name) = backed_up();
    let mut state = State::of(&site);
    let shorter = state.file(CLOSED).len() / 2;
    let mut other = tape(&site);
    other.drain(..shorter);
    *state.file(CLOSED) = other.clone();
    let site = state.site();
    let (code, text) = told_by(&site, &["backup", "restore", &name]);
    assert_eq!(code, Some(65), "{text}");
    assert!(State::of(&site).file(CLOSED) == &other);
    assert_eq!(State::of(&site).names("tape."), Vec::<String>::new());
}

#[test]
fn a_tape_that_was_written_anew_is_not_told_again_what_an_older_backup_tells() {
    let (site, mut told, name) = backed_up();
    let site = without_tape(&site);
    let daemon = site.start();
    told.extend(collect(&daemon, 10));
    daemon.stop();
    let before = tape(&site);
    ok(&site, &["backup", "restore", &name]);
    assert!(tape(&site) == before);
    assert_all_there(&site, &told);
}

#[test]
fn a_tape_that_is_lost_is_written_again_to_the_byte_whatever_births_it_tells_of() {
    let (site, mut told, name) = backed_up();
    // What is not on the tape yet is no loss to a rebuild.
    for repair in [&["backup", "restore", &name] as &[&str], &["rebuild"], &["rebuild"]] {
        ok(&site, repair);
    }
    site.start().stop();
    ok(&site, &["rebuild"]);
    let daemon = site.start();
    told.extend(collect(&daemon, 10));
    daemon.stop();
    let before = tape(&site);
    let births = String::from_utf8_lossy(&before).matches("\"what\":\"store\"").count();
    assert_eq!(births, 3);
    let site = without_tape(&site);
    site.start().stop();
    assert!(tape(&site) == before);
    assert_all_there(&site, &told);
}

#[test]
fn what_head_office_took_is_written_again_to_the_byte_too() {
    let office = Office::open();
    let mut branch = Branch::of(&office, MANILA).started();
    branch.collect(20);
    branch.await_empty_outbox();
    branch.stop();
    let before = tape(&branch.site);
    let deliveries = String::from_utf8_lossy(&before).matches("\"what\":\"delivery\"").count();
    assert_eq!(deliveries, 20);
    fs::remove_dir_all(branch.site.state_dir().join("tape")).unwrap();
    branch.start();
    branch.stop();
    assert!(tape(&branch.site) == before);
    assert_eq!(branch.site.verify().code, Some(0));
}

#[test]
fn a_tape_that_is_found_after_a_restore_without_it_goes_on_and_so_does_its_next_backup() {
    let (site, mut told, name) = backed_up();
    let daemon = site.start();
    told.extend(collect(&daemon, 10));
    daemon.stop();
    let mut found = State::of(&site);
    let site = backups_of(&site).site();
    ok(&site, &["backup", "restore", &name]);
    for file in found.tape_files() {
        fs::write(site.state_dir().join(&file), found.file(&file)).unwrap();
    }
    assert_all_there(&site, &told);
    let later = create(&site);
    ok(&site, &["backup", "restore", &later]);
    assert_all_there(&without_tape(&site), &told);
}

#[test]
fn a_torn_end_before_an_empty_new_file_is_completed() {
    let (site, told, _) = backed_up();
    let mut state = State::of(&site);
    let last = state.tape_files().pop().expect("a tape");
    state.file(&last).pop();
    let site = state.site();
    fs::write(site.state_dir().join("tape/000003-2020-01-01.jsonl"), "").unwrap();
    assert_all_there(&site, &told);
}

#[test]
fn a_tape_that_cannot_be_exchanged_is_refused_before_anything_changes() {
    let (site, told, name) = backed_up();
    let mut state = State::of(&site);
    state.file(CLOSED)[500] ^= 1;
    let site = state.site();
    let tape = site.state_dir().join("tape");
    fs::rename(&tape, site.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(site.path().join("elsewhere"), &tape).unwrap();
    let entries = || {
        let entries = fs::read_dir(site.state_dir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name != "undelivered").collect::<BTreeSet<_>>()
    };
    let before = entries();
    let (code, text) = told_by(&site, &["backup", "restore", &name]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("a link or lies on another disk"), "{text}");
    assert_eq!(entries(), before);
    let daemon = site.start();
    assert_answered(&daemon, &told, "-1015");
}

#[test]
fn what_a_tape_lacks_when_it_is_restored_it_lacks_no_longer_after_the_next_start() {
    let (site, told, _) = backed_up();
    // Three births, the last of which stands in the file that no backup has.
    let first = create(&site);
    ok(&site, &["backup", "restore", &first]);
    site.start().stop();
    let second = create(&site);
    let site = without_tape(&site);
    let state = State::of(&site).without(&[DATABASE]);
    let site = state.site();
    ok(&site, &["backup", "restore", &second]);
    assert_all_there(&site, &told);
}

/// What is left of a site when the disk is gone and its backups are not.
fn backups_of(site: &Site) -> State {
    let state = State::of(site);
    let names = [state.names("t"), state.names("lock"), state.names("undelivered")].concat();
    state.without(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_backup_is_not_laid_over_a_tape_that_went_on_from_an_older_one() {
    let (site, mut told, first) = backed_up();
    let daemon = site.start();
    collect(&daemon, 10);
    let second = create(&site);
    daemon.stop();
    let site = backups_of(&site).site();
    ok(&site, &["backup", "restore", &first]);
    let daemon = site.start();
    told.extend(collect(&daemon, 5));
    daemon.stop();
    let before = State::of(&site).names("t");
    let (code, text) = told_by(&site, &["backup", "restore", &second, "--despite-loss"]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("not the one that this backup belongs to (from line 62 on)"), "{text}");
    assert_eq!(State::of(&site).names("t"), before);
    assert_all_there(&site, &told);
}

#[test]
fn a_database_of_another_history_counts_as_a_loss_whatever_its_numbers() {
    let (site, _, name) = backed_up();
    let backups = backups_of(&site);
    let site = backups.site();
    let daemon = site.start();
    let own = collect(&daemon, 5);
    daemon.stop();
    let site = without_tape(&site);
    let (code, text) = told_by(&site, &["backup", "restore", &name]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("5 collections and 5 lines are in the present"), "{text}");
    assert_all_there(&site, &own);
}

#[test]
fn a_restore_onto_an_empty_disk_that_is_killed_at_any_step_leaves_nothing_or_everything() {
    let (site, told, name) = backed_up();
    let backups = backups_of(&site);
    let mut outcomes = [0, 0];
    for step in STEPS {
        for number in 1.. {
            let site = backups.site();
            let mut restore = killed_at(&site, &["backup", "restore", &name], step, number);
            let is_through = restore.output().expect("strace can be run").status.success();
            // As a machine does that comes up again by itself.
            site.start().stop();
            let is_there = !site.all().is_empty();
            outcomes[usize::from(is_there)] += 1;
            if !is_there {
                ok(&site, &["backup", "restore", &name]);
            }
            assert_all_there(&site, &told);
            if is_through {
                break;
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 2), "{outcomes:?}");
}

#[test]
fn a_note_that_only_the_present_database_has_keeps_it_in_its_place() {
    let (site, told, name) = backed_up();
    let daemon = site.start();
    ok(&site, &["note", &told[0].get("contractNumber"), "she has the slip"]);
    daemon.stop();
    let mut state = State::of(&site);
    let last = state.tape_files().pop().expect("a tape");
    let at = state.file(&last).len() - 50;
    state.file(&last)[at] ^= 1;
    let site = state.site();
    let (code, text) = told_by(&site, &["backup", "restore", &name]);
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("0 collections and 1 lines are in the present"), "{text}");
    assert_all_there(&site, &told);
}

#[test]
fn a_database_that_waits_for_its_place_is_not_lost_to_a_rebuild() {
    let (site, told, _) = backed_up();
    let mut state = State::of(&site);
    state.rename(DATABASE, "tilld.db.next");
    let waiting = state.file("tilld.db.next").clone();
    let site = state.site();
    fs::write(site.state_dir().join(DATABASE), "").unwrap();
    let text = ok(&site, &["rebuild"]);
    let mut after = State::of(&site);
    let aside = after.names("tilld.db.before-");
    assert!(aside.iter().any(|name| *after.file(name) == waiting), "{aside:?}: {text}");
    assert!(aside.iter().all(|name| text.contains(name)), "{aside:?}: {text}");
    assert_all_there(&site, &told);
}

#[test]
fn a_bad_last_line_stays_on_the_tape_although_a_birth_is_to_be_written_behind_it() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let told = collect(&daemon, 20);
    daemon.stop();
    let mut state = State::of(&site).without(&[DATABASE]);
    let at = state.tape().len() - 50;
    state.tape()[at] ^= 1;
    let damaged = state.tape().clone();
    let site = state.site();
    let (code, text) = told_by(&site, &["rebuild", "--despite-damage"]);
    assert_eq!(code, Some(65), "{text}");
    for start in 0..3 {
        let daemon = site.start();
        assert_answered(&daemon, &told[..19], "-1015");
        daemon.stop();
        let mut state = State::of(&site);
        assert!(state.tape().starts_with(&damaged), "start {start}: the bad line is gone");
        assert_eq!(site.verify().code, Some(65), "start {start}");
    }
}
