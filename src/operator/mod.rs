//! For people: the command line, and what it prints.
//!
//! Commands that only read work with the daemon up or down. Nothing here writes the database: what
//! is to be done, the daemon is asked for over the control socket.

pub mod cli;

pub mod commands;

pub mod connection;

pub mod console;

pub mod control;

pub mod day_close;

pub mod metrics;

pub mod probes;

pub mod snapshot;

mod output;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::store::{OpenError, OpenErrorKind};

/// How a command ended, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// Something went wrong that has no code of its own.
    Error = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// The daemon is needed and does not run.
    NotRunning = 3,
    /// This user may not.
    Permission = 4,
    /// What was asked for is not there.
    NotFound = 5,
    /// The daemon serves, but something needs a person.
    Degraded = 6,
    /// The data contradict themselves.
    BadData = 65,
    /// What was waited for did not happen in time.
    TimedOut = 75,
    /// The configuration does not fit.
    Configuration = 78,
}

/// Why a command could not be carried out, for the person who gave it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, what it means, what to do; empty when there is nobody to be told.
    pub message: String,
}

impl Failure {
    /// A failure with these words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(Exit::Configuration, error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let exit = match error.kind {
            OpenErrorKind::Mismatch => Exit::Configuration,
            OpenErrorKind::Damaged => Exit::BadData,
            OpenErrorKind::Forbidden => Exit::Permission,
            OpenErrorKind::Inaccessible => Exit::Error,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            // Whoever read the output has seen enough of it, as `head` has: no news to anybody.
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Error, ""),
            io::ErrorKind::PermissionDenied => Failure::new(Exit::Permission, error.to_string()),
            _ => Failure::new(Exit::Error, error.to_string()),
        }
    }
}

/// Fails when this user has no right to read a file or directory. Whatever else is wrong with it,
/// its reader says better.
pub fn may_read(path: &Path) -> Result<(), Failure> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let message = format!(
                "{}: this user has not the right to read it, or to enter a directory on the way \
                 to it: use sudo, or a user in the group that owns it",
                path.display()
            );
            Err(Failure::new(Exit::Permission, message))
        }
        _ => Ok(()),
    }
}
