//! Makes a backup beside a daemon that runs or not, and removes those that are old.
//!
//! Reads the state directory and writes nothing there but what lies below the backups' directory.
//! Mends nothing: a copy that is not true gets no name, and one of a damaged tape, or of as much of
//! it as can be read, a name that says so.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::{
    Backups, Checked, Name, Progress, SUMS, check, database_in, digest, names, tape_in, want_room,
};
use crate::domain::provenance::Digest;
use crate::domain::time::AcceptedAt;
use crate::store::finder::Finder;
use crate::store::{
    OpenError, OpenErrorKind, database_path, lock, place, schema, sync_directory, tape, wal_path,
};
use crate::system::clock;

/// Pages copied at a time: 1 MiB, after which it is asked whether to go on.
const STEP_PAGES: i32 = 256;

/// Steps after which the copy is synced: else the disk would get all of it at once in the end, and
/// the writer's syncs would wait behind it.
const SYNC_STEPS: u64 = 8;

/// A WAL may grow by so much during a copy, or by the database's own size when that is more.
const WAL_GROWTH_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Copies that are begun, when something comes between.
const TRIES: usize = 5;

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// Its name.
    pub name: Name,
    /// What its check counted.
    pub checked: Checked,
    /// Older ones that are gone now.
    pub removed: Vec<Name>,
}

/// Makes a verified backup of a state directory, then removes older ones.
pub fn create(
    state_dir: &Path,
    backups: &Backups,
    disk_reserve: u64,
    progress: Progress<'_>,
) -> Result<Made, OpenError> {
    let source = schema::open_for_reading(state_dir)?;
    make(&source, state_dir, backups, disk_reserve, progress)
}

/// The same before the schema of a database is changed, by whoever has it open.
pub fn before_migration(
    source: &Connection,
    state_dir: &Path,
    backups: &Backups,
    disk_reserve: u64,
) -> Result<(), OpenError> {
    let made = make(source, state_dir, backups, disk_reserve, &mut |_, _, _| {});
    let made = made.map_err(|error| {
        let message = format!(
            "the database is of an older tilld and is not brought up to date, because there must \
             be a backup first: {error}; nothing was changed"
        );
        OpenError::new(error.kind, message)
    })?;
    log::info!("backup {} is made; now the database is brought up to date", made.name);
    Ok(())
}

fn make(
    source: &Connection,
    state_dir: &Path,
    backups: &Backups,
    disk_reserve: u64,
    progress: Progress<'_>,
) -> Result<Made, OpenError> {
    let directory = &backups.directory;
    let inaccessible = |error| OpenError::inaccessible(directory, error);
    let _alone = take(directory)?;
    remove_leftovers(directory).map_err(inaccessible)?;
    let earlier = names(directory).map_err(inaccessible)?;
    let previous = earlier.last().map(|name| tape::directory(&directory.join(name.to_string())));
    // Before the database is copied: what stands in a closed file is in the database by then.
    let tape = ClosedTape::of(state_dir, previous).map_err(inaccessible)?;
    check_room(source, &tape, directory, disk_reserve)?;

    let mut name = free_name(&earlier);
    let stage = directory.join(format!("{name}.new-{}", std::process::id()));
    let filled = fill(source, state_dir, &tape, &stage, progress);
    let checked = filled.map_err(|error| {
        // What cannot be removed now, the next one removes.
        let _ = fs::remove_dir_all(&stage);
        let message = format!("no backup was made, and earlier ones stay: {error}");
        OpenError::new(error.kind, message)
    })?;
    name.is_damaged = checked.differences_count > 0;
    fs::rename(&stage, directory.join(name.to_string())).map_err(inaccessible)?;
    sync_directory(directory).map_err(inaccessible)?;
    let removed = remove_old(directory, earlier, name, backups.keep_days).map_err(inaccessible)?;
    Ok(Made { name, checked, removed })
}

/// Makes the directory when it is not there. One backup is made at a time, because each removes
/// what an interrupted one left.
fn take(directory: &Path) -> Result<File, OpenError> {
    let inaccessible = |error| OpenError::inaccessible(directory, error);
    if !directory.is_dir() {
        DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(inaccessible)?;
        sync_directory(directory.parent().unwrap_or(Path::new("/"))).map_err(inaccessible)?;
    }
    let alone = File::open(directory).map_err(inaccessible)?;
    match alone.try_lock() {
        Ok(()) => Ok(alone),
        Err(TryLockError::Error(error)) => Err(inaccessible(error)),
        Err(TryLockError::WouldBlock) => {
            Err(inaccessible(io::Error::other("another backup is being made; wait for its end")))
        }
    }
}

fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let is_leftover =
            name.split_once(".new-").is_some_and(|(backup, _)| Name::parse(backup).is_ok());
        if is_leftover {
            fs::remove_dir_all(directory.join(&*name))?;
        }
    }
    Ok(())
}

/// By the clock; a clock that was put back may show a time that is taken.
fn free_name(earlier: &[Name]) -> Name {
    let now = AcceptedAt::new(clock::now());
    let mut name = Name { at: now, number: 1, is_damaged: false };
    if let Ok(to_the_second) = AcceptedAt::from_wall_clock(&now.wall_clock()) {
        name.at = to_the_second;
    }
    while earlier.iter().any(|taken| (taken.at, taken.number) == (name.at, name.number)) {
        name.number += 1;
    }
    name
}

/// The tape without the file that is being written.
struct ClosedTape {
    directory: PathBuf,
    names: Vec<String>,
    /// All lines up to this one stand in them.
    last_line: i64,
    /// The tape of the backup before.
    previous: Option<PathBuf>,
    /// What is to be copied at the most.
    bytes: u64,
}

impl ClosedTape {
    fn of(state_dir: &Path, previous: Option<PathBuf>) -> io::Result<ClosedTape> {
        let directory = tape::directory(state_dir);
        let mut names = tape::files(&directory)?;
        let open = names.pop().unwrap_or_default();
        // Where that cannot be read, nothing is known of it.
        let first = Finder::new(directory.clone()).first_good(&open, 0).ok().flatten();
        let last_line = first.map_or(0, |(line, _)| line - 1);
        let mut bytes = 0;
        for name in &names {
            let length = fs::metadata(directory.join(name))?.len();
            let previous = previous.as_ref().map(|previous| fs::metadata(previous.join(name)));
            if !matches!(previous, Some(Ok(previous)) if previous.len() == length) {
                bytes += length;
            }
        }
        Ok(ClosedTape { directory, names, last_line, previous, bytes })
    }

    /// Copies one file and gives the copy's checksum. A link to the original would be lost with it.
    /// What the backup before has just the same is linked to that, so that each closed file takes
    /// its place once, however many days are kept. What cannot be read here any more is taken from
    /// there too, because a closed file does not change; else it is `cut`.
    fn copy(&self, name: &str, to: &Path, cut: &mut Vec<String>) -> io::Result<Digest> {
        let from = self.directory.join(name);
        // One that may not be read can be, once a person sees to it.
        File::open(&from)?;
        let sum = digest(&from);
        let previous = self.previous.as_ref().map(|previous| previous.join(name));
        // One that cannot be read must not keep all later backups from being made.
        if let Some(previous) = previous.filter(|previous| previous.is_file())
            && let Ok(its) = digest(&previous)
            && sum.as_ref().ok().is_none_or(|sum| *sum == its)
        {
            if fs::hard_link(&previous, to).is_err() {
                copy_synced(&previous, to)?;
            }
            return Ok(its);
        }
        match sum {
            Ok(sum) => copy_synced(&from, to).map(|()| sum),
            Err(error) => {
                cut.push(format!("{} cannot be read to its end: {error}", tape_in(name)));
                copy_readable(&from, to)?;
                digest(to)
            }
        }
    }
}

fn copy_synced(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

/// Copies a file up to where it cannot be read.
fn copy_readable(from: &Path, to: &Path) -> io::Result<()> {
    let mut copy = OpenOptions::new().create_new(true).write(true).mode(0o640).open(to)?;
    let mut buffer = vec![0; 256 * 1024];
    if let Ok(mut from) = File::open(from) {
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            copy.write_all(&buffer[..read])?;
        }
    }
    copy.sync_all()
}

/// Wants twice the database: once for its copy, once for the WAL that may grow meanwhile; and the
/// daemon's reserve is none of ours.
fn check_room(
    source: &Connection,
    tape: &ClosedTape,
    directory: &Path,
    disk_reserve: u64,
) -> Result<(), OpenError> {
    let database = database_bytes(source)?;
    let wanted = (2 * database).saturating_add(tape.bytes).saturating_add(disk_reserve);
    want_room(
        directory,
        wanted,
        "no backup was begun",
        "(twice the database, the tape's closed files that no backup has, and disk_reserve); make \
         room, or set [backup] directory to another disk",
    )
}

fn database_bytes(source: &Connection) -> rusqlite::Result<u64> {
    let pages: u64 = source.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let page_bytes: u64 = source.pragma_query_value(None, "page_size", |row| row.get(0))?;
    Ok(pages * page_bytes)
}

/// Fills a directory with a copy, checks it and syncs it.
fn fill(
    source: &Connection,
    state_dir: &Path,
    tape: &ClosedTape,
    stage: &Path,
    progress: Progress<'_>,
) -> Result<Checked, OpenError> {
    let inaccessible = |error| OpenError::inaccessible(stage, error);
    let tape_stage = tape::directory(stage);
    DirBuilder::new().recursive(true).mode(0o750).create(&tape_stage).map_err(inaccessible)?;
    let database = database_path(stage);
    copy_database(source, state_dir, &database, progress)?;
    let mut sums = vec![(database_in(Path::new("")), digest(&database).map_err(inaccessible)?)];
    let mut cut = Vec::new();
    for (done, name) in (1..).zip(&tape.names) {
        let sum = tape.copy(name, &tape_stage.join(name), &mut cut).map_err(inaccessible)?;
        sums.push((tape_in(name), sum));
        progress("copied from the tape", done, tape.names.len() as u64);
    }
    write_sums(stage, &sums).map_err(inaccessible)?;
    let mut checked = check(stage, tape.last_line, progress)?;
    if checked.differences_count > 0 && !checked.is_true_copy {
        let message =
            format!("database and tape are damaged:\n  {}", checked.differences.join("\n  "));
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    // Whatever of it is missed otherwise.
    checked.differences_count += cut.len();
    checked.differences.extend(cut);
    sync_directory(&tape_stage).and_then(|()| sync_directory(stage)).map_err(inaccessible)?;
    Ok(checked)
}

fn write_sums(stage: &Path, sums: &[(String, Digest)]) -> io::Result<()> {
    let lines: Vec<String> =
        sums.iter().map(|(file, digest)| format!("{digest}  {file}\n")).collect();
    let path = stage.join(SUMS);
    fs::write(&path, lines.concat())?;
    File::open(path)?.sync_all()
}

/// Copies the database as it is at one moment into a single file, and syncs it.
fn copy_database(
    source: &Connection,
    state_dir: &Path,
    target: &Path,
    progress: Progress<'_>,
) -> Result<(), OpenError> {
    let inaccessible = |error| OpenError::inaccessible(target, error);
    for _ in 0..TRIES {
        if copy_snapshot(source, state_dir, target, progress)? {
            into_one_file(target)?;
            return File::open(target).and_then(|file| file.sync_all()).map_err(inaccessible);
        }
        place::remove(target).map_err(inaccessible)?;
    }
    let message = format!(
        "during each of {TRIES} copies the daemon was started or more was written than may be \
         held back for a copy; try again at a quieter time"
    );
    Err(OpenError::new(OpenErrorKind::Inaccessible, message))
}

/// One try; false when it was given up.
///
/// The copy goes step by step inside one read transaction. Without it SQLite begins a copy anew
/// whenever another process has written between two steps, and under a steady load it would never
/// end. The transaction holds nobody up, but as long as it is open the WAL is not begun anew and
/// grows with what is written: by so much as lasts one reading of the database, on usual disks
/// seconds. When it grows beyond a bound the transaction is let go at once, so the disk cannot fill
/// because of us. The same when a daemon starts, which answers -1009 as long as somebody reads an
/// older state.
fn copy_snapshot(
    source: &Connection,
    state_dir: &Path,
    target: &Path,
    progress: Progress<'_>,
) -> Result<bool, OpenError> {
    let inaccessible = |error| OpenError::inaccessible(target, error);
    let mut copy = Connection::open(target)?;
    // Nobody needs half a copy: what makes it durable is the sync at its end.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    let hold = Hold::begin(source, state_dir)?;
    let snapshot = source.unchecked_transaction()?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let backup = Backup::new(&snapshot, &mut copy)?;
    for step in 1.. {
        let stepped = backup.step(STEP_PAGES)?;
        let pages = backup.progress();
        let [total, left] = [pages.pagecount, pages.remaining]
            .map(|pages| u64::try_from(pages).unwrap_or_default());
        progress("copied", total.saturating_sub(left), total);
        match stepped {
            StepResult::Done => break,
            StepResult::More if hold.may_go_on() => {}
            _ => return Ok(false),
        }
        if step % SYNC_STEPS == 0 {
            File::open(target).and_then(|file| file.sync_data()).map_err(inaccessible)?;
        }
    }
    Ok(true)
}

/// What a copy holds back while it lasts.
struct Hold<'a> {
    state_dir: &'a Path,
    taken_at: Option<SystemTime>,
    wal_bytes_max: u64,
}

impl Hold<'_> {
    fn begin<'a>(source: &Connection, state_dir: &'a Path) -> rusqlite::Result<Hold<'a>> {
        let growth = database_bytes(source)?.max(WAL_GROWTH_BYTES_MIN);
        let wal_bytes_max = wal_bytes(state_dir) + growth;
        Ok(Hold { state_dir, taken_at: lock::taken_at(state_dir), wal_bytes_max })
    }

    fn may_go_on(&self) -> bool {
        wal_bytes(self.state_dir) <= self.wal_bytes_max
            && lock::taken_at(self.state_dir) == self.taken_at
    }
}

fn wal_bytes(state_dir: &Path) -> u64 {
    fs::metadata(wal_path(state_dir)).map_or(0, |wal| wal.len())
}

/// A copy that is no WAL database any more can be read from a disk that nobody may write to.
fn into_one_file(target: &Path) -> Result<(), OpenError> {
    let copy = Connection::open(target)?;
    let mode: String = copy.query_one("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
    copy.close().map_err(|(_, error)| error)?;
    if mode == "delete" {
        return Ok(());
    }
    Err(OpenError::inaccessible(target, format!("the copy keeps its journal mode, {mode}")))
}

/// Removes what is older than the days to be kept. Days are counted by the backups there are, not
/// by the clock: one that jumps by years removes no more than any other day does. What is dated
/// after the newest, which a wrong clock must have done, is the first to go. A damaged one takes
/// the place of damaged ones only, and its day does not count among those of whole ones.
fn remove_old(
    directory: &Path,
    mut earlier: Vec<Name>,
    newest: Name,
    keep_days: u32,
) -> io::Result<Vec<Name>> {
    earlier.sort_unstable_by_key(|name| (*name <= newest, *name));
    earlier.retain(|name| name.is_damaged || !newest.is_damaged);
    let mut days = BTreeSet::from([newest.at.date()]);
    let mut removed = Vec::new();
    for name in earlier.into_iter().rev() {
        let day = name.at.date();
        if days.contains(&day) || days.len() < keep_days as usize {
            if name.is_damaged == newest.is_damaged {
                days.insert(day);
            }
            continue;
        }
        // Its name goes first: what bears one is whole.
        let gone = directory.join(format!("{name}.new-gone"));
        fs::rename(directory.join(name.to_string()), &gone)?;
        fs::remove_dir_all(gone)?;
        removed.push(name);
    }
    sync_directory(directory)?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// What is left of these backups when `newest` is made.
    fn left(earlier: &[&str], newest: &str, keep_days: u32) -> Vec<String> {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        for name in earlier.iter().chain([&newest]) {
            fs::create_dir_all(directory.join(name).join("tape")).unwrap();
        }
        let parsed = earlier.iter().map(|name| Name::parse(name).unwrap()).collect();
        remove_old(directory, parsed, Name::parse(newest).unwrap(), keep_days).unwrap();
        assert_eq!(fs::read_dir(directory).unwrap().count(), names(directory).unwrap().len());
        names(directory).unwrap().iter().map(Name::to_string).collect()
    }

    const WEEK: [&str; 5] = [
        "2026-11-01T020000",
        "2026-11-02T020000",
        "2026-11-03T020000",
        "2026-11-03T020000-2",
        "2026-11-04T020000",
    ];

    #[test]
    fn so_many_days_are_kept_and_all_backups_of_a_day() {
        let kept = left(&WEEK, "2026-11-05T020000", 3);
        assert_eq!(kept[..2], WEEK[2..4]);
        assert_eq!(kept[2..], ["2026-11-04T020000", "2026-11-05T020000"]);
        assert_eq!(left(&WEEK, "2026-11-04T090000", 1), [WEEK[4], "2026-11-04T090000"]);
    }

    #[test]
    fn a_damaged_one_removes_no_whole_one_and_goes_when_its_day_is_over() {
        let damaged = |day: usize| format!("2026-11-{day:02}T020000-damaged");
        let mut earlier = vec![WEEK[0].to_owned(), WEEK[1].to_owned()];
        for day in 5..10 {
            let names: Vec<&str> = earlier.iter().map(String::as_str).collect();
            earlier = left(&names, &damaged(day), 2);
        }
        assert_eq!(earlier, [WEEK[0], WEEK[1], &damaged(8), &damaged(9)]);
        let names: Vec<&str> = earlier.iter().map(String::as_str).collect();
        let kept = left(&names, "2026-11-10T020000", 2);
        assert_eq!(kept, [WEEK[1], &damaged(8), &damaged(9), "2026-11-10T020000"]);
        let names: Vec<&str> = kept.iter().map(String::as_str).collect();
        let kept = left(&names, "2026-11-11T020000", 2);
        assert_eq!(kept, ["2026-11-10T020000", "2026-11-11T020000"]);
    }

    #[test]
    fn a_clock_that_jumps_removes_no_more_than_any_other_day_and_never_the_newest() {
        let kept = left(&WEEK, "2036-11-05T020000", 3);
        assert_eq!(kept, [WEEK[2], WEEK[3], WEEK[4], "2036-11-05T020000"]);
        let kept = left(&WEEK, "2016-11-05T020000", 3);
        assert_eq!(kept.len(), 4, "{kept:?}");
        assert_eq!(kept[0], "2016-11-05T020000");
        // When it is right again, what it dated wrongly goes first.
        let earlier = [WEEK[3], WEEK[4], "2036-11-05T020000"];
        assert_eq!(left(&earlier, "2026-11-05T020000", 3), [WEEK[3], WEEK[4], "2026-11-05T020000"]);
    }
}
