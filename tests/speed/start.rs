//! How fast a daemon that has collections is ready to answer, and how much disk they take.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tilld::system::clock;

use crate::Outcome;
use crate::daemon::{Daemon, configure};

/// What a number of starts came to, and what there was.
pub struct Started {
    /// From the start of the process until it listens.
    pub ready: Vec<Duration>,
    /// From there until database and tape were compared in the background.
    pub checked: Duration,
    /// Bytes in the directory of the tape, and in the database and what belongs to it.
    pub tape_bytes: u64,
    pub database_bytes: u64,
}

/// Starts the daemon so often in a directory that has a state directory.
pub fn measure(directory: &Path, starts: u64) -> Outcome<Started> {
    let config = configure(directory, "till-7", "")?;
    // The first start makes the certificate, and is not counted.
    let mut daemon = Daemon::start(&config)?;
    daemon.port()?;
    let started = clock::monotonic();
    daemon.wait_for("database and tape agree")?;
    let checked = started.elapsed();
    daemon.stop()?;
    let ready = (0..starts).map(|_| start(&config)).collect::<Outcome<_>>()?;
    let state_dir = directory.join("state");
    Ok(Started {
        ready,
        checked,
        tape_bytes: bytes(&state_dir.join("tape"), "")?,
        database_bytes: bytes(&state_dir, "tilld.db")?,
    })
}

fn start(config: &Path) -> Outcome<Duration> {
    let started = clock::monotonic();
    let mut daemon = Daemon::start(config)?;
    daemon.port()?;
    let time = started.elapsed();
    daemon.stop()?;
    Ok(time)
}

/// How much is in the files of a directory whose names begin so.
fn bytes(directory: &Path, beginning: &str) -> Outcome<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(beginning) {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}
