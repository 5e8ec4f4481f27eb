//! Whether collections can be recorded, and what the start had to make good: told by the writer,
//! read by whoever reports it, without asking the writer anything.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{database_path, tape, wal_path};
use crate::system::limits;
use crate::system::watchdog::Pulse;

/// The WAL's length in bytes after it was emptied: what it had grown beyond that is given back.
pub const WAL_BYTES_MAX: u64 = 64 << 20;

/// Whether new collections can be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// What an earlier run left is not made durable yet: nothing is answered but -1009.
    Recovering,
    /// They can.
    Recording,
    /// Less than the reserve is free on the disk.
    DiskLow,
    /// The tape lacks lines that it does not take.
    TapeUnwritable,
    /// The storage failed: the process ends.
    Failed,
}

/// What was made good when this process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Rows that only the tape had.
    pub rows: usize,
    /// Lines that only the database had.
    pub lines: usize,
    /// Torn ends of the tape that were set aside.
    pub set_aside: usize,
    /// What could not be mended, or was met later.
    pub damage: usize,
}

/// What is known of the storage's health.
pub struct Health {
    state_dir: PathBuf,
    disk_reserve: u64,
    told: Mutex<Told>,
    pulse: Arc<Pulse>,
}

/// What the writer told.
#[derive(Clone, Copy)]
struct Told {
    condition: Condition,
    recovered: Recovered,
}

impl Health {
    pub(super) fn new(state_dir: PathBuf, disk_reserve: u64) -> Health {
        let told = Told { condition: Condition::Recovering, recovered: Recovered::default() };
        Health { state_dir, disk_reserve, told: Mutex::new(told), pulse: Arc::default() }
    }

    /// Whether collections can be recorded now. The disk is asked here: the writer asks only when
    /// there is something to write, and a quiet branch would hear an old answer.
    pub fn condition(&self) -> Condition {
        let has_room = || self.free_bytes().is_some_and(|free| free >= self.disk_reserve);
        match self.told().condition {
            Condition::Recording if !has_room() => Condition::DiskLow,
            condition => condition,
        }
    }

    /// Bytes that are free on the disk of the state directory; `None` when it does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        limits::free_bytes(&self.state_dir).ok()
    }

    /// How long the database's WAL is: longer than [`WAL_BYTES_MAX`] only while somebody reads an
    /// old state, which keeps it from being emptied.
    pub fn wal_bytes(&self) -> u64 {
        fs::metadata(wal_path(&self.state_dir)).map_or(0, |wal| wal.len())
    }

    /// How long the database is, without its WAL; `None` when the disk does not say.
    pub fn database_bytes(&self) -> Option<u64> {
        fs::metadata(database_path(&self.state_dir)).ok().map(|database| database.len())
    }

    /// How long the files of the tape are, all together: asked of each of them.
    pub fn tape_bytes(&self) -> Option<u64> {
        tape::bytes(&tape::directory(&self.state_dir)).ok()
    }

    /// Bytes that new collections leave free there.
    pub fn disk_reserve(&self) -> u64 {
        self.disk_reserve
    }

    /// What this start made good, so far.
    pub fn recovered(&self) -> Recovered {
        self.told().recovered
    }

    /// Beats while the writer gets on.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// The writer has come round once more.
    pub(super) fn tell(&self, condition: Condition) {
        self.told().condition = condition;
        self.pulse.beat();
    }

    pub(super) fn count(&self, recovered: Recovered) {
        let counts = &mut self.told().recovered;
        counts.rows += recovered.rows;
        counts.lines += recovered.lines;
        counts.set_aside += recovered.set_aside;
        counts.damage += recovered.damage;
    }

    /// A command met a damaged page. How many do says nothing about how many pages are.
    pub(super) fn tell_damage(&self) {
        let damage = &mut self.told().recovered.damage;
        *damage = (*damage).max(1);
    }

    /// Nothing that holds this lock stops half-way, so poison means nothing.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_asked_when_the_writer_has_nothing_against_it() {
        let directory = tempfile::tempdir().unwrap();
        let health = |reserve| Health::new(directory.path().to_owned(), reserve);
        let told = |health: &Health, condition| {
            health.tell(condition);
            health.condition()
        };
        let (roomy, full) = (health(0), health(u64::MAX));
        assert_eq!(roomy.condition(), Condition::Recovering);
        assert_eq!(told(&roomy, Condition::Recording), Condition::Recording);
        assert_eq!(told(&full, Condition::Recording), Condition::DiskLow);
        for condition in [Condition::Recovering, Condition::TapeUnwritable, Condition::Failed] {
            assert_eq!(told(&full, condition), condition);
        }
    }
}
