//! The calls by which the writer changes the disk: recorded once with strace, then made to fail, or
//! to be the last thing that the daemon does, one at a time.
//!
//! strace counts calls for each thread. A fault is bound to the path that the call is about, so
//! that what other threads do elsewhere does not count.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::clock::Clock;
use crate::support::{Site, eventually};

/// Everything that changes what is on the disk, or makes it stay there.
const CALLS: &str = "write,pwrite64,writev,pwritev,fsync,fdatasync,truncate,ftruncate,rename,\
                     renameat,renameat2,unlink,unlinkat";

/// The thread that does all of it.
const THREAD: &str = "<writer>";

/// strace marks with it an error that it brought about.
const INJECTED: &str = "(INJECTED)";

/// What it writes of a daemon that was killed, and of one that ended.
const KILLED: &str = " +++ killed by SIGKILL +++";
const ENDED: &str = "<tilld> +++ exited with ";

/// One call of the writer's: the `number`-th of this name that is about this path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// Inside the state directory.
    path: String,
    number: usize,
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL before it is made.
    Kill,
    /// It fails with this error.
    Error(&'static str),
}

impl Call {
    /// Whether it is there to make something durable, and its failure is heard of: SQLite asks for
    /// a directory by fdatasync and does not hear the answer, so the daemon asks again, by fsync.
    pub fn is_sync(&self) -> bool {
        self.name == "fsync" || self.name == "fdatasync" && !self.path.is_empty()
    }

    /// Whether it puts something into a file.
    pub fn is_write(&self) -> bool {
        self.name.contains("write")
    }

    /// Whether it is about one of the tape's files.
    pub fn is_about_tape(&self) -> bool {
        self.path.starts_with("tape/")
    }

    /// Whether it is about what is committed and may not be in the database's file yet.
    pub fn is_about_wal(&self) -> bool {
        self.path == "tilld.db-wal"
    }

    /// The file that it is about, or the state directory itself.
    pub fn path(&self, site: &Site) -> PathBuf {
        let mut path = site.state_dir();
        // An empty name would add a slash, which no path of a call ends with.
        if !self.path.is_empty() {
            path.push(&self.path);
        }
        path
    }
}

fn trace_file(site: &Site) -> PathBuf {
    site.path().join("trace")
}

/// `tilld serve` with all the calls of its writer written down.
pub fn recorded(site: &Site, clock: &Clock) -> Command {
    traced(site, clock, &[])
}

/// `tilld serve` with this fault at this call.
pub fn with_fault(site: &Site, clock: &Clock, call: &Call, fault: Fault) -> Command {
    let what = match fault {
        Fault::Kill => "signal=KILL".to_owned(),
        Fault::Error(name) => format!("error={name}"),
    };
    injected(site, clock, call, &format!("{what}:when={}", call.number))
}

/// `tilld serve` with each call of this name that is about the same path beginning so much later.
pub fn with_delays(site: &Site, clock: &Clock, call: &Call, delay: Duration) -> Command {
    injected(site, clock, call, &format!("delay_enter={}:when=1+", delay.as_micros()))
}

fn injected(site: &Site, clock: &Clock, call: &Call, what: &str) -> Command {
    let inject = format!("inject={}:{what}", call.name);
    let path = call.path(site).display().to_string();
    traced(site, clock, &["-P".to_owned(), path, "-e".to_owned(), inject])
}

fn traced(site: &Site, clock: &Clock, options: &[String]) -> Command {
    let _ = fs::remove_file(trace_file(site));
    let mut command = Command::new("strace");
    // The tracer steps aside (-D): the child is the daemon itself, with its signals and exit code.
    command.args(["-D", "-f", "-y", "-Y", "-q", "-e", &format!("trace={CALLS}"), "-o"]);
    command.arg(trace_file(site)).args(options);
    let by_clock = clock.wrapper();
    command.arg(by_clock.get_program()).args(by_clock.get_args());
    site.wrapped(command)
}

/// Whether an error has been brought about so far.
pub fn is_injected(site: &Site) -> bool {
    let trace = fs::read_to_string(trace_file(site)).unwrap_or_default();
    trace.contains(INJECTED)
}

/// Whether a daemon that has ended lived to see the fault.
pub fn was_reached(site: &Site) -> bool {
    let trace = ended_trace(site);
    trace.contains(INJECTED) || trace.contains(KILLED)
}

/// The trace of a daemon that has ended; the tracer writes its last lines after that.
fn ended_trace(site: &Site) -> String {
    let mut trace = String::new();
    eventually(|| {
        trace = fs::read_to_string(trace_file(site)).expect("a trace");
        trace.contains(ENDED) || trace.contains(KILLED)
    });
    trace
}

/// The writer's calls in the life of a daemon that has ended and was recorded.
pub fn calls_of(site: &Site) -> Vec<Call> {
    let trace = ended_trace(site);
    let mut counts = BTreeMap::new();
    let lines = trace.lines().filter_map(|line| line.split_once(THREAD));
    let calls = lines.filter_map(|(_, call)| {
        let (name, about) = call.trim_start().split_once('(')?;
        let path = path_in(about, site)?;
        let number: &mut usize = counts.entry((name.to_owned(), path.clone())).or_default();
        *number += 1;
        Some(Call { name: name.to_owned(), path, number: *number })
    });
    calls.collect()
}

/// The first path that a call is about, as long as it lies in the state directory: `12</path>`, or
/// `"/path"`.
fn path_in(about: &str, site: &Site) -> Option<String> {
    let place = site.state_dir().display().to_string();
    let (_, rest) = about.split_once(&place)?;
    let end = rest.find(['>', '"'])?;
    Some(rest[..end].trim_start_matches('/').to_owned())
}
