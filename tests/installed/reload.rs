//! `systemctl reload`: everything that is new, or everything as it was, and no till notices.

use std::fs;
use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::ClientConfig;
use serde_json::Value;

use crate::support::authority::authority;
use crate::support::machine::BRANCH_FILE;
use crate::support::{Confirmation, Load, Machine, SKYPAY, SKYPAY_KEY, TILL_7, TILL_7_KEY, till};

/// Where a certificate of one's own lies, and how it is named.
const TLS: &str = "/etc/tilld/tls";
const OWN_CERTIFICATE: &str = "\n[endpoint.tls]\ncertificate = \"/etc/tilld/tls/cert.pem\"\n\
                               private_key = \"/etc/tilld/tls/key.pem\"\n";

/// Somebody who signs the branch's certificates, and whom its tills trust.
struct Signer(Issuer<'static, KeyPair>);

impl Signer {
    /// With a first certificate at the place that the configuration names.
    fn for_branch(machine: &Machine) -> (Signer, Arc<ClientConfig>) {
        let (pem, issuer) = authority();
        machine.write("/etc/tilld/tls/authority.pem", &pem);
        let signer = Signer(issuer);
        signer.certify(machine);
        machine.append(BRANCH_FILE, OWN_CERTIFICATE);
        let trusting = till::trusting(&machine.path("/etc/tilld/tls/authority.pem"));
        (signer, trusting)
    }

    /// Writes a new key and a certificate for it.
    fn certify(&self, machine: &Machine) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        machine.write(&format!("{TLS}/cert.pem"), &certificate.pem());
        fs::write(machine.path(TLS).join("key.pem"), key.serialize_pem()).expect("a key file");
    }
}

/// The daemon may read the key, and others may not.
fn protect_key(machine: &Machine) {
    machine.sh(&format!("chown root:_tilld {TLS}/key.pem && chmod 0640 {TLS}/key.pem"));
}

/// The fingerprint of what is shown to whoever connects.
fn shown_fingerprint(machine: &Machine) -> String {
    machine.sh("openssl s_client -connect localhost:8443 </dev/null 2>/dev/null \
         | openssl x509 -noout -fingerprint -sha256")
}

/// The ids of a till's keys.
fn key_ids(machine: &Machine) -> Vec<String> {
    let text = machine.sh(&format!("tilld key list {TILL_7} --output json"));
    let listed: Value = serde_json::from_str(&text).expect("JSON");
    let keys = listed["keys"].as_array().expect("keys").iter();
    keys.map(|key| key["key_id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_reload_takes_callers_keys_and_certificates_and_fails_no_request() {
    let mut machine = Machine::configured();
    let (signer, tls) = Signer::for_branch(&machine);
    machine.boot_without_network();
    protect_key(&machine);
    machine.plug_in();
    machine.sh("systemctl restart tilld");
    let pid = machine.main_pid();
    let load = Load::start(machine.address(), tls.clone());
    let code = |confirmation: Confirmation| machine.code_over(&tls, &confirmation);

    machine.secret("till-8.keys", "key-of-till-8");
    machine.append(
        BRANCH_FILE,
        "[[caller]]\nuser_name = \"till-8\"\n\
         authentication_file = \"/etc/tilld/secrets.d/till-8.keys\"\n",
    );
    assert_eq!(code(Confirmation::fresh().by("till-8", "key-of-till-8")), "-1001");
    machine.sh("systemctl reload tilld");
    assert_eq!(code(Confirmation::fresh().by("till-8", "key-of-till-8")), "1000");

    let [old] = &key_ids(&machine)[..] else { panic!("one key was configured") };
    machine.sh(&format!("echo new-key-of-till-7 | tilld key add {TILL_7}"));
    assert_eq!(key_ids(&machine).len(), 2);
    assert_eq!(code(Confirmation::fresh().by(TILL_7, "new-key-of-till-7")), "1000");
    assert_eq!(code(Confirmation::fresh().by(TILL_7, TILL_7_KEY)), "1000");
    machine.sh(&format!("tilld key drop {TILL_7} {old}"));
    assert_eq!(code(Confirmation::fresh().by(TILL_7, TILL_7_KEY)), "-1001");
    assert_eq!(code(Confirmation::fresh().by(TILL_7, "new-key-of-till-7")), "1000");
    let rights = machine.sh("stat -c '%A %U:%G' /etc/tilld/secrets.d/till-7.keys");
    assert_eq!(rights, "-rw-r----- root:_tilld");

    let before = shown_fingerprint(&machine);
    signer.certify(&machine);
    protect_key(&machine);
    machine.sh("systemctl reload tilld");
    assert_ne!(shown_fingerprint(&machine), before);

    let account = load.end();
    account.assert_without_fault();
    machine.all_stands(&account);
    assert_eq!(machine.main_pid(), pid);
}

#[test]
fn a_reload_of_what_is_wrong_fails_with_the_reason_and_changes_nothing() {
    let machine = Machine::serving();
    let pid = machine.main_pid();
    let load = machine.load();
    let good = machine.read(BRANCH_FILE);
    let certificate = machine.read("/var/lib/tilld/tls/cert.pem");
    let another_key = KeyPair::generate().expect("a key").serialize_pem();
    machine.write(&format!("{TLS}/cert.pem"), &certificate);
    machine.write(&format!("{TLS}/key.pem"), &another_key);
    protect_key(&machine);
    let gone = format!(
        "[[caller]]\nuser_name = {SKYPAY:?}\nauthentication_file = \"/etc/tilld/secrets.d/gone\"\n"
    );
    let mistakes = [
        ("[endpoint]\nlisten = 8443\n".to_owned(), "branch.toml:2"),
        (gone, "/etc/tilld/secrets.d/gone"),
        (format!("{good}{OWN_CERTIFICATE}"), "key.pem"),
    ];
    for (mistake, reason) in mistakes {
        machine.write(BRANCH_FILE, &mistake);
        let ran = machine.run("systemctl reload tilld");
        assert_ne!(ran.code, Some(0), "{mistake}");
        let told = machine.run("tilld reload");
        assert_eq!(told.code, Some(78), "{told:?}");
        assert!(told.stderr.contains(reason), "{told:?}");
        machine.until(&format!("journalctl -u tilld -p err | grep -F {reason}"));
        assert_eq!(machine.code(&Confirmation::fresh().by(SKYPAY, SKYPAY_KEY)), "1000");
    }
    let account = load.end();
    account.assert_without_fault();
    assert_eq!(machine.main_pid(), pid);
    assert_eq!(machine.property("ActiveState"), "active");
}
