//! What the person who runs it relies on: the certificate, the checks, the lists, a log that tells
//! no secret and holds nobody up, a small process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use chrono::TimeDelta;
use tilld::store::reader::{Reader, Sought};
use tilld::system::clock;

use crate::support::site::flags;
use crate::support::{
    Confirmation, Daemon, JSON, PATH, SKYPAY_KEY, SKYPAY_PASSWORD, Setup, Site, TILL_7_KEY, Till,
    cipher, till, wire_time,
};

/// A process at rest stays below this.
const RESIDENT_KIB_MAX: u64 = 16 * 1024;

/// The output of a command that must succeed.
fn printed(site: &Site, arguments: &[&str]) -> String {
    let output = site.tilld(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A certificate's SHA-256 as openssl prints it, without colons and in lower case.
fn fingerprint_by_openssl(site: &Site) -> String {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(site.certificate())
        .output()
        .expect("openssl can be run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    plain_hex(text.split_once('=').expect("a fingerprint").1.trim())
}

fn plain_hex(text: &str) -> String {
    text.replace(':', "").to_lowercase()
}

#[test]
fn a_certificate_is_made_at_first_start_and_kept() {
    let site = Setup::live().prepare();
    let first = site.start().stop();
    let certificate = fs::read_to_string(site.certificate()).unwrap();
    let key = site.state_dir().join("tls/key.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let fingerprint = fingerprint_by_openssl(&site);
    assert!(plain_hex(&first).contains(&fingerprint), "not in the log: {first}");
    assert!(plain_hex(&printed(&site, &["cert", "show"])).contains(&fingerprint));
    assert_eq!(printed(&site, &["cert", "show", "--pem"]).trim(), certificate.trim());

    let daemon = site.start();
    assert_eq!(fs::read_to_string(site.certificate()).unwrap(), certificate);
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    assert!(plain_hex(&daemon.stop()).contains(&fingerprint));
}

#[test]
fn the_certificate_is_good_for_every_name_and_for_clocks_that_are_wrong() {
    let names = "[endpoint.tls]\nnames = [\"pos.store.example\"]".to_owned();
    let site = Setup { extra: names, ..Setup::live() }.prepare();
    site.start().stop();
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(site.certificate())
        .output()
        .expect("openssl can be run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for expected in [
        "DNS:localhost",
        "DNS:pos.store.example",
        "IP Address:127.0.0.1",
        "IP Address:0:0:0:0:0:0:0:1",
        "Dec 31",
        "2049 GMT",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let not_before = text.lines().find(|line| line.contains("Not Before")).expect("a beginning");
    let year = not_before.split_whitespace().rev().nth(1).and_then(|year| year.parse::<u32>().ok());
    assert!(year.is_some_and(|year| year <= 2010), "{not_before}");
}

#[test]
fn tls_1_2_and_1_3_are_spoken() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for version in rustls::ALL_VERSIONS {
        let tls = till::trusting_over(&site.certificate(), &[version]);
        let mut till = Till::connect(daemon.address(), &tls).unwrap();
        let body = Confirmation::fresh().text();
        let answer = till.post(PATH, JSON, &[], body.as_bytes());
        assert_eq!(answer.code(), "1000", "{version:?}");
    }
}

#[test]
fn a_configuration_is_checked_and_a_mistake_shown_with_its_place() {
    let setup = Setup::live();
    let site = setup.prepare();
    printed(&site, &["config", "check"]);
    let correct = fs::read_to_string(site.config()).unwrap();
    for (right, wrong, line, key) in [
        ("contracts = ", "contract = ", 7, "contract"),
        ("contracts = \"single\"", "contracts = \"once\"", 7, "contracts"),
        ("mode = \"live\"", "mode = \"alive\"", 1, "mode"),
        ("listen = \"127.0.0.1:0\"", "listen = \"here\"", 6, "listen"),
        ("disk_reserve = \"1 MiB\"", "disk_reserve = \"1 MiX\"", 3, "disk_reserve"),
    ] {
        assert!(correct.contains(right), "{right} is not in the configuration");
        fs::write(site.config(), correct.replacen(right, wrong, 1)).unwrap();
        for output in [site.tilld(&["config", "check"]), site.tilld(&["serve"])] {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{wrong}: {errors}");
            let place = format!("{}:{line}:", site.config().display());
            assert!(errors.contains(&place), "{wrong} is not shown at {place}: {errors}");
            assert!(errors.contains(key), "{wrong}: {errors}");
        }
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused_with_the_way_to_mend_it() {
    let site = Setup::live().prepare();
    let keys = site.path().join("0.keys");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, written) = Daemon::refused(&site);
    assert_eq!(code, Some(78), "{written}");
    assert!(written.contains("chmod") && written.contains("0.keys"), "{written}");
    assert!(!written.contains(SKYPAY_KEY), "{written}");
}

#[test]
fn no_caller_at_all_is_valid_and_nobody_is_served() {
    let site = Setup { callers: Vec::new(), ..Setup::live() }.prepare();
    assert_eq!(site.start().code(&Confirmation::fresh()), "-1001");
}

/// Three collections that differ in everything that `list` can filter by.
fn three_collections() -> (Site, [Confirmation; 3]) {
    let site = Setup::installments().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    let earlier = wire_time(TimeDelta::days(-2));
    let collections = [
        first.clone().with("collectedTime", earlier).with("phone", "123"),
        first.clone().with("receiptNumber", "second").with("payChannel", "6"),
        Confirmation::fresh().with("payChannel", "6"),
    ];
    for confirmation in &collections {
        assert_eq!(daemon.code(confirmation), "1000");
    }
    (site, collections)
}

#[test]
fn of_a_contract_with_many_payments_the_newest_are_shown_and_it_is_said_that_others_are_not() {
    let site = Setup::installments().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    for number in 1..=52 {
        let payment = first.clone().with("receiptNumber", format!("weekly {number}"));
        assert_eq!(daemon.code(&payment), "1000");
    }
    let shown = site.tilld(&["show", &first.get("contractNumber")]);
    let [printed, said] = [shown.stdout, shown.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(printed.contains("weekly 52") && printed.contains("weekly 3"), "{printed}");
    assert!(!printed.contains("weekly 2\n") && said.contains("the newest 50 of"), "{said}");
}

/// A search that has no time left still gets on.
#[test]
fn a_search_looks_at_some_collections_however_late_it_is() {
    let (site, [_, second, _]) = three_collections();
    let reader = Reader::open(&site.state_dir()).unwrap();
    let sought = Sought { receipt: Some(second.get("receiptNumber")), ..Sought::default() };
    let found = reader.search(&sought, None, 50, clock::monotonic()).unwrap();
    assert_eq!(found.listed.len(), 1);
    assert_eq!(found.next_before, None, "all three were looked at");
}

#[test]
fn the_list_is_filtered_by_day_channel_contract_receipt_flag_and_length() {
    let (site, [first, _, third]) = three_collections();
    let earlier = &first.get("collectedTime")[..10];
    let today = &third.get("collectedTime")[..10];
    let contract = first.get("contractNumber");
    let own_day = site.only(&third.get("contractNumber"));
    assert_eq!(own_day["business_date"], today);
    for (filters, expected) in [
        (&[] as &[&str], &[1_i64, 2, 3] as &[i64]),
        (&["--day", today], &[2, 3]),
        (&["--day", earlier], &[1]),
        (&["--day", "2001-01-01"], &[]),
        (&["--channel", "6"], &[2, 3]),
        (&["--channel", "41"], &[]),
        (&["--contract", &contract], &[1, 2]),
        (&["--contract", "SKY0199999999"], &[]),
        (&["--receipt", "second"], &[2]),
        (&["--contract", &contract, "--channel", "6"], &[2]),
        (&["--flag", "unusual-phone"], &[1]),
        (&["--flag", "overpaid"], &[]),
    ] {
        let mut sequences: Vec<i64> =
            site.list(filters).iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, expected, "{filters:?}");
    }
    assert_eq!(site.list(&["--limit", "2"]).len(), 2);
    for filters in [["--day", "2025-02-30"], ["--flag", "nonsense"], ["--channel", "x"]] {
        let output = site.tilld(&[&["list"], &filters[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{filters:?}");
    }
}

#[test]
fn lists_can_be_printed_in_every_form() {
    let (site, [_, _, third]) = three_collections();
    let contract = third.get("contractNumber");
    let print = |form| printed(&site, &["list", "--contract", &contract, "--output", form]);
    let lines = |text: &str| text.lines().count();
    assert_eq!(lines(&print("jsonl")), 1);
    assert!(serde_json::from_str::<serde_json::Value>(&print("jsonl")).is_ok());
    assert_eq!(lines(&print("csv")), 2, "a heading and a row");
    for form in ["table", "jsonl", "csv"] {
        assert!(print(form).contains(&contract), "{form}");
    }
}

#[test]
fn one_collection_is_found_by_contract_receipt_and_sequence() {
    let (site, [_, _, third]) = three_collections();
    let (contract, receipt) = (third.get("contractNumber"), third.get("receiptNumber"));
    for reference in [contract.as_str(), receipt.as_str(), "3"] {
        let story = site.story(reference);
        assert!(story.contains(&contract) && story.contains(&receipt), "{reference}: {story}");
    }
    for reference in ["SKY0199999999", "no such receipt", "4"] {
        let output = site.tilld(&["show", reference]);
        assert_eq!(output.status.code(), Some(5), "{reference}");
    }
}

#[test]
fn what_only_reads_works_with_the_daemon_up_or_down() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh();
    assert_eq!(daemon.code(&confirmation), "1000");
    let up = site.only(&confirmation.get("contractNumber"));
    daemon.stop();
    assert_eq!(site.only(&confirmation.get("contractNumber")), up);
    assert!(flags(&up).is_empty());
}

#[test]
fn a_rebuilt_database_is_as_private_as_the_one_that_the_daemon_made() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    daemon.stop();
    let mode = || {
        let database = fs::metadata(site.state_dir().join("tilld.db")).unwrap();
        database.permissions().mode() & 0o777
    };
    let before = mode();
    assert_eq!(before & 0o007, 0, "{before:o}");
    printed(&site, &["rebuild"]);
    assert_eq!(mode(), before);
    assert_eq!(site.all().len(), 1);
}

#[test]
fn the_log_of_a_busy_run_tells_no_secret_and_no_whole_phone_number() {
    let site = Setup { log_level: "debug", ..Setup::live() }.prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let phones = ["09270348095", "6392210083333", "+63 (922) 100-8333"];
    let guessed = "a-guessed-key-0815";
    for phone in phones {
        let good = Confirmation::fresh().with("phone", phone).with("note", "body-of-the-request");
        let encrypted = Confirmation::fresh().with("phone", phone).text();
        for body in [
            good.text(),
            good.clone().text(),
            good.clone().with("amount", "1").text(),
            good.clone().with("receiptNumber", "another").text(),
            good.clone().without("amount").text(),
            good.clone().with("authentication", guessed).text(),
            good.text().replace('}', ",}"),
            cipher::encrypt(SKYPAY_PASSWORD, &encrypted),
            cipher::encrypt("a-stale-password", &encrypted),
        ] {
            till.post(PATH, JSON, &[], body.as_bytes());
        }
    }
    let log = daemon.stop();
    assert!(log.contains("0927*****95"), "one line a collection, phone masked: {log}");
    let digits_only = log.replace([' ', '(', ')', '-', '+'], "");
    for secret in [SKYPAY_KEY, TILL_7_KEY, SKYPAY_PASSWORD, guessed, "body-of-the-request"]
        .iter()
        .chain(&phones)
    {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
    assert!(!digits_only.contains("639221008333"), "{log}");
}

#[test]
fn a_log_that_nobody_reads_never_holds_a_cashier() {
    let site = Setup::live().prepare();
    let mut daemon = Daemon::start_with_stuck_log(&site);
    let mut till = daemon.till();
    // A pipe holds 64 KiB: this is many times as much, at one line a collection.
    for _ in 0..5000 {
        let body = Confirmation::fresh().text();
        assert_eq!(till.post(PATH, JSON, &[], body.as_bytes()).code(), "1000");
    }
    drop(till);
    daemon.sigterm();
    assert!(daemon.wait(Duration::from_secs(12)).success(), "nor its end");
    assert_eq!(site.all().len(), 5000);
}

#[test]
fn at_rest_it_is_small() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for _ in 0..100 {
        let body = Confirmation::fresh().text();
        assert_eq!(till.post(PATH, JSON, &[], body.as_bytes()).code(), "1000");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("resident: {kib} KiB");
    assert!(cfg!(debug_assertions) || kib < RESIDENT_KIB_MAX, "{kib} KiB");
}
