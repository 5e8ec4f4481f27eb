//! What a batch of commands comes to in the database, and what is to be told of it on the tape.
//!
//! SQL inside one transaction that is not its own; commits nothing, and tells nobody.

use std::sync::Arc;

use rusqlite::Connection;

use super::acceptance::{Accept, Accepted, own_receipt};
use super::acts::{self, Act, Deed};
use super::closing::{self, Close, Closed, Closing};
use super::collections::{self, Entry, EntryRow};
use super::commands::{
    Command, Note, Receipt, Record, Recorded, Reopen, Reopened, SendAgain, Tries, Unavailable,
};
use super::relays::{self, Heard, Held};
use super::tape::{Told, What};
use super::{deliveries, outbox, record, refusals, self_tests};
use crate::domain::act::Actor;
use crate::domain::closing::ClosedDays;
use crate::domain::collection::{Collection, UserName};
use crate::domain::contract::Mode;
use crate::domain::decision::{ConflictField, Decision, First, Rule, Sequence, decide};
use crate::domain::delivery::{Epoch, Holdings};
use crate::domain::flags::{Flag, Flags};
use crate::domain::provenance::{Confirmation, Provenance};
use crate::domain::time::{AcceptedAt, BusinessDate};

/// What a command came to; nobody hears of it before it is durable.
pub enum Outcome {
    New(Sequence, Flags),
    Repeated(Sequence),
    Conflict(ConflictField, First),
    AlreadyPaid(Flags),
    Kept,
    Noted,
    Queued(usize),
    /// An act, which stands on the tape in this line.
    Done(i64),
    Closed(Box<Closed>),
    /// An accepted refusal, and the line that tells of it.
    Accepted(Accepted, i64),
    Reopened(Reopened, i64),
    NotWritable,
    Damaged,
    Unknown,
}

/// A batch on its way into the database.
pub struct Batch<'a> {
    connection: &'a Connection,
    mode: Mode,
    now: AcceptedAt,
    /// Whether there is room for new rows. What became of old ones is written without it, too,
    can_write: bool,
    /// but only while the tape takes lines, which would pile up in memory.
    can_tell: bool,
    /// The numbers that the next collection and the next line get.
    pub sequence: Sequence,
    pub line: i64,
    /// The days that are closed, those of this batch among them.
    pub closed: Arc<ClosedDays>,
    /// What is to stand on the tape.
    pub told: Vec<Told>,
    heard: Vec<Heard>,
    /// The lowest number that is queued again.
    pub again_from: Option<Sequence>,
}

impl<'a> Batch<'a> {
    /// A batch whose first new row gets these numbers, while these days are closed.
    pub fn new(
        connection: &'a Connection,
        mode: Mode,
        now: AcceptedAt,
        (can_write, can_tell): (bool, bool),
        (sequence, line, closed): (Sequence, i64, Arc<ClosedDays>),
    ) -> Batch<'a> {
        Batch {
            connection,
            mode,
            now,
            can_write,
            can_tell,
            sequence,
            line,
            closed,
            told: Vec::new(),
            heard: Vec::new(),
            again_from: None,
        }
    }

    /// Carries a command out.
    pub fn carry_out(&mut self, command: &Command) -> rusqlite::Result<Outcome> {
        match command {
            Command::Record(record, _) => self.record(record),
            Command::Refuse(..)
            | Command::Note(..)
            | Command::Close(..)
            | Command::Accept(..)
            | Command::Reopen(..)
            | Command::TryOut(..)
                if !self.can_write =>
            {
                Ok(Outcome::NotWritable)
            }
            Command::TryOut(_) => {
                self_tests::keep(self.connection, self.now)?;
                Ok(Outcome::Kept)
            }
            Command::Refuse(refused, _) => {
                self.heard.extend(Heard::of_refused(&refused.provenance));
                if let Some(kept) = refusals::keep(self.connection, refused, self.line, self.now)? {
                    self.tell(What::Refusal, record::of_refusal(&kept));
                }
                Ok(Outcome::Kept)
            }
            Command::NoteTries(..) | Command::SendAgain(..) if !self.can_tell => {
                Ok(Outcome::NotWritable)
            }
            Command::NoteTries(tries, _) => self.note_tries(tries),
            Command::SendAgain(wish, _) => self.send_again(wish),
            Command::Note(note, _) => {
                let Note { about, words, actor } = &**note;
                self.act(Deed::Note(*about, words.clone()), actor).map(Outcome::Done)
            }
            Command::Close(close, _) => {
                self.close(close).map(|closed| Outcome::Closed(Box::new(closed)))
            }
            Command::Accept(accept, _) => self.accept(accept),
            Command::Reopen(reopen, _) => self.reopen(reopen),
            Command::Requeue { first, last, .. } => {
                self.queued_again(*first);
                outbox::requeue(self.connection, *first, *last).map(Outcome::Queued)
            }
        }
    }

    /// Notes what branches relayed, and tells what has come from each of them.
    pub fn note_relays(&self) -> rusqlite::Result<Held> {
        relays::note(self.connection, &self.heard, self.now)
    }

    fn tell(&mut self, what: What, record: String) {
        self.tell_of(self.now, what, record);
    }

    /// With the time that its row has: a lost tape is written again from that.
    fn tell_of(&mut self, at: AcceptedAt, what: What, record: String) {
        self.told.push(Told { line: self.line, at, what, record });
        self.line += 1;
    }

    fn queued_again(&mut self, from: Sequence) {
        self.again_from = Some(self.again_from.map_or(from, |lowest| lowest.min(from)));
    }

    fn record(&mut self, record: &Record) -> rusqlite::Result<Outcome> {
        let Record { confirmation, provenance, rule } = record;
        let collection = &confirmation.collection;
        let history =
            collections::history(self.connection, collection, &provenance.caller, self.now)?;
        Ok(match decide(collection, confirmation.flags, self.now, *rule, history, &self.closed) {
            Decision::Record { .. } if !self.can_write => Outcome::NotWritable,
            Decision::Record { flags, business_date } => {
                let confirmation = Confirmation { flags, ..confirmation.clone() };
                let sequence = self.write(confirmation, provenance.clone(), business_date)?;
                Outcome::New(sequence, flags)
            }
            Decision::Repeat { sequence, variant } => {
                self.repeat(record, sequence, variant.then_some(collection))?
            }
            Decision::Conflict { field, first } => match self.accepted_as(record)? {
                Some(sequence) => self.repeat(record, sequence, None)?,
                None => Outcome::Conflict(field, first),
            },
            Decision::AlreadyPaid { flags } => Outcome::AlreadyPaid(flags),
        })
    }

    fn repeat(
        &mut self,
        record: &Record,
        sequence: Sequence,
        variant: Option<&Collection>,
    ) -> rusqlite::Result<Outcome> {
        self.heard.extend(Heard::of(&record.provenance, None));
        if self.can_write {
            collections::insert_repeat(self.connection, sequence, variant, self.now)?;
        }
        Ok(Outcome::Repeated(sequence))
    }

    /// The collection that a branch's confirmation became, whose receipt stands for something else,
    /// when a person accepted it here: the branch need not send it again.
    fn accepted_as(&self, record: &Record) -> rusqlite::Result<Option<Sequence>> {
        if record.rule != Rule::Relayed {
            return Ok(None);
        }
        let collection = &record.confirmation.collection;
        let own = Collection { receipt: own_receipt(collection), ..collection.clone() };
        let is_it = |row: &EntryRow| {
            let Confirmation { collection, flags, .. } = &row.entry.confirmation;
            row.is_intact
                && flags.has(Flag::Accepted)
                && (collection.amount, collection.channel) == (own.amount, own.channel)
        };
        let stands = collections::by_identity(self.connection, &own)?.filter(is_it);
        Ok(stands.map(|row| row.entry.sequence))
    }

    /// Writes a new collection into the books. Gives its number.
    fn write(
        &mut self,
        confirmation: Confirmation,
        provenance: Provenance,
        business_date: BusinessDate,
    ) -> rusqlite::Result<Sequence> {
        let sequence = self.sequence;
        let new = Some((confirmation.collection.amount, confirmation.flags));
        self.heard.extend(Heard::of(&provenance, new));
        let entry =
            Entry { sequence, confirmation, provenance, accepted_at: self.now, business_date };
        let canonical = record::of_entry(&entry);
        insert_entry(self.connection, self.mode, &entry, &canonical, self.line)?;
        self.tell(What::Collection, canonical);
        self.sequence += 1;
        Ok(sequence)
    }

    fn accept(&mut self, accept: &Accept) -> rusqlite::Result<Outcome> {
        let Accept { refusal, confirmation, provenance, came_at, reason, actor } = accept;
        if let Some((sequence, line)) = acts::acceptance_of(self.connection, *refusal)? {
            return Ok(Outcome::Accepted(Accepted::Before(sequence), line));
        }
        let mut confirmation = confirmation.clone();
        let mut decision = self.decide_accepted(&confirmation, &provenance.caller, *came_at)?;
        if let Decision::Conflict { .. } = decision {
            // Its receipt stands for something else, so it gets one of its own.
            confirmation.collection.receipt = own_receipt(&confirmation.collection);
            decision = self.decide_accepted(&confirmation, &provenance.caller, *came_at)?;
        }
        let accepted = match decision {
            Decision::Record { flags, business_date } => {
                confirmation.flags = flags;
                Accepted::Now(self.write(confirmation, provenance.clone(), business_date)?)
            }
            Decision::Repeat { sequence, .. } => Accepted::Stands(sequence),
            // Two receipts of one's own that are the same, for different cash: not in this world.
            Decision::Conflict { .. } | Decision::AlreadyPaid { .. } => {
                return Ok(Outcome::Unknown);
            }
        };
        let deed = Deed::Accept(*refusal, accepted.sequence(), reason.clone());
        let line = self.act(deed, actor)?;
        Ok(Outcome::Accepted(accepted, line))
    }

    fn reopen(&mut self, reopen: &Reopen) -> rusqlite::Result<Outcome> {
        let Reopen { contract, reason, actor } = reopen;
        if !collections::is_known(self.connection, contract)? {
            return Ok(Outcome::Reopened(Reopened::Unknown, 0));
        }
        if let Some(line) = acts::reopened(self.connection, contract)? {
            return Ok(Outcome::Reopened(Reopened::Before, line));
        }
        let line = self.act(Deed::Reopen(contract.clone(), reason.clone()), actor)?;
        Ok(Outcome::Reopened(Reopened::Now, line))
    }

    fn decide_accepted(
        &self,
        confirmation: &Confirmation,
        caller: &UserName,
        came_at: AcceptedAt,
    ) -> rusqlite::Result<Decision> {
        let Confirmation { collection, flags, .. } = confirmation;
        let history = collections::history(self.connection, collection, caller, came_at)?;
        Ok(decide(collection, *flags, came_at, Rule::Accepted, history, &self.closed))
    }

    fn note_tries(&mut self, Tries { tries, held }: &Tries) -> rusqlite::Result<Outcome> {
        for tried in tries {
            if !collections::is_there(self.connection, tried.sequence)? {
                // Damage, which the check names: nothing can be told of what nobody knows.
                log::error!("collection {} waited for head office and is gone", tried.sequence);
                outbox::remove(self.connection, tried.sequence)?;
            } else if let Some(delivery) = deliveries::note_try(self.connection, tried)? {
                deliveries::decide(self.connection, &delivery, self.line)?;
                self.tell_of(delivery.at, What::Delivery, record::of_delivery(&delivery));
            }
        }
        if let Some(Holdings { up_to, count }) = held {
            self.connection
                .prepare_cached("UPDATE store SET have = ?1, held = ?2")?
                .execute((up_to, count))?;
        }
        Ok(Outcome::Noted)
    }

    fn send_again(&mut self, wish: &SendAgain) -> rusqlite::Result<Outcome> {
        let mut count = 0;
        for sequence in &wish.these {
            if !outbox::is_parked(self.connection, *sequence)? {
                continue;
            }
            count += 1;
            self.act(Deed::Retry(*sequence), &wish.actor)?;
            self.queued_again(*sequence);
        }
        Ok(Outcome::Queued(count))
    }

    fn close(&mut self, close: &Close) -> rusqlite::Result<Closed> {
        if let Some(closing) = acts::closing_of(self.connection, close.day)? {
            return Ok(Closed::Before(closing));
        }
        if close.day > self.now.date() {
            return Ok(Closed::Ahead);
        }
        let figures = closing::figures(self.connection, self.mode, close)?;
        if figures.has_undelivered() && !close.with_undelivered {
            return Ok(Closed::Undelivered(figures));
        }
        let line = self.act(Deed::Close(close.day, figures.clone()), &close.actor)?;
        // What follows in this very batch is late already.
        Arc::make_mut(&mut self.closed).close(close.day);
        let (day, actor, at) = (close.day, close.actor.clone(), self.now);
        Ok(Closed::Now(Closing { day, figures, actor, at, line }))
    }

    /// Does what a person wishes. Gives the line of the tape that tells of it.
    fn act(&mut self, deed: Deed, actor: &Actor) -> rusqlite::Result<i64> {
        let act = Act { deed, actor: actor.clone(), at: self.now };
        let line = self.line;
        acts::carry_out(self.connection, &act, line)?;
        self.tell(What::Act, record::of_act(&act));
        Ok(line)
    }
}

/// Writes a collection down, and queues it when real money is meant.
pub fn insert_entry(
    connection: &Connection,
    mode: Mode,
    entry: &Entry,
    canonical: &str,
    line: i64,
) -> rusqlite::Result<()> {
    collections::insert(connection, entry, canonical, line)?;
    if mode == Mode::Live {
        outbox::insert(connection, entry.sequence, entry.confirmation.collection.amount)?;
    }
    Ok(())
}

/// What is known when a batch is answered.
#[derive(Clone, Copy)]
pub struct Standing<'a> {
    /// Every collection up to this number is told on the tape.
    pub taped: Sequence,
    /// The last line of the tape.
    pub taped_line: i64,
    /// The storage failed.
    pub is_broken: bool,
    /// What has come from branches.
    pub held: &'a Held,
}

impl Command {
    /// Tells the outcome to whoever still waits for it.
    pub fn answer(self, outcome: Outcome, standing: Standing<'_>) {
        let outcome = if standing.is_broken { Outcome::Unknown } else { outcome };
        match self {
            Command::Record(record, answer) => {
                let held = standing.held(&record.provenance);
                let receipt = |sequence, flags| Receipt { sequence, flags, held };
                let _ = answer.send(match outcome {
                    Outcome::New(sequence, flags) if sequence <= standing.taped => {
                        Ok(Recorded::New(receipt(sequence, flags)))
                    }
                    Outcome::Repeated(sequence) if sequence <= standing.taped => {
                        Ok(Recorded::Repeated(receipt(sequence, Flags::NONE)))
                    }
                    Outcome::Conflict(field, first) => Ok(Recorded::Conflict { field, first }),
                    Outcome::AlreadyPaid(flags) => Ok(Recorded::AlreadyPaid { flags }),
                    outcome => Err(outcome.unavailable()),
                });
            }
            Command::Refuse(_, answer) | Command::NoteTries(_, answer) => {
                let _ = answer.send(match outcome {
                    Outcome::Kept | Outcome::Noted => Ok(()),
                    outcome => Err(outcome.unavailable()),
                });
            }
            Command::TryOut(answer) => {
                let _ = answer.send(match outcome {
                    Outcome::Kept => Ok(Receipt { sequence: 0, flags: Flags::NONE, held: None }),
                    outcome => Err(outcome.unavailable()),
                });
            }
            Command::SendAgain(_, answer) | Command::Requeue { answer, .. } => {
                let _ = answer.send(match outcome {
                    Outcome::Queued(count) => Ok(count),
                    outcome => Err(outcome.unavailable()),
                });
            }
            Command::Note(_, answer) => {
                let _ = answer.send(match outcome {
                    Outcome::Done(line) if line <= standing.taped_line => Ok(()),
                    outcome => Err(outcome.unavailable()),
                });
            }
            Command::Accept(_, answer) => {
                let _ = answer.send(match outcome {
                    Outcome::Accepted(accepted, line) if line <= standing.taped_line => {
                        Ok(accepted)
                    }
                    outcome => Err(outcome.unavailable()),
                });
            }
            Command::Reopen(_, answer) => {
                let _ = answer.send(match outcome {
                    Outcome::Reopened(reopened, line) if line <= standing.taped_line => {
                        Ok(reopened)
                    }
                    outcome => Err(outcome.unavailable()),
                });
            }
            Command::Close(_, answer) => {
                let _ = answer.send(match outcome {
                    Outcome::Closed(closed) if closed.line() <= standing.taped_line => Ok(*closed),
                    outcome => Err(outcome.unavailable()),
                });
            }
        }
    }

    /// Tells that nothing is known.
    pub fn answer_failed(self) {
        self.answer_without(Outcome::Unknown);
    }

    /// Tells that nothing was done, because of a damaged page.
    pub fn answer_damaged(self) {
        self.answer_without(Outcome::Damaged);
    }

    fn answer_without(self, outcome: Outcome) {
        let held = &Held::new();
        self.answer(outcome, Standing { taped: 0, taped_line: 0, is_broken: false, held });
    }
}

impl Outcome {
    fn unavailable(&self) -> Unavailable {
        match self {
            Outcome::NotWritable => Unavailable::NotWritable,
            Outcome::Damaged => Unavailable::Damaged,
            _ => Unavailable::Failed,
        }
    }
}

impl Standing<'_> {
    fn held(&self, provenance: &Provenance) -> Option<(Epoch, Holdings)> {
        let epoch = provenance.origin?.place.epoch;
        let holdings = self.held.get(&(provenance.branch.clone()?, epoch))?;
        Some((epoch, *holdings))
    }
}
