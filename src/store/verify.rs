//! Checks everything: the database's pages and indexes, the tape's chain and checksums, each line
//! against its row, each row against its line and its digest, and the sums of each day from both.
//!
//! Reads only, rows in small pages, with the daemon up or down; mends nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::acts::Deed;
use super::closing::{self, ByChannel};
use super::collections::EntryRow;
use super::lineup::Lineup;
use super::record;
use super::takings::Days;
use super::tape::{self, Line, Lines, What};
use super::{
    OpenError, OpenErrorKind, REBUILD, acts, agree, births, collections, deliveries, lock, outbox,
    rebuild, refusals, schema, wal_path,
};
use crate::domain::amount::Amount;
use crate::domain::collection::Collection;
use crate::domain::contract::Mode;
use crate::domain::provenance::Digest;
use crate::domain::time::BusinessDate;

/// Rows read at a time; a read transaction lasts no longer, but for that of the pages.
const PAGE_ROWS: usize = 500;

/// While the pages are read nothing of the WAL can be used again, so it grows under load. A check
/// that gives way stops when the WAL is longer than before and than this, in bytes, and begins
/// them anew.
const CALM_WAL_BYTES: u64 = 32 << 20;

/// SQLite's instructions, or pages, between two looks at the WAL.
const LOOK_INTERVAL: i32 = 10_000;

/// So often it gives way; then it must end.
const GIVEN_WAY_MAX: usize = 100;

/// What a check does where it is in the way of those who write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It goes on: somebody waits for it.
    Insists,
    /// It waits until they write less.
    GivesWay,
}

/// So many differences are named; the rest is counted.
const DIFFERENCES_NAMED_MAX: usize = 1000;

/// Lines between two reports of progress.
const PROGRESS_LINES: u64 = 1000;

/// What the check found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Lines on the tape.
    pub lines: u64,
    /// What does not fit, in words, at most 1,000 of them.
    pub differences: Vec<String>,
    /// How many differences there are.
    pub differences_count: usize,
    /// Count and sum of each business date from both witnesses.
    pub days: BTreeMap<BusinessDate, Day>,
}

/// One business date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// As the database has it.
    pub database: Sum,
    /// As the tape has it.
    pub tape: Sum,
}

/// A number of collections and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Centavos.
    pub centavos: i64,
}

impl Sum {
    fn add(&mut self, amount: Amount) {
        self.count += 1;
        self.centavos += amount.centavos();
    }
}

/// Checks a state directory, and compares these days; the tape's chain is always checked whole.
/// `progress` hears the bytes of tape read so far, and of all.
pub fn verify(
    state_dir: &Path,
    days: Days,
    manner: Manner,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, OpenError> {
    if rebuild::is_lost(state_dir).map_err(|error| OpenError::inaccessible(state_dir, error))? {
        let message = format!("the database in {} is gone; {REBUILD}", state_dir.display());
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    // Asked first: what is committed later may not stand on the tape yet while a daemon runs.
    let is_daemon_running = lock::is_taken(state_dir);
    let mut connection = schema::open_for_reading(state_dir)?;
    let directory = tape::directory(state_dir);
    let agreed_line = agree::mark(&connection)?.line();
    let mut compared =
        |is_end_open| compare(&connection, &directory, days, (is_end_open, agreed_line), progress);
    let mut found = compared(is_daemon_running)?;
    if !found.is_ok() && !is_daemon_running && lock::is_taken(state_dir) {
        // It was started meanwhile, and what it wrote came too late for the tape that was read.
        found = compared(true)?;
    }
    let wal = wal_path(state_dir);
    let wal_bytes = move || fs::metadata(&wal).map_or(0, |wal| wal.len());
    found.differ(match manner {
        // What differs already must not wait to be told.
        Manner::GivesWay if found.is_ok() => {
            check_pages_giving_way(&mut connection, wal_bytes, progress)?
        }
        _ => check_pages(&connection),
    });
    Ok(found)
}

/// As [`verify`], with a database that is open already. What is missing of the tape behind line
/// `open_behind` and behind its end is no difference: it is not expected to be there.
pub fn verify_with(
    connection: &Connection,
    directory: &Path,
    days: Days,
    open_behind: Option<i64>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, OpenError> {
    let end = (open_behind.is_some(), open_behind.unwrap_or(0));
    let mut found = compare(connection, directory, days, end, progress)?;
    found.differ(check_pages(connection));
    Ok(found)
}

/// Everything but the pages of the database.
fn compare(
    connection: &Connection,
    directory: &Path,
    days: Days,
    (is_end_open, agreed_line): (bool, i64),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, OpenError> {
    let mut check = Check {
        connection,
        days,
        is_live: agree::mode(connection)? == Mode::Live,
        found: Verified::default(),
        seen: Lineup::default(),
        births: Lineup::default(),
        last: (0, Digest([0; 32])),
        agreed_line,
        books: BTreeMap::new(),
        unanswered: [false; 2],
    };
    check.found.differ(schema::differences(connection)?);
    check.read_tape(directory, is_end_open, progress)?;
    check.read_births();
    check.read_rows(is_end_open, progress);
    check.read_refusals(is_end_open);
    check.read_deliveries_and_acts(is_end_open);
    check.compare_days();
    Ok(check.found)
}

/// What no line tells of has pages and indexes too, and the writer would stumble over a bad one:
/// SQLite's own check reads them all, in one transaction.
pub(super) fn check_pages(connection: &Connection) -> Vec<String> {
    in_words(integrity_check(connection))
}

/// The same, begun anew while the WAL gets longer.
fn check_pages_giving_way(
    connection: &mut Connection,
    wal_bytes: impl Fn() -> u64 + Clone + Send + 'static,
    progress: &mut dyn FnMut(u64, u64),
) -> rusqlite::Result<Vec<String>> {
    for _ in 0..GIVEN_WAY_MAX {
        let (now, bearable) = (wal_bytes.clone(), wal_bytes().max(CALM_WAL_BYTES));
        connection.progress_handler(LOOK_INTERVAL, Some(move || now() > bearable))?;
        match integrity_check(connection) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                progress(1, 1);
            }
            found => return Ok(in_words(found)),
        }
    }
    connection.progress_handler(LOOK_INTERVAL, None::<fn() -> bool>)?;
    Ok(check_pages(connection))
}

fn integrity_check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut check = connection.prepare("PRAGMA integrity_check")?;
    check.query_map([], |row| row.get(0))?.collect()
}

fn in_words(found: rusqlite::Result<Vec<String>>) -> Vec<String> {
    let messages = found.unwrap_or_else(|error| vec![error.to_string()]);
    let bad = messages.iter().filter(|message| *message != "ok");
    bad.map(|message| format!("the database's file: {message}")).collect()
}

/// Finds collections between two numbers that are not as they must be.
type Find = fn(&Connection, i64, i64) -> rusqlite::Result<Vec<i64>>;

struct Check<'a> {
    connection: &'a Connection,
    days: Days,
    is_live: bool,
    found: Verified,
    seen: Lineup,
    /// Those among them that tell of a birth.
    births: Lineup,
    /// Number and digest of the line before.
    last: (i64, Digest),
    /// All lines up to this one must be there, also where the end is open.
    agreed_line: i64,
    /// What the lines so far tell of each day, and which line closed it.
    books: BTreeMap<BusinessDate, (ByChannel, Option<i64>)>,
    /// Which questions about the queue could not be answered.
    unanswered: [bool; 2],
}

impl Check<'_> {
    fn differs(&mut self, what: String) {
        self.found.differ([what]);
    }

    fn read_tape(
        &mut self,
        directory: &Path,
        is_end_open: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), OpenError> {
        let unreadable = |error| OpenError::inaccessible(directory, error);
        let files = tape::files(directory).map_err(unreadable)?;
        let mut sizes = Vec::new();
        for name in &files {
            let size = std::fs::metadata(directory.join(name)).map_err(unreadable)?.len();
            sizes.push(size);
        }
        let total = sizes.iter().sum();
        let mut done = 0;
        for (name, size) in files.iter().zip(sizes) {
            for scanned in Lines::open(directory, name, 0).map_err(unreadable)? {
                let scanned = match scanned {
                    Ok(scanned) => scanned,
                    Err(error) => {
                        self.differs(format!("{name} cannot be read to its end: {error}"));
                        break;
                    }
                };
                if scanned.place.end > size {
                    // Written since the look at the size.
                    break;
                }
                let is_torn_end =
                    !scanned.is_whole && scanned.place.end == size && Some(name) == files.last();
                match &scanned.line {
                    Some(line) => self.check_line(name, line),
                    // The daemon may be in the middle of writing it.
                    None if is_torn_end && is_end_open => {}
                    None => self.differs(format!(
                        "{name}: at byte {} stands no good line",
                        scanned.place.start
                    )),
                }
                self.last.1 = scanned.digest;
                self.found.lines += 1;
                if self.found.lines.is_multiple_of(PROGRESS_LINES) {
                    progress(done + scanned.place.end, total);
                }
            }
            done += size;
            progress(done, total);
        }
        Ok(())
    }

    fn check_line(&mut self, name: &str, line: &Line) {
        let number = line.number;
        if line.previous != self.last.1 {
            self.differs(format!("{name}: line {number} does not follow the line before it"));
        }
        if number != self.last.0 + 1 {
            self.differs(format!("{name}: line {number} stands behind line {}", self.last.0));
        }
        self.last.0 = number;
        self.seen.add(number);
        let difference = match line.what {
            What::Store => self.check_birth(line),
            What::Collection => self.check_collection(line),
            What::Refusal => self.check_refusal(line),
            What::Delivery => self.check_delivery(line),
            What::Act => self.check_act(line),
        };
        match difference {
            Ok(None) => {}
            Ok(Some(difference)) => self.differs(difference),
            Err(error) => {
                self.differs(format!("line {number} cannot be compared with its row: {error}"));
            }
        }
    }

    fn check_birth(&mut self, line: &Line) -> rusqlite::Result<Option<String>> {
        self.births.add(line.number);
        let row = births::birth_in(self.connection, line.number)?;
        let differs = row.map(Ok) != Some(record::birth(&line.record));
        Ok(differs.then(|| format!("line {} tells of another database", line.number)))
    }

    fn check_collection(&mut self, line: &Line) -> rusqlite::Result<Option<String>> {
        let number = line.number;
        let Ok(told) = record::entry(&line.record) else {
            return Ok(Some(format!("the record of line {number} cannot be read")));
        };
        let collection = &told.confirmation.collection;
        let (channels, closed_by) = self.books.entry(told.business_date).or_default();
        let channel = collection.channel.code();
        closing::add(channels, channel, closing::one(collection.amount.centavos()));
        if let Some(close) = closed_by {
            let day = told.business_date;
            let what =
                format!("line {number} tells of a collection of {day}, closed by line {close}");
            self.differs(what);
        }
        if !self.days.has(told.business_date) {
            return Ok(None);
        }
        self.found.days.entry(told.business_date).or_default().tape.add(collection.amount);
        let sequence = told.sequence;
        // Found as the writer finds it, so that its index is checked as well.
        Ok(match collections::by_identity(self.connection, collection)? {
            None => Some(format!(
                "collection {sequence} (contract {}, receipt {}, {} pesos) of line {number} is \
                 not in the database",
                collection.contract, collection.receipt, collection.amount
            )),
            Some(row) if row.canonical != line.record => Some(format!(
                "collection {} in the database differs from line {number}",
                row.entry.sequence
            )),
            Some(row) if row.line != number => {
                Some(format!("line {number} tells again of collection {sequence}"))
            }
            Some(_) => None,
        })
    }

    fn check_refusal(&self, line: &Line) -> rusqlite::Result<Option<String>> {
        let number = line.number;
        let Ok(told) = record::refusal(&line.record) else {
            return Ok(Some(format!("the record of line {number} cannot be read")));
        };
        Ok(match refusals::by_id(self.connection, told.id)? {
            None => Some(format!("refusal {} of line {number} is not in the database", told.id)),
            Some(row) if record::of_refusal(&row.as_first()) != line.record => {
                Some(format!("refusal {} in the database differs from line {number}", told.id))
            }
            Some(_) => None,
        })
    }

    fn check_delivery(&self, line: &Line) -> rusqlite::Result<Option<String>> {
        let number = line.number;
        let Ok(told) = record::delivery(&line.record) else {
            return Ok(Some(format!("the record of line {number} cannot be read")));
        };
        let row = deliveries::delivery_in(self.connection, number)?;
        let sequence = told.sequence;
        Ok((row != Some(told)).then(|| {
            format!("the delivery of collection {sequence} of line {number} is not in the database")
        }))
    }

    fn check_act(&mut self, line: &Line) -> rusqlite::Result<Option<String>> {
        let number = line.number;
        let Ok(told) = record::act(&line.record) else {
            return Ok(Some(format!("the record of line {number} cannot be read")));
        };
        if let Deed::Close(day, figures) = &told.deed {
            let (channels, closed_by) = self.books.entry(*day).or_default();
            *closed_by = Some(number);
            if *channels != figures.channels {
                let what = "with other figures than the lines before it tell";
                self.differs(format!("line {number} closes {day} {what}"));
            }
        }
        let row = acts::act_in(self.connection, number)?;
        Ok((row != Some(told))
            .then(|| format!("what was done by line {number} is not in the database")))
    }

    /// Whether a row's line should have been seen: a running daemon may still be writing it, unless
    /// it was on the tape before.
    fn misses(&self, line: i64, is_end_open: bool) -> bool {
        !self.seen.has(line) && (!is_end_open || line <= self.last.0.max(self.agreed_line))
    }

    /// The last one may wait for the next start to be told.
    fn read_births(&mut self) {
        match births::lines_after(self.connection, 0) {
            Ok(lines) => {
                let (births, last) = (&self.births, self.last.0);
                let is_missed = |line: &i64| *line <= last && !births.has(*line);
                let missed: Vec<i64> = lines.into_iter().filter(is_missed).collect();
                for line in missed {
                    self.differs(format!("the birth of line {line} is not on the tape"));
                }
            }
            Err(error) => self.differs(format!("births: {error}")),
        }
    }

    fn read_rows(&mut self, is_end_open: bool, progress: &mut dyn FnMut(u64, u64)) {
        let mut after = 0;
        loop {
            // All of the tape is read; whoever paces this check is heard on.
            progress(1, 1);
            let page = match collections::page_after(self.connection, after, PAGE_ROWS) {
                Ok(page) => page,
                Err(error) if error.sqlite_error_code().is_none() => self.readable_after(after),
                Err(error) => return self.differs(format!("behind collection {after}: {error}")),
            };
            if page.is_empty() {
                return;
            }
            self.check_queue(after + 1, page.last().map_or(after, |row| row.entry.sequence));
            for row in page {
                let sequence = row.entry.sequence;
                match sequence - after {
                    1 => {}
                    2 => self.differs(format!("collection {} is not in the database", after + 1)),
                    _ => self.differs(format!(
                        "collections {} to {} are not in the database",
                        after + 1,
                        sequence - 1
                    )),
                }
                after = sequence;
                self.check_row(&row, is_end_open);
            }
        }
    }

    /// What was recorded for real is on its way to head office, there, or with a person.
    fn check_queue(&mut self, first: i64, last: i64) {
        if !self.is_live {
            return;
        }
        let forgotten = "is neither queued for head office nor delivered nor parked";
        let altered = "is queued for head office or parked with another amount than its own";
        let questions: [(Find, &str); 2] =
            [(outbox::forgotten, forgotten), (outbox::with_another_amount, altered)];
        for (question, (find, what)) in questions.into_iter().enumerate() {
            if self.unanswered[question] {
                continue;
            }
            match find(self.connection, first, last) {
                Ok(found) => {
                    for sequence in found {
                        self.differs(format!("collection {sequence} {what}"));
                    }
                }
                Err(error) => {
                    // One damaged page may be in the way of all that follow.
                    self.unanswered[question] = true;
                    self.differs(format!("the queue from collection {first} on: {error}"));
                }
            }
        }
    }

    fn check_row(&mut self, row: &EntryRow, is_end_open: bool) {
        let entry = &row.entry;
        if !self.days.has(entry.business_date) {
            return;
        }
        let is_missed = self.misses(row.line, is_end_open);
        if is_missed || self.seen.has(row.line) {
            let amount = entry.confirmation.collection.amount;
            self.found.days.entry(entry.business_date).or_default().database.add(amount);
        }
        let sequence = entry.sequence;
        if !row.is_intact {
            let Collection { contract, receipt, .. } = &entry.confirmation.collection;
            self.differs(format!(
                "collection {sequence} was altered in the database, which has it for contract \
                 {contract}, receipt {receipt}"
            ));
        }
        if is_missed {
            self.differs(format!("collection {sequence} (line {}) is not on the tape", row.line));
        }
    }

    /// The next page when one of its rows is unreadable: the others, while that one is named.
    fn readable_after(&mut self, after: i64) -> Vec<EntryRow> {
        let mut rows = Vec::new();
        for sequence in (after..).skip(1).take(PAGE_ROWS) {
            match collections::by_sequence(self.connection, sequence) {
                Ok(row) => rows.extend(row),
                Err(error) => self.differs(error.to_string()),
            }
        }
        rows
    }

    fn read_refusals(&mut self, is_end_open: bool) {
        let mut after = 0;
        loop {
            let page = match refusals::page_after(self.connection, after, PAGE_ROWS) {
                Ok(page) => page,
                Err(error) => return self.differs(format!("behind refusal {after}: {error}")),
            };
            let Some(last) = page.last() else { return };
            after = last.id;
            for row in page {
                if self.misses(row.line, is_end_open) {
                    let (id, line) = (row.id, row.line);
                    self.differs(format!("refusal {id} (line {line}) is not on the tape"));
                }
            }
        }
    }

    fn read_deliveries_and_acts(&mut self, is_end_open: bool) {
        let mut after = 0;
        loop {
            let lines = match deliveries::lines_after(self.connection, after, PAGE_ROWS) {
                Ok(lines) => lines,
                Err(error) => return self.differs(format!("deliveries and acts: {error}")),
            };
            let Some(last) = lines.last() else { return };
            after = *last;
            for line in lines {
                if self.misses(line, is_end_open) {
                    self.differs(format!("the delivery or act of line {line} is not on the tape"));
                }
            }
        }
    }

    /// Where no single row was found to differ, the sums must agree as well.
    fn compare_days(&mut self) {
        if self.found.differences_count > 0 {
            return;
        }
        let different: Vec<String> = self
            .found
            .days
            .iter()
            .filter(|(_, day)| day.database != day.tape)
            .map(|(date, _)| format!("the sums of {date} differ"))
            .collect();
        for what in different {
            self.differs(what);
        }
    }
}

impl Verified {
    /// Whether nothing differs.
    pub fn is_ok(&self) -> bool {
        self.differences_count == 0
    }

    fn differ(&mut self, what: impl IntoIterator<Item = String>) {
        for what in what {
            self.differences_count += 1;
            if self.differences.len() < DIFFERENCES_NAMED_MAX {
                self.differences.push(what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn the_pages_are_begun_anew_while_the_wal_gets_longer_and_read_to_their_end_when_it_does_not() {
        let mut connection = Connection::open_in_memory().unwrap();
        let fill = "CREATE TABLE filled (number INTEGER PRIMARY KEY, text TEXT UNIQUE);
                    WITH RECURSIVE numbers (number) AS
                        (VALUES (1) UNION ALL SELECT number + 1 FROM numbers WHERE number < 20000)
                    INSERT INTO filled SELECT number, hex(number) FROM numbers";
        connection.execute_batch(fill).unwrap();
        let (looks, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (looked, grown) = (Arc::clone(&looks), Arc::clone(&bytes));
        let wal_bytes = move || match looked.fetch_add(1, Ordering::Relaxed) {
            0..10 => grown.fetch_add(CALM_WAL_BYTES, Ordering::Relaxed),
            _ => grown.load(Ordering::Relaxed),
        };
        let mut begun_anew = 0;
        let found = check_pages_giving_way(&mut connection, wal_bytes, &mut |_, _| begun_anew += 1);
        assert_eq!(found.unwrap(), [""; 0]);
        assert!((2..10).contains(&begun_anew), "{begun_anew} times");
        assert!(looks.load(Ordering::Relaxed) > 10);
    }
}
