//! The births of this database: it was made new, rebuilt from the tape, or restored from a backup.
//!
//! Each gives it another epoch, in which its next collections are others than those that bore the
//! same numbers before, and stands on the tape and in a row of the same number.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::record::Birth;
use super::{OpenError, OpenErrorKind, agree};
use crate::domain::time::AcceptedAt;
use crate::system::{clock, entropy};

/// Makes another database of this one, whose birth the tape's line of this number is to tell.
///
/// Head office knows nothing yet of the new epoch. That it once had everything makes what it says
/// of it next a fall, so that what it lacks under the new numbers is queued again.
pub fn begin_epoch(connection: &Connection, line: i64) -> Result<(), OpenError> {
    let epoch = entropy::bytes::<4>()
        .map_err(|error| OpenError::new(OpenErrorKind::Inaccessible, error.to_string()))?;
    let birth = Birth {
        mode: agree::mode(connection)?.as_str().to_owned(),
        epoch: format!("{:08x}", u32::from_be_bytes(epoch)),
        at_ms: AcceptedAt::new(clock::now()).unix_ms(),
    };
    insert(connection, &birth, line)?;
    connection.execute(
        "UPDATE store SET
             have = (SELECT coalesce(max(sequence), 0) FROM collection),
             held = (SELECT count(*) FROM collection)",
        [],
    )?;
    Ok(())
}

/// Writes down a birth that the tape's line of this number tells, or is to tell.
pub fn insert(connection: &Connection, birth: &Birth, line: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO birth (line, epoch, at) VALUES (?1, ?2, ?3)";
    connection.execute(sql, (line, &birth.epoch, birth.at_ms)).map(drop)
}

/// Forgets that this database was made, before it takes over from the tape how it was.
pub fn forget(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM birth", []).map(drop)
}

/// Forgets those that the tape need not tell of yet: another one may get their numbers.
pub fn forget_untold(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM birth WHERE line > ?1", [last_told(connection)?]).map(drop)
}

/// The last line that a tape is known to tell, of a birth or of anything else.
pub fn last_told(connection: &Connection) -> rusqlite::Result<i64> {
    Ok(agree::last_line_of_books(connection)?.max(agree::mark(connection)?.line()))
}

/// Gives a birth that is not told yet another line.
pub fn renumber(connection: &Connection, line: i64, new: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE birth SET line = ?2 WHERE line = ?1", (line, new)).map(drop)
}

/// The epoch that this database is in.
pub fn epoch(connection: &Connection) -> rusqlite::Result<String> {
    let sql = "SELECT epoch FROM birth ORDER BY line DESC LIMIT 1";
    connection.query_row(sql, [], |row| row.get(0))
}

/// The birth that stands in this line of the tape.
pub fn birth_in(connection: &Connection, line: i64) -> rusqlite::Result<Option<Birth>> {
    let sql = "SELECT mode, epoch, at FROM store, birth WHERE line = ?1";
    let birth =
        |row: &Row<'_>| Ok(Birth { mode: row.get(0)?, epoch: row.get(1)?, at_ms: row.get(2)? });
    connection.query_row(sql, [line], birth).optional()
}

/// The lines of all births behind this one.
pub fn lines_after(connection: &Connection, line: i64) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare("SELECT line FROM birth WHERE line > ?1 ORDER BY line")?
        .query_map([line], |row| row.get(0))?
        .collect()
}
