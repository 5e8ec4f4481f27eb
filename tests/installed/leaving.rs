//! The package is removed or purged: what stays, and what is never deleted.

use crate::support::{Confirmation, Machine, office, package};

const PURGE: &str = "apt-get purge -y tilld 2>&1";

fn exists(machine: &Machine, path: &str) -> bool {
    machine.run(&format!("test -e {path}")).code == Some(0)
}

#[test]
fn what_was_collected_is_there_again_after_a_removal_and_a_new_installation() {
    let machine = Machine::serving();
    let confirmation = Confirmation::fresh();
    assert_eq!(machine.code(&confirmation), "1000");
    machine.sh("apt-get remove -y tilld 2>&1");
    assert!(!exists(&machine, "/usr/bin/tilld"));
    assert!(exists(&machine, "/etc/tilld/conf.d/branch.toml"));
    assert_eq!(machine.sh("ss -Hltn sport = :8443"), "");
    assert_eq!(machine.read("/var/lib/tilld/undelivered").trim(), "1");
    machine.install(&package::path());
    machine.await_active();
    assert_eq!(machine.code(&confirmation), "-1015");
    machine.sh("tilld verify");
}

#[test]
fn a_purge_keeps_collections_that_head_office_has_not_got_and_says_where() {
    let machine = Machine::serving();
    let confirmation = Confirmation::fresh();
    assert_eq!(machine.code(&confirmation), "1000");
    let told = machine.sh(PURGE);
    assert!(told.contains("/var/lib/tilld"), "{told}");
    assert!(exists(&machine, "/var/lib/tilld/tilld.db"));
    machine.install(&package::path());
    machine.configure();
    machine.sh("systemctl restart tilld");
    assert_eq!(machine.code(&confirmation), "-1015");
    assert_eq!(machine.collections().len(), 1);
    machine.sh("tilld verify");
}

/// A daemon that was killed has left no word of what is undelivered.
#[test]
fn a_purge_after_a_crash_keeps_what_may_be_undelivered() {
    let machine = Machine::serving();
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    machine.sh("systemctl kill -s KILL tilld; systemctl stop tilld; rm -f /run/tilld/*");
    machine.sh(PURGE);
    assert!(exists(&machine, "/var/lib/tilld/tilld.db"));
}

#[test]
fn a_purge_removes_everything_when_head_office_has_all() {
    let machine = Machine::serving();
    office::open(&machine);
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    machine.sh("tilld sync wait");
    machine.sh(PURGE);
    for place in ["/var/lib/tilld", "/etc/tilld/tilld.toml", "/etc/tilld/secrets.d", "/run/tilld"] {
        assert!(!exists(&machine, place), "{place}");
    }
    assert_eq!(machine.sh("systemctl --failed --quiet"), "");
}

#[test]
fn a_person_who_purges_is_asked_and_only_a_yes_deletes_what_is_undelivered() {
    for (answer, stays) in [("", true), ("no", true), ("yes", false)] {
        let machine = Machine::serving();
        assert_eq!(machine.code(&Confirmation::fresh()), "1000");
        machine.sh("apt-get remove -y tilld 2>&1");
        let told = machine.sh(&format!(
            "echo {answer} | TERM=dumb DEBIAN_FRONTEND=readline \
             script --quiet --return --command 'dpkg --purge tilld' /dev/null"
        ));
        assert!(told.contains("Delete collections that head office has not got?"), "{told}");
        assert_eq!(exists(&machine, "/var/lib/tilld/tilld.db"), stays, "{answer:?}: {told}");
    }
}
