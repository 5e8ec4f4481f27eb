//! A computer with its own systemd, disk and network, as a container: booted, used through a shell
//! and over the network, turned off. What it wrote is kept when a test fails.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use tilld::system::clock;

use super::load::Account;
use super::slot::Slot;
use super::till::{self, Till};
use super::tree::{self, Disk, Layers, succeed};
use super::{Confirmation, JSON, Load, PATH, SKYPAY, SKYPAY_KEY, TILL_7, TILL_7_KEY, eventually};

/// No command inside takes this long; one that hangs fails its test.
const COMMAND_TIME_MAX: &str = "120";

/// A machine whose plug is pulled is gone by then.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// What commands inside find in their environment, and nothing else.
const ENVIRONMENT: &[&str] = &[
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "DEBIAN_FRONTEND=noninteractive",
    "SYSTEMD_PAGER=",
];

/// Where a branch's own settings go.
pub const BRANCH_FILE: &str = "/etc/tilld/conf.d/branch.toml";

/// The port of the shipped configuration.
const PORT: u16 = 8443;

pub struct Machine {
    disk: Option<Disk>,
    slot: Slot,
    power: Option<Power>,
    /// Where what it wrote is kept.
    kept: PathBuf,
    transcript: Mutex<String>,
}

/// A machine that is on.
struct Power {
    nspawn: Child,
    /// Its systemd, seen from here.
    init: String,
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Machine {
    /// One that is off, with this on its disk.
    pub fn on(layers: &Layers) -> Machine {
        let slot = Slot::take();
        let disk = Disk::new(&slot, layers);
        let test = thread::current().name().unwrap_or("main").replace("::", "-");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
        let kept = target.join("installed").join(tree::release()).join(test);
        let _ = fs::remove_dir_all(&kept);
        fs::create_dir_all(&kept).expect("a place for what it writes");
        Machine { disk: Some(disk), slot, power: None, kept, transcript: Mutex::default() }
    }

    /// Debian without the package, booted.
    pub fn bare() -> Machine {
        let mut machine = Self::on(&tree::debian());
        machine.boot();
        machine
    }

    /// The package installed and a till and SkyPay configured, not booted.
    pub fn configured() -> Machine {
        let machine = Self::on(&tree::installed());
        machine.configure();
        machine
    }

    /// The same, booted and serving.
    pub fn serving() -> Machine {
        let mut machine = Self::configured();
        machine.boot();
        machine.await_active();
        machine
    }

    /// Configures a till and SkyPay.
    pub fn configure(&self) {
        self.secret("till-7.keys", TILL_7_KEY);
        self.secret("skypay.keys", SKYPAY_KEY);
        let callers = [(TILL_7, "till-7"), (SKYPAY, "skypay")].map(|(user_name, file)| {
            format!(
                "[[caller]]\nuser_name = {user_name:?}\n\
                 authentication_file = \"/etc/tilld/secrets.d/{file}.keys\"\n"
            )
        });
        self.write(BRANCH_FILE, &callers.concat());
    }

    /// Turns it on with a network, and waits until everything has started that does so at boot.
    pub fn boot(&mut self) {
        self.boot_without_network();
        self.plug_in();
    }

    /// The same with no wire in its socket.
    pub fn boot_without_network(&mut self) {
        assert!(self.power.is_none(), "it is on");
        let nspawn = self.nspawn().spawn().expect("systemd-nspawn can be run");
        self.power = Some(Power { nspawn, init: String::new() });
        eventually("the machine boots", || {
            let power = self.power.as_mut().expect("it is on");
            let ended = power.nspawn.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "it does not boot: {}", self.console());
            // unshare, nspawn, systemd.
            let init = child_of(&power.nspawn.id().to_string()).and_then(|pid| child_of(&pid));
            let Some(init) = init else { return false };
            power.init = init;
            let state = self.run("systemctl is-system-running --wait").stdout;
            ["running", "degraded"].contains(&state.trim())
        });
    }

    /// Puts the wire into its socket.
    pub fn plug_in(&self) {
        let (here, there) = self.slot.addresses();
        let link = self.slot.link();
        let init = &self.power.as_ref().expect("it is on").init;
        let ip = |words: &str| succeed(Command::new("ip").args(words.split(' ')));
        ip(&format!("address add {here}/30 dev {link}"));
        ip(&format!("link set {link} up"));
        let inside = |words: &str| {
            let mut nsenter = Command::new("nsenter");
            succeed(nsenter.args(["-t", init, "-n", "ip"]).args(words.split(' ')));
        };
        inside(&format!("address add {there}/30 dev host0"));
        inside("link set host0 up");
    }

    /// The container, in cgroups of its own; it ends with this thread, whatever becomes of it.
    fn nspawn(&self) -> Command {
        let cgroups = self.slot.cgroups();
        for cgroup in &cgroups {
            fs::create_dir_all(cgroup).expect("a cgroup");
        }
        let enter = "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\"; shift; done; \
                     shift; exec \"$@\"";
        let console = File::options().create(true).append(true).open(self.kept.join("console.txt"));
        let console = console.expect("a file for the console");
        let mut command = Command::new("sh");
        command.args(["-ec", enter, "sh"]).args(cgroups).arg("--");
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        command.args(["unshare", "--fork", "--pid", "--mount-proc", "--kill-child=KILL"]);
        command.args(["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"]);
        command.args(["--private-network", "--console=pipe"]);
        command.arg(format!("--network-veth-extra={}:host0", self.slot.link()));
        command.arg("-D").arg(self.root());
        let errors = console.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(console).stderr(errors);
        command
    }

    /// Starts it anew as a person would.
    pub fn reboot(&mut self) {
        self.shut_down("reboot");
        self.boot();
    }

    /// Takes the power away from under it, and starts it anew.
    pub fn cut_power(&mut self) {
        self.power.take().expect("it is on").off();
        self.remove_cgroups();
        self.boot();
    }

    /// Ends everything in order, and waits until it has ended.
    fn shut_down(&mut self, verb: &str) {
        self.run(&format!("systemctl {verb}"));
        let nspawn = &mut self.power.as_mut().expect("it is on").nspawn;
        eventually("the machine is off", || nspawn.try_wait().expect("a child of ours").is_some());
        self.power = None;
        self.remove_cgroups();
    }

    /// Makes what is on its disk a tree for other machines.
    pub fn keep_disk(mut self, place: &Path) {
        self.shut_down("poweroff");
        self.disk.take().expect("a disk").keep(place);
    }

    fn remove_cgroups(&self) {
        for cgroup in self.slot.cgroups() {
            let mut find = Command::new("find");
            find.arg(cgroup).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            let _ = find.stderr(Stdio::null()).status();
        }
    }

    /// Copies the package into it and installs it with apt.
    pub fn install(&self, package: &Path) -> String {
        fs::copy(package, self.path("/root/tilld.deb")).expect("room for the package");
        self.sh("apt-get install -y /root/tilld.deb 2>&1")
    }

    /// What a root shell inside makes of this.
    pub fn run(&self, script: &str) -> Ran {
        let init = &self.power.as_ref().expect("it is on").init;
        let mut command = Command::new("timeout");
        command.args([COMMAND_TIME_MAX, "nsenter", "-t", init, "-a", "env", "-i"]);
        command.args(ENVIRONMENT).args(["sh", "-c", script]);
        let output = command.stdin(Stdio::null()).output().expect("nsenter can be run");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let ran = Ran { code: output.status.code(), stdout, stderr };
        let mut transcript = self.transcript.lock().unwrap();
        let _ = writeln!(transcript, "$ {script}\n{}{}-> {:?}", ran.stdout, ran.stderr, ran.code);
        ran
    }

    /// What it prints, less the last line's end; fails when the script does.
    pub fn sh(&self, script: &str) -> String {
        let ran = self.run(script);
        assert_eq!(ran.code, Some(0), "{script}\n{}{}", ran.stdout, ran.stderr);
        ran.stdout.trim_end().to_owned()
    }

    /// The same as this user, who must exist.
    pub fn run_as(&self, user: &str, script: &str) -> Ran {
        self.run(&format!("runuser -u {user} -- sh -c '{script}'"))
    }

    /// Waits until the script succeeds.
    pub fn until(&self, script: &str) {
        eventually(script, || self.run(script).code == Some(0));
    }

    /// Waits until systemd says that the daemon answers.
    pub fn await_active(&self) {
        self.until("systemctl is-active tilld");
    }

    /// Lets another program, a unit called `other`, listen where the daemon wants to.
    pub fn take_port(&self) {
        self.sh("systemd-run --unit=other systemd-socket-activate -l 8443 /bin/cat");
        self.until("ss -Hltn sport = :8443 | grep 8443");
    }

    /// A property of the daemon's unit.
    pub fn property(&self, name: &str) -> String {
        self.sh(&format!("systemctl show tilld -P {name}"))
    }

    /// The daemon's process, as the machine numbers it.
    pub fn main_pid(&self) -> String {
        self.property("MainPID")
    }

    /// A file of the machine, seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside.trim_start_matches('/'))
    }

    fn root(&self) -> PathBuf {
        self.disk.as_ref().expect("a disk").root()
    }

    pub fn read(&self, inside: &str) -> String {
        let path = self.path(inside);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{inside}: {error}"))
    }

    /// Writes a file that everybody may read.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).unwrap_or_else(|error| panic!("{inside}: {error}"));
    }

    /// Adds to a file.
    pub fn append(&self, inside: &str, text: &str) {
        let old = self.read(inside);
        self.write(inside, &(old + text));
    }

    /// Writes a file of secrets for the daemon.
    pub fn secret(&self, name: &str, text: &str) {
        let inside = format!("/etc/tilld/secrets.d/{name}");
        self.write(&inside, &format!("{text}\n"));
        let groups = self.read("/etc/group");
        let group = groups.lines().find_map(|line| line.strip_prefix("_tilld:x:"));
        let group = group.and_then(|rest| rest.split(':').next()?.parse().ok());
        let path = self.path(&inside);
        chown(&path, Some(0), Some(group.expect("the daemon's group"))).expect("root may");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("root may");
    }

    /// Where it answers tills.
    pub fn address(&self) -> SocketAddr {
        (self.slot.addresses().1, PORT).into()
    }

    /// The certificate that it made, where this computer can read it.
    pub fn certificate(&self) -> PathBuf {
        let path = self.kept.join("cert.pem");
        fs::write(&path, self.sh("cat /var/lib/tilld/tls/cert.pem"))
            .expect("a written certificate");
        path
    }

    /// What trusts that certificate.
    pub fn tls(&self) -> Arc<ClientConfig> {
        till::trusting(&self.certificate())
    }

    /// The code answered to one confirmation over a connection of its own.
    pub fn code(&self, confirmation: &Confirmation) -> String {
        self.code_over(&self.tls(), confirmation)
    }

    /// The same for a till that trusts something else.
    pub fn code_over(&self, tls: &Arc<ClientConfig>, confirmation: &Confirmation) -> String {
        let mut till = Till::connect(self.address(), tls).expect("a connection");
        till.post(PATH, JSON, &[], confirmation.text().as_bytes()).code()
    }

    /// Tills begin to post.
    pub fn load(&self) -> Load {
        Load::start(self.address(), self.tls())
    }

    /// Every recorded collection.
    pub fn collections(&self) -> Vec<Value> {
        let text = self.sh("tilld list --limit 1000000 --output json");
        let printed: Value = serde_json::from_str(&text).expect("JSON");
        printed["collections"].as_array().expect("collections").clone()
    }

    /// Everything that was acknowledged stands, and both witnesses agree.
    pub fn all_stands(&self, account: &Account) {
        let collections = self.collections();
        let contract = |row: &Value| row["contract"].as_str().expect("a contract").to_owned();
        let recorded: HashSet<String> = collections.iter().map(contract).collect();
        let lost: Vec<_> = account.acknowledged.difference(&recorded).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        self.sh("tilld verify");
    }

    /// The entries of the journal that fit, oldest first, as soon as there are any.
    pub fn journal(&self, matches: &str) -> Vec<Value> {
        self.until(&format!("journalctl -q {matches} | grep -q ."));
        let text = self.sh(&format!("journalctl -q -o json {matches}"));
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn console(&self) -> String {
        fs::read_to_string(self.kept.join("console.txt")).unwrap_or_default()
    }

    /// Keeps what tells why a test failed, and prints the end of it.
    fn keep_evidence(&self) {
        let _ = fs::write(self.kept.join("commands.txt"), &*self.transcript.lock().unwrap());
        let mut journalctl = Command::new("journalctl");
        journalctl.args(["--no-pager", "-q", "-o", "short-precise", "-D"]);
        let journal = journalctl.arg(self.path("/var/log/journal")).output();
        let journal = journal.map(|output| output.stdout).unwrap_or_default();
        let _ = fs::write(self.kept.join("journal.txt"), &journal);
        let journal = String::from_utf8_lossy(&journal);
        let lines: Vec<&str> = journal.lines().collect();
        let last = lines[lines.len().saturating_sub(40)..].join("\n");
        eprintln!("all it wrote is kept in {}; its journal ends:\n{last}", self.kept.display());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() && self.disk.is_some() {
            self.keep_evidence();
        }
        if let Some(power) = self.power.take() {
            // Nothing on its disk is of use any more.
            power.off();
            self.remove_cgroups();
        }
    }
}

impl Power {
    /// Ends everything at once, in no order.
    fn off(mut self) {
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        // What the kernel ends with it takes a moment.
        let init = format!("/proc/{}/status", self.init);
        let deadline = clock::monotonic() + END_TIME_MAX;
        while Path::new(&init).exists() && clock::monotonic() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Ran {
    /// Everything it wrote.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// The first child of a process.
fn child_of(pid: &str) -> Option<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split(' ').next().filter(|pid| !pid.is_empty()).map(str::to_owned)
}
