//! A wall clock that may be set while a daemon runs by it; the monotonic clock stays.
//!
//! A library of our own and not libfaketime: of that, two threads that ask for the time at once
//! can switch it off for good, and the test then passes or fails by a clock that was never wrong.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::LazyLock;

use chrono::TimeDelta;

use super::Site;

/// `clock.c`, compiled once in a process.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/promises/support/clock.c");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clock.so");
    let unfinished = library.with_extension(process::id().to_string());
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"]);
    let status = compiler.arg(&unfinished).arg(source).status().expect("cc can be run");
    assert!(status.success(), "cc: {status}");
    // Another test program may be loading it at this moment.
    fs::rename(&unfinished, &library).expect("a library in its place");
    library
});

pub struct Clock(PathBuf);

impl Clock {
    /// One that stands right.
    pub fn of(site: &Site) -> Clock {
        let clock = Clock(site.path().join("clock"));
        clock.set(TimeDelta::zero());
        clock
    }

    /// Sets it by an offset from the right time.
    pub fn set(&self, offset: TimeDelta) {
        // Written over in place: a daemon has it mapped.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.0);
        let offset = offset.num_nanoseconds().expect("less than 292 years").to_ne_bytes();
        let written = file.and_then(|mut file| file.write_all(&offset));
        written.expect("a clock that can be set");
    }

    /// What stands before a command that goes by it.
    pub fn wrapper(&self) -> Command {
        let mut command = Command::new("env");
        command.arg(format!("LD_PRELOAD={}", LIBRARY.display()));
        command.arg(format!("TEST_CLOCK={}", self.0.display()));
        command
    }
}
