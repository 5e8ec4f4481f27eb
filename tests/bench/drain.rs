//! How fast a branch passes on what it has: a backlog drained from one daemon to another on this
//! machine, what cashiers notice of it, and how long one confirmation takes to head office.
//! A program, not a test: a busy machine makes it slow, never wrong.
//!
//! `cargo bench --bench drain` measures with an empty branch; `-- --delivered 5000000` once more in
//! the same run with so many delivered collections in both databases (2.5 GB a million below
//! `TMPDIR`); `-- --concurrency 16` with so many tries at a time instead of 64.

mod stock;

use std::env;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use stock::{Daemon, Outcome, body, fill};
use tempfile::TempDir;
use tilld::domain::contract::Mode;
use tilld::domain::delivery::{Attempt, Fate, Verdict};
use tilld::domain::time::AcceptedAt;
use tilld::store::backup::Backups;
use tilld::store::outgoing::OutboxReader;
use tilld::store::{Store, Tried};
use tilld::system::clock;

const BACKLOG: u64 = 100_000;

/// Confirmations that are timed one by one once the backlog is gone.
const SINGLE: u64 = 500;

/// Between two confirmations of the till that is timed during the drain.
const TILL_INTERVAL: Duration = Duration::from_millis(10);

/// Numbers for the till's confirmations, beyond those of the stock.
const TILL_NUMBERS: u64 = 50_000_000;

/// What one run came to.
struct Figures {
    per_second: u64,
    till_p50: Duration,
    till_p99: Duration,
    single_p50: Duration,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().collect();
    let number = |name: &str| -> Option<u64> {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let concurrency = number("--concurrency").unwrap_or(64);
    let mut runs = vec![("empty branch".to_owned(), measure(0, concurrency)?)];
    if let Some(delivered) = number("--delivered") {
        runs.push((format!("{delivered} delivered"), measure(delivered, concurrency)?));
    }
    println!(
        "{:24} {:>10} {:>12} {:>12} {:>12}",
        "", "rows/s", "till p50", "till p99", "single p50"
    );
    for (name, figures) in runs {
        println!(
            "{name:24} {:>10} {:>12.2?} {:>12.2?} {:>12.2?}",
            figures.per_second, figures.till_p50, figures.till_p99, figures.single_p50
        );
    }
    Ok(())
}

fn measure(delivered: u64, concurrency: u64) -> Outcome<Figures> {
    let place = TempDir::with_prefix("tilld-bench-")?;
    let (office, branch) = (place.path().join("office"), place.path().join("branch"));
    for directory in [&office, &branch] {
        fs::create_dir_all(directory.join("state"))?;
        secret(&directory.join("keys"))?;
    }
    stock_branch(&branch.join("state"), delivered)?;
    stock_office(&office.join("state"), &branch.join("state"), delivered)?;
    let config = configure(&office, "user_name = \"branch\"\nbranch = \"MNL-042\"\n", "")?;
    let mut head_office = Daemon::start(&config)?;
    let port = listening(&mut head_office)?;
    let upstream = format!(
        "[upstream]\nurl = \"https://127.0.0.1:{port}/collectionCollect\"\nbranch = \"MNL-042\"\n\
         user_name = \"branch\"\nauthentication_file = \"keys\"\nconcurrency = {concurrency}\n\
         ca_file = \"{}\"\n",
        office.join("state/tls/cert.pem").display()
    );
    let config = configure(&branch, "user_name = \"till-7\"\n", &upstream)?;
    let mut daemon = Daemon::start(&config)?;
    let port = listening(&mut daemon)?;
    let started = clock::monotonic();
    let till = Till::connect(&branch, port)?;
    let (drained, till, mut times) = drain(&branch, till)?;
    let took = drained - started;
    println!("branch {}, head office {}", daemon.resident()?, head_office.resident()?);
    let single = single(&office, till)?;
    daemon.stop()?;
    head_office.stop()?;
    times.sort_unstable();
    Ok(Figures {
        per_second: BACKLOG * 1000 / u64::try_from(took.as_millis())?.max(1),
        till_p50: times[times.len() / 2],
        till_p99: times[times.len() * 99 / 100],
        single_p50: single,
    })
}

/// A branch that has delivered so many, and has the backlog.
fn stock_branch(state_dir: &Path, delivered: u64) -> Outcome<()> {
    let (store, writing) = Store::open(state_dir, Mode::Live, 0, &Backups::inside(state_dir))?;
    let note = |sequences: &[i64]| -> Outcome<()> {
        let tries = sequences.iter().map(|sequence| Tried {
            sequence: *sequence,
            attempt: Attempt {
                at: AcceptedAt::new(clock::now()),
                took: Duration::from_millis(3),
                http: Some(200),
                code: Some(1000),
                verdict: Verdict::Delivered,
                reason: String::new(),
            },
            fate: Fate::Delivered,
            may_have_been_tried: false,
        });
        let noted =
            store.note_tries(tries.collect(), None).map_err(|error| format!("{error:?}"))?;
        noted.blocking_recv()?.map_err(|error| format!("{error:?}").into())
    };
    if delivered > 0 {
        fill(&store, 1..=delivered, None, note)?;
    }
    fill(&store, delivered + 1..=delivered + BACKLOG, None, |_| Ok(()))?;
    drop(store);
    writing.thread.join().map_err(|_| "the writer panicked")?;
    Ok(())
}

/// A head office that has what the branch delivered. One that lacked it would be sent all of it.
fn stock_office(state_dir: &Path, branch: &Path, delivered: u64) -> Outcome<()> {
    if delivered == 0 {
        return Ok(());
    }
    let epoch = OutboxReader::open(branch)?.epoch()?;
    let (store, writing) = Store::open(state_dir, Mode::Live, 0, &Backups::inside(state_dir))?;
    fill(&store, 1..=delivered, Some(epoch), |_| Ok(()))?;
    drop(store);
    writing.thread.join().map_err(|_| "the writer panicked")?;
    Ok(())
}

fn secret(path: &Path) -> io::Result<()> {
    fs::write(path, "key\n")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

fn configure(directory: &Path, caller: &str, upstream: &str) -> io::Result<PathBuf> {
    let config = directory.join("tilld.toml");
    let text = format!(
        "state_dir = \"state\"\n[endpoint]\nlisten = \"127.0.0.1:0\"\n\
         [operator]\nlisten = \"127.0.0.1:0\"\n\
         [[caller]]\nauthentication_file = \"keys\"\n{caller}{upstream}[log]\nlevel = \"info\"\n"
    );
    fs::write(&config, text)?;
    Ok(config)
}

/// Waits until it listens, and gives its port; what it logs from then on is read and dropped.
fn listening(daemon: &mut Daemon) -> Outcome<u16> {
    let line = daemon.wait_for("INFO  listening on 127.0.0.1:")?;
    let mut log = daemon.log.take();
    thread::spawn(move || log.as_mut().map(|log| io::copy(log, &mut io::sink())));
    let (_, port) = line.split_once("127.0.0.1:").ok_or("no port")?;
    Ok(port.split(',').next().unwrap_or(port).trim().parse()?)
}

/// Waits until the outbox is empty, while a till goes on confirming. Gives when that was, the till,
/// and how long its confirmations took.
fn drain(branch: &Path, mut till: Till) -> Outcome<(std::time::Instant, Till, Vec<Duration>)> {
    let is_drained = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_drained);
    let cashier = thread::spawn(move || -> io::Result<(Till, Vec<Duration>)> {
        let mut times = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            times.push(till.confirm()?);
            thread::sleep(TILL_INTERVAL);
        }
        Ok((till, times))
    });
    let mut outbox = OutboxReader::open(&branch.join("state"))?;
    // The till's own confirmations come and go; the backlog is what was there before.
    let last = outbox.last_sequence()?;
    while !outbox.page(0, last, 1)?.is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    let drained = clock::monotonic();
    is_drained.store(true, Ordering::Relaxed);
    let (till, times) = cashier.join().map_err(|_| "the till panicked")??;
    Ok((drained, till, times))
}

/// The median time from before a confirmation until head office has it.
fn single(office: &Path, mut till: Till) -> Outcome<Duration> {
    let office = OutboxReader::open(&office.join("state"))?;
    let mut times = Vec::new();
    for _ in 0..SINGLE {
        let before = office.last_sequence()?;
        let started = clock::monotonic();
        till.confirm()?;
        while office.last_sequence()? == before {
            thread::sleep(Duration::from_micros(50));
        }
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// A till with one kept-alive connection.
struct Till {
    stream: StreamOwned<ClientConnection, TcpStream>,
    number: u64,
}

impl Till {
    fn connect(branch: &Path, port: u16) -> Outcome<Till> {
        let certificate = CertificateDer::from_pem_file(branch.join("state/tls/cert.pem"))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        let connection = ClientConnection::new(Arc::new(tls), ServerName::try_from("localhost")?)?;
        Ok(Till { stream: StreamOwned::new(connection, socket), number: TILL_NUMBERS })
    }

    /// Confirms something new, and says how long the answer took.
    fn confirm(&mut self) -> io::Result<Duration> {
        self.number += 1;
        let body = body(self.number);
        let request = format!(
            "POST /collectionCollect HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n\
             {body}",
            body.len()
        );
        let started = clock::monotonic();
        self.stream.write_all(request.as_bytes())?;
        self.stream.flush()?;
        let mut answer = String::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with('}') {
            let bytes = self.stream.read(&mut buffer)?;
            answer += &String::from_utf8_lossy(&buffer[..bytes]);
            if bytes == 0 || answer.contains("\"-1009\"") {
                return Err(io::Error::other(answer));
            }
        }
        if answer.contains("\"1000\"") {
            Ok(started.elapsed())
        } else {
            Err(io::Error::other(answer))
        }
    }
}
