//! A changed configuration is taken by the running daemon, all of it or nothing, and no till
//! notices; a restart keeps the socket, and who connects meanwhile waits.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

use crate::support::fleet::{Branch, MANILA, Office, number};
use crate::support::{
    Caller, Confirmation, Daemon, JSON, PATH, SKYPAY, SKYPAY_KEY, Setup, Site, TILL_7, TILL_7_KEY,
    Till, received, till,
};

const NEW_KEY: &str = "0FD2B7A1-93D7-4C0E-A7A5-F1B5E0B6D1C2";

/// The exit code, what was printed and what was said.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// `tilld ARGUMENTS` that must succeed; gives what it printed.
fn done(site: &Site, arguments: &[&str]) -> String {
    let (code, printed, errors) = told(&site.tilld(arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    printed
}

/// `tilld ARGUMENTS` with this on standard input.
fn fed(site: &Site, arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = site.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("tilld can be run");
    // One that refuses before it reads closes its end.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    told(&child.wait_with_output().expect("it ends"))
}

/// The code answered on this connection.
fn code(till: &mut Till, confirmation: &Confirmation) -> String {
    till.post(PATH, JSON, &[], confirmation.text().as_bytes()).code()
}

fn by_skypay(key: &str) -> Confirmation {
    Confirmation::fresh().by(SKYPAY, key)
}

/// A certificate and its key for loopback, put beside the configuration.
fn make_certificate(site: &Site, name: &str) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(site.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(site.path().join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
}

fn keys(site: &Site) -> Vec<Value> {
    let printed = done(site, &["key", "list", SKYPAY, "--output", "json"]);
    let json: Value = serde_json::from_str(&printed).expect("JSON");
    json["keys"].as_array().expect("keys").clone()
}

#[test]
fn a_key_is_added_and_dropped_while_a_till_stays_connected() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    assert_eq!(code(&mut till, &by_skypay(NEW_KEY)), "-1001");
    let (exit, printed, errors) = fed(&site, &["key", "add", SKYPAY], &format!("{NEW_KEY}\n"));
    assert_eq!(exit, Some(0), "{errors}");
    assert!(printed.contains("the daemon has taken it"), "{printed}");
    assert!(!printed.contains(NEW_KEY) && !errors.contains(NEW_KEY), "it is a secret");
    for key in [NEW_KEY, SKYPAY_KEY] {
        assert_eq!(code(&mut till, &by_skypay(key)), "1000", "both are active");
    }
    let listed = keys(&site);
    let authentication: Vec<_> = listed.iter().filter(|key| key["kind"] == "key").collect();
    assert_eq!(authentication.len(), 2, "{listed:?}");
    assert!(authentication[0]["added_at"].is_null(), "it was written by hand");
    assert_eq!(authentication[1]["age_days"], 0);
    assert!(authentication.iter().all(|key| key["last_used_at"].is_string()), "{listed:?}");
    let old = authentication[0]["key_id"].as_str().expect("an id");
    done(&site, &["key", "drop", SKYPAY, old]);
    assert_eq!(code(&mut till, &by_skypay(SKYPAY_KEY)), "-1001");
    assert_eq!(code(&mut till, &by_skypay(NEW_KEY)), "1000");
}

#[test]
fn what_is_wrong_with_a_key_is_said_and_nothing_is_changed() {
    let site = Setup::live().prepare();
    let before = fs::read(site.path().join("0.keys")).unwrap();
    let too_long = "x".repeat(256);
    for (arguments, input, exit, words) in [
        (&["key", "add", "nobody"][..], NEW_KEY, 5, "configured are: "),
        (&["key", "add", TILL_7, "--encryption"], NEW_KEY, 78, "no encryption_file"),
        (&["key", "add", SKYPAY], "", 65, "no key in it; nothing is changed"),
        (&["key", "add", SKYPAY], "one\ntwo\n", 65, "one key at a time"),
        (&["key", "add", SKYPAY], &too_long, 65, "longer than 255"),
        (&["key", "drop", SKYPAY, "00000000"], "", 5, "has no key 00000000"),
        (&["key", "drop", SKYPAY, "not-an-id"], "", 2, "8 hex digits"),
    ] {
        let (code, _, errors) = fed(&site, arguments, input);
        assert_eq!(code, Some(exit), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
    let only = keys(&site)[0]["key_id"].as_str().expect("an id").to_owned();
    let (code, _, errors) = told(&site.tilld(&["key", "drop", SKYPAY, &only]));
    assert_eq!(code, Some(78), "{errors}");
    assert!(errors.contains("is the last key"), "{errors}");
    assert_eq!(fs::read(site.path().join("0.keys")).unwrap(), before);
    let (code, printed, _) = fed(&site, &["key", "add", SKYPAY], SKYPAY_KEY);
    assert_eq!(code, Some(0));
    assert!(printed.contains("is a key of caller AppName@skypay already"), "{printed}");
    let (code, printed, _) = fed(&site, &["key", "add", SKYPAY], NEW_KEY);
    assert_eq!(code, Some(0), "also with the daemon down");
    assert!(printed.contains("takes it when it starts"), "{printed}");
    assert_eq!(site.start().code(&by_skypay(NEW_KEY)), "1000");
}

#[test]
fn rules_and_callers_are_taken_and_who_is_gone_is_shut_out_at_once() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let by_till = || Confirmation::fresh().by(TILL_7, TILL_7_KEY);
    assert_eq!(code(&mut till, &by_till()), "1000");
    let callers = vec![Caller::new(SKYPAY, &[SKYPAY_KEY])];
    site.configure(&Setup { callers, reply_code: "number", ..Setup::live() });
    let printed = done(&site, &["reload"]);
    assert!(
        printed.starts_with("reloaded: 1 caller; collections are kept here; certificate"),
        "{printed}"
    );
    let answer = till.post(PATH, JSON, &[], by_till().text().as_bytes());
    assert!(answer.body.contains("\"responseCode\":-1001"), "{}", answer.body);
    let answer = till.post(PATH, JSON, &[], by_skypay(SKYPAY_KEY).text().as_bytes());
    assert!(answer.body.contains("\"responseCode\":1000"), "{}", answer.body);
    daemon.await_line("reloaded: 1 caller");
}

#[test]
fn a_new_certificate_is_shown_to_who_connects_and_the_connected_stay() {
    let setup = Setup::live();
    let site = setup.prepare();
    let daemon = site.start();
    let mut early = daemon.till();
    make_certificate(&site, "new");
    let tls = "[endpoint.tls]\ncertificate = \"new.pem\"\nprivate_key = \"new-key.pem\"";
    site.configure(&Setup { extra: tls.to_owned(), ..setup });
    done(&site, &["reload"]);
    let trusting_new = till::trusting(&site.path().join("new.pem"));
    let mut late = Till::connect(daemon.address(), &trusting_new).expect("it shows the new one");
    assert!(Till::connect(daemon.address(), daemon.tls()).is_err(), "and no longer the old one");
    assert_eq!(code(&mut early, &Confirmation::fresh()), "1000");
    assert_eq!(code(&mut late, &Confirmation::fresh()), "1000");
}

#[test]
fn of_a_configuration_with_one_mistake_nothing_is_taken() {
    let setup = Setup::live();
    let site = setup.prepare();
    let daemon = site.start();
    let changed = Setup { reply_code: "number", ..setup.clone() };
    let broken = "[endpoint.tls]\ncertificate = \"no.pem\"\nprivate_key = \"no-key.pem\"";
    site.configure(&Setup { extra: broken.to_owned(), ..changed.clone() });
    let (exit, _, errors) = told(&site.tilld(&["reload"]));
    assert_eq!(exit, Some(78), "{errors}");
    assert!(errors.contains("no.pem: it cannot be read"), "{errors}");
    daemon.await_line("not reloaded, what was configured before stays in force");

    site.configure(&changed);
    let keys = site.path().join("1.keys");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    let (exit, _, errors) = told(&site.tilld(&["reload"]));
    assert_eq!(exit, Some(78), "{errors}");
    assert!(errors.contains("mend it: chmod 0640"), "{errors}");

    fs::write(site.config(), "mode = \"alive\"\n").unwrap();
    assert_eq!(site.tilld(&["reload"]).status.code(), Some(78));

    let answer = daemon.confirm(&Confirmation::fresh());
    assert!(answer.body.contains("\"responseCode\":\"1000\""), "{}", answer.body);
}

#[test]
fn what_takes_a_restart_is_said_and_nothing_of_the_rest_is_taken() {
    let setup = Setup::live();
    let site = setup.prepare();
    let daemon = site.start();
    let elsewhere = "[backup]\ndirectory = \"/mnt/backup\"\n".to_owned();
    for (changed, what) in [
        (Setup { listen: "127.0.0.1:1".to_owned(), ..setup.clone() }, "`listen` has changed"),
        (Setup { mode: "sandbox", ..setup.clone() }, "mode has changed"),
        (Setup { disk_reserve: "2 MiB", ..setup.clone() }, "disk_reserve has changed"),
        (Setup { extra: elsewhere, ..setup.clone() }, "`directory` in [backup] has changed"),
    ] {
        site.configure(&Setup { reply_code: "number", ..changed });
        let (exit, _, errors) = told(&site.tilld(&["reload"]));
        assert_eq!(exit, Some(78), "{errors}");
        assert!(errors.contains(what) && errors.contains("systemctl restart tilld"), "{errors}");
    }
    let answer = daemon.confirm(&Confirmation::fresh());
    assert!(answer.body.contains("\"responseCode\":\"1000\""), "{}", answer.body);
}

#[test]
fn reloads_under_load_fail_no_request() {
    let setup = Setup::live();
    let site = setup.prepare();
    let daemon = Arc::new(site.start());
    let is_over = Arc::new(AtomicBool::new(false));
    let tills: Vec<_> = (0..8)
        .map(|_| {
            let (daemon, is_over) = (Arc::clone(&daemon), Arc::clone(&is_over));
            thread::spawn(move || {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    // Half of them on one connection, half on a new one each time.
                    let mut till = daemon.till();
                    for _ in 0..20 {
                        assert_eq!(code(&mut till, &Confirmation::fresh()), "1000");
                        count += 1;
                    }
                }
                count
            })
        })
        .collect();
    for round in 0..20 {
        let key = format!("{NEW_KEY}-{round}");
        assert_eq!(fed(&site, &["key", "add", SKYPAY], &key).0, Some(0));
        site.configure(&Setup {
            contracts: ["single", "installments"][round % 2],
            ..setup.clone()
        });
        done(&site, &["reload"]);
    }
    is_over.store(true, Ordering::Relaxed);
    let count: usize = tills.into_iter().map(|till| till.join().expect("all were 1000")).sum();
    assert_eq!(site.all().len(), count);
}

#[test]
fn a_head_office_comes_changes_and_goes_by_reload() {
    let office = Office::open();
    let (setup, no_upstream) = (Setup::live(), Setup::live());
    let mut branch = Branch::with(MANILA, &setup, &office.way());
    branch.site.configure(&no_upstream);
    branch.start();
    branch.collect(3);
    assert_eq!(number(&branch.site, "SELECT count(*) FROM outbox"), 3, "they are kept");

    branch.configure(&setup, &office.way().and("timeout = \"9 s\""));
    let key = fs::read_to_string(branch.site.path().join("upstream.key")).unwrap();
    branch.site.secret("upstream.key", &["a wrong key".to_owned()]);
    done(&branch.site, &["reload"]);
    branch.daemon().await_line("-1001");
    branch.site.secret("upstream.key", &[key.trim().to_owned()]);
    done(&branch.site, &["reload"]);
    branch.await_empty_outbox();
    assert_eq!(office.site.all().len(), 3, "the key in the same file is another one");

    branch.site.configure(&no_upstream);
    let printed = done(&branch.site, &["reload"]);
    assert!(printed.contains("collections are kept here"), "{printed}");
    branch.collect(1);
    assert_eq!(told(&branch.site.tilld(&["sync", "now"])).0, Some(78));
    assert_eq!(number(&branch.site, "SELECT count(*) FROM outbox"), 1);
}

/// Nothing can be read from a database that is not there: as little as with no descriptor left.
#[test]
fn a_reload_that_cannot_begin_another_way_to_head_office_leaves_the_present_one() {
    let office = Office::open();
    let setup = Setup::live();
    let mut branch = Branch::with(MANILA, &setup, &office.way());
    branch.start();
    branch.configure(&setup, &office.way().and("timeout = \"9 s\""));
    let database = branch.site.state_dir().join("tilld.db");
    let away = database.with_extension("away");
    fs::rename(&database, &away).unwrap();
    let (code, _, errors) = told(&branch.site.tilld(&["reload"]));
    assert!(code != Some(0) && errors.contains("tilld.db"), "{code:?}: {errors}");
    fs::rename(&away, &database).unwrap();
    done(&branch.site, &["sync", "now"]);
    branch.collect(2);
    branch.await_empty_outbox();
    assert_eq!(office.site.all().len(), 2);
}

#[test]
fn an_authority_that_the_system_learns_to_trust_is_taken_by_a_reload() {
    let office = Office::open();
    let setup = Setup::live();
    let way = office.way();
    let mut branch = Branch::with(MANILA, &setup, &way);
    // As update-ca-certificates would: the bundle is another one afterwards.
    let bundle = branch.site.path().join("bundle.pem");
    fs::write(&bundle, crate::support::authority().0).unwrap();
    let configured = fs::read_to_string(branch.site.config()).unwrap();
    let lines = configured.lines().filter(|line| !line.starts_with("ca_file"));
    fs::write(branch.site.config(), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut trusting = Command::new("env");
    trusting.arg(format!("SSL_CERT_FILE={}", bundle.display()));
    branch.start_by(trusting);
    branch.collect(1);
    branch.daemon().await_line("head office cannot be reached");
    fs::copy(&way.ca_file, &bundle).unwrap();
    done(&branch.site, &["reload"]);
    branch.await_empty_outbox();
    assert_eq!(office.site.all().len(), 1);
}

#[test]
fn a_configuration_check_sees_what_a_start_would_refuse() {
    let setup = Setup::live();
    let site = setup.prepare();
    done(&site, &["config", "check"]);
    site.start().stop();
    done(&site, &["config", "check"]);
    let key = site.secret("upstream.key", &["key".to_owned()]);
    let upstream = format!(
        "[upstream]\nurl = \"https://collect..example.com/x\"\nbranch = \"MNL-042\"\n\
         user_name = \"MNL-042\"\nauthentication_file = {key:?}"
    );
    let newer = || number(&site, "PRAGMA user_version");
    for (refused, words) in [
        (Setup { extra: upstream, ..setup.clone() }, "[upstream] url"),
        (Setup::sandbox(), "this database holds live collections"),
    ] {
        site.configure(&refused);
        let (checked, _, errors) = told(&site.tilld(&["config", "check"]));
        assert_eq!(checked, Some(78), "{errors}");
        assert!(errors.contains(words), "{errors}");
        let (started, log) = Daemon::refused(&site);
        assert_eq!(started, Some(78), "the start agrees: {log}");
    }
    site.configure(&setup);
    let database = rusqlite::Connection::open(site.state_dir().join("tilld.db")).unwrap();
    database.pragma_update(None, "user_version", newer() + 1).unwrap();
    drop(database);
    let (checked, _, errors) = told(&site.tilld(&["config", "check"]));
    assert_eq!(checked, Some(78), "{errors}");
    assert!(errors.contains("written by a newer tilld"), "{errors}");
}

/// The daemon as systemd starts it when it has kept this socket.
fn with_kept(site: &Site, kept: TcpListener) -> Command {
    let mut command = Command::new("sh");
    let given = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_FDNAMES=endpoint \
                 LISTEN_PID=$$; exec \"$0\" serve --config \"$1\"";
    command.args(["-c", given, env!("CARGO_BIN_EXE_tilld")]).arg(site.config());
    command.stdin(OwnedFd::from(kept));
    command
}

#[test]
fn who_connects_while_nobody_serves_the_kept_socket_waits_and_is_answered() {
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    let site = Setup { listen: address.to_string(), ..Setup::live() }.prepare();
    let early = TcpStream::connect(address).expect("the kernel takes it");
    let daemon = Daemon::start_by(&site, with_kept(&site, kept));
    assert_eq!(daemon.address(), address);
    let mut early = Till::on(early, daemon.tls()).expect("it is served");
    assert_eq!(code(&mut early, &Confirmation::fresh()), "1000");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
}

#[test]
fn a_kept_socket_of_another_address_is_let_go() {
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let old = kept.local_addr().unwrap();
    let site = Setup::live().prepare();
    let daemon = Daemon::start_by(&site, with_kept(&site, kept));
    assert_ne!(daemon.address(), old);
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    assert!(TcpStream::connect(old).is_err(), "nobody listens there any more");
}

#[test]
fn the_socket_is_given_to_systemd_and_its_watchdog_is_fed() {
    let site = Setup::live().prepare();
    let path = site.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = site.command(&["serve"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000");
    let _daemon = Daemon::start_by(&site, command);
    for wanted in ["FDSTORE=1", "READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        let mut bytes = [0; 4096];
        loop {
            let length = received(&systemd, &mut bytes).expect("it is told in time");
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|line| line == wanted) {
                assert!(wanted != "FDSTORE=1" || text.contains("FDNAME=endpoint"), "{text}");
                break;
            }
        }
    }
}

#[test]
fn a_certificate_that_lacks_a_name_is_warned_of_and_made_anew_when_told_to() {
    let setup = Setup::live();
    let site = setup.prepare();
    let daemon = site.start();
    let names = "[endpoint.tls]\nnames = [\"POS.store.example\", \"192.168.10.5\"]".to_owned();
    site.configure(&Setup { extra: names, ..setup });
    done(&site, &["reload"]);
    let (exit, printed, _) = told(&site.tilld(&["status"]));
    assert_eq!(exit, Some(6));
    let warning = "the certificate does not hold for POS.store.example, 192.168.10.5";
    assert!(printed.contains(warning), "{printed}");
    let before = fs::read(site.certificate()).unwrap();
    let printed = done(&site, &["cert", "renew"]);
    assert!(printed.starts_with("renewed: 2 callers"), "{printed}");
    assert_ne!(fs::read(site.certificate()).unwrap(), before);
    assert!(Till::connect(daemon.address(), daemon.tls()).is_err(), "it is another one");
    let trusting_new = till::trusting(&site.certificate());
    let mut till = Till::connect(daemon.address(), &trusting_new).expect("it is shown at once");
    assert_eq!(code(&mut till, &Confirmation::fresh()), "1000");
    assert_eq!(told(&site.tilld(&["status"])).0, Some(0), "nothing is left to warn of");
    let key = fs::metadata(site.state_dir().join("tls/key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let kept = fs::read_dir(site.state_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!kept.into_iter().any(|name| name == "tls.next"), "nothing is left lying");

    make_certificate(&site, "own");
    let own = "[endpoint.tls]\ncertificate = \"own.pem\"\nprivate_key = \"own-key.pem\"".to_owned();
    site.configure(&Setup { extra: own, ..Setup::live() });
    let (exit, _, errors) = told(&site.tilld(&["cert", "renew"]));
    assert_eq!(exit, Some(78), "{errors}");
    assert!(errors.contains("is for others to renew"), "{errors}");
}
