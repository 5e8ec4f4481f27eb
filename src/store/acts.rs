//! What people did, over the control socket.
//!
//! An [`Act`] stands on the tape and in a row of the same number. Carrying one out and completing
//! one from the tape are the same, so that a start after a crash ends where the crash was.

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde::{Deserialize, Serialize};

use super::{collections, outbox, refusals};
use crate::domain::Invalid;
use crate::domain::act::{About, Actor, Words};
use crate::domain::decision::Sequence;
use crate::domain::time::AcceptedAt;

/// Something that a person did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// What.
    pub deed: Deed,
    /// Who, as claimed.
    pub actor: Actor,
    /// When.
    pub at: AcceptedAt,
}

/// What people can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Send a parked collection again.
    Retry(Sequence),
    /// Write a note beside a collection or a refusal.
    Note(About, Words),
}

impl Deed {
    /// The word for it in the database and on the tape.
    pub fn word(&self) -> &'static str {
        match self {
            Deed::Retry(_) => "retry",
            Deed::Note(..) => "note",
        }
    }

    /// The collection or the refusal that it is about.
    pub fn about(&self) -> About {
        match self {
            Deed::Retry(sequence) => About::Collection(*sequence),
            Deed::Note(about, _) => *about,
        }
    }

    /// What was written with it.
    pub fn words(&self) -> Option<&Words> {
        match self {
            Deed::Retry(_) => None,
            Deed::Note(_, words) => Some(words),
        }
    }
}

/// An act as its row and its line on the tape have it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Written<'a> {
    act: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<Sequence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    actor: Cow<'a, str>,
    at_ms: i64,
}

impl<'a> Written<'a> {
    /// How an act is written.
    pub fn of(act: &'a Act) -> Written<'a> {
        let (sequence, refusal) = match act.deed.about() {
            About::Collection(sequence) => (Some(sequence), None),
            About::Refusal(id) => (None, Some(id)),
        };
        Written {
            act: act.deed.word().into(),
            sequence,
            refusal,
            text: act.deed.words().map(|words| words.as_str().into()),
            actor: act.actor.as_str().into(),
            at_ms: act.at.unix_ms(),
        }
    }

    /// Reads it back.
    pub fn act(&self) -> Result<Act, Invalid> {
        let about = match (self.sequence, self.refusal) {
            (Some(sequence), None) => About::Collection(sequence),
            (None, Some(id)) => About::Refusal(id),
            _ => return Err(Invalid { expected: "one thing that the act is about" }),
        };
        let words = self.text.as_deref().map(Words::parse).transpose()?;
        let deed = match (&*self.act, about, words) {
            ("retry", About::Collection(sequence), None) => Deed::Retry(sequence),
            ("note", about, Some(words)) => Deed::Note(about, words),
            _ => {
                return Err(Invalid {
                    expected: "an act such as note, and all that belongs to it",
                });
            }
        };
        let at = AcceptedAt::from_unix_ms(self.at_ms)?;
        Ok(Act { deed, actor: Actor::parse(&self.actor)?, at })
    }
}

/// The columns that [`act`] reads, in its order.
const COLUMNS: &str = "what, sequence, refusal, text, actor, at";

/// Writes down what a person did, which stands on the tape in this line.
pub fn carry_out(connection: &Connection, act: &Act, line: i64) -> rusqlite::Result<()> {
    match &act.deed {
        Deed::Retry(sequence) => {
            if let Some(amount) = outbox::unpark(connection, *sequence)? {
                outbox::insert(connection, *sequence, amount)?;
            }
        }
        Deed::Note(..) => {}
    }
    let written = Written::of(act);
    connection
        .prepare_cached(
            "INSERT INTO act (line, what, sequence, refusal, text, actor, at)
             VALUES (:line, :what, :sequence, :refusal, :text, :actor, :at)",
        )?
        .execute(named_params! {
            ":line": line,
            ":what": written.act,
            ":sequence": written.sequence,
            ":refusal": written.refusal,
            ":text": written.text,
            ":actor": written.actor,
            ":at": written.at_ms,
        })
        .map(drop)
}

/// Whether there is what an act is about.
pub fn has_subject(connection: &Connection, act: &Act) -> rusqlite::Result<bool> {
    match act.deed.about() {
        About::Collection(sequence) => collections::is_there(connection, sequence),
        About::Refusal(id) => Ok(refusals::by_id(connection, id)?.is_some()),
    }
}

/// The act that stands in this line of the tape.
pub fn act_in(connection: &Connection, line: i64) -> rusqlite::Result<Option<Act>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM act WHERE line = ?1"))?
        .query_row([line], act)
        .optional()
}

/// What was done about a collection or a refusal, oldest first.
pub fn acts_about(connection: &Connection, about: About) -> rusqlite::Result<Vec<Act>> {
    let (column, number) = match about {
        About::Collection(sequence) => ("sequence", sequence),
        About::Refusal(id) => ("refusal", id),
    };
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM act WHERE {column} = ?1 ORDER BY line"))?
        .query_map([number], act)?
        .collect()
}

fn act(row: &Row<'_>) -> rusqlite::Result<Act> {
    let written = Written {
        act: row.get::<_, String>(0)?.into(),
        sequence: row.get(1)?,
        refusal: row.get(2)?,
        text: row.get::<_, Option<String>>(3)?.map(Cow::from),
        actor: row.get::<_, String>(4)?.into(),
        at_ms: row.get(5)?,
    };
    written.act().map_err(unreadable)
}

fn unreadable(invalid: Invalid) -> rusqlite::Error {
    let column_type = rusqlite::types::Type::Text;
    rusqlite::Error::FromSqlConversionFailure(0, column_type, Box::new(invalid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record;

    fn act(deed: Deed) -> Act {
        let at = AcceptedAt::from_unix_ms(1_795_305_820_534).unwrap();
        Act { deed, actor: Actor::parse("ana").unwrap(), at }
    }

    #[test]
    fn an_act_has_one_text_on_the_tape_and_is_read_back_from_it() {
        let words = Words::parse("a \"b\"").unwrap();
        for (deed, members) in [
            (Deed::Retry(7), r#""act":"retry","sequence":7"#),
            (
                Deed::Note(About::Collection(7), words.clone()),
                r#""act":"note","sequence":7,"text":"a \"b\"""#,
            ),
            (Deed::Note(About::Refusal(3), words), r#""act":"note","refusal":3,"text":"a \"b\"""#),
        ] {
            let act = act(deed);
            let text = format!("{{{members},\"actor\":\"ana\",\"atMs\":1795305820534}}");
            assert_eq!(record::of_act(&act), text);
            assert_eq!(record::act(&text), Ok(act));
        }
    }

    #[test]
    fn an_act_that_lacks_something_or_has_too_much_is_none() {
        for text in [
            r#"{"act":"note","sequence":7,"actor":"ana","atMs":1}"#,
            r#"{"act":"note","text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"note","sequence":7,"refusal":3,"text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"note","sequence":7,"text":"a\nb","actor":"ana","atMs":1}"#,
            r#"{"act":"note","sequence":7,"text":"x","actor":"","atMs":1}"#,
            r#"{"act":"retry","refusal":3,"actor":"ana","atMs":1}"#,
            r#"{"act":"retry","sequence":7,"text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"void","sequence":7,"actor":"ana","atMs":1}"#,
            r#"{"act":"retry","sequence":7,"actor":"ana","atMs":1,"more":1}"#,
        ] {
            assert!(record::act(text).is_err(), "{text}");
        }
    }
}
