//! A wall clock that may be set while a daemon runs by it; the monotonic clock stays.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::Site;

pub struct Clock(PathBuf);

impl Clock {
    /// One that stands right.
    pub fn of(site: &Site) -> Clock {
        let clock = Clock(site.path().join("clock"));
        clock.set("+0");
        clock
    }

    /// Sets it by an offset from the right time, such as `-365d`.
    pub fn set(&self, offset: &str) {
        fs::write(&self.0, offset).expect("a written clock");
    }

    /// What stands before a command that goes by it.
    pub fn wrapper(&self) -> Command {
        let output = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output();
        let library = output.expect("faketime can be run").stdout;
        let library = String::from_utf8(library).expect("UTF-8");
        let mut command = Command::new("env");
        command.arg(format!("LD_PRELOAD={}", library.trim()));
        command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", self.0.display()));
        command.args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
        command
    }
}
