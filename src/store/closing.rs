//! A day's books at their close: counts and sums by channel from both witnesses, each read by
//! itself, and how they stand with head office.
//!
//! Up to a number that stands in both witnesses nothing changes any more, so it is compared beside
//! the writer. The writer adds what came later, in the transaction that closes the day; the tape is
//! read on to the line of the close, and must tell the same.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::acts::{Act, Deed};
use super::record;
use super::takings::Takings;
use super::tape::{self, Line, Lines, What};
use crate::domain::act::Actor;
use crate::domain::amount::Centavos;
use crate::domain::contract::Mode;
use crate::domain::decision::Sequence;
use crate::domain::time::{AcceptedAt, BusinessDate};

/// Takings by the channel's code.
pub type ByChannel = BTreeMap<u32, Takings>;

/// What a day came to when it was closed, and how it stood with head office.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All of it.
    pub channels: ByChannel,
    /// What head office has.
    pub delivered: Takings,
    /// What is still to be sent.
    pub waiting: Takings,
    /// What waits for a person.
    pub parked: Takings,
    /// What stays here, because there is no head office to send it to.
    pub kept: Takings,
}

impl Figures {
    /// The sum of all channels.
    pub fn total(&self) -> Takings {
        total_of(&self.channels)
    }

    /// Whether something is not where it is to go.
    pub fn has_undelivered(&self) -> bool {
        self.waiting.count + self.parked.count > 0
    }
}

/// What is to be closed.
#[derive(Clone, Debug)]
pub struct Close {
    /// The day.
    pub day: BusinessDate,
    /// What both witnesses tell of it up to this number.
    pub agreed: (Sequence, ByChannel),
    /// Whether there is a head office to send to.
    pub has_head_office: bool,
    /// Whether it is closed although head office has not got all of it.
    pub with_undelivered: bool,
    /// Who closes it.
    pub actor: Actor,
}

/// A day that is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The day.
    pub day: BusinessDate,
    /// What it came to.
    pub figures: Figures,
    /// Who closed it, as claimed.
    pub actor: Actor,
    /// When.
    pub at: AcceptedAt,
    /// The line on the tape that tells of it.
    pub line: i64,
}

impl Closing {
    /// The close that an act in this line is; `None` when it is something else.
    pub(super) fn of(act: Act, line: i64) -> Option<Closing> {
        let Act { deed, actor, at } = act;
        let Deed::Close(day, figures) = deed else { return None };
        Some(Closing { day, figures, actor, at, line })
    }
}

/// What became of the wish to close a day.
#[derive(Clone, Debug)]
pub enum Closed {
    /// It is closed.
    Now(Closing),
    /// It was closed before.
    Before(Closing),
    /// It stays open: head office has not got all of it.
    Undelivered(Figures),
    /// It stays open: it has not come yet.
    Ahead,
}

impl Closed {
    /// The line of the tape that must stand before anybody hears of it.
    pub(super) fn line(&self) -> i64 {
        match self {
            Closed::Now(closing) | Closed::Before(closing) => closing.line,
            Closed::Undelivered(_) | Closed::Ahead => 0,
        }
    }
}

/// What the tape tells of a day.
pub struct OnTape {
    directory: PathBuf,
    day: BusinessDate,
    /// Up to where it is read.
    file: String,
    end: u64,
    up_to: Sequence,
    /// The collections up to that number.
    agreed: ByChannel,
    /// Line, channel and centavos of the others.
    later: Vec<(i64, u32, i64)>,
}

impl OnTape {
    /// Reads the tape of a state directory, and tells the collections up to this number from later
    /// ones. `progress` is told how many bytes are read, and of how many.
    pub fn read(
        state_dir: &Path,
        day: BusinessDate,
        up_to: Sequence,
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<OnTape> {
        let mut on_tape = OnTape {
            directory: tape::directory(state_dir),
            day,
            file: String::new(),
            end: 0,
            up_to,
            agreed: ByChannel::new(),
            later: Vec::new(),
        };
        let total = tape::bytes(&on_tape.directory)?;
        on_tape.read_to_end(&mut |done| progress(done, total))?;
        Ok(on_tape)
    }

    /// Reads what was added since.
    pub fn read_on(&mut self) -> io::Result<()> {
        self.read_to_end(&mut |_| {})
    }

    fn read_to_end(&mut self, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
        let mut before = 0;
        for name in tape::files(&self.directory)? {
            if name < self.file {
                continue;
            }
            if name != self.file {
                (self.file, self.end) = (name, 0);
            }
            let start = self.end;
            if let Err(error) = self.read_file(&mut |offset| progress(before + offset - start))
                && !tape::is_before(&self.file, self.day)
            {
                let what = format!("{} cannot be read to its end: {error}", self.file);
                return Err(io::Error::new(error.kind(), what));
            }
            before += self.end - start;
            progress(before);
        }
        Ok(())
    }

    fn read_file(&mut self, passed: &mut dyn FnMut(u64)) -> io::Result<()> {
        // A line that was altered so that it is not found is missed in the sum.
        let text = format!("\"businessDate\":\"{}\"", self.day);
        let mut lines = Lines::open(&self.directory, &self.file, self.end)?;
        while let Some(line) = lines.next_with(&text, passed)? {
            self.count(&line);
            self.end = lines.offset();
        }
        self.end = lines.offset();
        Ok(())
    }

    fn count(&mut self, line: &Line) {
        let entry = record::entry(&line.record).ok().filter(|_| line.what == What::Collection);
        let Some(entry) = entry.filter(|entry| entry.business_date == self.day) else { return };
        let collection = &entry.confirmation.collection;
        let (channel, centavos) = (collection.channel.code(), collection.amount.centavos());
        if entry.sequence <= self.up_to {
            add(&mut self.agreed, channel, one(centavos));
        } else {
            self.later.push((line.number, channel, centavos));
        }
    }

    /// The collections up to the number.
    pub fn agreed(&self) -> &ByChannel {
        &self.agreed
    }

    /// All collections that stand before this line.
    pub fn before(&self, line: i64) -> ByChannel {
        let mut channels = self.agreed.clone();
        for (_, channel, centavos) in self.later.iter().filter(|(number, ..)| *number < line) {
            add(&mut channels, *channel, one(*centavos));
        }
        channels
    }
}

/// One collection of so many centavos.
pub fn one(centavos: i64) -> Takings {
    Takings { count: 1, sum: Centavos(centavos) }
}

/// The sum of all channels.
pub fn total_of(channels: &ByChannel) -> Takings {
    channels.values().fold(Takings::default(), |total, takings| total.with(*takings))
}

/// Adds takings of a channel.
pub fn add(channels: &mut ByChannel, channel: u32, takings: Takings) {
    let sum = channels.entry(channel).or_default();
    *sum = sum.with(takings);
}

/// What the database tells of a day between two numbers, the first excluded.
pub fn in_database(
    connection: &Connection,
    day: BusinessDate,
    (after, up_to): (Sequence, Sequence),
) -> rusqlite::Result<ByChannel> {
    connection
        .prepare_cached(
            "SELECT channel, count(*), sum(amount) FROM collection
             WHERE business_date = ?1 AND sequence > ?2 AND sequence <= ?3 GROUP BY channel",
        )?
        .query_map((day.to_string(), after, up_to), |row| {
            Ok((row.get(0)?, Takings { count: row.get(1)?, sum: Centavos(row.get(2)?) }))
        })?
        .collect()
}

/// What a day comes to now: what was agreed on, and what the database has beyond it.
pub fn figures(connection: &Connection, mode: Mode, close: &Close) -> rusqlite::Result<Figures> {
    let (agreed_to, agreed) = &close.agreed;
    let mut figures = Figures { channels: agreed.clone(), ..Figures::default() };
    for (channel, takings) in in_database(connection, close.day, (*agreed_to, Sequence::MAX))? {
        add(&mut figures.channels, channel, takings);
    }
    let queued = standing(connection, "outbox", close.day)?;
    figures.parked = standing(connection, "parked", close.day)?;
    let elsewhere = queued.with(figures.parked);
    let total = figures.total();
    let others = Takings {
        count: total.count - elsewhere.count,
        sum: Centavos(total.sum.0 - elsewhere.sum.0),
    };
    match mode {
        Mode::Live if close.has_head_office => {
            (figures.delivered, figures.waiting) = (others, queued);
        }
        Mode::Live => (figures.delivered, figures.kept) = (others, queued),
        Mode::Sandbox => figures.kept = others,
    }
    Ok(figures)
}

/// What of a day is in this table. Looked for from the day: where there is no head office, the
/// table has everything that was ever recorded. The amount is that of the collection: no digest
/// vouches for the other.
fn standing(connection: &Connection, table: &str, day: BusinessDate) -> rusqlite::Result<Takings> {
    connection
        .prepare_cached(&format!(
            "SELECT count(*), coalesce(sum(collection.amount), 0)
             FROM collection CROSS JOIN {table} USING (sequence) WHERE business_date = ?1"
        ))?
        .query_row([day.to_string()], |row| {
            Ok(Takings { count: row.get(0)?, sum: Centavos(row.get(1)?) })
        })
}

/// [`Figures`] on the tape and in the row of the act.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenFigures {
    channels: BTreeMap<u32, WrittenTakings>,
    delivered: WrittenTakings,
    waiting: WrittenTakings,
    parked: WrittenTakings,
    kept: WrittenTakings,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenTakings {
    count: i64,
    centavos: i64,
}

impl From<&Figures> for WrittenFigures {
    fn from(figures: &Figures) -> WrittenFigures {
        let written =
            |takings: Takings| WrittenTakings { count: takings.count, centavos: takings.sum.0 };
        WrittenFigures {
            channels: figures.channels.iter().map(|(code, sum)| (*code, written(*sum))).collect(),
            delivered: written(figures.delivered),
            waiting: written(figures.waiting),
            parked: written(figures.parked),
            kept: written(figures.kept),
        }
    }
}

impl From<&WrittenFigures> for Figures {
    fn from(written: &WrittenFigures) -> Figures {
        let read = |written: WrittenTakings| Takings {
            count: written.count,
            sum: Centavos(written.centavos),
        };
        Figures {
            channels: written.channels.iter().map(|(code, sum)| (*code, read(*sum))).collect(),
            delivered: read(written.delivered),
            waiting: read(written.waiting),
            parked: read(written.parked),
            kept: read(written.kept),
        }
    }
}
