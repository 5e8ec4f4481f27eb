//! Rows of data as a table for people, or as JSON, JSON lines and CSV for machines.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::{Map, Value};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::cli::Output;

/// The version of every JSON document's shape; raised when a member changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// One row, its members in the order in which they are printed.
pub type Row = Map<String, Value>;

/// A member of rows made of `T`: its name, and how its value is told.
pub type Member<T> = (&'static str, fn(&T) -> Value);

/// What `members` tell of a thing, in their order.
pub fn told<T>(members: &[Member<T>], thing: &T) -> impl Iterator<Item = (&'static str, Value)> {
    members.iter().map(move |(name, value)| (*name, value(thing)))
}

/// The same, gathered.
pub fn row_of<T>(members: &[Member<T>], thing: &T) -> Row {
    told(members, thing).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A column of a table for people.
#[derive(Clone, Copy)]
pub struct Column {
    member: &'static str,
    heading: &'static str,
    alignment: CellAlignment,
}

/// A column of text.
pub const fn text(member: &'static str, heading: &'static str) -> Column {
    Column { member, heading, alignment: CellAlignment::Left }
}

/// A column of money or numbers, which are compared by their last digits.
pub const fn number(member: &'static str, heading: &'static str) -> Column {
    Column { member, heading, alignment: CellAlignment::Right }
}

/// Prints rows one by one, so that a long list needs no memory; a table waits for its last row.
pub struct Printer<'a, W: Write> {
    form: Form<'a, W>,
    count: usize,
}

enum Form<'a, W: Write> {
    Table { out: W, table: Box<Table>, columns: &'a [Column] },
    Json { out: W, name: &'a str },
    Jsonl { out: W },
    Csv { out: Box<csv::Writer<W>>, has_heading: bool },
}

impl<'a, W: Write> Printer<'a, W> {
    /// A printer of rows called `name`; a table shows only `columns`.
    pub fn new(out: W, output: Output, name: &'a str, columns: &'a [Column]) -> Printer<'a, W> {
        let form = match output {
            Output::Table => Form::Table { out, table: Box::new(empty_table(columns)), columns },
            Output::Json => Form::Json { out, name },
            Output::Jsonl => Form::Jsonl { out },
            Output::Csv => {
                let out = Box::new(csv::Writer::from_writer(out));
                Form::Csv { out, has_heading: true }
            }
        };
        Printer { form, count: 0 }
    }

    /// A printer whose rows go on behind others: a CSV without its heading.
    pub fn continued(mut self) -> Printer<'a, W> {
        if let Form::Csv { has_heading, .. } = &mut self.form {
            *has_heading = false;
        }
        self
    }

    /// Prints one row.
    pub fn row<N>(&mut self, members: impl IntoIterator<Item = (N, Value)>) -> io::Result<()>
    where
        N: AsRef<str> + Into<String>,
    {
        let is_first = self.count == 0;
        self.count += 1;
        match &mut self.form {
            Form::Table { table, columns, .. } => {
                let row: Row =
                    members.into_iter().map(|(name, value)| (name.into(), value)).collect();
                table.add_row(columns.iter().map(|column| shown(&row[column.member])));
                Ok(())
            }
            Form::Json { out, name } => {
                let before = if is_first { opening(name) } else { ",\n".to_owned() };
                out.write_all(before.as_bytes())?;
                object(out, members)
            }
            Form::Jsonl { out } => {
                object(&mut *out, members)?;
                out.write_all(b"\n")
            }
            Form::Csv { out, has_heading } if is_first && *has_heading => {
                let (names, values): (Vec<N>, Vec<Value>) = members.into_iter().unzip();
                csv_line(out, names.iter().map(N::as_ref))?;
                csv_line(out, values.into_iter().map(cell))
            }
            Form::Csv { out, .. } => {
                csv_line(out, members.into_iter().map(|(_, value)| cell(value)))
            }
        }
    }

    /// Prints what is still to be printed, and tells how many rows there were. A CSV without rows
    /// still has its heading: the members that rows would have had.
    pub fn finish<'m>(self, members: impl IntoIterator<Item = &'m str>) -> io::Result<usize> {
        match self.form {
            Form::Table { mut out, table, .. } => {
                if self.count > 0 {
                    for line in table.lines() {
                        writeln!(out, "{}", line.trim_end())?;
                    }
                }
                out.flush()?;
            }
            Form::Json { mut out, name } => {
                let end = if self.count == 0 { opening(name) } else { "\n".to_owned() };
                writeln!(out, "{end}]}}")?;
                out.flush()?;
            }
            Form::Jsonl { mut out } => out.flush()?,
            Form::Csv { mut out, has_heading } => {
                if has_heading && self.count == 0 {
                    csv_line(&mut out, members)?;
                }
                out.flush()?;
            }
        }
        Ok(self.count)
    }
}

/// Writes a JSON object, its members one by one.
fn object<N: AsRef<str>>(
    out: impl Write,
    members: impl IntoIterator<Item = (N, Value)>,
) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::new(out);
    let mut map = serializer.serialize_map(None)?;
    for (name, value) in members {
        map.serialize_entry(name.as_ref(), &value)?;
    }
    Ok(map.end()?)
}

fn csv_line<W: Write>(
    out: &mut csv::Writer<W>,
    cells: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> io::Result<()> {
    out.write_record(cells).map_err(|error| match error.into_kind() {
        // As it is: a closed pipe is no news.
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    })
}

/// A value as a cell of a CSV.
fn cell(value: Value) -> String {
    harmless(match value {
        Value::String(text) => text,
        other => plain(&other),
    })
}

fn empty_table(columns: &[Column]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| column.heading));
    for (i, column) in columns.iter().enumerate() {
        if let Some(settings) = table.column_mut(i) {
            settings.set_cell_alignment(column.alignment);
            settings.set_padding((u16::from(i > 0), 1));
        }
    }
    table
}

/// Tells a person something beside the data, on standard error; when that is closed, nobody
/// listens.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A JSON document of one object, with the schema's version in front.
pub fn document(members: Row) -> Value {
    let mut document = Row::new();
    document.insert("schema_version".to_owned(), SCHEMA_VERSION.into());
    document.extend(members);
    document.into()
}

fn opening(name: &str) -> String {
    format!("{{\"schema_version\":{SCHEMA_VERSION},\"{name}\":[\n")
}

/// A value as a cell: lists joined by blanks, nothing for null.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A value as a cell for people.
pub fn shown(value: &Value) -> String {
    visible(&plain(value))
}

/// Text that callers wrote, made harmless for a terminal: what would steer it, break the line or
/// turn the direction of reading is shown as an escape such as `\u{202e}`.
pub fn visible(text: &str) -> String {
    let is_hidden = |c: char| {
        matches!(
            c.general_category(),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
        )
    };
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            visible.extend(c.escape_unicode());
        } else {
            visible.push(c);
        }
    }
    visible
}

/// A spreadsheet takes a cell that begins with one of these as a formula; numbers stay as they
/// are, and everything else gets the apostrophe that makes it text.
fn harmless(cell: String) -> String {
    if could_be_formula(&cell) && cell.parse::<i64>().is_err() { format!("'{cell}") } else { cell }
}

/// What stood in a cell before it was made harmless.
pub fn as_it_was(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|cell| could_be_formula(cell)).unwrap_or(cell)
}

/// Also one that has such an apostrophe already: it must not be taken for ours.
fn could_be_formula(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: &[Column] = &[number("a", "NO"), text("b", "B")];

    fn printed(output: Output, rows: &[Value]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, output, "things", COLUMNS);
        for row in rows {
            printer.row(row.as_object().unwrap().clone()).unwrap();
        }
        printer.finish(["a", "b"]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_form_prints_the_same_rows() {
        let rows = [json!({"a": 1, "b": ["x", "y"]}), json!({"a": 2, "b": null})];
        let json: Value = serde_json::from_str(&printed(Output::Json, &rows)).unwrap();
        assert_eq!(json, json!({"schema_version": 1, "things": rows}));
        assert_eq!(
            printed(Output::Jsonl, &rows),
            "{\"a\":1,\"b\":[\"x\",\"y\"]}\n{\"a\":2,\"b\":null}\n"
        );
        assert_eq!(printed(Output::Csv, &rows), "a,b\n1,x y\n2,\n");
        assert_eq!(printed(Output::Table, &rows), "NO  B\n 1  x y\n 2\n");
    }

    #[test]
    fn an_empty_list_is_still_a_document() {
        let json: Value = serde_json::from_str(&printed(Output::Json, &[])).unwrap();
        assert_eq!(json, json!({"schema_version": 1, "things": []}));
        assert_eq!(printed(Output::Csv, &[]), "a,b\n");
        assert_eq!(printed(Output::Jsonl, &[]), "");
        assert_eq!(printed(Output::Table, &[]), "");
    }

    #[test]
    fn what_callers_wrote_cannot_steer_a_terminal_and_stays_exact_for_machines() {
        let hostile = "\u{1b}[2J\u{9b}31m\u{202e}\n\r\u{2028}\u{2029}\u{ad}Ñ";
        let rows = [json!({"a": 1, "b": hostile})];
        let table = printed(Output::Table, &rows);
        let escaped = r"\u{1b}[2J\u{9b}31m\u{202e}\u{a}\u{d}\u{2028}\u{2029}\u{ad}Ñ";
        assert_eq!(table, format!("NO  B\n 1  {escaped}\n"));
        let json: Value = serde_json::from_str(&printed(Output::Json, &rows)).unwrap();
        assert_eq!(json["things"][0]["b"], hostile);
        let csv = printed(Output::Csv, &rows);
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        assert_eq!(&reader.records().next().unwrap().unwrap()[1], hostile);
    }

    #[test]
    fn no_csv_cell_can_become_a_formula() {
        for text in ["=1+1", "+63922", "-x", "@SUM(A1)", "\t=1", "\r=1", "'=1", "'R1", "-7"] {
            let cell = harmless(text.to_owned());
            assert!(cell.starts_with('\'') || cell.parse::<i64>().is_ok(), "{cell}");
            assert_eq!(as_it_was(&cell), text);
        }
        assert_eq!(harmless("-1026".to_owned()), "-1026");
    }
}
