//! The daily copy: made by its timer, and put in place when the database is lost.

use serde_json::Value;

use crate::support::{Confirmation, Machine};

/// Lets the timer elapse every second instead of once a night.
const SOON: &str =
    "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=1ms\n";

fn names(machine: &Machine) -> Vec<String> {
    let text = machine.sh("tilld backup list --output json");
    let listed: Value = serde_json::from_str(&text).expect("JSON");
    let backups = listed["backups"].as_array().expect("backups").iter();
    backups.map(|backup| backup["name"].as_str().expect("a name").to_owned()).collect()
}

fn collect(machine: &Machine, count: usize) {
    for _ in 0..count {
        assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    }
}

#[test]
fn a_damaged_database_comes_back_from_the_timers_backup_and_the_tape() {
    let machine = Machine::serving();
    assert_eq!(machine.sh("systemctl is-active tilld-backup.timer"), "active");
    assert_eq!(machine.sh("systemctl show -P Persistent tilld-backup.timer"), "yes");
    collect(&machine, 3);
    machine.write("/etc/systemd/system/tilld-backup.timer.d/soon.conf", SOON);
    machine.sh("systemctl daemon-reload && systemctl restart tilld-backup.timer");
    machine.until("tilld backup list --output json | grep -F '\"name\"'");
    machine.sh("systemctl stop tilld-backup.timer");
    machine.until("! systemctl is-active tilld-backup.service");
    assert_eq!(machine.sh("systemctl show -P Result tilld-backup.service"), "success");
    let name = names(&machine).remove(0);
    machine.sh(&format!("tilld backup verify {name}"));

    collect(&machine, 2);
    machine.sh("systemctl stop tilld");
    machine
        .sh("cd /var/lib/tilld && rm -f tilld.db-* && dd if=/dev/zero of=tilld.db bs=4k count=9");
    let ran = machine.run("systemctl start tilld");
    assert_ne!(ran.code, Some(0), "it takes a damaged database for a good one");
    let told = machine.sh(&format!("runuser -u _tilld -- tilld backup restore {name} 2>&1"));
    assert!(!told.is_empty());
    machine.sh("systemctl start tilld");
    assert_eq!(machine.collections().len(), 5);
    machine.sh("tilld verify");
    collect(&machine, 1);
}

#[test]
fn a_restore_beside_a_running_daemon_is_refused() {
    let machine = Machine::serving();
    collect(&machine, 1);
    machine.sh("systemctl start tilld-backup.service");
    let name = names(&machine).remove(0);
    let ran = machine.run(&format!("tilld backup restore {name}"));
    assert_ne!(ran.code, Some(0), "{ran:?}");
    collect(&machine, 1);
    assert_eq!(machine.collections().len(), 2);
}

#[test]
fn a_new_machine_goes_on_from_a_copy_of_the_tape_as_readme_says() {
    let machine = Machine::serving();
    collect(&machine, 3);
    machine.sh("cp -r /var/lib/tilld/tape /root/copy && systemctl stop tilld");
    machine.sh("rm -r /var/lib/tilld/* && systemctl start tilld");

    machine.sh("systemctl stop tilld && mkdir /var/lib/tilld/first-start");
    machine.sh("cd /var/lib/tilld && mv tilld.db* tape tls first-start");
    machine.sh("cp -r /root/copy /var/lib/tilld/tape");
    machine.sh("chown -R _tilld:tilld-admin /var/lib/tilld && systemctl start tilld");
    assert_eq!(machine.collections().len(), 3);
    machine.sh("tilld verify");
}
