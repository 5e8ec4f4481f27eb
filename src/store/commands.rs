//! What the writer can be asked for, by whom, and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::{Notify, oneshot};

use super::acceptance::{Accept, Accepted};
use super::closing::{Close, Closed};
use super::deliveries::Tried;
use super::health::Health;
use super::refusals::Refused;
use crate::domain::act::{About, Actor, Words};
use crate::domain::collection::ProofOfDurability;
use crate::domain::contract::ContractNumber;
use crate::domain::decision::{ConflictField, First, Rule, Sequence};
use crate::domain::delivery::{Epoch, Holdings};
use crate::domain::flags::Flags;
use crate::domain::provenance::{Confirmation, Provenance};
use crate::system::figures;

/// Commands that may wait for the writer: four times the default `connections_max`, each of which
/// waits with one command at the most, and still only a few megabytes.
const QUEUE_COMMANDS_MAX: usize = 4096;

/// A proof that a collection is committed, told on the tape, and both are synced; or, without a
/// number, that a self-test is. Only the writer makes one.
#[derive(Debug)]
pub struct Receipt {
    pub(super) sequence: Sequence,
    pub(super) flags: Flags,
    pub(super) held: Option<(Epoch, Holdings)>,
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

    /// For a branch that relays: what has come of its epoch.
    pub fn held(&self) -> Option<(Epoch, Holdings)> {
        self.held
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
    /// The disk has less space free than its reserve, or the tape cannot be written; nothing was
    /// recorded.
    NotWritable,
    /// A row or a page that it needs is damaged, of which `tilld verify` tells; nothing was done.
    Damaged,
    /// The storage failed; the outcome is unknown.
    Failed,
}

/// What comes back from the writer, later.
pub type Waiting<T> = oneshot::Receiver<Result<T, Unavailable>>;

pub(super) type Answer<T> = oneshot::Sender<Result<T, Unavailable>>;

pub(super) enum Command {
    Record(Box<Record>, Answer<Recorded>),
    Refuse(Box<Refused>, Answer<()>),
    TryOut(Answer<Receipt>),
    NoteTries(Box<Tries>, Answer<()>),
    SendAgain(Box<SendAgain>, Answer<usize>),
    Requeue { first: Sequence, last: Sequence, answer: Answer<usize> },
    Note(Box<Note>, Answer<()>),
    Close(Box<Close>, Answer<Closed>),
    Accept(Box<Accept>, Answer<Accepted>),
    Reopen(Box<Reopen>, Answer<Reopened>),
}

pub(super) struct Record {
    pub confirmation: Confirmation,
    pub provenance: Provenance,
    pub rule: Rule,
}

pub(super) struct Tries {
    pub tries: Vec<Tried>,
    pub held: Option<Holdings>,
}

pub(super) struct SendAgain {
    pub these: Vec<Sequence>,
    pub actor: Actor,
}

pub(super) struct Reopen {
    pub contract: ContractNumber,
    pub reason: Words,
    pub actor: Actor,
}

/// What became of the wish to reopen a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// It may be paid once more.
    Now,
    /// It was reopened before, and not paid since.
    Before,
    /// Nothing was ever collected for it.
    Unknown,
}

pub(super) struct Note {
    pub about: About,
    pub words: Words,
    pub actor: Actor,
}

/// Tells the relay that rows wait in the outbox. The row is the truth, this only wakes.
pub struct Bell {
    notify: Notify,
    /// Rows were queued again from this number on.
    again_from: AtomicI64,
    /// Everything up to this number stands in both witnesses.
    ready_to: AtomicI64,
}

impl Bell {
    fn new() -> Bell {
        Bell {
            notify: Notify::new(),
            again_from: AtomicI64::new(Sequence::MAX),
            ready_to: AtomicI64::new(0),
        }
    }

    /// Resolves when rows were queued since it last did.
    pub async fn rung(&self) {
        self.notify.notified().await;
    }

    /// The lowest number that was queued again since this was last asked.
    pub fn again_from(&self) -> Option<Sequence> {
        let from = self.again_from.swap(Sequence::MAX, Ordering::Relaxed);
        (from < Sequence::MAX).then_some(from)
    }

    /// Collections up to this number stand in both witnesses and may leave.
    pub fn ready_to(&self) -> Sequence {
        self.ready_to.load(Ordering::Acquire)
    }

    /// New rows wait.
    pub(super) fn ring(&self, ready_to: Sequence) {
        self.ready_to.store(ready_to, Ordering::Release);
        self.notify.notify_one();
    }

    /// Rows from this number on wait again.
    pub(super) fn ring_again(&self, from: Sequence) {
        self.again_from.fetch_min(from, Ordering::Relaxed);
        self.notify.notify_one();
    }
}

/// The handle by which everybody talks to the writer.
#[derive(Clone)]
pub struct Store {
    queue: SyncSender<Command>,
    bell: Arc<Bell>,
    health: Arc<Health>,
}

impl Store {
    /// A handle, and the writer's end of it.
    pub(super) fn new(health: Health) -> (Store, Receiver<Command>) {
        let (queue, commands) = sync_channel(QUEUE_COMMANDS_MAX);
        (Store { queue, bell: Arc::new(Bell::new()), health: Arc::new(health) }, commands)
    }

    /// What rings when rows are queued for head office.
    pub fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// What is known of the storage, also after this handle is gone.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Queues a confirmation; once queued it is decided and recorded even if nobody waits for the
    /// outcome.
    pub fn record(
        &self,
        confirmation: Confirmation,
        provenance: Provenance,
        rule: Rule,
    ) -> Result<Waiting<Recorded>, Unavailable> {
        let record = Box::new(Record { confirmation, provenance, rule });
        self.send(|answer| Command::Record(record, answer))
    }

    /// Queues a refusal to be kept.
    pub fn keep(&self, refused: Refused) -> Result<Waiting<()>, Unavailable> {
        self.send(|answer| Command::Refuse(Box::new(refused), answer))
    }

    /// Queues a self-test, which is committed as a collection is, but stands in no books.
    pub fn try_out(&self) -> Result<Waiting<Receipt>, Unavailable> {
        self.send(Command::TryOut)
    }

    /// Queues what tries came to, and what head office says that it has, when that is news.
    pub fn note_tries(
        &self,
        tries: Vec<Tried>,
        held: Option<Holdings>,
    ) -> Result<Waiting<()>, Unavailable> {
        self.send(|answer| Command::NoteTries(Box::new(Tries { tries, held }), answer))
    }

    /// Queues a person's wish to send these again, as far as they are parked; gives how many that
    /// are. `actor` is who wishes it, as claimed. Each takes a line of the tape, and whatever comes
    /// behind this waits for all of them.
    pub fn send_again(
        &self,
        these: Vec<Sequence>,
        actor: Actor,
    ) -> Result<Waiting<usize>, Unavailable> {
        self.send(|answer| Command::SendAgain(Box::new(SendAgain { these, actor }), answer))
    }

    /// Queues everything between two numbers again that is not parked, because head office has lost
    /// it; gives how many rows that were. Meant for a few thousand numbers at a time.
    pub fn requeue(&self, first: Sequence, last: Sequence) -> Result<Waiting<usize>, Unavailable> {
        self.send(|answer| Command::Requeue { first, last, answer })
    }

    /// Queues a note of a person's about something that is in the books.
    pub fn note(
        &self,
        about: About,
        words: Words,
        actor: Actor,
    ) -> Result<Waiting<()>, Unavailable> {
        self.send(|answer| Command::Note(Box::new(Note { about, words, actor }), answer))
    }

    /// Queues a person's wish to close a day's books.
    pub fn close(&self, close: Close) -> Result<Waiting<Closed>, Unavailable> {
        self.send(|answer| Command::Close(Box::new(close), answer))
    }

    /// Queues a person's wish to accept a kept refusal.
    pub fn accept(&self, accept: Accept) -> Result<Waiting<Accepted>, Unavailable> {
        self.send(|answer| Command::Accept(Box::new(accept), answer))
    }

    /// Queues a person's wish to let a paid contract be paid once more.
    pub fn reopen(
        &self,
        contract: ContractNumber,
        reason: Words,
        actor: Actor,
    ) -> Result<Waiting<Reopened>, Unavailable> {
        self.send(|answer| Command::Reopen(Box::new(Reopen { contract, reason, actor }), answer))
    }

    fn send<T>(
        &self,
        command: impl FnOnce(Answer<T>) -> Command,
    ) -> Result<Waiting<T>, Unavailable> {
        let (answer, outcome) = oneshot::channel();
        // Before it is queued: nothing is taken that was not counted.
        figures::COMMANDS_QUEUED.count();
        self.queue.try_send(command(answer)).map_err(|error| {
            figures::COMMANDS_TAKEN.count();
            match error {
                TrySendError::Full(_) => Unavailable::QueueFull,
                TrySendError::Disconnected(_) => Unavailable::Failed,
            }
        })?;
        Ok(outcome)
    }
}
