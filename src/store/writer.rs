//! The one writer: takes everything that waits in its queue as one transaction (group commit), so
//! that the cost of a sync is shared and no request waits for a timer.
//!
//! COMMIT with a sync comes first, then the tape with a sync, then the receipts, then the
//! answers. After a write error whose outcome is unknown nothing is answered any more: the process
//! must end and start anew, because only the checks at start make sure that what is read is also
//! on the disk.

mod recover;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Row, TransactionBehavior};
use tokio::sync::oneshot;

use super::agree::{self, AgreeError};
use super::backup::{self, Backups};
use super::commands::{Bell, Command, Store};
use super::health::{Condition, Health, Recovered, WAL_BYTES_MAX};
use super::relays::Held;
use super::tape::{AppendError, Tape, Told};
use super::transaction::{Batch, Outcome, Standing};
use super::{OpenError, database_path, lock, place, rebuild, schema, sync_directory};
use crate::domain::closing::ClosedDays;
use crate::domain::contract::Mode;
use crate::domain::decision::Sequence;
use crate::domain::time::AcceptedAt;
use crate::system::event::Event;
use crate::system::{clock, figures, limits};

/// Commands in one transaction: enough to share a sync widely, few enough to answer soon.
const BATCH_COMMANDS_MAX: usize = 1024;

/// WAL pages (of 4 KiB) after which the writer moves them into the database: 3 MiB. Larger makes
/// writing a little cheaper, because pages that changed twice move once; smaller makes the pause
/// meanwhile shorter, which is what the slowest answers wait for, and a start after a crash.
const CHECKPOINT_PAGES: u32 = 768;

/// How often a checkpoint that failed for lack of space at start is tried again.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(2);

/// How often a writer with nothing to do looks after its house, and shows that it is alive.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The writer at work. It ends when every [`Store`] is dropped and its queue is empty.
pub struct Writing {
    /// The thread itself, to be joined after the last [`Store`] is gone.
    pub thread: JoinHandle<()>,
    /// Resolves when the storage failed in a way that only a restart mends.
    pub failed: oneshot::Receiver<()>,
}

impl Store {
    /// Takes the state directory's lock, opens or creates the database, makes durable whatever an
    /// earlier process left in the WAL, and starts the writer. A database of an older schema is
    /// first copied to `backups`.
    pub fn open(
        state_dir: &Path,
        mode: Mode,
        disk_reserve: u64,
        backups: &Backups,
    ) -> Result<(Store, Writing), OpenError> {
        let (state_dir_kept, backups) = (state_dir.to_owned(), backups.clone());
        let (sender, opened) = mpsc::sync_channel(1);
        // Everything that touches the witnesses, from the first repair to the last sync, is done
        // by one thread, which tools know by its name.
        let work = move || match Writer::open(state_dir_kept, mode, disk_reserve, &backups) {
            Ok(Opened { writer, store, commands, failed }) => {
                let _ = sender.send(Ok((store, failed)));
                writer.run(&commands);
            }
            Err(error) => drop(sender.send(Err(error))),
        };
        let inaccessible = |error| OpenError::inaccessible(state_dir, error);
        let thread = thread::Builder::new().name("writer".to_owned()).spawn(work);
        let thread = thread.map_err(inaccessible)?;
        let ended = |_| OpenError::inaccessible(state_dir, "the writer ended while it opened");
        let (store, failed) = opened.recv().map_err(ended)??;
        Ok((store, Writing { thread, failed }))
    }
}

/// Keeps count of the pages in the WAL after each commit.
fn watch_wal(connection: &mut Connection) -> rusqlite::Result<Arc<AtomicU32>> {
    let pages = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&pages);
    connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
        counted.store(u32::try_from(pages).unwrap_or(u32::MAX), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(pages)
}

struct Writer {
    connection: Connection,
    state_dir: PathBuf,
    disk_reserve: u64,
    mode: Mode,
    next_sequence: Sequence,
    next_line: i64,
    /// Here, so that no confirmation has to ask the database for them.
    closed_days: Arc<ClosedDays>,
    /// None until what the earlier run left is recovered; nothing is answered before.
    tape: Option<Tape>,
    /// Every collection up to this number is told on the tape.
    taped_sequence: Sequence,
    /// Pages in the WAL after the last commit.
    wal_pages: Arc<AtomicU32>,
    /// Pages in the WAL at the last checkpoint, which a reader may have kept there.
    checkpointed_pages: u32,
    /// A write failed with an unknown outcome; the process must restart.
    is_broken: bool,
    /// When it was last tried to recover what the earlier run left.
    tried_at: Instant,
    /// Whether the last look found that new rows can be written; a change is logged.
    could_write: bool,
    failed: Option<oneshot::Sender<()>>,
    bell: Arc<Bell>,
    health: Arc<Health>,
    _lock: File,
}

/// A writer that may begin.
struct Opened {
    writer: Writer,
    store: Store,
    commands: Receiver<Command>,
    failed: oneshot::Receiver<()>,
}

/// What a batch came to in the database, and what is to be told on the tape.
struct Written {
    outcomes: Vec<Outcome>,
    told: Vec<Told>,
    held: Held,
    again_from: Option<Sequence>,
}

impl Writer {
    fn open(
        state_dir: PathBuf,
        mode: Mode,
        disk_reserve: u64,
        backups: &Backups,
    ) -> Result<Opened, OpenError> {
        let lock = lock::take(&state_dir)?;
        let inaccessible = |error| OpenError::inaccessible(&state_dir, error);
        for aside in place::finish(&state_dir).map_err(inaccessible)? {
            log::warn!("an interrupted exchange of databases is finished: see {}", aside.display());
        }
        place::remove_unfinished(&state_dir).map_err(inaccessible)?;
        let health = Health::new(state_dir.clone(), disk_reserve);
        if rebuild::is_lost(&state_dir).map_err(inaccessible)? {
            log::error!(
                TILLD_EVENT = Event::Rebuilt;
                "the database is gone: rebuilding it from the tape"
            );
            let rebuilt = rebuild::rebuild_locked(&state_dir, mode, false)?;
            log::warn!(
                TILLD_EVENT = Event::Rebuilt;
                "the database is rebuilt: {} collections", rebuilt.collections
            );
            let rows = usize::try_from(rebuilt.collections).unwrap_or(0);
            health.count(Recovered { rows, ..Recovered::default() });
        }
        let mut back_up = |database: &Connection| {
            backup::before_migration(database, &state_dir, backups, disk_reserve)
        };
        let path = database_path(&state_dir);
        let mut connection = schema::open_for_writing(&path, mode, &mut back_up)?;
        let (failed_sender, failed) = oneshot::channel();
        let (store, commands) = Store::new(health);
        let mut writer = Writer {
            wal_pages: watch_wal(&mut connection)?,
            connection,
            state_dir,
            disk_reserve,
            mode,
            next_sequence: 0,
            next_line: 0,
            closed_days: Arc::default(),
            tape: None,
            taped_sequence: 0,
            checkpointed_pages: 0,
            is_broken: false,
            tried_at: clock::monotonic(),
            could_write: true,
            failed: Some(failed_sender),
            bell: store.bell(),
            health: store.health(),
            _lock: lock,
        };
        let recovered = writer.recover();
        recovered.map_err(|error| OpenError::of_agreement(&writer.state_dir, error))?;
        // The names of database and WAL: SQLite does not hear when they cannot be synced.
        let synced = sync_directory(&writer.state_dir);
        synced.map_err(|error| OpenError::inaccessible(&writer.state_dir, error))?;
        writer.tell_health();
        Ok(Opened { writer, store, commands, failed })
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.recv_timeout(BEAT_INTERVAL) {
                Ok(first) => {
                    let mut batch = vec![first];
                    batch.extend(commands.try_iter().take(BATCH_COMMANDS_MAX - 1));
                    figures::COMMANDS_TAKEN.add(batch.len() as u64);
                    self.serve(batch);
                }
                Err(RecvTimeoutError::Timeout) => self.give_back_wal(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.keep_house();
            self.tell_health();
        }
        // The last one waits for readers, up to the busy time-out, so that after a clean stop all
        // of it is in the database.
        self.checkpoint("FULL");
    }

    fn serve(&mut self, batch: Vec<Command>) {
        if self.is_broken || self.tape.is_none() {
            batch.into_iter().for_each(Command::answer_failed);
            return;
        }
        let now = AcceptedAt::new(clock::now());
        let can_write = self.can_write(now);
        if self.is_broken {
            // What was pending on the tape could not be synced just now. It is not tried again: a
            // second sync may say yes to what the first one lost.
            batch.into_iter().for_each(Command::answer_failed);
            return;
        }
        let written = match self.transact(&batch, can_write, now) {
            Ok(written) => written,
            Err(error) if self.connection.is_autocommit() && is_of_one_row(&error) => {
                return self.serve_others(batch, &error);
            }
            Err(error) => {
                self.fail(&error);
                batch.into_iter().for_each(Command::answer_failed);
                return;
            }
        };
        self.tell(&written.told, now);
        self.tell_health();
        if let Some(from) = written.again_from {
            self.bell.ring_again(from);
        }
        let (taped, is_broken) = (self.taped_sequence, self.is_broken);
        let taped_line = self.tape.as_ref().map_or(0, Tape::last_line);
        let standing = Standing { taped, taped_line, is_broken, held: &written.held };
        for (command, outcome) in batch.into_iter().zip(written.outcomes) {
            command.answer(outcome, standing);
        }
    }

    /// A batch was rolled back because one of its commands met a bad row: the others are served.
    fn serve_others(&mut self, batch: Vec<Command>, error: &rusqlite::Error) {
        if batch.len() > 1 {
            for command in batch {
                self.serve(vec![command]);
            }
            return;
        }
        log::error!("a command cannot be carried out and is answered -1009: {error}");
        if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) {
            self.health.tell_damage();
            // The page may be damaged in memory only: it is read again.
            let _ = self.connection.release_memory();
        }
        batch.into_iter().for_each(Command::answer_damaged);
    }

    /// Decides and commits a whole batch.
    fn transact(
        &mut self,
        commands: &[Command],
        can_write: bool,
        now: AcceptedAt,
    ) -> rusqlite::Result<Written> {
        let next = (self.next_sequence, self.next_line, Arc::clone(&self.closed_days));
        let can = (can_write, self.is_tape_complete());
        let step = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut batch = Batch::new(&step, self.mode, now, can, next);
        let outcomes = commands
            .iter()
            .map(|command| batch.carry_out(command))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let held = batch.note_relays()?;
        let Batch { sequence, line, closed, told, again_from, .. } = batch;
        let began = clock::monotonic();
        step.commit()?;
        figures::COMMIT_TIME.note(began.elapsed());
        (self.next_sequence, self.next_line, self.closed_days) = (sequence, line, closed);
        Ok(Written { outcomes, told, held, again_from })
    }

    /// Puts committed rows on the tape; what cannot be written stays pending there.
    fn tell(&mut self, told: &[Told], now: AcceptedAt) {
        let Some(tape) = &mut self.tape else { return };
        let began = clock::monotonic();
        let appended = tape.append(told, now.date());
        if !told.is_empty() {
            figures::TAPE_TIME.note(began.elapsed());
        }
        match appended {
            Ok(()) => {
                self.taped_sequence = self.next_sequence - 1;
                // Only what stands in both witnesses leaves for head office.
                if self.bell.ready_to() < self.taped_sequence {
                    self.bell.ring(self.taped_sequence);
                }
            }
            Err(AppendError::Refused(error)) if self.could_write => log::error!(
                TILLD_EVENT = Event::TapeUnwritable;
                "the tape cannot be written, so new collections are answered -1009: {error}"
            ),
            Err(AppendError::Refused(_)) => {}
            Err(AppendError::Unknown(error)) => self.break_down(&error),
        }
    }

    /// Whether new rows may be written: the tape is complete, and the disk has more free space
    /// than the reserve, which verdicts and checkpoints need.
    fn can_write(&mut self, now: AcceptedAt) -> bool {
        let place = self.state_dir.display();
        let has_room = match limits::free_bytes(&self.state_dir) {
            Ok(free) => free >= self.disk_reserve,
            Err(error) => {
                log::error!("cannot tell the free space of {place}: {error}");
                false
            }
        };
        if !has_room && self.could_write {
            log::error!(
                TILLD_EVENT = Event::DiskLow;
                "less than disk_reserve ({} bytes) is free on the disk of {place}: new \
                 collections are answered -1009 until space is made",
                self.disk_reserve
            );
        }
        if !self.is_tape_complete() {
            self.tell(&[], now);
        }
        let can_write = has_room && self.is_tape_complete() && !self.is_broken;
        if can_write && !self.could_write {
            log::info!(TILLD_EVENT = Event::WritableAgain; "collections can be written again");
        }
        self.could_write = can_write;
        can_write
    }

    /// Whether everything that is committed stands on the tape, too.
    fn is_tape_complete(&self) -> bool {
        self.tape.as_ref().is_some_and(|tape| tape.end().is_some())
    }

    /// Tells whether collections can be recorded; what the disk has to say to it is asked by
    /// whoever wants to know.
    fn tell_health(&self) {
        self.health.tell(match &self.tape {
            _ if self.is_broken => Condition::Failed,
            None => Condition::Recovering,
            Some(_) if self.is_tape_complete() => Condition::Recording,
            Some(_) => Condition::TapeUnwritable,
        });
    }

    fn keep_house(&mut self) {
        if self.is_broken {
            return;
        }
        if self.tape.is_none() {
            if self.tried_at.elapsed() < RECOVERY_INTERVAL {
                return;
            }
            match self.recover() {
                Ok(()) => {}
                Err(AgreeError::Database(error)) => self.fail(&error),
                Err(error) => self.break_down(&error),
            }
        } else {
            if !self.is_tape_complete() {
                // Also on a quiet branch: who asks whether it is ready must hear when it is again.
                self.can_write(AcceptedAt::new(clock::now()));
            }
            let pages = self.wal_pages.load(Ordering::Relaxed);
            if pages < self.checkpointed_pages {
                // The WAL was begun anew since.
                self.checkpointed_pages = 0;
            }
            if pages - self.checkpointed_pages >= CHECKPOINT_PAGES {
                self.checkpoint("PASSIVE");
                self.checkpointed_pages = self.wal_pages.load(Ordering::Relaxed);
            }
        }
    }

    /// Empties a WAL that grew because somebody read an old state, once nobody does. While
    /// collections come, SQLite does that by itself.
    fn give_back_wal(&mut self) {
        if self.is_broken || self.tape.is_none() || self.health.wal_bytes() <= WAL_BYTES_MAX {
            return;
        }
        match self.empty_wal() {
            Ok(Ok(())) => {
                self.wal_pages.store(0, Ordering::Relaxed);
                self.checkpointed_pages = 0;
            }
            Ok(Err(_)) => {}
            Err(AgreeError::Database(error)) => self.fail(&error),
            Err(error) => self.break_down(&error),
        }
    }

    /// Moves what is in the WAL into the database in this mode of SQLite's. When all of it is there
    /// and synced, marks how far the witnesses agree: the mark must never be on the disk before
    /// the rows that it vouches for.
    fn checkpoint(&mut self, mode: &str) {
        if self.is_broken {
            return;
        }
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let copied = self.connection.query_row(&sql, [], is_all_copied);
        let done = match (copied, self.tape.as_ref().and_then(Tape::end)) {
            (Ok(true), Some(end)) => agree::set_mark(&self.connection, end),
            (copied, _) => copied.map(drop),
        };
        if let Err(error) = done {
            self.fail(&error);
        }
    }

    /// What was rolled back and does not speak of the storage itself is answered -1009 and waited
    /// out. After anything else the outcome is unknown.
    fn fail(&mut self, error: &rusqlite::Error) {
        let is_rolled_back = self.connection.is_autocommit();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) if is_rolled_back => {
                log::error!(
                    TILLD_EVENT = Event::DiskLow;
                    "the disk is full; nothing is recorded until there is room: {error}"
                );
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) if is_rolled_back => {
                log::error!(
                    TILLD_EVENT = Event::DatabaseLocked;
                    "another program has locked tilld.db for writing; close it: {error}"
                );
            }
            _ => self.break_down(error),
        }
    }

    /// This process has nothing more to say.
    fn break_down(&mut self, error: &dyn std::fmt::Display) {
        log::error!(
            TILLD_EVENT = Event::StorageFailed;
            "the storage failed; only a restart is safe now: {error}"
        );
        self.is_broken = true;
        if let Some(failed) = self.failed.take() {
            let _ = failed.send(());
        }
    }
}

/// Whether an error speaks of the row or the page that a statement met, and not of the storage: one
/// bad row must not silence the others.
pub fn is_of_one_row(error: &rusqlite::Error) -> bool {
    use ErrorCode::{ConstraintViolation, DatabaseCorrupt, TooBig, TypeMismatch};
    matches!(
        error.sqlite_error_code(),
        None | Some(ConstraintViolation | DatabaseCorrupt | TooBig | TypeMismatch)
    )
}

/// Whether the row that a checkpoint gives says that the whole WAL is in the database now. It has
/// -1 twice when another program kept it from beginning.
fn is_all_copied(row: &Row<'_>) -> rusqlite::Result<bool> {
    let (pages, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
    Ok(pages >= 0 && pages == copied)
}
