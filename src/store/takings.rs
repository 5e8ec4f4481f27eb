//! What was taken on business dates, by what one asks for. Counts only; a day at a time, so that no
//! read transaction lasts longer than a day's books need.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _};

use crate::domain::Invalid;
use crate::domain::amount::Centavos;
use crate::domain::decision::Sequence;
use crate::domain::time::BusinessDate;

/// What takings are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The channel's code.
    Channel,
    /// The hour of the time that the caller told, 00 to 23.
    Hour,
    /// The caller's user name.
    Caller,
    /// The branch that relayed it; empty for what was confirmed here.
    Branch,
    /// The business date.
    Day,
}

/// Business dates, both included; `None` is no bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Days {
    /// The first.
    pub from: Option<BusinessDate>,
    /// The last.
    pub to: Option<BusinessDate>,
}

/// A day's takings by channel and hour, counted bit by bit: what is recorded never changes, and
/// what comes later has a higher number, so only that is still to be counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The day in whose books they stand.
    pub day: BusinessDate,
    /// By the channel's code and the hour of the time that the caller told.
    pub cells: BTreeMap<(u32, u32), Takings>,
    /// The last that is counted.
    up_to: Sequence,
}

/// Collections that have something in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takings {
    /// How many.
    pub count: i64,
    /// Their sum.
    pub sum: Centavos,
}

impl Takings {
    /// Both together.
    #[must_use]
    pub fn with(self, other: Takings) -> Takings {
        Takings { count: self.count + other.count, sum: Centavos(self.sum.0 + other.sum.0) }
    }
}

impl Days {
    /// These days, which must follow one another.
    pub fn between(from: Option<BusinessDate>, to: Option<BusinessDate>) -> Result<Days, Invalid> {
        match (from, to) {
            (Some(from), Some(to)) if from > to => {
                Err(Invalid { expected: "--to on the day of --from, or later" })
            }
            _ => Ok(Days { from, to }),
        }
    }

    /// Whether a date is among them.
    pub fn has(self, date: BusinessDate) -> bool {
        self.from.is_none_or(|from| date >= from) && self.to.is_none_or(|to| date <= to)
    }

    /// Bounds to compare dates of books with, which are texts: everything lies between nothing and
    /// a letter.
    pub(super) fn texts(self) -> (String, String) {
        let to = self.to.map_or_else(|| "z".to_owned(), |day| day.to_string());
        (self.from.map_or_else(String::new, |day| day.to_string()), to)
    }
}

impl Measure {
    fn expression(self) -> &'static str {
        match self {
            Measure::Channel => "printf('%05d', channel)",
            Measure::Hour => "substr(collected_at, 12, 2)",
            Measure::Caller => "caller",
            Measure::Branch => "coalesce(branch, '')",
            Measure::Day => "business_date",
        }
    }
}

impl Tally {
    /// Nothing of this day is counted yet.
    pub fn new(day: BusinessDate) -> Tally {
        Tally { day, cells: BTreeMap::new(), up_to: 0 }
    }

    /// Counts at most `limit` more; whether there may be others.
    pub(super) fn go_on(
        &mut self,
        connection: &Connection,
        limit: usize,
    ) -> rusqlite::Result<bool> {
        let sql = "SELECT sequence, channel, CAST(substr(collected_at, 12, 2) AS INTEGER), amount
                   FROM collection WHERE business_date = ?1 AND sequence > ?2
                   ORDER BY sequence LIMIT ?3";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query((self.day.to_string(), self.up_to, limit))?;
        let mut counted = 0;
        while let Some(row) = rows.next()? {
            let cell = self.cells.entry((row.get(1)?, row.get(2)?)).or_default();
            cell.add(Takings { count: 1, sum: Centavos(row.get(3)?) });
            self.up_to = row.get(0)?;
            counted += 1;
        }
        Ok(counted == limit)
    }
}

impl Takings {
    /// These and those.
    pub fn add(&mut self, others: Takings) {
        self.count += others.count;
        self.sum.0 += others.sum.0;
    }
}

/// Takings on these days, in the order of what they are counted by.
pub fn takings(
    connection: &Connection,
    days: Days,
    by: Measure,
) -> rusqlite::Result<BTreeMap<String, Takings>> {
    let sql = format!(
        "SELECT {key}, count(*), sum(amount) FROM collection WHERE business_date = ?1
         GROUP BY {key}",
        key = by.expression()
    );
    let mut of_day = connection.prepare_cached(&sql)?;
    let mut takings: BTreeMap<String, Takings> = BTreeMap::new();
    let (from, to) = days.texts();
    let mut next = day(connection, ">=", &from)?;
    while let Some(today) = next.filter(|day| *day <= to) {
        let mut rows = of_day.query([&today])?;
        while let Some(row) = rows.next()? {
            let of_key = Takings { count: row.get(1)?, sum: Centavos(row.get(2)?) };
            takings.entry(row.get(0)?).or_default().add(of_key);
        }
        next = day(connection, ">", &today)?;
    }
    Ok(takings)
}

/// The first day with a collection that compares so with this one.
fn day(connection: &Connection, comparison: &str, with: &str) -> rusqlite::Result<Option<String>> {
    let sql = format!(
        "SELECT business_date FROM collection WHERE business_date {comparison} ?1
         ORDER BY business_date LIMIT 1"
    );
    connection.prepare_cached(&sql)?.query_row([with], |row| row.get(0)).optional()
}
