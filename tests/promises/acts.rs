//! What people do about the books over the control socket: it is done once, and stands in both
//! witnesses with who, when and why, whatever happens afterwards.

use std::fs;

use serde_json::{Value, json};

use crate::support::state::{DATABASE, SHM, WAL};
use crate::support::{Confirmation, Setup, Site, State};
use crate::tape::{killed, limit_files, start_ignoring_the_limits_signal};

/// A command of this person's: its exit code, what it printed, and what it said beside that.
fn by(actor: &str, site: &Site, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = site.command(arguments);
    let output = command.env("SUDO_USER", actor).output().expect("tilld can be run");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What the acts on the tape say, oldest first.
fn acts_on_tape(site: &Site) -> Vec<Value> {
    let mut state = State::of(site);
    let names = state.tape_files();
    let lines = names.iter().flat_map(|name| {
        let text = String::from_utf8(state.file(name).clone()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    });
    let acts = lines.filter(|line| line["what"] == "act");
    acts.map(|mut line| line["record"].take()).collect()
}

fn shown(site: &Site, reference: &str) -> Value {
    serde_json::from_str(&site.story(reference)).expect("JSON")
}

/// Who wrote what beside a thing that `tilld show` tells of.
fn notes(thing: &Value) -> Vec<(&str, &str)> {
    let acts = thing["acts"].as_array().unwrap_or_else(|| panic!("no acts: {thing}")).iter();
    let notes = acts.filter(|act| act["act"] == "note");
    notes.map(|act| (act["actor"].as_str().unwrap(), act["text"].as_str().unwrap())).collect()
}

/// A site with collection 1 and refusal 1 of another contract, and a note beside each.
fn noted_site() -> (Site, Confirmation, Confirmation) {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let (taken, refused) = (Confirmation::fresh(), Confirmation::fresh().with("amount", "1.001"));
    assert_eq!(daemon.code(&taken), "1000");
    assert_eq!(daemon.code(&refused), "2003");
    let contract = taken.get("contractNumber");
    let (code, printed, errors) = by("ana", &site, &["note", &contract, "payer", "came back"]);
    assert_eq!((code, &*printed), (Some(0), "noted beside collection:1\n"), "{errors}");
    let (code, printed, errors) = by("ben", &site, &["note", "refusal:1", "cash returned"]);
    assert_eq!((code, &*printed), (Some(0), "noted beside refusal:1\n"), "{errors}");
    // Killed, so that all of it is behind the mark.
    drop(daemon);
    (site, taken, refused)
}

/// Both notes stand in both witnesses, once.
fn assert_noted(site: &Site, case: &str) {
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{case}: {verified:?}");
    let story = &shown(site, "1")["stories"][0];
    assert_eq!(notes(story), [("ana", "payer came back")], "{case}");
    let refusal = &shown(site, "refusal:1")["refusals"][0];
    assert_eq!(notes(refusal), [("ben", "cash returned")], "{case}");
    assert_eq!(acts_on_tape(site).len(), 2, "{case}");
}

#[test]
fn a_note_stands_beside_what_it_is_about_and_on_the_tape_with_who_and_when() {
    let (site, taken, refused) = noted_site();
    assert_noted(&site, "the daemon is down");
    let daemon = site.start();
    let receipt = taken.get("receiptNumber");
    for (reference, text) in [(&*receipt, "=1+1"), ("collection:1", "Ñ"), ("1", "ok")] {
        let (code, _, errors) = by("ana", &site, &["note", reference, text]);
        assert_eq!(code, Some(0), "{errors}");
    }
    let story = &shown(&site, &taken.get("contractNumber"))["stories"][0];
    let all = ["payer came back", "=1+1", "Ñ", "ok"].map(|text| ("ana", text));
    assert_eq!(notes(story), all);
    let tape = acts_on_tape(&site);
    let at = tape[1]["atMs"].as_i64().expect("a time");
    let second =
        json!({"act": "note", "refusal": 1, "text": "cash returned", "actor": "ben", "atMs": at});
    assert_eq!((tape.len(), &tape[1]), (5, &second));

    // For people, and beneath the story of another collection of the refused contract.
    let (_, printed, _) = by("ana", &site, &["show", "1"]);
    assert!(printed.contains("by ana at 20") && printed.contains(": =1+1\n"), "{printed}");
    assert_eq!(daemon.code(&refused.clone().with("amount", "1.00")), "1000");
    let (_, printed, _) = by("ana", &site, &["show", &refused.get("contractNumber")]);
    assert!(printed.contains(": cash returned\n"), "{printed}");
    let (_, printed, _) = by("ana", &site, &["show", "refusal:1", "--output", "csv"]);
    assert!(printed.contains("cash returned"), "{printed}");
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn a_note_outlives_the_loss_of_either_witness() {
    let (site, ..) = noted_site();
    let killed = State::of(&site);
    site.start().stop();
    let stopped = State::of(&site);
    let mut cases =
        vec![("killed", killed.clone()), ("without WAL", killed.clone().without(&[WAL]))];
    cases.push(("without database", killed.clone().without(&[DATABASE, WAL, SHM])));
    cases.push(("without database after a stop", stopped.without(&[DATABASE])));
    for lines in 1..=2 {
        let mut cut = killed.clone();
        let whole = cut.tape().len();
        let text = String::from_utf8(cut.tape().clone()).expect("UTF-8");
        let end: usize = text.lines().rev().take(lines).map(|line| line.len() + 1).sum();
        for torn in [0, 20] {
            let mut cut = cut.clone();
            cut.tape().truncate(whole - end + torn);
            cases.push(("the tape lacks notes", cut));
        }
    }
    for (case, state) in cases {
        let site = state.site();
        let daemon = site.start();
        assert_noted(&site, case);
        drop(daemon);
        let output = site.tilld(&["rebuild"]);
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stderr));
        assert_noted(&site, &format!("{case}, rebuilt"));
    }
}

#[test]
fn a_backup_brings_notes_back_and_the_tape_those_that_came_later() {
    let (site, ..) = noted_site();
    let create = site.tilld(&["backup", "create"]);
    assert!(create.status.success(), "{}", String::from_utf8_lossy(&create.stderr));
    let daemon = site.start();
    assert_eq!(by("ana", &site, &["note", "1", "later"]).0, Some(0));
    daemon.stop();
    let list = site.tilld(&["backup", "list", "--output", "json"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let name = list["backups"][0]["name"].as_str().expect("a name");
    let restore = site.tilld(&["backup", "restore", name]);
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    site.start().stop();
    let story = &shown(&site, "1")["stories"][0];
    assert_eq!(notes(story), [("ana", "payer came back"), ("ana", "later")]);
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn a_note_that_was_altered_or_taken_out_of_the_database_is_named() {
    let (site, ..) = noted_site();
    site.start().stop();
    let stopped = State::of(&site);
    for change in [
        "UPDATE act SET text = 'payer never came back' WHERE sequence = 1",
        "UPDATE act SET actor = 'eve' WHERE sequence = 1",
        "UPDATE act SET refusal = NULL, sequence = 1 WHERE refusal = 1",
        "DELETE FROM act WHERE refusal = 1",
    ] {
        let site = stopped.site();
        let database = rusqlite::Connection::open(site.state_dir().join(DATABASE)).unwrap();
        assert_eq!(database.execute(change, []).unwrap(), 1, "{change}");
        drop(database);
        let verified = site.verify();
        let named = verified.differences.iter().any(|text| text.contains("what was done by line"));
        assert!(verified.code == Some(65) && named, "{change}: {verified:?}");
    }
}

#[test]
fn a_note_that_cannot_be_made_leaves_nothing_and_says_why() {
    let site = Setup::installments().prepare();
    let daemon = site.start();
    let taken = Confirmation::fresh();
    assert_eq!(daemon.code(&taken), "1000");
    assert_eq!(daemon.code(&taken.clone().with("receiptNumber", "second")), "1000");
    let long = "x".repeat(501);
    let contract = taken.get("contractNumber");
    for (arguments, code, why) in [
        (&["note", "SKY0100000000", "x"] as &[&str], 5, "no collection has"),
        (&["note", "collection:3", "x"], 5, "no collection has"),
        (&["note", "refusal:1", "x"], 5, "no collection has"),
        (&["note", &contract, "x"], 5, "one of collection:1, collection:2"),
        (&["note", "1", &long], 65, "1 to 500 printable characters"),
        (&["note", "1", "a\nb"], 65, "1 to 500 printable characters"),
        (&["note", "1", " "], 65, "1 to 500 printable characters"),
        (&["note", "1"], 2, "TEXT"),
        (&["show", "refusal:1"], 5, "no kept refusal"),
        (&["show", "collection:3"], 5, "no collection has"),
    ] {
        let (exit, printed, errors) = by("ana", &site, arguments);
        assert_eq!((exit, &*printed), (Some(code), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(why), "{arguments:?}: {errors}");
    }
    daemon.stop();
    let (exit, _, errors) = by("ana", &site, &["note", "1", "x"]);
    assert_eq!(exit, Some(3), "{errors}");
    assert!(errors.contains("the daemon is not running"), "{errors}");
    assert_eq!(acts_on_tape(&site), Vec::<Value>::new());
}

#[test]
fn a_note_is_not_confirmed_before_it_stands_on_the_tape() {
    // A tape that is longer than the other files, so that a limit hits it alone.
    let mut state = killed();
    let length = state.tape().len() as u64;
    let site = state.site();
    let daemon = start_ignoring_the_limits_signal(&site);
    limit_files(&daemon, Some(length));
    for text in ["first", "second"] {
        let (code, printed, errors) = by("ana", &site, &["note", "1", text]);
        assert_eq!((code, &*printed), (Some(1), ""), "{errors}");
    }
    assert_eq!(fs::metadata(site.state_dir().join(&state.tape_files()[0])).unwrap().len(), length);
    limit_files(&daemon, None);
    assert_eq!(by("ana", &site, &["note", "1", "third"]).0, Some(0));
    daemon.stop();
    let story = &shown(&site, "1")["stories"][0];
    let texts: Vec<&str> = notes(story).into_iter().map(|(_, text)| text).collect();
    // The first was committed, and completed on the tape before anything else was done.
    assert_eq!(texts, ["first", "third"]);
    assert_eq!(site.verify().code, Some(0));
}
