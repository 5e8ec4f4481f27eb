//! The log, where an administrator looks for it: in journald, with fields and explanations.

use crate::support::{Confirmation, Machine, TILL_7};

#[test]
fn each_collection_has_its_entry_with_fields_of_its_own() {
    let machine = Machine::serving();
    assert_eq!(machine.code(&Confirmation::fresh().by_till().with("payChannel", "10")), "1000");
    let entries = machine.journal("-u tilld TILLD_EVENT=collection");
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    for (field, value) in [
        ("TILLD_SEQUENCE", "1"),
        ("TILLD_CALLER", TILL_7),
        ("TILLD_CHANNEL", "10"),
        ("TILLD_CODE", "1000"),
        ("SYSLOG_IDENTIFIER", "tilld"),
    ] {
        assert_eq!(entry[field], value, "{field}");
    }
    let duration = entry["DURATION_US"].as_str().and_then(|text| text.parse::<u64>().ok());
    assert!(duration.is_some_and(|us| us > 0), "{entry}");
}

#[test]
fn journalctl_explains_what_each_event_means_and_what_mends_it() {
    let machine = Machine::serving();
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    assert_eq!(machine.code(&Confirmation::fresh().by("nobody", "wrong")), "-1001");
    machine.sh("systemctl restart tilld");
    let entries = machine.journal("_COMM=tilld");
    let events: Vec<_> = entries.iter().filter(|entry| entry["TILLD_EVENT"].is_string()).collect();
    assert!(events.len() >= 5, "{entries:?}");
    let catalog = machine.sh("journalctl --list-catalog");
    for event in events {
        let id = event["MESSAGE_ID"].as_str().unwrap_or_else(|| panic!("no MESSAGE_ID: {event}"));
        assert!(catalog.contains(id), "not in the catalog: {event}");
    }
    let explained = machine.sh("journalctl -x _COMM=tilld TILLD_EVENT=verification-failed");
    assert!(explained.contains("Subject: "), "{explained}");
    assert!(explained.contains("man:tilld(8)"), "{explained}");
}

#[test]
fn a_journald_that_is_stuck_or_restarted_holds_up_no_till() {
    let machine = Machine::serving();
    let load = machine.load();
    machine.sh("kill -STOP $(pidof systemd-journald)");
    // More than the daemon lets wait for its log.
    load.await_answers(6000);
    machine.sh("kill -CONT $(pidof systemd-journald)");
    machine.sh("systemctl restart systemd-journald");
    load.await_answers(500);
    let account = load.end();
    account.assert_without_fault();
    machine.all_stands(&account);
    let confirmation = Confirmation::fresh();
    let contract = confirmation.get("contractNumber");
    assert_eq!(machine.code(&confirmation), "1000");
    machine.until(&format!("journalctl -u tilld TILLD_EVENT=collection | grep {contract}"));
}
