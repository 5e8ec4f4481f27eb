//! The tape: a second witness of everything that was answered, as cash registers keep one.
//!
//! `state_dir/tape/NNNNNN-YYYY-MM-DD.jsonl`, append-only. The number orders the files, the date
//! labels them: a new file is begun whenever the date differs from the last one's, so a clock that
//! jumps breaks nothing. Each line is one JSON object, readable with `less`:
//!
//! ```json
//! {"line":7,"at":"2026-11-21T10:00:00.000+08:00","what":"collection","record":{…},
//!  "previous":"<SHA-256 of the line before>","check":"<16 hex digits>"}
//! ```
//!
//! (on one line). `line` counts from 1 through all files without gaps. `what` is `store` (a
//! database was made), `collection`, `refusal`, `delivery` (what became of a collection at head
//! office) or `act` (what a person did); `record` is its canonical form. `previous` is the SHA-256
//! of the line before, without its line feed, and 64 zeros for the first. `check` is the beginning
//! of the SHA-256 of all that stands before `,"check"`, so that a torn last line, which no later
//! line vouches for, is known as such.
//!
//! This module formats, appends and reads lines. What they mean is for others.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::sync_directory;
use crate::domain::provenance::Digest;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::system::watchdog::Pulse;

/// The longest line that is read, in bytes: the close of a day on which each of the 100,000
/// channels that five digits can name was used fits.
pub const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// In the name of a torn end that was set aside, behind that of its file.
pub const TORN: &str = ".torn-";

/// What stands in a line behind all that its check vouches for, and before that.
const CHECK: &str = ",\"check\":\"";

/// The tape's directory inside a state directory.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("tape")
}

/// What a line tells of.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A database was made.
    Store,
    /// A collection was recorded.
    Collection,
    /// A refusal was kept.
    Refusal,
    /// It is decided what became of a collection at head office.
    Delivery,
    /// A person did something.
    Act,
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            What::Store => "store",
            What::Collection => "collection",
            What::Refusal => "refusal",
            What::Delivery => "delivery",
            What::Act => "act",
        }
    }
}

/// A line that is good by itself.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number.
    pub number: i64,
    /// What it tells of.
    pub what: What,
    /// The canonical record.
    pub record: String,
    /// The digest that it gives for the line before.
    pub previous: Digest,
}

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// The offset of the line's first byte.
    pub start: u64,
    /// The offset behind its line feed.
    pub end: u64,
}

/// A stretch of a file up to a line feed or the file's end.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Where it stands.
    pub place: Place,
    /// SHA-256 of it, without its line feed.
    pub digest: Digest,
    /// Whether it ends with a line feed. What does not was never acknowledged.
    pub is_whole: bool,
    /// The line; `None` when it is not a good one.
    pub line: Option<Line>,
}

/// The names of the tape's files, in order.
pub fn files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if parse_name(&name).is_some() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// How long the tape's files are, all together.
pub fn bytes(directory: &Path) -> io::Result<u64> {
    files(directory)?.iter().map(|name| Ok(fs::metadata(directory.join(name))?.len())).sum()
}

/// Whether a file was gone on from before the eve of this day, so that it tells of nothing on it: a
/// collection stands in the books of the day after it came at the latest.
pub fn is_before(name: &str, day: BusinessDate) -> bool {
    parse_name(name).and_then(|(_, date)| date.following()).is_some_and(|next| next < day)
}

/// Number and date in a file's name.
fn parse_name(name: &str) -> Option<(u32, BusinessDate)> {
    let (number, date) = name.strip_suffix(".jsonl")?.split_at_checked(6)?;
    let date = BusinessDate::parse(date.strip_prefix('-')?).ok()?;
    Some((number.parse().ok()?, date))
}

/// Reads a file's lines from `start` on.
pub struct Lines {
    name: String,
    reader: BufReader<File>,
    offset: u64,
}

impl Lines {
    /// The lines of the named file, the first one at this offset.
    pub fn open(directory: &Path, name: &str, start: u64) -> io::Result<Lines> {
        let mut file = File::open(directory.join(name))?;
        file.seek(SeekFrom::Start(start))?;
        let reader = BufReader::with_capacity(256 * 1024, file);
        Ok(Lines { name: name.to_owned(), reader, offset: start })
    }

    /// The next good line that contains this text; the others are neither hashed nor parsed. Ends
    /// before a stretch without a line feed. `passed` is told the offset at each full mebibyte.
    pub fn next_with(
        &mut self,
        text: &str,
        passed: &mut dyn FnMut(u64),
    ) -> io::Result<Option<Line>> {
        let mut bytes = Vec::with_capacity(1024);
        loop {
            bytes.clear();
            (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            let length = bytes.len() as u64;
            if bytes.pop() != Some(b'\n') {
                return Ok(None);
            }
            let full = self.offset >> 20;
            self.offset += length;
            if self.offset >> 20 != full {
                passed(self.offset);
            }
            let is_meant = str::from_utf8(&bytes).is_ok_and(|line| line.contains(text));
            if let Some(line) = is_meant.then(|| parse(&bytes, &sums(&bytes).1)).flatten() {
                return Ok(Some(line));
            }
        }
    }

    /// The offset behind the last line that was read.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl Iterator for Lines {
    type Item = io::Result<Scanned>;

    fn next(&mut self) -> Option<io::Result<Scanned>> {
        let mut bytes = Vec::with_capacity(1024);
        match (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
        let start = self.offset;
        self.offset += bytes.len() as u64;
        let place = Place { file: self.name.clone(), start, end: self.offset };
        let is_whole = bytes.pop_if(|last| *last == b'\n').is_some();
        let (digest, check) = sums(&bytes);
        let line = if is_whole { parse(&bytes, &check) } else { None };
        Some(Ok(Scanned { place, digest, is_whole, line }))
    }
}

/// The SHA-256 of a line, and what it must give as `check`. What that vouches for is hashed once
/// for both.
fn sums(line: &[u8]) -> (Digest, String) {
    let end = line.windows(CHECK.len()).rposition(|part| part == CHECK.as_bytes());
    let (checked, rest) = line.split_at(end.unwrap_or(line.len()));
    let hash = Sha256::new_with_prefix(checked);
    let check = check(hash.clone());
    (Digest(hash.chain_update(rest).finalize().into()), check)
}

/// A good line of this text, in which this must stand as `check`.
fn parse(bytes: &[u8], check: &str) -> Option<Line> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Form<'a> {
        line: i64,
        #[serde(rename = "at")]
        _at: &'a str,
        what: What,
        #[serde(borrow)]
        record: &'a RawValue,
        previous: &'a str,
        check: &'a str,
    }
    let form: Form<'_> = serde_json::from_slice(bytes).ok()?;
    (form.check == check).then_some(())?;
    Some(Line {
        number: form.line,
        what: form.what,
        record: form.record.get().to_owned(),
        previous: Digest::parse(form.previous).ok()?,
    })
}

fn check(hash: Sha256) -> String {
    let mut check = Digest(hash.finalize().into()).to_string();
    check.truncate(16);
    check
}

/// Something that is to stand on the tape.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its line's number.
    pub line: i64,
    /// When it happened.
    pub at: AcceptedAt,
    /// What it is.
    pub what: What,
    /// Its canonical record.
    pub record: String,
}

/// Where a tape ends.
#[derive(Clone, Debug)]
pub struct End {
    /// The number of the last line.
    pub line: i64,
    /// Where it stands.
    pub place: Place,
    /// Its SHA-256.
    pub digest: Digest,
    /// The last file's name and length; nothing need stand in it yet.
    pub file: (String, u64),
}

/// The end of the tape, where lines are added.
pub struct Tape {
    directory: PathBuf,
    /// The last file, when it could be opened.
    file: Option<File>,
    name: String,
    /// Bytes of the last file that are written and synced.
    length: u64,
    /// The last line that is written and synced.
    last_line: i64,
    last_place: Place,
    /// The SHA-256 of the last line, written or still pending.
    last_digest: Digest,
    /// Lines that are still to be written.
    pending: String,
    /// The number of the last pending line, and where in `pending` it begins.
    pending_last: Option<(i64, usize)>,
    /// Whether a write broke off and left something behind `length`.
    is_torn: bool,
    /// Whether the last file cannot be gone on with.
    is_new_file_due: bool,
}

/// Why lines could not be added.
#[derive(Debug)]
pub enum AppendError {
    /// Nothing is lost: it will be tried again.
    Refused(io::Error),
    /// A sync failed: what the disk holds is unknown.
    Unknown(io::Error),
}

impl Tape {
    /// The tape that goes on behind this end, in its last file, unless that is gone or does not
    /// end there.
    pub fn at_end(directory: PathBuf, end: End) -> Tape {
        let End { line, place, digest, file: (name, length) } = end;
        let is_as_told = |file: fs::Metadata| file.is_file() && file.len() == length;
        Tape {
            file: None,
            last_line: line,
            last_digest: digest,
            pending: String::new(),
            pending_last: None,
            is_torn: false,
            is_new_file_due: !fs::metadata(directory.join(&name)).is_ok_and(is_as_told),
            last_place: place,
            directory,
            name,
            length,
        }
    }

    /// The last durable line's number, place and SHA-256; only while nothing is pending.
    pub fn end(&self) -> Option<(i64, &Place, Digest)> {
        self.pending.is_empty().then_some((self.last_line, &self.last_place, self.last_digest))
    }

    /// The last durable line.
    pub fn last_line(&self) -> i64 {
        self.last_line
    }

    /// Takes lines that are to be written with the next ones.
    pub fn hold(&mut self, told: &[Told]) {
        for told in told {
            self.format(told);
        }
    }

    /// Adds lines and makes them durable: one write, one sync. What could not be written stays
    /// pending and is completed by the next call.
    pub fn append(&mut self, told: &[Told], today: BusinessDate) -> Result<(), AppendError> {
        self.hold(told);
        self.complete(today)
    }

    /// Gives the tape up, without what a write that broke off left on it.
    pub fn abandon(self) {
        if let Some(file) = self.file.filter(|_| self.is_torn) {
            // Should that fail, the next comparison sets it aside.
            let _ = file.set_len(self.length);
        }
    }

    fn format(&mut self, told: &Told) {
        self.pending_last = Some((told.line, self.pending.len()));
        self.last_digest = write_line(&mut self.pending, told, self.last_digest);
    }

    fn complete(&mut self, today: BusinessDate) -> Result<(), AppendError> {
        let Some((line, start)) = self.pending_last else { return Ok(()) };
        if self.is_torn {
            // What an earlier try left behind the last line is only a part of what is pending.
            if let Some(file) = &self.file {
                file.set_len(self.length).map_err(AppendError::Refused)?;
                // What is pending may go to another file: it must never stand in both.
                file.sync_data().map_err(AppendError::Unknown)?;
            }
            self.is_torn = false;
        }
        self.go_to_file_of(today)?;
        let file = self.file.as_ref().ok_or_else(|| refused(io::ErrorKind::NotFound))?;
        if let Err(error) = file.write_all_at(self.pending.as_bytes(), self.length) {
            self.is_torn = true;
            return Err(AppendError::Refused(error));
        }
        file.sync_data().map_err(AppendError::Unknown)?;
        let end = self.length + self.pending.len() as u64;
        self.last_place = Place { file: self.name.clone(), start: self.length + start as u64, end };
        self.last_line = line;
        self.length = end;
        self.pending.clear();
        self.pending_last = None;
        Ok(())
    }

    /// Opens the file to write to: the last one, or a new one when the date differs from its.
    fn go_to_file_of(&mut self, today: BusinessDate) -> Result<(), AppendError> {
        let last = parse_name(&self.name);
        if !self.is_new_file_due && last.is_some_and(|(_, date)| date == today) {
            let path = self.directory.join(&self.name);
            return match &self.file {
                // What was written to it is nowhere but in the database: the next start tells it.
                Some(file) if is_replaced(file, &path) => Err(AppendError::Unknown(
                    io::Error::other(format!("{} was removed or replaced", path.display())),
                )),
                Some(_) => Ok(()),
                None => {
                    let file = OpenOptions::new().write(true).open(path);
                    self.file = Some(file.map_err(AppendError::Refused)?);
                    Ok(())
                }
            };
        }
        let number = last.map_or(1, |(number, _)| number + 1);
        let name = format!("{number:06}-{today}.jsonl");
        if !self.directory.is_dir() {
            let parent = self.directory.parent().unwrap_or(Path::new("/"));
            let made = fs::DirBuilder::new().mode(0o750).create(&self.directory);
            made.map_err(AppendError::Refused)?;
            sync_directory(parent).map_err(AppendError::Unknown)?;
        }
        let path = self.directory.join(&name);
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        self.file = Some(file.map_err(AppendError::Refused)?);
        self.name = name;
        self.length = 0;
        self.is_new_file_due = false;
        sync_directory(&self.directory).map_err(AppendError::Unknown)
    }
}

/// Whether others find something else than this open file there, or nothing.
fn is_replaced(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(here), Ok(there)) => (here.dev(), here.ino()) != (there.dev(), there.ino()),
        (_, Err(error)) => error.kind() == io::ErrorKind::NotFound,
        (Err(_), _) => false,
    }
}

/// Writes a line behind the one with the digest `previous`, and gives its own.
fn write_line(text: &mut String, told: &Told, previous: Digest) -> Digest {
    let start = text.len();
    let Told { line, at, what, record } = told;
    let what = what.as_str();
    let _ = write!(
        text,
        "{{\"line\":{line},\"at\":\"{at}\",\"what\":\"{what}\",\"record\":{record},\
         \"previous\":\"{previous}\""
    );
    // What `check` vouches for is hashed once for it and for the line.
    let hash = Sha256::new_with_prefix(&text[start..]);
    let end = text.len();
    let _ = write!(text, "{CHECK}{}\"}}", check(hash.clone()));
    let hash = hash.chain_update(&text[end..]);
    text.push('\n');
    Digest(hash.finalize().into())
}

/// How long a line is that tells this, with its line feed.
pub fn line_bytes(told: &Told) -> u64 {
    let mut line = String::new();
    write_line(&mut line, told, Digest([0; 32]));
    line.len() as u64
}

fn refused(kind: io::ErrorKind) -> AppendError {
    AppendError::Refused(kind.into())
}

/// Sets the stretch behind `end` aside in a file beside it, then cuts it off: a torn last line is
/// never deleted. Gives the new file's name.
pub fn set_aside(directory: &Path, name: &str, end: u64) -> io::Result<String> {
    let path = directory.join(name);
    let mut torn = Vec::new();
    let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
    file.seek(SeekFrom::Start(end))?;
    file.read_to_end(&mut torn)?;
    let (aside, copy) = (1..)
        .find_map(|number| {
            let aside = format!("{name}{TORN}{number}");
            match OpenOptions::new().write(true).create_new(true).open(directory.join(&aside)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                opened => Some(opened.map(|file| (aside, file))),
            }
        })
        .ok_or(io::ErrorKind::AlreadyExists)??;
    let copied = copy.write_all_at(&torn, 0).and_then(|()| copy.sync_all());
    if let Err(error) = copied.and_then(|()| sync_directory(directory)) {
        // A half copy on a full disk would only stand in the way of the next try.
        let _ = fs::remove_file(directory.join(&aside));
        return Err(error);
    }
    file.set_len(end)?;
    file.sync_all()?;
    Ok(aside)
}

/// Writes a stretch of a file over itself and syncs it: what an earlier process wrote but could
/// not sync may sit in the page cache only, marked as clean. `pulse` beats meanwhile.
pub fn write_over(
    directory: &Path,
    name: &str,
    stretch: Range<u64>,
    pulse: &Pulse,
) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(directory.join(name))?;
    let mut offset = stretch.start;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let left = usize::try_from(stretch.end - offset).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let read = file.read_at(&mut buffer[..wanted], offset)?;
        if read == 0 {
            return file.sync_all();
        }
        file.write_all_at(&buffer[..read], offset)?;
        pulse.beat();
        offset += read as u64;
    }
}
