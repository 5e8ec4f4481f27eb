//! `tilld status`: how the daemon stands, in words, and whether something needs a person.

use std::fs;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Config;
use crate::domain::time::AcceptedAt;
use crate::operator::cli::Output;
use crate::operator::control::{self, Reply, Request};
use crate::operator::output::{Member, Printer, note, told, visible};
use crate::operator::snapshot::{Link, LinkState, OldestKey, Rows, Snapshot, counted};
use crate::operator::{Exit, Failure};
use crate::system::clock;

/// `status.json` is written once a minute; one that is older is of a daemon that was killed.
const FILE_AGE_MS_MAX: i64 = 150_000;

/// How often a watched status is asked for.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// So many callers are named with the age of their oldest key, the oldest first.
const KEYS_MAX: usize = 3;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Sends a terminal's cursor home and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// `tilld status`
pub fn status(config: &Config, output: Output) -> Result<(), Failure> {
    let snapshot = ask(config)?;
    print(BufWriter::new(io::stdout().lock()), &snapshot, output)?;
    match snapshot.warnings.len() {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Degraded, "a person should look at the warning")),
        count => {
            let message = format!("a person should look at the {count} warnings");
            Err(Failure::new(Exit::Degraded, message))
        }
    }
}

/// `tilld status --watch`: until somebody has seen enough. A daemon that does not answer, as while
/// it restarts, is asked again.
pub fn watch(config: &Config, output: Output) -> Result<(), Failure> {
    loop {
        let told = ask(config);
        let mut out = BufWriter::new(io::stdout().lock());
        if io::stdout().is_terminal() {
            out.write_all(CLEAR.as_bytes())?;
        }
        match told {
            Ok(snapshot) => print(out, &snapshot, output)?,
            Err(failure) if matches!(output, Output::Table) => {
                writeln!(out, "{failure}")?;
                out.flush()?;
            }
            // Among data no words.
            Err(failure) => note(failure),
        }
        thread::sleep(WATCH_INTERVAL);
    }
}

fn ask(config: &Config) -> Result<Snapshot, Failure> {
    match control::ask(&config.operator.socket, &Request::Status) {
        Ok(Reply::Status { snapshot }) => Ok(*snapshot),
        Ok(_) => Err(control::unexpected()),
        Err(failure) if failure.exit == Exit::Permission => public(config, failure),
        Err(failure) => Err(failure),
    }
}

/// What every local user may know, for one who may not ask the daemon.
fn public(config: &Config, forbidden: Failure) -> Result<Snapshot, Failure> {
    let path = &config.operator.status_file;
    let Ok(text) = fs::read(path) else { return Err(forbidden) };
    let snapshot: Snapshot = serde_json::from_slice(&text).map_err(|error| {
        let message = format!("{}: {error}; is it another version's?", path.display());
        Failure::new(Exit::Error, message)
    })?;
    let age_ms = AcceptedAt::new(clock::now()).unix_ms() - snapshot.at.0.unix_ms();
    if age_ms > FILE_AGE_MS_MAX {
        let message = format!(
            "the daemon seems not to run: {} is of {} and is written every minute",
            path.display(),
            snapshot.at.0
        );
        return Err(Failure::new(Exit::NotRunning, message));
    }
    note("sums are told to root and to the control socket's group only");
    Ok(snapshot)
}

fn print(mut out: impl Write, snapshot: &Snapshot, output: Output) -> io::Result<()> {
    match output {
        Output::Table => {
            for (label, text) in lines(snapshot) {
                writeln!(out, "{label:<12} {}", visible(&text))?;
            }
            out.flush()
        }
        Output::Json | Output::Jsonl => {
            writeln!(out, "{}", json!(snapshot))?;
            out.flush()
        }
        Output::Csv => {
            let mut printer = Printer::new(out, output, "status", &[]);
            printer.row(told(STATUS, snapshot))?;
            printer.finish([]).map(drop)
        }
    }
}

/// For people: what a line is about, and what is to be said of it.
fn lines(snapshot: &Snapshot) -> Vec<(&'static str, String)> {
    let Snapshot { version, mode, endpoint, books, .. } = snapshot;
    let since = snapshot.started_at.0.wall_clock();
    let mut lines = vec![
        ("tilld", format!("{version}, {mode}, since {since}, on {endpoint}")),
        ("today", counted(books.today.count, "collection")),
        ("head office", head_office(snapshot)),
    ];
    if !snapshot.is_sandbox() {
        let (label, none) =
            if snapshot.sends_nothing() { ("kept", "none") } else { ("waiting", "nothing") };
        let waiting = match books.queued.count {
            0 => none.to_owned(),
            _ => rows(snapshot, &books.queued),
        };
        lines.push((label, waiting));
    }
    if books.parked.count > 0 {
        let parked = rows(snapshot, &books.parked);
        lines.push(("parked", format!("{parked}: `tilld sync parked` says why")));
    }
    let recovered = &snapshot.recovered;
    let completed = [
        (recovered.rows, "row from the tape", "rows from the tape"),
        (recovered.lines, "line from the database", "lines from the database"),
        (recovered.set_aside, "torn end set aside", "torn ends set aside"),
    ];
    let completed: Vec<String> = completed
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    if !completed.is_empty() {
        lines.push(("made good", format!("at this start: {}", completed.join(", "))));
    }
    lines.push(("checked", check(snapshot)));
    let backup = match snapshot.last_backup_at {
        Some(last) => format!("the last one at {}", snapshot.clock_of(last)),
        None => "none yet: tilld-backup.timer makes one a day".to_owned(),
    };
    lines.push(("backup", backup));
    if let Some(ends_at) = snapshot.certificate_ends_at {
        let begins = snapshot.certificate_begins_at;
        let from = begins.map_or(String::new(), |at| format!("from {} ", at.0.date()));
        lines.push(("certificate", format!("holds {from}until {}", ends_at.0.date())));
    }
    lines.extend(key_ages(snapshot).map(|ages| ("keys", ages)));
    let free = snapshot.disk.free_bytes.map_or("unknown".to_owned(), bytes);
    lines.push(("disk", format!("{free} free, {} in reserve", bytes(snapshot.disk.reserve_bytes))));
    for warning in &snapshot.warnings {
        lines.push(("WARNING", format!("{}: {}", warning.what, warning.remedy)));
    }
    lines
}

fn head_office(snapshot: &Snapshot) -> String {
    if snapshot.is_sandbox() {
        return "nothing is sent: this is a sandbox".to_owned();
    }
    let Some(office) = &snapshot.head_office else {
        return "none is configured: collections are kept here".to_owned();
    };
    let Some(link) = &office.link else {
        return format!("{}: nothing is sent", office.host);
    };
    let mut words = snapshot.line_words(link);
    match link.state {
        LinkState::Up => {
            if let Some(trouble) = snapshot.last_trouble(link) {
                words = format!("{words}; {trouble}");
            }
        }
        LinkState::Down | LinkState::Misconfigured => {
            words = format!("{words}: {}; {}", link.trouble, next_try(snapshot, link));
        }
        LinkState::Probing => words = format!("{words}: {}; trying now", link.trouble),
    }
    if let Some(at) = link.last_success_at {
        words = format!("{words}; it last took something at {}", snapshot.clock_of(at));
    }
    words
}

fn next_try(snapshot: &Snapshot, link: &Link) -> String {
    let ms = link.next_probe_at.map_or(0, |at| at.0.unix_ms() - snapshot.at.0.unix_ms());
    match (ms + 500) / 1000 {
        ..=0 => "next try now".to_owned(),
        seconds @ 1..=119 => format!("next try in {seconds} s"),
        seconds => format!("next try in {} min", seconds / 60),
    }
}

fn rows(snapshot: &Snapshot, rows: &Rows) -> String {
    let mut words = counted(rows.count, "collection");
    if let Some(pesos) = rows.pesos() {
        words = format!("{words}, {} pesos", grouped(&pesos));
    }
    match rows.oldest_at {
        Some(oldest) if rows.count > 1 => {
            format!("{words}, the oldest since {}", snapshot.clock_of(oldest))
        }
        Some(oldest) => format!("{words}, since {}", snapshot.clock_of(oldest)),
        None => words,
    }
}

fn check(snapshot: &Snapshot) -> String {
    let Some(check) = &snapshot.last_check else {
        return "the first check of database and tape is not over".to_owned();
    };
    let at = snapshot.clock_of(check.at);
    match (&check.trouble, check.differences) {
        (Some(_), _) => format!("not at {at}"),
        (None, 0) => {
            let lines = counted(i64::try_from(check.lines).unwrap_or(i64::MAX), "line");
            format!("database and tape agreed at {at}, {lines}")
        }
        (None, differences) => format!("at {at}, differences: {differences}"),
    }
}

/// How old the oldest keys of callers are; nothing where nobody calls.
fn key_ages(snapshot: &Snapshot) -> Option<String> {
    let mut keys: Vec<_> = snapshot.keys.iter().collect();
    keys.sort_by_key(|key| key.since.0.unix_ms());
    let age = |key: &&OldestKey| {
        let days = (snapshot.at.0.unix_ms() - key.since.0.unix_ms()) / DAY_MS;
        format!("{} {}", key.caller, counted(days, "day"))
    };
    let mut ages: Vec<String> = keys.iter().take(KEYS_MAX).map(age).collect();
    let younger = keys.len() - ages.len();
    if younger > 0 {
        ages.push(format!("{younger} younger"));
    }
    let unknown = snapshot.callers.saturating_sub(keys.len());
    if unknown > 0 {
        ages.push(format!("{unknown} of unknown age: not added by `tilld key add`"));
    }
    (!ages.is_empty()).then(|| ages.join(", "))
}

/// Pesos with a comma after each three digits, as people read them.
pub(in crate::operator) fn grouped(pesos: &str) -> String {
    let (whole, rest) = pesos.split_at(pesos.find('.').unwrap_or(pesos.len()));
    let mut grouped = String::new();
    for (i, digit) in whole.char_indices() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// Two digits at least, and the unit that disks are sold in.
pub(in crate::operator) fn bytes(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    let found = units.into_iter().find(|(_, unit)| bytes >= *unit);
    match found {
        None => format!("{bytes} B"),
        Some((name, unit)) if bytes >= 10 * unit => format!("{} {name}", bytes / unit),
        Some((name, unit)) => {
            format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10))
        }
    }
}

/// What a spreadsheet is told.
const STATUS: &[Member<Snapshot>] = &[
    ("version", |snapshot| snapshot.version.as_str().into()),
    ("mode", |snapshot| snapshot.mode.as_str().into()),
    ("started_at", |snapshot| json!(snapshot.started_at)),
    ("at", |snapshot| json!(snapshot.at)),
    ("endpoint", |snapshot| json!(snapshot.endpoint)),
    ("condition", |snapshot| json!(snapshot.condition)),
    ("business_date", |snapshot| snapshot.books.today.business_date.as_str().into()),
    ("today", |snapshot| snapshot.books.today.count.into()),
    ("branch", |snapshot| {
        snapshot.head_office.as_ref().map(|office| office.branch.as_str()).into()
    }),
    ("link", |snapshot| of_link(snapshot, |link| json!(link.state))),
    ("link_since", |snapshot| of_link(snapshot, |link| json!(link.since))),
    ("link_trouble", |snapshot| of_link(snapshot, |link| link.trouble.as_str().into())),
    ("next_probe_at", |snapshot| of_link(snapshot, |link| json!(link.next_probe_at))),
    ("last_success_at", |snapshot| of_link(snapshot, |link| json!(link.last_success_at))),
    ("queued", |snapshot| snapshot.books.queued.count.into()),
    ("queued_pesos", |snapshot| snapshot.books.queued.pesos().into()),
    ("queued_oldest_at", |snapshot| json!(snapshot.books.queued.oldest_at)),
    ("parked", |snapshot| snapshot.books.parked.count.into()),
    ("parked_pesos", |snapshot| snapshot.books.parked.pesos().into()),
    ("parked_oldest_at", |snapshot| json!(snapshot.books.parked.oldest_at)),
    ("last_backup_at", |snapshot| json!(snapshot.last_backup_at)),
    ("certificate_ends_at", |snapshot| json!(snapshot.certificate_ends_at)),
    ("disk_free_bytes", |snapshot| snapshot.disk.free_bytes.into()),
    ("disk_reserve_bytes", |snapshot| snapshot.disk.reserve_bytes.into()),
    ("warnings", |snapshot| {
        let what: Vec<&str> = snapshot.warnings.iter().map(|one| one.what.as_str()).collect();
        what.join("; ").into()
    }),
];

fn of_link(snapshot: &Snapshot, tell: impl Fn(&Link) -> Value) -> Value {
    let link = snapshot.head_office.as_ref().and_then(|office| office.link.as_ref());
    link.map_or(Value::Null, tell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::snapshot::HeadOffice;
    use crate::operator::snapshot::tests::{MIN, calm, moment, with_link};

    fn line(snapshot: &Snapshot, label: &str) -> String {
        let lines = lines(snapshot);
        let found = lines.into_iter().find(|(name, _)| *name == label);
        found.map_or_else(String::new, |(_, text)| text)
    }

    #[test]
    fn a_branch_whose_line_is_down_is_told_in_words() {
        let mut down = with_link(LinkState::Down);
        down.books.parked = Rows { count: 1, centavos: Some(390_000), oldest_at: Some(moment(0)) };
        let mut out = Vec::new();
        print(&mut out, &down.judged(), Output::Table).unwrap();
        let expected = "\
tilld        0.1.0, live, since 2026-11-22 08:00:00, on 0.0.0.0:8443
today        412 collections
head office  line down since 10:12: connection refused by 10.1.0.1:8443; next try in 40 s; \
it last took something at 10:29
waiting      3 collections, 11,700.00 pesos, the oldest since 10:13
parked       1 collection, 3,900.00 pesos, since 08:00: `tilld sync parked` says why
checked      database and tape agreed at 08:01, 1234 lines
backup       the last one at 03:10
certificate  holds from 2025-11-22 until 2027-11-22
keys         till-7 90 days
disk         51 GB free, 67 MB in reserve
WARNING      1 collection parked: head office did not take it as it is: `tilld sync parked` says \
why; `tilld sync retry` sends again
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn kept_is_not_waiting_and_a_sandbox_sends_nothing() {
        let mut kept = calm();
        kept.head_office = None;
        assert!(line(&kept, "head office").contains("kept here"));
        assert!(line(&kept, "kept").starts_with("3 collections, 11,700.00 pesos"));
        assert_eq!(line(&kept, "waiting"), "");
        let sandbox = Snapshot { mode: "sandbox".to_owned(), ..calm() };
        assert!(line(&sandbox, "head office").contains("sandbox"));
        assert_eq!((line(&sandbox, "kept"), line(&sandbox, "waiting")), Default::default());
    }

    #[test]
    fn the_oldest_keys_are_named_first_and_those_of_unknown_age_are_counted() {
        let key = |caller: &str, days: i64| OldestKey {
            caller: caller.to_owned(),
            since: moment(150 * MIN - days * DAY_MS),
        };
        let mut told = calm();
        told.keys = vec![key("a", 1), key("b", 400), key("c", 0), key("d", 30), key("e", 0)];
        told.callers = 5;
        assert_eq!(line(&told, "keys"), "b 400 days, d 30 days, a 1 day, 2 younger");
        told.keys.truncate(1);
        told.callers = 3;
        let unknown = "2 of unknown age: not added by `tilld key add`";
        assert_eq!(line(&told, "keys"), format!("a 1 day, {unknown}"));
        told.keys.clear();
        told.callers = 2;
        assert_eq!(line(&told, "keys"), unknown);
        told.callers = 0;
        assert_eq!(line(&told, "keys"), "");
    }

    #[test]
    fn the_next_try_is_told_as_people_would() {
        for (state, words) in [
            (LinkState::Down, "line down since 10:12: connection"),
            (LinkState::Probing, "trying now"),
            (LinkState::Misconfigured, "refused by head office since 10:12: connection"),
            (LinkState::Up, "line up; the last try met: connection refused by 10.1.0.1:8443"),
        ] {
            let line = line(&with_link(state), "head office");
            assert!(line.contains(words), "{line}");
        }
        let mut down = with_link(LinkState::Down);
        let mut next_try_in = |ms| {
            let office: &mut HeadOffice = down.head_office.as_mut().unwrap();
            office.link.as_mut().unwrap().next_probe_at = Some(moment(150 * MIN + ms));
            line(&down, "head office")
        };
        assert!(next_try_in(-7).contains("next try now"));
        assert!(next_try_in(1200).contains("next try in 1 s"));
        assert!(next_try_in(4 * MIN).contains("next try in 4 min"));
    }

    #[test]
    fn what_was_made_good_is_told_and_silence_means_nothing_was() {
        let mut snapshot = calm();
        assert_eq!(line(&snapshot, "made good"), "");
        snapshot.recovered.rows = 2;
        snapshot.recovered.lines = 1;
        let expected = "at this start: 2 rows from the tape, 1 line from the database";
        assert_eq!(line(&snapshot, "made good"), expected);
    }

    #[test]
    fn machines_get_all_of_it_in_each_form() {
        let printed = |output| {
            let mut out = Vec::new();
            print(&mut out, &with_link(LinkState::Down).judged(), output).unwrap();
            String::from_utf8(out).unwrap()
        };
        let json: Value = serde_json::from_str(&printed(Output::Json)).unwrap();
        assert_eq!(json["schema_version"], 1);
        assert_eq!(json["head_office"]["link"]["state"], "down");
        assert_eq!(json["queued"]["centavos"], 1_170_000);
        assert_eq!(printed(Output::Jsonl).lines().count(), 1);
        let csv = printed(Output::Csv);
        assert_eq!(csv.lines().count(), 2, "{csv}");
        assert!(csv.contains(",down,") && csv.contains(",11700.00,"), "{csv}");
    }

    #[test]
    fn numbers_are_written_as_people_read_them() {
        for (pesos, expected) in [
            ("0.00", "0.00"),
            ("900.00", "900.00"),
            ("3900.00", "3,900.00"),
            ("123456789.10", "123,456,789.10"),
        ] {
            assert_eq!(grouped(pesos), expected);
        }
        for (size, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_050, "1.0 kB"),
            (67_108_864, "67 MB"),
            (9_990_000_000, "9.9 GB"),
            (51_200_000_000, "51 GB"),
        ] {
            assert_eq!(bytes(size), expected);
        }
    }
}
