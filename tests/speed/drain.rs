//! How fast a branch passes on what it has: a backlog drained from one daemon to another on this
//! machine, what cashiers notice of it, and how long one confirmation takes to head office.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tilld::store::outgoing::OutboxReader;
use tilld::system::clock;

use crate::daemon::{Daemon, configure};
use crate::stock::{self, body};
use crate::{Outcome, copy};

/// Confirmations that are timed one by one once the backlog is gone.
const SINGLE: u64 = 500;

/// Between two confirmations of the till that is timed during the drain.
const TILL_INTERVAL: Duration = Duration::from_millis(10);

/// Numbers for the till's confirmations begin so far beyond those of the backlog.
const TILL_NUMBERS: u64 = 50_000_000;

/// Between two looks at the outbox: one takes half a millisecond of a processor that both daemons
/// want, and a drain takes seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What one run came to.
pub struct Drained {
    pub per_second: f64,
    /// How long a till's confirmations took meanwhile.
    pub till_p50: Duration,
    pub till_p99: Duration,
    /// From before a single confirmation until head office has it.
    pub single_p50: Duration,
}

/// A branch and its head office.
pub struct Pair {
    place: PathBuf,
    /// The last number of a collection that the branch has.
    last: u64,
}

impl Pair {
    /// Neither has anything, in a directory that is not there yet.
    pub fn new(place: &Path) -> Outcome<Pair> {
        let pair = Pair { place: place.to_owned(), last: 0 };
        fs::create_dir_all(pair.branch().join("state"))?;
        Ok(pair)
    }

    /// The branch has a stock of so many and has delivered all of them; gives how many a second.
    pub fn with_delivered(place: &Path, rows: u64, stock: &Path) -> Outcome<(Pair, f64)> {
        let pair = Pair { place: place.to_owned(), last: rows };
        fs::create_dir(place)?;
        copy(stock, &pair.branch())?;
        let (head_office, daemon, _) = pair.start()?;
        let started = clock::monotonic();
        wait_until_drained(&pair.branch())?;
        let rate = rate(rows, started.elapsed());
        daemon.stop()?;
        head_office.stop()?;
        Ok((pair, rate))
    }

    fn branch(&self) -> PathBuf {
        self.place.join("branch")
    }

    fn office(&self) -> PathBuf {
        self.place.join("office")
    }

    /// Starts head office and branch; gives the branch's port as well.
    fn start(&self) -> Outcome<(Daemon, Daemon, u16)> {
        let office = self.office();
        let caller = "branch = \"MNL-042\"\n";
        let mut head_office = Daemon::start(&configure(&office, "branch", caller)?)?;
        let upstream = format!(
            "[upstream]\nurl = \"https://127.0.0.1:{}/collectionCollect\"\nbranch = \"MNL-042\"\n\
             user_name = \"branch\"\nauthentication_file = \"keys\"\nca_file = \"{}\"\n",
            head_office.port()?,
            office.join("state/tls/cert.pem").display()
        );
        let mut daemon = Daemon::start(&configure(&self.branch(), "till-7", &upstream)?)?;
        let port = daemon.port()?;
        Ok((head_office, daemon, port))
    }

    /// Drains so many collections that are new.
    pub fn measure(&mut self, backlog: u64) -> Outcome<Drained> {
        let (store, writing) = stock::open(&self.branch().join("state"))?;
        stock::fill(&store, self.last + 1..=self.last + backlog)?;
        stock::close(store, writing)?;
        self.last += backlog;
        let (head_office, daemon, port) = self.start()?;
        let started = clock::monotonic();
        let till = Till::connect(&self.branch(), port, TILL_NUMBERS + self.last)?;
        let (drained, till, mut times) = drain(&self.branch(), till)?;
        let single_p50 = single(&self.office(), till)?;
        daemon.stop()?;
        head_office.stop()?;
        times.sort_unstable();
        Ok(Drained {
            per_second: rate(backlog, drained - started),
            till_p50: times[times.len() / 2],
            till_p99: times[times.len() * 99 / 100],
            single_p50,
        })
    }

    /// Leaves nothing behind.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(self.place)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of millions")]
fn rate(collections: u64, took: Duration) -> f64 {
    collections as f64 / took.as_secs_f64()
}

/// Waits until head office has what the branch had when this was asked.
fn wait_until_drained(branch: &Path) -> Outcome<()> {
    let mut outbox = OutboxReader::open(&branch.join("state"))?;
    // What tills confirm comes and goes; the backlog is what was there before.
    let last = outbox.last_sequence()?;
    while !outbox.page(0, last, 1)?.is_empty() {
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
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
    wait_until_drained(branch)?;
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
    /// Its confirmations have numbers from this one on.
    fn connect(branch: &Path, port: u16, number: u64) -> Outcome<Till> {
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
        Ok(Till { stream: StreamOwned::new(connection, socket), number })
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
