//! How fast a daemon with a million collections is ready to answer, and how much memory it takes.
//! A program, not a test: a busy machine makes it slow, never wrong.
//!
//! `cargo bench --bench start` fills a state directory below `TMPDIR` (1.5 GB) through the store
//! itself, starts the daemon several times, and prints what it measured.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tilld::domain::collection::UserName;
use tilld::domain::contract::{ContractPolicy, Mode};
use tilld::domain::decision::Rule;
use tilld::domain::provenance::{Digest, Form, KeyId, Provenance};
use tilld::skypay::request::{Request, Terms};
use tilld::store::{Recorded, Store};
use tilld::system::clock;

const COLLECTIONS: u64 = 1_000_000;

/// Confirmations that wait for the writer at a time: less than its queue holds.
const WAITING_MAX: usize = 2048;

const STARTS: usize = 9;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let place = TempDir::with_prefix("tilld-bench-")?;
    let config = place.path().join("tilld.toml");
    let listen = "listen = \"127.0.0.1:0\"\n";
    let operator = "[operator]\nsocket = \"tilld.sock\"\n";
    fs::write(&config, format!("state_dir = \"state\"\n[endpoint]\n{listen}{operator}{listen}"))?;
    let state_dir = place.path().join("state");
    fs::create_dir(&state_dir)?;
    fill(&state_dir)?;
    // The first start makes the certificate, and is not counted.
    start(&config, false)?;
    let mut times = Vec::new();
    for number in 1..=STARTS {
        times.push(start(&config, number == STARTS)?);
    }
    times.sort_unstable();
    println!(
        "ready to answer after {:?} (median of {STARTS}; {:?} to {:?})",
        times[STARTS / 2],
        times[0],
        times[STARTS - 1]
    );
    Ok(())
}

/// Records a million different collections, and stops the writer cleanly.
fn fill(state_dir: &Path) -> Outcome<()> {
    let started = clock::monotonic();
    let (store, writing) = Store::open(state_dir, Mode::Live, 0)?;
    let provenance = Provenance {
        caller: UserName::parse("till-7")?,
        branch: None,
        origin: None,
        key_id: KeyId::of(Digest([7; 32])),
        peer: IpAddr::from(Ipv4Addr::new(192, 168, 10, 17)),
        client_certificate: None,
        form: Form::Json,
        body_digest: Digest([0; 32]),
    };
    let mut outcomes = VecDeque::new();
    for number in 1..=COLLECTIONS {
        let body = body(number);
        let request = Request::parse(body.as_bytes()).map_err(|_| "a malformed body")?;
        let terms = Terms { mode: Mode::Live, prefixes: &[] };
        let confirmation = request.confirmation(&terms).map_err(|_| "a refused body")?;
        let provenance = Provenance { body_digest: request.body_digest(), ..provenance.clone() };
        let rule = Rule::Policy(ContractPolicy::Single);
        let outcome = store.record(confirmation, provenance, rule);
        outcomes.push_back(outcome.map_err(|error| format!("{error:?}"))?);
        if outcomes.len() == WAITING_MAX || number == COLLECTIONS {
            for outcome in outcomes.drain(..) {
                match outcome.blocking_recv()? {
                    Ok(Recorded::New(_)) => {}
                    other => return Err(format!("{other:?}").into()),
                }
            }
        }
    }
    drop(store);
    writing.thread.join().map_err(|_| "the writer panicked")?;
    println!("{COLLECTIONS} collections recorded in {:?}", started.elapsed());
    let tape: u64 = sizes(&state_dir.join("tape"))?.iter().map(|(_, bytes)| bytes).sum();
    println!("for each collection, {} bytes of tape", tape / COLLECTIONS);
    for (name, bytes) in sizes(state_dir)?.iter().filter(|(name, _)| name.starts_with("tilld.db")) {
        println!("{name}: {bytes} bytes, {} for each collection", bytes / COLLECTIONS);
    }
    Ok(())
}

/// The nine usual fields; numbers and receipts come in no order.
fn body(number: u64) -> String {
    let contract = number * 38_183_291 % 100_000_000;
    let receipt = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let (pesos, centavos) = (1 + number % 9000, number % 100);
    let phone = number * 7_654_321 % 1_000_000_000;
    format!(
        "{{\"userName\":\"till-7\",\"action\":\"collectionCollect\",\"authentication\":\"key\",\
         \"contractNumber\":\"SKY01{contract:08}\",\"amount\":\"{pesos}.{centavos:02}\",\
         \"phone\":\"09{phone:09}\",\"receiptNumber\":\"{receipt:012X}\",\
         \"collectedTime\":\"2026-11-21 17:52:10\",\"payChannel\":\"10\"}}"
    )
}

fn sizes(directory: &Path) -> Outcome<Vec<(String, u64)>> {
    let size = |entry: fs::DirEntry| -> Outcome<(String, u64)> {
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()))
    };
    fs::read_dir(directory)?.map(|entry| size(entry?)).collect()
}

/// Starts the daemon, and gives the time until it listens; then tells its memory, and, when asked
/// to, once more after its first check of both witnesses. Stops it cleanly.
fn start(config: &Path, until_checked: bool) -> Outcome<Duration> {
    let started = clock::monotonic();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tilld"))
        .args(["serve", "--config"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()?;
    let mut log = BufReader::new(child.stderr.take().ok_or("no stderr")?);
    let mut wait_for = |text: &str| -> Outcome<()> {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            if log.read_line(&mut line)? == 0 {
                return Err(format!("it ended before it said {text:?}").into());
            }
        }
        Ok(())
    };
    wait_for("listening on")?;
    let time = started.elapsed();
    println!("listening after {time:?}, {}", resident(&child)?);
    if until_checked {
        wait_for("database and tape agree")?;
        println!("checked after {:?}, {}", started.elapsed(), resident(&child)?);
    }
    let pid = Pid::from_raw(i32::try_from(child.id())?).ok_or("no process id")?;
    kill_process(pid, Signal::TERM)?;
    // The rest of its log must not fill the pipe.
    let _ = std::io::copy(&mut log, &mut std::io::sink());
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("it ended with {status}").into());
    }
    Ok(time)
}

/// What the kernel says of a process's memory now.
fn resident(child: &Child) -> Outcome<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}
