//! What head office has not got yet: a row is born with its collection, and goes when head office
//! has it or a person must look.

use rusqlite::Connection;

use crate::domain::act::{About, bare_number};
use crate::domain::amount::Amount;
use crate::domain::decision::Sequence;

/// Holds for collections that neither wait for a person nor are known to be at head office.
const UNDECIDED: &str = "
    NOT EXISTS (SELECT 1 FROM parked WHERE parked.sequence = collection.sequence)
    AND NOT EXISTS (SELECT 1 FROM delivery
                    WHERE delivery.sequence = collection.sequence AND fate = 'delivered')";

/// Queues a collection for head office: in the transaction that records it, or again.
pub fn insert(connection: &Connection, sequence: Sequence, amount: Amount) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO outbox (sequence, amount) VALUES (?1, ?2)")?
        .execute((sequence, amount.centavos()))
        .map(drop)
}

/// Takes a collection out of the queue. False when it was not there.
pub fn remove(connection: &Connection, sequence: Sequence) -> rusqlite::Result<bool> {
    let removed =
        connection.prepare_cached("DELETE FROM outbox WHERE sequence = ?1")?.execute([sequence])?;
    Ok(removed > 0)
}

/// Lets a collection wait for a person.
pub fn park(connection: &Connection, sequence: Sequence) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO parked (sequence, amount)
             SELECT sequence, amount FROM collection WHERE sequence = ?1",
        )?
        .execute([sequence])
        .map(drop)
}

/// Takes a collection out of those that wait for a person. False when it was not among them.
pub fn unpark(connection: &Connection, sequence: Sequence) -> rusqlite::Result<bool> {
    let removed =
        connection.prepare_cached("DELETE FROM parked WHERE sequence = ?1")?.execute([sequence])?;
    Ok(removed > 0)
}

/// Whether a collection waits for a person.
pub fn is_parked(connection: &Connection, sequence: Sequence) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM parked WHERE sequence = ?1)")?
        .query_row([sequence], |row| row.get(0))
}

/// The parked collections with this contract, receipt or number.
pub fn parked_named(connection: &Connection, reference: &str) -> rusqlite::Result<Vec<Sequence>> {
    let (name, number) = match About::parse(reference) {
        Some(About::Collection(sequence)) => (None, Some(sequence)),
        _ => (Some(reference), bare_number(reference)),
    };
    connection
        .prepare_cached(
            "SELECT parked.sequence FROM parked CROSS JOIN collection USING (sequence)
             WHERE contract = ?1 OR receipt = ?1 OR parked.sequence = ?2 ORDER BY 1",
        )?
        .query_map((name, number), |row| row.get(0))?
        .collect()
}

/// At most `limit` queued collections behind number `after` and up to `last`, in order.
pub fn queued(
    connection: &Connection,
    (after, last): (Sequence, Sequence),
    limit: usize,
) -> rusqlite::Result<Vec<Sequence>> {
    connection
        .prepare_cached(
            "SELECT sequence FROM outbox WHERE sequence > ?1 AND sequence <= ?2
             ORDER BY sequence LIMIT ?3",
        )?
        .query_map((after, last, limit), |row| row.get(0))?
        .collect()
}

/// What must be queued of these by all other tables, for when this one cannot be read.
pub fn undelivered(
    connection: &Connection,
    (after, last): (Sequence, Sequence),
    limit: usize,
) -> rusqlite::Result<Vec<Sequence>> {
    connection
        .prepare_cached(&format!(
            "SELECT sequence FROM collection
             WHERE sequence > ?1 AND sequence <= ?2 AND {UNDECIDED} ORDER BY sequence LIMIT ?3"
        ))?
        .query_map((after, last, limit), |row| row.get(0))?
        .collect()
}

/// At most `limit` parked collections behind number `after`, in order.
pub fn parked_after(
    connection: &Connection,
    after: Sequence,
    limit: usize,
) -> rusqlite::Result<Vec<Sequence>> {
    connection
        .prepare_cached("SELECT sequence FROM parked WHERE sequence > ?1 ORDER BY 1 LIMIT ?2")?
        .query_map((after, limit), |row| row.get(0))?
        .collect()
}

/// Queues what was delivered between two numbers again, because head office has lost it. Gives how
/// many rows that were.
pub fn requeue(
    connection: &Connection,
    first: Sequence,
    last: Sequence,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO outbox (sequence, amount)
             SELECT sequence, amount FROM collection
             WHERE sequence BETWEEN ?1 AND ?2
               AND NOT EXISTS (SELECT 1 FROM parked WHERE parked.sequence = collection.sequence)",
        )?
        .execute((first, last))
}

/// The collections between two numbers that wait or are parked with another amount than their own:
/// there must be none.
pub fn with_another_amount(
    connection: &Connection,
    first: Sequence,
    last: Sequence,
) -> rusqlite::Result<Vec<Sequence>> {
    connection
        .prepare_cached(
            "SELECT sequence FROM outbox JOIN collection USING (sequence)
             WHERE sequence BETWEEN ?1 AND ?2 AND outbox.amount IS NOT collection.amount
             UNION SELECT sequence FROM parked JOIN collection USING (sequence)
             WHERE sequence BETWEEN ?1 AND ?2 AND parked.amount IS NOT collection.amount",
        )?
        .query_map((first, last), |row| row.get(0))?
        .collect()
}

/// The collections between two numbers that are neither queued nor parked nor delivered: there
/// must be none.
pub fn forgotten(
    connection: &Connection,
    first: Sequence,
    last: Sequence,
) -> rusqlite::Result<Vec<Sequence>> {
    connection
        .prepare_cached(&format!(
            "SELECT sequence FROM collection WHERE sequence BETWEEN ?1 AND ?2 AND {UNDECIDED}
             AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.sequence = collection.sequence)"
        ))?
        .query_map((first, last), |row| row.get(0))?
        .collect()
}
