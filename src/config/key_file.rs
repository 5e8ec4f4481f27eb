//! Changes the files of keys: one at a time, and so that whoever reads one meanwhile, or after a
//! power cut, finds it whole.
//!
//! A file of keys has a second one beside it that tells since when each key is there. It holds
//! nothing secret, nothing depends on it, and it may be missing.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chrono::DateTime;
use rustix::fs::{FlockOperation, Gid, fchown, flock};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{ConfigError, secrets};
use crate::domain::provenance::{Digest, KeyId};
use crate::domain::time::AcceptedAt;

/// The owner reads and writes, the daemon's group reads.
const MODE: u32 = 0o640;

/// A file of keys that nobody else changes meanwhile.
pub struct KeyFile {
    path: PathBuf,
    wanted_by: String,
    /// Locked, and to be synced.
    directory: File,
    keys: Vec<Zeroizing<String>>,
    /// By key, when it was added, as far as that was written down.
    since: Vec<(KeyId, AcceptedAt)>,
}

/// A key, without what is secret about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Its name.
    pub id: KeyId,
    /// When it was added, unless that was done by hand.
    pub since: Option<AcceptedAt>,
}

/// The id under which a key is known.
pub fn id_of(key: &str) -> KeyId {
    KeyId::of(Digest(Sha256::digest(key).into()))
}

/// The keys in a file, in its order, as they are now.
pub fn known(path: &Path, wanted_by: &str) -> Result<Vec<KnownKey>, ConfigError> {
    Ok(known_keys(&secrets::read(path, wanted_by)?, &read_since(path)))
}

impl KeyFile {
    /// Reads a file for `wanted_by` and waits until nobody else changes it. One that is not there
    /// yet has no keys.
    pub fn open(path: &Path, wanted_by: &str) -> Result<KeyFile, ConfigError> {
        let failed = |error: io::Error| {
            let help = "make its directory: sudo install -d -m 0750 -g _tilld DIRECTORY";
            ConfigError::about_file(path, error, help)
        };
        let directory = lock_directory(path).map_err(failed)?;
        let is_there = path.try_exists().map_err(failed)?;
        let keys = if is_there { secrets::read(path, wanted_by)? } else { Vec::new() };
        Ok(KeyFile {
            path: path.to_owned(),
            wanted_by: wanted_by.to_owned(),
            directory,
            keys,
            since: read_since(path),
        })
    }

    /// Its keys, in the file's order.
    pub fn keys(&self) -> Vec<KnownKey> {
        known_keys(&self.keys, &self.since)
    }

    /// Adds a key, unless it is there already: then false.
    pub fn add(&mut self, key: Zeroizing<String>, now: AcceptedAt) -> Result<bool, ConfigError> {
        if self.keys.contains(&key) {
            return Ok(false);
        }
        self.since.push((id_of(&key), now));
        self.keys.push(key);
        self.write()?;
        Ok(true)
    }

    /// Drops a key; false when it is not there. The last one stays: a daemon does not start with a
    /// file that has none.
    pub fn drop_key(&mut self, id: KeyId) -> Result<bool, ConfigError> {
        let others = self.keys.iter().filter(|key| id_of(key) != id).count();
        if others == self.keys.len() {
            return Ok(false);
        }
        if others == 0 {
            let what = format!("{id} is the last key of {} and stays", self.wanted_by);
            let help = "add the next one first; to shut the caller out, remove its [[caller]] from \
                        the configuration";
            return Err(ConfigError::about_file(&self.path, what, help));
        }
        self.keys.retain(|key| id_of(key) != id);
        self.since.retain(|(known, _)| *known != id);
        self.write()?;
        Ok(true)
    }

    fn write(&self) -> Result<(), ConfigError> {
        // The keys last: once they are written, all is done.
        let written = self.write_since().and_then(|()| self.write_keys());
        written.map_err(|error| {
            let what = format!("it cannot be written: {error}; the keys are as before");
            ConfigError::about_file(&self.path, what, "do it as root: sudo tilld key …")
        })
    }

    fn write_keys(&self) -> io::Result<()> {
        let size = self.keys.iter().map(|key| key.len() + 1).sum();
        // The whole room at once: a buffer that grows would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(size));
        for key in &self.keys {
            text.push_str(key);
            text.push('\n');
        }
        self.replace(&self.path, text.as_bytes())
    }

    fn write_since(&self) -> io::Result<()> {
        let lines = self.since.iter().map(|(id, since)| format!("{id} {since}\n"));
        self.replace(&since_path(&self.path), lines.collect::<String>().as_bytes())
    }

    /// With the group that may read the keys: the file's, or the directory's.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let like = fs::metadata(&self.path).or_else(|_| self.directory.metadata())?;
        replace(&self.directory, path, like.gid(), bytes)
    }
}

/// Opens the directory of a file, and waits until nobody else changes the files in it.
pub(super) fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    flock(&directory, FlockOperation::LockExclusive)?;
    Ok(directory)
}

/// Puts a new file that this group may read in the place of an old one, durably.
pub(super) fn replace(directory: &File, path: &Path, group: u32, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    // Until it is complete only its owner can reach it.
    let mut file = tempfile::Builder::new().prefix(".tilld-").tempfile_in(parent)?;
    if file.as_file().metadata()?.gid() != group {
        fchown(file.as_file().as_fd(), None, Some(Gid::from_raw(group)))?;
    }
    file.as_file().set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    directory.sync_all()
}

fn since_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".since");
    path.with_file_name(name)
}

fn known_keys(keys: &[Zeroizing<String>], since: &[(KeyId, AcceptedAt)]) -> Vec<KnownKey> {
    let since_of = |id| since.iter().find(|(known, _)| *known == id).map(|(_, since)| *since);
    let ids = keys.iter().map(|key| id_of(key));
    ids.map(|id| KnownKey { id, since: since_of(id) }).collect()
}

/// By key, when it was added, as far as that was written down.
fn read_since(path: &Path) -> Vec<(KeyId, AcceptedAt)> {
    let since = fs::read_to_string(since_path(path)).unwrap_or_default();
    since.lines().filter_map(since_line).collect()
}

fn since_line(line: &str) -> Option<(KeyId, AcceptedAt)> {
    let (id, since) = line.split_once(' ')?;
    let since = DateTime::parse_from_rfc3339(since).ok()?.timestamp_millis();
    Some((KeyId::parse(id).ok()?, AcceptedAt::from_unix_ms(since).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    fn at(text: &str) -> AcceptedAt {
        AcceptedAt::new(DateTime::parse_from_rfc3339(text).unwrap().into())
    }

    #[test]
    fn keys_come_and_go_and_each_tells_since_when_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skypay.keys");
        let open = || KeyFile::open(&path, "caller A").unwrap();
        let (first, second) = (at("2026-11-22T08:00:00+08:00"), at("2026-11-23T08:00:00+08:00"));
        assert!(open().add(key("one"), first).unwrap());
        assert!(open().add(key("two"), second).unwrap());
        assert!(!open().add(key("one"), second).unwrap(), "it is there already");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let known = |text, since| KnownKey { id: id_of(text), since: Some(since) };
        assert_eq!(open().keys(), [known("one", first), known("two", second)]);
        assert!(!open().drop_key(id_of("three")).unwrap());
        assert!(open().drop_key(id_of("one")).unwrap());
        assert_eq!(open().keys(), [known("two", second)]);
        let refused = open().drop_key(id_of("two")).unwrap_err().to_string();
        assert!(refused.contains("is the last key of caller A and stays"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_key_that_was_written_by_hand_has_no_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skypay.keys");
        fs::write(&path, "by hand\r\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let keys = KeyFile::open(&path, "caller A").unwrap().keys();
        assert_eq!(keys, [KnownKey { id: id_of("by hand"), since: None }]);
    }

    #[test]
    fn a_new_file_is_for_its_owner_and_the_group_of_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skypay.keys");
        let mut file = KeyFile::open(&path, "caller A").unwrap();
        file.add(key("one"), at("2026-11-22T08:00:00+08:00")).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!(made.mode() & 0o7777, MODE);
        assert_eq!(made.gid(), fs::metadata(directory.path()).unwrap().gid());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_change_that_fails_leaves_the_keys_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skypay.keys");
        let now = at("2026-11-22T08:00:00+08:00");
        KeyFile::open(&path, "caller A").unwrap().add(key("one"), now).unwrap();
        fs::remove_file(since_path(&path)).unwrap();
        fs::create_dir(since_path(&path)).unwrap();
        let refused = KeyFile::open(&path, "caller A").unwrap().add(key("two"), now).unwrap_err();
        assert!(refused.to_string().contains("the keys are as before"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
    }
}
