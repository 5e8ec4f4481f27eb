//! What `tape` promises when the tape itself suffers: a torn end is set aside and completed, any
//! other damage is named by `tilld verify` and by nothing else than its own lines, and nothing is
//! invented.

use std::fs;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::support::fleet::database;
use crate::support::state::{DATABASE, WAL};
use crate::support::{Chance, Confirmation, Daemon, Setup, State};
use crate::tape::{
    COUNT, MARKED, REFUSALS, assert_agreement, assert_all_stand, killed, numbered, others_than,
    rebuild, stopped,
};

/// So long may a daemon take that is to end.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// The lines of a tape, each with its line feed.
fn lines(tape: &[u8]) -> Vec<Vec<u8>> {
    tape.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// The state with other lines.
fn with_lines(state: &State, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> State {
    let mut state = state.clone();
    let mut lines = lines(state.tape());
    change(&mut lines);
    *state.tape() = lines.concat();
    state
}

#[test]
fn the_last_line_cut_at_any_byte_is_set_aside_and_completed() {
    let state = killed();
    let mut whole = state.clone();
    let whole = whole.tape();
    let last = lines(whole).pop().expect("a line").len();
    // Every byte; a build with checks would take too long for that.
    let cases = if cfg!(debug_assertions) { 40 } else { last };
    for cut in Chance::new().sample((1..=last).collect(), cases) {
        let mut state = state.clone();
        state.tape().truncate(whole.len() - cut);
        let case = format!("{cut} bytes cut off");
        let site = state.site();
        let mut daemon = site.start();
        assert_agreement(&site, &case);
        assert_eq!(others_than("-1015", &daemon, COUNT - 2..=COUNT), [], "{case}");
        daemon.kill();
        let mut after = State::of(&site);
        assert!(after.tape().starts_with(whole), "{case}: the same line again");
        let torn = after.names("tape/").into_iter().find(|name| name.contains(".torn-"));
        let torn = torn.map(|name| after.file(&name).clone()).unwrap_or_default();
        assert_eq!(torn, whole[whole.len() - last..whole.len() - cut], "{case}: set aside");
    }
}

/// Starts on a damaged tape. Every collection still stands, and `verify` names the damage, which
/// is whatever contains one of these words, and nothing else.
fn assert_named(state: &State, words: &[String], case: &str) {
    let site = state.site();
    let daemon = site.start();
    for (when, daemon) in [("up", Some(daemon)), ("down", None)] {
        let verified = site.verify();
        assert_eq!(verified.code, Some(65), "{case}, {when}: {verified:?}");
        for word in words {
            let named = verified.differences.iter().any(|text| has_word(text, word));
            assert!(named, "{case}, {when}: {word} is not named: {verified:?}");
        }
        for difference in &verified.differences {
            let meant = words.iter().any(|word| has_word(difference, word));
            assert!(meant, "{case}, {when}: no damage: {difference}");
        }
        if let Some(daemon) = daemon {
            assert_all_stand(&site, &daemon, case);
            daemon.stop();
        }
    }
}

/// Whether a text says this, not as a part of a longer number.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word)
        .any(|(at, _)| !text[at + word.len()..].starts_with(|next: char| next.is_ascii_digit()))
}

/// `line N`, as it is named.
fn line(number: usize) -> String {
    format!("line {number}")
}

/// Lines, counted from 1, before and behind the mark, none of them the last.
const MIDDLE: [usize; 2] = [MARKED as usize / 2, (MARKED + COUNT) as usize / 2];

#[test]
fn a_changed_line_is_named() {
    for state in [killed(), stopped()] {
        for number in MIDDLE {
            let mut at = 0;
            let damaged = with_lines(&state, |lines| {
                at = lines[..number - 1].concat().len();
                lines[number - 1][40] ^= 1;
            });
            let words = [format!("byte {at}"), line(number), line(number + 1)];
            assert_named(&damaged, &words, &format!("line {number} changed"));
        }
    }
}

#[test]
fn a_line_that_was_forged_with_its_checksum_is_named() {
    for number in MIDDLE {
        let damaged = with_lines(&killed(), |lines| {
            let text = String::from_utf8(lines[number - 1].clone()).unwrap();
            let (checked, _) = text.split_once(",\"check\":").unwrap();
            let forged = checked.replacen("\"amount\":\"", "\"amount\":\"9", 1);
            assert_ne!(forged, checked);
            let digest: [u8; 32] = Sha256::digest(&forged).into();
            let digest = u64::from_be_bytes(digest[..8].try_into().unwrap());
            lines[number - 1] = format!("{forged},\"check\":\"{digest:016x}\"}}\n").into_bytes();
        });
        assert_named(&damaged, &[line(number), line(number + 1)], "forged");
    }
}

#[test]
fn a_removed_line_is_named() {
    for state in [killed(), stopped()] {
        for number in MIDDLE {
            let damaged = with_lines(&state, |lines| drop(lines.remove(number - 1)));
            let words = [line(number), line(number + 1)];
            assert_named(&damaged, &words, &format!("line {number} removed"));
        }
    }
}

#[test]
fn swapped_lines_are_named() {
    for state in [killed(), stopped()] {
        for number in MIDDLE {
            let damaged = with_lines(&state, |lines| lines.swap(number - 1, number));
            let words = [line(number), line(number + 1), line(number + 2)];
            assert_named(&damaged, &words, &format!("lines {number} and the next swapped"));
        }
    }
}

#[test]
fn a_doubled_line_is_named() {
    for state in [killed(), stopped()] {
        let last = lines(state.clone().tape()).len();
        for number in MIDDLE.into_iter().chain([last]) {
            let damaged = with_lines(&state, |lines| {
                lines.insert(number, lines[number - 1].clone());
            });
            assert_named(&damaged, &[line(number)], &format!("line {number} doubled"));
        }
    }
}

#[test]
fn a_damaged_end_of_the_tape_is_completed_from_the_database_also_after_a_clean_stop() {
    for state in [killed(), stopped()] {
        let length = state.clone().tape().len();
        let last = lines(state.clone().tape()).pop().unwrap().len();
        let mut changed = state.clone();
        changed.tape()[length - last + 50] ^= 1;
        let mut split = state.clone();
        split.tape()[length - last + 50] = b'\n';
        let mut joined = changed.clone();
        joined.tape()[length - last - 1] = b' ';
        let mut cases = vec![
            (changed, "last line changed".to_owned()),
            (split, "last line made two".to_owned()),
            (joined, "last two lines made one".to_owned()),
        ];
        for cut in [1, last / 2, last, last + 1, 100 * last, length - 1, length] {
            let mut state = state.clone();
            state.tape().truncate(length - cut);
            cases.push((state, format!("{cut} bytes of {length} cut off")));
        }
        for (state, case) in cases {
            let site = state.site();
            let mut daemon = site.start();
            // Who reads an old state keeps the WAL from being moved: without it, a database into
            // which it was half moved is torn.
            let reader = database(&site);
            reader.execute_batch("BEGIN; SELECT count(*) FROM store").expect("a read state");
            assert_eq!(daemon.code(&numbered(COUNT + 1)), "1000", "{case}");
            assert_all_stand(&site, &daemon, &case);
            daemon.kill();
            // What is on the tape alone is enough for the ones that came after the mark.
            let without_wal = State::of(&site).without(&[WAL]);
            drop(reader);
            let site = without_wal.site();
            let daemon = site.start();
            assert_eq!(others_than("-1015", &daemon, 1..=COUNT + 1), [], "{case}");
            daemon.stop();
            let verified = site.verify();
            assert_eq!(verified.code, Some(0), "{case}: {verified:?}");
        }
    }
}

#[test]
fn an_empty_file_that_a_crash_left_is_no_damage() {
    let mut state = stopped();
    let today = state.tape_files().remove(0);
    state.rename(&today, "tape/000001-2020-01-01.jsonl");
    let site = state.site();
    std::fs::write(site.state_dir().join(today.replace("000001", "000002")), "").unwrap();
    site.start().stop();
    let log = site.start().stop();
    assert!(!log.contains("damage"), "{log}");
    assert_agreement(&site, "an empty file");
}

/// The first [`COUNT`] collections in a file of an earlier day, 100 more in today's.
fn two_days() -> (State, [String; 2]) {
    let mut state = killed();
    let today = state.tape_files().remove(0);
    state.rename(&today, "tape/000001-2020-01-01.jsonl");
    let site = state.site();
    let mut daemon = site.start();
    assert_eq!(others_than("1000", &daemon, COUNT + 1..=COUNT + 100), []);
    daemon.kill();
    let state = State::of(&site);
    let files: [String; 2] = state.tape_files().try_into().expect("two files");
    (state, files)
}

#[test]
fn a_file_whose_date_was_renamed_is_read_all_the_same() {
    let (state, _) = two_days();
    for names in [&[] as &[&str], &[WAL], &[DATABASE]] {
        let site = state.clone().without(names).site();
        let daemon = site.start();
        assert_eq!(others_than("-1015", &daemon, 1..=COUNT + 100), [], "without {names:?}");
        daemon.stop();
        let verified = site.verify();
        assert_eq!(verified.code, Some(0), "without {names:?}: {verified:?}");
    }
}

#[test]
fn a_missing_file_is_named_or_completed_and_no_collection_is_lost() {
    let (state, [first, second]) = two_days();
    let site = state.clone().without(&[&first]).site();
    let daemon = site.start();
    assert_eq!(others_than("-1015", &daemon, 1..=COUNT + 100), []);
    daemon.stop();
    let verified = site.verify();
    assert_eq!(verified.code, Some(65), "{verified:?}");
    let lines = COUNT + REFUSALS + 1;
    let named = |line: u32| {
        let line = format!("line {line}");
        verified.differences.iter().any(|text| has_word(text, &line))
    };
    assert!(named(2) && named(900) && named(lines + 1), "{verified:?}");

    let site = state.without(&[&second]).site();
    let daemon = site.start();
    assert_eq!(others_than("-1015", &daemon, 1..=COUNT + 100), []);
    daemon.stop();
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn a_damaged_end_of_the_tape_is_completed_also_behind_an_empty_new_file() {
    let mut state = stopped();
    let length = state.tape().len();
    state.tape()[length - 50] ^= 1;
    let site = state.site();
    fs::write(site.state_dir().join("tape/000002-2020-01-01.jsonl"), "").unwrap();
    let daemon = site.start();
    assert_agreement(&site, "up");
    daemon.stop();
    assert_agreement(&site, "down");
}

#[test]
fn a_tape_that_is_removed_under_a_running_daemon_is_named() {
    let site = killed().site();
    // All of it is agreed on when it stops.
    site.start().stop();
    let daemon = site.start();
    for name in State::of(&site).tape_files() {
        fs::remove_file(site.state_dir().join(name)).unwrap();
    }
    let verified = site.verify();
    assert_eq!(verified.code, Some(65), "{verified:?}");
    daemon.stop();
}

#[test]
fn a_tape_that_is_removed_while_it_is_written_is_told_anew_before_anything_else_is_promised() {
    let site = Setup::live().prepare();
    let mut daemon = site.start();
    let told = [(); 3].map(|()| Confirmation::fresh());
    for confirmation in &told {
        assert_eq!(daemon.code(confirmation), "1000");
    }
    for name in State::of(&site).tape_files() {
        fs::remove_file(site.state_dir().join(name)).unwrap();
    }
    assert_eq!(daemon.code(&Confirmation::fresh()), "-1009");
    assert_eq!(daemon.wait(END_TIME_MAX).code(), Some(1));
    let daemon = site.start();
    for confirmation in &told {
        assert_eq!(daemon.code(confirmation), "-1015");
    }
    daemon.stop();
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn what_both_witnesses_lost_is_named_and_nothing_is_invented() {
    let number = MIDDLE[1];
    let damaged = with_lines(&killed().without(&[WAL]), |lines| drop(lines.remove(number - 1)));
    let mut whole = killed();
    let lost = lines(whole.tape()).swap_remove(number - 1);
    let lost: serde_json::Value = serde_json::from_slice(&lost).unwrap();
    let sequence = lost["record"]["sequence"].as_u64().expect("a collection's line");
    let site = damaged.site();
    let daemon = site.start();
    let verified = site.verify();
    assert_eq!(verified.code, Some(65), "{verified:?}");
    let named = |words: &str| verified.differences.iter().any(|text| has_word(text, words));
    assert!(named(&format!("collection {sequence}")), "{verified:?}");
    assert!(named(&line(number + 1)), "{verified:?}");
    assert_eq!(verified.counts, (u64::from(COUNT) - 1, u64::from(COUNT) - 1));
    let gone = others_than("-1015", &daemon, 1..=COUNT);
    assert!(matches!(&gone[..], [(_, code)] if code == "1000"), "{gone:?}");
    let contract = numbered(gone[0].0).get("contractNumber");
    assert_eq!(lost["record"]["contract"], contract);
    let log = daemon.stop();
    assert!(log.contains(&format!("{} is in neither witness", line(number))), "{log}");
}

#[test]
fn a_lost_database_beside_a_damaged_tape_is_rebuilt_only_when_told_so() {
    let state = killed().without(&[DATABASE]);
    let length = state.clone().tape().len();
    let mut torn = state.clone();
    torn.tape().truncate(length - 10);
    let changed = with_lines(&state, |lines| lines[MIDDLE[0] - 1][40] ^= 1);
    for (state, case) in [(torn, "torn"), (changed, "changed")] {
        let site = state.site();
        let (code, log) = Daemon::refused(&site);
        assert_eq!(code, Some(65), "{case}: {log}");
        assert!(log.contains("tilld rebuild --despite-damage"), "{case}: {log}");
        rebuild(&site, &["--despite-damage"], case);
        let daemon = site.start();
        let gone = others_than("-1015", &daemon, 1..=COUNT);
        assert!(matches!(&gone[..], [(_, code)] if code == "1000"), "{case}: {gone:?}");
        daemon.stop();
        let verified = site.verify();
        let code = if case == "torn" { 0 } else { 65 };
        assert_eq!(verified.code, Some(code), "{case}: {verified:?}");
    }
}
