//! Ends of the process, wanted and unwanted: what tills notice of them, and that it comes back.

use std::io::ErrorKind;
use std::time::Duration;

use tilld::system::clock;

use crate::support::machine::BRANCH_FILE;
use crate::support::till::{self, Till};
use crate::support::{Confirmation, JSON, Machine, PATH};

/// A till that waits for its answer notices nothing.
const BACK_TIME_MAX: Duration = Duration::from_secs(5);

#[test]
fn a_restart_under_load_refuses_no_connection_and_loses_no_confirmation() {
    let machine = Machine::serving();
    let load = machine.load();
    // More often than systemd restarts a service that has a start limit.
    for _ in 0..8 {
        machine.sh("systemctl restart tilld");
        load.await_answers(100);
    }
    // As an upgrade of systemd itself does.
    machine.sh("systemctl daemon-reexec && systemctl restart tilld");
    let account = load.end();
    account.assert_without_fault();
    machine.all_stands(&account);
    assert_eq!(machine.property("NFileDescriptorStore"), "1");
}

#[test]
fn a_request_that_is_half_sent_when_a_restart_begins_is_answered() {
    let machine = Machine::serving();
    let pid = machine.main_pid();
    let confirmation = Confirmation::fresh();
    let request = till::request(PATH, JSON, &[], confirmation.text().as_bytes());
    let (first, second) = request.split_at(request.len() - 9);
    let mut till = Till::connect(machine.address(), &machine.tls()).expect("a connection");
    till.send(first).expect("an open connection");
    machine.sh("systemctl restart --no-block tilld");
    machine.until("test $(systemctl show -P ActiveState tilld) = deactivating");
    till.send(second).expect("an open connection");
    assert_eq!(till.receive().expect("an answer").code(), "1000");
    machine.await_active();
    assert_ne!(machine.main_pid(), pid);
    assert_eq!(machine.code(&confirmation), "-1015");
}

#[test]
fn a_restart_on_another_address_lets_the_old_one_go() {
    let machine = Machine::serving();
    let tls = machine.tls();
    let configured = machine.read(BRANCH_FILE);
    let listens = |address: &str| {
        machine.write(BRANCH_FILE, &format!("endpoint.listen = {address:?}\n{configured}"));
        machine.sh("systemctl restart tilld");
        assert_eq!(machine.property("NFileDescriptorStore"), "1");
        machine.sh("ss -Hltn | awk '{ print $4 }' | grep -E ':(8443|9543)$'")
    };
    assert_eq!(listens("0.0.0.0:9543"), "0.0.0.0:9543");
    let refused = Till::connect(machine.address(), &tls).err().expect("nobody listens there");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // The same port, so that the old socket must be gone first.
    assert_eq!(listens("127.0.0.1:9543"), "127.0.0.1:9543");
    assert_eq!(listens("0.0.0.0:8443"), "0.0.0.0:8443");
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
}

#[test]
fn after_a_kill_it_is_back_within_five_seconds_and_nothing_is_lost() {
    let machine = Machine::serving();
    let load = machine.load();
    let killed = clock::monotonic();
    machine.sh("kill -9 $(systemctl show -P MainPID tilld)");
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    let away = clock::monotonic() - killed;
    assert!(away < BACK_TIME_MAX, "{away:?}");
    let account = load.end();
    machine.all_stands(&account);
    // Connections that stood broke; no new one was turned away.
    let turned_away = |error: &&String| error.contains("Connection refused");
    assert_eq!(account.refused.iter().filter(turned_away).count(), 0, "{:?}", account.refused);
    assert_eq!(account.odd, Vec::<String>::new());
    assert_eq!(machine.property("NRestarts"), "1");
}

#[test]
fn the_watchdog_restarts_a_daemon_that_makes_no_progress() {
    let machine = Machine::serving();
    let drop_in = "/etc/systemd/system/tilld.service.d/watchdog.conf";
    assert_eq!(machine.property("WatchdogUSec"), "1min 30s");
    machine.write(drop_in, "[Service]\nWatchdogSec=3\n");
    machine.sh("systemctl daemon-reload && systemctl restart tilld");
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    machine.sh("kill -STOP $(systemctl show -P MainPID tilld)");
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
    assert_eq!(machine.property("NRestarts"), "1");
    machine.until("journalctl -u tilld | grep 'Watchdog timeout'");
    machine.sh("tilld verify");
}

#[test]
fn after_a_reboot_it_serves_by_itself_and_everything_is_there() {
    let mut machine = Machine::serving();
    let confirmations: Vec<Confirmation> = (0..20).map(|_| Confirmation::fresh()).collect();
    for confirmation in &confirmations {
        assert_eq!(machine.code(confirmation), "1000");
    }
    machine.reboot();
    machine.await_active();
    for confirmation in &confirmations {
        assert_eq!(machine.code(confirmation), "-1015");
    }
    assert_eq!(machine.collections().len(), confirmations.len());
    machine.sh("tilld verify");
}

#[test]
fn after_a_sudden_end_of_the_machine_under_load_it_serves_by_itself_and_nothing_is_lost() {
    let mut machine = Machine::serving();
    let account = machine.load().end_with(|| machine.cut_power());
    machine.await_active();
    machine.all_stands(&account);
    assert_eq!(machine.code(&Confirmation::fresh()), "1000");
}
