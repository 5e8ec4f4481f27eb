//! How it stands, for people and for what watches: `tilld status`, `status.json`, the control
//! socket, `/livez` and `/readyz`, and the commands about delivery as far as they need no head
//! office.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{
    Confirmation, Daemon, JSON, PATH, Setup, Site, TILL_7, Till, eventually, http, received,
};

/// How long a change may take to be seen; it takes a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than any disk has, so that nothing can be recorded.
const ENDLESS: &str = "1000000 GiB";

fn socket(site: &Site) -> PathBuf {
    site.path().join("tilld.sock")
}

fn status_file(site: &Site) -> PathBuf {
    site.path().join("status.json")
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// Exit code, standard output and standard error.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What `tilld status` tells machines, and its exit code.
fn status(site: &Site) -> (Option<i32>, Value) {
    let (code, text, errors) = told(&site.tilld(&["status", "--output", "json"]));
    let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}{errors}"));
    (code, json)
}

/// Says this on the control socket, and gives what comes back.
fn say(site: &Site, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(site)).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(bytes).expect("it takes that much");
    let mut answer = Vec::new();
    // It ends the connection, and not gently when it was told more than it wanted to know.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("UTF-8")
}

/// The site, with its operator's listener here.
fn listening_for_people_on(address: &str) -> Site {
    let site = Setup::live().prepare();
    let configuration = fs::read_to_string(site.config()).unwrap();
    let section = "[operator]\nlisten = ";
    let (old, new) = (format!("{section}\"127.0.0.1:0\""), format!("{section}\"{address}\""));
    assert!(configuration.contains(&old), "{configuration}");
    fs::write(site.config(), configuration.replace(&old, &new)).unwrap();
    site
}

#[test]
fn status_tells_what_was_collected_and_that_rows_are_kept_where_there_is_no_head_office() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    assert_eq!(daemon.code(&Confirmation::fresh().with("amount", "7800.00")), "1000");
    let (code, json) = status(&site);
    assert_eq!(code, Some(0), "{json}");
    assert_eq!(json["schema_version"], 1);
    assert_eq!((&json["mode"], &json["condition"]), (&"live".into(), &"recording".into()));
    assert_eq!(json["endpoint"], daemon.address().to_string());
    assert_eq!(json["today"]["count"], 2, "{json}");
    assert_eq!(
        (&json["queued"]["count"], &json["queued"]["centavos"]),
        (&2.into(), &1_170_000.into())
    );
    assert_eq!(json["queued"]["oldest_at"], site.list(&[])[1]["accepted_at"]);
    assert_eq!(json["head_office"], Value::Null);
    assert_eq!(json["warnings"], Value::Array(Vec::new()));
    let (code, text, _) = told(&site.tilld(&["status"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("2 collections, 11,700.00 pesos, the oldest since"), "{text}");
    assert!(text.contains("kept here") && !text.contains("waiting"), "{text}");
    let csv = told(&site.tilld(&["status", "--output", "csv"])).1;
    assert!(csv.lines().count() == 2 && csv.contains(",11700.00,"), "{csv}");
}

#[test]
fn without_a_head_office_there_is_nothing_to_send_and_nothing_to_wait_for() {
    for (setup, words) in [(Setup::live(), "kept here"), (Setup::sandbox(), "sandbox")] {
        let site = setup.prepare();
        let daemon = site.start();
        assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
        for arguments in [["sync", "now"], ["sync", "wait"]] {
            let (code, text, errors) = told(&site.tilld(&arguments));
            assert_eq!(code, Some(78), "{arguments:?}: {text}{errors}");
            assert!(errors.contains(words), "{arguments:?}: {errors}");
        }
        let (code, text, errors) = told(&site.tilld(&["status"]));
        assert_eq!(code, Some(0), "{text}{errors}");
        assert!(text.contains(words), "{text}");
        let parked = told(&site.tilld(&["sync", "parked"]));
        assert_eq!(parked, (Some(0), String::new(), "nothing is parked\n".to_owned()));
    }
}

#[test]
fn what_asks_the_daemon_is_exit_3_when_it_is_down_and_what_reads_goes_on() {
    let site = Setup::live().prepare();
    let asks_exit_3 = |when: &str| {
        for arguments in [
            &["status"] as &[&str],
            &["status", "--output", "json"],
            &["sync", "now"],
            &["sync", "wait", "--timeout", "1 s"],
            &["sync", "retry", "--all-parked"],
        ] {
            let (code, text, errors) = told(&site.tilld(arguments));
            assert_eq!((code, &*text), (Some(3), ""), "{when}: {arguments:?}: {errors}");
            assert!(errors.contains("not running"), "{when}: {arguments:?}: {errors}");
        }
    };
    asks_exit_3("before its first start");
    site.start().stop();
    assert!(!socket(&site).exists() && !status_file(&site).exists(), "it tidies up");
    asks_exit_3("after a clean stop");
    assert_eq!(site.tilld(&["branches"]).status.code(), Some(0));
    let (code, text, errors) = told(&site.tilld(&["sync", "parked"]));
    assert_eq!((code, &*text), (Some(3), ""), "{errors}");
    assert!(
        errors.starts_with("nothing is parked\n") && errors.contains("not running"),
        "{errors}"
    );
    site.start().kill();
    assert!(socket(&site).exists(), "nobody could tidy up");
    asks_exit_3("after a SIGKILL");
    let daemon = site.start();
    assert_eq!(status(&site).0, Some(0), "the dead one's socket is replaced");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
}

#[test]
fn who_cannot_record_is_alive_and_not_ready_and_status_is_exit_6() {
    let site = Setup { disk_reserve: ENDLESS, ..Setup::live() }.prepare();
    let daemon = site.start();
    // Nobody has asked the writer anything yet: a quiet branch must tell the truth, too.
    let ready = http(daemon.operator(), "GET", "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.trim_end().ends_with("is free on the disk"), "{ready}");
    assert!(http(daemon.operator(), "GET", "/livez").starts_with("HTTP/1.1 200 "));
    let (code, json) = status(&site);
    assert_eq!((code, &json["condition"]), (Some(6), &"disk-low".into()), "{json}");
    let (code, text, errors) = told(&site.tilld(&["status"]));
    assert_eq!(code, Some(6), "{text}{errors}");
    assert!(text.contains("WARNING") && text.contains("-1009"), "{text}");
    assert!(errors.contains("a person should look"), "{errors}");
    assert_eq!(daemon.code(&Confirmation::fresh()), "-1009");
    daemon.stop();

    site.configure(&Setup::live());
    let daemon = site.start();
    assert!(http(daemon.operator(), "GET", "/readyz").starts_with("HTTP/1.1 200 "));
    assert_eq!(status(&site).0, Some(0));
}

#[test]
fn a_tape_that_cannot_be_written_is_not_ready_and_ready_again_without_a_confirmation() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    daemon.stop();
    // The tape begins a file of its own each day; where that has to be made lies a directory.
    let tape = site.state_dir().join("tape");
    let file = fs::read_dir(&tape).unwrap().next().unwrap().unwrap().file_name();
    let day = file.to_str().unwrap()["000001-".len()..].to_owned();
    let old = tape.join("000001-2000-01-01.jsonl");
    fs::rename(tape.join(&file), old).unwrap();
    let in_the_way = tape.join(format!("000002-{day}"));
    let daemon = site.start();
    fs::create_dir(&in_the_way).unwrap();
    assert_eq!(daemon.code(&Confirmation::fresh()), "-1009");
    let ready = || http(daemon.operator(), "GET", "/readyz");
    assert!(ready().contains("the tape cannot be written"), "{}", ready());
    assert_eq!(status(&site).0, Some(6));
    fs::remove_dir(&in_the_way).unwrap();
    eventually(|| ready().starts_with("HTTP/1.1 200 "));
}

#[test]
fn health_is_plain_http_on_loopback_and_nothing_else_is_there() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for (method, path, expected) in [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("HEAD", "/readyz", 200),
        ("POST", "/readyz", 405),
        ("PUT", "/livez", 405),
        ("GET", "/", 303),
        ("GET", "/elsewhere", 404),
        ("POST", "/collectionCollect", 404),
    ] {
        let answer = http(daemon.operator(), method, path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{method} {path}: {answer}");
        assert_eq!(answer.contains("allow: GET, HEAD"), expected == 405, "{answer}");
    }
    assert!(http(daemon.operator(), "GET", "/readyz").ends_with("\r\n\r\nok\n"));
}

#[test]
fn health_elsewhere_than_on_loopback_is_under_the_endpoint_s_certificate() {
    let site = listening_for_people_on("0.0.0.0:0");
    let daemon = site.start();
    let address = SocketAddr::from(([127, 0, 0, 1], daemon.operator().port()));
    let mut client = Till::connect(address, daemon.tls()).expect("a handshake");
    client.send(b"GET /readyz HTTP/1.1\r\nHost: tilld\r\n\r\n").unwrap();
    let answer = client.receive().unwrap();
    assert_eq!((answer.status, &*answer.body), (200, "ok\n"));
    assert!(http(address, "GET", "/readyz").starts_with("HTTP/1.1 400 "));
}

#[test]
fn an_operator_s_address_that_is_taken_keeps_no_till_waiting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let site = listening_for_people_on(&address);
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    let (code, text, _) = told(&site.tilld(&["status"]));
    assert_eq!(code, Some(6), "{text}");
    assert!(text.contains(&address) && text.contains("ss -ltnp"), "{text}");
    assert_eq!(status(&site).1["operator"]["address"], Value::Null);
    let log = daemon.stop();
    assert!(log.contains("ERROR") && log.contains(&address), "{log}");
}

#[test]
fn a_control_socket_that_cannot_be_made_keeps_no_till_waiting() {
    let site = Setup::live().prepare();
    fs::write(socket(&site), "somebody's file").unwrap();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    let public = || fs::read_to_string(status_file(&site)).unwrap_or_default();
    eventually(|| public().contains("there is no control socket"));
    let log = daemon.stop();
    assert!(log.contains("ERROR") && log.contains("control socket"), "{log}");
    assert_eq!(fs::read_to_string(socket(&site)).unwrap(), "somebody's file");
}

#[test]
fn status_json_is_for_everybody_and_tells_no_takings() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let read = || -> Value {
        let text = fs::read_to_string(status_file(&site)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    eventually(|| read()["today"]["count"] == 0);
    assert_eq!(mode(status_file(&site)), 0o644);
    assert_eq!(daemon.code(&Confirmation::fresh().with("amount", "4711.13")), "1000");
    eventually(|| read()["today"]["count"] == 1);
    assert_eq!(mode(status_file(&site)), 0o644);
    let text = read().to_string();
    for takings in ["centavos", "pesos", "471113", "4711.13"] {
        assert!(!text.contains(takings), "{takings}: {text}");
    }
    assert_eq!(read()["queued"]["count"], 1);
}

#[test]
fn only_its_owner_and_group_may_ask_and_others_are_told_what_everybody_may_know() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(mode(socket(&site)), 0o660);
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let read = || fs::read_to_string(status_file(&site)).unwrap_or_default();
    eventually(|| read().contains("\"count\": 1"));
    let (code, text, errors) = told(&site.tilld_as_nobody(&["status"]));
    assert_eq!(code, Some(0), "{text}{errors}");
    assert!(text.contains("today        1 collection\n"), "{text}");
    assert!(!text.contains("pesos") && errors.contains("sums are told to"), "{text}{errors}");
    let (code, _, errors) = told(&site.tilld_as_nobody(&["sync", "now"]));
    assert_eq!(code, Some(4), "{errors}");
    assert!(errors.contains("use sudo, or a user in the group"), "{errors}");
    daemon.stop();
    let (code, _, errors) = told(&site.tilld_as_nobody(&["status"]));
    assert_eq!(code, Some(3), "{errors}");
}

#[test]
fn garbage_on_the_control_socket_is_answered_in_words_and_harms_nobody() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let overlong = [vec![b' '; 70_000], b"\n".to_vec()].concat();
    for bytes in [
        b"status\n" as &[u8],
        b"\n",
        b"{\"do\":\"destroy\"}\n",
        b"\xff\xfe\x00\n",
        b"GET / HTTP/1.1\r\n\r\n",
        &overlong,
    ] {
        let answer: Value = serde_json::from_str(&say(&site, bytes)).expect("one line of JSON");
        assert_eq!(answer["is"], "failed", "{answer}");
        assert!(answer["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    let answer = say(&site, b"{\"do\":\"status\"}\n{\"do\":\"garbage\"\n");
    assert_eq!(answer.lines().count(), 1, "one question a connection: {answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["snapshot"]["mode"], "live");
    drop(UnixStream::connect(socket(&site)).unwrap());
    assert_eq!(status(&site).0, Some(0));
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
}

#[test]
fn connections_that_say_nothing_hold_up_neither_tills_nor_the_end() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let silent: Vec<UnixStream> =
        (0..20).map(|_| UnixStream::connect(socket(&site)).expect("it listens")).collect();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    assert_eq!(status(&site).0, Some(0), "they are sent away after a while");
    daemon.stop();
    drop(silent);
}

/// Lets the first so many collections wait for a person, as if head office had refused them.
fn park(site: &Site, count: usize) {
    let database = Connection::open(site.state_dir().join("tilld.db")).unwrap();
    let park = format!(
        "INSERT INTO parked SELECT sequence, amount FROM outbox WHERE sequence <= {count};
         DELETE FROM outbox WHERE sequence <= {count};
         INSERT INTO delivery
             SELECT 1000000 + sequence, sequence, 'refused', 1795312800000, 31, 200, 2003, 0,
                    'amount: not so'
             FROM parked;"
    );
    database.execute_batch(&park).unwrap();
}

#[test]
fn what_is_parked_is_listed_with_its_reason_and_sent_again_on_request() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmations = [(); 4].map(|()| Confirmation::fresh());
    for confirmation in &confirmations {
        assert_eq!(daemon.code(confirmation), "1000");
    }
    daemon.stop();
    park(&site, 3);
    let [first, second, ..] = &confirmations;

    let (code, text, errors) = told(&site.tilld(&["sync", "parked"]));
    assert_eq!(code, Some(3), "{text}");
    assert!(errors.contains("the daemon is not running"), "{errors}");
    for expected in [&first.get("contractNumber"), "refused", "2003", "amount: not so"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let (_, json, _) = told(&site.tilld(&["sync", "parked", "--output", "json"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["parked"].as_array().map(Vec::len), Some(3), "{json}");
    assert_eq!(json["parked"][0]["parked_http"], 200, "{json}");

    let _daemon = site.start();
    let (code, json) = status(&site);
    assert_eq!((code, &json["parked"]["count"]), (Some(6), &3.into()), "{json}");
    let retry = |references: &[&str]| {
        let mut command = site.command(&[&["sync", "retry"], references].concat());
        told(&command.env("SUDO_USER", "ana").output().expect("tilld can be run"))
    };
    for (references, words) in [
        (&["4"] as &[&str], "is not parked: it is queued"),
        (&["1", "no-such-receipt"], "no collection has"),
    ] {
        let (code, _, errors) = retry(references);
        assert_eq!(code, Some(5), "{references:?}: {errors}");
        assert!(errors.contains(words) && errors.contains("nothing is sent again"), "{errors}");
    }
    assert_eq!(status(&site).1["parked"]["count"], 3);
    let (code, text, errors) = retry(&[&first.get("contractNumber"), &second.get("receiptNumber")]);
    assert_eq!((code, &*text), (Some(0), "2 collections are sent again\n"), "{errors}");
    assert_eq!(retry(&["--all-parked"]).1, "1 collection is sent again\n");
    assert_eq!(retry(&["--all-parked"]).1, "nothing is parked\n");
    assert_eq!(site.tilld(&["sync", "retry"]).status.code(), Some(2));
    assert_eq!(status(&site).1["queued"]["count"], 4);
    let tape: String = fs::read_dir(site.state_dir().join("tape"))
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(tape.matches("\"actor\":\"ana\"").count(), 3, "{tape}");
}

#[test]
fn all_that_is_parked_is_sent_again_however_much_that_is() {
    const ROWS: usize = 2001;
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for _ in 0..ROWS {
        let text = Confirmation::fresh().text();
        assert_eq!(till.post(PATH, JSON, &[], text.as_bytes()).code(), "1000");
    }
    daemon.stop();
    park(&site, ROWS);
    // Who asks hears how far it is: silence would be taken for a daemon that hangs.
    let _daemon = site.start();
    let said = say(&site, b"{\"do\":\"retry\",\"which\":\"all-parked\",\"actor\":\"ana\"}\n");
    let first = format!("{{\"is\":\"underway\",\"done\":1000,\"total\":{ROWS}}}\n");
    assert!(said.starts_with(&first), "{said}");
    assert!(said.ends_with(&format!("{{\"is\":\"sent-again\",\"count\":{ROWS}}}\n")), "{said}");
    let (_, json) = status(&site);
    assert_eq!((&json["parked"]["count"], &json["queued"]["count"]), (&0.into(), &ROWS.into()));
}

#[test]
fn systemd_is_told_how_it_stands_in_one_line() {
    let site = Setup::live().prepare();
    let path = site.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.command(&["serve"]);
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::start_by(&site, command);
    let hear = |wanted: &str| {
        let mut told = String::new();
        while !told.lines().any(|line| line == wanted) {
            let mut bytes = [0; 4096];
            let length = received(&systemd, &mut bytes).expect("it is told in time");
            told += &String::from_utf8_lossy(&bytes[..length]);
            told.push('\n');
        }
        told
    };
    hear("READY=1");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    hear("STATUS=1 today");
    daemon.stop();
    hear("STOPPING=1");
}

#[test]
fn what_a_start_made_good_is_told() {
    let site = Setup::live().prepare();
    let mut daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    daemon.kill();
    for file in ["tilld.db", "tilld.db-wal", "tilld.db-shm"] {
        fs::remove_file(site.state_dir().join(file)).unwrap();
    }
    let _daemon = site.start();
    let (code, json) = status(&site);
    assert_eq!((code, &json["recovered"]["rows"]), (Some(0), &1.into()), "{json}");
    let text = told(&site.tilld(&["status"])).1;
    assert!(text.contains("at this start: 1 row from the tape"), "{text}");
    eventually(|| status(&site).1["last_check"]["differences"] == 0);
}

#[test]
fn branches_are_listed_with_what_is_missing_of_theirs() {
    let site = Setup::live()
        .caller(crate::support::Caller::new("branch-1", &["key"]).option("branch = \"MNL-042\""))
        .prepare();
    let daemon = site.start();
    for number in [1, 2, 5] {
        let sequence = format!("1f2e3d4c-{number}");
        let headers = [("Tilld-Branch", "MNL-042"), ("Tilld-Sequence", sequence.as_str())];
        let body = Confirmation::fresh().by("branch-1", "key").text();
        let answer =
            daemon.till().post("/collectionCollect", "application/json", &headers, body.as_bytes());
        assert_eq!(answer.code(), "1000");
    }
    let (code, json, _) = told(&site.tilld(&["branches", "--output", "json"]));
    assert_eq!(code, Some(0));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let branch = &json["branches"][0];
    assert_eq!((&branch["branch"], &branch["epoch"]), (&"MNL-042".into(), &"1f2e3d4c".into()));
    assert_eq!((&branch["last_sequence"], &branch["missing"]), (&5.into(), &2.into()));
    assert_eq!(branch["gaps"], Value::from(vec!["3-4"]));
    assert_eq!((&branch["count"], &branch["pesos"]), (&3.into(), &"11700.00".into()));
    daemon.stop();
    let (code, text, _) = told(&site.tilld(&["branches"]));
    assert_eq!(code, Some(0), "also with the daemon down");
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let expected = [
        "BRANCH",
        "EPOCH",
        "LAST",
        "MISSING",
        "HEARD",
        "COLLECTIONS",
        "PESOS",
        "OVERPAID",
        "DOUBLES",
    ];
    assert_eq!(heading, expected);
    assert!(lines.next().is_some_and(|line| line.contains("MNL-042")), "{text}");
}

#[test]
fn status_tells_of_the_last_backup_and_how_old_certificate_and_keys_are() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let said = || String::from_utf8(site.tilld(&["status"]).stdout).unwrap();
    let line = |said: &str, label: &str| {
        said.lines().find(|line| line.starts_with(label)).map(str::to_owned)
    };
    let certificate = line(&said(), "certificate").unwrap_or_default();
    assert!(certificate.starts_with("certificate  holds from 20"), "{certificate}");
    assert!(certificate.ends_with(" until 2050-01-01"), "{certificate}");
    let unknown = "keys         2 of unknown age: not added by `tilld key add`";
    assert_eq!(line(&said(), "keys").as_deref(), Some(unknown));
    assert!(line(&said(), "backup").is_some_and(|line| line.contains("none yet")));
    assert!(site.tilld(&["backup", "create"]).status.success());
    eventually(|| line(&said(), "backup").is_some_and(|line| line.contains("the last one at ")));
    daemon.stop();
}

#[test]
fn a_caller_whose_key_was_replaced_too_early_is_named_and_a_stranger_is_not() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for (user_name, key) in [(TILL_7, "an old key"), ("nobody", "any"), (TILL_7, "an old key")] {
        assert_eq!(daemon.code(&Confirmation::fresh().by(user_name, key)), "-1001");
    }
    let (code, status) = status(&site);
    assert_eq!(code, Some(6));
    let strayed = status["strayed"].as_array().unwrap();
    assert_eq!(strayed.len(), 1, "{strayed:?}");
    assert_eq!((&strayed[0]["caller"], &strayed[0]["count"]), (&TILL_7.into(), &2.into()));
    let said = String::from_utf8(site.tilld(&["status"]).stdout).unwrap();
    assert!(said.contains("till-7 was answered -1001 2 times"), "{said}");
    daemon.stop();
}

#[test]
fn who_closes_a_day_is_told_meanwhile_how_far_the_tape_is_read() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    let (_, status) = status(&site);
    let today = status["today"]["business_date"].as_str().expect("a day");
    let close = format!(
        "{{\"do\":\"close\",\"day\":{today:?},\"with_undelivered\":false,\"actor\":\"ana\"}}\n"
    );
    let told = say(&site, close.as_bytes());
    let mut lines: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.pop().expect("an answer")["is"], "closed", "{told}");
    let last = lines.last().unwrap_or_else(|| panic!("nothing before the answer: {told}"));
    assert_eq!((&last["is"], &last["done"]), (&"underway".into(), &last["total"]), "{told}");
    assert!(last["total"].as_u64() > Some(500), "as long as the tape: {told}");
    let again = site.tilld(&["close", today]);
    assert!(again.status.success());
    let errors = String::from_utf8_lossy(&again.stderr);
    assert!(!errors.contains('%'), "no bar without a terminal: {errors}");
}

#[test]
fn a_watched_status_outlives_a_restart_and_ends_with_its_reader() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut watch = site.command(&["status", "--watch", "--output", "jsonl"]);
    let mut watching = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&told.next().unwrap().unwrap()).unwrap() };
    let first = next()["started_at"].clone();
    assert_eq!(next()["started_at"], first);
    daemon.stop();
    let mut said = BufReader::new(watching.stderr.take().unwrap()).lines();
    assert!(
        said.any(|line| line.unwrap().contains("systemctl start tilld")),
        "it is told that it is down"
    );
    let daemon = site.start();
    while next()["started_at"] == first {}
    drop(told);
    assert_eq!(watching.wait().unwrap().code(), Some(1));
    daemon.stop();
}
