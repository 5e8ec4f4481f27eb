//! Another `tilld` that relays for its branch: what it sends was answered 1000 there, with the cash
//! in the drawer, so it is always recorded.

use std::fs;

use serde_json::Value;

use crate::support::fleet;
use crate::support::site::flags;
use crate::support::state::{DATABASE, WAL};
use crate::support::{Answer, Caller, Confirmation, Daemon, JSON, PATH, Setup};

const BRANCH: &str = "MNL-042";
const RELAY: &str = "branch-mnl-042";
const RELAY_KEY: &str = "d3a1f0c2-relay";

/// A setup that also knows the branch.
fn with_branch(setup: Setup) -> Setup {
    let option = format!("branch = {BRANCH:?}");
    setup.caller(Caller::new(RELAY, &[RELAY_KEY]).option(&option))
}

/// A fresh confirmation by the relay.
fn relayed() -> Confirmation {
    Confirmation::fresh().by(RELAY, RELAY_KEY)
}

fn relay_with(daemon: &Daemon, headers: &[(&str, &str)], confirmation: &Confirmation) -> Answer {
    daemon.till().post(PATH, JSON, headers, confirmation.text().as_bytes())
}

/// The code answered to what the branch relays.
fn relay(daemon: &Daemon, confirmation: &Confirmation) -> String {
    relay_with(daemon, &[("Tilld-Branch", BRANCH)], confirmation).code()
}

#[test]
fn a_relay_that_does_not_name_its_branch_rightly_fails_verification() {
    let site = with_branch(Setup::live()).prepare();
    let daemon = site.start();
    let wrong_key = daemon.confirm(&relayed().with("authentication", "wrong"));
    let confirmation = relayed();
    for headers in [
        &[] as &[(&str, &str)],
        &[("Tilld-Branch", "MNL-043")],
        &[("Tilld-Branch", "mnl-042")],
        &[("Tilld-Branch", "")],
        &[("Tilld-Branch", "MNL-042, MNL-043")],
        &[("Branch", BRANCH)],
    ] {
        let answer = relay_with(&daemon, headers, &confirmation);
        assert_eq!(answer.code(), "-1001", "{headers:?}");
        assert_eq!(answer.but_for_time(), wrong_key.but_for_time(), "{headers:?}");
        assert_eq!(answer.head_but_for_date(), wrong_key.head_but_for_date(), "{headers:?}");
    }
    assert!(site.all().is_empty() && site.refusals().is_empty());
    assert_eq!(relay(&daemon, &confirmation), "1000");
    assert_eq!(relay(&daemon, &confirmation), "-1015");
}

#[test]
fn the_list_tells_which_branch_relayed_a_collection() {
    let site = with_branch(Setup::live()).prepare();
    let daemon = site.start();
    let (by_branch, by_till) = (relayed(), Confirmation::fresh().by_till());
    assert_eq!(relay(&daemon, &by_branch), "1000");
    assert_eq!(relay(&daemon, &by_till), "1000", "the header of who is no relay says nothing");
    let row = site.only(&by_branch.get("contractNumber"));
    assert_eq!((&row["branch"], &row["caller"]), (&BRANCH.into(), &RELAY.into()), "{row}");
    assert_eq!(site.only(&by_till.get("contractNumber"))["branch"], Value::Null);
}

#[test]
fn a_second_receipt_of_a_paid_contract_is_recorded_for_a_relay_and_flagged() {
    let site = with_branch(Setup::live()).prepare();
    let daemon = site.start();
    let first = relayed();
    let second = first.clone().with("receiptNumber", "second");
    assert_eq!(relay(&daemon, &first), "1000");
    assert_eq!(relay(&daemon, &second), "1000");
    assert_eq!(relay(&daemon, &second), "-1015");
    assert_eq!(relay(&daemon, &second.with("amount", "1.00")), "2005");
    let contract = first.get("contractNumber");
    let till_s = first.by_till().with("receiptNumber", "third");
    assert_eq!(daemon.code(&till_s), "-1026", "only relays are spared the policy");
    let rows = site.list(&["--contract", &contract]);
    let found: Vec<(&Value, Vec<&str>)> =
        rows.iter().map(|row| (&row["receipt"], flags(row))).collect();
    let receipt = Value::from(rows[1]["receipt"].as_str().expect("a receipt"));
    assert_eq!(found, [(&"second".into(), vec!["overpaid"]), (&receipt, vec![])]);
    assert_eq!(site.list(&["--flag", "overpaid"]).len(), 1);
}

/// What a branch is told to be here it need never send again.
#[test]
fn what_was_refused_is_not_told_to_be_here_and_is_missing_also_after_a_rebuild() {
    let site = with_branch(Setup::live()).prepare();
    let send = |daemon: &Daemon, number: u32, confirmation: &Confirmation| {
        let place = format!("1f2e3d4c-{number}");
        let headers = [("Tilld-Branch", BRANCH), ("Tilld-Sequence", place.as_str())];
        let answer = relay_with(daemon, &headers, confirmation);
        let told = ["tilld-have", "tilld-held"].map(|name| answer.header(name).map(str::to_owned));
        (answer.code(), told.map(Option::unwrap_or_default))
    };
    let here = |have, held| [have, held].map(|count: u32| format!("1f2e3d4c-{count}"));
    let daemon = site.start();
    let first = relayed();
    assert_eq!(send(&daemon, 1, &first), ("1000".to_owned(), here(1, 1)));
    assert_eq!(send(&daemon, 2, &first.with("amount", "1.00")).0, "2005");
    assert_eq!(send(&daemon, 3, &relayed()), ("1000".to_owned(), here(1, 2)));
    let missing = || {
        let said = site.tilld(&["branches", "--output", "json"]).stdout;
        let said: Value = serde_json::from_slice(&said).expect("JSON");
        said["branches"][0]["missing"].clone()
    };
    assert_eq!(missing(), 1);
    daemon.stop();
    for file in [DATABASE, WAL] {
        let _ = fs::remove_file(site.state_dir().join(file));
    }
    let daemon = site.start();
    assert_eq!(missing(), 1);
    assert_eq!(send(&daemon, 4, &relayed()), ("1000".to_owned(), here(1, 3)), "else it is a loss");
}

/// Else it would be missing for ever in the list of branches, and parked at the branch.
#[test]
fn what_was_accepted_here_is_here_when_its_branch_sends_it_again() {
    let site = with_branch(Setup::live()).prepare();
    let send = |daemon: &Daemon, number: u32, confirmation: &Confirmation| {
        let place = format!("1f2e3d4c-{number}");
        let headers = [("Tilld-Branch", BRANCH), ("Tilld-Sequence", place.as_str())];
        relay_with(daemon, &headers, confirmation).code()
    };
    let daemon = site.start();
    let first = relayed();
    let second = first.clone().with("amount", "1.00");
    assert_eq!(send(&daemon, 1, &first), "1000");
    assert_eq!(send(&daemon, 2, &second), "2005");
    assert_eq!(send(&daemon, 3, &relayed()), "1000");
    let heard_at = || fleet::number(&site, "SELECT max(heard_at) FROM relay");
    let last_word = heard_at();
    let accepted = site.tilld(&["refusals", "accept", "1", "--reason", "two borrowers"]);
    assert!(accepted.status.success(), "{accepted:?}");
    assert_eq!(heard_at(), last_word, "the branch may be silent since");
    assert_eq!(send(&daemon, 2, &second.clone().with("amount", "2.00")), "2005");
    assert_eq!(daemon.code(&second.clone().by_till()), "2005", "a till is shown the other");
    assert_eq!(send(&daemon, 2, &second), "-1015");
    let said = site.tilld(&["branches", "--output", "json"]).stdout;
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    let branch = &said["branches"][0];
    assert_eq!((&branch["missing"], &branch["count"]), (&0.into(), &3.into()), "{branch}");
    assert_eq!(branch["pesos"], "7801.00", "{branch}");
    daemon.stop();
    assert_eq!(site.verify().code, Some(0));
}

#[test]
fn a_relay_may_send_every_prefix() {
    let site = with_branch(Setup { prefixes: &["SKY98"], ..Setup::live() }).prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "2006");
    assert_eq!(relay(&daemon, &relayed()), "1000");
}

#[test]
fn a_relay_sends_no_masked_contract_even_to_a_sandbox() {
    let site = with_branch(Setup::sandbox()).prepare();
    let daemon = site.start();
    let masked = |confirmation: Confirmation| confirmation.with("contractNumber", "SKY0XXXXXXXXXX");
    assert_eq!(relay(&daemon, &masked(relayed())), "2003");
    assert_eq!(daemon.code(&masked(Confirmation::fresh())), "1000");
    let refusals = site.refusals();
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0]["branch"], BRANCH, "{refusals:?}");
}
