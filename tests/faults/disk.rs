//! A small disk of its own: an ext4 image, mounted as long as a test needs it. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image.
pub struct Disk {
    mount_point: PathBuf,
}

impl Disk {
    /// Makes an empty file system of this size in `image` and mounts it.
    pub fn made(image: &Path, mount_point: &Path, mebibytes: u64) -> Disk {
        let size = mebibytes.to_string() + "M";
        // No blocks are kept for root: what df says is free is free for everybody.
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image).arg(size));
        Self::mounted(image, mount_point)
    }

    /// Mounts an image, whose journal is replayed by that.
    pub fn mounted(image: &Path, mount_point: &Path) -> Disk {
        std::fs::create_dir_all(mount_point).expect("a mount point");
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(mount_point));
        Disk { mount_point: mount_point.to_owned() }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still looks into it keeps it until then.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount_point).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("a tool of Debian's");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (as root?): {errors}");
}
