//! What people did, over the control socket.
//!
//! An [`Act`] stands on the tape and in a row of the same number. Carrying one out and completing
//! one from the tape are the same, so that a start after a crash ends where the crash was.

use rusqlite::{Connection, OptionalExtension, Row};

use super::columns::{parsed, text};
use super::outbox;
use crate::domain::Invalid;
use crate::domain::decision::Sequence;
use crate::domain::time::AcceptedAt;

/// What people can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActKind {
    /// Send a parked collection again.
    Retry,
}

impl ActKind {
    /// The word in the database and on the tape.
    pub fn as_str(self) -> &'static str {
        match self {
            ActKind::Retry => "retry",
        }
    }

    /// Parses the word.
    pub fn parse(word: &str) -> Result<ActKind, Invalid> {
        match word {
            "retry" => Ok(ActKind::Retry),
            _ => Err(Invalid { expected: "the name of an act such as retry" }),
        }
    }
}

/// Something that a person did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// What.
    pub what: ActKind,
    /// To which collection.
    pub sequence: Sequence,
    /// Who, as claimed.
    pub actor: String,
    /// When.
    pub at: AcceptedAt,
}

/// Writes down what a person did, which stands on the tape in this line.
pub fn carry_out(connection: &Connection, act: &Act, line: i64) -> rusqlite::Result<()> {
    match act.what {
        ActKind::Retry => {
            if let Some(amount) = outbox::unpark(connection, act.sequence)? {
                outbox::insert(connection, act.sequence, amount)?;
            }
        }
    }
    connection
        .prepare_cached(
            "INSERT INTO act (line, what, sequence, actor, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((line, act.what.as_str(), act.sequence, &act.actor, act.at.unix_ms()))
        .map(drop)
}

/// The act that stands in this line of the tape.
pub fn act_in(connection: &Connection, line: i64) -> rusqlite::Result<Option<Act>> {
    connection
        .prepare_cached("SELECT what, sequence, actor, at, line FROM act WHERE line = ?1")?
        .query_row([line], act)
        .optional()
}

fn act(row: &Row<'_>) -> rusqlite::Result<Act> {
    Ok(Act {
        what: text(row, 0, ActKind::parse)?,
        sequence: row.get(1)?,
        actor: row.get(2)?,
        at: parsed(row, 3, AcceptedAt::from_unix_ms)?,
    })
}
