//! Durable state, and the only module that knows SQLite.
//!
//! One thread owns the only writing connection ([`writer`]); everybody else reads through
//! [`reader`]. The store never awaits, and knows neither the wire nor the network.

mod acceptance;
mod acts;
mod agree;
mod births;
mod collections;
mod columns;
mod commands;
mod deliveries;
mod finder;
mod health;
mod lineup;
mod lock;
mod outbox;
mod place;
mod record;
mod refusals;
mod relays;
mod schema;
mod self_tests;
mod tape;
mod transaction;

pub mod backup;
pub mod closing;
pub mod outgoing;
pub mod reader;
pub mod rebuild;
pub mod takings;
pub mod undelivered;
pub mod verify;
pub mod writer;

use std::fmt;
use std::path::{Path, PathBuf};

pub use acceptance::{Accept, Accepted};
pub use acts::{Act, Deed};
use agree::AgreeError;
pub use collections::{Entry, Repeats, Variant};
pub use commands::{Bell, Receipt, Recorded, Reopened, Store, Unavailable, Waiting};
pub use deliveries::{Delivery, KeptAttempt, Tried};
pub use health::{Condition, Health, Recovered, WAL_BYTES_MAX};
pub use refusals::{KeptRefusal, Refused};
pub use relays::Branch;
pub use schema::fits;
pub use writer::Writing;

/// The database inside a state directory.
pub fn database_path(state_dir: &Path) -> PathBuf {
    state_dir.join("tilld.db")
}

/// The database's WAL inside a state directory.
fn wal_path(state_dir: &Path) -> PathBuf {
    state_dir.join("tilld.db-wal")
}

/// Makes what was created, renamed or removed in a directory durable.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

/// What to do about a damaged or lost database.
const REBUILD: &str =
    "`tilld rebuild` makes a new one from the tape, if that is whole, and moves this one aside";

/// Why a store cannot be opened, in words for the person who started the daemon.
#[derive(Debug)]
pub struct OpenError {
    /// What kind of trouble it is.
    pub kind: OpenErrorKind,
    message: String,
}

/// The kinds of trouble that lead to different exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenErrorKind {
    /// The database is fine, but not for this configuration or this version.
    Mismatch,
    /// The database contradicts itself.
    Damaged,
    /// This user may not read it.
    Forbidden,
    /// Another daemon has it, or the file system refuses.
    Inaccessible,
}

impl OpenError {
    fn new(kind: OpenErrorKind, message: impl Into<String>) -> OpenError {
        OpenError { kind, message: message.into() }
    }

    fn of_agreement(state_dir: &Path, error: AgreeError) -> OpenError {
        match error {
            AgreeError::Damaged(damage) => OpenError::new(
                OpenErrorKind::Damaged,
                format!("the database in {} is damaged: {damage}; {REBUILD}", state_dir.display()),
            ),
            AgreeError::Database(error) => error.into(),
            AgreeError::Tape(error) => OpenError::inaccessible(&tape::directory(state_dir), error),
        }
    }

    fn damaged(what: impl fmt::Display) -> OpenError {
        let message = format!("the database is damaged: {what}; {REBUILD}");
        OpenError::new(OpenErrorKind::Damaged, message)
    }

    fn inaccessible(path: &Path, error: impl fmt::Display) -> OpenError {
        OpenError::new(OpenErrorKind::Inaccessible, format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for OpenError {}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> OpenError {
        use rusqlite::ErrorCode as Code;
        // Our statements and rows are always of the same kind: what SQLite does not understand or
        // does not take, and what comes back as something else, met a schema or a row that is not
        // what it was.
        let kind = match error.sqlite_error_code() {
            None | Some(Code::DatabaseCorrupt | Code::NotADatabase) => OpenErrorKind::Damaged,
            Some(Code::Unknown | Code::ConstraintViolation | Code::TypeMismatch) => {
                OpenErrorKind::Damaged
            }
            Some(_) => OpenErrorKind::Inaccessible,
        };
        let mut message = format!("the database cannot be used: {error}");
        if kind == OpenErrorKind::Damaged {
            message = format!("{message}; {REBUILD}");
        }
        OpenError::new(kind, message)
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod wal_damage_tests;
