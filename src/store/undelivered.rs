//! `state_dir/undelivered`: how many collections head office has not got, for whoever thinks of
//! deleting them.
//!
//! A decimal number and a line feed, written when the daemon has ended and the witnesses agree to
//! their last line. It is removed, durably, whenever somebody takes the state directory, so that it
//! is never older than what it counts. A missing file means: something may be undelivered. The
//! number is never one that could not be counted whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::{
    OpenError, OpenErrorKind, agree, collections, database_path, lock, place, schema,
    sync_directory, tape,
};
use crate::system::clock;

const FILE: &str = "undelivered";

/// A daemon that ends counts no longer than this: tills may wait for the next one. A removal of the
/// package counts anew, for as long as it takes.
const END_TIME_MAX: Duration = Duration::from_millis(500);

/// SQLite's instructions between two looks at the clock.
const LOOK_INTERVAL: i32 = 100_000;

/// Not delivered, or to be sent again, whatever the outbox says. What head office called paid
/// otherwise is here and nowhere else.
const COUNT: &str = "
    SELECT count(*) FROM collection
    WHERE EXISTS (SELECT 1 FROM outbox WHERE outbox.sequence = collection.sequence)
       OR coalesce((SELECT fate FROM delivery WHERE delivery.sequence = collection.sequence
                    ORDER BY line DESC LIMIT 1), '') <> 'delivered'";

/// Leaves the number when the daemon has ended. That it cannot be told stops nobody.
pub fn leave(state_dir: &Path) {
    match count_within(state_dir, Some(END_TIME_MAX)) {
        Ok(number) => log::info!("{number} of the collections here are nowhere else"),
        Err(error) => log::warn!("it is not counted what head office has not got: {error}"),
    }
}

/// Counts what head office has not got, leaves the number, and gives it. The daemon must be
/// stopped.
pub fn count(state_dir: &Path) -> Result<i64, OpenError> {
    count_within(state_dir, None)
}

fn count_within(state_dir: &Path, at_most: Option<Duration>) -> Result<i64, OpenError> {
    let inaccessible = |error| OpenError::inaccessible(state_dir, error);
    // Before the lock, whose file would be left behind where no daemon ever was.
    fs::metadata(database_path(state_dir)).map_err(inaccessible)?;
    let _lock = lock::take(state_dir)?;
    let mut connection = schema::open_for_reading(state_dir)?;
    if let Some(at_most) = at_most {
        let deadline = clock::monotonic() + at_most;
        let is_over = move || clock::monotonic() > deadline;
        connection.progress_handler(LOOK_INTERVAL, Some(is_over))?;
    }
    let number = count_all(&connection, state_dir)?;
    write(state_dir, number).map_err(inaccessible)?;
    Ok(number)
}

/// Removes the number.
pub fn forget(state_dir: &Path) -> io::Result<()> {
    match fs::remove_file(state_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(state_dir),
    }
}

fn count_all(connection: &Connection, state_dir: &Path) -> Result<i64, OpenError> {
    let directory = tape::directory(state_dir);
    let aside = set_aside(state_dir, &directory);
    if let Some(aside) = aside.map_err(|error| OpenError::inaccessible(state_dir, error))? {
        let message = format!(
            "{} was set aside and may tell of collections that nothing else here has, so not \
             everything can be counted: look into it, and when nothing in it is missing here, move \
             it to another disk",
            aside.display()
        );
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    let agrees = agree::ends_at_mark(connection, &directory);
    let all: i64 = connection.query_row("SELECT count(*) FROM collection", [], |row| row.get(0))?;
    // Numbered without gaps: fewer rows than the last number mean that some cannot be seen.
    let is_whole = all == collections::last_sequence(connection)?;
    if !agrees.map_err(|error| OpenError::of_agreement(state_dir, error))? || !is_whole {
        let message = "database and tape do not agree to their last line, so not everything can be \
                       counted: start the daemon once and stop it, or see `tilld verify`";
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    Ok(connection.query_row(COUNT, [], |row| row.get(0))?)
}

/// The first of what was set aside: an old database, an old tape, or a torn end of this one.
fn set_aside(state_dir: &Path, tape_directory: &Path) -> io::Result<Option<PathBuf>> {
    for directory in [state_dir, tape_directory] {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.contains(place::ASIDE) || name.contains(tape::TORN) {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

fn write(state_dir: &Path, number: i64) -> io::Result<()> {
    let new = state_dir.join(format!("{FILE}.new"));
    let mut file = File::create(&new)?;
    writeln!(file, "{number}")?;
    file.sync_all()?;
    fs::rename(new, state_dir.join(FILE))?;
    sync_directory(state_dir)
}
