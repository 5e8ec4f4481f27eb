//! The real binary as a child: started, awaited by its log, stopped, killed, reaped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use tilld::system::clock;

use super::till::{self, Till};
use super::{Answer, Confirmation, JSON, PATH, Site};

/// How long a start or an end may take: generous, because other tests keep the machine busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a line may be awaited: what is tried again takes its time.
const LINE_PATIENCE: Duration = Duration::from_secs(60);

/// What the daemon writes when it takes connections; the address follows.
const READY: &str = "listening on ";

/// What it writes before that about its operator's listener; the address follows, then a comma.
const OPERATOR: &str = "operator's listener on ";

pub struct Daemon {
    child: Child,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    log: Log,
}

/// Everything the daemon writes to stderr, read on a thread of its own.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// Its result is the daemon's stderr: a thread that stopped early keeps the pipe open.
    reader: JoinHandle<BufReader<ChildStderr>>,
}

impl Daemon {
    /// Starts it and waits until it says that it listens.
    pub fn start(site: &Site) -> Daemon {
        Self::start_by(site, site.command(&["serve"]))
    }

    /// The same by a command of the test's own, such as a wrapper around `tilld serve`.
    pub fn start_by(site: &Site, command: Command) -> Daemon {
        Self::start_reading_log(site, command, true)
    }

    /// The same, but nobody reads its log once it listens, so that the pipe fills up.
    pub fn start_with_stuck_log(site: &Site) -> Daemon {
        Self::start_reading_log(site, site.command(&["serve"]), false)
    }

    /// The same by a command whose log goes elsewhere; `address` tells where it listens, once it
    /// does.
    pub fn start_without_log(
        site: &Site,
        command: Command,
        mut address: impl FnMut() -> Option<SocketAddr>,
    ) -> Daemon {
        let mut child = spawn(command);
        let (log, _) = Log::read(&mut child, true);
        let deadline = clock::monotonic() + PATIENCE;
        let address = loop {
            if let Some(address) = address() {
                break address;
            }
            if clock::monotonic() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the daemon does not listen; it wrote:\n{}", log.whole());
            }
        };
        Daemon { child, address, tls: till::trusting(&site.certificate()), log }
    }

    fn start_reading_log(site: &Site, command: Command, go_on: bool) -> Daemon {
        let mut child = spawn(command);
        let (log, ready) = Log::read(&mut child, go_on);
        let Ok(address) = ready.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the daemon does not listen; it wrote:\n{}", log.whole());
        };
        Daemon { child, address, tls: till::trusting(&site.certificate()), log }
    }

    /// Starts one that may refuse to come up: then its exit code and what it wrote.
    pub fn try_start(site: &Site) -> Result<Daemon, (Option<i32>, String)> {
        Self::try_start_by(site, site.command(&["serve"]))
    }

    /// The same by a command of the test's own.
    pub fn try_start_by(site: &Site, command: Command) -> Result<Daemon, (Option<i32>, String)> {
        let mut child = spawn(command);
        let (log, ready) = Log::read(&mut child, true);
        match ready.recv_timeout(PATIENCE) {
            Ok(address) => {
                Ok(Daemon { child, address, tls: till::trusting(&site.certificate()), log })
            }
            Err(_) => Err(Self::ended(child, log)),
        }
    }

    /// Starts one that must not come up, and gives its exit code and what it wrote.
    pub fn refused(site: &Site) -> (Option<i32>, String) {
        let mut child = spawn(site.command(&["serve"]));
        let (log, _) = Log::read(&mut child, true);
        Self::ended(child, log)
    }

    fn ended(mut child: Child, log: Log) -> (Option<i32>, String) {
        let status = end(&mut child, PATIENCE);
        let written = log.whole();
        (status.unwrap_or_else(|| panic!("it came up:\n{written}")).code(), written)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers `/livez` and `/readyz`.
    pub fn operator(&self) -> SocketAddr {
        let lines = self.log.lines.lock().unwrap();
        let address = lines.iter().find_map(|line| {
            let (address, _) = line.split_once(OPERATOR)?.1.split_once(',')?;
            address.parse().ok()
        });
        address.expect("it said so before it said that it listens")
    }

    /// What a client needs to trust this daemon and no other.
    pub fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection.
    pub fn till(&self) -> Till {
        Till::connect(self.address(), &self.tls).expect("a connection")
    }

    /// One plain confirmation over a connection of its own.
    pub fn confirm(&self, confirmation: &Confirmation) -> Answer {
        self.till().post(PATH, JSON, &[], confirmation.text().as_bytes())
    }

    /// The code answered to one plain confirmation.
    pub fn code(&self, confirmation: &Confirmation) -> String {
        self.confirm(confirmation).code()
    }

    pub fn sigterm(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::TERM).expect("a living child");
    }

    /// SIGKILL, to this child only, and reaps it.
    pub fn kill(&mut self) {
        self.child.kill().expect("a killed child");
        self.child.wait().expect("a reaped child");
    }

    /// Waits until it ends by itself, at most this long.
    pub fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let status = end(&mut self.child, at_most);
        status.unwrap_or_else(|| panic!("it still runs after {at_most:?}"))
    }

    /// Waits until it has written a line that holds `needle`, and gives that line.
    pub fn await_line(&self, needle: &str) -> String {
        let deadline = clock::monotonic() + LINE_PATIENCE;
        loop {
            let lines = self.log.lines.lock().unwrap();
            if let Some(line) = lines.iter().find(|line| line.contains(needle)) {
                return line.clone();
            }
            drop(lines);
            assert!(clock::monotonic() < deadline, "it never wrote {needle:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, the exit 0 that it promises, and everything that it wrote.
    pub fn stop(mut self) -> String {
        self.sigterm();
        let status = self.wait(PATIENCE);
        assert!(status.success(), "{status}");
        let lines = Arc::clone(&self.log.lines);
        while !self.log.reader.is_finished() {
            thread::yield_now();
        }
        lines.lock().unwrap().join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the daemon wrote:\n{}", self.log.lines.lock().unwrap().join("\n"));
        }
    }
}

impl Log {
    /// The receiver hears the address when the daemon listens; reading then stops unless `go_on`.
    fn read(child: &mut Child, go_on: bool) -> (Log, Receiver<SocketAddr>) {
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let (sender, ready) = mpsc::channel();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                kept.lock().unwrap().push(line.trim_end().to_owned());
                if let Some(address) = address_in(&line) {
                    let _ = sender.send(address);
                    if !go_on {
                        break;
                    }
                }
                line.clear();
            }
            stderr
        });
        (Log { lines, reader }, ready)
    }

    /// Waits for the end of stderr, which is the end of the process.
    fn whole(self) -> String {
        let _ = self.reader.join();
        self.lines.lock().unwrap().join("\n")
    }
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("tilld can be run")
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(READY)?;
    rest.split(',').next()?.trim().parse().ok()
}

/// Its exit status, or `None` and its end by force when it takes longer than this.
fn end(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let deadline = clock::monotonic() + at_most;
    while clock::monotonic() < deadline {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
