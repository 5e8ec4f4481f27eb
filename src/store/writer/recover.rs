//! What the writer does before it answers anything: makes durable what an earlier process left, and
//! makes both witnesses agree. What cannot be done yet, because the disk is full, is tried again.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;

use super::{Writer, is_all_copied};
use crate::domain::time::AcceptedAt;
use crate::store::agree::{self, AgreeError, Kind, Missing, Report};
use crate::store::health::Recovered;
use crate::store::tape::{self, AppendError, Tape};
use crate::store::{acts, collections, schema, wal_path};
use crate::system::clock;
use crate::system::event::Event;

/// Lines that a start writes at a time on a tape that lacks them: a few megabytes, however many
/// there are. Tests have few.
const LINES_AT_ONCE: usize = if cfg!(test) { 3 } else { 5000 };

impl Writer {
    /// Makes durable what an earlier process left, and makes the witnesses agree. What it wrote
    /// but could not sync may still sit in the page cache only: copied and synced, it may be
    /// answered from.
    pub(super) fn recover(&mut self) -> Result<(), AgreeError> {
        self.tried_at = clock::monotonic();
        if let Err(reason) = self.empty_wal()? {
            if self.could_write {
                log::error!(
                    TILLD_EVENT = Event::RecoveryWaits;
                    "the WAL of the earlier run cannot be recovered yet, because {reason}: \
                     everything is answered -1009 until it can"
                );
            }
            self.could_write = false;
            return Ok(());
        }
        let directory = tape::directory(&self.state_dir);
        let agreed = agree::agree(&mut self.connection, &directory, &self.health.pulse());
        let (tape, report) = match agreed {
            Err(error) if error.is_passing() => {
                if self.could_write {
                    log::error!(
                        TILLD_EVENT = Event::RecoveryWaits;
                        "no room or no right to make the witnesses agree; all is -1009: {error}"
                    );
                }
                self.could_write = false;
                return Ok(());
            }
            agreed => agreed?,
        };
        self.next_line = tape.last_line().max(agree::last_line(&self.connection)?) + 1;
        self.next_sequence = collections::last_sequence(&self.connection)? + 1;
        self.closed_days = Arc::new(acts::closed_days(&self.connection)?);
        let now = AcceptedAt::new(clock::now());
        let is_changed = report.rows_completed > 0 || !report.lines_missing.is_empty();
        self.taped_sequence = report
            .lines_missing
            .iter()
            .filter(|missing| missing.kind == Kind::Collection)
            .map(|missing| missing.row - 1)
            .min()
            .unwrap_or(self.next_sequence - 1);
        self.tape = self.with_lines(tape, &report.lines_missing, now)?;
        if self.tape.is_none() {
            return Ok(());
        }
        log_report(&report);
        self.health.count(Recovered {
            rows: report.rows_completed,
            lines: lines_completed(&report),
            set_aside: report.set_aside.len(),
            damage: report.damage.len(),
        });
        self.tell(&[], now);
        if is_changed {
            self.checkpoint("PASSIVE");
        }
        Ok(())
    }

    /// The tape with the lines that it lacks: written, a bounded number at a time, but for the last
    /// of them, which it holds. `None` when it takes nothing for now; then all is compared anew.
    fn with_lines(
        &mut self,
        mut tape: Tape,
        missing: &[Missing],
        now: AcceptedAt,
    ) -> Result<Option<Tape>, AgreeError> {
        let mut parts = missing.chunks(LINES_AT_ONCE).peekable();
        while let Some(part) = parts.next() {
            self.health.pulse().beat();
            let told = agree::told(&self.connection, part)?;
            if parts.peek().is_none() {
                tape.hold(&told);
                break;
            }
            match tape.append(&told, now.date()) {
                Ok(()) => {}
                Err(AppendError::Unknown(error)) => return Err(AgreeError::Tape(error)),
                Err(AppendError::Refused(error)) => {
                    if self.could_write {
                        log::error!("the tape cannot be completed; all is -1009: {error}");
                    }
                    self.could_write = false;
                    tape.abandon();
                    return Ok(None);
                }
            }
        }
        Ok(Some(tape))
    }

    /// Copies the whole WAL into the database and syncs it, or says why that must wait.
    pub(super) fn empty_wal(&self) -> Result<Result<(), &'static str>, AgreeError> {
        // A reader that will not go must not hold up those who are answered -1009 meanwhile.
        self.connection.busy_timeout(Duration::ZERO)?;
        let copied = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            let is_busy: bool = row.get(0)?;
            Ok(!is_busy || is_all_copied(row)?)
        });
        self.connection.busy_timeout(schema::BUSY_TIMEOUT)?;
        match copied {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(
                "another program reads an older state of tilld.db (`fuser -v` on it tells which): \
                 close it",
            )),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                File::open(wal_path(&self.state_dir))?.sync_all()?;
                Ok(Err("the disk is full"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The birth of a database is always told at the start that follows it, and is no repair.
fn lines_completed(report: &Report) -> usize {
    report.lines_missing.iter().filter(|missing| missing.kind != Kind::Birth).count()
}

fn log_report(report: &Report) {
    if report.rows_completed > 0 {
        log::warn!(
            TILLD_EVENT = Event::WitnessesCompleted;
            "rows completed from the tape in the database: {}", report.rows_completed
        );
    }
    match lines_completed(report) {
        0 => {}
        count => log::warn!(
            TILLD_EVENT = Event::WitnessesCompleted;
            "lines completed from the database on the tape: {count}"
        ),
    }
    for file in &report.set_aside {
        log::warn!(
            TILLD_EVENT = Event::TapeSetAside;
            "a torn end of the tape was set aside as {file}"
        );
    }
    for damage in &report.damage {
        log::error!(
            TILLD_EVENT = Event::Difference;
            "damage: {damage}; `tilld verify` tells all of it"
        );
    }
}
