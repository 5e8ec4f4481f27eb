//! Reading the books: read-only connections, pages by key, never one long transaction, because an
//! open reader keeps the WAL from being reset.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Params};

use super::acts::{self, Act};
use super::closing::{self, ByChannel, Closing};
use super::collections::{self, Entry, EntryRow, Repeats, Variant};
use super::columns::{parsed, text};
use super::deliveries::{self, Delivery, KeptAttempt};
use super::refusals::{self, KeptRefusal};
use super::relays::{self, Branch};
use super::takings::{self, Days, Measure, Takings, Tally};
use super::{OpenError, agree, outbox, schema};
use crate::domain::act::{About, bare_number};
use crate::domain::amount::{Amount, Centavos};
use crate::domain::collection::UserName;
use crate::domain::contract::Mode;
use crate::domain::decision::Sequence;
use crate::domain::flags::Flag;
use crate::domain::provenance::KeyId;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::system::clock;

/// Rows a page; a read transaction lasts no longer than one page.
pub const PAGE_ROWS: usize = 500;

/// Rows of one step of a search or a tally: a read transaction of some ten milliseconds.
const STEP_ROWS: usize = 10_000;

/// How far back it is looked when a key was last used: read in a tenth of a second.
const USES_ROWS: i64 = 100_000;

/// So many collections at the most are told for one REF.
pub const STORIES_MAX: usize = 50;

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
    /// How it stands with head office.
    pub standing: HeadOffice,
}

/// What no index helps to find; what is `None` finds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sought {
    /// A receipt number, whatever the case of its letters.
    pub receipt: Option<String>,
    /// The last digits of a phone number.
    pub phone_ending: Option<String>,
    /// An amount.
    pub amount: Option<Amount>,
}

/// What a search has found, newest first.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The collections.
    pub listed: Vec<Listed>,
    /// Older ones than this number were not looked at; `None` when all were.
    pub next_before: Option<Sequence>,
    /// When the oldest that was looked at was recorded, unless all were.
    pub back_to: Option<AcceptedAt>,
}

/// A collection that waits, with its last try if there was one.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The collection.
    pub listed: Listed,
    /// How often it was tried, and what the last of these tries came to.
    pub last_attempt: Option<KeptAttempt>,
}

/// What tells a collection from others, and what it is worth.
#[derive(Clone, Debug)]
pub struct Identified {
    /// For this contract.
    pub contract: String,
    /// Under this receipt.
    pub receipt: String,
    /// So much.
    pub amount: Amount,
    /// In this day's books.
    pub day: BusinessDate,
}

/// How a collection stands with head office.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadOffice {
    /// It is not meant for it: this is a sandbox.
    Nothing,
    /// It is to be sent, or will be once there is an upstream.
    Queued,
    /// It waits for a person.
    Parked(Delivery),
    /// Head office has it.
    Delivered(Delivery),
}

impl HeadOffice {
    /// The word for machines.
    pub fn as_str(&self) -> Option<&'static str> {
        match self {
            HeadOffice::Nothing => None,
            HeadOffice::Queued => Some("queued"),
            HeadOffice::Parked(_) => Some("parked"),
            HeadOffice::Delivered(_) => Some("delivered"),
        }
    }
}

/// Collections that wait for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// How many.
    pub count: i64,
    /// Their sum.
    pub sum: Centavos,
    /// When the oldest of them was recorded.
    pub oldest_at: Option<AcceptedAt>,
}

/// All that is known of one collection.
#[derive(Clone, Debug)]
pub struct Story {
    /// Its row.
    pub listed: Listed,
    /// The other phone numbers and times with which it was confirmed again.
    pub variants: Vec<Variant>,
    /// What was refused for the same contract, and what was done about that.
    pub refusals: Vec<(KeptRefusal, Vec<Act>)>,
    /// What became of it at head office, oldest first: the last one counts.
    pub deliveries: Vec<Delivery>,
    /// The last tries to deliver it that decided nothing.
    pub attempts: Vec<KeptAttempt>,
    /// What people did about it, oldest first.
    pub acts: Vec<Act>,
    /// Whether its contract was reopened, and not paid since.
    pub is_reopened: bool,
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

    /// The next [`PAGE_ROWS`] collections of these days, oldest first, behind number `after`.
    pub fn collections_of(&self, days: Days, after: Sequence) -> Result<Vec<Listed>, OpenError> {
        let sql = format!(
            "SELECT {} FROM collection
             WHERE sequence > ?1 AND +business_date BETWEEN ?2 AND ?3 -- in order, not by the day
             ORDER BY collection.sequence LIMIT ?4",
            collections::COLUMNS,
        );
        let (from, to) = days.texts();
        let mut statement = self.connection.prepare_cached(&sql)?;
        let bound = (after, from, to, PAGE_ROWS);
        let rows = statement.query_map(bound, collections::entry)?;
        rows.map(|row| self.listed(row?)).collect()
    }

    /// How many collections stand in these days' books behind number `after`.
    pub fn count_of(&self, days: Days, after: Sequence) -> Result<u64, OpenError> {
        let sql = "SELECT count(*) FROM collection
                   WHERE business_date BETWEEN ?1 AND ?2 AND sequence > ?3";
        let (from, to) = days.texts();
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row((from, to, after), |row| row.get(0))?)
    }

    /// What was taken on these days.
    pub fn takings(&self, days: Days, by: Measure) -> Result<BTreeMap<String, Takings>, OpenError> {
        Ok(takings::takings(&self.connection, days, by)?)
    }

    /// Goes on with a tally for a step; whether there may be more to count.
    pub fn go_on(&self, tally: &mut Tally) -> Result<bool, OpenError> {
        Ok(tally.go_on(&self.connection, STEP_ROWS)?)
    }

    /// Looks through the collections that were recorded before number `before`, newest first, until
    /// `limit` are found or it is `deadline`; a step of it in any case, so that it gets on.
    pub fn search(
        &self,
        sought: &Sought,
        before: Option<Sequence>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Found, OpenError> {
        let sql = format!(
            "SELECT {} FROM collection
             WHERE sequence >= ?1 AND sequence < ?2
               AND (receipt = ?3 COLLATE NOCASE OR substr(phone, -length(?4)) = ?4 OR amount = ?5)
             ORDER BY sequence DESC LIMIT ?6",
            collections::COLUMNS,
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let amount = sought.amount.map(Amount::centavos);
        let step = i64::try_from(STEP_ROWS).unwrap_or(i64::MAX);
        let end = collections::last_sequence(&self.connection)? + 1;
        let mut end = before.unwrap_or(end).min(end);
        let mut listed = Vec::new();
        while end > 1 && listed.len() < limit {
            let begin = (end - step).max(1);
            let left = limit - listed.len();
            let bound = (begin, end, &sought.receipt, &sought.phone_ending, amount, left);
            let rows = statement.query_map(bound, collections::entry)?;
            let found: Vec<Listed> =
                rows.map(|row| self.listed(row?)).collect::<Result<_, OpenError>>()?;
            end = if found.len() == left { found[left - 1].entry.sequence } else { begin };
            listed.extend(found);
            if clock::monotonic() >= deadline {
                break;
            }
        }
        if end <= 1 {
            return Ok(Found { listed, ..Found::default() });
        }
        let oldest = collections::by_sequence(&self.connection, end)?;
        let back_to = oldest.map(|row| row.entry.accepted_at);
        Ok(Found { listed, next_before: Some(end), back_to })
    }

    /// Contract, receipt, amount and business date of every collection of a contract.
    pub fn of_contract(&self, contract: &str) -> Result<Vec<Identified>, OpenError> {
        let sql = "SELECT contract, receipt, amount, business_date FROM collection
                   WHERE contract = ?1 ORDER BY sequence";
        self.identified(sql, [contract])
    }

    /// The same of every collection on a day.
    pub fn of_day(&self, day: BusinessDate) -> Result<Vec<Identified>, OpenError> {
        let sql = "SELECT contract, receipt, amount, business_date FROM collection
                   WHERE business_date = ?1 ORDER BY sequence";
        self.identified(sql, [day.to_string()])
    }

    fn identified(&self, sql: &str, bound: impl Params) -> Result<Vec<Identified>, OpenError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(bound, |row| {
            Ok(Identified {
                contract: row.get(0)?,
                receipt: row.get(1)?,
                amount: parsed(row, 2, Amount::from_centavos)?,
                day: text(row, 3, BusinessDate::parse)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Everything about the collections that a reference means.
    pub fn stories(&self, reference: &str) -> Result<Vec<Story>, OpenError> {
        let meant = self.meant(reference)?;
        let sequences = meant.iter().filter_map(|about| match about {
            About::Collection(sequence) => Some(*sequence),
            About::Refusal(_) => None,
        });
        let rows = sequences.filter_map(|sequence| {
            collections::by_sequence(&self.connection, sequence).transpose()
        });
        rows.map(|row| self.story(self.listed(row?)?)).collect()
    }

    /// What a reference means: `refusal:7`, `collection:17`, or the collections with this contract,
    /// receipt or number, the newest [`STORIES_MAX`] of them, in order.
    pub fn meant(&self, reference: &str) -> Result<Vec<About>, OpenError> {
        match About::parse(reference) {
            Some(About::Refusal(id)) => {
                let kept = refusals::by_id(&self.connection, id)?;
                return Ok(kept.map(|kept| About::Refusal(kept.id)).into_iter().collect());
            }
            Some(About::Collection(sequence)) => {
                let is_there = collections::is_there(&self.connection, sequence)?;
                return Ok(is_there.then_some(About::Collection(sequence)).into_iter().collect());
            }
            None => {}
        }
        let sequence = bare_number(reference);
        let sql = "SELECT sequence FROM collection
                   WHERE contract = ?1 OR receipt = ?1 OR sequence = ?2
                   ORDER BY sequence DESC LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map((reference, sequence, STORIES_MAX), |row| {
            row.get(0).map(About::Collection)
        })?;
        let mut newest: Vec<About> = rows.collect::<rusqlite::Result<_>>()?;
        newest.reverse();
        Ok(newest)
    }

    /// A kept refusal by its number, and what people did about it.
    pub fn refusal(&self, id: i64) -> Result<Option<(KeptRefusal, Vec<Act>)>, OpenError> {
        let kept = refusals::by_id(&self.connection, id)?;
        kept.map(|kept| self.with_acts(kept)).transpose()
    }

    /// Everything about the collection with this number.
    pub fn story_of(&self, sequence: Sequence) -> Result<Option<Story>, OpenError> {
        let row = collections::by_sequence(&self.connection, sequence)?;
        row.map(|row| self.story(self.listed(row)?)).transpose()
    }

    /// At most `limit` kept refusals, newest first, whose number is lower than `before`; of one
    /// contract or of all.
    pub fn refusals(
        &self,
        contract: Option<&str>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<KeptRefusal>, OpenError> {
        // One contract's by its index, all by their number.
        let of_contract = if contract.is_some() { "contract = ?2" } else { "?2 IS NULL" };
        let sql = format!(
            "SELECT {} FROM refusal WHERE id < ?1 AND {of_contract} ORDER BY id DESC LIMIT ?3",
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

    /// At most `limit` collections that wait for a person, oldest first, behind number `after`.
    pub fn parked(&self, after: Sequence, limit: usize) -> Result<Vec<Listed>, OpenError> {
        let parked = outbox::parked_after(&self.connection, after, limit.min(PAGE_ROWS))?;
        let rows = parked.into_iter().filter_map(|sequence| {
            collections::by_sequence(&self.connection, sequence).transpose()
        });
        rows.map(|row| self.listed(row?)).collect()
    }

    /// The numbers of all collections that wait for a person, oldest first.
    pub fn all_parked(&self) -> Result<Vec<Sequence>, OpenError> {
        let mut numbers = Vec::new();
        loop {
            let after = numbers.last().copied().unwrap_or(0);
            let page = outbox::parked_after(&self.connection, after, PAGE_ROWS)?;
            if page.is_empty() {
                return Ok(numbers);
            }
            numbers.extend(page);
        }
    }

    /// Whether real money is in the books.
    pub fn mode(&self) -> Result<Mode, OpenError> {
        Ok(agree::mode(&self.connection)?)
    }

    /// At most `limit` collections that head office is to get, oldest first.
    pub fn waiting(&self, limit: usize) -> Result<Vec<Waiting>, OpenError> {
        let queued = outbox::queued(&self.connection, (0, Sequence::MAX), limit.min(PAGE_ROWS))?;
        let rows = queued.into_iter().filter_map(|sequence| {
            collections::by_sequence(&self.connection, sequence).transpose()
        });
        rows.map(|row| {
            let listed = self.listed(row?)?;
            let attempts = deliveries::attempts_of(&self.connection, listed.entry.sequence)?;
            Ok(Waiting { listed, last_attempt: attempts.into_iter().next_back() })
        })
        .collect()
    }

    /// A number that is another one after anybody has changed the books.
    pub fn version(&self) -> Result<i64, OpenError> {
        Ok(self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    /// Whether anything is in the outbox; asked more cheaply than how much.
    pub fn has_queued(&self) -> Result<bool, OpenError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM outbox)";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// The numbers of the collections that wait for a person and have this contract, receipt or
    /// number; `collection:17` is that number alone.
    pub fn parked_named(&self, reference: &str) -> Result<Vec<Sequence>, OpenError> {
        Ok(outbox::parked_named(&self.connection, reference)?)
    }

    /// How a collection with this contract or number, or `collection:17`, stands with head office.
    /// Receipts are not looked through: no index has them.
    pub fn stands(&self, reference: &str) -> Result<Option<HeadOffice>, OpenError> {
        let sql = "SELECT sequence FROM collection WHERE contract = ?1
                   UNION ALL SELECT sequence FROM collection WHERE sequence = ?2 LIMIT 1";
        let number = match About::parse(reference) {
            Some(About::Collection(sequence)) => Some(sequence),
            _ => bare_number(reference),
        };
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_row((reference, number), |row| row.get(0)).optional()?;
        found.map(|sequence| self.standing(sequence)).transpose()
    }

    /// What is in the outbox.
    pub fn queued(&self) -> Result<Queue, OpenError> {
        self.queue("outbox")
    }

    /// What waits for a person.
    pub fn parked_sum(&self) -> Result<Queue, OpenError> {
        self.queue("parked")
    }

    fn queue(&self, table: &str) -> Result<Queue, OpenError> {
        let sql = format!(
            "SELECT count(*), coalesce(sum(amount), 0),
                    (SELECT accepted_at FROM collection
                     WHERE sequence = (SELECT min(sequence) FROM {table}))
             FROM {table}"
        );
        Ok(self.connection.prepare_cached(&sql)?.query_row([], |row| {
            let oldest: Option<i64> = row.get(2)?;
            Ok(Queue {
                count: row.get(0)?,
                sum: Centavos(row.get(1)?),
                oldest_at: oldest.and_then(|ms| AcceptedAt::from_unix_ms(ms).ok()),
            })
        })?)
    }

    /// How a day was closed, if it was.
    pub fn closing_of(&self, day: BusinessDate) -> Result<Option<Closing>, OpenError> {
        Ok(acts::closing_of(&self.connection, day)?)
    }

    /// What came through each channel on a day, up to this number.
    pub fn by_channel(&self, day: BusinessDate, up_to: Sequence) -> Result<ByChannel, OpenError> {
        Ok(closing::in_database(&self.connection, day, (0, up_to))?)
    }

    /// The collections of a day that head office has not got, the oldest, at most `limit`.
    pub fn undelivered_of(
        &self,
        day: BusinessDate,
        limit: usize,
    ) -> Result<Vec<Listed>, OpenError> {
        let sql = format!(
            "SELECT {} FROM (SELECT sequence FROM outbox UNION SELECT sequence FROM parked)
             CROSS JOIN collection USING (sequence)
             WHERE business_date = ?1 ORDER BY sequence LIMIT ?2",
            collections::COLUMNS,
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map((day.to_string(), limit), collections::entry)?;
        rows.map(|row| self.listed(row?)).collect()
    }

    /// How many collections stand in a day's books.
    pub fn recorded_on(&self, day: BusinessDate) -> Result<i64, OpenError> {
        let sql = "SELECT count(*) FROM collection WHERE business_date = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([day.to_string()], |row| row.get(0))?)
    }

    /// The sum of the collections in a day's books.
    pub fn taken_on(&self, day: BusinessDate) -> Result<Centavos, OpenError> {
        let sql = "SELECT coalesce(sum(amount), 0) FROM collection WHERE business_date = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([day.to_string()], |row| row.get(0).map(Centavos))?)
    }

    /// When the first collection was recorded.
    pub fn first_recorded_at(&self) -> Result<Option<AcceptedAt>, OpenError> {
        let sql = "SELECT accepted_at FROM collection ORDER BY sequence LIMIT 1";
        let first =
            self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
        Ok(first.and_then(|ms| AcceptedAt::from_unix_ms(ms).ok()))
    }

    /// When head office last took something.
    pub fn last_delivered_at(&self) -> Result<Option<AcceptedAt>, OpenError> {
        let sql = "SELECT at FROM delivery WHERE fate = 'delivered' ORDER BY line DESC LIMIT 1";
        let last =
            self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
        Ok(last.and_then(|ms| AcceptedAt::from_unix_ms(ms).ok()))
    }

    /// By key of a caller, when a collection was last recorded under it; looks at the last
    /// 100,000 collections.
    pub fn last_uses(&self, caller: &UserName) -> Result<Vec<(KeyId, AcceptedAt)>, OpenError> {
        let sql = "SELECT key_id, max(accepted_at) FROM
                   (SELECT key_id, caller, accepted_at FROM collection
                    ORDER BY sequence DESC LIMIT ?2)
                   WHERE caller = ?1 GROUP BY key_id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let uses = statement.query_map((caller.as_str(), USES_ROWS), |row| {
            Ok((text(row, 0, KeyId::parse)?, parsed(row, 1, AcceptedAt::from_unix_ms)?))
        })?;
        Ok(uses.collect::<Result<_, _>>()?)
    }

    /// The branches that relay to here, by name.
    pub fn branches(&self) -> Result<Vec<Branch>, OpenError> {
        Ok(relays::branches(&self.connection)?)
    }

    fn listed(&self, row: EntryRow) -> Result<Listed, OpenError> {
        let EntryRow { entry, line, is_intact, .. } = row;
        let repeats = collections::repeats(&self.connection, entry.sequence)?;
        let standing = self.standing(entry.sequence)?;
        Ok(Listed { entry, line, is_intact, repeats, standing })
    }

    fn standing(&self, sequence: Sequence) -> Result<HeadOffice, OpenError> {
        let is_queued = self
            .connection
            .prepare_cached("SELECT 1 FROM outbox WHERE sequence = ?1")?
            .query_row([sequence], |_| Ok(()))
            .optional()?
            .is_some();
        if is_queued {
            return Ok(HeadOffice::Queued);
        }
        let last = deliveries::deliveries_of(&self.connection, sequence)?.pop();
        Ok(match last {
            Some(delivery) if delivery.parked_for.is_some() => HeadOffice::Parked(delivery),
            Some(delivery) => HeadOffice::Delivered(delivery),
            None => HeadOffice::Nothing,
        })
    }

    fn story(&self, listed: Listed) -> Result<Story, OpenError> {
        let variants = collections::variants(&self.connection, listed.entry.sequence)?;
        let contract = &listed.entry.confirmation.collection.contract;
        let is_reopened = acts::reopened(&self.connection, contract)?.is_some();
        let refusals = self.refusals(Some(contract.as_str()), None, PAGE_ROWS)?;
        let refusals = refusals.into_iter().map(|kept| self.with_acts(kept));
        let refusals = refusals.collect::<Result<_, _>>()?;
        let sequence = listed.entry.sequence;
        let deliveries = deliveries::deliveries_of(&self.connection, sequence)?;
        let attempts = deliveries::attempts_of(&self.connection, sequence)?;
        let acts = acts::acts_about(&self.connection, About::Collection(sequence))?;
        Ok(Story { listed, variants, refusals, deliveries, attempts, acts, is_reopened })
    }

    fn with_acts(&self, kept: KeptRefusal) -> Result<(KeptRefusal, Vec<Act>), OpenError> {
        let acts = acts::acts_about(&self.connection, About::Refusal(kept.id))?;
        Ok((kept, acts))
    }
}
