//! What people did, over the control socket.
//!
//! An [`Act`] stands on the tape and in a row of the same number. Carrying one out and completing
//! one from the tape are the same, so that a start after a crash ends where the crash was.

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde::{Deserialize, Serialize};

use super::closing::{Closing, Figures, WrittenFigures};
use super::columns::{optional_text, text, unreadable};
use super::{collections, outbox, record, refusals};
use crate::domain::Invalid;
use crate::domain::act::{About, Actor, Words};
use crate::domain::closing::ClosedDays;
use crate::domain::contract::{ContractNumber, Mode};
use crate::domain::decision::Sequence;
use crate::domain::time::{AcceptedAt, BusinessDate};

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
    /// Close a day's books, which came to this.
    Close(BusinessDate, Figures),
    /// Accept a refusal, which is this collection, and why.
    Accept(i64, Sequence, Words),
    /// Let a paid contract be paid once more, and why.
    Reopen(ContractNumber, Words),
}

impl Deed {
    /// The word for it in the database and on the tape.
    pub fn word(&self) -> &'static str {
        match self {
            Deed::Retry(_) => "retry",
            Deed::Note(..) => "note",
            Deed::Close(..) => "close",
            Deed::Accept(..) => "accept",
            Deed::Reopen(..) => "reopen",
        }
    }

    /// The collection and the refusal that it is about, as far as it is about one.
    pub fn subjects(&self) -> (Option<Sequence>, Option<i64>) {
        match self {
            Deed::Retry(sequence) | Deed::Note(About::Collection(sequence), _) => {
                (Some(*sequence), None)
            }
            Deed::Note(About::Refusal(id), _) => (None, Some(*id)),
            Deed::Close(..) | Deed::Reopen(..) => (None, None),
            Deed::Accept(id, sequence, _) => (Some(*sequence), Some(*id)),
        }
    }

    /// What was written with it.
    pub fn words(&self) -> Option<&Words> {
        match self {
            Deed::Retry(_) | Deed::Close(..) => None,
            Deed::Note(_, words) | Deed::Accept(_, _, words) | Deed::Reopen(_, words) => {
                Some(words)
            }
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
    contract: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    day: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    figures: Option<WrittenFigures>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    actor: Cow<'a, str>,
    at_ms: i64,
}

impl<'a> Written<'a> {
    /// How an act is written.
    pub fn of(act: &'a Act) -> Written<'a> {
        let (sequence, refusal) = act.deed.subjects();
        let (day, figures) = match &act.deed {
            Deed::Close(day, figures) => (Some(day.to_string().into()), Some(figures.into())),
            _ => (None, None),
        };
        let contract = match &act.deed {
            Deed::Reopen(contract, _) => Some(contract.as_str().into()),
            _ => None,
        };
        Written {
            act: act.deed.word().into(),
            sequence,
            refusal,
            contract,
            day,
            figures,
            text: act.deed.words().map(|words| words.as_str().into()),
            actor: act.actor.as_str().into(),
            at_ms: act.at.unix_ms(),
        }
    }

    /// Reads it back.
    pub fn act(&self) -> Result<Act, Invalid> {
        let day = self.day.as_deref().map(BusinessDate::parse).transpose()?;
        let words = self.text.as_deref().map(Words::parse).transpose()?;
        // As everywhere in the books: which contracts are taken is decided at the rim.
        let contract = self.contract.as_deref();
        let contract =
            contract.map(|text| ContractNumber::parse(text, Mode::Sandbox)).transpose()?;
        let subjects = (self.sequence, self.refusal, contract);
        let deed = match (&*self.act, subjects, day.zip(self.figures.as_ref()), words) {
            ("retry", (Some(sequence), None, None), None, None) => Deed::Retry(sequence),
            ("note", (Some(sequence), None, None), None, Some(words)) => {
                Deed::Note(About::Collection(sequence), words)
            }
            ("note", (None, Some(id), None), None, Some(words)) => {
                Deed::Note(About::Refusal(id), words)
            }
            ("close", (None, None, None), Some((day, figures)), None) => {
                Deed::Close(day, figures.into())
            }
            ("accept", (Some(sequence), Some(id), None), None, Some(words)) => {
                Deed::Accept(id, sequence, words)
            }
            ("reopen", (None, None, Some(contract)), None, Some(words)) => {
                Deed::Reopen(contract, words)
            }
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
const COLUMNS: &str = "what, sequence, refusal, contract, day, figures, text, actor, at, line";

/// Writes down what a person did, which stands on the tape in this line.
pub fn carry_out(connection: &Connection, act: &Act, line: i64) -> rusqlite::Result<()> {
    match &act.deed {
        Deed::Retry(sequence) => {
            if outbox::unpark(connection, *sequence)? {
                outbox::requeue(connection, *sequence, *sequence)?;
            }
        }
        Deed::Note(..) | Deed::Close(..) | Deed::Accept(..) | Deed::Reopen(..) => {}
    }
    let written = Written::of(act);
    connection
        .prepare_cached(
            "INSERT INTO act
                 (line, what, sequence, refusal, contract, day, figures, text, actor, at)
             VALUES (:line, :what, :sequence, :refusal, :contract, :day, :figures, :text, :actor,
                 :at)",
        )?
        .execute(named_params! {
            ":line": line,
            ":what": written.act,
            ":sequence": written.sequence,
            ":refusal": written.refusal,
            ":contract": written.contract,
            ":day": written.day,
            ":figures": written.figures.as_ref().map(record::of_figures),
            ":text": written.text,
            ":actor": written.actor,
            ":at": written.at_ms,
        })
        .map(drop)
}

/// What an act is about, when that is not there.
pub fn missing_subject(connection: &Connection, act: &Act) -> rusqlite::Result<Option<About>> {
    let (sequence, refusal) = act.deed.subjects();
    if let Some(sequence) = sequence
        && !collections::is_there(connection, sequence)?
    {
        return Ok(Some(About::Collection(sequence)));
    }
    if let Some(id) = refusal
        && refusals::by_id(connection, id)?.is_none()
    {
        return Ok(Some(About::Refusal(id)));
    }
    Ok(None)
}

/// The act that stands in this line of the tape.
pub fn act_in(connection: &Connection, line: i64) -> rusqlite::Result<Option<Act>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM act WHERE line = ?1"))?
        .query_row([line], act)
        .optional()
}

/// What was done about a collection and its contract, or about a refusal, oldest first.
pub fn acts_about(connection: &Connection, about: About) -> rusqlite::Result<Vec<Act>> {
    let (is_about, number) = match about {
        About::Collection(sequence) => (
            "sequence = ?1 OR contract = (SELECT contract FROM collection WHERE sequence = ?1)",
            sequence,
        ),
        About::Refusal(id) => ("refusal = ?1", id),
    };
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM act WHERE {is_about} ORDER BY line"))?
        .query_map([number], act)?
        .collect()
}

/// The collection that a refusal is, when it was accepted, and the line that tells of it.
pub fn acceptance_of(
    connection: &Connection,
    refusal: i64,
) -> rusqlite::Result<Option<(Sequence, i64)>> {
    connection
        .prepare_cached("SELECT sequence, line FROM act WHERE refusal = ?1 AND what = 'accept'")?
        .query_row([refusal], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// The line of the act that reopened a contract, when nothing was collected for it since.
pub fn reopened(
    connection: &Connection,
    contract: &ContractNumber,
) -> rusqlite::Result<Option<i64>> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(line) FROM act WHERE contract = ?1")?
        .query_row([contract.as_str()], |row| row.get(0))?;
    let Some(line) = last else { return Ok(None) };
    let is_paid_again: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM collection WHERE contract = ?1 AND line > ?2)",
        )?
        .query_row((contract.as_str(), line), |row| row.get(0))?;
    Ok((!is_paid_again).then_some(line))
}

/// How a day was closed, if it was.
pub fn closing_of(connection: &Connection, day: BusinessDate) -> rusqlite::Result<Option<Closing>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM act WHERE day = ?1"))?
        .query_row([day.to_string()], |row| Ok(Closing::of(act(row)?, row.get(9)?)))
        .optional()
        .map(Option::flatten)
}

/// All days that were closed.
pub fn closed_days(connection: &Connection) -> rusqlite::Result<ClosedDays> {
    connection
        .prepare("SELECT day FROM act WHERE day IS NOT NULL")?
        .query_map([], |row| text(row, 0, BusinessDate::parse))?
        .collect()
}

fn act(row: &Row<'_>) -> rusqlite::Result<Act> {
    let written = Written {
        act: row.get::<_, String>(0)?.into(),
        sequence: row.get(1)?,
        refusal: row.get(2)?,
        contract: row.get::<_, Option<String>>(3)?.map(Cow::from),
        day: row.get::<_, Option<String>>(4)?.map(Cow::from),
        figures: optional_text(row, 5, record::figures)?,
        text: row.get::<_, Option<String>>(6)?.map(Cow::from),
        actor: row.get::<_, String>(7)?.into(),
        at_ms: row.get(8)?,
    };
    written.act().map_err(|invalid| unreadable(0, invalid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::amount::Centavos;
    use crate::store::record;
    use crate::store::takings::Takings;
    use crate::store::tape::{self, Told, What};

    fn act(deed: Deed) -> Act {
        let at = AcceptedAt::from_unix_ms(1_795_305_820_534).unwrap();
        Act { deed, actor: Actor::parse("ana").unwrap(), at }
    }

    #[test]
    fn an_act_has_one_text_on_the_tape_and_is_read_back_from_it() {
        let words = Words::parse("a \"b\"").unwrap();
        let contract = ContractNumber::parse("SKY0112345678", Mode::Live).unwrap();
        for (deed, members) in [
            (Deed::Retry(7), r#""act":"retry","sequence":7"#),
            (
                Deed::Note(About::Collection(7), words.clone()),
                r#""act":"note","sequence":7,"text":"a \"b\"""#,
            ),
            (
                Deed::Accept(3, 7, words.clone()),
                r#""act":"accept","sequence":7,"refusal":3,"text":"a \"b\"""#,
            ),
            (
                Deed::Reopen(contract, words.clone()),
                r#""act":"reopen","contract":"SKY0112345678","text":"a \"b\"""#,
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
    fn the_longest_close_there_can_be_is_a_line_that_is_read() {
        let most = Takings { count: i64::MAX, sum: Centavos(i64::MAX) };
        let channels = (0..100_000).map(|channel| (channel, most)).collect();
        let figures =
            Figures { channels, delivered: most, waiting: most, parked: most, kept: most };
        let deed = Deed::Close(BusinessDate::parse("2026-11-21").unwrap(), figures);
        let mut act = act(deed);
        act.actor = Actor::parse(&"\u{1f4b0}".repeat(Actor::CHARS_MAX)).unwrap();
        let told =
            Told { line: i64::MAX, at: act.at, what: What::Act, record: record::of_act(&act) };
        assert!(tape::line_bytes(&told) < tape::LINE_BYTES_MAX);
    }

    #[test]
    fn an_act_that_lacks_something_or_has_too_much_is_none() {
        for text in [
            r#"{"act":"note","sequence":7,"actor":"ana","atMs":1}"#,
            r#"{"act":"note","text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"note","sequence":7,"refusal":3,"text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"note","sequence":7,"text":"a\nb","actor":"ana","atMs":1}"#,
            r#"{"act":"note","sequence":7,"text":"x","actor":"","atMs":1}"#,
            r#"{"act":"accept","refusal":3,"text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"close","day":"2026-01-01","actor":"ana","atMs":1}"#,
            r#"{"act":"reopen","contract":"SKY01","text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"reopen","contract":"SKY0112345678","actor":"ana","atMs":1}"#,
            r#"{"act":"retry","refusal":3,"actor":"ana","atMs":1}"#,
            r#"{"act":"retry","sequence":7,"text":"x","actor":"ana","atMs":1}"#,
            r#"{"act":"void","sequence":7,"actor":"ana","atMs":1}"#,
            r#"{"act":"retry","sequence":7,"actor":"ana","atMs":1,"more":1}"#,
        ] {
            assert!(record::act(text).is_err(), "{text}");
        }
    }
}
