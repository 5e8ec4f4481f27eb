//! Who may see and do what: root, the group of operators, and everybody else.

use serde_json::Value;

use crate::support::{Confirmation, Machine, eventually, office};

/// An operator, and somebody who only has an account.
fn with_users(machine: &Machine) {
    machine.sh("useradd --create-home --groups tilld-admin ana && useradd --create-home ben");
}

#[test]
fn an_operator_lists_collections_and_sends_parked_ones_again() {
    let machine = Machine::serving();
    with_users(&machine);
    office::open(&machine);
    let confirmation = Confirmation::fresh();
    let contract = confirmation.get("contractNumber");
    office::pay(&machine, &contract);
    assert_eq!(machine.code(&confirmation), "1000");
    let parked = "tilld sync parked --output json";
    let is_parked = || machine.run_as("ana", parked).stdout.contains(&contract);
    eventually("head office does not take it", is_parked);

    let listed = machine.run_as("ana", "tilld list --output json");
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["collections"][0]["contract"], contract.as_str());
    let retried = machine.run_as("ana", &format!("tilld sync retry {contract}"));
    assert_eq!((retried.code, retried.stdout.trim()), (Some(0), "1 collection is sent again"));
    machine.sh("grep '\"actor\":\"ana\"' /var/lib/tilld/tape/*");
}

#[test]
fn who_is_no_operator_sees_how_it_stands_without_sums_and_can_do_nothing() {
    let machine = Machine::serving();
    with_users(&machine);
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    let status = || machine.run_as("ben", "tilld status");
    eventually("everybody is told", || status().stdout.contains("1 collection"));
    let status = status();
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(!status.text().contains("3,900"), "{status:?}");
    let by_operator = machine.run_as("ana", "tilld status");
    assert!(by_operator.stdout.contains("3,900.00 pesos"), "{by_operator:?}");
    for command in ["list", "sync now", "sync parked", "verify", "key list", "reload"] {
        let ran = machine.run_as("ben", &format!("tilld {command}"));
        assert_eq!(ran.code, Some(4), "{command}: {ran:?}");
    }
    for path in ["/var/lib/tilld/tilld.db", "/var/lib/tilld/tape", "/etc/tilld/secrets.d"] {
        assert_ne!(machine.run_as("ben", &format!("ls {path}")).code, Some(0), "{path}");
    }
}

#[test]
fn systemctl_tells_in_a_line_what_waits_and_since_when_the_line_is_down() {
    let machine = Machine::serving();
    office::open(&machine);
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    machine.sh("tilld sync wait");
    machine.sh("systemctl stop office");
    for _ in 0..2 {
        assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    }
    let told = "Status: \"3 today, 2 waiting, line down since [0-2][0-9]:[0-5][0-9]\"";
    machine.until(&format!("systemctl status tilld | grep '{told}'"));
}
