//! One run of wrk against one endpoint, and whether everything that it was told is true.
//! Knows nothing of what the figures are compared with.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::{Connection, OpenFlags};
use tilld::skypay::cipher::Password;

use crate::Outcome;
use crate::daemon::PASSWORD;
use crate::stock;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/confirm.lua");

/// More confirmations than one thread of wrk gets answered in a second. Numbers that came twice
/// would be seen: fewer would be recorded than answered.
const NUMBERS_PER_SECOND: u64 = 25_000;

/// What there is to post to.
pub struct Target {
    pub port: u16,
    /// Where it keeps what it was told; the empty one keeps nothing.
    pub database: Option<PathBuf>,
}

/// One kind of load.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: u32,
    pub seconds: u64,
    /// Whether each request has a connection of its own.
    pub closes: bool,
    /// Whether the bodies are encrypted, beforehand.
    pub is_sealed: bool,
}

/// What a run came to. Times are in microseconds.
#[derive(Clone, Copy)]
pub struct Run {
    pub per_second: f64,
    pub p50: f64,
    pub p99: f64,
}

/// Gives out numbers that no confirmation had before.
pub struct Numbers {
    /// The next one.
    pub next: u64,
    /// Where bodies that are encrypted beforehand are kept.
    pub directory: PathBuf,
}

impl Numbers {
    /// Posts for a while; everything that is sent is new.
    pub fn run(&mut self, target: &Target, load: Load) -> Outcome<Run> {
        let each = load.seconds * NUMBERS_PER_SECOND;
        let first = self.next;
        self.next += load.threads() * each;
        let sealed = self.directory.join("sealed-");
        if load.is_sealed {
            for thread in 0..load.threads() {
                seal(&sealed, thread, first + thread * each..first + (thread + 1) * each)?;
            }
        }
        wrk(target, load, [first, each], load.is_sealed.then_some(&sealed))
    }
}

/// Writes encrypted bodies to the file that this thread of wrk reads.
fn seal(beginning: &Path, thread: u64, numbers: Range<u64>) -> Outcome<()> {
    let mut path = beginning.as_os_str().to_owned();
    path.push(thread.to_string());
    let password = Password::new(PASSWORD);
    let mut file = BufWriter::new(File::create(path)?);
    for number in numbers {
        writeln!(file, "{}", password.seal(&stock::body(number)))?;
    }
    // Written now, and not while the disk is measured.
    file.into_inner()?.sync_all()?;
    Ok(())
}

impl Load {
    /// Wrk has one thread for each core that it shares with whom it asks, but none without a
    /// connection.
    fn threads(self) -> u64 {
        u64::from(self.connections.min(2))
    }
}

/// Runs wrk, and makes sure that everything it sent was new and was recorded.
fn wrk(target: &Target, load: Load, numbers: [u64; 2], sealed: Option<&PathBuf>) -> Outcome<Run> {
    let before = target.rows()?;
    let output = Command::new("wrk")
        .args(["--threads", &load.threads().to_string()])
        .args(["--connections", &load.connections.to_string()])
        .args(["--duration", &format!("{}s", load.seconds)])
        .args(["--timeout", "30s", "--script", SCRIPT])
        .arg(format!("https://127.0.0.1:{}/collectionCollect", target.port))
        .arg("--")
        .args(numbers.map(|number| number.to_string()))
        .arg(if load.closes { "close" } else { "keep" })
        .args(sealed)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix("figures "));
    let figures = line.ok_or_else(|| format!("wrk: {text}"))?;
    let figures: Vec<f64> = figures.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, duration, p50, p99, failed] = figures[..] else {
        return Err(format!("wrk: {text}").into());
    };
    if failed > 0.0 {
        return Err(format!("wrk had errors: {text}").into());
    }
    if let (Some(before), Some(after)) = (before, target.rows()?) {
        let recorded = after - before;
        // What was under way at the end is recorded and not counted.
        if !(0.0..=f64::from(load.connections)).contains(&(recorded - requests)) {
            let message = format!("{requests} confirmations were answered, {recorded} recorded");
            return Err(message.into());
        }
    }
    Ok(Run { per_second: requests * 1e6 / duration, p50, p99 })
}

impl Target {
    /// How many collections it has.
    fn rows(&self) -> Outcome<Option<f64>> {
        let Some(path) = &self.database else { return Ok(None) };
        let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sql = "SELECT coalesce(max(sequence), 0) FROM collection";
        Ok(Some(database.query_row(sql, [], |row| row.get(0))?))
    }
}
