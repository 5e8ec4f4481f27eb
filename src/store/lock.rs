//! Who has a state directory: the daemon, or what must not run beside it.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::SystemTime;

use super::{OpenError, OpenErrorKind, undelivered};

/// Held by the daemon, and by what must not run beside it.
const LOCK_FILE: &str = "lock";

/// Whether a daemon runs on a state directory.
pub fn is_taken(state_dir: &Path) -> bool {
    let lock = File::open(state_dir.join(LOCK_FILE));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// When a state directory was last taken, to be compared: whoever opens a file anew sets its time.
/// To ask by the lock itself would stand in the way of a daemon that starts.
pub fn taken_at(state_dir: &Path) -> Option<SystemTime> {
    std::fs::metadata(state_dir.join(LOCK_FILE)).and_then(|lock| lock.modified()).ok()
}

/// Two daemons on one state directory would both number from the same sequence. What an earlier one
/// left of its [`undelivered`] count holds only until somebody else may record.
pub fn take(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join(LOCK_FILE);
    let file = File::create(&path).map_err(|error| OpenError::inaccessible(&path, error))?;
    match file.try_lock() {
        Ok(()) => {
            undelivered::forget(state_dir)
                .map_err(|error| OpenError::inaccessible(state_dir, error))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(OpenError::new(
            OpenErrorKind::Inaccessible,
            format!("another tilld is running on {}: stop it first", state_dir.display()),
        )),
        Err(TryLockError::Error(error)) => Err(OpenError::inaccessible(&path, error)),
    }
}
