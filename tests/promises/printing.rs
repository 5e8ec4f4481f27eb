//! What commands print: harmless for a terminal, exact for a machine, and no noise when nobody
//! reads on.

use serde_json::Value;

use crate::support::{Confirmation, Setup, Site};

/// What a caller might write to steer the terminal of whoever reads the books: an escape sequence
/// in one byte, a turned reading direction, a break of the line.
const HOSTILE: &str = "\u{9b}31mPAID\u{202e}\u{2028}end";
const HOSTILE_SHOWN: &str = r"\u{9b}31mPAID\u{202e}\u{2028}end";

/// Every command that prints to standard output.
const PRINTING: &[&[&str]] = &[
    &["list"],
    &["list", "--output", "json"],
    &["list", "--output", "csv"],
    &["refusals"],
    &["show", "1"],
    &["show", "1", "--output", "json"],
    &["sync", "parked", "--output", "json"],
    &["branches", "--output", "json"],
    &["verify"],
    &["verify", "--output", "json"],
    &["backup", "list", "--output", "json"],
    &["config", "check"],
    &["cert", "show"],
    &["cert", "show", "--pem"],
    &["cert", "show", "--output", "json"],
];

fn printed(site: &Site, arguments: &[&str]) -> String {
    let output = site.tilld(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A site with a collection and a refusal in which the caller wrote something hostile.
fn hostile_site() -> Site {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh().with("cashierName", HOSTILE);
    assert_eq!(daemon.code(&confirmation), "1000");
    let refused = confirmation.with("amount", "1.00");
    assert_eq!(daemon.code(&refused), "2005");
    daemon.stop();
    site
}

#[test]
fn what_callers_wrote_is_escaped_for_people_and_exact_for_machines() {
    let site = hostile_site();
    for arguments in [&["refusals"] as &[&str], &["show", "1"]] {
        let text = printed(&site, arguments);
        assert!(text.contains(HOSTILE_SHOWN), "{arguments:?}: {text:?}");
        let is_harmful = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2028}".contains(c);
        assert!(!text.contains(is_harmful), "{arguments:?}: {text:?}");
    }
    let written = |text: &Value| {
        let object: Value = serde_json::from_str(text.as_str().expect("text")).expect("JSON");
        object["cashierName"].clone()
    };
    assert_eq!(written(&site.all()[0]["unknown_fields"]), HOSTILE);
    assert_eq!(written(&site.refusals()[0]["text"]), HOSTILE);
    for line in [&["list"] as &[&str], &["refusals"]] {
        let text = printed(&site, &[line, &["--output", "csv"]].concat());
        assert!(text.contains(HOSTILE), "{text:?}");
    }
}

#[test]
fn a_list_without_rows_is_still_a_whole_csv() {
    let empty = Setup::live().prepare();
    let _daemon = empty.start();
    let filled = hostile_site();
    for verb in [&["sync", "parked"] as &[&str], &["branches"]] {
        let header = printed(&empty, &[verb, &["--output", "csv"]].concat());
        assert_eq!(header.lines().count(), 1, "{verb:?}: {header}");
    }
    for verb in ["list", "refusals"] {
        let arguments = [verb, "--output", "csv"];
        let header = printed(&empty, &arguments);
        assert_eq!(header.lines().count(), 1, "{verb}: {header}");
        assert_eq!(printed(&filled, &arguments).lines().next(), header.lines().next(), "{verb}");
    }
}

#[test]
fn money_and_numbers_of_a_table_end_in_one_column() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for amount in ["5.00", "12345.67"] {
        assert_eq!(daemon.code(&Confirmation::fresh().with("amount", amount)), "1000");
    }
    let table = printed(&site, &["list"]);
    let ends: Vec<Option<usize>> =
        ["PESOS", "12345.67", " 5.00"].iter().map(|cell| Some(table_end(&table, cell))).collect();
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
}

/// In which column of its line a cell ends.
fn table_end(table: &str, cell: &str) -> usize {
    let line = table.lines().find(|line| line.contains(cell)).expect("the cell is printed");
    line.find(cell).expect("it is in this line") + cell.len()
}

#[test]
fn a_reader_that_goes_away_ends_a_command_without_a_word() {
    let site = hostile_site();
    let _daemon = site.start();
    for arguments in PRINTING {
        printed(&site, arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = site.command(arguments).stdout(writer).output().expect("tilld can be run");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*errors), (Some(1), ""), "{arguments:?}");
    }
}

#[test]
fn a_closed_standard_error_changes_no_exit_code() {
    let site = Setup::live().prepare();
    for (arguments, code) in [
        (&["cert", "show"] as &[&str], 5),
        (&["list", "--flag", "overpaid"], 0),
        (&["show", "1"], 5),
    ] {
        if arguments[0] == "list" {
            site.start().stop();
        }
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = site.command(arguments).stderr(writer).output().expect("tilld can be run");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_certificate_is_shown_in_every_form() {
    let site = Setup::live().prepare();
    site.start().stop();
    let text = printed(&site, &["cert", "show"]);
    let json: Value =
        serde_json::from_str(&printed(&site, &["cert", "show", "--output", "json"])).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["file"], site.certificate().display().to_string());
    let fingerprint = json["sha256"].as_str().expect("a fingerprint");
    assert!(text.contains(fingerprint), "{text}");
    assert!(json["names"].as_array().expect("names").contains(&"localhost".into()), "{json}");
    let csv = printed(&site, &["cert", "show", "--output", "csv"]);
    assert!(csv.lines().count() == 2 && csv.contains(fingerprint), "{csv}");
    let both = site.tilld(&["cert", "show", "--pem", "--output", "json"]);
    assert_eq!(both.status.code(), Some(2), "one or the other");
}
