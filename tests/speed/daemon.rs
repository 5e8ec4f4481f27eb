//! The daemon as a child process, as the package ships it, with what was configured for a bench.
//! Knows nothing of what is measured.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Outcome, target_directory};

/// How often the log is looked at for a line that is waited for.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// The password under which the till encrypts, where it does.
pub const PASSWORD: &str = "k3yForTests-01";

/// The binary that is in the package: packaging/build-deb leaves it there.
pub fn binary() -> Outcome<PathBuf> {
    Ok(target_directory()?.join("debian/build/tilld"))
}

/// A daemon and its log, which goes to a file as that of any service does.
pub struct Daemon {
    child: Child,
    log: BufReader<File>,
}

impl Daemon {
    pub fn start(config: &Path) -> Outcome<Daemon> {
        let log = config.with_extension("log");
        let child = Command::new(binary()?)
            .args(["serve", "--config"])
            .arg(config)
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Daemon { child, log: BufReader::new(File::open(log)?) })
    }

    /// Waits for a line of the log with this text, and gives it.
    pub fn wait_for(&mut self, text: &str) -> Outcome<String> {
        let mut line = String::new();
        loop {
            if self.log.read_line(&mut line)? == 0 {
                if self.child.try_wait()?.is_some() {
                    return Err(format!("it ended before it said {text:?}").into());
                }
                thread::sleep(LOOK_INTERVAL);
            } else if line.ends_with('\n') {
                if line.contains(text) {
                    return Ok(line);
                }
                line.clear();
            }
        }
    }

    /// Waits until it listens, and gives its port.
    pub fn port(&mut self) -> Outcome<u16> {
        let line = self.wait_for("INFO  listening on 127.0.0.1:")?;
        let (_, port) = line.split_once("127.0.0.1:").ok_or("no port")?;
        Ok(port.split(',').next().unwrap_or(port).trim().parse()?)
    }

    /// What the kernel says of its memory, in KiB: `VmRSS`, or `VmHWM` for the most ever.
    pub fn memory(&self, field: &str) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
        Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
    }

    /// Stops it cleanly.
    pub fn stop(mut self) -> Outcome<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}").into()) }
    }
}

impl Drop for Daemon {
    /// A bench that failed leaves no daemon behind; one that was stopped is gone already.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration into the directory: one caller, everything else as it is shipped, but for
/// ports that nobody else has. `more` comes behind the caller's own keys.
pub fn configure(directory: &Path, caller: &str, more: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    secret(&directory.join("keys"), "key")?;
    secret(&directory.join("passwords"), PASSWORD)?;
    let config = directory.join("tilld.toml");
    let text = format!(
        "state_dir = \"state\"\n[endpoint]\nlisten = \"127.0.0.1:0\"\n\
         [operator]\nlisten = \"127.0.0.1:0\"\nsocket = \"tilld.sock\"\n\
         [[caller]]\nuser_name = \"{caller}\"\nauthentication_file = \"keys\"\n\
         encryption_file = \"passwords\"\n{more}"
    );
    fs::write(&config, text)?;
    Ok(config)
}

fn secret(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, format!("{text}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}
