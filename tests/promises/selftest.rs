//! `tilld selftest`: it goes the way of a confirmation, and is none.

use std::fs;

use serde_json::Value;

use crate::support::fleet::{Branch, MANILA, Office, number};
use crate::support::site::Caller;
use crate::support::{Confirmation, Setup, Site, authority};

fn told(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.tilld(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_self_test_is_answered_1000_and_stands_in_no_books_here_or_at_head_office() {
    let office = Office::open();
    let branch = Branch::of(&office, MANILA).started();
    let site = &branch.site;
    for _ in 0..3 {
        let (code, text) = told(site, &["selftest"]);
        assert!(code == Some(0) && text.starts_with("a till would be answered 1000"), "{text}");
    }
    let (_, json) = told(site, &["selftest", "--output", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["code"] == 1000 && json["answering_us"].as_i64().unwrap() > 0, "{json}");
    assert_eq!(number(site, "SELECT count(*) FROM self_test"), 4);

    assert_eq!(site.all(), [] as [Value; 0]);
    assert_eq!(site.refusals(), [] as [Value; 0]);
    // Nor was a number given away, or a line of the tape written.
    let confirmations = branch.collect(1);
    let story = branch.story(&confirmations[0].get("contractNumber"));
    assert_eq!((&story["sequence"], &story["tape_line"]), (&1.into(), &2.into()));
    branch.await_empty_outbox();
    assert_eq!(office.site.all().len(), 1);
    assert_eq!(office.site.refusals(), [] as [Value; 0]);
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn it_fails_where_a_till_would_and_says_why() {
    let full = Setup { disk_reserve: "1024 GiB", ..Setup::live() }.prepare();
    let daemon = full.start();
    let (code, text) = told(&full, &["selftest"]);
    assert!(code == Some(1) && text.contains("-1009"), "{text}");
    assert_eq!(number(&full, "SELECT count(*) FROM self_test"), 0);
    daemon.stop();
    let (code, text) = told(&full, &["selftest"]);
    assert!(code == Some(3) && text.contains("not running"), "{text}");
}

#[test]
fn where_callers_must_present_a_certificate_it_says_that_it_has_none() {
    let extra = "[endpoint.tls]\nclient_ca = \"ca.pem\"".to_owned();
    let site = Setup { extra, ..Setup::live() }.prepare();
    fs::write(site.path().join("ca.pem"), authority().0).unwrap();
    let daemon = site.start();
    let (code, text) = told(&site, &["selftest"]);
    assert!(code == Some(78) && text.contains("client_ca"), "{text}");
    daemon.stop();
}

#[test]
fn it_is_taken_wherever_only_some_billers_are_and_as_a_till_s_in_a_sandbox() {
    for setup in [Setup { prefixes: &["SKY98"], ..Setup::live() }, Setup::sandbox()] {
        let site = setup.prepare();
        let daemon = site.start();
        assert_eq!(told(&site, &["selftest"]).0, Some(0));
        daemon.stop();
    }
}

#[test]
fn nobody_else_can_be_taken_for_a_self_test() {
    let site = Setup::live().caller(Caller::new("tilld-selftest", &["some-key"])).prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh();
    assert_eq!(daemon.code(&confirmation.clone().by("tilld-selftest", "guessed")), "-1001");
    assert_eq!(daemon.code(&confirmation.by("tilld-selftest", "some-key")), "1000");
    assert_eq!(site.all().len(), 1, "a configured caller of that name confirms real money");
    assert_eq!(told(&site, &["selftest"]).0, Some(0));
    assert_eq!(site.all().len(), 1);
}
