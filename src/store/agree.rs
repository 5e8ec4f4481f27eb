//! At start: makes database and tape agree again, before anything is answered.
//!
//! Only what lies behind the last agreed mark is compared, both ways. What one witness lacks is
//! completed from the other; what neither has, or what contradicts, is named and nothing is
//! invented. Knows the database's rows and the tape's lines, not who asks for them.

mod missing;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use sha2::{Digest as _, Sha256};

pub use missing::{Kind, Missing, told};

use super::lineup::Lineup;
use super::record;
use super::relays::{self, Heard};
use super::tape::{self, End, Line, Lines, Place, Scanned, Tape, What};
use super::{acts, births, collections, deliveries, refusals, sync_directory, transaction};
use crate::domain::Invalid;
use crate::domain::act::About;
use crate::domain::contract::Mode;
use crate::domain::decision::Sequence;
use crate::domain::provenance::Digest;
use crate::system::watchdog::Pulse;

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

impl Mark {
    /// The last line that was seen to agree.
    pub fn line(&self) -> i64 {
        self.line
    }
}

/// Nothing is known to agree.
impl Default for Mark {
    fn default() -> Mark {
        let place = Place { file: String::new(), start: 0, end: 0 };
        Mark { line: 0, place, digest: Digest([0; 32]), sequence: 0, refusal: 0 }
    }
}

/// What was found and done.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows that only the tape had.
    pub rows_completed: usize,
    /// Lines that only the database had, to be written, in their order.
    pub lines_missing: Vec<Missing>,
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

impl AgreeError {
    /// Whether room on the disk, or the right to write there, would mend it.
    pub fn is_passing(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
        match self {
            AgreeError::Database(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            AgreeError::Tape(error) => {
                matches!(error.kind(), StorageFull | PermissionDenied | ReadOnlyFilesystem)
            }
            AgreeError::Damaged(_) => false,
        }
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
///
/// `pulse` beats meanwhile: it may take minutes.
pub fn agree(
    connection: &mut Connection,
    directory: &Path,
    pulse: &Pulse,
) -> Result<(Tape, Report), AgreeError> {
    if let Some(number) = collections::newest_not_found(connection)? {
        return Err(not_found(number));
    }
    let mut report = Report::default();
    let mut mark = mark(connection)?;
    if let Some(reason) = distrust(connection, directory, &mark)? {
        // Whatever it vouched for is compared anew.
        report.damaged(reason);
        mark = Mark::default();
    }
    let (mut seen, mut births_told) = (Lineup::default(), Lineup::default());
    let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mode = mode(&step)?;
    let mut behind = read_behind(&mark, directory, &mut report, |line, report| {
        pulse.beat();
        seen.add(line.number);
        if line.what == What::Store {
            births_told.add(line.number);
        }
        complete_row(&step, line, mode, report)
    })?;
    for line in births::lines_after(&step, mark.line)? {
        if seen.has(line) && !births_told.has(line) {
            // It was not told yet, and the tape goes on with something else.
            let last = behind.end.line.max(last_line(&step)?);
            births::renumber(&step, line, last + 1)?;
        }
    }
    step.commit()?;
    report.lines_missing = missing::behind(connection, &mark, &seen, pulse)?;
    report_holes(mark.line..behind.end.line, &seen, &mut report);
    settle_tail(connection, directory, &mut behind, &mut report)?;
    if directory.is_dir() {
        sync_end(directory, &behind.end.file.0).map_err(io::Error::other)?;
    }
    for (name, stretch) in behind.changed {
        tape::write_over(directory, &name, stretch, pulse)?;
    }
    Ok((Tape::at_end(directory.to_owned(), behind.end), report))
}

/// Why the mark cannot be relied on, if so.
fn distrust(
    connection: &Connection,
    directory: &Path,
    mark: &Mark,
) -> Result<Option<String>, AgreeError> {
    if mark.line == 0 {
        return Ok(None);
    }
    let file = &mark.place.file;
    if !directory.join(file).is_file() {
        return Ok(Some(format!("the tape's file {file} is missing")));
    }
    if !is_as_marked(mark, directory)? {
        return Ok(Some(format!("line {} in {file} is not what it was", mark.line)));
    }
    let (sequence, refusal): (i64, i64) = connection.query_row(
        "SELECT (SELECT coalesce(max(sequence), 0) FROM collection),
                (SELECT coalesce(max(id), 0) FROM refusal)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let is_ahead = mark.sequence > sequence || mark.refusal > refusal;
    Ok(is_ahead.then(|| "the database lacks rows that it had".to_owned()))
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

/// Drops a mark whose line is known to be gone, so that everything is compared.
pub fn forget_lost_mark(connection: &Connection, directory: &Path) -> rusqlite::Result<()> {
    let Place { file, end, .. } = mark(connection)?.place;
    let is_there = |file: fs::Metadata| file.is_file() && file.len() >= end;
    if !fs::metadata(directory.join(file)).is_ok_and(is_there) {
        connection.execute(
            "UPDATE store SET agreed_line = 0, agreed_file = '', agreed_start = 0, agreed_end = 0,
                 agreed_digest = ?1, agreed_sequence = 0, agreed_refusal = 0",
            [Mark::default().digest.0],
        )?;
    }
    Ok(())
}

/// Whether nothing stands behind the mark in either witness, as a clean stop leaves them.
pub fn ends_at_mark(connection: &Connection, directory: &Path) -> Result<bool, AgreeError> {
    let mark = mark(connection)?;
    if mark.line == 0 || mark.line != last_line(connection)? {
        return Ok(false);
    }
    let file = directory.join(&mark.place.file);
    if !file.is_file() || !is_as_marked(&mark, directory)? {
        return Ok(false);
    }
    let mut end = mark.place.end == fs::metadata(file)?.len();
    for name in tape::files(directory)?.iter().filter(|name| **name > mark.place.file) {
        end &= fs::metadata(directory.join(name))?.len() == 0;
    }
    Ok(end && mark.sequence == collections::last_sequence(connection)?)
}

/// The number of the last line that a row of the database has, or its mark.
pub fn last_line(connection: &Connection) -> rusqlite::Result<i64> {
    let last = births::last_told(connection)?;
    Ok(births::lines_after(connection, last)?.pop().unwrap_or(last))
}

/// The same of the books alone: births and marks tell of nothing that could be lost.
pub fn last_line_of_books(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT max(
             coalesce((SELECT line FROM collection ORDER BY sequence DESC LIMIT 1), 0),
             coalesce((SELECT line FROM refusal ORDER BY id DESC LIMIT 1), 0),
             coalesce((SELECT max(line) FROM delivery), 0),
             coalesce((SELECT max(line) FROM act), 0))",
        [],
        |row| row.get(0),
    )
}

/// Whether real money is in it.
pub fn mode(connection: &Connection) -> rusqlite::Result<Mode> {
    let mode: String = connection.query_row("SELECT mode FROM store", [], |row| row.get(0))?;
    Ok(if mode == Mode::Live.as_str() { Mode::Live } else { Mode::Sandbox })
}

/// What stands on the tape behind the mark.
struct Behind {
    end: End,
    /// Files in which something stands behind the mark, and where that can be read.
    changed: Vec<(String, Range<u64>)>,
    /// What is no good line behind the last good one.
    tail: Vec<Scanned>,
}

/// Reads the good lines behind the mark.
fn read_behind(
    mark: &Mark,
    directory: &Path,
    report: &mut Report,
    mut on_line: impl FnMut(&Line, &mut Report) -> Result<(), AgreeError>,
) -> Result<Behind, AgreeError> {
    let file = (mark.place.file.clone(), mark.place.end);
    let end = End { line: mark.line, place: mark.place.clone(), digest: mark.digest, file };
    let mut behind = Behind { end, changed: Vec::new(), tail: Vec::new() };
    for name in tape::files(directory)?.into_iter().filter(|name| *name >= mark.place.file) {
        let start = if name == mark.place.file { mark.place.end } else { 0 };
        behind.end.file = (name.clone(), start);
        let mut readable_to = u64::MAX;
        for scanned in Lines::open(directory, &name, start)? {
            let scanned = match scanned {
                Ok(scanned) => scanned,
                Err(error) => {
                    // A bad sector, say: what the database has of it is told in another file.
                    readable_to = behind.end.file.1;
                    report.damaged(format!(
                        "{name} cannot be read from byte {readable_to} on: {error}"
                    ));
                    report_bad(&mut behind.tail, report);
                    break;
                }
            };
            // An empty file behind them does not make them older.
            if behind.tail.last().is_some_and(|bad| bad.place.file != name) {
                report_bad(&mut behind.tail, report);
            }
            let Some(line) = &scanned.line else {
                behind.tail.push(scanned);
                continue;
            };
            report_bad(&mut behind.tail, report);
            if line.previous != behind.end.digest {
                let number = line.number;
                report.damaged(format!("{name}: line {number} does not follow the one before it"));
            }
            on_line(line, report)?;
            behind.end.line = line.number.max(behind.end.line);
            behind.end.digest = scanned.digest;
            behind.end.file.1 = scanned.place.end;
            behind.end.place = scanned.place;
        }
        if behind.end.file.1 > start {
            behind.changed.push((name, start..readable_to));
        }
    }
    Ok(behind)
}

/// Names bad lines that others follow: they stay where they are.
fn report_bad(tail: &mut Vec<Scanned>, report: &mut Report) {
    for bad in tail.drain(..) {
        report.damaged(format!("{}, byte {}: no good line", bad.place.file, bad.place.start));
    }
}

/// Whoever made the last file, wrote to it or cut it may have ended before that was synced. Never
/// tried again by this process: a second sync may say yes to what the first one lost.
fn sync_end(directory: &Path, name: &str) -> io::Result<()> {
    // One that cannot be opened is not gone on with.
    if let Ok(last) = File::open(directory.join(name)) {
        last.sync_all()?;
    }
    sync_directory(directory)
}

/// Sets the end of the last file aside. Whole lines that were damaged there are set aside only
/// when the database has what they told; otherwise they stay, so that nobody overlooks the loss.
fn settle_tail(
    connection: &Connection,
    directory: &Path,
    behind: &mut Behind,
    report: &mut Report,
) -> Result<(), AgreeError> {
    let tail = std::mem::take(&mut behind.tail);
    // What ends with a line feed may have been acknowledged, what follows was not.
    let count = tail.iter().rposition(|bad| bad.is_whole).map_or(0, |last| last + 1);
    let (whole, torn) = tail.split_at(count);
    let stays = !is_told_elsewhere(connection, whole, behind.end.line, &report.lines_missing)?;
    if stays && let Some(last) = whole.last() {
        // Their numbers are not given again.
        behind.end.line += i64::try_from(count).unwrap_or_default();
        behind.end.digest = last.digest;
        behind.end.place = last.place.clone();
        if last.place.file == behind.end.file.0 {
            behind.end.file.1 = last.place.end;
        }
        report.damaged(format!(
            "{count} at the end of {} cannot be read and the database does not have them either",
            last.place.file
        ));
    }
    let aside = if stays { torn.first() } else { tail.first() };
    if let Some(Scanned { place, .. }) = aside {
        report.set_aside.push(tape::set_aside(directory, &place.file, place.start)?);
    }
    Ok(())
}

/// Whether the lines that the tape lacks are what stood in the bad lines at its end: they follow
/// its last good line, and some of them are as long as all those. Damage can make two lines of one,
/// and one of two.
fn is_told_elsewhere(
    connection: &Connection,
    bad: &[Scanned],
    last_line: i64,
    missing: &[Missing],
) -> Result<bool, AgreeError> {
    let mut bytes: u64 = bad.iter().map(|bad| bad.place.end - bad.place.start).sum();
    for (line, missing) in (last_line + 1..).zip(missing) {
        if bytes == 0 || missing.line != line {
            break;
        }
        let [told] = &told(connection, &[*missing])?[..] else { break };
        match bytes.checked_sub(tape::line_bytes(told)) {
            Some(left) => bytes = left,
            None => break,
        }
    }
    Ok(bytes == 0)
}

/// Whether the marked line still stands where it stood.
fn is_as_marked(mark: &Mark, directory: &Path) -> io::Result<bool> {
    let file = File::open(directory.join(&mark.place.file))?;
    let length = mark.place.end.saturating_sub(mark.place.start);
    if length > tape::LINE_BYTES_MAX {
        return Ok(false);
    }
    let mut line = vec![0; usize::try_from(length).unwrap_or(0)];
    match file.read_exact_at(&mut line, mark.place.start) {
        Ok(()) => {
            Ok(line.pop() == Some(b'\n') && Digest(Sha256::digest(&line).into()) == mark.digest)
        }
        // It is cut off, or cannot be read any more.
        Err(_) => Ok(false),
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
        What::Store => complete_birth(step, line, mode),
        What::Collection => complete_collection(step, line, mode),
        What::Refusal => complete_refusal(step, line),
        What::Delivery => complete_delivery(step, line),
        What::Act => complete_act(step, line),
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

fn complete_birth(step: &Transaction<'_>, line: &Line, mode: Mode) -> Result<bool, Unmet> {
    let told = record::birth(&line.record)?;
    let row = births::birth_in(step, line.number)?;
    if row.as_ref().map_or(told.mode != mode.as_str(), |row| *row != told) {
        let damage = format!("the tape's line {} tells of another database", line.number);
        return Err(Unmet::Impossible(AgreeError::Damaged(damage)));
    }
    if row.is_none() {
        births::insert(step, &told, line.number)?;
    }
    // Nothing that was taken is completed by it.
    Ok(false)
}

fn complete_collection(step: &Transaction<'_>, line: &Line, mode: Mode) -> Result<bool, Unmet> {
    let told = record::entry(&line.record)?;
    let number = told.sequence;
    match collections::by_identity(step, &told.confirmation.collection)? {
        Some(row) if !row.is_intact => {
            let damage = format!("collection {number} was altered after it was recorded");
            Err(Unmet::Impossible(AgreeError::Damaged(damage)))
        }
        Some(row) if row.canonical != line.record => Err(Unmet::Different(format!(
            "collection {} differs from line {}",
            row.entry.sequence, line.number
        ))),
        Some(_) => Ok(false),
        None if collections::is_there(step, number)? => Err(Unmet::Impossible(not_found(number))),
        None => {
            transaction::insert_entry(step, mode, &told, &line.record, line.number)?;
            let flags = told.confirmation.flags;
            let new = Some((told.confirmation.collection.amount, flags));
            relays::note(step, Heard::of(&told.provenance, new).as_slice(), told.accepted_at)?;
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

fn complete_delivery(step: &Transaction<'_>, line: &Line) -> Result<bool, Unmet> {
    let told = record::delivery(&line.record)?;
    match deliveries::delivery_in(step, line.number)? {
        Some(row) if row != told => Err(Unmet::Different(format!(
            "the delivery of collection {} differs from line {}",
            told.sequence, line.number
        ))),
        Some(_) => Ok(false),
        None if !collections::is_there(step, told.sequence)? => {
            Err(unknown(line, About::Collection(told.sequence)))
        }
        None => {
            deliveries::decide(step, &told, line.number)?;
            Ok(true)
        }
    }
}

fn complete_act(step: &Transaction<'_>, line: &Line) -> Result<bool, Unmet> {
    let told = record::act(&line.record)?;
    match acts::act_in(step, line.number)? {
        Some(row) if row != told => {
            Err(Unmet::Different(format!("what was done differs from line {}", line.number)))
        }
        Some(_) => Ok(false),
        None => {
            if let Some(about) = acts::missing_subject(step, &told)? {
                return Err(unknown(line, about));
            }
            acts::carry_out(step, &told, line.number)?;
            Ok(true)
        }
    }
}

/// A repeat of such a collection would be taken for a new one.
fn not_found(number: Sequence) -> AgreeError {
    AgreeError::Damaged(format!("collection {number} cannot be found by contract and receipt"))
}

fn unknown(line: &Line, about: About) -> Unmet {
    Unmet::Different(format!(
        "line {} tells what became of {about}, which neither witness has",
        line.number
    ))
}

/// The tape is only ever continued: a line that is missing among others stays missing, and a
/// number that neither witness knows is a loss.
fn report_holes(Range { start, end: last_seen }: Range<i64>, seen: &Lineup, report: &mut Report) {
    let (inside, behind): (Vec<Missing>, Vec<Missing>) =
        std::mem::take(&mut report.lines_missing).into_iter().partition(|t| t.line < last_seen);
    for told in &inside {
        report.damaged(format!("line {} is missing on the tape; the database has it", told.line));
    }
    let mut rows = Lineup::default();
    inside.iter().chain(&behind).for_each(|told| rows.add(told.line));
    let last = behind.last().map_or(last_seen, |told| told.line.max(last_seen));
    let untold = (start + 1..=last).filter(|line| !seen.has(*line) && !rows.has(*line));
    for line in untold.take(DAMAGE_NAMED_MAX) {
        report.damaged(format!("line {line} is in neither witness: what it told is lost"));
    }
    report.lines_missing = behind;
}
