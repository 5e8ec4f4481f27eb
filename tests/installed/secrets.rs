//! Keys of callers: from systemd's credentials too, and never where they can be seen.

use crate::support::machine::BRANCH_FILE;
use crate::support::{Confirmation, Machine, SKYPAY_KEY, TILL_7, TILL_7_KEY, package};

/// Where an administrator adds to the unit.
const DROP_IN: &str = "/etc/systemd/system/tilld.service.d/credentials.conf";

/// One till, whose key comes from systemd.
const CALLER: &str = "[[caller]]\nuser_name = \"till-7\"\n\
                      authentication_file = \"${CREDENTIALS_DIRECTORY}/till-7.keys\"\n";

#[test]
fn no_secret_is_seen_in_unit_environment_process_list_log_or_core() {
    let machine = Machine::serving();
    assert_eq!(machine.code(&Confirmation::fresh().by_till()), "1000");
    assert_eq!(machine.code(&Confirmation::fresh().by(TILL_7, "a-wrong-key-0815")), "-1001");
    assert_eq!(machine.code(&Confirmation::fresh().by_till().with("amount", "x")), "2003");
    machine.sh("systemctl reload tilld");
    let pid = machine.main_pid();
    let seen = [
        machine.sh("systemctl show tilld"),
        machine.sh("systemctl status --full -n 1000 tilld"),
        machine.sh(&format!("tr '\\0' '\\n' < /proc/{pid}/environ")),
        machine.sh("ps -ef"),
        machine.sh("journalctl --sync && journalctl -o verbose --all"),
        machine.sh("cat /run/tilld/status.json"),
    ]
    .concat();
    for secret in [TILL_7_KEY, SKYPAY_KEY, "a-wrong-key-0815"] {
        assert!(!seen.contains(secret), "{secret} is seen");
    }
    let limits = machine.sh(&format!("grep 'Max core file size' /proc/{pid}/limits"));
    assert_eq!(limits.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{limits}");
}

#[test]
fn a_key_comes_from_a_credential_of_the_unit() {
    let machine = Machine::serving();
    machine.write("/root/till-7.keys", TILL_7_KEY);
    machine.write(DROP_IN, "[Service]\nLoadCredential=till-7.keys:/root/till-7.keys\n");
    machine.write(BRANCH_FILE, CALLER);
    machine.sh("chmod 0600 /root/till-7.keys && rm /etc/tilld/secrets.d/*");
    machine.sh("systemctl daemon-reload && systemctl restart tilld");
    assert_eq!(machine.code(&Confirmation::fresh().by_till()), "1000");

    // Nothing else that uses the configuration stumbles over it.
    machine.sh("systemctl reload tilld");
    machine.sh("systemctl start tilld-backup.service");
    package::write_newer(&machine.path("/root/newer.deb"));
    machine.sh("apt-get install -y /root/newer.deb 2>&1");
    machine.sh("tilld list && tilld status && tilld backup list");
    assert_eq!(machine.code(&Confirmation::fresh().by_till()), "1000");
}

#[test]
fn a_key_comes_from_a_credential_that_only_this_machine_can_decrypt() {
    let machine = Machine::serving();
    machine.write("/root/till-7.keys", TILL_7_KEY);
    machine.sh("systemd-creds encrypt --with-key=host --name=till-7.keys /root/till-7.keys \
         /etc/tilld/till-7.cred && rm /root/till-7.keys /etc/tilld/secrets.d/*");
    let drop_in = "[Service]\nLoadCredentialEncrypted=till-7.keys:/etc/tilld/till-7.cred\n";
    machine.write(DROP_IN, drop_in);
    machine.write(BRANCH_FILE, CALLER);
    machine.sh("systemctl daemon-reload && systemctl restart tilld");
    assert_eq!(machine.code(&Confirmation::fresh().by_till()), "1000");
    assert!(!machine.read("/etc/tilld/till-7.cred").contains(TILL_7_KEY));
}
