//! Clients that other people write, in other languages, with other TLS and other AES: the examples
//! of the integration guide, run as they are printed there.

use std::path::PathBuf;
use std::process::Command;

use crate::support::till::parse_reply;
use crate::support::{Daemon, PATH, SKYPAY, SKYPAY_KEY, SKYPAY_PASSWORD, Setup, Site};

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/promises/clients").join(name)
}

/// Runs an example with this password and gives the code in the answer that it printed.
fn run(program: &str, file: &str, site: &Site, daemon: &Daemon, password: &str) -> String {
    let url = format!("https://{}{PATH}", daemon.address());
    let mut command = Command::new(program);
    command.arg(example(file)).arg(url).arg(site.certificate());
    command.args([SKYPAY, SKYPAY_KEY, password, "SKY0112345678"]);
    let output = command.output().unwrap_or_else(|error| {
        panic!("{program} cannot be run ({error}): tests/run installs what the tests need")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{file}: {errors}");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    parse_reply(printed.trim()).0
}

fn confirms_and_reads_its_answer(program: &str, file: &str) {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let run = |password| run(program, file, &site, &daemon, password);
    assert_eq!(run("stale"), "-1001");
    assert_eq!(run(SKYPAY_PASSWORD), "1000");
    assert_eq!(run(SKYPAY_PASSWORD), "-1015");
    let row = site.only("SKY0112345678");
    assert_eq!(
        (row["form"].as_str(), &row["amount_centavos"]),
        (Some("encrypted"), &390_000.into())
    );
}

#[test]
fn a_client_in_java_confirms_and_reads_its_answer() {
    confirms_and_reads_its_answer("java", "Confirm.java");
}

#[test]
fn a_client_in_php_confirms_and_reads_its_answer() {
    confirms_and_reads_its_answer("php", "confirm.php");
}

#[test]
fn a_client_of_openssl_and_curl_confirms_and_reads_its_answer() {
    confirms_and_reads_its_answer("sh", "confirm.sh");
}
