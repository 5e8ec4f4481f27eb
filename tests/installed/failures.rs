//! What goes wrong around the daemon: it says so, and goes on by itself when it is over.

use crate::support::machine::BRANCH_FILE;
use crate::support::{Confirmation, Machine};

#[test]
fn a_port_that_another_program_has_is_named_and_taken_when_it_is_free() {
    let machine = Machine::serving();
    machine.sh("systemctl stop tilld");
    machine.take_port();
    machine.sh("systemctl start --no-block tilld");
    machine.until("journalctl -u tilld | grep 'cannot listen on 0.0.0.0:8443'");
    // It goes on trying for as long as it takes.
    machine.until("test $(systemctl show -P NRestarts tilld) -ge 6");
    assert_eq!(machine.property("ActiveState"), "activating");
    machine.sh("systemctl stop other");
    machine.await_active();
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
}

#[test]
fn a_full_disk_is_answered_minus_1009_until_there_is_room_again() {
    let machine = Machine::serving();
    let settings = format!("disk_reserve = \"16 MiB\"\n{}", machine.read(BRANCH_FILE));
    machine.write(BRANCH_FILE, &settings);
    machine.sh("systemctl stop tilld && rm -rf /var/lib/tilld/* \
         && mount -t tmpfs -o size=48m tmpfs /var/lib/tilld \
         && systemd-tmpfiles --create && systemctl start tilld");
    let before = Confirmation::fresh();
    assert_eq!(machine.code(&before), "1000");
    machine.sh("! dd if=/dev/zero of=/var/lib/tilld/filler bs=1M");
    let during = Confirmation::fresh();
    assert_eq!(machine.code(&during), "-1009");
    assert_eq!(machine.code(&before), "-1015");
    let status = machine.run("tilld status");
    assert_eq!(status.code, Some(6), "{status:?}");
    machine.sh("rm /var/lib/tilld/filler");
    assert_eq!(machine.code(&during), "1000");
    assert_eq!(machine.collections().len(), 2);
    machine.sh("tilld verify");
    assert_eq!(machine.property("NRestarts"), "0");
}

#[test]
fn a_faulty_configuration_at_the_start_is_said_once_and_waits_for_a_person() {
    let machine = Machine::serving();
    machine.sh("systemctl stop tilld");
    machine.append(BRANCH_FILE, "nonsense = 1\n");
    let ran = machine.run("systemctl start tilld");
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert_eq!(machine.property("ActiveState"), "failed");
    assert_eq!(machine.property("ExecMainStatus"), "78");
    assert_eq!(machine.property("NRestarts"), "0");
    machine.until("journalctl -u tilld -p err | grep branch.toml");
}

#[test]
fn the_doctor_names_what_was_changed_in_the_unit_and_what_keeps_the_daemon_from_its_files() {
    let machine = Machine::serving();
    let told = machine.run("tilld doctor").stdout;
    for line in
        ["ok       permissions    user _tilld ", "ok       unit           active (running)\n"]
    {
        assert!(told.contains(line), "{told}");
    }
    let drop_in = "/etc/systemd/system/tilld.service.d/slow.conf";
    machine.write(drop_in, "[Service]\n");
    // To disable a unit makes systemd read all of them anew, and the drop-in with them.
    machine.sh("systemctl disable tilld; chmod 0600 /etc/tilld/secrets.d/*");
    machine.append(drop_in, "Nice=1\n");
    machine.write("/root/pos.pem", "");
    let endpoint = "[endpoint.tls]\nclient_ca = \"/root/pos.pem\"\n";
    machine.append(BRANCH_FILE, endpoint);
    let told = machine.run("tilld doctor");
    assert_eq!(told.code, Some(6), "{told:?}");
    for words in [
        "MEND     unit           it does not start when the machine does",
        "sudo systemctl daemon-reload",
        "user _tilld cannot read /etc/tilld/secrets.d/",
        "/root/pos.pem: the unit hides this place from the daemon",
    ] {
        assert!(told.stdout.contains(words), "{words}: {told:?}");
    }
    machine.sh("systemctl daemon-reload; systemctl stop tilld");
    machine.take_port();
    let told = machine.run("tilld doctor").stdout;
    for words in
        [drop_in, "port 8443 is held by ", "MEND     daemon         the daemon is not running"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
}
