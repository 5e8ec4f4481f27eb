//! Puts a backup in the database's place and completes it from what the tape has beyond it.
//!
//! The daemon must be stopped. Deletes nothing: the old database is moved aside, and so is the old
//! tape when the backup tells what it lacks. A power cut leaves the old state or the new one.

mod told;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Name, Progress, check, count, want_room};
use crate::domain::contract::Mode;
use crate::store::place::{self, NextTape, Unfinished};
use crate::store::tape::{self, Lines, What};
use crate::store::{
    OpenError, OpenErrorKind, agree, births, database_path, lock, rebuild, schema, sync_directory,
};
use crate::system::watchdog::Pulse;
use told::{BOOKS, Told, lines_in};

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
    let checked = check(&backup, 0, progress)?;
    if checked.differences_count > 0 && !(name.is_damaged && checked.is_true_copy) {
        let message = format!(
            "the backup {name} is damaged; nothing was changed:\n  {}",
            checked.differences.join("\n  ")
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    let told = Told::in_database(&schema::open_of_any_age(&backup)?.0);
    let on_tape = Told::on_tape(&tape::directory(state_dir)).map_err(inaccessible)?;
    let loss = loss(state_dir, &told, &on_tape);
    if let Some(loss) = loss.as_ref().filter(|_| !despite_loss) {
        let message = format!(
            "{loss}; nothing was changed. Start the daemon: it completes the tape from the \
             database. If that database must go, `tilld backup restore {name} --despite-loss` \
             moves it aside all the same"
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    let is_other = is_other_tape(&on_tape, &told, state_dir)?;
    check_room(&backup, state_dir, disk_reserve)?;
    let next = Unfinished::begin(state_dir, place::RESTORING).map_err(inaccessible)?;
    fs::copy(database_path(&backup), next.path())
        .map_err(|error| OpenError::inaccessible(next.path(), error))?;
    let mut database = schema::open_for_writing(next.path(), mode, &mut |_| Ok(()))?;
    let collections = count(&database)?;
    births::forget_untold(&database)?;
    let known_line = agree::last_line(&database)?;

    // All of it on a tape of its own: a power cut before the exchange leaves the old one as it was.
    let next_tape = NextTape::begin(state_dir).map_err(inaccessible)?;
    let directory = next_tape.path();
    let present = Some(&on_tape).filter(|_| !is_other);
    let tape_files = lay_tape(&tape::directory(&backup), state_dir, present, &directory)
        .map_err(inaccessible)?;
    agree::forget_lost_mark(&database, &directory)?;
    let agreed = agree::agree(&mut database, &directory, &Pulse::default());
    let (tape, report) = agreed.map_err(|error| refused(&error, name))?;
    let is_tape_lost = tape.last_line() < known_line;
    let last_line = tape.last_line().max(agree::last_line(&database)?);
    let mut damage = checked.differences;
    damage.extend(report.damage);
    damage.extend(loss);
    births::begin_epoch(&database, last_line + 1)?;
    let completed = count(&database)? - collections;
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    database.close().map_err(|(_, error)| error)?;
    sync_directory(&directory).map_err(inaccessible)?;
    if !is_other && tape_files.is_empty() {
        // What became of the tape's end there, the next start does here.
        next_tape.discard().map_err(inaccessible)?;
    }
    moved_aside.extend(place::put(state_dir, next.path()).map_err(inaccessible)?);
    Ok(Restored { collections, completed, is_tape_lost, tape_files, damage, moved_aside })
}

/// What the present database, if it can be read, has and neither backup nor tape has, in words.
fn loss(state_dir: &Path, backup: &Told, on_tape: &Told) -> Option<String> {
    let present = rebuild::present(state_dir)?;
    let told = Told::in_database(&present);
    let others = [backup, on_tape].map(|other| (other, told.parts_from(other)));
    let is_elsewhere = |line: &i64| {
        others.iter().any(|(other, parted)| {
            other.lines.has(*line) && parted.is_none_or(|parted| *line < parted)
        })
    };
    let [collections, others @ ..] = BOOKS
        .map(|table| lines_in(&present, table).into_iter().filter(|line| !is_elsewhere(line)))
        .map(Iterator::count);
    let lines = collections + others.iter().sum::<usize>();
    let last_line = backup.last_line.max(on_tape.last_line);
    let known = agree::last_line_of_books(&present).unwrap_or_default();
    if lines == 0 && known <= last_line {
        return None;
    }
    Some(format!(
        "{collections} collections and {} lines are in the present database only: it tells of \
         lines up to {known}, backup and tape end with {last_line}",
        usize::try_from(known - last_line).unwrap_or_default().max(lines),
    ))
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

/// Whether the tape is another one than that from which the backup was made, or parts from it: a
/// machine that was set up anew has begun one of its own. When it tells of nothing it is moved
/// aside; else a person must decide.
fn is_other_tape(on_tape: &Told, backup: &Told, state_dir: &Path) -> Result<bool, OpenError> {
    let Some(parted) = on_tape.parts_from(backup) else { return Ok(false) };
    let directory = tape::directory(state_dir);
    let inaccessible = |error| OpenError::inaccessible(&directory, error);
    if tells_of_more(&directory, parted, backup).map_err(inaccessible)? {
        let message = format!(
            "the tape in {} is not the one that this backup belongs to (from line {parted} on), \
             and tells of collections of its own; nothing was changed. Restore into another \
             state_dir, or move the directory away yourself and keep it",
            directory.display()
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    Ok(true)
}

/// Whether a tape that parts from a backup in this line tells more than the backup, but that
/// databases were made.
fn tells_of_more(directory: &Path, parted: i64, backup: &Told) -> io::Result<bool> {
    for name in tape::files(directory)? {
        for scanned in Lines::open(directory, &name, 0)? {
            let Some(line) = scanned?.line else { return Ok(true) };
            let is_ours = line.number < parted && backup.lines.has(line.number);
            if !is_ours && line.what != What::Store {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Wants room for the copy and for the tape's files that may come with it, beside the daemon's
/// reserve: out of that comes what is then completed from the tape.
fn check_room(backup: &Path, state_dir: &Path, disk_reserve: u64) -> Result<(), OpenError> {
    let bytes = || {
        let [ours, theirs] = [backup, state_dir].map(tape::directory);
        let mut bytes = fs::metadata(database_path(backup))?.len();
        for name in tape::files(&ours)? {
            let length = fs::metadata(ours.join(&name))?.len();
            let is_there = fs::metadata(theirs.join(name)).is_ok_and(|file| file.len() == length);
            bytes += if is_there { 0 } else { length };
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

/// Lays out a tape of the present one, unless that is another one, and of the backup's closed files
/// that tell what it lacks. Gives their names.
fn lay_tape(
    backup_tape: &Path,
    state_dir: &Path,
    present: Option<&Told>,
    next: &Path,
) -> io::Result<Vec<String>> {
    let directory = tape::directory(state_dir);
    let names = if present.is_some() { tape::files(&directory)? } else { Vec::new() };
    let is_filled = |name: &String| fs::metadata(directory.join(name)).is_ok_and(|f| f.len() > 0);
    let last = names.iter().rposition(is_filled).unwrap_or_default();
    for (number, name) in names.iter().enumerate() {
        // The last is written to, and its end may be set aside.
        if number >= last || fs::hard_link(directory.join(name), next.join(name)).is_err() {
            copy(&directory, name, next)?;
        }
    }
    let mut taken = Vec::new();
    for name in tape::files(backup_tape)? {
        if tells_more(backup_tape, next, &name, present)? {
            match fs::remove_file(next.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => copy(backup_tape, &name, next)?,
            }
            taken.push(name);
        }
    }
    Ok(taken)
}

fn copy(from: &Path, name: &str, to: &Path) -> io::Result<()> {
    fs::copy(from.join(name), to.join(name))?;
    File::open(to.join(name))?.sync_all()
}

/// Whether a backup's file tells all that the tape's file of this name tells, if there is one, and
/// beyond it only what stands nowhere on the tape. One that was lost and written anew from the
/// database tells the same in other files.
fn tells_more(
    backup_tape: &Path,
    directory: &Path,
    name: &str,
    present: Option<&Told>,
) -> io::Result<bool> {
    let mut theirs = HashSet::new();
    if directory.join(name).exists() {
        for scanned in Lines::open(directory, name, 0)? {
            let Ok(scanned) = scanned else { break };
            theirs.extend(scanned.line.map(|_| scanned.digest.0));
        }
    }
    let mut has_more = false;
    for scanned in Lines::open(backup_tape, name, 0)? {
        let scanned = scanned?;
        let Some(line) = scanned.line else { continue };
        if !theirs.remove(&scanned.digest.0) {
            if present.is_some_and(|present| present.lines.has(line.number)) {
                return Ok(false);
            }
            has_more = true;
        }
    }
    Ok(has_more && theirs.is_empty())
}
