//! A new database from the tape alone, put in place of the old one, which is moved aside.
//!
//! The daemon must be stopped: whoever calls holds the state directory's lock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::place::{self, Unfinished};
use super::record;
use super::relays::{self, Heard};
use super::takings::Days;
use super::tape::{self, Line, Lines, Place, What};
use super::verify::verify_with;
use super::writer::is_of_one_row;
use super::{
    OpenError, OpenErrorKind, acts, agree, births, database_path, deliveries, lock, refusals,
    schema, transaction,
};
use crate::domain::contract::Mode;
use crate::domain::provenance::Digest;
use crate::system::watchdog::Pulse;

/// Lines in one transaction.
const BATCH_LINES: usize = 10_000;

/// What was rebuilt.
#[derive(Debug)]
pub struct Rebuilt {
    /// Collections in the new database.
    pub collections: i64,
    /// What of the tape could not be used, in words.
    pub damage: Vec<String>,
    /// Where the old files lie now.
    pub moved_aside: Vec<PathBuf>,
}

/// Rebuilds the database of a state directory. A damaged tape is refused, because what its bad
/// lines told would be missing, unless `despite_damage`.
pub fn rebuild(state_dir: &Path, mode: Mode, despite_damage: bool) -> Result<Rebuilt, OpenError> {
    let _lock = lock::take(state_dir)?;
    let mut moved_aside =
        place::finish(state_dir).map_err(|error| OpenError::inaccessible(state_dir, error))?;
    let mut rebuilt = rebuild_locked(state_dir, mode, despite_damage)?;
    moved_aside.append(&mut rebuilt.moved_aside);
    Ok(Rebuilt { moved_aside, ..rebuilt })
}

/// As [`rebuild`], for a caller that holds the lock.
pub fn rebuild_locked(
    state_dir: &Path,
    mode: Mode,
    despite_damage: bool,
) -> Result<Rebuilt, OpenError> {
    let inaccessible = |error| OpenError::inaccessible(state_dir, error);
    let new = Unfinished::begin(state_dir, place::REBUILDING).map_err(inaccessible)?;
    let directory = tape::directory(state_dir);
    let (connection, last_line, mut damage) = fill(new.path(), &directory, mode)?;
    damage.extend(ends_early(state_dir, last_line));
    if !damage.is_empty() && !despite_damage {
        let message = format!(
            "the tape is damaged, so a database made from it would lack what its bad lines told:\
             \n  {}\n`tilld rebuild --despite-damage` makes it all the same",
            damage.join("\n  ")
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    let collections =
        connection.query_row("SELECT count(*) FROM collection", [], |row| row.get(0))?;
    if damage.is_empty() {
        let verified = verify_with(&connection, &directory, Days::default(), None, &mut |_, _| {})?;
        if !verified.is_ok() {
            let message = format!(
                "the new database does not fit the tape:\n  {}",
                verified.differences.join("\n  ")
            );
            return Err(OpenError::new(OpenErrorKind::Damaged, message));
        }
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    let moved_aside = place::put(state_dir, new.path()).map_err(inaccessible)?;
    Ok(Rebuilt { collections, damage, moved_aside })
}

/// Whether a database is gone, or empty, whose tape is still there.
pub fn is_lost(state_dir: &Path) -> io::Result<bool> {
    match fs::metadata(database_path(state_dir)) {
        Ok(database) if database.len() > 0 => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = tape::directory(state_dir);
    for name in tape::files(&directory)? {
        if fs::metadata(directory.join(name))?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The present database, if it can be read.
pub fn present(state_dir: &Path) -> Option<Connection> {
    // SQLite would delete the WAL beside an empty database.
    fs::metadata(database_path(state_dir)).ok().filter(|old| old.len() > 0)?;
    schema::open_for_reading(state_dir).ok()
}

/// What speaks against a tape that is good in itself: the old database, if it can be read, tells
/// of later lines.
fn ends_early(state_dir: &Path, last_line: i64) -> Option<String> {
    let old = present(state_dir)?;
    let known = agree::last_line_of_books(&old).ok().filter(|known| *known > last_line)?;
    Some(format!("the old database tells of lines up to {known}, the tape ends with {last_line}"))
}

/// Reads the whole tape into a new database. Gives its last line and what could not be used.
fn fill(
    path: &Path,
    directory: &Path,
    mode: Mode,
) -> Result<(Connection, i64, Vec<String>), OpenError> {
    let unreadable = |error| OpenError::inaccessible(directory, error);
    let mut damage = Vec::new();
    let mut connection = schema::open_for_writing(path, mode, &mut |_| Ok(()))?;
    births::forget(&connection)?;
    let mut batch = Vec::with_capacity(BATCH_LINES);
    let mut end = (0, Place { file: String::new(), start: 0, end: 0 }, Digest([0; 32]));
    let mut previous = end.2;
    // Bad lines at the end: their numbers are not given again.
    let mut bad = 0;
    for name in tape::files(directory).map_err(unreadable)? {
        for scanned in Lines::open(directory, &name, 0).map_err(unreadable)? {
            let scanned = match scanned {
                Ok(scanned) => scanned,
                Err(error) => {
                    damage.push(format!("{name} cannot be read to its end: {error}"));
                    break;
                }
            };
            let Some(line) = scanned.line else {
                // A torn end counts as well: that it was never acknowledged is likely, not certain,
                // and there is no database to ask.
                damage.push(format!("{name}: at byte {} stands no good line", scanned.place.start));
                previous = scanned.digest;
                bad += i64::from(scanned.is_whole);
                continue;
            };
            bad = 0;
            if line.number != end.0 + 1 || line.previous != previous {
                damage.push(format!("{name}: line {} does not follow line {}", line.number, end.0));
            }
            previous = scanned.digest;
            end = (line.number.max(end.0), scanned.place, scanned.digest);
            batch.push(line);
            if batch.len() == BATCH_LINES {
                write(&mut connection, mode, &mut batch, &mut damage)?;
            }
        }
    }
    write(&mut connection, mode, &mut batch, &mut damage)?;
    if end.0 == 0 {
        let message = format!("there is no tape in {} to rebuild from", directory.display());
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    // Its last lines may stand in the page cache alone: a process whose sync fails ends, and what
    // the mark vouches for is not looked at again.
    tape::write_over(directory, &end.1.file, 0..end.1.end, &Pulse::default())
        .map_err(unreadable)?;
    births::begin_epoch(&connection, end.0 + bad + 1)?;
    agree::set_mark(&connection, (end.0, &end.1, end.2))?;
    Ok((connection, end.0, damage))
}

fn write(
    connection: &mut Connection,
    mode: Mode,
    batch: &mut Vec<Line>,
    damage: &mut Vec<String>,
) -> Result<(), OpenError> {
    let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for line in batch.drain(..) {
        let written = match line.what {
            What::Store => write_birth(&step, &line, mode)?,
            What::Collection => write_collection(&step, &line, mode),
            What::Refusal => write_refusal(&step, &line),
            What::Delivery => write_delivery(&step, &line),
            What::Act => write_act(&step, &line),
        };
        if let Err(error) = written {
            let error: Box<dyn std::error::Error> = match error.downcast::<rusqlite::Error>() {
                // A full disk says nothing about the line.
                Ok(error) if !is_of_one_row(&error) => return Err((*error).into()),
                Ok(error) => error,
                Err(error) => error,
            };
            damage.push(format!("line {} cannot be taken over: {error}", line.number));
        }
    }
    step.commit()?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    Ok(())
}

/// A tape of real money makes no sandbox, nor the other way round.
fn write_birth(
    step: &Connection,
    line: &Line,
    mode: Mode,
) -> Result<Result<(), Box<dyn std::error::Error>>, OpenError> {
    match record::birth(&line.record) {
        Ok(birth) if birth.mode != mode.as_str() => {
            let message = format!(
                "the tape tells of {} collections and the configuration says mode = \"{}\"",
                birth.mode,
                mode.as_str()
            );
            Err(OpenError::new(OpenErrorKind::Mismatch, message))
        }
        Ok(birth) => Ok(births::insert(step, &birth, line.number).map_err(Into::into)),
        Err(invalid) => Ok(Err(invalid.into())),
    }
}

fn write_collection(
    step: &Connection,
    line: &Line,
    mode: Mode,
) -> Result<(), Box<dyn std::error::Error>> {
    let entry = record::entry(&line.record)?;
    transaction::insert_entry(step, mode, &entry, &line.record, line.number)?;
    let new = Some((entry.confirmation.collection.amount, entry.confirmation.flags));
    relays::note(step, Heard::of(&entry.provenance, new).as_slice(), entry.accepted_at)?;
    Ok(())
}

fn write_refusal(step: &Connection, line: &Line) -> Result<(), Box<dyn std::error::Error>> {
    Ok(refusals::insert(step, &record::refusal(&line.record)?, line.number)?)
}

fn write_delivery(step: &Connection, line: &Line) -> Result<(), Box<dyn std::error::Error>> {
    Ok(deliveries::decide(step, &record::delivery(&line.record)?, line.number)?)
}

fn write_act(step: &Connection, line: &Line) -> Result<(), Box<dyn std::error::Error>> {
    Ok(acts::carry_out(step, &record::act(&line.record)?, line.number)?)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::model_tests::stopped_after;

    #[test]
    fn what_the_mark_vouches_for_is_written_to_the_disk_and_not_only_read_from_memory() {
        let directory = stopped_after(5);
        let state_dir = directory.path();
        let tape_directory = tape::directory(state_dir);
        let path = tape_directory.join(&tape::files(&tape_directory).unwrap()[0]);
        let (tape, long_ago) = (fs::read(&path).unwrap(), SystemTime::UNIX_EPOCH);
        fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        rebuild(state_dir, Mode::Live, false).unwrap();
        assert!(
            fs::metadata(&path).unwrap().modified().unwrap() > long_ago,
            "its lines may be in memory alone"
        );
        assert_eq!(fs::read(&path).unwrap(), tape);
    }

    #[test]
    fn a_full_disk_is_no_damage_of_the_tape() {
        let directory = stopped_after(50);
        let state_dir = directory.path();
        let tape_directory = tape::directory(state_dir);
        let name = &tape::files(&tape_directory).unwrap()[0];
        let lines = Lines::open(&tape_directory, name, 0).unwrap();
        let mut lines: Vec<Line> = lines.filter_map(|scanned| scanned.unwrap().line).collect();
        let path = state_dir.join("new.db");
        let mut connection = schema::open_for_writing(&path, Mode::Live, &mut |_| Ok(())).unwrap();
        births::forget(&connection).unwrap();
        // The only page that is left fills up in the middle of the batch.
        let pages: i64 = connection.query_one("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        connection.pragma_update(None, "max_page_count", pages + 1).unwrap();
        let mut damage = Vec::new();
        let refused = write(&mut connection, Mode::Live, &mut lines, &mut damage).unwrap_err();
        assert!(refused.to_string().contains("full"), "{refused}");
        assert_eq!(damage, [""; 0]);
    }
}
