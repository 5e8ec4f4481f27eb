//! Finds lines of the tape by their numbers, quickest when they are asked for in order.
//!
//! Reads only, beside the writer. A line that is not found may be damaged, or not written yet: who
//! asks must know which.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::tape::{self, Line, Lines};
use crate::domain::provenance::Digest;

/// A line at most this far ahead is read up to, which is cheaper than to search for it.
const READ_AHEAD_LINES: i64 = 1000;

/// A stretch of a file that is read through rather than halved again.
const STRETCH_BYTES: u64 = 64 * 1024;

/// Looks lines up.
pub struct Finder {
    directory: PathBuf,
    /// Where the last search ended: a file, its lines from there on, and the number of the next.
    at: Option<(String, Lines, i64)>,
}

impl Finder {
    /// Looks in this directory of a tape.
    pub fn new(directory: PathBuf) -> Finder {
        Finder { directory, at: None }
    }

    /// The good line with this number, and its SHA-256.
    pub fn find(&mut self, number: i64) -> io::Result<Option<(Line, Digest)>> {
        if let Some((name, lines, next)) = self.at.take()
            && (next..=next + READ_AHEAD_LINES).contains(&number)
            && let Some(found) = self.read_up_to(number, name, lines)?
        {
            return Ok(Some(found));
        }
        let Some((name, start)) = self.locate(number)? else { return Ok(None) };
        let lines = Lines::open(&self.directory, &name, start)?;
        self.read_up_to(number, name, lines)
    }

    /// Reads on to this line, in later files as well.
    fn read_up_to(
        &mut self,
        number: i64,
        mut name: String,
        mut lines: Lines,
    ) -> io::Result<Option<(Line, Digest)>> {
        loop {
            for scanned in lines.by_ref() {
                let scanned = scanned?;
                match scanned.line {
                    Some(line) if line.number == number => {
                        self.at = Some((name, lines, number + 1));
                        return Ok(Some((line, scanned.digest)));
                    }
                    Some(line) if line.number > number => return Ok(None),
                    _ => {}
                }
            }
            let Some(later) = self.files()?.into_iter().find(|file| *file > name) else {
                return Ok(None);
            };
            lines = Lines::open(&self.directory, &later, 0)?;
            name = later;
        }
    }

    /// A file and an offset in it from which this line is not far.
    fn locate(&self, number: i64) -> io::Result<Option<(String, u64)>> {
        let files = self.files()?;
        let (mut low, mut high) = (0, files.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.first_good(&files[middle], 0)? {
                Some((first, _)) if first <= number => low = middle + 1,
                _ => high = middle,
            }
        }
        let Some(name) = low.checked_sub(1).map(|file| files[file].clone()) else {
            return Ok(None);
        };
        let (mut start, mut end) = (0, fs::metadata(self.directory.join(&name))?.len());
        while end - start > STRETCH_BYTES {
            let middle = u64::midpoint(start, end);
            match self.first_good(&name, middle)? {
                Some((first, place)) if first <= number => start = place.max(start + 1),
                _ => end = middle,
            }
        }
        Ok(Some((name, start)))
    }

    /// Number and offset of the first good line at or behind an offset of a file.
    pub fn first_good(&self, name: &str, offset: u64) -> io::Result<Option<(i64, u64)>> {
        for scanned in Lines::open(&self.directory, name, offset)? {
            let scanned = scanned?;
            if let Some(line) = scanned.line {
                return Ok(Some((line.number, scanned.place.start)));
            }
        }
        Ok(None)
    }

    fn files(&self) -> io::Result<Vec<String>> {
        tape::files(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::{AcceptedAt, BusinessDate};
    use crate::store::tape::{End, Place, Tape, Told, What};

    const LINES: i64 = 2500;

    /// Three files with lines 1 to 2,500 between them.
    fn tape() -> (tempfile::TempDir, PathBuf) {
        let state_dir = tempfile::tempdir().unwrap();
        let directory = state_dir.path().join("tape");
        let place = Place { file: String::new(), start: 0, end: 0 };
        let digest = Digest([0; 32]);
        let end = End { line: 0, place, digest, file: (String::new(), 0) };
        let mut tape = Tape::at_end(directory.clone(), end);
        let at = AcceptedAt::from_unix_ms(0).unwrap();
        for (day, lines) in [("2026-11-20", 1..=10), ("2026-11-21", 11..=2400)] {
            append(&mut tape, day, lines, at);
        }
        append(&mut tape, "2026-11-22", 2401..=LINES, at);
        (state_dir, directory)
    }

    fn append(tape: &mut Tape, day: &str, lines: std::ops::RangeInclusive<i64>, at: AcceptedAt) {
        let told: Vec<Told> = lines
            .map(|line| Told { line, at, what: What::Act, record: format!("{{\"n\":{line}}}") })
            .collect();
        tape.append(&told, BusinessDate::parse(day).unwrap()).unwrap();
    }

    fn finds(finder: &mut Finder, number: i64) -> bool {
        let found = finder.find(number).unwrap();
        found.is_some_and(|(line, _)| line.record == format!("{{\"n\":{number}}}"))
    }

    #[test]
    fn every_line_is_found_in_order_backwards_and_in_leaps() {
        let (_state_dir, directory) = tape();
        let mut finder = Finder::new(directory);
        let leaps = (0..LINES).map(|n| n * 997 % LINES + 1);
        for number in (1..=LINES).chain((1..=LINES).rev().step_by(37)).chain(leaps.step_by(41)) {
            assert!(finds(&mut finder, number), "{number}");
        }
        for absent in [0, LINES + 1, LINES + 5000] {
            assert!(!finds(&mut finder, absent), "{absent}");
        }
    }

    #[test]
    fn damaged_lines_and_lost_files_hide_only_what_stood_there() {
        let (_state_dir, directory) = tape();
        fs::remove_file(directory.join("000001-2026-11-20.jsonl")).unwrap();
        let path = directory.join("000002-2026-11-21.jsonl");
        let text = fs::read_to_string(&path).unwrap().replace("{\"n\":1200}", "{\"n\":1201}");
        fs::write(&path, text).unwrap();
        let mut finder = Finder::new(directory);
        for number in (1..=LINES).chain((1..=LINES).rev().step_by(7)) {
            assert_eq!(finds(&mut finder, number), number > 10 && number != 1200, "{number}");
        }
    }
}
