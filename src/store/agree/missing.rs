//! What the database has and the tape lacks: which lines, and what each of them is to tell.
//!
//! There may be millions, after a tape was lost: they are remembered by their rows, and what they
//! tell is read when it is written. Writes nothing itself.

use rusqlite::Connection;

use super::{AgreeError, Mark};
use crate::domain::time::AcceptedAt;
use crate::store::lineup::Lineup;
use crate::store::tape::{Told, What};
use crate::store::{acts, births, collections, deliveries, record, refusals};
use crate::system::watchdog::Pulse;

/// Rows read at a time.
const PAGE_ROWS: usize = 500;

/// A line that the tape lacks, by the row that it is to tell of.
#[derive(Clone, Copy, Debug)]
pub struct Missing {
    /// Its number.
    pub line: i64,
    /// What it tells of.
    pub kind: Kind,
    /// The row: a collection's or a refusal's number, for all else the line's.
    pub row: i64,
}

/// What a missing line is to tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A birth of the database.
    Birth,
    /// A collection.
    Collection,
    /// A kept refusal.
    Refusal,
    /// What came later: a delivery, or what a person did.
    Later,
}

/// What the database has behind the mark and the tape has not, in the order of its lines.
pub(super) fn behind(
    connection: &Connection,
    mark: &Mark,
    seen: &Lineup,
    pulse: &Pulse,
) -> Result<Vec<Missing>, AgreeError> {
    let mut missing = Vec::new();
    let mut found = |line, kind, row| {
        pulse.beat();
        if line > mark.line && !seen.has(line) {
            missing.push(Missing { line, kind, row });
        }
    };
    for line in births::lines_after(connection, mark.line)? {
        found(line, Kind::Birth, line);
    }
    let mut after = mark.sequence;
    loop {
        let page = collections::page_after(connection, after, PAGE_ROWS)?;
        let Some(last) = page.last() else { break };
        after = last.entry.sequence;
        if let Some(altered) = page.iter().find(|row| !row.is_intact) {
            let sequence = altered.entry.sequence;
            let damage = format!("collection {sequence} was altered after it was recorded");
            return Err(AgreeError::Damaged(damage));
        }
        for row in &page {
            found(row.line, Kind::Collection, row.entry.sequence);
        }
    }
    let mut after = mark.refusal;
    loop {
        let page = refusals::page_after(connection, after, PAGE_ROWS)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for row in &page {
            found(row.line, Kind::Refusal, row.id);
        }
    }
    let mut after = mark.line;
    loop {
        let lines = deliveries::lines_after(connection, after, PAGE_ROWS)?;
        let Some(last) = lines.last() else { break };
        after = *last;
        for line in lines {
            found(line, Kind::Later, line);
        }
    }
    missing.sort_unstable_by_key(|missing| missing.line);
    Ok(missing)
}

/// What missing lines are to tell.
pub fn told(connection: &Connection, missing: &[Missing]) -> Result<Vec<Told>, AgreeError> {
    missing.iter().map(|missing| told_by_row(connection, *missing)).collect()
}

fn told_by_row(connection: &Connection, missing: Missing) -> Result<Told, AgreeError> {
    let Missing { line, kind, row } = missing;
    let told = |what, at, record| Some(Told { line, at, what, record });
    let found = match kind {
        Kind::Birth => births::birth_in(connection, line)?.and_then(|birth| {
            let at = AcceptedAt::from_unix_ms(birth.at_ms).ok()?;
            told(What::Store, at, record::of_birth(&birth))
        }),
        Kind::Collection => collections::by_sequence(connection, row)?
            .and_then(|row| told(What::Collection, row.entry.accepted_at, row.canonical)),
        Kind::Refusal => refusals::by_id(connection, row)?
            .and_then(|row| told(What::Refusal, row.first_at, record::of_refusal(&row.as_first()))),
        Kind::Later => match deliveries::delivery_in(connection, line)? {
            Some(row) => told(What::Delivery, row.at, record::of_delivery(&row)),
            None => acts::act_in(connection, line)?
                .and_then(|row| told(What::Act, row.at, record::of_act(&row))),
        },
    };
    let gone = || AgreeError::Damaged(format!("the row that line {line} is to tell of is gone"));
    found.ok_or_else(gone)
}
