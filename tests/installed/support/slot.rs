//! Room for two machines at a time, whoever else on this computer runs these tests: a slot has its
//! own directory, network and cgroup, and is held by a file's lock, which ends with its process.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::tree::PLACE;

/// Each machine keeps a core busy.
const SLOTS: u8 = 2;

/// Slots are given back every few seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub struct Slot {
    number: u8,
    _lock: File,
}

impl Slot {
    /// Waits until one is free.
    pub fn take() -> Slot {
        fs::create_dir_all(PLACE).expect("a place for machines");
        loop {
            for number in 0..SLOTS {
                let path = Path::new(PLACE).join(format!("slot-{number}.lock"));
                let lock = File::create(path).expect("a lock file");
                if lock.try_lock().is_ok() {
                    return Slot { number, _lock: lock };
                }
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// A directory that nobody else uses meanwhile.
    pub fn dir(&self) -> PathBuf {
        Path::new(PLACE).join(format!("slot-{}", self.number))
    }

    /// This computer's end of the wire to the machine.
    pub fn link(&self) -> String {
        format!("tilld{}", self.number)
    }

    /// The addresses of this computer and of the machine, out of a range for benchmarks.
    pub fn addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        let base = self.number * 4;
        (Ipv4Addr::new(198, 18, 0, base + 1), Ipv4Addr::new(198, 18, 0, base + 2))
    }

    /// Where the machine's processes are counted, in each hierarchy in which systemd keeps track of
    /// them. Two machines in one cgroup would end each other's services.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let ours = fs::read_to_string("/proc/self/cgroup").expect("our cgroups");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("our mounts");
        let mut found = Vec::new();
        for mount in mounts.lines() {
            let words: Vec<&str> = mount.split(' ').collect();
            let [_, place, kind, options, ..] = words[..] else { continue };
            let prefix = match kind {
                "cgroup2" => "0::/",
                "cgroup" if options.contains("name=systemd") => "name=systemd:/",
                _ => continue,
            };
            let path = ours.lines().find_map(|line| Some(line.split_once(prefix)?.1));
            let name = format!("tilld-test-{}", self.number);
            found.push(Path::new(place).join(path.unwrap_or_default()).join(name));
        }
        found
    }
}
