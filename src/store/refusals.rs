//! Refused confirmations of authenticated callers: a cashier may hold that cash.

use rusqlite::{Connection, Row, named_params};

use super::columns::{optional_text, parsed, peer, text};
use crate::domain::collection::{BranchName, UserName};
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
    /// What was said, without user name and key: a JSON object.
    pub text: String,
    /// What is unusual about it.
    pub flags: Flags,
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
    /// When it last came.
    pub last_at: AcceptedAt,
    /// How often it came.
    pub count: i64,
}

/// The columns that [`kept`] reads, in its order.
pub const COLUMNS: &str = "id, caller, branch, key_id, peer, client_certificate, form, \
     body_digest, code, description, text, flags, first_at, last_at, count";

/// Keeps a refusal, or counts it when it is one that is already kept or one too many of its day.
pub fn keep(connection: &Connection, refused: &Refused, now: AcceptedAt) -> rusqlite::Result<()> {
    if !count_again(connection, refused, now)? && admit(connection, refused, now)? {
        insert(connection, refused, now)?;
    }
    Ok(())
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

fn insert(connection: &Connection, refused: &Refused, now: AcceptedAt) -> rusqlite::Result<()> {
    let Refused { provenance, code, description, text, flags } = refused;
    connection
        .prepare_cached(
            "INSERT INTO refusal (
                 caller, branch, key_id, peer, client_certificate, form, body_digest, code,
                 description, text, flags, first_at, last_at, count)
             VALUES (
                 :caller, :branch, :key_id, :peer, :client_certificate, :form, :body_digest, :code,
                 :description, :text, :flags, :now, :now, 1)",
        )?
        .execute(named_params! {
            ":caller": provenance.caller.as_str(),
            ":branch": provenance.branch.as_ref().map(BranchName::as_str),
            ":key_id": provenance.key_id.to_string(),
            ":peer": provenance.peer.to_string(),
            ":client_certificate": provenance.client_certificate.map(|digest| digest.0),
            ":form": provenance.form.as_str(),
            ":body_digest": provenance.body_digest.0,
            ":code": code,
            ":description": description,
            ":text": text,
            ":flags": flags.to_string(),
            ":now": now.unix_ms(),
        })
        .map(drop)
}

/// Reads a row of [`COLUMNS`].
pub fn kept(row: &Row<'_>) -> rusqlite::Result<KeptRefusal> {
    Ok(KeptRefusal {
        id: row.get(0)?,
        refused: Refused {
            provenance: Provenance {
                caller: text(row, 1, UserName::parse)?,
                branch: optional_text(row, 2, BranchName::parse)?,
                key_id: text(row, 3, KeyId::parse)?,
                peer: text(row, 4, peer)?,
                client_certificate: row.get::<_, Option<[u8; 32]>>(5)?.map(Digest),
                form: text(row, 6, Form::parse)?,
                body_digest: Digest(row.get(7)?),
            },
            code: row.get(8)?,
            description: row.get(9)?,
            text: row.get(10)?,
            flags: text(row, 11, Flags::parse)?,
        },
        first_at: parsed(row, 12, AcceptedAt::from_unix_ms)?,
        last_at: parsed(row, 13, AcceptedAt::from_unix_ms)?,
        count: row.get(14)?,
    })
}

/// How many refusals of each caller and day were only counted, because too many came.
pub fn beyond(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(sum(beyond), 0) FROM refusal_day", [], |row| row.get(0))
}
