//! What people do about the books over the control socket: it is done once, and stands in both
//! witnesses with who, when and why, whatever happens afterwards.

use std::fs;
use std::sync::LazyLock;
use std::thread;

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;
use serde_json::{Value, json};
use tilld::domain::time::AcceptedAt;
use tilld::system::clock;

use crate::support::clock::Clock;
use crate::support::fleet::Branch;
use crate::support::site::flags;
use crate::support::state::{DATABASE, SHM, WAL};
use crate::support::upstream::{Reply, Upstream};
use crate::support::{Confirmation, Daemon, JSON, PATH, Setup, Site, State, wire_time};
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
        let database = Connection::open(site.state_dir().join(DATABASE)).unwrap();
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
        (&["note", "0000001", "a receipt that never came"], 5, "no collection has"),
        (&["show", "+1"], 5, "no collection has"),
        (&["sync", "retry", "01"], 5, "no collection has"),
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

/// A day in the past, so that no test runs over midnight, or one so many days later.
fn day(later: i64) -> String {
    static FIRST: LazyLock<DateTime<Utc>> = LazyLock::new(|| clock::now() - TimeDelta::days(30));
    AcceptedAt::new(*FIRST + TimeDelta::days(later)).date().to_string()
}

/// A confirmation of this number, amount and channel on this day.
fn taken(number: u32, amount: &str, day: &str, channel: &str) -> Confirmation {
    Confirmation::numbered(number)
        .raw("amount", amount)
        .with("collectedTime", format!("{day} 09:10:00"))
        .with("payChannel", channel)
}

/// What closing a day comes to, which must go well.
fn closed(actor: &str, site: &Site, arguments: &[&str]) -> Value {
    let arguments = [&["close"], arguments, &["--output", "json"]].concat();
    let (code, printed, errors) = by(actor, site, &arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    serde_json::from_str(&printed).expect("JSON")
}

/// In whose day's books a collection stands, and its flags.
fn stands(site: &Site, confirmation: &Confirmation) -> (String, Vec<String>) {
    let row = site.only(&confirmation.get("contractNumber"));
    let flags = flags(&row).into_iter().map(str::to_owned).collect();
    (row["business_date"].as_str().expect("a date").to_owned(), flags)
}

fn late(day: String) -> (String, Vec<String>) {
    (day, vec!["late".to_owned()])
}

#[test]
fn a_day_is_closed_once_with_the_figures_of_both_witnesses() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for confirmation in [
        taken(1, "0.01", &day(0), "6"),
        taken(2, "100.00", &day(0), "10"),
        taken(3, "1000.10", &day(0), "10"),
        taken(4, "5.00", &day(1), "10"),
    ] {
        assert_eq!(daemon.code(&confirmation), "1000");
    }
    let first = closed("ana", &site, &[&day(0)]);
    let sum = |count: u32, centavos: u32| {
        let amount = format!("{}.{:02}", centavos / 100, centavos % 100);
        json!({"count": count, "amount": amount, "amount_centavos": centavos})
    };
    let (all, none) = (sum(3, 110_011), sum(0, 0));
    assert_eq!(first["all"], all);
    assert_eq!(
        first["channels"],
        json!([
            {"channel": 6, "channel_name": "GCash", "sum": sum(1, 1)},
            {"channel": 10, "channel_name": "7-Eleven", "sum": sum(2, 110_010)},
        ])
    );
    let kept = json!({"delivered": none, "waiting": none, "parked": none, "kept": all});
    assert_eq!((&first["head_office"], &first["undelivered"]), (&kept, &json!([])));
    assert_eq!((&first["closed_by"], &first["was_closed"]), (&json!("ana"), &json!(false)));

    let mut again = closed("ben", &site, &[&day(0), "--with-undelivered"]);
    assert_eq!(again["was_closed"], true);
    again["was_closed"] = false.into();
    assert_eq!(again, first, "the same figures, and who did it first");
    let (_, table, errors) = by("ben", &site, &["close", &day(0)]);
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], [&*format!("{},", day(0)), "closed", "by", "ana"]);
    for row in [["GCash", "1", "0.01"], ["all", "3", "1100.11"], ["kept", "3", "1100.11"]] {
        assert!(rows.contains(&row.to_vec()), "{table}");
    }
    assert!(errors.contains("had been closed before"), "{errors}");
    let (_, csv, _) = by("ben", &site, &["close", &day(0), "--output", "csv"]);
    assert!(csv.contains(",channel,10,7-Eleven,2,1100.10,110010,PHP\n"), "{csv}");

    let acts = acts_on_tape(&site);
    let written = |count: u32, centavos: u32| json!({"count": count, "centavos": centavos});
    let figures = json!({
        "channels": {"6": written(1, 1), "10": written(2, 110_010)},
        "delivered": written(0, 0),
        "waiting": written(0, 0),
        "parked": written(0, 0),
        "kept": written(3, 110_011),
    });
    assert_eq!(acts.len(), 1);
    assert_eq!((&acts[0]["act"], &acts[0]["figures"]), (&json!("close"), &figures));
    let (code, _, errors) = by("ben", &site, &["takings", "--day", &day(0)]);
    assert!(code == Some(0) && errors.contains("was closed by ana"), "{errors}");
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn what_comes_for_a_closed_day_stands_in_the_next_open_one_whatever_was_lost_meanwhile() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = taken(1, "100.00", &day(0), "10");
    assert_eq!(daemon.code(&first), "1000");
    closed("ana", &site, &[&day(0)]);
    closed("ana", &site, &[&day(2)]);
    let second = taken(2, "100.00", &day(0), "10");
    assert_eq!(daemon.code(&second), "1000");
    assert_eq!(stands(&site, &second), late(day(1)));
    assert_eq!(daemon.code(&first), "-1015");
    assert_eq!(stands(&site, &first), (day(0), vec![]), "what stands, stands");
    let next = closed("ana", &site, &[&day(1)]);
    assert_eq!(next["all"]["count"], 1);
    let open = taken(3, "100.00", &day(3), "10");
    assert_eq!(daemon.code(&open), "1000");
    assert_eq!(stands(&site, &open), (day(3), vec![]));
    drop(daemon);

    let killed = State::of(&site);
    site.start().stop();
    let stopped = State::of(&site);
    for (case, state) in [
        ("killed", killed.clone()),
        ("stopped", stopped.clone()),
        ("without WAL", killed.clone().without(&[WAL])),
        ("without database", killed.clone().without(&[DATABASE, WAL, SHM])),
        ("without tape", stopped.clone().without(&[&stopped.tape_files()[0]])),
    ] {
        let site = state.site();
        let daemon = site.start();
        let third = taken(4, "100.00", &day(0), "10");
        assert_eq!(daemon.code(&third), "1000", "{case}");
        assert_eq!(stands(&site, &third), late(day(3)), "{case}");
        assert_eq!(stands(&site, &second), late(day(1)), "{case}");
        assert_eq!(daemon.code(&second), "-1015", "{case}");
        assert_eq!(closed("ben", &site, &[&day(1)])["all"], next["all"], "{case}");
        daemon.stop();
        let verified = site.verify();
        assert_eq!(verified.code, Some(0), "{case}: {verified:?}");
    }
}

/// Confirms these numbers on that day over one connection.
fn confirm_all(daemon: &Daemon, numbers: impl Iterator<Item = u32>) {
    confirm_each(daemon, numbers.map(|number| taken(number, "1.00", &day(0), "10")));
}

fn confirm_each(daemon: &Daemon, confirmations: impl Iterator<Item = Confirmation>) {
    let mut till = daemon.till();
    for confirmation in confirmations {
        let body = confirmation.text();
        assert_eq!(till.post(PATH, JSON, &[], body.as_bytes()).code(), "1000", "{body}");
    }
}

/// As a till does that counts where it should name a channel.
#[test]
fn a_day_of_thousands_of_channels_is_closed_and_told_whatever_was_lost_meanwhile() {
    const CHANNELS: u32 = 2500;
    let site = Setup::live().prepare();
    let daemon = site.start();
    let of_channel = |n: u32| taken(n, "1.00", &day(0), &(10_000 + n).to_string());
    confirm_each(&daemon, (1..=CHANNELS).map(of_channel));
    let close = closed("ana", &site, &[&day(0)]);
    assert_eq!(close["all"]["count"], CHANNELS);
    confirm_all(&daemon, CHANNELS + 1..=CHANNELS + 2);
    daemon.stop();
    for lost in [&[] as &[&str], &[DATABASE]] {
        let site = State::of(&site).without(lost).site();
        let daemon = site.start();
        let again = closed("ben", &site, &[&day(0)]);
        assert_eq!(
            (&again["was_closed"], &again["all"]),
            (&json!(true), &close["all"]),
            "{lost:?}"
        );
        daemon.stop();
        let verified = site.verify();
        assert_eq!(verified.code, Some(0), "{lost:?}: {verified:?}");
    }
}

#[test]
fn a_close_amid_confirmations_counts_those_of_its_day_and_leaves_the_others_to_the_next() {
    const TILLS: u32 = 8;
    const EACH: u32 = 60;
    let site = Setup::live().prepare();
    let daemon = site.start();
    confirm_all(&daemon, 1..=20);
    let close = thread::scope(|scope| {
        for till in 1..=TILLS {
            let daemon = &daemon;
            scope.spawn(move || confirm_all(daemon, (1..=EACH).map(|n| till * 1000 + n)));
        }
        let is_begun = || site.list(&["--day", &day(0), "--limit", "1000"]).len() > 60;
        crate::support::eventually(is_begun);
        closed("ana", &site, &[&day(0)])
    });
    let of_day = |day: &str| site.list(&["--day", day, "--limit", "1000"]);
    let (before, after) = (of_day(&day(0)), of_day(&day(1)));
    assert_eq!(before.len() + after.len(), 20 + (TILLS * EACH) as usize);
    assert_eq!(close["all"]["count"], before.len());
    assert_eq!(close["all"]["amount_centavos"], before.len() * 100);
    assert!(before.iter().all(|row| flags(row).is_empty()));
    assert!(!after.is_empty() && after.iter().all(|row| flags(row) == ["late"]));
    daemon.stop();
    let verified = site.verify();
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn a_day_with_undelivered_collections_is_closed_only_when_told_so() {
    let [sent, parked, waiting] = [1, 2, 3].map(|number| taken(number, "100.00", &day(0), "10"));
    let settled = parked.get("contractNumber");
    let late = waiting.get("contractNumber");
    let upstream = Upstream::start(move |got| match got.contract() {
        contract if contract == settled => Reply::code(-1026),
        contract if contract == late => Reply::code(-1009),
        _ => Reply::code(1000),
    });
    let branch = Branch::of_upstream(&upstream).started();
    let site = &branch.site;
    for confirmation in [&sent, &parked, &waiting] {
        assert_eq!(branch.daemon().code(confirmation), "1000");
    }
    branch.await_count("SELECT count(*) FROM delivery", |count| count == 2);
    let (code, printed, errors) = by("ana", site, &["close", &day(0)]);
    assert_eq!((code, &*printed), (Some(6), ""), "{errors}");
    let contract = |confirmation: &Confirmation| confirmation.get("contractNumber");
    for words in [
        &format!("parked: collection:2, contract {}", contract(&parked)),
        &format!("waiting: collection:3, contract {}", contract(&waiting)),
        "--with-undelivered",
    ] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    assert!(!errors.contains(&contract(&sent)), "{errors}");
    let still = taken(4, "100.00", &day(0), "10");
    assert_eq!(branch.daemon().code(&still), "1000");
    assert_eq!(stands(site, &still), (day(0), vec![]), "it is open still");
    branch.await_count("SELECT count(*) FROM delivery", |count| count == 3);

    let close = closed("ana", site, &[&day(0), "--with-undelivered"]);
    let count = |standing: &str| close["head_office"][standing]["count"].as_i64();
    let counts = ["delivered", "waiting", "parked", "kept"].map(count);
    assert_eq!(counts, [Some(2), Some(1), Some(1), Some(0)]);
    let named: Vec<(&Value, &Value)> = close["undelivered"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (&row["sequence"], &row["head_office"]))
        .collect();
    assert_eq!(named, [(&json!(2), &json!("parked")), (&json!(3), &json!("queued"))]);
}

#[test]
fn an_amount_that_was_altered_in_the_queue_is_named_and_no_close_is_made_of_it() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    confirm_each(&daemon, (1..=2).map(|number| taken(number, "100.00", &day(0), "10")));
    daemon.stop();
    let database = Connection::open(site.state_dir().join(DATABASE)).unwrap();
    database.execute("UPDATE outbox SET amount = amount + 1 WHERE sequence = 2", []).unwrap();
    drop(database);
    let verified = site.verify();
    assert_eq!(verified.code, Some(65), "{verified:?}");
    let named = "collection 2 is queued for head office or parked with another amount";
    assert!(format!("{verified:?}").contains(named), "{verified:?}");
    let _daemon = site.start();
    let close = closed("ana", &site, &[&day(0)]);
    let sums = ["kept", "delivered"].map(|standing| &close["head_office"][standing]["amount"]);
    assert_eq!(sums, [&json!("200.00"), &json!("0.00")]);
}

/// A directory in the place of a file fails to be read, as a bad sector does.
#[test]
fn a_file_of_the_tape_that_cannot_be_read_keeps_no_other_day_open() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    confirm_each(&daemon, [taken(1, "100.00", &day(0), "10")].into_iter());
    fs::create_dir(site.state_dir().join("tape/000000-2020-01-01.jsonl")).unwrap();
    assert_eq!(closed("ana", &site, &[&day(0)])["all"]["amount"], "100.00");
    // One that may tell of the day does.
    let name = format!("999999-{}.jsonl", day(1));
    fs::create_dir(site.state_dir().join("tape").join(&name)).unwrap();
    let (code, _, errors) = by("ana", &site, &["close", &day(2)]);
    assert!(code == Some(1) && errors.contains(&name), "{code:?}: {errors}");
    drop(daemon);
}

#[test]
fn a_day_that_cannot_be_closed_stays_open_and_it_is_said_why() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let tomorrow = &wire_time(TimeDelta::hours(30))[..10];
    for (day, code, why) in
        [(tomorrow, 1, "has not come yet"), ("2026-02-30", 2, "a date as"), ("today", 2, "a date")]
    {
        let (exit, printed, errors) = by("ana", &site, &["close", day]);
        assert_eq!((exit, &*printed), (Some(code), ""), "{day}: {errors}");
        assert!(errors.contains(why), "{day}: {errors}");
    }
    let today = &wire_time(TimeDelta::zero())[..10];
    assert_eq!(closed("ana", &site, &[today])["all"]["count"], 0, "a manager closes today's");
    daemon.stop();
    let (exit, _, errors) = by("ana", &site, &["close", &day(0)]);
    assert_eq!(exit, Some(3), "{errors}");
}

#[test]
fn a_day_of_which_the_witnesses_tell_different_figures_is_not_closed() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    confirm_all(&daemon, 1..=5);
    daemon.stop();
    let stopped = State::of(&site);
    for case in ["twice", "altered"] {
        let mut state = stopped.clone();
        let text = String::from_utf8(state.tape().clone()).expect("UTF-8");
        let line = text.lines().find(|line| line.contains("R-00000003")).expect("a line");
        let other = match case {
            "twice" => format!("{line}\n{line}"),
            _ => line.replace("\"1.00\"", "\"9.00\""),
        };
        *state.tape() = text.replace(line, &other).into_bytes();
        let site = state.site();
        let daemon = site.start();
        let (code, printed, errors) = by("ana", &site, &["close", &day(0)]);
        assert_eq!((code, &*printed), (Some(65), ""), "{case}: {errors}");
        assert!(errors.contains("database 5 collections, 5.00 pesos"), "{case}: {errors}");
        assert!(errors.contains("stays open") && errors.contains("tilld verify"), "{errors}");
        let next = taken(6, "1.00", &day(0), "10");
        assert_eq!(daemon.code(&next), "1000");
        assert_eq!(stands(&site, &next), (day(0), vec![]), "{case}");
    }
}

#[test]
fn a_collection_that_stands_in_a_day_behind_its_close_is_named() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    confirm_all(&daemon, 1..=2);
    closed("ana", &site, &[&day(0)]);
    daemon.stop();
    let change = |statements: &str| {
        let database = Connection::open(site.state_dir().join(DATABASE)).unwrap();
        database.execute_batch(statements).unwrap();
    };
    let aside = format!("ATTACH '{}' AS aside;", site.path().join("aside.db").display());
    change(&format!("{aside} CREATE TABLE aside.hidden AS SELECT * FROM act; DELETE FROM act;"));
    let daemon = site.start();
    confirm_all(&daemon, 3..=3);
    daemon.stop();
    change(&format!("{aside} INSERT INTO act SELECT * FROM hidden;"));
    let verified = site.verify();
    let words = format!("tells of a collection of {}, closed by", day(0));
    let named = |text: &String| text.contains(&words);
    assert_eq!(verified.code, Some(65), "{verified:?}");
    assert!(verified.differences.iter().all(named), "{verified:?}");

    change("UPDATE act SET figures = replace(figures, '200', '300');");
    let verified = site.verify();
    let named = |text: &String| text.contains("what was done by line");
    assert!(verified.differences.iter().any(named), "{verified:?}");
}

/// What accepting a refusal says.
fn accepted(site: &Site, refusal: &str) -> String {
    let arguments = ["refusals", "accept", refusal, "--reason", "the cash is in the drawer"];
    let (code, printed, errors) = by("ana", site, &arguments);
    assert_eq!(code, Some(0), "{refusal}: {errors}");
    printed
}

#[test]
fn an_accepted_refusal_is_a_collection_of_its_own_and_goes_to_head_office_once() {
    let upstream = Upstream::start(|_| Reply::code(1000));
    let mut branch = Branch::of_upstream(&upstream).started();
    let first = taken(1, "100.00", &day(0), "10");
    let paid = first.clone().with("receiptNumber", "other receipt").raw("amount", "0.07");
    let conflict = first.clone().raw("amount", "250.10");
    let restamped = conflict.clone().with("collectedTime", format!("{} 10:00:00", day(1)));
    for (confirmation, code) in
        [(&first, "1000"), (&paid, "-1026"), (&conflict, "2005"), (&restamped, "2005")]
    {
        assert_eq!(branch.daemon().code(confirmation), code);
    }
    let site = &branch.site;
    assert_eq!(accepted(site, "1"), "refusal:1 is collection:2 now\n");
    assert_eq!(accepted(site, "refusal:2"), "refusal:2 is collection:3 now\n");
    let once_more = "refusal:3 stood already as collection:3, and is marked so\n";
    assert_eq!(accepted(site, "3"), once_more, "the same cash, refused twice");
    for (refusal, collection) in [("1", 2), ("2", 3), ("3", 3)] {
        let said = format!("refusal:{refusal} was accepted before as collection:{collection}\n");
        assert_eq!(accepted(site, refusal), said);
    }
    // What was accepted stands, and what it contradicted stands as it did.
    assert_eq!(branch.daemon().code(&paid), "-1015");
    assert_eq!(branch.daemon().code(&conflict), "2005");
    assert_eq!(branch.daemon().code(&first), "-1015");

    branch.await_empty_outbox();
    let got = upstream.await_requests(3);
    let mut sent: Vec<_> =
        got.iter().map(|got| (got.field("receiptNumber"), got.field("amount"))).collect();
    sent.sort();
    let own = sent[1].0.clone();
    assert!(own.starts_with("R-00000001~") && own.len() == 27, "{own}");
    let of = |receipt: &str, amount: &str| (receipt.to_owned(), amount.to_owned());
    let wanted = [of("R-00000001", "100.00"), of(&own, "250.10"), of("other receipt", "0.07")];
    assert_eq!(sent, wanted);

    branch.kill();
    let killed = State::of(&branch.site);
    for (case, state) in [
        ("killed", killed.clone()),
        ("without WAL", killed.clone().without(&[WAL])),
        ("without database", killed.clone().without(&[DATABASE, WAL, SHM])),
    ] {
        let site = state.site();
        let daemon = site.start();
        let rows = site.all();
        let told = rows.iter().map(|row| (row["receipt"].as_str().unwrap(), flags(row).join(",")));
        let wanted = [(&*own, "accepted"), ("other receipt", "accepted"), ("R-00000001", "")];
        assert_eq!(told.collect::<Vec<_>>(), wanted.map(|(a, b)| (a, b.to_owned())), "{case}");
        let accepted_as: Vec<i64> =
            site.refusals().iter().map(|row| row["accepted_as"].as_i64().unwrap()).collect();
        assert_eq!(accepted_as, [3, 3, 2], "{case}");
        assert_eq!(accepted(&site, "2"), "refusal:2 was accepted before as collection:3\n");
        assert_eq!(daemon.code(&paid), "-1015", "{case}");
        let (_, told, _) = by("ana", &site, &["show", "collection:2"]);
        let words = "refusal:1 accepted as collection:2 by ana at ";
        assert!(told.contains(words) && told.contains(": the cash is in the drawer"), "{told}");
        daemon.stop();
        assert_eq!(site.verify().code, Some(0), "{case}");
    }
}

#[test]
fn what_was_confirmed_after_its_refusal_is_not_accepted_a_second_time() {
    let setup = Setup::live();
    let site = Setup { prefixes: &["SKY98"], ..setup.clone() }.prepare();
    let daemon = site.start();
    let confirmation = taken(1, "100.00", &day(0), "10");
    assert_eq!(daemon.code(&confirmation), "2006");
    daemon.stop();
    site.configure(&setup);
    let daemon = site.start();
    assert_eq!(daemon.code(&confirmation), "1000");
    let said = accepted(&site, "1");
    assert_eq!(said, "refusal:1 stood already as collection:1, and is marked so\n");
    assert_eq!((site.all().len(), flags(&site.all()[0])), (1, vec![]));
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn an_accepted_refusal_of_a_closed_day_is_late_and_one_of_an_unknown_prefix_is_taken() {
    let site = Setup { prefixes: &["SKY98"], ..Setup::live() }.prepare();
    let daemon = site.start();
    let confirmation = taken(1, "100.00", &day(0), "10");
    assert_eq!(daemon.code(&confirmation), "2006");
    closed("ana", &site, &[&day(0)]);
    assert_eq!(accepted(&site, "1"), "refusal:1 is collection:1 now\n");
    let flags = vec!["late".to_owned(), "accepted".to_owned()];
    assert_eq!(stands(&site, &confirmation), (day(1), flags));
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

/// Days later its time is odd no more, and nothing else is near it.
#[test]
fn an_accepted_refusal_is_judged_by_when_it_came() {
    let setup = Setup::live();
    let site = Setup { prefixes: &["SKY98"], ..setup.clone() }.prepare();
    let clock = Clock::of(&site);
    let daemon = Daemon::start_by(&site, site.wrapped(clock.wrapper()));
    let ahead = wire_time(TimeDelta::hours(26));
    let refused = Confirmation::fresh().by_till().with("collectedTime", ahead);
    assert_eq!(daemon.code(&refused), "2006");
    let today = AcceptedAt::new(clock::now()).date().to_string();
    site.configure(&setup);
    assert_eq!(by("ana", &site, &["reload"]).0, Some(0));
    let other = Confirmation::fresh().with("contractNumber", refused.get("contractNumber"));
    assert_eq!(daemon.code(&other), "1000");
    clock.set(TimeDelta::days(2));
    assert_eq!(accepted(&site, "1"), "refusal:1 is collection:2 now\n");
    let row = &site.all()[0];
    assert_eq!(row["business_date"], today, "{row}");
    assert_eq!(flags(row), ["collected-ahead", "possible-double", "accepted"], "{row}");
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn what_was_unusual_about_a_refusal_is_told_of_the_collection_that_it_becomes() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmation = taken(1, "100.00", &day(0), "10");
    assert_eq!(daemon.code(&confirmation), "1000");
    let other = confirmation.raw("amount", "100.10").with("remarks", "x".repeat(5000));
    assert_eq!(daemon.code(&other), "2005");
    assert_eq!(accepted(&site, "1"), "refusal:1 is collection:2 now\n");
    assert_eq!(flags(&site.all()[0]), ["unknown-fields-dropped", "accepted"]);
}

#[test]
fn what_cannot_be_accepted_leaves_nothing_and_it_is_said_why() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh().with("amount", "1.001")), "2003");
    assert_eq!(daemon.code(&Confirmation::fresh().without("receiptNumber")), "2002");
    for (arguments, code, why) in [
        (&["1", "--reason", "x"] as &[&str], 65, "no whole confirmation: amount: expected"),
        (&["2", "--reason", "x"], 65, "no whole confirmation: missing: receiptNumber"),
        (&["3", "--reason", "x"], 5, "no kept refusal has the number 3"),
        (&["1", "--reason", ""], 65, "the reason: expected 1 to 500"),
        (&["1"], 2, "--reason"),
        (&["collection:1", "--reason", "x"], 2, "the number of a refusal"),
    ] {
        let arguments = [&["refusals", "accept"], arguments].concat();
        let (exit, printed, errors) = by("ana", &site, &arguments);
        assert_eq!((exit, &*printed), (Some(code), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(why), "{arguments:?}: {errors}");
    }
    daemon.stop();
    let arguments = ["refusals", "accept", "1", "--reason", "x"];
    assert_eq!(by("ana", &site, &arguments).0, Some(3));
    assert_eq!((site.all(), acts_on_tape(&site)), (vec![], vec![]));
}

/// What reopening the contract of a confirmation says.
fn reopened(site: &Site, confirmation: &Confirmation) -> String {
    let contract = confirmation.get("contractNumber");
    let arguments = ["contract", "reopen", &contract, "--reason", "paid back in cash"];
    let (code, printed, errors) = by("ana", site, &arguments);
    assert_eq!(code, Some(0), "{errors}");
    printed.replace(&contract, "it")
}

#[test]
fn a_reopened_contract_takes_one_more_confirmation_whatever_was_lost_meanwhile() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = taken(1, "100.00", &day(0), "10");
    let [second, third] =
        ["second", "third"].map(|receipt| first.clone().with("receiptNumber", receipt));
    let other = taken(2, "100.00", &day(0), "10");
    for (confirmation, code) in [(&first, "1000"), (&second, "-1026"), (&other, "1000")] {
        assert_eq!(daemon.code(confirmation), code);
    }
    assert_eq!(reopened(&site, &first), "it may be paid once more\n");
    assert_eq!(reopened(&site, &first), "it was reopened before, and has not been paid since\n");
    assert_eq!(daemon.code(&first), "-1015", "what stands, stands");
    assert_eq!(acts_on_tape(&site).len(), 1);
    drop(daemon);

    let killed = State::of(&site);
    site.start().stop();
    for (case, state) in [
        ("killed", killed.clone()),
        ("stopped", State::of(&site)),
        ("without WAL", killed.clone().without(&[WAL])),
        ("without database", killed.clone().without(&[DATABASE, WAL, SHM])),
    ] {
        let site = state.site();
        let daemon = site.start();
        assert_eq!(daemon.code(&other.clone().with("receiptNumber", "x")), "-1026", "{case}");
        assert_eq!(daemon.code(&second), "1000", "{case}");
        assert_eq!(daemon.code(&third), "-1026", "{case}: once more, and not twice");
        assert_eq!(daemon.code(&second), "-1015", "{case}");
        let (_, told, _) = by("ana", &site, &["show", "collection:1"]);
        let words = "contract reopened    by ana at ";
        assert!(told.contains(words) && told.contains(": paid back in cash"), "{told}");
        assert_eq!(reopened(&site, &first), "it may be paid once more\n", "{case}");
        assert_eq!(daemon.code(&third), "1000", "{case}");
        daemon.stop();
        assert_eq!(site.verify().code, Some(0), "{case}");
    }
}

#[test]
fn a_contract_that_head_office_calls_settled_can_be_reopened_and_an_unknown_one_cannot() {
    let upstream = Upstream::start(|_| Reply::code(-1026));
    let branch = Branch::of_upstream(&upstream).started();
    let site = &branch.site;
    let first = taken(1, "100.00", &day(0), "10");
    let second = first.clone().with("receiptNumber", "second");
    assert_eq!(branch.daemon().code(&first), "1000");
    branch.await_count("SELECT count(*) FROM parked", |count| count == 1);
    assert_eq!(branch.daemon().code(&second), "-1026");
    assert_eq!(reopened(site, &first), "it may be paid once more\n");
    assert_eq!(branch.daemon().code(&second), "1000");
    for (arguments, code, why) in [
        (&["SKY0100000099", "--reason", "x"] as &[&str], 5, "nothing was ever collected"),
        (&["SKY01", "--reason", "x"], 65, "expected"),
        (&["SKY0100000001", "--reason", " "], 65, "the reason: expected 1 to 500"),
        (&["SKY0100000001"], 2, "--reason"),
    ] {
        let arguments = [&["contract", "reopen"], arguments].concat();
        let (exit, printed, errors) = by("ana", site, &arguments);
        assert_eq!((exit, &*printed), (Some(code), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(why), "{arguments:?}: {errors}");
    }
    assert_eq!(acts_on_tape(site).len(), 1);
}
