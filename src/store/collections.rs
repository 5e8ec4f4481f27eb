//! The books: recorded collections, and how often each was confirmed again.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::columns::{optional_text, parsed, peer, text};
use super::writer::is_of_one_row;
use super::{acts, record};
use crate::domain::amount::Amount;
use crate::domain::collection::{
    BranchName, Collection, PayChannel, Phone, ReceiptNumber, UserName,
};
use crate::domain::contract::{ContractNumber, Mode};
use crate::domain::decision::{DOUBLE_WINDOW, First, History, Sequence};
use crate::domain::delivery::{Place, TapeLine};
use crate::domain::flags::Flags;
use crate::domain::provenance::{
    Confirmation, ContractField, Digest, Form, KeyId, Origin, Provenance,
};
use crate::domain::time::{AcceptedAt, BusinessDate, CollectedAt};

/// So many phone numbers and times are kept of one collection's repeats; more are only counted.
const VARIANTS_MAX: i64 = 20;

/// So many of a contract's newest collections are searched for a possible double,
const DOUBLE_LOOKBACK_MAX: i64 = 100;

/// which are found among so many of it in the index: a contract with thousands of installments must
/// not slow the writer down.
const DOUBLE_INDEX_ROWS_MAX: i64 = 1000;

/// So many of the newest collections must be found at start by contract and receipt: those that
/// are repeated because their answer was lost, and a fifth of a second on a disk that was not read
/// since it was switched on. The others are checked while the daemon serves.
const FOUND_MIN: i64 = 1000;

/// A collection as it stands in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub sequence: Sequence,
    /// What was confirmed. Its flags are all that were raised, not only the wire's.
    pub confirmation: Confirmation,
    /// Where it came from.
    pub provenance: Provenance,
    /// When it was recorded.
    pub accepted_at: AcceptedAt,
    /// In whose day's books it stands.
    pub business_date: BusinessDate,
}

/// A row of the books.
#[derive(Clone, Debug)]
pub struct EntryRow {
    /// What it holds.
    pub entry: Entry,
    /// The canonical text of that.
    pub canonical: String,
    /// The line on the tape that tells of it.
    pub line: i64,
    /// Whether it still fits the digest it was written with.
    pub is_intact: bool,
}

/// How often a collection was confirmed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// The number of repeats.
    pub count: i64,
    /// The time of the last one.
    pub last_at: AcceptedAt,
}

/// Another phone number or time with which a collection was confirmed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The phone number that time.
    pub phone: Phone,
    /// The collectedTime that time.
    pub collected_at: CollectedAt,
    /// When it first came so.
    pub first_at: AcceptedAt,
}

/// The columns that [`entry`] reads, in its order.
pub const COLUMNS: &str = "collection.sequence, contract, receipt, amount, phone, collected_at, \
     channel, accepted_at, business_date, flags, caller, branch, key_id, peer, \
     client_certificate, form, body_digest, amount_text, contract_field, unknown_fields, digest, \
     line, origin, origin_line";

/// Looks up what bears on a confirmation.
pub fn history(
    connection: &Connection,
    collection: &Collection,
    caller: &UserName,
    now: AcceptedAt,
) -> rusqlite::Result<History> {
    let contract = collection.contract.as_str();
    // Nearly every confirmation is a contract's first, and this is all that is asked for it.
    if !is_known(connection, &collection.contract)? {
        return Ok(History::Others { paid: false, possible_double: false });
    }
    if let Some(first) = first(connection, collection)? {
        return Ok(History::SameIdentity(first));
    }
    let window = DOUBLE_WINDOW.num_milliseconds();
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (
             SELECT 1 FROM collection
             WHERE sequence IN (
                 SELECT sequence FROM (SELECT sequence FROM collection WHERE contract = ? LIMIT ?)
                 ORDER BY sequence DESC LIMIT ?)
               AND amount = ? AND caller <> ? AND abs(accepted_at - ?) <= ?)",
    )?;
    let bound = params![
        contract,
        DOUBLE_INDEX_ROWS_MAX,
        DOUBLE_LOOKBACK_MAX,
        collection.amount.centavos(),
        caller.as_str(),
        now.unix_ms(),
        window,
    ];
    let possible_double = statement.query_row(bound, |row| row.get(0))?;
    let paid = acts::reopened(connection, &collection.contract)?.is_none();
    Ok(History::Others { paid, possible_double })
}

/// Whether anything was collected for a contract.
pub fn is_known(connection: &Connection, contract: &ContractNumber) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM collection WHERE contract = ?1)")?
        .query_row([contract.as_str()], |row| row.get(0))
}

fn first(connection: &Connection, collection: &Collection) -> rusqlite::Result<Option<First>> {
    connection
        .prepare_cached(
            "SELECT sequence, amount, channel, phone, collected_at, accepted_at
             FROM collection WHERE contract = ?1 AND receipt = ?2",
        )?
        .query_row((collection.contract.as_str(), collection.receipt.as_str()), |row| {
            Ok(First {
                sequence: row.get(0)?,
                amount: parsed(row, 1, Amount::from_centavos)?,
                channel: channel(row, 2)?,
                phone: text(row, 3, Phone::parse)?,
                collected_at: text(row, 4, CollectedAt::parse)?,
                accepted_at: parsed(row, 5, AcceptedAt::from_unix_ms)?,
            })
        })
        .optional()
}

/// The number of the last recorded collection; 0 when there is none.
pub fn last_sequence(connection: &Connection) -> rusqlite::Result<Sequence> {
    connection.query_row("SELECT coalesce(max(sequence), 0) FROM collection", [], |row| row.get(0))
}

/// Writes an entry down, once and for all. `canonical` is its canonical text.
pub fn insert(
    connection: &Connection,
    entry: &Entry,
    canonical: &str,
    line: i64,
) -> rusqlite::Result<()> {
    let Entry { sequence, confirmation, provenance, accepted_at, business_date } = entry;
    let collection = &confirmation.collection;
    let mut statement = connection.prepare_cached(
        "INSERT INTO collection (
             sequence, contract, receipt, amount, phone, collected_at, channel, accepted_at,
             business_date, flags, caller, branch, key_id, peer, client_certificate, form,
             body_digest, amount_text, contract_field, unknown_fields, digest, line,
             origin, origin_line)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    let written = statement.execute(params![
        sequence,
        collection.contract.as_str(),
        collection.receipt.as_str(),
        collection.amount.centavos(),
        collection.phone.as_str(),
        collection.collected_at.to_string(),
        collection.channel.code(),
        accepted_at.unix_ms(),
        business_date.to_string(),
        confirmation.flags.to_string(),
        provenance.caller.as_str(),
        provenance.branch.as_ref().map(BranchName::as_str),
        provenance.key_id.to_string(),
        provenance.peer.to_string(),
        provenance.client_certificate.map(|digest| digest.0),
        provenance.form.as_str(),
        provenance.body_digest.0,
        confirmation.amount_text,
        confirmation.contract_field.as_str(),
        confirmation.unknown_fields,
        record::digest(canonical).0,
        line,
        provenance.origin.map(|origin| origin.place.to_string()),
        provenance.origin.and_then(|origin| origin.line).map(|line| line.to_string()),
    ])?;
    debug_assert_eq!(written, 1);
    Ok(())
}

/// Counts a repeat, and keeps its phone and time if they are others than before.
pub fn insert_repeat(
    connection: &Connection,
    sequence: Sequence,
    variant: Option<&Collection>,
    now: AcceptedAt,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO repeat (sequence, count, last_at) VALUES (?1, 1, ?2)
             ON CONFLICT DO UPDATE SET count = count + 1, last_at = excluded.last_at",
        )?
        .execute((sequence, now.unix_ms()))?;
    if let Some(Collection { phone, collected_at, .. }) = variant {
        connection
            .prepare_cached(
                "INSERT OR IGNORE INTO variant (sequence, phone, collected_at, first_at)
                 SELECT ?1, ?2, ?3, ?4
                 WHERE (SELECT count(*) FROM variant WHERE sequence = ?1) < ?5",
            )?
            .execute((
                sequence,
                phone.as_str(),
                collected_at.to_string(),
                now.unix_ms(),
                VARIANTS_MAX,
            ))?;
    }
    Ok(())
}

/// At most `limit` rows after number `after`, in order.
pub fn page_after(
    connection: &Connection,
    after: Sequence,
    limit: usize,
) -> rusqlite::Result<Vec<EntryRow>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM collection WHERE sequence > ?1 ORDER BY sequence LIMIT ?2"
        ))?
        .query_map((after, limit), entry)?
        .collect()
}

/// The row with this identity, found as the writer finds it.
pub fn by_identity(
    connection: &Connection,
    collection: &Collection,
) -> rusqlite::Result<Option<EntryRow>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM collection WHERE contract = ?1 AND receipt = ?2"
        ))?
        .query_row((collection.contract.as_str(), collection.receipt.as_str()), entry)
        .optional()
}

/// The row with this number.
pub fn by_sequence(
    connection: &Connection,
    sequence: Sequence,
) -> rusqlite::Result<Option<EntryRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM collection WHERE sequence = ?1"))?
        .query_row([sequence], entry)
        .optional()
}

/// Whether there is a row with this number.
pub fn is_there(connection: &Connection, sequence: Sequence) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM collection WHERE sequence = ?1)")?
        .query_row([sequence], |row| row.get(0))
}

/// The first of the newest collections that a look-up by its contract and receipt would miss,
/// because a page of the index is damaged. What cannot be read at all is not taken for new either.
/// A row that was altered is passed over: the index still finds it as what it was.
pub fn newest_not_found(connection: &Connection) -> rusqlite::Result<Option<Sequence>> {
    let last = last_sequence(connection)?;
    for sequence in (last - FOUND_MIN).max(0) + 1..=last {
        match is_found(connection, sequence) {
            Ok(false) => return Ok(Some(sequence)),
            Ok(true) => {}
            Err(error) if is_of_one_row(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn is_found(connection: &Connection, sequence: Sequence) -> rusqlite::Result<bool> {
    let Some(EntryRow { entry, is_intact: true, .. }) = by_sequence(connection, sequence)? else {
        return Ok(true);
    };
    let collection = &entry.confirmation.collection;
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM collection INDEXED BY collection_identity
                            WHERE contract = ?1 AND receipt = ?2 AND sequence = ?3)",
        )?
        .query_row((collection.contract.as_str(), collection.receipt.as_str(), sequence), |row| {
            row.get(0)
        })
}

/// How often an entry was confirmed again, if it was.
pub fn repeats(connection: &Connection, sequence: Sequence) -> rusqlite::Result<Option<Repeats>> {
    connection
        .prepare_cached("SELECT count, last_at FROM repeat WHERE sequence = ?1")?
        .query_row([sequence], |row| {
            Ok(Repeats { count: row.get(0)?, last_at: parsed(row, 1, AcceptedAt::from_unix_ms)? })
        })
        .optional()
}

/// The kept variants of an entry, oldest first.
pub fn variants(connection: &Connection, sequence: Sequence) -> rusqlite::Result<Vec<Variant>> {
    connection
        .prepare_cached(
            "SELECT phone, collected_at, first_at FROM variant
             WHERE sequence = ?1 ORDER BY first_at",
        )?
        .query_map([sequence], |row| {
            Ok(Variant {
                phone: text(row, 0, Phone::parse)?,
                collected_at: text(row, 1, CollectedAt::parse)?,
                first_at: parsed(row, 2, AcceptedAt::from_unix_ms)?,
            })
        })?
        .collect()
}

/// Reads a row of [`COLUMNS`]; one that cannot be read is named.
pub fn entry(row: &Row<'_>) -> rusqlite::Result<EntryRow> {
    let sequence: Sequence = row.get(0)?;
    readable_entry(row).map_err(|error| {
        let damage = format!("collection {sequence} is damaged: {error}");
        rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, damage.into())
    })
}

fn readable_entry(row: &Row<'_>) -> rusqlite::Result<EntryRow> {
    let entry = Entry {
        sequence: row.get(0)?,
        confirmation: Confirmation {
            collection: Collection {
                contract: text(row, 1, |text| ContractNumber::parse(text, Mode::Sandbox))?,
                receipt: text(row, 2, ReceiptNumber::parse)?,
                amount: parsed(row, 3, Amount::from_centavos)?,
                phone: text(row, 4, Phone::parse)?,
                collected_at: text(row, 5, CollectedAt::parse)?,
                channel: channel(row, 6)?,
            },
            flags: text(row, 9, Flags::parse)?,
            amount_text: row.get(17)?,
            contract_field: text(row, 18, ContractField::parse)?,
            unknown_fields: row.get(19)?,
        },
        provenance: Provenance {
            caller: text(row, 10, UserName::parse)?,
            branch: optional_text(row, 11, BranchName::parse)?,
            origin: origin(row)?,
            key_id: text(row, 12, KeyId::parse)?,
            peer: text(row, 13, peer)?,
            client_certificate: row.get::<_, Option<[u8; 32]>>(14)?.map(Digest),
            form: text(row, 15, Form::parse)?,
            body_digest: Digest(row.get(16)?),
        },
        accepted_at: parsed(row, 7, AcceptedAt::from_unix_ms)?,
        business_date: text(row, 8, BusinessDate::parse)?,
    };
    let canonical = record::of_entry(&entry);
    let is_intact = record::digest(&canonical).0 == row.get::<_, [u8; 32]>(20)?;
    Ok(EntryRow { entry, canonical, line: row.get(21)?, is_intact })
}

fn origin(row: &Row<'_>) -> rusqlite::Result<Option<Origin>> {
    let place = optional_text(row, 22, Place::parse)?;
    let line = optional_text(row, 23, TapeLine::parse)?;
    Ok(place.map(|place| Origin { place, line }))
}

fn channel(row: &Row<'_>, index: usize) -> rusqlite::Result<PayChannel> {
    parsed(row, index, |code: i64| PayChannel::parse(&code.to_string()))
}
