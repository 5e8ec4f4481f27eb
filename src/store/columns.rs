//! From the columns of a row back to domain values: what does not parse is damage, named as such.

use std::net::IpAddr;

use rusqlite::Row;
use rusqlite::types::Type;

use crate::domain::Invalid;

/// Parses the address of a peer.
pub fn peer(text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| Invalid { expected: "an IP address" })
}

/// Reads a text column as a domain value; what is not one names its column.
pub fn text<T>(
    row: &Row<'_>,
    index: usize,
    parse: impl Fn(&str) -> Result<T, Invalid>,
) -> rusqlite::Result<T> {
    parse(row.get_ref(index)?.as_str()?).map_err(|invalid| unreadable(index, invalid))
}

/// As [`text`], for a column that may be NULL.
pub fn optional_text<T>(
    row: &Row<'_>,
    index: usize,
    parse: impl Fn(&str) -> Result<T, Invalid>,
) -> rusqlite::Result<Option<T>> {
    let value = row.get_ref(index)?.as_str_or_null()?;
    value.map(parse).transpose().map_err(|invalid| unreadable(index, invalid))
}

/// Reads an integer column as a domain value.
pub fn parsed<T>(
    row: &Row<'_>,
    index: usize,
    parse: impl Fn(i64) -> Result<T, Invalid>,
) -> rusqlite::Result<T> {
    parse(row.get(index)?).map_err(|invalid| unreadable(index, invalid))
}

/// What a column says that is no such value.
pub fn unreadable(index: usize, invalid: Invalid) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(invalid))
}
