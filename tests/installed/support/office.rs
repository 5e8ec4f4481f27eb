//! Head office for a branch: another daemon on the same machine, on ports of its own.

use super::{Machine, PATH, SKYPAY, SKYPAY_KEY, TILL_7_KEY};

/// What it is configured with. The branch calls as any caller would, so that a contract that is
/// paid here is a contract that the branch's confirmation does not settle.
const CONFIGURATION: &str = r#"
state_dir = "/srv/office/state"

[endpoint]
listen = "127.0.0.1:7443"

[operator]
listen = "127.0.0.1:7444"
socket = "/srv/office/tilld.sock"

[[caller]]
user_name = "branch"
authentication_file = "keys"

[[caller]]
user_name = "AppName@skypay"
authentication_file = "skypay.keys"
"#;

const UPSTREAM: &str = r#"
[upstream]
url = "https://localhost:7443/collectionCollect"
branch = "MNL-042"
user_name = "branch"
authentication_file = "/etc/tilld/secrets.d/upstream.key"
ca_file = "/etc/tilld/office.pem"
"#;

/// Opens it, and lets the branch, which serves, send there from now on.
pub fn open(machine: &Machine) {
    machine.write("/srv/office/tilld.toml", CONFIGURATION);
    machine.write("/srv/office/keys", TILL_7_KEY);
    machine.write("/srv/office/skypay.keys", SKYPAY_KEY);
    machine.sh("chmod 0600 /srv/office/*keys");
    machine.sh("systemd-run --unit=office --property=Type=notify \
         tilld serve --config /srv/office/tilld.toml");
    machine.sh("cp /srv/office/state/tls/cert.pem /etc/tilld/office.pem");
    machine.secret("upstream.key", TILL_7_KEY);
    machine.write("/etc/tilld/conf.d/upstream.toml", UPSTREAM);
    machine.sh("systemctl restart tilld");
}

/// Somebody pays this contract at head office, under another receipt.
pub fn pay(machine: &Machine, contract: &str) {
    let confirmation = super::Confirmation::fresh().by(SKYPAY, SKYPAY_KEY);
    let text = confirmation.with("contractNumber", contract).text();
    let reply = machine.sh(&format!(
        "curl -sS --cacert /etc/tilld/office.pem https://localhost:7443{PATH} --data '{text}'"
    ));
    assert!(reply.contains("\"1000\""), "{reply}");
}
