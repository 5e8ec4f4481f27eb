//! Which lines a tape or a database tells, and where two of them part.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rusqlite::Connection;

use crate::store::lineup::Lineup;
use crate::store::tape::{self, Lines, What};
use crate::store::{births, record};

/// The tables whose rows stand on the tape, births aside.
pub const BOOKS: [&str; 4] = ["collection", "refusal", "delivery", "act"];

/// What is told.
#[derive(Default)]
pub struct Told {
    /// The lines.
    pub lines: Lineup,
    /// The last of them.
    pub last_line: i64,
    /// Those that tell of a birth, and of which.
    births: BTreeMap<i64, String>,
}

impl Told {
    /// What the good lines of a tape tell.
    pub fn on_tape(directory: &Path) -> io::Result<Told> {
        let mut told = Told::default();
        for name in tape::files(directory)? {
            for scanned in Lines::open(directory, &name, 0)? {
                // Behind a sector that cannot be read nothing is good.
                let Ok(scanned) = scanned else { break };
                let Some(line) = scanned.line else { continue };
                told.add(line.number);
                if line.what == What::Store {
                    told.births.insert(line.number, line.record);
                }
            }
        }
        Ok(told)
    }

    /// What a database tells, as far as it can be read, without births that no tape tells of yet.
    pub fn in_database(database: &Connection) -> Told {
        let mut told = Told::default();
        for table in BOOKS {
            for line in lines_in(database, table) {
                told.add(line);
            }
        }
        let known = births::last_told(database).unwrap_or_default();
        for line in births::lines_after(database, 0).unwrap_or_default() {
            if line <= known
                && let Ok(Some(birth)) = births::birth_in(database, line)
            {
                told.add(line);
                told.births.insert(line, record::of_birth(&birth));
            }
        }
        told.last_line = told.last_line.max(known);
        told
    }

    fn add(&mut self, line: i64) {
        self.lines.add(line);
        self.last_line = self.last_line.max(line);
    }

    /// The first line that both tell and not the same, as far as births show it: from there on they
    /// tell of different things, whatever the numbers.
    pub fn parts_from(&self, other: &Told) -> Option<i64> {
        let lines = self.births.keys().chain(other.births.keys()).copied();
        lines
            .filter(|line| self.lines.has(*line) && other.lines.has(*line))
            .filter(|line| self.births.get(line) != other.births.get(line))
            .min()
    }
}

/// The lines that a table's rows bear, as far as they can be read.
pub fn lines_in(database: &Connection, table: &str) -> Vec<i64> {
    let mut lines = Vec::new();
    if let Ok(mut select) = database.prepare(&format!("SELECT line FROM {table}"))
        && let Ok(mut rows) = select.query([])
    {
        while let Ok(Some(row)) = rows.next() {
            lines.extend(row.get::<_, i64>(0));
        }
    }
    lines
}
