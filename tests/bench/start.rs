//! How fast a daemon with a million collections is ready to answer, and how much memory it takes.
//! A program, not a test: a busy machine makes it slow, never wrong.
//!
//! `cargo bench --bench start` fills a state directory below `TMPDIR` (1.5 GB) through the store
//! itself, starts the daemon several times, and prints what it measured.

mod stock;

use std::fs;
use std::path::Path;
use std::time::Duration;

use stock::{Daemon, Outcome};
use tempfile::TempDir;
use tilld::domain::contract::Mode;
use tilld::store::Store;
use tilld::store::backup::Backups;
use tilld::system::clock;

const COLLECTIONS: u64 = 1_000_000;

const STARTS: usize = 9;

fn main() -> Outcome<()> {
    let place = TempDir::with_prefix("tilld-bench-")?;
    let config = place.path().join("tilld.toml");
    fs::write(
        &config,
        "state_dir = \"state\"\n[endpoint]\nlisten = \"127.0.0.1:0\"\n\
         [operator]\nlisten = \"127.0.0.1:0\"\n",
    )?;
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
    let (store, writing) = Store::open(state_dir, Mode::Live, 0, &Backups::inside(state_dir))?;
    stock::fill(&store, 1..=COLLECTIONS, None, |_| Ok(()))?;
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

/// The names and sizes of the files in a directory.
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
    let mut daemon = Daemon::start(config)?;
    daemon.wait_for("listening on")?;
    let time = started.elapsed();
    println!("listening after {time:?}, {}", daemon.resident()?);
    if until_checked {
        daemon.wait_for("database and tape agree")?;
        println!("checked after {:?}, {}", started.elapsed(), daemon.resident()?);
    }
    daemon.stop()?;
    Ok(time)
}
