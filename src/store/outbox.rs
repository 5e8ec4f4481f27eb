//! What head office has not got yet: a row is born with its collection.

use rusqlite::Connection;

use crate::domain::decision::Sequence;

/// Queues a collection for head office, in the transaction that records it.
pub fn insert(connection: &Connection, sequence: Sequence) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO outbox (sequence) VALUES (?1)")?
        .execute([sequence])
        .map(drop)
}
