//! Reading the books: read-only connections, pages by key, never one long transaction, because an
//! open reader keeps the WAL from being reset.

use std::path::Path;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension};

use super::collections::{self, Entry, EntryRow, Repeats, Variant};
use super::refusals::{self, KeptRefusal};
use super::{OpenError, schema};
use crate::domain::decision::Sequence;
use crate::domain::flags::Flag;
use crate::domain::time::BusinessDate;

/// Rows a page; a read transaction lasts no longer than one page.
pub const PAGE_ROWS: usize = 500;

/// So many collections at the most are told for one REF.
const STORIES_MAX: usize = 50;

/// A read-only view of the books, with the daemon up or down.
pub struct Reader {
    connection: Connection,
}

/// Which collections are wanted; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In this day's books.
    pub day: Option<BusinessDate>,
    /// Through this channel.
    pub channel: Option<u32>,
    /// For this contract.
    pub contract: Option<String>,
    /// Under this receipt.
    pub receipt: Option<String>,
    /// With this flag raised.
    pub flag: Option<Flag>,
}

/// A row of the books, as a list shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The collection.
    pub entry: Entry,
    /// The line on the tape that tells of it.
    pub line: i64,
    /// Whether the row still fits the digest it was written with.
    pub is_intact: bool,
    /// How often it was confirmed again.
    pub repeats: Option<Repeats>,
    /// Whether head office has not got it yet.
    pub is_queued: bool,
}

/// All that is known of one collection.
#[derive(Clone, Debug)]
pub struct Story {
    /// Its row.
    pub listed: Listed,
    /// The other phone numbers and times with which it was confirmed again.
    pub variants: Vec<Variant>,
    /// What was refused for the same contract.
    pub refusals: Vec<KeptRefusal>,
}

impl Reader {
    /// Opens the books in a state directory.
    pub fn open(state_dir: &Path) -> Result<Reader, OpenError> {
        Ok(Reader { connection: schema::open_for_reading(state_dir)? })
    }

    /// At most `limit` collections, newest first, that were recorded before number `before`.
    pub fn collections(
        &self,
        filter: &Filter,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Listed>, OpenError> {
        let limit = limit.min(PAGE_ROWS);
        let before = before.unwrap_or(Sequence::MAX);
        let day = filter.day.map(|day| day.to_string());
        let flag = filter.flag.map(|flag| format!("%,{},%", flag.as_str()));
        let mut conditions = vec!["collection.sequence < ?1".to_owned()];
        let mut values: Vec<&dyn ToSql> = vec![&before, &limit];
        let given: [(&str, Option<&dyn ToSql>); 5] = [
            ("business_date =", day.as_ref().map(|value| value as _)),
            ("channel =", filter.channel.as_ref().map(|value| value as _)),
            ("contract =", filter.contract.as_ref().map(|value| value as _)),
            ("receipt =", filter.receipt.as_ref().map(|value| value as _)),
            ("',' || flags || ',' LIKE", flag.as_ref().map(|value| value as _)),
        ];
        for (condition, value) in given {
            if let Some(value) = value {
                values.push(value);
                conditions.push(format!("{condition} ?{}", values.len()));
            }
        }
        let sql = format!(
            "SELECT {} FROM collection WHERE {} ORDER BY collection.sequence DESC LIMIT ?2",
            collections::COLUMNS,
            conditions.join(" AND "),
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(values.as_slice(), collections::entry)?;
        rows.map(|row| self.listed(row?)).collect()
    }

    /// Everything about the collections with this contract, receipt or sequence.
    pub fn stories(&self, reference: &str) -> Result<Vec<Story>, OpenError> {
        let sequence = reference.parse::<Sequence>().ok();
        let sql = format!(
            "SELECT {} FROM collection WHERE contract = ?1 OR receipt = ?1 OR sequence = ?2
             ORDER BY sequence LIMIT ?3",
            collections::COLUMNS,
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map((reference, sequence, STORIES_MAX), collections::entry)?;
        rows.map(|row| self.story(self.listed(row?)?)).collect()
    }

    /// At most `limit` kept refusals, newest first, whose number is lower than `before`; of one
    /// contract or of all.
    pub fn refusals(
        &self,
        contract: Option<&str>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<KeptRefusal>, OpenError> {
        let sql = format!(
            "SELECT {} FROM refusal WHERE id < ?1 AND (?2 IS NULL OR contract = ?2)
             ORDER BY id DESC LIMIT ?3",
            refusals::COLUMNS,
        );
        let bound = (before.unwrap_or(i64::MAX), contract, limit.min(PAGE_ROWS));
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(bound, refusals::kept)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// How many refusals were only counted, because too many came on one day.
    pub fn refusals_beyond(&self) -> Result<i64, OpenError> {
        Ok(refusals::beyond(&self.connection)?)
    }

    fn listed(&self, row: EntryRow) -> Result<Listed, OpenError> {
        let EntryRow { entry, line, is_intact } = row;
        let repeats = collections::repeats(&self.connection, entry.sequence)?;
        let is_queued = self
            .connection
            .prepare_cached("SELECT 1 FROM outbox WHERE sequence = ?1")?
            .query_row([entry.sequence], |_| Ok(()))
            .optional()?
            .is_some();
        Ok(Listed { entry, line, is_intact, repeats, is_queued })
    }

    fn story(&self, listed: Listed) -> Result<Story, OpenError> {
        let variants = collections::variants(&self.connection, listed.entry.sequence)?;
        let contract = listed.entry.confirmation.collection.contract.as_str();
        let refusals = self.refusals(Some(contract), None, PAGE_ROWS)?;
        Ok(Story { listed, variants, refusals })
    }
}
