//! The one writer: takes everything that waits in its queue as one transaction (group commit), so
//! that the cost of a sync is shared and no request waits for a timer.
//!
//! COMMIT with a sync comes first, then the [`Receipt`]s, then the answers. After a write error
//! whose outcome is unknown nothing is answered any more: the process must end and start anew,
//! because only the checkpoint at start makes sure that what is read is also on the disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::oneshot;

use super::collections::{self, Entry};
use super::refusals::{self, Refused};
use super::{OpenError, OpenErrorKind, outbox, schema};
use crate::domain::collection::ProofOfDurability;
use crate::domain::contract::Mode;
use crate::domain::decision::{ConflictField, Decision, First, Rule, Sequence, decide};
use crate::domain::flags::Flags;
use crate::domain::provenance::{Confirmation, Provenance};
use crate::domain::time::AcceptedAt;
use crate::system::{clock, limits};

/// Commands that may wait for the writer. One connection waits with at most one command, so this
/// is more than `connections_max` of any sane configuration, and still only a few megabytes.
const QUEUE_COMMANDS_MAX: usize = 4096;

/// Commands in one transaction: enough to share a sync widely, few enough to answer soon.
const BATCH_COMMANDS_MAX: usize = 1024;

/// WAL pages (of 4 KiB) after which the writer moves them into the database: 16 MiB. Larger makes
/// writing cheaper, because pages that changed twice move once; smaller makes a start after a
/// crash faster.
const CHECKPOINT_PAGES: u32 = 4096;

/// How often a checkpoint that failed for lack of space at start is tried again.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(2);

/// A proof that a collection is committed and synced. Only the writer makes one.
#[derive(Debug)]
pub struct Receipt {
    sequence: Sequence,
    flags: Flags,
}

impl ProofOfDurability for Receipt {}

impl Receipt {
    /// The collection's number.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// What is unusual about it; nothing for a repeat.
    pub fn flags(&self) -> Flags {
        self.flags
    }
}

/// What became of a confirmation.
#[derive(Debug)]
pub enum Recorded {
    /// It is in the books now.
    New(Receipt),
    /// It was in the books already.
    Repeated(Receipt),
    /// The receipt stands already, for something else.
    Conflict {
        /// What differs.
        field: ConflictField,
        /// What stands.
        first: First,
    },
    /// The contract was paid under another receipt.
    AlreadyPaid {
        /// What is unusual about the refused confirmation.
        flags: Flags,
    },
}

/// Why there is no outcome. It never means "certainly not recorded".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Too many commands wait already; nothing was recorded.
    QueueFull,
    /// Less disk space is free than the reserve asks for; nothing was recorded.
    DiskReserve,
    /// The storage failed; the outcome is unknown.
    Failed,
}

type Answer<T> = oneshot::Sender<Result<T, Unavailable>>;

enum Command {
    Record(Box<Record>, Answer<Recorded>),
    Refuse(Box<Refused>, Answer<()>),
}

struct Record {
    confirmation: Confirmation,
    provenance: Provenance,
    rule: Rule,
}

/// The handle by which everybody talks to the writer.
pub struct Store {
    queue: SyncSender<Command>,
}

/// The writer at work. It ends when every [`Store`] is dropped and its queue is empty.
pub struct Writing {
    /// The thread itself, to be joined after the last [`Store`] is gone.
    pub thread: JoinHandle<()>,
    /// Resolves when the storage failed in a way that only a restart mends.
    pub failed: oneshot::Receiver<()>,
}

impl Store {
    /// Takes the state directory's lock, opens or creates the database, makes durable whatever an
    /// earlier process left in the WAL, and starts the writer.
    pub fn open(
        state_dir: &Path,
        mode: Mode,
        disk_reserve: u64,
    ) -> Result<(Store, Writing), OpenError> {
        let lock = lock(state_dir)?;
        let mut connection = schema::open_for_writing(state_dir, mode)?;
        let (failed_sender, failed) = oneshot::channel();
        let mut writer = Writer {
            next_sequence: collections::last_sequence(&connection)? + 1,
            wal_pages: watch_wal(&mut connection)?,
            connection,
            state_dir: state_dir.to_owned(),
            disk_reserve,
            mode,
            state: State::Working,
            had_room: true,
            failed: Some(failed_sender),
            _lock: lock,
        };
        writer.recover()?;
        let (queue, commands) = sync_channel(QUEUE_COMMANDS_MAX);
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || writer.run(&commands))
            .map_err(|error| OpenError::inaccessible(state_dir, error))?;
        Ok((Store { queue }, Writing { thread, failed }))
    }

    /// Queues a confirmation; once queued it is decided and recorded even if nobody waits for the
    /// outcome.
    pub fn record(
        &self,
        confirmation: Confirmation,
        provenance: Provenance,
        rule: Rule,
    ) -> Result<oneshot::Receiver<Result<Recorded, Unavailable>>, Unavailable> {
        let record = Box::new(Record { confirmation, provenance, rule });
        self.send(|answer| Command::Record(record, answer))
    }

    /// Queues a refusal to be kept.
    pub fn keep(
        &self,
        refused: Refused,
    ) -> Result<oneshot::Receiver<Result<(), Unavailable>>, Unavailable> {
        self.send(|answer| Command::Refuse(Box::new(refused), answer))
    }

    fn send<T>(
        &self,
        command: impl FnOnce(Answer<T>) -> Command,
    ) -> Result<oneshot::Receiver<Result<T, Unavailable>>, Unavailable> {
        let (answer, outcome) = oneshot::channel();
        self.queue.try_send(command(answer)).map_err(|error| match error {
            TrySendError::Full(_) => Unavailable::QueueFull,
            TrySendError::Disconnected(_) => Unavailable::Failed,
        })?;
        Ok(outcome)
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

/// Two daemons on one state directory would both number from the same sequence.
fn lock(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join("lock");
    let file = File::create(&path).map_err(|error| OpenError::inaccessible(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::new(
            OpenErrorKind::Inaccessible,
            format!("another tilld is running on {}: stop it first", state_dir.display()),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(OpenError::inaccessible(&path, error)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    /// The checkpoint at start found no space: what is in the WAL may not be synced yet, so
    /// nothing is answered from it.
    Unrecovered,
    /// A write failed with an unknown outcome; the process must restart.
    Broken,
}

struct Writer {
    connection: Connection,
    state_dir: PathBuf,
    disk_reserve: u64,
    mode: Mode,
    next_sequence: Sequence,
    /// Pages in the WAL after the last commit.
    wal_pages: Arc<AtomicU32>,
    state: State,
    had_room: bool,
    failed: Option<oneshot::Sender<()>>,
    _lock: File,
}

/// What a command came to; nobody hears of it before it is durable.
enum Outcome {
    New(Sequence, Flags),
    Repeated(Sequence),
    Conflict(ConflictField, First),
    AlreadyPaid(Flags),
    Kept,
    NoRoom,
}

impl Writer {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.recv_timeout(RECOVERY_INTERVAL) {
                Ok(first) => {
                    let mut batch = vec![first];
                    batch.extend(commands.try_iter().take(BATCH_COMMANDS_MAX - 1));
                    self.serve(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.keep_house();
        }
        if self.state == State::Working {
            self.checkpoint();
        }
    }

    fn serve(&mut self, batch: Vec<Command>) {
        if self.state != State::Working {
            batch.into_iter().for_each(Command::answer_failed);
            return;
        }
        match self.transact(&batch) {
            Ok(outcomes) => {
                for (command, outcome) in batch.into_iter().zip(outcomes) {
                    command.answer(outcome);
                }
            }
            Err(error) => {
                self.fail(&error);
                batch.into_iter().for_each(Command::answer_failed);
            }
        }
    }

    /// Decides and writes a whole batch. When this returns, the outcomes are durable.
    fn transact(&mut self, batch: &[Command]) -> rusqlite::Result<Vec<Outcome>> {
        let now = AcceptedAt::new(clock::now());
        let has_room = self.has_room();
        let mut next_sequence = self.next_sequence;
        let step = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for command in batch {
            outcomes.push(match command {
                Command::Record(record, _) => {
                    let outcome =
                        write_record(&step, record, self.mode, next_sequence, has_room, now)?;
                    next_sequence += Sequence::from(matches!(outcome, Outcome::New(..)));
                    outcome
                }
                Command::Refuse(..) if !has_room => Outcome::NoRoom,
                Command::Refuse(refused, _) => {
                    refusals::keep(&step, refused, now)?;
                    Outcome::Kept
                }
            });
        }
        step.commit()?;
        self.next_sequence = next_sequence;
        Ok(outcomes)
    }

    /// Whether the disk has more free space than the reserve, which verdicts and checkpoints need.
    fn has_room(&mut self) -> bool {
        let has_room = match limits::free_bytes(&self.state_dir) {
            Ok(free) => free >= self.disk_reserve,
            Err(error) => {
                log::error!("cannot tell the free space of {}: {error}", self.state_dir.display());
                false
            }
        };
        if has_room != self.had_room {
            self.had_room = has_room;
            let place = self.state_dir.display();
            if has_room {
                log::info!("there is room on the disk of {place} again: collections are taken");
            } else {
                log::error!(
                    "less than disk_reserve ({} bytes) is free on the disk of {place}: new \
                     collections are answered -1009 until space is made",
                    self.disk_reserve
                );
            }
        }
        has_room
    }

    fn keep_house(&mut self) {
        match self.state {
            State::Working if self.wal_pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES => {
                self.checkpoint();
            }
            State::Unrecovered => {
                if let Err(error) = self.recover() {
                    self.fail(&error);
                }
            }
            State::Working | State::Broken => {}
        }
    }

    /// Moves what is in the WAL into the database, as far as readers allow.
    fn checkpoint(&mut self) {
        let done = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = done {
            self.fail(&error);
        }
    }

    /// Empties the WAL that an earlier process left. What it wrote but could not sync may still
    /// sit in the page cache only; copied into the database and synced, it may be answered from.
    fn recover(&mut self) -> rusqlite::Result<()> {
        let emptied = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i64>(0).map(|busy| busy == 0)
        });
        let reason = match emptied {
            Ok(true) => {
                if self.state == State::Unrecovered {
                    log::info!("the WAL of the earlier run is recovered: collections are taken");
                }
                self.state = State::Working;
                return Ok(());
            }
            Ok(false) => "another program holds the database open",
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                let wal = self.state_dir.join("tilld.db-wal");
                File::open(wal).and_then(|wal| wal.sync_all()).map_err(|_| error)?;
                "the disk is full"
            }
            Err(error) => return Err(error),
        };
        if self.state == State::Working {
            log::error!(
                "the WAL of the earlier run cannot be recovered yet, because {reason}: \
                 everything is answered -1009 until it can"
            );
        }
        self.state = State::Unrecovered;
        Ok(())
    }

    /// A full disk is waited out. After any other write error the outcome is unknown, and this
    /// process has nothing more to say.
    fn fail(&mut self, error: &rusqlite::Error) {
        let was_rolled_back = self.connection.is_autocommit();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) if was_rolled_back => {
                log::error!("the disk is full; what was in hand was answered -1009: {error}");
            }
            _ => {
                log::error!("the storage failed; restarting, because only that is safe: {error}");
                self.state = State::Broken;
                if let Some(failed) = self.failed.take() {
                    let _ = failed.send(());
                }
            }
        }
    }
}

fn write_record(
    connection: &Connection,
    record: &Record,
    mode: Mode,
    sequence: Sequence,
    has_room: bool,
    now: AcceptedAt,
) -> rusqlite::Result<Outcome> {
    let Record { confirmation, provenance, rule } = record;
    let collection = &confirmation.collection;
    let history = collections::history(connection, collection, &provenance.caller, now)?;
    match decide(collection, confirmation.flags, now, *rule, history) {
        Decision::Record { .. } if !has_room => Ok(Outcome::NoRoom),
        Decision::Record { flags, business_date } => {
            let entry = Entry {
                sequence,
                confirmation: Confirmation { flags, ..confirmation.clone() },
                provenance: provenance.clone(),
                accepted_at: now,
                business_date,
            };
            collections::insert(connection, &entry)?;
            if mode == Mode::Live {
                outbox::insert(connection, sequence)?;
            }
            Ok(Outcome::New(sequence, flags))
        }
        Decision::Repeat { sequence, variant } => {
            if has_room {
                let variant = variant.then_some(collection);
                collections::insert_repeat(connection, sequence, variant, now)?;
            }
            Ok(Outcome::Repeated(sequence))
        }
        Decision::Conflict { field, first } => Ok(Outcome::Conflict(field, first)),
        Decision::AlreadyPaid { flags } => Ok(Outcome::AlreadyPaid(flags)),
    }
}

impl Command {
    /// Tells the outcome to whoever still waits for it.
    fn answer(self, outcome: Outcome) {
        match self {
            Command::Record(_, answer) => {
                let _ = answer.send(match outcome {
                    Outcome::New(sequence, flags) => Ok(Recorded::New(Receipt { sequence, flags })),
                    Outcome::Repeated(sequence) => {
                        Ok(Recorded::Repeated(Receipt { sequence, flags: Flags::NONE }))
                    }
                    Outcome::Conflict(field, first) => Ok(Recorded::Conflict { field, first }),
                    Outcome::AlreadyPaid(flags) => Ok(Recorded::AlreadyPaid { flags }),
                    Outcome::Kept | Outcome::NoRoom => Err(Unavailable::DiskReserve),
                });
            }
            Command::Refuse(_, answer) => {
                let kept = matches!(outcome, Outcome::Kept);
                let _ = answer.send(if kept { Ok(()) } else { Err(Unavailable::DiskReserve) });
            }
        }
    }

    fn answer_failed(self) {
        match self {
            Command::Record(_, answer) => drop(answer.send(Err(Unavailable::Failed))),
            Command::Refuse(_, answer) => drop(answer.send(Err(Unavailable::Failed))),
        }
    }
}
