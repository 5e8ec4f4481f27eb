//! Backups: directories that each hold a verified copy of the database and of the tape.
//!
//! ```text
//! DIRECTORY/2026-11-22T021500/     when, in Philippine time; -2 and so on for more in one second
//!     tilld.db                     the database, one file without a WAL
//!     tape/                        all files of the tape but the one that was being written
//!     SHA256SUMS                   of all these, as sha256sum writes and checks them
//! DIRECTORY/last-verified          when the last good one was last found good
//! ```
//!
//! A directory gets such a name only after its copy was checked and synced, and loses it before
//! anything in it is removed: so what bears such a name is a whole backup, and nothing else needs
//! to say so. What came out damaged although it is a true copy, because the tape is, is called
//! `NAME-damaged` and takes the place of no whole one. What is being made or removed is called
//! `NAME.new-…`; whoever makes the next backup removes what is left of it.

mod create;
mod restore;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::takings::Days;
use super::verify::{check_pages, verify_with};
use super::{OpenError, OpenErrorKind, database_path, schema, tape};
use crate::domain::Invalid;
use crate::domain::provenance::Digest;
use crate::domain::time::AcceptedAt;
use crate::system::limits;
pub use create::{Made, before_migration, create};
pub use restore::{Restored, restore};

/// The file of checksums in a backup.
const SUMS: &str = "SHA256SUMS";

/// The file that tells when the last good backup was last found good; nothing depends on it.
const LAST_VERIFIED: &str = "last-verified";

/// Ends the name of a true copy of a damaged tape.
const DAMAGED: &str = "-damaged";

/// Where backups are, and how long they are kept.
#[derive(Clone, Debug)]
pub struct Backups {
    /// The directory that holds one directory for each.
    pub directory: PathBuf,
    /// So many days on which there were backups are kept.
    pub keep_days: u32,
}

impl Backups {
    /// Inside a state directory, for a week, as long as nothing else is configured.
    pub fn inside(state_dir: &Path) -> Backups {
        Backups { directory: state_dir.join("backups"), keep_days: 7 }
    }
}

/// Hears what is being done, how much of it is done, and how much there is.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// The name of a backup: when it was begun, to the second, the how manieth of that second, and
/// whether it holds a damaged tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    at: AcceptedAt,
    number: u32,
    is_damaged: bool,
}

impl Name {
    /// Parses `yyyy-MM-ddTHHmmss`, with `-2`, `-3` and so on behind it or not, then `-damaged` or
    /// not.
    pub fn parse(text: &str) -> Result<Name, Invalid> {
        let invalid = Invalid { expected: "the name of a backup, as yyyy-MM-ddTHHmmss" };
        let (whole, is_damaged) =
            text.strip_suffix(DAMAGED).map_or((text, false), |whole| (whole, true));
        let (time, number) = whole.split_at_checked(17).ok_or(invalid)?;
        let (date, time) = time.split_once('T').ok_or(invalid)?;
        let digits = |from: usize| time.get(from..from + 2).unwrap_or_default();
        let wall_clock = format!("{date} {}:{}:{}", digits(0), digits(2), digits(4));
        let at = AcceptedAt::from_wall_clock(&wall_clock).map_err(|_| invalid)?;
        let number = match number.strip_prefix('-') {
            None if number.is_empty() => 1,
            None => return Err(invalid),
            Some(number) => number.parse().map_err(|_| invalid)?,
        };
        let name = Name { at, number, is_damaged };
        // One backup has one name.
        if name.to_string() == text { Ok(name) } else { Err(invalid) }
    }

    /// Whether it is a true copy of what was damaged already.
    pub fn is_damaged(self) -> bool {
        self.is_damaged
    }

    /// When it was begun, by the clock of that time.
    pub fn at(self) -> AcceptedAt {
        self.at
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at.wall_clock().replace(' ', "T").replace(':', ""))?;
        if self.number > 1 {
            write!(f, "-{}", self.number)?;
        }
        f.write_str(if self.is_damaged { DAMAGED } else { "" })
    }
}

/// The names of the backups in a directory, in order; none when there is no such directory.
pub fn names(directory: &Path) -> io::Result<Vec<Name>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(Name::parse(&entry?.file_name().to_string_lossy()));
    }
    names.sort_unstable();
    Ok(names)
}

/// The last good backup in a directory, and when it was last found good. What a clock has put
/// beyond `now` says nothing.
pub fn last_good(directory: &Path, now: AcceptedAt) -> io::Result<Option<(Name, AcceptedAt)>> {
    let is_good = |name: &Name| !name.is_damaged() && name.at() <= now;
    let last = names(directory)?.into_iter().filter(is_good).max_by_key(|name| name.at());
    let noted = fs::read_to_string(directory.join(LAST_VERIFIED)).unwrap_or_default();
    let noted = AcceptedAt::from_wall_clock(noted.trim_end()).ok().filter(|at| *at <= now);
    // Each is checked before it bears its name.
    Ok(last.map(|name| (name, noted.map_or(name.at(), |noted| noted.max(name.at())))))
}

/// Notes that the last good backup was found good.
pub fn note_verified(directory: &Path, now: AcceptedAt) -> io::Result<()> {
    let path = directory.join(LAST_VERIFIED);
    // It may be another user's, in a directory where both may write.
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    fs::write(path, now.wall_clock() + "\n")
}

/// The backup of this name, if it is there.
pub fn find(directory: &Path, name: &str) -> io::Result<Option<Name>> {
    Ok(names(directory)?.into_iter().find(|found| found.to_string() == name))
}

/// What a look at a backup tells.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its name.
    pub name: Name,
    /// Collections in it; none when they cannot be counted.
    pub collections: Option<i64>,
    /// Bytes in its files. Closed files of the tape are shared with other backups, where the file
    /// system can do that.
    pub bytes: u64,
}

/// Looks at a backup without checking it.
pub fn look(directory: &Path, name: Name) -> io::Result<Kept> {
    let place = directory.join(name.to_string());
    let counted = schema::open_of_any_age(&place).ok().and_then(|(copy, _)| count(&copy).ok());
    Ok(Kept { name, collections: counted, bytes: bytes_below(&place)? })
}

/// What the check of a backup found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Collections in its database; none when it cannot be read.
    pub collections: Option<i64>,
    /// Lines on its tape.
    pub lines: u64,
    /// What is wrong, in words; the first of it, when there is much.
    pub differences: Vec<String>,
    /// How much is wrong.
    pub differences_count: usize,
    /// Whether the files are what was copied and the database is good in itself, so that what is
    /// wrong is wrong with the tape that was copied.
    pub is_true_copy: bool,
}

/// Checks a backup: its checksums, then all that [`verify_with`] holds database and tape to.
pub fn verify(directory: &Path, name: Name, progress: Progress<'_>) -> Result<Checked, OpenError> {
    check(&directory.join(name.to_string()), 0, progress)
}

/// All lines up to `last_line` must be there.
fn check(place: &Path, last_line: i64, progress: Progress<'_>) -> Result<Checked, OpenError> {
    let inaccessible = |error| OpenError::inaccessible(place, error);
    let differences = check_sums(place, progress).map_err(inaccessible)?;
    if !differences.is_empty() {
        let differences_count = differences.len();
        return Ok(Checked { differences, differences_count, ..Checked::default() });
    }
    let (copy, is_current) = schema::open_of_any_age(place)?;
    let collections = Some(count(&copy)?);
    if !is_current {
        // Of an older schema only the pages and the schema itself are known; its rows were checked
        // by that version.
        let differences = [schema::differences(&copy)?, check_pages(&copy)].concat();
        let differences_count = differences.len();
        return Ok(Checked { collections, differences, differences_count, ..Checked::default() });
    }
    // The tape's last file is not there, so its end is open; all rows beyond it must still fit
    // their digests.
    let directory = tape::directory(place);
    let mut told = |done, total| progress("checked", done, total);
    let verified = verify_with(&copy, &directory, Days::default(), Some(last_line), &mut told)?;
    let is_true_copy = verified.is_ok() || {
        // Beyond a tape without a line all rows stand for themselves.
        let no_tape = place.join("no-tape");
        verify_with(&copy, &no_tape, Days::default(), Some(0), &mut told)?.is_ok()
    };
    Ok(Checked {
        is_true_copy,
        collections,
        lines: verified.lines,
        differences: verified.differences,
        differences_count: verified.differences_count,
    })
}

/// Names the files that are not what they were when the backup was made, or not there.
fn check_sums(place: &Path, progress: Progress<'_>) -> io::Result<Vec<String>> {
    let sums = match read_sums(place) {
        Ok(sums) => sums,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(vec![format!("{SUMS} is missing")]);
        }
        Err(error) => return Err(error),
    };
    let Some(sums) = sums else { return Ok(vec![format!("{SUMS} cannot be read")]) };
    let mut differences = Vec::new();
    let present = files(place)?;
    for file in present.iter().filter(|file| !sums.contains_key(*file)) {
        differences.push(format!("{file} is not in {SUMS}"));
    }
    for (done, (file, told)) in (1..).zip(&sums) {
        if !present.contains(file) {
            differences.push(format!("{file} is missing"));
        } else if digest(&place.join(file))? != *told {
            differences.push(format!("{file} is not what it was"));
        }
        progress("summed", done, sums.len() as u64);
    }
    Ok(differences)
}

/// Checksums by file; nothing when the file does not have the form.
fn read_sums(place: &Path) -> io::Result<Option<BTreeMap<String, Digest>>> {
    let text = String::from_utf8_lossy(&fs::read(place.join(SUMS))?).into_owned();
    let line = |line: &str| {
        let (digest, file) = line.split_once("  ")?;
        Some((file.to_owned(), Digest::parse(digest).ok()?))
    };
    let sums: Option<BTreeMap<_, _>> = text.lines().map(line).collect();
    Ok(sums.filter(|sums| sums.contains_key(&database_in(Path::new("")))))
}

/// The files that belong to a backup, as its checksums name them.
fn files(place: &Path) -> io::Result<Vec<String>> {
    let mut files: Vec<String> =
        tape::files(&tape::directory(place))?.iter().map(|name| tape_in(name)).collect();
    let database = database_in(Path::new(""));
    if place.join(&database).exists() {
        files.push(database);
    }
    Ok(files)
}

fn database_in(place: &Path) -> String {
    database_path(place).display().to_string()
}

fn tape_in(name: &str) -> String {
    tape::directory(Path::new("")).join(name).display().to_string()
}

/// Refuses to go on when the disk of a directory has not so many bytes free.
fn want_room(directory: &Path, bytes: u64, refused: &str, of_what: &str) -> Result<(), OpenError> {
    let free = limits::free_bytes(directory);
    let free = free.map_err(|error| OpenError::inaccessible(directory, error))?;
    if free >= bytes {
        return Ok(());
    }
    let message = format!(
        "{refused}: {} MiB are free on the disk of {}, and {} MiB are wanted {of_what}",
        free / (1024 * 1024),
        directory.display(),
        bytes.div_ceil(1024 * 1024),
    );
    Err(OpenError::new(OpenErrorKind::Inaccessible, message))
}

/// SHA-256 of a file.
fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(sum.finalize().into())),
            read => sum.update(&buffer[..read]),
        }
    }
}

fn count(database: &rusqlite::Connection) -> rusqlite::Result<i64> {
    database.query_row("SELECT count(*) FROM collection", [], |row| row.get(0))
}

fn bytes_below(place: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_one_moment_in_one_way() {
        for text in ["2026-11-22T021500", "2026-11-22T021500-2", "2036-02-29T235959-17-damaged"] {
            assert_eq!(Name::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "2026-11-22",
            "2026-11-22T021500-1",
            "2026-11-22T021500-damaged-2",
            "2026-11-22T021500-02",
            "2026-11-22T021500.new-7",
            "2026-02-30T021500",
            "2026-11-22T02150é",
            "../../etc/tilld.d",
        ] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
        let at = Name::parse("2026-11-22T021500-2").unwrap().at();
        assert_eq!(at.to_string(), "2026-11-22T02:15:00.000+08:00");
    }
}
