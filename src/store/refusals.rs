//! Refused confirmations of authenticated callers: a cashier may hold that cash.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::columns::{optional_text, parsed, peer, text};
use super::record::FirstRefusal;
use crate::domain::collection::{BranchName, UserName};
use crate::domain::decision::Sequence;
use crate::domain::flags::Flags;
use crate::domain::provenance::{Digest, Form, KeyId, Provenance};
use crate::domain::time::AcceptedAt;

/// So many new refusals are kept of one caller and day; more are only counted, so that a till
/// gone wild cannot fill the disk.
const KEPT_PER_DAY_MAX: i64 = 10_000;

/// A refused confirmation, on its way into the store.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Who sent it.
    pub provenance: Provenance,
    /// The answer's code.
    pub code: i32,
    /// The answer's text.
    pub description: String,
    /// The contract number that it named, valid or not.
    pub contract: Option<String>,
    /// What was said, without user name and key: a JSON object.
    pub text: String,
    /// What is unusual about it.
    pub flags: Flags,
}

impl KeptRefusal {
    /// What of it stands on the tape.
    pub fn as_first(&self) -> FirstRefusal {
        FirstRefusal { id: self.id, refused: self.refused.clone(), first_at: self.first_at }
    }
}

/// A refusal as it is kept: identical ones are one.
#[derive(Clone, Debug)]
pub struct KeptRefusal {
    /// Its number.
    pub id: i64,
    /// What was refused, as it came first.
    pub refused: Refused,
    /// When it first came.
    pub first_at: AcceptedAt,
    /// The line on the tape that tells of it.
    pub line: i64,
    /// When it last came.
    pub last_at: AcceptedAt,
    /// How often it came.
    pub count: i64,
    /// The collection that it is since a person accepted it.
    pub accepted_as: Option<Sequence>,
}

/// The columns that [`kept`] reads, in its order.
pub const COLUMNS: &str = "id, caller, branch, key_id, peer, client_certificate, form, \
     body_digest, code, description, contract, text, flags, first_at, line, last_at, count, \
     (SELECT sequence FROM act WHERE act.refusal = refusal.id AND what = 'accept')";

/// Keeps a refusal, or counts it when it is one that is already kept or one too many of its day.
/// Gives what is to stand on the tape in this line.
pub fn keep(
    connection: &Connection,
    refused: &Refused,
    line: i64,
    now: AcceptedAt,
) -> rusqlite::Result<Option<FirstRefusal>> {
    if count_again(connection, refused, now)? || !admit(connection, refused, now)? {
        return Ok(None);
    }
    let id = connection
        .prepare_cached("SELECT coalesce(max(id), 0) + 1 FROM refusal")?
        .query_row([], |row| row.get(0))?;
    let refusal = FirstRefusal { id, refused: refused.clone(), first_at: now };
    insert(connection, &refusal, line)?;
    Ok(Some(refusal))
}

fn count_again(
    connection: &Connection,
    refused: &Refused,
    now: AcceptedAt,
) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached(
            "UPDATE refusal SET count = count + 1, last_at = ?4
             WHERE caller = ?1 AND code = ?2 AND body_digest = ?3",
        )?
        .execute((
            refused.provenance.caller.as_str(),
            refused.code,
            refused.provenance.body_digest.0,
            now.unix_ms(),
        ))?;
    Ok(changed > 0)
}

/// Whether one more row of this caller and day is kept; counts it either way.
fn admit(connection: &Connection, refused: &Refused, now: AcceptedAt) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "INSERT INTO refusal_day (caller, day, kept, beyond) VALUES (?1, ?2, 1, 0)
             ON CONFLICT DO UPDATE SET
                 kept = kept + (kept < ?3), beyond = beyond + (kept >= ?3)
             RETURNING beyond = 0",
        )?
        .query_row(
            (refused.provenance.caller.as_str(), now.date().to_string(), KEPT_PER_DAY_MAX),
            |row| row.get(0),
        )
}

/// Writes a refusal down that stands on the tape in this line.
pub fn insert(connection: &Connection, refusal: &FirstRefusal, line: i64) -> rusqlite::Result<()> {
    let FirstRefusal { id, refused, first_at } = refusal;
    let Refused { provenance, code, description, contract, text, flags } = refused;
    connection
        .prepare_cached(
            "INSERT INTO refusal (
                 id, caller, branch, key_id, peer, client_certificate, form, body_digest, code,
                 description, contract, text, flags, first_at, line, last_at, count)
             VALUES (
                 :id, :caller, :branch, :key_id, :peer, :client_certificate, :form, :body_digest,
                 :code, :description, :contract, :text, :flags, :first_at, :line, :first_at, 1)",
        )?
        .execute(named_params! {
            ":id": id,
            ":caller": provenance.caller.as_str(),
            ":branch": provenance.branch.as_ref().map(BranchName::as_str),
            ":key_id": provenance.key_id.to_string(),
            ":peer": provenance.peer.to_string(),
            ":client_certificate": provenance.client_certificate.map(|digest| digest.0),
            ":form": provenance.form.as_str(),
            ":body_digest": provenance.body_digest.0,
            ":code": code,
            ":description": description,
            ":contract": contract,
            ":text": text,
            ":flags": flags.to_string(),
            ":first_at": first_at.unix_ms(),
            ":line": line,
        })
        .map(drop)
}

/// At most `limit` refusals after number `after`, in order.
pub fn page_after(
    connection: &Connection,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<KeptRefusal>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM refusal WHERE id > ?1 ORDER BY id LIMIT ?2"
        ))?
        .query_map((after, limit), kept)?
        .collect()
}

/// The refusal with this number.
pub fn by_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<KeptRefusal>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM refusal WHERE id = ?1"))?
        .query_row([id], kept)
        .optional()
}

/// Reads a row of [`COLUMNS`].
pub fn kept(row: &Row<'_>) -> rusqlite::Result<KeptRefusal> {
    Ok(KeptRefusal {
        id: row.get(0)?,
        line: row.get(14)?,
        refused: Refused {
            provenance: Provenance {
                caller: text(row, 1, UserName::parse)?,
                branch: optional_text(row, 2, BranchName::parse)?,
                origin: None,
                key_id: text(row, 3, KeyId::parse)?,
                peer: text(row, 4, peer)?,
                client_certificate: row.get::<_, Option<[u8; 32]>>(5)?.map(Digest),
                form: text(row, 6, Form::parse)?,
                body_digest: Digest(row.get(7)?),
            },
            code: row.get(8)?,
            description: row.get(9)?,
            contract: row.get(10)?,
            text: row.get(11)?,
            flags: text(row, 12, Flags::parse)?,
        },
        first_at: parsed(row, 13, AcceptedAt::from_unix_ms)?,
        last_at: parsed(row, 15, AcceptedAt::from_unix_ms)?,
        count: row.get(16)?,
        accepted_as: row.get(17)?,
    })
}

/// How many refusals were only counted, because too many came from one caller on one day.
pub fn beyond(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(sum(beyond), 0) FROM refusal_day", [], |row| row.get(0))
}
