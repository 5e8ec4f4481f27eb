//! The database file: how it is opened, what is in it, and how older ones are brought up to date.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::Access;

use super::{OpenError, OpenErrorKind, WAL_BYTES_MAX, births, database_path};
use crate::domain::contract::Mode;

/// "tild" in ASCII: `file` and other tools can tell whose database this is.
const APPLICATION_ID: i32 = 0x7469_6c64;

/// Readers wait this long for a checkpoint that is resetting the WAL.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The oldest SQLite without the WAL-reset bug, in which a commit could be overwritten.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// Append-only: the length of this list is the schema's version (`user_version`). What stands in it
/// is never changed, not even a comment: every database is held to it, see [`differences`].
const MIGRATIONS: &[&str] = &[include_str!("schema/1.sql")];

/// What `user_version` says of a database that is up to date.
#[expect(clippy::cast_possible_truncation, reason = "the list above is short")]
const VERSION: u8 = MIGRATIONS.len() as u8;

/// What is done before a database that holds something is migrated; when it fails, nothing is.
pub type BeforeMigration<'a> = &'a mut dyn FnMut(&Connection) -> Result<(), OpenError>;

/// Opens the database for the one writer, creates or migrates it, and checks that it belongs to
/// this mode.
///
/// The caller must hold the state directory's lock.
pub fn open_for_writing(
    path: &Path,
    mode: Mode,
    before_migration: BeforeMigration<'_>,
) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        let message = format!("SQLite {} is too old; 3.51.3 is needed", rusqlite::version());
        return Err(OpenError::new(OpenErrorKind::Mismatch, message));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    check_version(&connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    if connection.is_readonly("main")? {
        let message = format!("{} cannot be written; mind its owner and mode", path.display());
        return Err(OpenError::new(OpenErrorKind::Inaccessible, message));
    }
    persist_wal(&connection)?;
    set_pragmas(&connection)?;
    migrate(&mut connection, mode, MIGRATIONS, before_migration)?;
    if let Some(difference) = differences(&connection)?.into_iter().next() {
        return Err(OpenError::damaged(difference));
    }
    check_mode(&connection, mode)?;
    Ok(connection)
}

/// Names what the database declares otherwise than its version of the schema does. SQLite obeys the
/// text that it finds in the file and has no checksum for it: one bit in it may forbid what is
/// right, or allow what is wrong.
pub fn differences(connection: &Connection) -> Result<Vec<String>, OpenError> {
    let version = usize::from(check_version(connection)?);
    let model = Connection::open_in_memory()?;
    for migration in &MIGRATIONS[..version] {
        model.execute_batch(migration)?;
    }
    let (expected, found) = (declarations(&model)?, declarations(connection)?);
    let differing = expected.symmetric_difference(&found);
    let names: BTreeSet<&str> = differing.map(|declaration| declaration.name.as_str()).collect();
    Ok(names.into_iter().map(|name| format!("{name:?} is not declared as it was made")).collect())
}

/// What a database is made of, in its own words.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Declaration {
    name: String,
    kind: String,
    table: String,
    sql: String,
}

fn declarations(connection: &Connection) -> rusqlite::Result<BTreeSet<Declaration>> {
    // What is SQLite's own is not ours to tell: ANALYZE, for one, leaves its figures there.
    let sql = "SELECT name, type, tbl_name, sql FROM sqlite_schema
               WHERE substr(name, 1, 7) <> 'sqlite_'";
    let mut declared = connection.prepare(sql)?;
    let declarations = declared.query_map([], |row| {
        Ok(Declaration {
            name: row.get(0)?,
            kind: row.get(1)?,
            table: row.get(2)?,
            sql: row.get(3)?,
        })
    })?;
    declarations.collect()
}

/// Opens the database for reading only; works with the daemon up or down.
pub fn open_for_reading(state_dir: &Path) -> Result<Connection, OpenError> {
    let (connection, is_current) = open_of_any_age(state_dir)?;
    if !is_current {
        let message =
            "the database is of an older tilld: start the daemon once to bring it up to date";
        return Err(OpenError::new(OpenErrorKind::Mismatch, message));
    }
    Ok(connection)
}

/// The same also for a database that an older version has written; whether it is up to date.
pub fn open_of_any_age(state_dir: &Path) -> Result<(Connection, bool), OpenError> {
    let path = database_path(state_dir);
    // Asked, not opened: to close the file anywhere in the daemon's process would take away the
    // locks that its writer holds on it, and another program might then remove the WAL.
    let readable = rustix::fs::access(&path, Access::READ_OK).map_err(std::io::Error::from);
    readable.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => OpenError::new(
            OpenErrorKind::Forbidden,
            format!("{}: {error}; use sudo, or a user of the directory's group", path.display()),
        ),
        _ => OpenError::inaccessible(&path, format!("{error}; has the daemon been started once?")),
    })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    let is_current = check_version(&connection)? == VERSION;
    Ok((connection, is_current))
}

/// Whether a daemon of this version and mode could go on with the database that is there, as far as
/// its schema and its mode tell. None at all fits: it would be made.
pub fn fits(state_dir: &Path, mode: Mode) -> Result<(), OpenError> {
    if !database_path(state_dir).exists() {
        return Ok(());
    }
    let (connection, _) = open_of_any_age(state_dir)?;
    let has_mode: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'store')",
        [],
        |row| row.get(0),
    )?;
    if has_mode { check_mode(&connection, mode) } else { Ok(()) }
}

/// Keeps WAL and shm on close, so that a reader without write access to the directory can open
/// the database while the daemon is down.
fn persist_wal(connection: &Connection) -> rusqlite::Result<()> {
    let mut on = 1;
    connection.file_control(None::<&str>, rusqlite::FileControl::PersistWal(&mut on))
}

/// Sets what durability stands on, and reads it back: SQLite ignores what it does not know.
fn set_pragmas(connection: &Connection) -> Result<(), OpenError> {
    // The change is committed when the statement ends, after its only row: who stops at the row
    // does not hear of a failed sync, and reads "wal" of a database that is none.
    let journal: String =
        connection.query_one("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;
         PRAGMA temp_store = MEMORY;
         -- 4 MiB, twice SQLite's own: room for the upper levels of the indexes over millions of
         -- rows, each of which would otherwise be read anew for nearly every confirmation.
         PRAGMA cache_size = -4096;
         -- The writer checkpoints by itself: SQLite's own automatic checkpoint swallows errors.
         PRAGMA wal_autocheckpoint = 0;",
    )?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if journal != "wal" || synchronous != 2 {
        let message = format!(
            "the database would not be durable here (journal_mode {journal}, synchronous \
             {synchronous}): put state_dir on a local file system"
        );
        return Err(OpenError::new(OpenErrorKind::Mismatch, message));
    }
    Ok(())
}

fn migrate(
    connection: &mut Connection,
    mode: Mode,
    migrations: &[&str],
    before_migration: BeforeMigration<'_>,
) -> Result<(), OpenError> {
    let version = check_version(connection)?;
    let due = &migrations[usize::from(version)..];
    if due.is_empty() {
        return Ok(());
    }
    if version > 0 {
        before_migration(connection)?;
    }
    let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in due {
        step.execute_batch(migration)?;
    }
    if version == 0 {
        initialise(&step, mode)?;
    }
    step.pragma_update(None, "application_id", APPLICATION_ID)?;
    step.pragma_update(None, "user_version", migrations.len())?;
    step.commit()?;
    Ok(())
}

/// The schema version, if this program can read it.
fn check_version(connection: &Connection) -> Result<u8, OpenError> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let is_empty: bool =
        connection
            .query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    let mismatch = |message: String| Err(OpenError::new(OpenErrorKind::Mismatch, message));
    if id != APPLICATION_ID && !(is_empty && (id, version) == (0, 0)) {
        return mismatch("tilld.db is not a database of tilld; nothing was changed".to_owned());
    }
    let Ok(version @ 0..=VERSION) = u8::try_from(version) else {
        return mismatch(format!(
            "the database was written by a newer tilld (schema {version}, this one knows \
             {VERSION}): install that version again; nothing was changed"
        ));
    };
    Ok(version)
}

fn initialise(step: &Transaction<'_>, mode: Mode) -> Result<(), OpenError> {
    step.execute("INSERT INTO store (id, mode) VALUES (1, ?1)", [mode.as_str()])?;
    births::begin_epoch(step, 1)
}

fn check_mode(connection: &Connection, mode: Mode) -> Result<(), OpenError> {
    let stored: String = connection.query_row("SELECT mode FROM store", [], |row| row.get(0))?;
    if stored == mode.as_str() {
        return Ok(());
    }
    if ![Mode::Live, Mode::Sandbox].iter().any(|mode| stored == mode.as_str()) {
        return Err(OpenError::damaged(format!("its mode is {stored:?}")));
    }
    let message = format!(
        "this database holds {stored} collections and the configuration says mode = \"{}\": \
         set mode = \"{stored}\", or give the other mode a state_dir of its own",
        mode.as_str()
    );
    Err(OpenError::new(OpenErrorKind::Mismatch, message))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::backup::{self, Backups};

    /// The list as a later version could have it.
    const LATER: &[&str] = &[MIGRATIONS[0], "CREATE TABLE later (x INTEGER) STRICT"];

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    fn is_migrated(connection: &Connection) -> bool {
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'later')";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_new_database_needs_no_backup() {
        let state_dir = TempDir::new().unwrap();
        let mut forbidden = |_: &Connection| Err(OpenError::damaged("it was asked for one"));
        open_for_writing(&database_path(state_dir.path()), Mode::Live, &mut forbidden).unwrap();
    }

    #[test]
    fn without_room_for_a_backup_a_database_is_left_as_it_is_and_with_it_there_is_one() {
        let state_dir = TempDir::new().unwrap();
        let state_dir = state_dir.path();
        let path = database_path(state_dir);
        let mut old = open_for_writing(&path, Mode::Live, &mut |_| Ok(())).unwrap();
        let backups = Backups::inside(state_dir);
        let mut migrate_with = |reserve| {
            let migrated = migrate(&mut old, Mode::Live, LATER, &mut |database| {
                backup::before_migration(database, state_dir, &backups, reserve)
            });
            (migrated, version(&old), is_migrated(&old))
        };
        let (refused, version, is_migrated) = migrate_with(u64::MAX);
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, OpenErrorKind::Inaccessible);
        assert!(refused.to_string().contains("no backup was begun"), "{refused}");
        assert_eq!((version, is_migrated), (1, false));
        assert_eq!(backup::names(&backups.directory).unwrap(), []);

        let (migrated, version, is_migrated) = migrate_with(0);
        migrated.unwrap();
        assert_eq!((version, is_migrated), (2, true));
        let names = backup::names(&backups.directory).unwrap();
        let checked = backup::verify(&backups.directory, names[0], &mut |_, _, _| {}).unwrap();
        assert_eq!((names.len(), checked.differences_count), (1, 0), "{checked:?}");
    }
}
