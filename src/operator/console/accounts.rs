//! The accounts as they are in their file now: it is read again whenever it has changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::accounts::{self, Account};

/// What has another value after the file was changed: inode, change time and size.
type Stamp = Option<(u64, i64, i64, u64)>;

/// The accounts, or `None` when they cannot be read; the log has said why.
pub type Known = Option<Arc<[Account]>>;

/// The file as it was read last.
#[derive(Default)]
pub struct Accounts {
    read: Mutex<Option<Read>>,
}

struct Read {
    path: PathBuf,
    stamp: Stamp,
    known: Known,
}

impl Accounts {
    /// Who may log in now.
    pub fn now(&self, path: &Path) -> Known {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it is read: a change meanwhile is seen the next time.
        let stamp = stamp(path);
        if let Some(read) = read.as_ref().filter(|read| read.path == path && read.stamp == stamp) {
            return read.known.clone();
        }
        let known = match accounts::read(path) {
            Ok(accounts) => Some(accounts.into()),
            Err(error) => {
                log::error!("nobody can log in at the console: {error}");
                None
            }
        };
        *read = Some(Read { path: path.to_owned(), stamp, known: known.clone() });
        known
    }
}

fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.ctime(), file.ctime_nsec(), file.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::accounts::{AccountName, AccountsFile, Role};

    #[test]
    fn a_change_of_the_file_holds_at_once_and_a_bad_file_lets_nobody_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let accounts = Accounts::default();
        let names = || -> Option<Vec<String>> {
            let known = accounts.now(&path)?;
            Some(known.iter().map(|account| account.name.to_string()).collect())
        };
        assert_eq!(names(), Some(Vec::new()));
        let name = AccountName::parse("ana").unwrap();
        let ana =
            Account { name: name.clone(), role: Role::Viewer, password_hash: "$1".to_owned() };
        AccountsFile::open(&path).unwrap().put(ana, None).unwrap();
        assert_eq!(names(), Some(vec!["ana".to_owned()]));
        fs::write(&path, "ana\n").unwrap();
        assert_eq!(names(), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(names(), Some(Vec::new()));
    }
}
