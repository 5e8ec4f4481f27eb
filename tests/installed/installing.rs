//! From the file to a daemon that answers: one command, nothing to configure first.

use std::process::Command;

use serde_json::Value;

use crate::support::{Confirmation, Machine, PATH, package};

#[test]
fn apt_installs_it_and_it_runs_before_anybody_has_configured_it() {
    let machine = Machine::bare();
    machine.install(&package::path());
    let status = machine.sh("systemctl status tilld");
    assert!(status.contains("Active: active (running)"), "{status}");
    let told = machine.property("StatusText");
    assert!(told.contains("unconfigured"), "{told}");
    assert!(status.contains(&told), "{status}");
    assert_eq!(machine.code(&Confirmation::fresh()), "-1001");
    assert_eq!(machine.sh("systemctl is-enabled tilld"), "enabled");
    assert_eq!(machine.sh("systemctl --failed --quiet"), "");
}

#[test]
fn an_installation_while_another_program_has_the_port_succeeds_and_serves_later() {
    let machine = Machine::bare();
    machine.take_port();
    machine.install(&package::path());
    assert_eq!(machine.sh("dpkg-query -W -f '${Status}' tilld"), "install ok installed");
    machine.sh("systemctl stop other");
    machine.await_active();
    assert_eq!(machine.code(&Confirmation::fresh()), "-1001");
}

#[test]
fn curl_posts_to_it_over_tls_from_another_computer() {
    let machine = Machine::serving();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "15", "--cacert"]);
    curl.arg(machine.certificate());
    curl.args(["--connect-to", &format!("localhost:8443:{}", machine.address())]);
    curl.args(["--data", &Confirmation::fresh().text()]);
    let output = curl.arg(format!("https://localhost:8443{PATH}")).output().expect("curl");
    let errors = String::from_utf8_lossy(&output.stderr);
    let reply: Value = serde_json::from_slice(&output.stdout).expect(&errors);
    assert_eq!(reply["responseCode"], "1000", "{reply}");
    assert_eq!(machine.collections().len(), 1);
    machine.until("systemctl status tilld | grep 'Status: \"1 today'");
}

#[test]
fn a_branch_that_boots_without_a_network_collects_all_the_same() {
    let mut machine = Machine::configured();
    machine.boot_without_network();
    machine.await_active();
    let text = Confirmation::fresh().text();
    let reply = machine.sh(&format!(
        "curl -sS --cacert /var/lib/tilld/tls/cert.pem https://localhost:8443{PATH} --data '{text}'"
    ));
    assert!(reply.contains("\"1000\""), "{reply}");
}
