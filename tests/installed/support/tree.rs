//! The disks of the machines: a Debian made once by debootstrap and kept outside the repository, a
//! layer above it with the package installed, and for each machine a layer of its own on top.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::machine::Machine;
use super::package;
use super::slot::Slot;

/// Where trees and machines lie.
pub const PLACE: &str = "/var/tmp/tilld-test";

/// What a branch server has beyond Debian's minimum: systemd, and what the tests look with.
const PACKAGES: &str = "adduser,apt,ca-certificates,curl,dbus,debconf,iproute2,man-db,openssl,\
                        procps,systemd,systemd-sysv";

/// What Debian's installer writes and debootstrap does not. A machine that has an id does not ask
/// for its first settings at boot.
const FILES: &[(&str, &str)] = &[
    ("etc/machine-id", "5e77a1d0c0115ec7100501a27111d000\n"),
    ("etc/hostname", "branch\n"),
    ("etc/hosts", "127.0.0.1 localhost branch\n::1 localhost\n"),
    // A journal on the disk can be read when the machine is off.
    ("var/log/journal/README", "kept\n"),
];

/// Directories, the topmost first.
#[derive(Clone)]
pub struct Layers(Vec<PathBuf>);

/// What a machine runs on; what it writes is gone with it unless kept.
pub struct Disk(PathBuf);

/// The release under test: `TILLD_DEBIAN`, or Debian 12.
pub fn release() -> String {
    std::env::var("TILLD_DEBIAN").unwrap_or_else(|_| "bookworm".to_owned())
}

/// Debian as it comes.
pub fn debian() -> Layers {
    let release = release();
    let tree = Path::new(PLACE)
        .join(format!("{release}-{}", digest(format!("{PACKAGES}{FILES:?}").as_bytes())));
    let _made_by_one = locked(&tree);
    if !tree.exists() {
        let making = tree.with_extension("making");
        remove(&making);
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", "--include", PACKAGES, &release]).arg(&making);
        succeed(&mut debootstrap);
        for (file, text) in FILES {
            let path = making.join(file);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a written file");
        }
        fs::rename(&making, &tree).expect("a finished tree");
    }
    Layers(vec![tree])
}

/// Debian with the package installed, as `apt-get install` leaves it.
pub fn installed() -> Layers {
    static LAYERS: OnceLock<(Layers, File)> = OnceLock::new();
    let make = || {
        let debian = debian();
        let package = fs::read(package::path()).expect("the package can be read");
        let tree = Path::new(PLACE).join(format!("{}-tilld-{}", release(), digest(&package)));
        let lock = locked(&tree);
        if !tree.exists() {
            remove_unused(&tree);
            let mut machine = Machine::on(&debian);
            machine.boot();
            machine.install(&package::path());
            machine.keep_disk(&tree);
        }
        // Kept until the process ends, so that nobody takes the tree away.
        lock.unlock().and_then(|()| lock.lock_shared()).expect("a lock of ours");
        let Layers(mut layers) = debian;
        layers.insert(0, tree);
        (Layers(layers), lock)
    };
    LAYERS.get_or_init(make).0.clone()
}

impl Disk {
    /// An empty layer above these.
    pub fn new(slot: &Slot, Layers(layers): &Layers) -> Disk {
        let disk = Disk(slot.dir());
        disk.unmount();
        remove(&disk.0);
        for place in [disk.root(), disk.written(), disk.0.join("work")] {
            fs::create_dir_all(place).expect("a directory for the machine");
        }
        let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            disk.written().display(),
            disk.0.join("work").display()
        );
        let mut mount = Command::new("mount");
        succeed(mount.args(["-t", "overlay", "tilld-test", "-o", &options]).arg(disk.root()));
        disk
    }

    /// `/` of the machine.
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Makes what was written a layer for others.
    pub fn keep(self, place: &Path) {
        self.unmount();
        fs::rename(self.written(), place).expect("a finished tree");
    }

    fn written(&self) -> PathBuf {
        self.0.join("written")
    }

    /// Also what an earlier run left, when it was killed.
    fn unmount(&self) {
        let (root, mut mountpoint) = (self.root(), Command::new("mountpoint"));
        while mountpoint.arg("-q").arg(&root).status().is_ok_and(|status| status.success()) {
            succeed(Command::new("umount").args(["--recursive", "--lazy"]).arg(&root));
            mountpoint = Command::new("mountpoint");
        }
    }
}

impl Drop for Disk {
    /// As far as it goes: the next machine in this slot insists.
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.args(["--recursive", "--lazy"]).arg(self.root()).stderr(Stdio::null());
        if umount.status().is_ok_and(|status| status.success()) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// The name of what was made from this.
fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let start = digest.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
    format!("{start:012x}")
}

/// The lock on a tree, held by whoever makes, uses or removes it.
fn locked(tree: &Path) -> File {
    fs::create_dir_all(PLACE).expect("a place for trees");
    let lock = File::create(tree.with_extension("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    lock
}

/// Removes the trees with other packages that nobody uses.
fn remove_unused(but: &Path) {
    for entry in fs::read_dir(PLACE).expect("a directory") {
        let tree = entry.expect("an entry").path();
        let name = tree.file_name().unwrap_or_default().to_string_lossy();
        if tree == but || tree.extension().is_some() || !name.contains("-tilld-") {
            continue;
        }
        let lock_path = tree.with_extension("lock");
        if File::create(&lock_path).is_ok_and(|lock| lock.try_lock().is_ok()) {
            remove(&tree);
            let _ = fs::remove_file(lock_path);
        }
    }
}

fn remove(dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("a directory of ours");
    }
}

/// Runs it, and fails with what it wrote when it fails.
pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let written = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&written));
}
