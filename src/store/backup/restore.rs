//! Puts a backup in the database's place and completes it from what the tape has beyond it.
//!
//! The daemon must be stopped. Deletes nothing: the old database is moved aside, and the tape that
//! is there stays and gets only the files that it lacks.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{Name, Progress, check, count, want_room};
use crate::domain::contract::Mode;
use crate::domain::time::AcceptedAt;
use crate::store::place::{self, Unfinished};
use crate::store::record;
use crate::store::tape::{self, Line, Lines, What};
use crate::store::{
    OpenError, OpenErrorKind, agree, database_path, lock, rebuild, schema, sync_directory,
};
use crate::system::clock;
use crate::system::watchdog::Pulse;

/// What was done.
#[derive(Debug)]
pub struct Restored {
    /// Collections in the backup.
    pub collections: i64,
    /// Collections that the tape had beyond it.
    pub completed: i64,
    /// Whether the tape ends before the backup does, so that nothing can be completed from it.
    pub is_tape_lost: bool,
    /// Files of the tape that came from the backup.
    pub tape_files: Vec<String>,
    /// What cannot be mended here, in words.
    pub damage: Vec<String>,
    /// Where the old files lie now.
    pub moved_aside: Vec<PathBuf>,
}

/// Restores a backup into a state directory whose daemon is stopped. A database that has what
/// neither backup nor tape has is left in its place, unless `despite_loss`.
pub fn restore(
    state_dir: &Path,
    mode: Mode,
    (directory, name): (&Path, Name),
    despite_loss: bool,
    disk_reserve: u64,
    progress: Progress<'_>,
) -> Result<Restored, OpenError> {
    let inaccessible = |error| OpenError::inaccessible(state_dir, error);
    let _lock = lock::take(state_dir)?;
    let mut moved_aside = place::finish(state_dir).map_err(inaccessible)?;
    let backup = directory.join(name.to_string());
    let checked = check(&backup, progress)?;
    if checked.differences_count > 0 && !(name.is_damaged && checked.is_true_copy) {
        let message = format!(
            "the backup {name} is damaged; nothing was changed:\n  {}",
            checked.differences.join("\n  ")
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    let loss = loss(state_dir, &backup)?;
    if let Some(loss) = loss.as_ref().filter(|_| !despite_loss) {
        let message = format!(
            "{loss}; nothing was changed. Start the daemon: it completes the tape from the \
             database. If that database must go, `tilld backup restore {name} --despite-loss` \
             moves it aside all the same"
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    check_room(&backup, state_dir, disk_reserve)?;
    let next = Unfinished::begin(state_dir, place::RESTORING).map_err(inaccessible)?;
    fs::copy(database_path(&backup), next.path())
        .map_err(|error| OpenError::inaccessible(next.path(), error))?;
    let mut database = schema::open_for_writing(next.path(), mode, &mut |_| Ok(()))?;
    let collections = count(&database)?;

    let backup_tape = tape::directory(&backup);
    moved_aside.extend(move_other_tape(state_dir, &database, &backup_tape)?);
    let tape_files = complete_tape(&backup_tape, state_dir).map_err(inaccessible)?;
    let tape_directory = tape::directory(state_dir);
    agree::forget_lost_mark(&database, &tape_directory)?;
    let known_line = agree::last_line(&database)?;
    let agreed = agree::agree(&mut database, &tape_directory, &Pulse::default());
    let (tape, report) = agreed.map_err(|error| refused(&error, name))?;
    let is_tape_lost = tape.last_line() < known_line;
    let last_line = tape.last_line().max(agree::last_line(&database)?);
    let mut damage = checked.differences;
    damage.extend(report.damage);
    damage.extend(loss);
    schema::begin_epoch(&database, last_line + 1)?;
    let completed = count(&database)? - collections;
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    database.close().map_err(|(_, error)| error)?;
    moved_aside.extend(place::put(state_dir, next.path()).map_err(inaccessible)?);
    Ok(Restored { collections, completed, is_tape_lost, tape_files, damage, moved_aside })
}

/// What the present database, if it can be read, has and neither backup nor tape has, in words.
fn loss(state_dir: &Path, backup: &Path) -> Result<Option<String>, OpenError> {
    let Some(present) = rebuild::present(state_dir) else { return Ok(None) };
    let (backup, _) = schema::open_of_any_age(backup)?;
    let mut last_line = agree::last_line(&backup)?;
    let mut lines = lines_without_row(&present, &backup)?;
    let directory = tape::directory(state_dir);
    let unreadable = |error| OpenError::inaccessible(&directory, error);
    for name in tape::files(&directory).map_err(unreadable)? {
        for scanned in Lines::open(&directory, &name, 0).map_err(unreadable)? {
            if let Some(line) = scanned.map_err(unreadable)?.line {
                lines.remove(&line.number);
                last_line = last_line.max(line.number);
            }
        }
    }
    let known = agree::last_line(&present).unwrap_or_default();
    if lines.is_empty() && known <= last_line {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} collections and {} lines are in the present database only: it tells of lines up to \
         {known}, backup and tape end with {last_line}",
        lines.len(),
        usize::try_from(known - last_line).unwrap_or_default().max(lines.len()),
    )))
}

/// The lines of the collections that only the present database has, as far as it can be read.
fn lines_without_row(present: &Connection, backup: &Connection) -> rusqlite::Result<HashSet<i64>> {
    let mut lines = HashSet::new();
    let mut is_there =
        backup.prepare("SELECT EXISTS (SELECT 1 FROM collection WHERE sequence = ?1)")?;
    let Ok(mut collections) = present.prepare("SELECT sequence, line FROM collection") else {
        return Ok(lines);
    };
    let mut rows = collections.query([])?;
    while let Ok(Some(row)) = rows.next() {
        let (Ok(sequence), Ok(line)) = (row.get::<_, i64>(0), row.get(1)) else { continue };
        if !is_there.query_row([sequence], |row| row.get(0))? {
            lines.insert(line);
        }
    }
    Ok(lines)
}

fn refused(error: &agree::AgreeError, name: Name) -> OpenError {
    let kind = match error {
        agree::AgreeError::Damaged(_) => OpenErrorKind::Damaged,
        _ => OpenErrorKind::Inaccessible,
    };
    let message = format!(
        "the tape cannot be laid over the backup {name}: {error}; the database is what it was, and \
         if the tape is whole, `tilld rebuild` makes a new one from it alone"
    );
    OpenError::new(kind, message)
}

/// A machine that was set up anew has begun a tape of its own, which does not go on from the
/// backup. It is moved aside when it tells of nothing; else a person must decide.
fn move_other_tape(
    state_dir: &Path,
    database: &Connection,
    backup_tape: &Path,
) -> Result<Option<PathBuf>, OpenError> {
    let directory = tape::directory(state_dir);
    let inaccessible = |error| OpenError::inaccessible(&directory, error);
    let Some(present) = first_line(&directory).map_err(inaccessible)? else { return Ok(None) };
    // The first line tells of the first database, whose epoch no other tape has.
    let (birth, birth_line) = agree::birth(database)?;
    let ours = if let Some(first) = first_line(backup_tape).map_err(inaccessible)? {
        first.record
    } else if birth_line == present.number {
        record::of_birth(&birth)
    } else {
        return Ok(None);
    };
    if ours == present.record {
        return Ok(None);
    }
    if tells_of_something(&directory).map_err(inaccessible)? {
        let message = format!(
            "the tape in {} is not the one that this backup belongs to, and tells of collections \
             of its own; nothing was changed. Restore into another state_dir, or move the \
             directory away yourself and keep it",
            directory.display()
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    let stamp = AcceptedAt::new(clock::now()).unix_ms().unsigned_abs();
    let aside = place::free_name(state_dir, "tape", stamp.into());
    fs::rename(&directory, &aside).map_err(inaccessible)?;
    sync_directory(state_dir).map_err(inaccessible)?;
    Ok(Some(aside))
}

/// The line with the number 1, when it is there and good.
fn first_line(directory: &Path) -> io::Result<Option<Line>> {
    let Some(first) = tape::files(directory)?.into_iter().next() else { return Ok(None) };
    let scanned = Lines::open(directory, &first, 0)?.next().transpose()?;
    Ok(scanned.and_then(|scanned| scanned.line).filter(|line| line.number == 1))
}

/// Whether anything stands on a tape but that databases were made.
fn tells_of_something(directory: &Path) -> io::Result<bool> {
    for name in tape::files(directory)? {
        for scanned in Lines::open(directory, &name, 0)? {
            if !scanned?.line.is_some_and(|line| line.what == What::Store) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Wants room for the copy and for the tape's files that come with it, beside the daemon's reserve:
/// out of that comes what is then completed from the tape.
fn check_room(backup: &Path, state_dir: &Path, disk_reserve: u64) -> Result<(), OpenError> {
    let bytes = || {
        let backup_tape = tape::directory(backup);
        let mut bytes = fs::metadata(database_path(backup))?.len();
        for name in missing(&backup_tape, &tape::directory(state_dir))? {
            bytes += fs::metadata(backup_tape.join(name))?.len();
        }
        io::Result::Ok(bytes)
    };
    let bytes = bytes().map_err(|error| OpenError::inaccessible(backup, error))?;
    want_room(
        state_dir,
        bytes.saturating_add(disk_reserve),
        "nothing was restored and nothing changed",
        "(the backup's database, its files that the tape lacks, and disk_reserve); make room",
    )
}

/// The backup's files that the tape lacks.
fn missing(backup_tape: &Path, directory: &Path) -> io::Result<Vec<String>> {
    let mut names = tape::files(backup_tape)?;
    names.retain(|name| !directory.join(name).exists());
    Ok(names)
}

/// Copies the closed files that the tape lacks; those that are there stay as they are.
fn complete_tape(backup_tape: &Path, state_dir: &Path) -> io::Result<Vec<String>> {
    let directory = tape::directory(state_dir);
    if !directory.is_dir() {
        DirBuilder::new().mode(0o750).create(&directory)?;
        sync_directory(state_dir)?;
    }
    let names = missing(backup_tape, &directory)?;
    for name in &names {
        let new = directory.join(format!("{name}.new"));
        let copied = fs::copy(backup_tape.join(name), &new).and_then(|_| File::open(&new));
        if let Err(error) = copied.and_then(|file| file.sync_all()) {
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        fs::rename(new, directory.join(name))?;
    }
    sync_directory(&directory)?;
    Ok(names)
}
