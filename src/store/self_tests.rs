//! Self-tests: confirmations that were none. They stand in no books, have no number and are not
//! told on the tape.

use rusqlite::Connection;

use crate::domain::time::AcceptedAt;

/// So many are kept.
const KEPT: i64 = 100;

/// Keeps one, inside somebody's transaction.
pub fn keep(connection: &Connection, now: AcceptedAt) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO self_test (at) VALUES (?1)")?
        .execute([now.unix_ms()])?;
    let last = connection.last_insert_rowid();
    connection.prepare_cached("DELETE FROM self_test WHERE id <= ?1")?.execute([last - KEPT])?;
    Ok(())
}
