//! A directory of its own with configuration, secrets and state, in which a daemon can be started
//! again and again and the command line be used. Removed when dropped.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Daemon, SKYPAY, SKYPAY_KEY, SKYPAY_PASSWORD, TILL_7, TILL_7_KEY};

/// The user and group `nobody`.
pub const NOBODY: u32 = 65534;

/// What a configuration says.
#[derive(Clone)]
pub struct Setup {
    pub mode: &'static str,
    pub contracts: &'static str,
    pub reply_code: &'static str,
    pub prefixes: &'static [&'static str],
    pub disk_reserve: &'static str,
    pub log_level: &'static str,
    pub listen: String,
    pub callers: Vec<Caller>,
    /// Appended as it stands.
    pub extra: String,
}

/// One `[[caller]]`.
#[derive(Clone)]
pub struct Caller {
    user_name: String,
    keys: Vec<String>,
    passwords: Vec<String>,
    options: String,
}

pub struct Site {
    dir: TempDir,
    /// What is run: the build under test, unless a test takes another.
    pub program: PathBuf,
}

/// What `tilld verify` found.
#[derive(Debug)]
pub struct Verified {
    pub code: Option<i32>,
    /// What it named; its error message when it could not even read.
    pub differences: Vec<String>,
    /// Collections in the database and on the tape.
    pub counts: (u64, u64),
}

impl Setup {
    /// Live and strict, with the published caller (that may encrypt) and a till (that may not).
    pub fn live() -> Setup {
        Setup {
            mode: "live",
            contracts: "single",
            reply_code: "string",
            prefixes: &[],
            disk_reserve: "1 MiB",
            log_level: "info",
            listen: "127.0.0.1:0".to_owned(),
            callers: vec![
                Caller::new(SKYPAY, &[SKYPAY_KEY]).passwords(&[SKYPAY_PASSWORD]),
                Caller::new(TILL_7, &[TILL_7_KEY]),
            ],
            extra: String::new(),
        }
    }

    pub fn sandbox() -> Setup {
        Setup { mode: "sandbox", ..Self::live() }
    }

    pub fn installments() -> Setup {
        Setup { contracts: "installments", ..Self::live() }
    }

    /// With this caller instead of the one of the same name, or as one more.
    pub fn caller(mut self, caller: Caller) -> Setup {
        self.callers.retain(|old| old.user_name != caller.user_name);
        self.callers.push(caller);
        self
    }

    pub fn prepare(&self) -> Site {
        let dir = TempDir::new().expect("a temporary directory");
        let site = Site { dir, program: env!("CARGO_BIN_EXE_tilld").into() };
        site.configure(self);
        site
    }
}

impl Caller {
    pub fn new(user_name: &str, keys: &[&str]) -> Caller {
        Caller {
            user_name: user_name.to_owned(),
            keys: keys.iter().map(ToString::to_string).collect(),
            passwords: Vec::new(),
            options: String::new(),
        }
    }

    pub fn passwords(mut self, passwords: &[&str]) -> Caller {
        self.passwords = passwords.iter().map(ToString::to_string).collect();
        self
    }

    /// A further line of its table, such as `require_encryption = true`.
    pub fn option(mut self, line: &str) -> Caller {
        self.options += line;
        self.options.push('\n');
        self
    }

    fn toml(&self, number: usize, site: &Site) -> String {
        let Caller { user_name, options, .. } = self;
        let keys = site.secret(&format!("{number}.keys"), &self.keys);
        let encryption = if self.passwords.is_empty() {
            String::new()
        } else {
            let passwords = site.secret(&format!("{number}.passwords"), &self.passwords);
            format!("encryption_file = {passwords:?}\n")
        };
        format!(
            "[[caller]]\nuser_name = {user_name:?}\nauthentication_file = {keys:?}\n\
             {encryption}{options}"
        )
    }
}

impl Site {
    /// Writes the configuration anew; the state stays.
    pub fn configure(&self, setup: &Setup) {
        let Setup { mode, contracts, reply_code, prefixes, disk_reserve, log_level, .. } = setup;
        let (state_dir, listen) = (self.state_dir(), &setup.listen);
        let callers: Vec<String> =
            setup.callers.iter().enumerate().map(|(i, caller)| caller.toml(i, self)).collect();
        let (callers, extra) = (callers.join("\n"), &setup.extra);
        let toml = format!(
            "mode = {mode:?}\nstate_dir = {state_dir:?}\ndisk_reserve = {disk_reserve:?}\n\n\
             [endpoint]\nlisten = {listen:?}\ncontracts = {contracts:?}\n\
             prefixes = {prefixes:?}\nreply_code = {reply_code:?}\n\n\
             [log]\nlevel = {log_level:?}\n\n\
             [operator]\nlisten = \"127.0.0.1:0\"\nsocket = \"tilld.sock\"\n\
             users_file = \"users\"\n\n\
             {callers}\n{extra}"
        );
        fs::write(self.config(), toml).expect("a written configuration");
    }

    pub fn start(&self) -> Daemon {
        Daemon::start(self)
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("tilld.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn certificate(&self) -> PathBuf {
        self.state_dir().join("tls/cert.pem")
    }

    /// A place for what a test itself wants to keep.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `tilld ARGUMENTS --config FILE`, whatever it answers.
    pub fn tilld(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("tilld can be run")
    }

    /// The same with something to read on standard input.
    pub fn tilld_reading(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("tilld can be run");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // Who reads nothing may have closed it.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("a child of ours")
    }

    /// The same as somebody who owns nothing of the site and is no root.
    pub fn tilld_as_nobody(&self, arguments: &[&str]) -> Output {
        if !rustix::process::geteuid().is_root() {
            return self.tilld(arguments);
        }
        self.command_as_nobody(arguments).output().expect("a command")
    }

    /// The same by a user without rights.
    fn command_as_nobody(&self, arguments: &[&str]) -> Command {
        // Where the build lies, a stranger may not enter.
        let program = self.path().join("tilld");
        if !program.exists() {
            copy_program(&self.program, &program);
            let everybody = fs::Permissions::from_mode(0o755);
            fs::set_permissions(self.path(), everybody).expect("a directory of ours");
        }
        let nobody = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
        command.arg(program).args(arguments).arg("--config").arg(self.config());
        command.stdin(Stdio::null());
        command
    }

    /// Starts the daemon of a user without rights, to whom everything here belongs.
    pub fn start_as_nobody(&self) -> Daemon {
        if !rustix::process::geteuid().is_root() {
            return self.start();
        }
        let command = self.command_as_nobody(&["serve"]);
        give_to_nobody(self.path());
        Daemon::start_by(self, command)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--config").arg(self.config()).stdin(Stdio::null());
        command
    }

    /// `tilld serve` behind the words of another command.
    pub fn wrapped(&self, mut wrapper: Command) -> Command {
        wrapper.arg(&self.program).args(["serve", "--config"]).arg(self.config());
        wrapper.stdin(Stdio::null());
        wrapper
    }

    /// The collections that `tilld list` prints with these filters.
    pub fn list(&self, filters: &[&str]) -> Vec<Value> {
        self.printed("list", "collections", filters)
    }

    /// Every collection.
    pub fn all(&self) -> Vec<Value> {
        self.list(&["--limit", "1000000"])
    }

    /// The one collection of this contract.
    pub fn only(&self, contract: &str) -> Value {
        let mut found = self.list(&["--contract", contract]);
        assert_eq!(found.len(), 1, "{contract}: {found:?}");
        found.remove(0)
    }

    /// The kept refusals.
    pub fn refusals(&self) -> Vec<Value> {
        self.printed("refusals", "refusals", &[])
    }

    /// What `tilld show` tells about one collection, as text: tests look for what must be in it.
    pub fn story(&self, reference: &str) -> String {
        let output = self.tilld(&["show", reference, "--output", "json"]);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "show {reference}: {errors}");
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "no JSON: {text}");
        text
    }

    /// What `tilld verify` finds.
    pub fn verify(&self) -> Verified {
        let output = self.tilld(&["verify", "--output", "json"]);
        let code = output.status.code();
        let Ok(printed) = serde_json::from_slice::<Value>(&output.stdout) else {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return Verified { code, differences: vec![errors], counts: (0, 0) };
        };
        let count = |member: &str| -> u64 {
            let days = printed["days"].as_array().expect("days");
            days.iter().map(|day| day[member].as_u64().expect("a count")).sum()
        };
        let differences = printed["differences"].as_array().expect("differences");
        Verified {
            code,
            differences: differences.iter().map(|text| text.as_str().unwrap().to_owned()).collect(),
            counts: (count("database_count"), count("tape_count")),
        }
    }

    fn printed(&self, verb: &str, member: &str, filters: &[&str]) -> Vec<Value> {
        let output = self.tilld(&[&[verb, "--output", "json"], filters].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {filters:?}: {errors}");
        let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(printed["schema_version"].is_number(), "{printed}");
        printed[member].as_array().unwrap_or_else(|| panic!("no {member}: {printed}")).clone()
    }

    /// A file that only its owner can read, one secret a line.
    pub fn secret(&self, name: &str, secrets: &[String]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, secrets.join("\n") + "\n").expect("a written secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a private file");
        path
    }
}

/// Copies a program by a process of its own: whatever this one opens for writing, a child that
/// another thread starts at that moment has open as well, and then the program cannot be run.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("cp can be run");
    assert!(copied.success(), "no room for a copy of {}", from.display());
}

fn give_to_nobody(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a directory") {
            give_to_nobody(&entry.expect("an entry").path());
        }
    }
}

/// The names of a collection's flags, in order.
pub fn flags(collection: &Value) -> Vec<&str> {
    let flags = collection["flags"].as_array().unwrap_or_else(|| panic!("{collection}"));
    flags.iter().map(|flag| flag.as_str().expect("a flag's name")).collect()
}
