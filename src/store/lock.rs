//! Who has a state directory: the daemon, or what must not run beside it.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::{OpenError, OpenErrorKind};

/// Held by the daemon, and by what must not run beside it.
const LOCK_FILE: &str = "lock";

/// Whether a daemon runs on a state directory.
pub fn is_taken(state_dir: &Path) -> bool {
    let lock = File::open(state_dir.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Two daemons on one state directory would both number from the same sequence.
pub fn take(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join(LOCK_FILE);
    let file = File::create(&path).map_err(|error| OpenError::inaccessible(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::new(
            OpenErrorKind::Inaccessible,
            format!("another tilld is running on {}: stop it first", state_dir.display()),
        )),
        Err(TryLockError::Error(error)) => Err(OpenError::inaccessible(&path, error)),
    }
}
