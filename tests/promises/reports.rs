//! What a manager and head office's bookkeepers ask of a branch: takings, exports, and whether the
//! books agree with somebody else's report.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Confirmation, Setup, Site};

/// A day in the past, so that no test runs over midnight.
const DAY: &str = "2026-03-05";

/// A confirmation of this number, amount, time on [`DAY`] and channel.
fn taken(number: u32, amount: &str, time: &str, channel: &str) -> Confirmation {
    Confirmation::numbered(number)
        .raw("amount", amount)
        .with("collectedTime", format!("{DAY} {time}"))
        .with("payChannel", channel)
}

/// A site at which these were confirmed; its daemon is stopped.
fn site_with(confirmations: &[Confirmation]) -> Site {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for confirmation in confirmations {
        assert_eq!(daemon.code(confirmation), "1000");
    }
    daemon.stop();
    site
}

fn printed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn takings(site: &Site, arguments: &[&str]) -> Vec<(Value, i64, i64)> {
    let arguments = [&["takings", "--output", "json"], arguments].concat();
    let printed: Value = serde_json::from_str(&printed(&site.tilld(&arguments))).unwrap();
    let rows = printed["takings"].as_array().unwrap().iter();
    rows.map(|row| {
        let number = |name: &str| row[name].as_i64().unwrap();
        (row["key"].clone(), number("count"), number("amount_centavos"))
    })
    .collect()
}

#[test]
fn takings_are_what_was_taken_on_a_business_date_by_what_one_asks_for() {
    let site = site_with(&[
        taken(1, "100.00", "09:10:00", "10"),
        taken(2, "0.01", "09:59:59", "6"),
        taken(3, "1000.10", "17:00:00", "10").by_till(),
        taken(4, "5.00", "17:00:00", "10").with("collectedTime", "2026-03-06 00:00:00"),
    ]);
    let on_the_day = |by: &str| takings(&site, &["--day", DAY, "--by", by]);
    assert_eq!(on_the_day("channel"), [(json!(6), 1, 1), (json!(10), 2, 110_010)]);
    assert_eq!(on_the_day("hour"), [(json!("09"), 2, 10_001), (json!("17"), 1, 100_010)]);
    assert_eq!(
        on_the_day("caller"),
        [(json!("AppName@skypay"), 2, 10_001), (json!("till-7"), 1, 100_010)]
    );
    assert_eq!(on_the_day("branch"), [(json!(""), 3, 110_011)]);
    let days = [(json!(DAY), 3, 110_011), (json!("2026-03-06"), 1, 500)];
    assert_eq!(takings(&site, &["--by", "day", "--from", "2026-01-01"]), days);
    assert_eq!(takings(&site, &["--by", "day", "--to", DAY]), days[..1]);
    assert_eq!(takings(&site, &[]), [], "today");

    let table = printed(&site.tilld(&["takings", "--day", DAY]));
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            vec!["BY", "COUNT", "PESOS"],
            vec!["GCash", "1", "0.01"],
            vec!["7-Eleven", "2", "1100.10"],
            vec!["all", "3", "1100.11"]
        ]
    );
}

#[test]
fn an_export_that_broke_off_goes_on_where_it_ended() {
    let confirmations: Vec<_> =
        (1..=700).map(|number| taken(number, "1.00", "09:00:00", "10")).collect();
    let site = site_with(&confirmations);
    let whole = printed(&site.tilld(&["export"]));
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 701);
    let rest = printed(&site.tilld(&["export", "--after", "650"]));
    assert_eq!(rest.lines().collect::<Vec<_>>(), lines[651..]);
    assert_eq!(printed(&site.tilld(&["export", "--after", "700"])), "");

    let objects = printed(&site.tilld(&["export", "--output", "jsonl", "--from", DAY]));
    let sequence = |line: &str| serde_json::from_str::<Value>(line).unwrap()["sequence"].as_i64();
    let sequences: Vec<Option<i64>> = objects.lines().map(sequence).collect();
    assert_eq!(sequences, (1..=700).map(Some).collect::<Vec<_>>());
    assert_eq!(printed(&site.tilld(&["export", "--output", "jsonl", "--to", "2026-03-04"])), "");
}

/// What `tilld reconcile` finds, by contract, and its exit code.
fn reconciled(site: &Site, report: &str, map: &str) -> (Option<i32>, Vec<(String, String)>) {
    let file = site.path().join("report.csv");
    fs::write(&file, report).unwrap();
    let file = file.display().to_string();
    let arguments = ["reconcile", &file, "--map", map, "--day", DAY, "--output", "json"];
    let output = site.tilld(&arguments);
    let Ok(printed) = serde_json::from_slice::<Value>(&output.stdout) else {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        return (output.status.code(), vec![(String::new(), errors)]);
    };
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let findings = printed["findings"].as_array().unwrap().iter();
    let findings = findings.map(|row| (text(row, "contract"), text(row, "finding"))).collect();
    (output.status.code(), findings)
}

#[test]
fn a_report_is_compared_with_a_day_to_the_centavo() {
    const MAP: &str = "contract=Contract No,receipt=Receipt,amount=Paid";
    let site = site_with(&[
        taken(1, "3900.00", "09:00:00", "10"),
        taken(2, "3900.00", "09:00:00", "10"),
        taken(3, "3900.00", "09:00:00", "10"),
        taken(4, "10.00", "09:00:00", "10"),
        taken(5, "10.00", "09:00:00", "10").with("collectedTime", "2026-03-06 00:00:00"),
        taken(7, "10.00", "09:00:00", "10").with("collectedTime", "2026-03-06 00:00:00"),
    ]);
    let line = |number: u32, amount: &str| {
        let confirmation = Confirmation::numbered(number);
        let (contract, receipt) =
            (confirmation.get("contractNumber"), confirmation.get("receiptNumber"));
        format!("x,{contract},{receipt},\"{amount}\"\n")
    };
    let report =
        |lines: &[String]| format!("\u{feff}Any,Contract No,Receipt,Paid\n{}", lines.concat());
    let same = [line(1, "3,900.00"), line(2, "PHP 3900"), line(3, "3900.0"), line(4, "10.00")];
    let (code, findings) = reconciled(&site, &report(&same), MAP);
    assert_eq!((code, findings.len()), (Some(0), 4), "{findings:?}");
    assert!(findings.iter().all(|(_, finding)| finding == "matched"), "{findings:?}");

    let other = [
        line(1, "3,900.01"),
        line(2, "3,900.00"),
        line(2, "3,900.00"),
        line(3, "3,900.00"),
        line(5, "10.00"),
        line(6, "10.00"),
        line(7, "11.00"),
    ];
    let (code, findings) = reconciled(&site, &report(&other), MAP);
    let wanted = [
        (1, "amount-differs"),
        (2, "several-to-one"),
        (3, "matched"),
        (4, "only-here"),
        (5, "here-on-another-day"),
        (6, "only-there"),
        (7, "amount-differs"),
    ];
    let wanted = wanted.map(|(n, finding)| (format!("SKY01{n:08}"), finding.to_owned()));
    assert_eq!((code, findings), (Some(65), wanted.to_vec()));

    let without_receipt = "contract=Contract No,amount=Paid";
    let (code, findings) = reconciled(&site, &report(&same), without_receipt);
    assert_eq!((code, findings.len()), (Some(0), 4), "{findings:?}");

    let (code, said) = reconciled(&site, &report(&same), "contract=Contract,amount=Paid");
    assert!(code == Some(65) && said[0].1.contains("Any, Contract No, Receipt, Paid"), "{said:?}");
    let (code, said) = reconciled(&site, &report(&[line(1, "1.00"), line(2, "3.900,00")]), MAP);
    assert!(code == Some(65) && said[0].1.contains("line 3"), "{said:?}");
    assert_eq!(reconciled(&site, &report(&same), "receipt=Receipt").0, Some(2));
}

/// A letter and its tilde may come as one character or as two, and our own export keeps a receipt
/// from being a formula.
#[test]
fn a_receipt_is_found_however_it_is_written() {
    let of = |number, receipt: &str| {
        taken(number, "10.00", "09:00:00", "10").with("receiptNumber", receipt)
    };
    let site = site_with(&[of(1, "\u{d1}1"), of(2, "N\u{303}2"), of(3, "=3"), of(4, "'=4")]);
    let found = |arguments: &[&str]| printed(&site.tilld(arguments)).contains("09:00:00");
    for receipt in ["\u{d1}1", "N\u{303}1", "\u{d1}2", "N\u{303}2", " N\u{303}2 ", "=3", "'=4"] {
        assert!(found(&["show", receipt]), "{receipt}");
        assert!(found(&["list", "--receipt", receipt, "--output", "jsonl"]), "{receipt}");
    }
    let map = "contract=contract,receipt=receipt,amount=amount";
    let exported = printed(&site.tilld(&["export", "--output", "csv"]));
    assert!(exported.contains(",'=3,") && exported.contains(",''=4,"), "{exported}");
    for report in [exported.replace('\u{d1}', "N\u{303}"), exported] {
        let (code, findings) = reconciled(&site, &report, map);
        assert_eq!((code, findings.len()), (Some(0), 4), "{findings:?}");
    }
}

#[test]
fn days_in_the_wrong_order_are_refused_instead_of_telling_that_nothing_was_taken() {
    let site = site_with(&[taken(1, "100.00", "09:10:00", "10")]);
    for command in ["takings", "export", "verify"] {
        let output = site.tilld(&[command, "--from", "2026-03-06", "--to", DAY]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("--to on the day of --from, or later"), "{command}: {told}");
    }
}
