//! Puts a new database, and with it a new tape if there is one, in the place of the old one, which
//! is moved aside and never deleted.
//!
//! A power cut at any moment leaves one of the two: the new one waits under a name of its own, by
//! which every later start finds it and goes on. The caller holds the state directory's lock.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{database_path, sync_directory, tape};

/// A whole database that is to take the place of `tilld.db`.
const NEXT: &str = "tilld.db.next";

/// A tape that is to take the place of `tape` together with it; without it, it is nothing.
const NEXT_TAPE: &str = "tape.next";

/// What is being made from the tape to take that place.
pub const REBUILDING: &str = "tilld.db.rebuilding";

/// The same, from a backup.
pub const RESTORING: &str = "tilld.db.restoring";

/// In the name of whatever is moved aside, behind what it was called.
pub const ASIDE: &str = ".before-";

/// A database that is being made: it is removed when it is not [`put`] in place, because it may
/// fill the disk.
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Begins a new one, without what an earlier one left.
    pub fn begin(state_dir: &Path, name: &str) -> io::Result<Unfinished> {
        let path = state_dir.join(name);
        remove(&path)?;
        Ok(Unfinished(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What cannot be removed now, the next start removes.
        let _ = remove(&self.0);
    }
}

/// Removes what was being made when its maker was killed.
pub fn remove_unfinished(state_dir: &Path) -> io::Result<()> {
    [REBUILDING, RESTORING].iter().try_for_each(|name| remove(&state_dir.join(name)))
}

/// Puts the closed database `new`, whose WAL is empty, in place. Gives where the old files lie now.
pub fn put(state_dir: &Path, new: &Path) -> io::Result<Vec<PathBuf>> {
    File::open(new)?.sync_all()?;
    fs::rename(new, state_dir.join(NEXT))?;
    // From here on there is no way back.
    sync_directory(state_dir)?;
    remove(new)?;
    finish(state_dir)
}

/// A tape that is being made: [`put`] puts it in place with its database. It is removed when it is
/// dropped before.
pub struct NextTape(PathBuf);

impl NextTape {
    /// Begins an empty one. The present one must be a directory that can be renamed.
    pub fn begin(state_dir: &Path) -> io::Result<NextTape> {
        let present = fs::symlink_metadata(tape::directory(state_dir));
        let disk = fs::metadata(state_dir)?.dev();
        if present.is_ok_and(|present| !present.is_dir() || present.dev() != disk) {
            let message = "its tape is a link or lies on another disk: put it back as a directory";
            return Err(io::Error::other(message));
        }
        let next = NextTape(state_dir.to_owned());
        remove_tape(&next.path())?;
        DirBuilder::new().mode(0o750).create(next.path())?;
        Ok(next)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.join(NEXT_TAPE)
    }

    /// Removes it.
    pub fn discard(&self) -> io::Result<()> {
        remove_tape(&self.path())
    }
}

impl Drop for NextTape {
    fn drop(&mut self) {
        // Once its database waits beside it there is no way back.
        if !self.0.join(NEXT).exists() {
            let _ = self.discard();
        }
    }
}

fn remove_tape(tape: &Path) -> io::Result<()> {
    match fs::remove_dir_all(tape) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Goes on with what a power cut interrupted, if anything.
pub fn finish(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let (next, next_tape) = (state_dir.join(NEXT), state_dir.join(NEXT_TAPE));
    let mut moved_aside = Vec::new();
    if !next.exists() {
        remove_tape(&next_tape)?;
        return Ok(moved_aside);
    }
    // The new file's own time, so that what is moved aside in two goes bears one mark.
    let made = fs::metadata(&next)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    // The WAL first, and the journal of a first start that was cut off: beside a database that is
    // not its own either would be played into it.
    for name in ["tilld.db-wal", "tilld.db-shm", "tilld.db-journal", "tilld.db"] {
        let old = state_dir.join(name);
        if old.exists() {
            let aside = free_name(state_dir, name, made.as_millis());
            fs::rename(&old, &aside)?;
            moved_aside.push(aside);
        }
    }
    let tape = tape::directory(state_dir);
    if next_tape.exists() {
        if tape.exists() {
            let aside = free_name(state_dir, "tape", made.as_millis());
            fs::rename(&tape, &aside)?;
            moved_aside.push(aside);
        }
        fs::rename(next_tape, tape)?;
    }
    sync_directory(state_dir)?;
    fs::rename(next, database_path(state_dir))?;
    sync_directory(state_dir)?;
    Ok(moved_aside)
}

/// Where something of this name can be moved aside without taking the place of anything.
pub fn free_name(directory: &Path, name: &str, stamp: u128) -> PathBuf {
    let mut aside = directory.join(format!("{name}{ASIDE}{stamp}"));
    let mut number = 1;
    while aside.exists() {
        number += 1;
        aside = directory.join(format!("{name}{ASIDE}{stamp}-{number}"));
    }
    aside
}

/// Removes a database that nobody needs, with what SQLite keeps beside it.
pub fn remove(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn an_exchange_that_was_cut_off_anywhere_is_finished_and_loses_no_old_file() {
        // A tape is a directory; here a file does as well.
        let olds = ["tilld.db-wal", "tilld.db-shm", "tilld.db-journal", "tilld.db", "tape"];
        for moved in 0..=olds.len() {
            let state_dir = TempDir::new().unwrap();
            let state_dir = state_dir.path();
            for next in [NEXT, NEXT_TAPE] {
                fs::write(state_dir.join(next), "new").unwrap();
            }
            for old in &olds[moved..] {
                fs::write(state_dir.join(old), old).unwrap();
            }
            let aside = finish(state_dir).unwrap();
            assert_eq!(aside.len(), olds.len() - moved);
            for (aside, old) in aside.iter().zip(&olds[moved..]) {
                assert_eq!(fs::read_to_string(aside).unwrap(), *old);
            }
            for new in ["tilld.db", "tape"] {
                assert_eq!(fs::read_to_string(state_dir.join(new)).unwrap(), "new");
            }
            assert_eq!(finish(state_dir).unwrap(), Vec::<PathBuf>::new());
        }
    }

    #[test]
    fn a_tape_without_its_database_takes_no_place() {
        let state_dir = TempDir::new().unwrap();
        let state_dir = state_dir.path();
        let half = NextTape::begin(state_dir).unwrap();
        fs::write(half.path().join("000001-2026-11-22.jsonl"), "half").unwrap();
        // As when the power is cut.
        std::mem::forget(half);
        assert_eq!(finish(state_dir).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(state_dir).unwrap().count(), 0);
        drop(NextTape::begin(state_dir).unwrap());
        assert_eq!(fs::read_dir(state_dir).unwrap().count(), 0);
    }
}
