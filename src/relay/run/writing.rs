//! Has the writer note what came of tries, many at a time. A damaged page of the database must cost
//! only what stands on it.

use std::mem;
use std::pin::Pin;

use tokio::sync::oneshot;

use super::{GATHER_TIME, Relay, WRITE_PAUSE};
use crate::domain::decision::Sequence;
use crate::domain::delivery::{Attempt, Fate};
use crate::store::{Tried, Unavailable};
use crate::system::clock;
use crate::system::event::Event;
use crate::upstream::Upstream;

/// What was written.
pub(super) enum Written {
    Tries {
        tries: Vec<Tried>,
        /// Whether it was written without anything else.
        is_apart: bool,
        result: Result<(), Unavailable>,
    },
    /// Queued again between these numbers.
    Requeued { first: Sequence, last: Sequence, result: Result<usize, Unavailable> },
}

pub(super) type Writing = Pin<Box<dyn Future<Output = Written> + Send>>;

impl<U: Upstream> Relay<U> {
    pub(super) fn note(&mut self, sequence: Sequence, attempt: Attempt, fate: Fate) {
        if fate != Fate::Waits {
            self.settling.insert(sequence);
        }
        let may_have_been_tried = sequence <= self.tried_before;
        self.unwritten.push(Tried { sequence, attempt, fate, may_have_been_tried });
    }

    /// Begins to write what is to be written next.
    pub(super) fn write(&mut self) -> Option<Writing> {
        if self.write_pause.is_some() || self.gathers_until.is_some() {
            return None;
        }
        if self.apart > 0 && !self.unwritten.is_empty() {
            self.apart -= 1;
            let tries = vec![self.unwritten.remove(0)];
            let waiting = self.store.note_tries(tries.clone(), None);
            return Some(Box::pin(async move {
                Written::Tries { tries, is_apart: true, result: outcome(waiting).await }
            }));
        }
        if !self.unwritten.is_empty() || (self.is_held_news && self.fall.is_none()) {
            self.gathers_until = Some(clock::monotonic() + GATHER_TIME);
            let tries = mem::take(&mut self.unwritten);
            let is_news = self.fall.is_none() && mem::take(&mut self.is_held_news);
            let waiting = self.store.note_tries(tries.clone(), is_news.then_some(self.held));
            return Some(Box::pin(async move {
                Written::Tries { tries, is_apart: false, result: outcome(waiting).await }
            }));
        }
        let rests = self.under_way.is_empty() && self.outbox.is_some();
        let fall = self.fall.as_mut().filter(|_| rests)?;
        let last = *fall.last.get_or_insert(self.bell.ready_to());
        let first = (last - fall.rows + 1).max(fall.held.up_to + 1);
        let waiting = self.store.requeue(first, last);
        Some(Box::pin(
            async move { Written::Requeued { first, last, result: outcome(waiting).await } },
        ))
    }

    pub(super) fn wrote(&mut self, written: Written) {
        let written = match written {
            Written::Tries { tries, is_apart, result } => self.wrote_tries(tries, is_apart, result),
            Written::Requeued { first, last, result } => self.requeued((first, last), result),
        };
        self.write_trouble = written.err().map(|error| match error {
            Unavailable::QueueFull => "the writer has too much to do",
            Unavailable::NotWritable | Unavailable::Damaged | Unavailable::Failed => {
                "what became of collections at head office cannot be written down; the log of the \
                 storage says why"
            }
        });
        if self.write_trouble.is_some() {
            self.write_pause = Some(clock::monotonic() + WRITE_PAUSE);
        }
    }

    fn wrote_tries(
        &mut self,
        tries: Vec<Tried>,
        is_apart: bool,
        result: Result<(), Unavailable>,
    ) -> Result<(), Unavailable> {
        match (result, &tries[..]) {
            (Ok(()), _) => {
                for tried in tries.iter().filter(|tried| tried.fate != Fate::Waits) {
                    self.settling.remove(&tried.sequence);
                    if self.outbox.is_none() {
                        self.settled.insert(tried.sequence);
                    }
                }
                let skipped = mem::replace(&mut self.skipped, Sequence::MAX);
                if skipped < Sequence::MAX {
                    self.rewind_to(skipped);
                }
                Ok(())
            }
            (Err(Unavailable::Damaged), [alone]) if is_apart => {
                if self.settling.remove(&alone.sequence) {
                    self.unwritable.insert(alone.sequence);
                }
                log::error!(
                    TILLD_EVENT = Event::Difference, TILLD_SEQUENCE = alone.sequence;
                    "what became of collection {} at head office cannot be written down, because a \
                     row or a page of the database is damaged; `tilld verify` tells more",
                    alone.sequence
                );
                Ok(())
            }
            (Err(error), _) => {
                let count = tries.len();
                self.unwritten.splice(..0, tries);
                self.is_held_news |= !is_apart;
                if error != Unavailable::Damaged || count == 0 {
                    return Err(error);
                }
                self.apart = count;
                self.gathers_until = None;
                Ok(())
            }
        }
    }
}

/// What the writer answers; a writer that is gone has failed.
async fn outcome<T>(
    waiting: Result<oneshot::Receiver<Result<T, Unavailable>>, Unavailable>,
) -> Result<T, Unavailable> {
    waiting?.await.unwrap_or(Err(Unavailable::Failed))
}
