//! What leaves for head office, checked before it does: each row against its digest and against its
//! line on the tape. A row that differs from them is not what was confirmed, and is never sent.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::collections::{self, EntryRow};
use super::finder::Finder;
use super::writer::is_of_one_row;
use super::{OpenError, births, outbox, schema, tape};
use crate::domain::Invalid;
use crate::domain::collection::Collection;
use crate::domain::decision::Sequence;
use crate::domain::delivery::{Epoch, Holdings, TapeLine};
use crate::system::event::Event;

/// A collection that waits for head office.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its number.
    pub sequence: Sequence,
    /// What was confirmed.
    pub collection: Collection,
    /// The line on the tape that tells of it; `None` when that cannot be read.
    pub line: Option<TapeLine>,
}

/// A row of the outbox.
#[derive(Clone, Debug)]
pub enum Queued {
    /// It is what was confirmed.
    Sound(Outgoing),
    /// It is not, or cannot be read: it must not be sent.
    Damaged {
        /// Its number.
        sequence: Sequence,
        /// What is wrong with it, in words.
        reason: String,
    },
    /// The database's file is damaged where it stands: it can be neither sent nor parked.
    Unreadable {
        /// Its number.
        sequence: Sequence,
        /// What is wrong, in words.
        reason: String,
    },
}

impl Queued {
    /// Its number.
    pub fn sequence(&self) -> Sequence {
        match self {
            Queued::Sound(outgoing) => outgoing.sequence,
            Queued::Damaged { sequence, .. } | Queued::Unreadable { sequence, .. } => *sequence,
        }
    }
}

/// Reads the outbox beside the writer.
pub struct OutboxReader {
    connection: Connection,
    finder: Finder,
}

impl OutboxReader {
    /// Opens the outbox in a state directory.
    pub fn open(state_dir: &Path) -> Result<OutboxReader, OpenError> {
        Ok(OutboxReader {
            connection: schema::open_for_reading(state_dir)?,
            finder: Finder::new(tape::directory(state_dir)),
        })
    }

    /// The database's epoch.
    pub fn epoch(&self) -> Result<Epoch, OpenError> {
        let epoch = births::epoch(&self.connection)?;
        Epoch::parse(&epoch).map_err(|Invalid { expected }| {
            OpenError::damaged(format!("its epoch is {epoch:?}, not {expected}"))
        })
    }

    /// What head office last said that it has, and at the least everything before the first
    /// collection that is not delivered: what it said may be lost with a WAL. It never has more
    /// where the next number is one that neither witness has.
    pub fn holdings(&self) -> Result<Holdings, OpenError> {
        // All of it from one state: what a person sends again goes from one table to the other.
        let state = self.connection.unchecked_transaction()?;
        let sql = "SELECT have, held FROM store";
        let (have, count): (Sequence, i64) =
            state.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut delivered_to = collections::last_sequence(&state)?;
        for table in ["outbox", "parked"] {
            let sql = format!("SELECT min(sequence) - 1 FROM {table}");
            let before_first: Option<Sequence> = match state.query_row(&sql, [], |row| row.get(0)) {
                Err(error) if is_damage(&error) => Some(0),
                before_first => before_first?,
            };
            delivered_to = delivered_to.min(before_first.unwrap_or(delivered_to));
        }
        let is_next_lost = match collections::is_there(&state, have + 1) {
            Ok(is_there) => !is_there,
            Err(error) if is_of_one_row(&error) => false,
            Err(error) => return Err(error.into()),
        };
        let up_to = if is_next_lost { have } else { have.max(delivered_to) };
        Ok(Holdings { up_to, count })
    }

    /// The number of the last recorded collection.
    pub fn last_sequence(&self) -> Result<Sequence, OpenError> {
        Ok(collections::last_sequence(&self.connection)?)
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> Result<bool, OpenError> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM outbox)";
        Ok(self.connection.query_row(sql, [], |row| row.get(0))?)
    }

    /// At most `limit` rows behind number `after`, in order, none beyond `last`.
    pub fn page(
        &mut self,
        after: Sequence,
        last: Sequence,
        limit: usize,
    ) -> Result<Vec<Queued>, OpenError> {
        // One state for all of it: each row on its own would take the locks anew, and read again
        // what the writer has changed meanwhile.
        let state = self.connection.unchecked_transaction()?;
        let sequences = match outbox::queued(&state, (after, last), limit) {
            Err(error) if is_damage(&error) => {
                log::error!(
                    TILLD_EVENT = Event::Difference;
                    "a page of the queue for head office cannot be read, so all is sent that is \
                     not known to be there: {error}; `tilld verify` tells more"
                );
                outbox::undelivered(&state, (after, last), limit)?
            }
            sequences => sequences?,
        };
        sequences.into_iter().map(|sequence| row(&state, &mut self.finder, sequence)).collect()
    }

    /// The row with this number, which is in the outbox.
    pub fn row(&mut self, sequence: Sequence) -> Result<Queued, OpenError> {
        row(&self.connection, &mut self.finder, sequence)
    }
}

fn row(
    connection: &Connection,
    finder: &mut Finder,
    sequence: Sequence,
) -> Result<Queued, OpenError> {
    let damaged = |reason: String| Ok(Queued::Damaged { sequence, reason });
    let row = match collections::by_sequence(connection, sequence) {
        Ok(Some(row)) => row,
        Ok(None) => return damaged("its row is gone".to_owned()),
        Err(error) if error.sqlite_error_code().is_none() => {
            return damaged(error.to_string());
        }
        Err(error) if is_damage(&error) => {
            return Ok(Queued::Unreadable { sequence, reason: error.to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    let EntryRow { entry, canonical, line: number, is_intact } = row;
    if !is_intact {
        return damaged("its row was altered after it was recorded".to_owned());
    }
    let line = match finder.find(number) {
        Ok(Some((line, _))) if line.record != canonical => {
            return damaged(format!("its row differs from line {number} of the tape"));
        }
        Ok(found) => found.map(|(_, digest)| TapeLine { number, digest }),
        Err(error) => {
            log::error!("the tape cannot be read to check collection {sequence}: {error}");
            None
        }
    };
    let collection = entry.confirmation.collection;
    Ok(Queued::Sound(Outgoing { sequence, collection, line }))
}

/// Whether a page is damaged, or its sector: SQLite calls that damage as well.
fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::database_path;
    use crate::store::model_tests::stopped_after;

    #[test]
    fn head_office_is_never_taken_to_have_a_number_that_neither_witness_has() {
        let directory = stopped_after(3);
        let state_dir = directory.path();
        let holdings = || OutboxReader::open(state_dir).unwrap().holdings().unwrap().up_to;
        let change = |sql| {
            Connection::open(database_path(state_dir)).unwrap().execute_batch(sql).unwrap();
        };
        change("UPDATE store SET have = 1; DELETE FROM outbox");
        assert_eq!(holdings(), 3, "what it said last may be lost");
        change(
            "DROP TRIGGER collection_is_never_deleted; PRAGMA foreign_keys = OFF;
             DELETE FROM collection WHERE sequence = 2",
        );
        assert_eq!(holdings(), 1, "else what it says next would be taken for a loss");
    }
}
