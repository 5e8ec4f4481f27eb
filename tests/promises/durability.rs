//! A confirmation that was answered 1000 is never lost and never doubled: under a crowd, under
//! SIGKILL, under SIGTERM, and when the client goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::till::request;
use crate::support::{Confirmation, Daemon, JSON, PATH, Setup, Site, Till};

const CLIENTS: usize = 64;

/// What a client knows of a confirmation whose answer it got.
struct Answered {
    number: u32,
    code: String,
}

/// A confirmation whose amount, contract and receipt all follow from `number`.
fn numbered(number: u32) -> Confirmation {
    Confirmation::numbered(number).raw("amount", pesos(number))
}

fn pesos(number: u32) -> String {
    format!("{}.{:02}", 1 + number / 100, number % 100)
}

/// Centavos by contract, of everything that is in the database.
fn recorded(site: &Site) -> BTreeMap<String, i64> {
    let rows = site.all();
    let count = rows.len();
    let by_contract: BTreeMap<String, i64> = rows
        .iter()
        .map(|row| {
            let contract = row["contract"].as_str().expect("a contract").to_owned();
            (contract, row["amount_centavos"].as_i64().expect("an amount"))
        })
        .collect();
    assert_eq!(by_contract.len(), count, "a contract stands twice");
    by_contract
}

fn contract(number: u32) -> String {
    numbered(number).get("contractNumber")
}

fn centavos(number: u32) -> i64 {
    100 + i64::from(number)
}

fn try_confirm(till: &mut Till, number: u32) -> Option<Answered> {
    let answer = till.try_post(PATH, JSON, &[], numbered(number).text().as_bytes());
    answer.ok().map(|answer| Answered { number, code: answer.code() })
}

#[test]
fn of_64_equal_confirmations_at_the_same_instant_exactly_one_is_new_1000_times_over() {
    const ROUNDS: u32 = 1000;
    let site = Setup::live().prepare();
    let daemon = site.start();
    let barrier = Barrier::new(CLIENTS);
    let codes: Vec<Vec<String>> = thread::scope(|scope| {
        let client = || {
            let mut till = daemon.till();
            let bodies = (1..=ROUNDS).map(|number| numbered(number).text());
            bodies
                .map(|body| {
                    barrier.wait();
                    till.post(PATH, JSON, &[], body.as_bytes()).code()
                })
                .collect()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for round in 0..ROUNDS as usize {
        let count = |code: &str| codes.iter().filter(|client| client[round] == code).count();
        assert_eq!((count("1000"), count("-1015")), (1, CLIENTS - 1), "round {round}");
    }
    let rows = site.all();
    assert_eq!(rows.len(), ROUNDS as usize);
    assert!(rows.iter().all(|row| row["repeats"] == CLIENTS - 1), "a repeat was not counted");
    let sequences: BTreeSet<i64> =
        rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, (1..=i64::from(ROUNDS)).collect(), "without gaps");
}

#[test]
fn a_client_that_hangs_up_gets_the_same_answer_later_and_half_a_request_is_nothing() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for number in 1..=100 {
        let whole = request(PATH, JSON, &[], numbered(number).text().as_bytes());
        let half = request(PATH, JSON, &[], numbered(1000 + number).text().as_bytes());
        daemon.till().send(&whole).unwrap();
        daemon.till().send(&half[..half.len() - 40]).unwrap();
        daemon.till().send(&half[..40]).unwrap();
    }
    let mut till = daemon.till();
    for number in 1..=100 {
        let whole = try_confirm(&mut till, number).unwrap().code;
        assert!(whole == "1000" || whole == "-1015", "{number}: {whole}");
        assert_eq!(try_confirm(&mut till, 1000 + number).unwrap().code, "1000");
    }
    let rows = recorded(&site);
    assert_eq!(rows.len(), 200);
    for number in (1..=100).chain(1001..=1100) {
        assert_eq!(rows.get(&contract(number)), Some(&centavos(number)));
    }
}

/// What SIGTERM promises, as far as a client can see it: a request is answered whole, or the
/// connection closes without one byte of an answer and then nothing of that request was recorded.
/// So the rows are exactly the confirmations that were answered 1000.
#[test]
fn sigterm_under_load_answers_every_request_that_it_accepted() {
    let site = Setup::live().prepare();
    let mut daemon = site.start();
    let next = AtomicU32::new(1);
    let (answers, answered) = mpsc::channel();
    let (address, tls) = (daemon.address(), daemon.tls().clone());
    let told: BTreeSet<u32> = thread::scope(|scope| {
        for _ in 0..16 {
            let answers = answers.clone();
            let (next, tls) = (&next, &tls);
            scope.spawn(move || {
                let mut till = Till::connect(address, tls).unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(answered) = try_confirm(&mut till, number) else {
                        assert!(till.nothing_received(), "{number}: half an answer");
                        break;
                    };
                    let _ = answers.send(answered);
                }
            });
        }
        drop(answers);
        let mut seen: Vec<Answered> = answered.iter().take(2000).collect();
        daemon.sigterm();
        seen.extend(answered.iter());
        assert!(seen.iter().all(|answered| answered.code == "1000"));
        seen.into_iter().map(|answered| answered.number).collect()
    });
    assert!(daemon.wait(Duration::from_secs(10)).success());
    let expected: BTreeMap<String, i64> =
        told.into_iter().map(|number| (contract(number), centavos(number))).collect();
    assert_eq!(recorded(&site), expected);
}

#[test]
fn a_request_that_was_begun_before_sigterm_is_finished() {
    let site = Setup::live().prepare();
    let mut daemon = site.start();
    let body = numbered(1).text();
    let mut idle = daemon.till();
    let mut till = daemon.till();
    let head = request(PATH, JSON, &[("Expect", "100-continue")], body.as_bytes());
    till.send(&head[..head.len() - body.len()]).unwrap();
    assert_eq!(till.receive().unwrap().status, 100, "the head was read");
    daemon.sigterm();
    idle.wait_for_close().unwrap();
    while TcpStream::connect(daemon.address()).is_ok() {
        thread::yield_now();
    }
    till.send(body.as_bytes()).unwrap();
    let answer = till.receive().unwrap();
    assert_eq!(answer.code(), "1000");
    till.wait_for_close().unwrap();
    assert!(daemon.wait(Duration::from_secs(10)).success());
    assert_eq!(recorded(&site).len(), 1);
}

#[test]
fn a_client_that_never_finishes_holds_up_sigterm_for_10_seconds_at_most() {
    let site = Setup::live().prepare();
    let mut daemon = site.start();
    let whole = request(PATH, JSON, &[], numbered(1).text().as_bytes());
    let mut till = daemon.till();
    till.send(&whole[..whole.len() - 1]).unwrap();
    daemon.sigterm();
    assert!(daemon.wait(Duration::from_secs(12)).success());
    assert!(recorded(&site).is_empty());
}

#[test]
fn a_second_daemon_on_the_same_state_directory_refuses_and_the_first_goes_on() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let (code, written) = Daemon::refused(&site);
    assert_eq!(code, Some(1), "{written}");
    let state_dir = site.state_dir().display().to_string();
    assert!(written.contains(&state_dir), "it does not say which directory: {written}");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
}

#[test]
fn a_database_is_never_opened_in_the_other_mode() {
    for (first, second) in [(Setup::live(), Setup::sandbox()), (Setup::sandbox(), Setup::live())] {
        let site = first.prepare();
        let confirmation = Confirmation::fresh();
        let daemon = site.start();
        assert_eq!(daemon.code(&confirmation), "1000");
        daemon.stop();
        site.configure(&second);
        let (code, written) = Daemon::refused(&site);
        assert_eq!(code, Some(78), "{written}");
        assert!(written.contains("sandbox") && written.contains("live"), "{written}");
        site.configure(&first);
        assert_eq!(site.start().code(&confirmation), "-1015");
    }
}

/// Whoever wrote to the tape, cut it or made its file may have been killed before that was synced:
/// a power cut would bring back what the next process no longer reckons with.
#[test]
fn what_a_start_goes_on_from_is_synced_before_anybody_is_answered() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&numbered(1)), "1000");
    daemon.stop();
    let calls = site.path().join("calls");
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-y", "-e", "trace=fsync", "-o"]).arg(&calls);
    let daemon = Daemon::start_by(&site, site.wrapped(strace));
    let synced = fs::read_to_string(&calls).unwrap();
    let tape = site.state_dir().join("tape");
    let file = fs::read_dir(&tape).unwrap().next().unwrap().unwrap().path();
    for path in [&tape, &file] {
        let call = format!("<{}>) = 0", path.display());
        assert!(synced.contains(&call), "{call} in {synced}");
    }
    daemon.stop();
}
