//! Rows of data as a table for people, or as JSON, JSON lines and CSV for machines.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde_json::{Map, Value};

use super::cli::Output;

/// The version of every JSON document's shape; raised when a member changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// One row, its members in the order in which they are printed.
pub type Row = Map<String, Value>;

/// Prints rows one by one, so that a long list needs no memory; a table waits for its last row.
pub struct Printer<'a, W: Write> {
    out: W,
    form: Form<'a>,
    count: usize,
}

enum Form<'a> {
    Table { table: Box<Table>, columns: &'a [(&'a str, &'a str)] },
    Json { name: &'a str },
    Jsonl,
    Csv { pending: Vec<u8> },
}

impl<'a, W: Write> Printer<'a, W> {
    /// A printer of rows called `name`; a table shows only `columns`, as (member, heading).
    pub fn new(
        out: W,
        output: Output,
        name: &'a str,
        columns: &'a [(&'a str, &'a str)],
    ) -> Printer<'a, W> {
        let form = match output {
            Output::Table => {
                let mut table = Box::new(Table::new());
                table.load_style(presets::NOTHING);
                table.set_header(columns.iter().map(|(_, heading)| *heading));
                Form::Table { table, columns }
            }
            Output::Json => Form::Json { name },
            Output::Jsonl => Form::Jsonl,
            Output::Csv => Form::Csv { pending: Vec::new() },
        };
        Printer { out, form, count: 0 }
    }

    /// Prints one row.
    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        let is_first = self.count == 0;
        self.count += 1;
        match &mut self.form {
            Form::Table { table, columns } => {
                table.add_row(columns.iter().map(|(member, _)| plain(&row[*member])));
                Ok(())
            }
            Form::Json { name } if is_first => {
                let object = Value::from(row.clone());
                write!(self.out, "{}{object}", opening(name))
            }
            Form::Json { .. } => write!(self.out, ",\n{}", Value::from(row.clone())),
            Form::Jsonl => writeln!(self.out, "{}", Value::from(row.clone())),
            Form::Csv { pending } => {
                pending.clear();
                let mut line = csv::Writer::from_writer(&mut *pending);
                if is_first {
                    line.write_record(row.keys())?;
                }
                line.write_record(row.values().map(|value| harmless(plain(value))))?;
                line.flush()?;
                drop(line);
                self.out.write_all(pending)
            }
        }
    }

    /// Prints what is still to be printed, and tells how many rows there were.
    pub fn finish(mut self) -> io::Result<usize> {
        match &self.form {
            Form::Table { table, .. } if self.count > 0 => {
                for line in table.lines() {
                    writeln!(self.out, "{}", line.trim())?;
                }
            }
            Form::Json { name } if self.count == 0 => writeln!(self.out, "{}]}}", opening(name))?,
            Form::Json { .. } => writeln!(self.out, "\n]}}")?,
            Form::Table { .. } | Form::Jsonl | Form::Csv { .. } => {}
        }
        self.out.flush()?;
        Ok(self.count)
    }
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

/// A spreadsheet takes a cell that begins with one of these as a formula; numbers stay as they
/// are, and everything else gets the apostrophe that makes it text.
fn harmless(cell: String) -> String {
    let could_be_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if could_be_formula && cell.parse::<i64>().is_err() { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(output: Output, rows: &[Value]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, output, "things", &[("a", "A"), ("b", "B")]);
        for row in rows {
            printer.row(row.as_object().unwrap()).unwrap();
        }
        printer.finish().unwrap();
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
        assert_eq!(printed(Output::Table, &rows), "A  B\n1  x y\n2\n");
    }

    #[test]
    fn an_empty_list_is_still_a_document() {
        let json: Value = serde_json::from_str(&printed(Output::Json, &[])).unwrap();
        assert_eq!(json, json!({"schema_version": 1, "things": []}));
        assert_eq!(printed(Output::Table, &[]), "");
    }

    #[test]
    fn no_csv_cell_can_become_a_formula() {
        for text in ["=1+1", "+63922", "-x", "@SUM(A1)", "\t=1", "\r=1"] {
            let cell = harmless(text.to_owned());
            assert!(cell.starts_with('\'') || cell.parse::<i64>().is_ok(), "{cell}");
        }
        assert_eq!(harmless("-1026".to_owned()), "-1026");
    }
}
