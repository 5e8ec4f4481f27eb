//! A virtual machine with a disk of its own, whose plug can be pulled: when qemu is killed, what
//! the kernel inside had not written to the disk is gone. Knows a site, which it runs at the same
//! paths, and nothing of what is sent there.
//!
//! Nobody need be root for it, and no file system is mounted here: the disk is filled by `mke2fs`
//! and read by `debugfs`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tilld::system::clock;

use crate::support::Site;

/// Where the kernel lies, outside the repository.
const PLACE: &str = "/var/tmp/tilld-test";

/// The package of the smallest kernel that Debian has; it names the newest one's.
const KERNEL: &str = "linux-image-cloud-amd64";

/// What the kernel needs for its disk and its network, in the order in which they need each other.
const MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Room for what a torture records. Only what is written takes some here.
const DISK_SIZE: &str = "1G";

/// Where its head office is, seen from inside.
pub const OFFICE: &str = "10.0.2.100";

/// Where the daemon listens inside, and head office beyond.
pub const PORT: u16 = 8443;

/// What the machine writes when there is nothing left but to start the daemon.
const STARTS: &str = "the daemon starts";

/// What it writes when the daemon was killed.
const KILLED: &str = "the daemon was killed";

/// What the daemon writes when it takes connections.
const READY: &str = "listening on ";

/// How long a machine without hardware support may take to write what is awaited.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Machine {
    kernel: PathBuf,
    dir: TempDir,
    /// Where [`OFFICE`] leads.
    office: Option<SocketAddr>,
}

/// A machine that is on.
pub struct Power {
    qemu: Child,
    address: SocketAddr,
    console: Receiver<String>,
    written: Vec<String>,
}

impl Machine {
    /// One that is off, with a site's program and configuration, and its state on the disk.
    pub fn of(site: &Site, office: Option<SocketAddr>) -> Machine {
        // The disk is written past the page cache of this machine: in memory it cannot be.
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        let kernel = kernel();
        let root = dir.path().join("root");
        fill(&root, site, &kernel);
        let pack = format!(
            "cd {} && busybox find . | busybox cpio -o -H newc -R 0:0 >../initramfs",
            root.display()
        );
        succeed(Command::new("sh").arg("-c").arg(pack));
        let machine = Machine { kernel, dir, office };
        let mut format = Command::new("/usr/sbin/mke2fs");
        format.args(["-q", "-t", "ext4", "-d"]).arg(site.state_dir());
        succeed(format.arg(machine.disk()).arg(DISK_SIZE));
        machine
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Turns it on. `strace` injects `FAULT` of `fault`, if any, into the daemon's calls about
    /// `ONLY`, or about anything; when the daemon is killed by that, the next one finds that the
    /// disk has not the space which it wants to be left free.
    pub fn boot(&self, fault: Option<&str>) -> Power {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let kernel = find(&self.kernel.join("boot"), "vmlinuz-");
        // The kernel hands what it does not know to its first process as its environment.
        let fault = fault.map(|fault| format!(" {fault}")).unwrap_or_default();
        let forward = format!("hostfwd=tcp:{address}-10.0.2.15:{PORT}");
        // It ends with the test, however that ends.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "256", "-nodefaults"]);
        qemu.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
        qemu.arg("-kernel").arg(kernel);
        qemu.arg("-initrd").arg(self.dir.path().join("initramfs"));
        qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1{fault}")]);
        let drive = format!("id=disk,if=none,format=raw,cache=none,file={}", self.disk().display());
        qemu.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
        // Through a program for each connection: qemu itself leads only one.
        let office = self.office.map(|office| {
            let (ip, port) = (office.ip(), office.port());
            format!(",guestfwd=tcp:{OFFICE}:{PORT}-cmd:busybox nc {ip} {port}")
        });
        let office = office.unwrap_or_default();
        qemu.args(["-netdev", &format!("user,id=net,restrict=on,{forward}{office}")]);
        qemu.args(["-device", "virtio-net-pci,netdev=net"]);
        let mut qemu =
            qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("setpriv can be run");
        let stdout = BufReader::new(qemu.stdout.take().expect("stdout is a pipe"));
        let (sender, console) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        Power { qemu, address, console, written: Vec::new() }
    }

    /// Makes what lies on the disk of a machine that is off the site's state here, as the next boot
    /// would find it. The disk itself stays as it is.
    pub fn show_disk(&self, site: &Site) {
        let copy = self.dir.path().join("copy");
        succeed(Command::new("cp").arg("--sparse=always").arg(self.disk()).arg(&copy));
        let checked = Command::new("/usr/sbin/e2fsck").args(["-f", "-p"]).arg(&copy).output();
        let checked = checked.expect("e2fsck can be run");
        // 1: the journal was played back, and all is well.
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        let state_dir = site.state_dir();
        fs::remove_dir_all(&state_dir).expect("the state shown before");
        fs::create_dir(&state_dir).expect("a directory");
        let dump = format!("rdump / {}", state_dir.display());
        succeed(Command::new("/usr/sbin/debugfs").arg("-R").arg(dump).arg(&copy));
    }
}

impl Power {
    /// Where its daemon is reached from here.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the daemon is being started.
    pub fn await_start(&mut self) {
        self.await_line(STARTS);
    }

    /// Waits until a daemon takes connections.
    pub fn await_ready(&mut self) {
        self.await_line(READY);
    }

    /// Whether it had killed the daemon before that which was awaited last.
    pub fn has_killed(&self) -> bool {
        self.written.iter().any(|line| line == KILLED)
    }

    fn await_line(&mut self, needle: &str) {
        let deadline = clock::monotonic() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(clock::monotonic());
            let Ok(line) = self.console.recv_timeout(left) else {
                panic!("it did not write {needle:?}, but:\n{}", self.written.join("\n"));
            };
            let is_it = line.contains(needle);
            self.written.push(line);
            if is_it {
                return;
            }
        }
    }

    /// Pulls the plug.
    pub fn cut(mut self) {
        self.pull();
    }

    fn pull(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        self.pull();
    }
}

/// Debian's, fetched once and not installed.
fn kernel() -> PathBuf {
    fs::create_dir_all(PLACE).expect("a place for the kernel");
    let place = Path::new(PLACE).join("kernel");
    let lock = File::create(place.with_extension("lock")).expect("a lock of ours");
    lock.lock().expect("a lock of ours");
    if !place.exists() {
        let making = place.with_extension("making");
        let _ = fs::remove_dir_all(&making);
        fs::create_dir(&making).expect("a directory");
        succeed(Command::new("apt-get").args(["update", "-q"]));
        let listed = succeed(Command::new("apt-cache").args(["depends", KERNEL]));
        let name = listed.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let name = name.unwrap_or_else(|| panic!("Debian has no {KERNEL}:\n{listed}"));
        succeed(Command::new("apt-get").args(["download", name]).current_dir(&making));
        let package = find(&making, name);
        succeed(Command::new("dpkg").arg("-x").arg(&package).arg(&making));
        fs::remove_file(package).expect("a package of ours");
        fs::rename(making, &place).expect("a finished tree");
    }
    place
}

/// What the kernel starts with: a shell, the modules, and a site at its own paths.
fn fill(root: &Path, site: &Site, kernel: &Path) {
    let directory = find(&kernel.join("lib/modules"), "");
    for module in MODULES {
        let found =
            succeed(Command::new("find").arg(&directory).args(["-name", &format!("{module}.ko")]));
        assert!(!found.trim().is_empty(), "this kernel has no {module}.ko");
        copy(root, Path::new(found.trim()), &Path::new("/modules").join(format!("{module}.ko")));
    }
    let path = |program| PathBuf::from(succeed(Command::new("which").arg(program)).trim());
    copy(root, &path("busybox"), Path::new("/bin/busybox"));
    for (program, inside) in [(path("strace"), "/bin/strace"), (site.program.clone(), "/bin/tilld")]
    {
        let libraries = succeed(Command::new("ldd").arg(&program));
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(root, Path::new(library), Path::new(library));
        }
        copy(root, &program, Path::new(inside));
    }
    for entry in fs::read_dir(site.path()).expect("a site").map(|entry| entry.expect("an entry")) {
        if entry.file_type().expect("a type").is_file() {
            copy(root, &entry.path(), &entry.path());
        }
    }
    let config = root.join(site.config().strip_prefix("/").expect("an absolute path"));
    let toml = fs::read_to_string(&config).expect("a configuration");
    let outward =
        toml.replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"0.0.0.0:{PORT}\""), 1);
    fs::write(&config, outward).expect("a written configuration");
    let (config, state_dir) = (site.config(), site.state_dir());
    let init = INIT
        .replace("MODULES", &MODULES.join(" "))
        .replace("CONFIG", &config.display().to_string())
        .replace("STATE", &state_dir.display().to_string())
        .replace("STARTS", STARTS)
        .replace("KILLED", KILLED);
    fs::write(root.join("init"), init).expect("a written file");
    succeed(Command::new("chmod").arg("+x").arg(root.join("init")));
}

/// The machine's first process.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install /bin
mkdir -p /dev /proc STATE
mount -t devtmpfs none /dev
mount -t proc none /proc
for module in MODULES; do insmod /modules/$module.ko; done
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
mount -t ext4 /dev/vda STATE
echo 'STARTS'
# Before the patience of whoever waits is over: what everything waits for.
(sleep 60; grep -H . /proc/[0-9]*/task/*/comm /proc/[0-9]*/task/*/wchan \
    /proc/[0-9]*/task/*/syscall) 2>/dev/null &
if [ -n "$FAULT" ]; then
    strace -f -o /dev/null ${ONLY:+-P $ONLY} -e trace=fdatasync -e "inject=$FAULT" \
        tilld serve --config CONFIG
    echo 'KILLED'
    sed -i 's/^disk_reserve = .*/disk_reserve = "1024 GiB"/' CONFIG
fi
tilld serve --config CONFIG
"#;

/// Copies a file to where it shall be inside.
fn copy(root: &Path, from: &Path, to: &Path) {
    let to = root.join(to.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(to.parent().expect("a directory")).expect("a made directory");
    fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// The entry of a directory whose name begins so.
fn find(directory: &Path, beginning: &str) -> PathBuf {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))
    };
    paths.find(is_it).unwrap_or_else(|| panic!("no {beginning} in {}", directory.display()))
}

/// What a command printed that must succeed.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}
