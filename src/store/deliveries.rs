//! What was tried and what became of it at head office.
//!
//! A [`Delivery`] stands on the tape and in a row of the same number; writing one down moves its
//! collection between queued, parked and delivered. Completing one from the tape does the same, so
//! that a start after a crash ends where the crash was.

use rusqlite::{Connection, OptionalExtension, Row};

use super::columns::{parsed, text};
use super::outbox;
use crate::domain::Invalid;
use crate::domain::decision::Sequence;
use crate::domain::delivery::{Attempt, Fate, ParkedFor};
use crate::domain::time::AcceptedAt;

/// So many tries that decided nothing are kept of one collection.
const ATTEMPTS_KEPT: i64 = 20;

/// What head office answers to what it has already.
const ALREADY_COLLECTED: i32 = -1015;

/// The word for a delivered collection; the others are those of [`ParkedFor`].
const DELIVERED: &str = "delivered";

/// One try, on its way into the store.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The collection's number.
    pub sequence: Sequence,
    /// The try.
    pub attempt: Attempt,
    /// What becomes of the collection.
    pub fate: Fate,
    /// Whether an earlier process may have tried and not lived to write it down.
    pub may_have_been_tried: bool,
}

/// What became of a collection at head office, as it stands on the tape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The collection's number.
    pub sequence: Sequence,
    /// Why it waits for a person; `None` when head office has it.
    pub parked_for: Option<ParkedFor>,
    /// When the deciding try began.
    pub at: AcceptedAt,
    /// How long that took, in milliseconds.
    pub took_ms: i64,
    /// The HTTP status that came back.
    pub http: Option<u16>,
    /// The protocol's code that came back.
    pub code: Option<i32>,
    /// Whether head office had it although no try of ours can have brought it there.
    pub already_there: bool,
    /// In words, why it was not taken.
    pub reason: String,
}

impl Delivery {
    /// The word for what became of it.
    pub fn fate_word(&self) -> &'static str {
        self.parked_for.map_or(DELIVERED, ParkedFor::as_str)
    }

    /// Reads the word back.
    pub fn parse_fate(word: &str) -> Result<Option<ParkedFor>, Invalid> {
        if word == DELIVERED { Ok(None) } else { ParkedFor::parse(word).map(Some) }
    }
}

/// A try that decided nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAttempt {
    /// Which try of this collection it was, from 1.
    pub number: i64,
    /// When it began.
    pub at: AcceptedAt,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// The HTTP status that came back.
    pub http: Option<u16>,
    /// The protocol's code that came back.
    pub code: Option<i32>,
    /// What it came to, in a word.
    pub verdict: String,
    /// What it came to, in more words.
    pub reason: String,
}

/// Writes a try down. When it decides what becomes of the collection, gives that; it is still to be
/// [`decide`]d.
pub fn note_try(connection: &Connection, tried: &Tried) -> rusqlite::Result<Option<Delivery>> {
    let Tried { sequence, attempt, fate, may_have_been_tried } = tried;
    let parked_for = match fate {
        Fate::Waits => {
            keep_attempt(connection, *sequence, attempt)?;
            return Ok(None);
        }
        Fate::Delivered => None,
        Fate::Parked(reason) => Some(*reason),
    };
    let already_there = attempt.code == Some(ALREADY_COLLECTED)
        && parked_for.is_none()
        && !may_have_been_tried
        && !may_have_arrived(connection, *sequence)?;
    Ok(Some(Delivery {
        sequence: *sequence,
        parked_for,
        at: attempt.at,
        took_ms: took_ms(attempt),
        http: attempt.http,
        code: attempt.code,
        already_there,
        reason: attempt.reason.clone(),
    }))
}

/// Writes down what became of a collection, which stands on the tape in this line.
pub fn decide(connection: &Connection, delivery: &Delivery, line: i64) -> rusqlite::Result<()> {
    let sequence = delivery.sequence;
    outbox::remove(connection, sequence)?;
    if delivery.parked_for.is_some() {
        outbox::park(connection, sequence)?;
    } else {
        outbox::unpark(connection, sequence)?;
    }
    connection
        .prepare_cached(
            "INSERT INTO delivery
                 (line, sequence, fate, at, took_ms, http, code, already_there, reason)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((
            line,
            sequence,
            delivery.fate_word(),
            delivery.at.unix_ms(),
            delivery.took_ms,
            delivery.http,
            delivery.code,
            delivery.already_there,
            &delivery.reason,
        ))
        .map(drop)
}

/// The delivery that stands in this line of the tape.
pub fn delivery_in(connection: &Connection, line: i64) -> rusqlite::Result<Option<Delivery>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM delivery WHERE line = ?1"))?
        .query_row([line], delivery)
        .optional()
}

/// What became of a collection, oldest first: the last one counts.
pub fn deliveries_of(
    connection: &Connection,
    sequence: Sequence,
) -> rusqlite::Result<Vec<Delivery>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM delivery WHERE sequence = ?1 ORDER BY line"
        ))?
        .query_map([sequence], delivery)?
        .collect()
}

/// The kept tries of a collection that decided nothing, oldest first.
pub fn attempts_of(
    connection: &Connection,
    sequence: Sequence,
) -> rusqlite::Result<Vec<KeptAttempt>> {
    connection
        .prepare_cached(
            "SELECT number, at, took_ms, http, code, verdict, reason FROM attempt
             WHERE sequence = ?1 ORDER BY number",
        )?
        .query_map([sequence], |row| {
            Ok(KeptAttempt {
                number: row.get(0)?,
                at: parsed(row, 1, AcceptedAt::from_unix_ms)?,
                took_ms: row.get(2)?,
                http: row.get(3)?,
                code: row.get(4)?,
                verdict: row.get(5)?,
                reason: row.get(6)?,
            })
        })?
        .collect()
}

/// At most `limit` lines of the tape behind this one in which deliveries or acts stand, in order.
pub fn lines_after(connection: &Connection, line: i64, limit: usize) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached(
            "SELECT line FROM delivery WHERE line > ?1
             UNION ALL SELECT line FROM act WHERE line > ?1 ORDER BY 1 LIMIT ?2",
        )?
        .query_map((line, limit), |row| row.get(0))?
        .collect()
}

/// The columns that [`delivery`] reads, in its order, and the line.
const COLUMNS: &str = "sequence, fate, at, took_ms, http, code, already_there, reason, line";

fn delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    Ok(Delivery {
        sequence: row.get(0)?,
        parked_for: text(row, 1, Delivery::parse_fate)?,
        at: parsed(row, 2, AcceptedAt::from_unix_ms)?,
        took_ms: row.get(3)?,
        http: row.get(4)?,
        code: row.get(5)?,
        already_there: row.get(6)?,
        reason: row.get(7)?,
    })
}

fn took_ms(attempt: &Attempt) -> i64 {
    i64::try_from(attempt.took.as_millis()).unwrap_or(i64::MAX)
}

fn keep_attempt(
    connection: &Connection,
    sequence: Sequence,
    attempt: &Attempt,
) -> rusqlite::Result<()> {
    let number: i64 = connection
        .prepare_cached("SELECT coalesce(max(number), 0) + 1 FROM attempt WHERE sequence = ?1")?
        .query_row([sequence], |row| row.get(0))?;
    connection
        .prepare_cached(
            "INSERT INTO attempt (sequence, number, at, took_ms, http, code, verdict, reason)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute((
            sequence,
            number,
            attempt.at.unix_ms(),
            took_ms(attempt),
            attempt.http,
            attempt.code,
            attempt.verdict.as_str(),
            &attempt.reason,
        ))?;
    connection
        .prepare_cached("DELETE FROM attempt WHERE sequence = ?1 AND number <= ?2")?
        .execute((sequence, number - ATTEMPTS_KEPT))
        .map(drop)
}

/// Whether an earlier try, kept or forgotten, may have brought the collection to head office.
fn may_have_arrived(connection: &Connection, sequence: Sequence) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM attempt
                            WHERE sequence = ?1 AND (verdict = 'unknown' OR number > ?2))
                 OR EXISTS (SELECT 1 FROM delivery
                            WHERE sequence = ?1 AND fate IN ('delivered', 'settled'))",
        )?
        .query_row((sequence, ATTEMPTS_KEPT), |row| row.get(0))
}
