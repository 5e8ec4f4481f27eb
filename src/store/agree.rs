//! At start: makes database and tape agree again, before anything is answered.
//!
//! Only what lies behind the last agreed mark is compared, both ways. What one witness lacks is
//! completed from the other; what neither has, or what contradicts, is named and nothing is
//! invented. Knows the database's rows and the tape's lines, not who asks for them.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use sha2::{Digest as _, Sha256};

use super::record::{self, Birth};
use super::tape::{self, Line, Lines, Place, Tape, Told, What};
use super::{collections, outbox, refusals};
use crate::domain::Invalid;
use crate::domain::contract::Mode;
use crate::domain::provenance::Digest;
use crate::domain::time::AcceptedAt;

/// Rows read at a time.
const PAGE_ROWS: usize = 500;

/// So many differences are named one by one; the rest is counted.
const DAMAGE_NAMED_MAX: usize = 100;

/// Up to where database and tape were last seen to agree.
#[derive(Clone, Debug)]
pub struct Mark {
    line: i64,
    place: Place,
    digest: Digest,
    sequence: i64,
    refusal: i64,
}

/// What was found and done.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows that only the tape had.
    pub rows_completed: usize,
    /// Lines that only the database had, to be written.
    pub lines_missing: Vec<Told>,
    /// Files in which torn ends were set aside.
    pub set_aside: Vec<String>,
    /// What cannot be mended here, in words.
    pub damage: Vec<String>,
}

/// Why the witnesses cannot be compared.
#[derive(Debug)]
pub enum AgreeError {
    /// The database refuses.
    Database(rusqlite::Error),
    /// The tape cannot be read, or its end not be secured.
    Tape(io::Error),
    /// The database contradicts itself, in words.
    Damaged(String),
}

impl From<rusqlite::Error> for AgreeError {
    fn from(error: rusqlite::Error) -> AgreeError {
        AgreeError::Database(error)
    }
}

impl From<io::Error> for AgreeError {
    fn from(error: io::Error) -> AgreeError {
        AgreeError::Tape(error)
    }
}

impl fmt::Display for AgreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgreeError::Database(error) => error.fmt(f),
            AgreeError::Tape(error) => write!(f, "the tape: {error}"),
            AgreeError::Damaged(damage) => f.write_str(damage),
        }
    }
}

impl Report {
    fn damaged(&mut self, what: impl Into<String>) {
        if self.damage.len() < DAMAGE_NAMED_MAX {
            self.damage.push(what.into());
        }
    }
}

/// Compares both witnesses behind the mark and completes the database. The tape that comes back
/// lacks `lines_missing` still: they are to be appended.
pub fn agree(connection: &mut Connection, directory: &Path) -> Result<(Tape, Report), AgreeError> {
    let mark = mark(connection)?;
    let mut report = Report::default();
    let mut seen = HashSet::new();
    let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mode = mode(&step)?;
    let end = read_behind(&mark, directory, &mut report, |line, report| {
        seen.insert(line.number);
        complete_row(&step, line, mode, report)
    })?;
    step.commit()?;
    report.lines_missing = rows_behind(connection, &mark, &seen)?;
    report_holes(&mark, &seen, &mut report);
    let (line, place, digest) = end;
    Ok((Tape::at_end(directory.to_owned(), line, place, digest), report))
}

/// Reads the mark.
pub fn mark(connection: &Connection) -> rusqlite::Result<Mark> {
    connection.query_row(
        "SELECT agreed_line, agreed_file, agreed_start, agreed_end, agreed_digest,
                agreed_sequence, agreed_refusal FROM store",
        [],
        |row| {
            let place = Place { file: row.get(1)?, start: row.get(2)?, end: row.get(3)? };
            Ok(Mark {
                line: row.get(0)?,
                place,
                digest: Digest(row.get(4)?),
                sequence: row.get(5)?,
                refusal: row.get(6)?,
            })
        },
    )
}

/// Writes the mark: all rows that are in the database now are told by the tape up to this line.
pub fn set_mark(
    connection: &Connection,
    (line, place, digest): (i64, &Place, Digest),
) -> rusqlite::Result<()> {
    connection
        .execute(
            "UPDATE store SET
                 agreed_line = ?1, agreed_file = ?2, agreed_start = ?3, agreed_end = ?4,
                 agreed_digest = ?5,
                 agreed_sequence = (SELECT coalesce(max(sequence), 0) FROM collection),
                 agreed_refusal = (SELECT coalesce(max(id), 0) FROM refusal)",
            (line, &place.file, place.start, place.end, digest.0),
        )
        .map(drop)
}

/// The number of the last line that a row of the database has.
pub fn last_line(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT max(
             line,
             agreed_line,
             coalesce((SELECT line FROM collection ORDER BY sequence DESC LIMIT 1), 0),
             coalesce((SELECT line FROM refusal ORDER BY id DESC LIMIT 1), 0)) FROM store",
        [],
        |row| row.get(0),
    )
}

fn mode(connection: &Connection) -> rusqlite::Result<Mode> {
    let mode: String = connection.query_row("SELECT mode FROM store", [], |row| row.get(0))?;
    Ok(if mode == Mode::Live.as_str() { Mode::Live } else { Mode::Sandbox })
}

/// Reads the good lines behind the mark; torn ends are set aside, and what stays is made durable.
/// Gives the last line, its place and its digest.
fn read_behind(
    mark: &Mark,
    directory: &Path,
    report: &mut Report,
    mut on_line: impl FnMut(&Line, &mut Report) -> Result<(), AgreeError>,
) -> Result<(i64, Place, Digest), AgreeError> {
    let mut end = (mark.line, mark.place.clone(), mark.digest);
    let files = tape::files(directory)?;
    if mark.line > 0 && !files.contains(&mark.place.file) {
        report.damaged(format!("the tape's file {} is missing", mark.place.file));
    }
    for name in files.iter().filter(|name| **name >= mark.place.file) {
        let is_marked = *name == mark.place.file;
        let start = if is_marked { mark.place.end } else { 0 };
        if is_marked && !is_as_marked(mark, directory)? {
            report.damaged(format!("line {} in {name} is not what it was", mark.line));
        }
        let mut good_end = start;
        let mut bad_since_good = Vec::new();
        for scanned in Lines::open(directory, name, start)? {
            let scanned = scanned?;
            let Some(line) = scanned.line else {
                bad_since_good.push(format!("{name}, byte {}: no good line", scanned.place.start));
                continue;
            };
            bad_since_good.drain(..).for_each(|bad| report.damaged(bad));
            if line.previous != end.2 {
                report.damaged(format!(
                    "{name}: line {} does not follow what stands before it",
                    line.number
                ));
            }
            on_line(&line, report)?;
            good_end = scanned.place.end;
            end = (line.number.max(end.0), scanned.place, scanned.digest);
        }
        if !bad_since_good.is_empty() {
            report.set_aside.push(tape::set_aside(directory, name, good_end)?);
        }
        if good_end > start {
            tape::write_over(directory, name, start)?;
        }
        if end.1.file != *name {
            // A file that was begun, and nothing more.
            end.1 = Place { file: name.clone(), start: good_end, end: good_end };
        }
    }
    Ok(end)
}

/// Whether the marked line still stands where it stood.
fn is_as_marked(mark: &Mark, directory: &Path) -> io::Result<bool> {
    let file = File::open(directory.join(&mark.place.file))?;
    let length = mark.place.end.saturating_sub(mark.place.start).saturating_sub(1);
    let mut line = vec![0; usize::try_from(length).unwrap_or(0)];
    match file.read_exact_at(&mut line, mark.place.start) {
        Ok(()) => Ok(Digest(Sha256::digest(&line).into()) == mark.digest),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes sure that the database has what a line tells.
fn complete_row(
    step: &Transaction<'_>,
    line: &Line,
    mode: Mode,
    report: &mut Report,
) -> Result<(), AgreeError> {
    let completed = match line.what {
        What::Store => complete_birth(step, line),
        What::Collection => complete_collection(step, line, mode),
        What::Refusal => complete_refusal(step, line),
    };
    match completed {
        Ok(true) => report.rows_completed += 1,
        Ok(false) => {}
        Err(Unmet::Different(what)) => report.damaged(what),
        Err(Unmet::Impossible(error)) => return Err(error),
    }
    Ok(())
}

enum Unmet {
    Different(String),
    Impossible(AgreeError),
}

impl From<rusqlite::Error> for Unmet {
    fn from(error: rusqlite::Error) -> Unmet {
        Unmet::Impossible(error.into())
    }
}

impl From<Invalid> for Unmet {
    fn from(invalid: Invalid) -> Unmet {
        Unmet::Different(format!("a record of the tape cannot be read: {invalid}"))
    }
}

fn complete_birth(step: &Transaction<'_>, line: &Line) -> Result<bool, Unmet> {
    let (birth, row_line) = birth(step)?;
    if row_line == line.number && birth != record::birth(&line.record)? {
        let what = format!("line {} tells of another database", line.number);
        return Err(Unmet::Different(what));
    }
    Ok(false)
}

/// What the database says of its own birth, and the line that tells of it.
pub fn birth(connection: &Connection) -> rusqlite::Result<(Birth, i64)> {
    connection.query_row("SELECT mode, epoch, line FROM store", [], |row| {
        Ok((Birth { mode: row.get(0)?, epoch: row.get(1)? }, row.get(2)?))
    })
}

fn complete_collection(step: &Transaction<'_>, line: &Line, mode: Mode) -> Result<bool, Unmet> {
    let told = record::entry(&line.record)?;
    let number = told.sequence;
    match collections::by_identity(step, &told.confirmation.collection)? {
        Some(row) if !row.is_intact => {
            let damage = format!("collection {number} was altered after it was recorded");
            Err(Unmet::Impossible(AgreeError::Damaged(damage)))
        }
        Some(row) if record::of_entry(&row.entry) != line.record => Err(Unmet::Different(format!(
            "collection {} differs from line {}",
            row.entry.sequence, line.number
        ))),
        Some(_) => Ok(false),
        None if collections::by_sequence(step, number)?.is_some() => {
            let damage = format!("collection {number} cannot be found by contract and receipt");
            Err(Unmet::Impossible(AgreeError::Damaged(damage)))
        }
        None => {
            collections::insert(step, &told, &line.record, line.number)?;
            if mode == Mode::Live {
                outbox::insert(step, number)?;
            }
            Ok(true)
        }
    }
}

fn complete_refusal(step: &Transaction<'_>, line: &Line) -> Result<bool, Unmet> {
    let told = record::refusal(&line.record)?;
    match refusals::by_id(step, told.id)? {
        Some(row) if record::of_refusal(&row.as_first()) != line.record => {
            Err(Unmet::Different(format!("refusal {} differs from line {}", told.id, line.number)))
        }
        Some(_) => Ok(false),
        None => {
            refusals::insert(step, &told, line.number)?;
            Ok(true)
        }
    }
}

/// What the database has behind the mark and the tape has not, in the order of its lines.
fn rows_behind(
    connection: &Connection,
    mark: &Mark,
    seen: &HashSet<i64>,
) -> rusqlite::Result<Vec<Told>> {
    let mut missing = Vec::new();
    let (birth, line) = birth(connection)?;
    if line > mark.line && !seen.contains(&line) {
        let at = AcceptedAt::new(crate::system::clock::now());
        missing.push(Told { line, at, what: What::Store, record: record::of_birth(&birth) });
    }
    let mut after = mark.sequence;
    loop {
        let page = collections::page_after(connection, after, PAGE_ROWS)?;
        let Some(last) = page.last() else { break };
        after = last.entry.sequence;
        missing.extend(page.iter().filter(|row| !seen.contains(&row.line)).map(|row| Told {
            line: row.line,
            at: row.entry.accepted_at,
            what: What::Collection,
            record: record::of_entry(&row.entry),
        }));
    }
    let mut after = mark.refusal;
    loop {
        let page = refusals::page_after(connection, after, PAGE_ROWS)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        missing.extend(page.iter().filter(|row| !seen.contains(&row.line)).map(|row| Told {
            line: row.line,
            at: row.first_at,
            what: What::Refusal,
            record: record::of_refusal(&row.as_first()),
        }));
    }
    missing.sort_unstable_by_key(|told| told.line);
    Ok(missing)
}

/// The tape is only ever continued: a line that is missing among others stays missing, and a
/// number that neither witness knows is a loss.
fn report_holes(mark: &Mark, seen: &HashSet<i64>, report: &mut Report) {
    let last_seen = seen.iter().copied().max().unwrap_or(mark.line);
    let (inside, behind): (Vec<Told>, Vec<Told>) =
        std::mem::take(&mut report.lines_missing).into_iter().partition(|t| t.line < last_seen);
    for told in &inside {
        report.damaged(format!("line {} is missing on the tape; the database has it", told.line));
    }
    let rows: HashSet<i64> = inside.iter().chain(&behind).map(|told| told.line).collect();
    let last = behind.last().map_or(last_seen, |told| told.line.max(last_seen));
    let untold = (mark.line + 1..=last).filter(|line| !seen.contains(line) && !rows.contains(line));
    for line in untold.take(DAMAGE_NAMED_MAX) {
        report.damaged(format!("line {line} is in neither witness: what it told is lost"));
    }
    report.lines_missing = behind;
}
