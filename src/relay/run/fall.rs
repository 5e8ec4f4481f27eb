//! What head office says that it has: when that becomes less, it has lost what it had, as after a
//! restored backup, and is sent all that it lacks once more.

use std::mem;

use super::{REQUEUE_ROWS, Relay};
use crate::domain::decision::Sequence;
use crate::domain::delivery::Holdings;
use crate::store::Unavailable;
use crate::system::event::Event;
use crate::upstream::Upstream;

/// After so many numbers that cannot be queued again there is a pause: they are more than the
/// collections on one page, and where all fail this must not be all that the writer does.
const SKIPPED_AT_ONCE: u64 = 100;

/// Head office has lost what it had: from the last number down to this one all of it is queued
/// again. Downwards, because a crash on the way then leaves the fall to be seen again.
pub(super) struct Fall {
    /// What it says that it has.
    pub held: Holdings,
    /// The last number that is still to be queued again; `None` until nothing is under way.
    pub last: Option<Sequence>,
    /// So many numbers are queued again in one transaction; fewer near a damaged page.
    pub rows: i64,
    /// How many could not be, because of damage.
    pub skipped: u64,
}

impl<U: Upstream> Relay<U> {
    /// Head office says what it has; it was known to have `known` when this try began. Answers
    /// overtake each other, so only less than that is a fall; or as much, when the try brought it
    /// something that `is_new` to it.
    pub(super) fn hear(&mut self, told: Holdings, known: Holdings, is_new: bool) {
        let least = Holdings { count: known.count + i64::from(is_new && known.count > 0), ..known };
        if let Some(fall) = &mut self.fall {
            fall.held = fall.held.lowest(told);
        } else if told.up_to > self.bell.ready_to() {
            if mem::replace(&mut self.is_copy, true) {
                return;
            }
            log::error!(
                TILLD_EVENT = Event::EpochUsedTwice;
                "head office has number {} of this branch, which has none beyond {}: this database \
                 is a copy of an older one; `tilld rebuild` gives it an epoch of its own",
                told.up_to,
                self.bell.ready_to()
            );
        } else if told.is_less_than(least) {
            log::error!(
                TILLD_EVENT = Event::Fall;
                "head office has less of this branch than it had: everything up to number {} and \
                 {} in all, after {} and {}; it was restored from a backup, or this database was \
                 rebuilt; what it lacks is sent again",
                told.up_to, told.count, known.up_to, known.count
            );
            self.fall = Some(Fall { held: told, last: None, rows: REQUEUE_ROWS, skipped: 0 });
            // What head office takes meanwhile is sent again, and then there already.
            self.tried_before = self.bell.ready_to();
        } else if told.up_to > self.held.up_to || told.count > self.held.count {
            self.held = self.held.highest(told);
            self.is_held_news = true;
        }
    }

    /// What came of queueing these again.
    pub(super) fn requeued(
        &mut self,
        (first, last): (Sequence, Sequence),
        result: Result<usize, Unavailable>,
    ) -> Result<(), Unavailable> {
        let Some(fall) = &mut self.fall else { return Ok(()) };
        match result {
            Ok(_) => fall.rows = REQUEUE_ROWS.min(2 * fall.rows),
            Err(Unavailable::Damaged) if first < last => {
                fall.rows = (last - first + 1) / 2;
                return Ok(());
            }
            Err(Unavailable::Damaged) => {
                log::error!(
                    TILLD_EVENT = Event::Damaged, TILLD_SEQUENCE = first;
                    "collection {first} cannot be queued again for head office, which has lost \
                     it, because a row or a page of the database is damaged; `tilld verify` tells \
                     more"
                );
                fall.skipped += 1;
                let rests = fall.skipped.is_multiple_of(SKIPPED_AT_ONCE);
                self.requeued_from(first);
                return if rests { Err(Unavailable::Damaged) } else { Ok(()) };
            }
            Err(error) => return Err(error),
        }
        self.requeued_from(first);
        Ok(())
    }

    /// Rows down to this number are queued again.
    fn requeued_from(&mut self, first: Sequence) {
        let Some(fall) = &mut self.fall else { return };
        fall.last = Some(first - 1);
        if first <= fall.held.up_to + 1 {
            self.held = fall.held;
            self.is_held_news = true;
            self.fall = None;
            // What was read before would overtake what is queued again before it. Nothing is under
            // way, and all that waits is read again from the first.
            self.lane.forget_all();
            self.contents.clear();
            self.wanted.clear();
            self.unwritable.clear();
            self.rewind_to(1);
            log::warn!(
                TILLD_EVENT = Event::Fall;
                "what head office lost is queued again, from number {first} on"
            );
        }
    }
}
