//! What the machine grants: open files, disk space, a name.

use std::io;
use std::path::Path;

/// Bytes that an unprivileged process may still write on the file system of `dir`.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let fs = rustix::fs::statvfs(dir)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}
