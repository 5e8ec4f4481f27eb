//! Clients that send too much, too slowly, too often or something else entirely: each is cut off
//! in time, nothing grows without bound, and a till beside them gets its answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tilld::system::clock;

use crate::support::till::{is_close, request, tcp_from};
use crate::support::{Confirmation, Daemon, JSON, PATH, Setup, Till};

/// A client that is slower than this in one phase of a request is cut off: the longest of the
/// bounds (body 10 s, header 5 s, handshake 5 s) and some time for a busy machine.
const CUT_MAX: Duration = Duration::from_secs(13);

/// So much of a body that is too large is read before it is refused, for clients that listen only
/// when they have sent everything.
const DRAINED_BYTES: usize = 256 * 1024;

/// A flood ends within this many bytes: sockets on both sides buffer some.
const FLOOD_BYTES_MAX: usize = 24 * 1024 * 1024;

/// What a client of HTTP/2 says first (RFC 9113, 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn head(extra: &str) -> String {
    format!("POST {PATH} HTTP/1.1\r\nHost: till\r\nContent-Type: {JSON}\r\n{extra}\r\n")
}

/// Sends `piece` again and again until the daemon closes.
fn flood(till: &mut Till, piece: &[u8]) {
    let mut sent = 0;
    let end = loop {
        if let Err(end) = till.send(piece) {
            break end;
        }
        sent += piece.len();
        assert!(sent < FLOOD_BYTES_MAX, "it swallows everything");
    };
    assert!(is_close(&end), "it neither reads nor closes: {end}");
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn assert_served(daemon: &Daemon) {
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
}

#[test]
fn a_body_of_10_mb_is_refused_when_little_of_it_is_read() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_served(&daemon);
    let before = resident_kib(&daemon);
    for _ in 0..8 {
        let mut till = daemon.till();
        till.send(head("Content-Length: 10485760\r\n").as_bytes()).unwrap();
        till.send(&vec![b'x'; DRAINED_BYTES + 1]).unwrap();
        assert_eq!(till.receive().unwrap().status, 413);
        flood(&mut till, &[b'x'; 16 * 1024]);
    }
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more than before");
    assert_served(&daemon);
}

#[test]
fn an_endless_chunked_body_is_refused_at_its_bound() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    till.send(head("Transfer-Encoding: chunked\r\n").as_bytes()).unwrap();
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    for _ in 0..DRAINED_BYTES / 1024 {
        till.send(chunk.as_bytes()).unwrap();
    }
    till.send(b"1\r\nx\r\n").unwrap();
    assert_eq!(till.receive().unwrap().status, 413);
    flood(&mut till, chunk.as_bytes());
    assert_served(&daemon);
}

#[test]
fn clients_that_hold_back_their_bodies_make_room_for_a_till_at_the_same_address() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let holding: Vec<Till> = (0..300)
        .map(|_| {
            let mut stranger = daemon.till();
            stranger.send(head("Content-Length: 400\r\n").as_bytes()).unwrap();
            stranger.send(b"{").unwrap();
            stranger
        })
        .collect();
    assert_served(&daemon);
    drop(holding);
}

#[test]
fn a_chunked_confirmation_within_the_bound_is_taken() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    till.send(head("Transfer-Encoding: chunked\r\n").as_bytes()).unwrap();
    for piece in Confirmation::fresh().text().as_bytes().chunks(50) {
        till.send(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).unwrap();
    }
    till.send(b"0\r\n\r\n").unwrap();
    assert_eq!(till.receive().unwrap().code(), "1000");
}

#[test]
fn headers_without_end_are_refused() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    till.send(format!("POST {PATH} HTTP/1.1\r\nHost: till\r\n").as_bytes()).unwrap();
    flood(&mut till, format!("X-Padding: {}\r\n", "x".repeat(1000)).as_bytes());
    assert_served(&daemon);
}

#[test]
fn two_content_lengths_are_refused_and_the_connection_closed() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let body = Confirmation::fresh().text();
    let lengths = format!("Content-Length: {}\r\nContent-Length: 5\r\n", body.len());
    let mut till = daemon.till();
    till.send((head(&lengths) + &body).as_bytes()).unwrap();
    assert_eq!(till.receive().unwrap().status, 400);
    till.wait_for_close().unwrap();
    assert!(site.all().is_empty());
}

#[test]
fn a_body_framed_in_two_ways_is_read_in_one_and_the_connection_closed() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let inside = request(PATH, JSON, &[], Confirmation::fresh().text().as_bytes());
    let body = Confirmation::fresh().text();
    let both = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len() + 5);
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let mut till = daemon.till();
    till.send(&[head(&both).as_bytes(), chunked.as_bytes(), &inside].concat()).unwrap();
    let answer = till.receive().unwrap();
    assert!(answer.status == 400 || answer.code() == "1000", "{answer:?}");
    till.wait_for_close().unwrap();
    assert!(till.nothing_received(), "a second request was smuggled in");
    assert_eq!(site.all().len(), usize::from(answer.status == 200));
}

#[test]
fn other_protocols_on_the_port_get_an_end_and_no_collection() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let plain = request(PATH, JSON, &[], Confirmation::fresh().text().as_bytes());
    let long_hello = [vec![0x16, 3, 1, 0x40, 0], vec![0; 20_000]].concat();
    for (bytes, is_text) in [(&plain, true), (&H2_PREFACE.to_vec(), true), (&long_hello, false)] {
        let mut tcp = TcpStream::connect(daemon.address()).unwrap();
        tcp.set_read_timeout(Some(CUT_MAX)).unwrap();
        let _ = tcp.write_all(bytes);
        let _ = tcp.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        if let Err(error) = tcp.read_to_end(&mut answer) {
            assert!(is_close(&error), "it is not cut: {error}");
        }
        let answer = String::from_utf8_lossy(&answer);
        if is_text {
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
            assert!(answer.contains("Content-Type: text/plain"), "{answer}");
            let text = "\r\n\r\nThis port speaks HTTPS; use https:// in the URL.\n";
            assert!(answer.ends_with(text), "{answer}");
        } else {
            assert!(!answer.contains("HTTP"), "{answer}");
        }
    }
    assert!(site.all().is_empty());
    assert_served(&daemon);
}

#[test]
fn http_2_inside_tls_is_closed_without_an_answer() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let confirmation = request(PATH, JSON, &[], Confirmation::fresh().text().as_bytes());
    till.send(&[H2_PREFACE, b"\0\0\0\x04\0\0\0\0\0", &confirmation].concat()).unwrap();
    till.wait_for_close().unwrap();
    assert!(till.nothing_received());
    assert!(site.all().is_empty());
    assert_served(&daemon);
}

/// Sends byte after byte, one a second, and returns after how long it was cut off.
fn drip(bytes: &[u8], mut send_and_wait: impl FnMut(&[u8]) -> bool) -> Duration {
    let start = clock::monotonic();
    for byte in bytes.chunks(1).take(20) {
        if send_and_wait(byte) {
            return start.elapsed();
        }
    }
    panic!("20 bytes went through, one a second");
}

#[test]
fn a_client_that_sends_one_byte_a_second_is_cut_off_while_a_till_is_served() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let request = request(PATH, JSON, &[], Confirmation::fresh().text().as_bytes());
    let head_end = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let second = Duration::from_secs(1);
    let over_tls = |at_once: &[u8], slowly: &[u8]| {
        let mut till = daemon.till();
        till.send(at_once).unwrap();
        drip(slowly, |byte| till.send(byte).is_err() || till.closed_within(second))
    };
    let in_handshake = || {
        let mut tcp = TcpStream::connect(daemon.address()).unwrap();
        tcp.set_read_timeout(Some(second)).unwrap();
        drip(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0], |byte| {
            let sent = tcp.write_all(byte);
            let mut buffer = [0; 64];
            let read = tcp.read(&mut buffer);
            sent.is_err() || read.map_or_else(|error| is_close(&error), |bytes| bytes == 0)
        })
    };
    thread::scope(|scope| {
        let slow = [
            ("its header", scope.spawn(|| over_tls(b"", &request))),
            ("its body", scope.spawn(|| over_tls(&request[..head_end], &request[head_end..]))),
            ("its handshake", scope.spawn(in_handshake)),
        ];
        while slow.iter().any(|(_, client)| !client.is_finished()) {
            assert_served(&daemon);
            thread::sleep(Duration::from_millis(200));
        }
        for (phase, client) in slow {
            let time = client.join().unwrap();
            assert!(time < CUT_MAX, "slow in {phase}, cut after {time:?}");
        }
    });
}

#[test]
fn a_kept_alive_connection_that_rests_longer_than_a_request_may_take_is_served_again() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let mut post = || {
        let body = Confirmation::fresh().text();
        till.post(PATH, JSON, &[], body.as_bytes()).code()
    };
    assert_eq!(post(), "1000");
    thread::sleep(Duration::from_secs(12));
    assert_eq!(post(), "1000");
}

#[test]
fn beside_2000_idle_connections_a_till_gets_its_answer() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let site = Setup::live().prepare();
    let daemon = site.start();
    let crowd = |address_count: u16| {
        let source = |i: u16| {
            let last = u8::try_from(i % address_count).expect("a small count");
            Ipv4Addr::new(127, 0, 1, 1 + last)
        };
        // Refused ones are as good as idle ones: what counts is what is left for the till.
        let (to, tls) = (daemon.address(), daemon.tls());
        let silent: Vec<_> = (0..1500).map(|i| tcp_from(source(i), to)).collect();
        let idle: Vec<_> = (0..500).map(|i| Till::connect_from(source(i), to, tls)).collect();
        assert_served(&daemon);
        let mut neighbour = Till::connect_from(source(0), to, tls).unwrap();
        let body = Confirmation::fresh().text();
        assert_eq!(neighbour.post(PATH, JSON, &[], body.as_bytes()).code(), "1000");
        drop((silent, idle));
    };
    crowd(20);
    crowd(1);
    assert_served(&daemon);
}

#[test]
fn below_the_disk_reserve_repeats_stand_and_new_ones_are_recorded_later() {
    let full = Setup { disk_reserve: "1000000 GiB", ..Setup::live() };
    let site = Setup::live().prepare();
    let daemon = site.start();
    let recorded = Confirmation::fresh();
    assert_eq!(daemon.code(&recorded), "1000");
    daemon.stop();

    site.configure(&full);
    let daemon = site.start();
    let new = Confirmation::fresh();
    for _ in 0..3 {
        let answer = daemon.confirm(&new);
        let said = (answer.code(), answer.description());
        assert_eq!(said, ("-1009".into(), "An Unpredictable exception occurs".into()));
    }
    assert_eq!(daemon.code(&recorded), "-1015");
    assert_eq!(daemon.code(&recorded.clone().with("phone", "09170000001")), "-1015");
    assert_eq!(site.all().len(), 1);
    for refused in [
        Confirmation::fresh().without("phone"),
        Confirmation::fresh().with("amount", "1e3"),
        Confirmation::fresh().with("action", "collectionInquiry"),
        recorded.clone().with("amount", "1.00"),
        recorded.clone().with("receiptNumber", "another"),
    ] {
        assert_eq!(daemon.code(&refused), "-1009", "it cannot be kept: {}", refused.text());
    }
    assert!(site.refusals().is_empty());
    assert_eq!(daemon.code(&new.clone().with("authentication", "wrong")), "-1001");
    daemon.stop();

    site.configure(&Setup::live());
    let daemon = site.start();
    assert_eq!(daemon.code(&new), "1000");
    assert_eq!(daemon.code(&new), "-1015");
    assert_eq!(site.all().len(), 2);
}
