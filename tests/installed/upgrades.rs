//! A newer version of the package over an older one that serves.

use crate::support::machine::BRANCH_FILE;
use crate::support::{Confirmation, Machine, package};

/// Where the newer package lies, and how it is installed.
const NEWER: &str = "/root/newer.deb";
const UPGRADE: &str = "apt-get install -y /root/newer.deb 2>&1";

fn with_newer_package(machine: &Machine) {
    package::write_newer(&machine.path(NEWER));
}

#[test]
fn an_upgrade_under_load_refuses_no_connection_and_loses_no_confirmation() {
    let machine = Machine::serving();
    with_newer_package(&machine);
    let pid = machine.main_pid();
    let load = machine.load();
    machine.sh(UPGRADE);
    load.await_answers(500);
    let account = load.end();
    account.assert_without_fault();
    machine.all_stands(&account);
    let version = machine.sh("dpkg-query -W -f '${Version}' tilld");
    assert!(version.ends_with("+newer"), "{version}");
    assert_ne!(machine.main_pid(), pid, "the old program still runs");
}

#[test]
fn an_upgrade_with_a_faulty_configuration_fails_while_the_old_daemon_serves_on() {
    let machine = Machine::serving();
    with_newer_package(&machine);
    let pid = machine.main_pid();
    let good = machine.read(BRANCH_FILE);
    machine.append(BRANCH_FILE, "nonsense = 1\n");
    let load = machine.load();
    let ran = machine.run(UPGRADE);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    assert!(ran.stdout.contains("nonsense"), "{ran:?}");
    let account = load.end();
    account.assert_without_fault();
    assert_eq!(machine.main_pid(), pid);

    machine.write(BRANCH_FILE, &good);
    machine.sh("dpkg --configure tilld");
    assert_ne!(machine.main_pid(), pid);
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    machine.all_stands(&account);
}

#[test]
fn an_upgrade_checks_the_configuration_that_a_drop_in_names_and_no_other() {
    let machine = Machine::serving();
    machine.sh("cp -a /etc/tilld /etc/elsewhere && mkdir -p /etc/systemd/system/tilld.service.d");
    machine.write(
        "/etc/systemd/system/tilld.service.d/elsewhere.conf",
        "[Service]\nExecStart=\nExecStart=tilld serve --config /etc/elsewhere/tilld.toml\n",
    );
    machine.sh("systemctl daemon-reload && systemctl restart tilld");
    machine.append("/etc/tilld/tilld.toml", "nonsense = 1\n");
    let pid = machine.main_pid();
    with_newer_package(&machine);
    machine.sh(UPGRADE);
    let upgraded = machine.main_pid();
    assert_ne!(upgraded, pid);

    machine.append(&BRANCH_FILE.replace("/etc/tilld", "/etc/elsewhere"), "nonsense = 1\n");
    let ran = machine.run("dpkg-reconfigure tilld 2>&1");
    assert!(ran.code != Some(0) && ran.stdout.contains("elsewhere"), "{ran:?}");
    assert_eq!(machine.main_pid(), upgraded);
}

#[test]
fn an_upgrade_asks_nothing_about_a_configuration_that_was_edited() {
    let machine = Machine::serving();
    machine.append("/etc/tilld/tilld.toml", "\n# edited here\n");
    with_newer_package(&machine);
    machine.sh(UPGRADE);
    assert!(machine.read("/etc/tilld/tilld.toml").contains("# edited here"));
    assert_eq!(machine.sh("ls /etc/tilld | grep -c dpkg || true"), "0");
}

#[test]
fn an_upgrade_leaves_a_daemon_that_was_disabled_or_masked_alone() {
    for (verb, state) in [("disable", "disabled"), ("mask", "masked")] {
        let machine = Machine::serving();
        with_newer_package(&machine);
        machine.sh(&format!("systemctl {verb} --now tilld"));
        machine.sh(UPGRADE);
        assert_eq!(machine.run("systemctl is-enabled tilld").stdout.trim(), state);
        assert_eq!(machine.property("ActiveState"), "inactive", "{verb}");
    }
}
