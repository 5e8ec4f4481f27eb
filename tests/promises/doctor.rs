//! `tilld doctor`: what a technician would look at is looked at, each fault is named with what to
//! do about it, and what is sent to support gives nothing away.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use chrono::TimeDelta;
use serde_json::Value;

use crate::support::clock::Clock;
use crate::support::fleet::{Branch, MANILA, Office};
use crate::support::site::Caller;
use crate::support::{Confirmation, Setup, Site};

struct Findings {
    exit: Option<i32>,
    rows: Vec<Value>,
}

impl Findings {
    fn read(output: &Output) -> Findings {
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        let rows = document["findings"].as_array().expect("findings").clone();
        Findings { exit: output.status.code(), rows }
    }

    /// What and remedy of all with this result.
    fn with(&self, check: &str, result: &str) -> Vec<String> {
        let rows = self.rows.iter();
        let found = rows.filter(|row| row["check"] == check && row["result"] == result);
        found
            .map(|row| {
                format!("{} {}", row["what"].as_str().unwrap(), row["remedy"].as_str().unwrap())
            })
            .collect()
    }

    fn one(&self, check: &str, result: &str) -> String {
        let found = self.with(check, result);
        assert_eq!(found.len(), 1, "{check}: {:#?}", self.rows);
        found.into_iter().next().unwrap()
    }

    /// What is to be mended, without what the machine that runs the tests may lack.
    fn to_mend(&self) -> Vec<&str> {
        let rows = self.rows.iter().filter(|row| row["result"] == "mend");
        let checks = rows.map(|row| row["check"].as_str().unwrap());
        checks.filter(|check| !["unit", "time server"].contains(check)).collect()
    }
}

fn doctor(site: &Site) -> Findings {
    Findings::read(&site.tilld(&["doctor", "--output", "json"]))
}

#[test]
fn a_branch_in_order_has_nothing_to_mend_and_head_office_has_nothing_more_than_before() {
    let office = Office::open();
    let branch = Branch::of(&office, MANILA).started();
    branch.collect(3);
    branch.await_empty_outbox();
    let found = doctor(&branch.site);
    assert_eq!(found.to_mend(), [] as [&str; 0], "{:#?}", found.rows);
    for check in [
        "configuration",
        "permissions",
        "daemon",
        "name",
        "connection",
        "credentials",
        "clock",
        "disk",
        "database",
    ] {
        found.one(check, "ok");
    }
    assert!(found.one("database", "ok").contains("agrees with the tape"));
    assert_eq!(office.site.all().len(), 3);
    // Its question is kept like any other refusal, and says what it is; asked twice it is one.
    doctor(&branch.site);
    let refusals = office.site.refusals();
    assert_eq!(refusals.len(), 1, "{refusals:#?}");
    assert!(refusals[0].to_string().contains("no cash is meant"), "{refusals:#?}");
}

#[test]
fn what_head_office_refuses_and_what_cannot_be_reached_is_named_with_what_to_do() {
    let office = Office::open();
    let branch = Branch::of(&office, MANILA).started();
    let config = fs::read_to_string(branch.site.config()).unwrap();
    let upstream = config.split("[upstream]").nth(1).unwrap();
    let file = upstream.lines().find_map(|line| line.strip_prefix("authentication_file = "));
    let file: String = serde_json::from_str(file.unwrap()).unwrap();
    let key = fs::read(&file).unwrap();
    fs::write(&file, "not-the-key\n").unwrap();
    let found = doctor(&branch.site);
    assert!(found.one("credentials", "mend").contains("-1001"), "{:#?}", found.rows);
    assert_eq!(found.exit, Some(6));
    fs::write(&file, key).unwrap();

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let elsewhere =
        |url: &str| fs::write(branch.site.config(), config.replace(&office.way().url, url));
    elsewhere(&format!("https://{closed}/")).unwrap();
    let told = doctor(&branch.site).one("connection", "mend");
    assert!(told.contains("connection refused") && told.contains("kept meanwhile"), "{told}");
    elsewhere("https://no-such-host.invalid/").unwrap();
    let told = doctor(&branch.site).one("name", "mend");
    assert!(told.contains("no-such-host.invalid"), "{told}");
}

#[test]
fn a_clock_that_is_wrong_is_told_by_head_office_s() {
    let office = Office::open();
    let branch = Branch::of(&office, MANILA).started();
    let clock = Clock::of(&branch.site);
    for (offset, words) in [(3, "3 h ahead of"), (-50, "2 days behind")] {
        clock.set(TimeDelta::hours(offset));
        let mut command = clock.wrapper();
        let doctor = branch.site.command(&["doctor", "--output", "json"]);
        command.arg(doctor.get_program()).args(doctor.get_args());
        let found = Findings::read(&command.output().unwrap());
        assert!(found.one("clock", "mend").contains(words), "{:#?}", found.rows);
    }
}

#[test]
fn a_port_that_another_program_holds_is_named_with_that_program() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = holder.local_addr().unwrap().to_string();
    let site = Setup { listen, ..Setup::live() }.prepare();
    let found = doctor(&site);
    let told = found.one("ports", "mend");
    assert!(told.contains("held by promises") && told.contains("[endpoint]"), "{told}");
    assert!(found.one("daemon", "mend").contains("not running"));
    drop(holder);
    assert_eq!(doctor(&site).with("ports", "mend"), [] as [&str; 0]);
}

#[test]
fn a_mistake_in_the_configuration_is_shown_and_the_rest_is_looked_at_all_the_same() {
    let site = Setup::live().prepare();
    let config = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), format!("moode = \"live\"\n{config}")).unwrap();
    let found = doctor(&site);
    assert_eq!(found.exit, Some(6));
    assert!(found.one("configuration", "mend").contains("moode"));
    assert!(found.rows.iter().any(|row| row["check"] == "unit"), "{:#?}", found.rows);
    let table = site.tilld(&["doctor"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("MEND     configuration ") && table.contains("\n   "), "{table}");
}

#[test]
fn a_file_that_the_daemon_may_not_read_is_named_with_the_command_that_mends_it() {
    let site = Setup::live().prepare();
    let daemon = site.start_as_nobody();
    let keys = site.path().join("0.keys");
    fs::set_permissions(&keys, Permissions::from_mode(0o000)).unwrap();
    let told = doctor(&site).one("permissions", "mend");
    let wanted = format!("cannot read {} (0000 ", keys.display());
    assert!(told.contains(&wanted) && told.contains("sudo chmod u+r "), "{told}");
    daemon.stop();
}

#[test]
fn what_is_sent_to_support_has_no_key_no_password_and_no_whole_phone_number() {
    let (key, password) = ("4C1D-of-nobody-else", "p4ssw0rd-of-nobody-else");
    let caller = Caller::new("till-9", &[key]).passwords(&[password]);
    let site = Setup::live().caller(caller).prepare();
    let config = fs::read_to_string(site.config()).unwrap();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::numbered(1).by("till-9", key)), "1000");
    assert_eq!(daemon.code(&Confirmation::numbered(2).by("till-9", "wrong")), "-1001");
    // A comment of somebody who did not know better.
    let comment = format!("# key {key}, call 0927 034 8095\n{config}");
    fs::write(site.config(), comment).unwrap();
    let bundle = site.path().join("support.txt");
    let arguments = ["doctor", "--bundle", bundle.to_str().unwrap()];
    let output = site.tilld(&arguments);
    let text = fs::read_to_string(&bundle).unwrap();
    for secret in [key, password, "0927 034 8095", "09270348095"] {
        assert!(!text.contains(secret), "{secret}");
    }
    for there in [
        "==> what the doctor found",
        "# key (secret), call 0927*******95",
        "user_name = \"till-9\"",
        "tilld.db",
        "\"condition\": \"recording\"",
        "==> uname -a",
    ] {
        assert!(text.contains(there), "{there}: {text}");
    }
    assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("no whole phone number"), "{told}");

    let again = site.tilld(&arguments);
    assert_eq!(again.status.code(), Some(1));
    let told = String::from_utf8(again.stderr).unwrap();
    assert!(told.contains("nothing was written"), "{told}");
    assert_eq!(fs::read_to_string(&bundle).unwrap(), text);
}
