//! `tilld backup`: verified copies of database and tape, made, listed, checked and restored.

use std::io::{self, BufWriter, Write as _};

use chrono::TimeDelta;

use super::progress::Progress;
use super::status::bytes;
use super::witnesses::must_own;
use crate::config::Config;
use crate::domain::time::AcceptedAt;
use crate::operator::cli::Output;
use crate::operator::output::{Column, Member, Printer, note, number, text, told, visible};
use crate::operator::{Exit, Failure, may_read};
use crate::store::backup::{self, Backups, Checked, Kept, Name};
use crate::store::{database_path, rebuild};
use crate::system::clock;

const LIST_COLUMNS: &[Column] = &[
    text("name", "NAME"),
    text("made_at", "MADE"),
    number("collections", "COLLECTIONS"),
    number("size", "SIZE"),
    text("age", "AGE"),
];

const VERIFY_COLUMNS: &[Column] = &[
    text("name", "NAME"),
    number("collections", "COLLECTIONS"),
    number("lines", "LINES"),
    text("result", "RESULT"),
];

/// Where backups are, as the configuration says.
pub fn backups(config: &Config) -> Backups {
    let crate::config::Backup { directory, keep_days } = &config.backup;
    Backups { directory: directory.clone(), keep_days: *keep_days }
}

/// `tilld backup create`
pub fn create(config: &Config) -> Result<(), Failure> {
    must_own(&config.state_dir, "backup create")?;
    let database = database_path(&config.state_dir);
    // A database that is gone has left its tape.
    if !database.try_exists()? && !rebuild::is_lost(&config.state_dir)? {
        let state_dir = config.state_dir.display();
        note(format_args!("nothing to copy: there is no database in {state_dir} yet"));
        return Ok(());
    }
    may_read(&database)?;
    let progress = Progress::begin();
    let made = backup::create(
        &config.state_dir,
        &backups(config),
        config.disk_reserve,
        &mut |of, done, total| progress.tell(of, done, total),
    );
    progress.end();
    let made = made?;
    let is_good = made.checked.differences_count == 0;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "backup {} is made and {}: {} collections, in {}",
        made.name,
        if is_good { "checked" } else { "a true copy of a damaged tape" },
        made.checked.collections.unwrap_or_default(),
        config.backup.directory.join(made.name.to_string()).display()
    )?;
    for name in made.removed {
        writeln!(out, "removed, because keep_days is {}: {name}", config.backup.keep_days)?;
    }
    if is_good {
        return Ok(());
    }
    let differences: Vec<String> =
        made.checked.differences.iter().map(|text| visible(text)).collect();
    let message = format!(
        "the database is good, but the tape is damaged; no backup without damage is removed until \
         there is a new one:\n  {}",
        differences.join("\n  ")
    );
    Err(Failure::new(Exit::BadData, message))
}

/// `tilld backup list`
pub fn list(config: &Config, output: Output) -> Result<(), Failure> {
    let directory = &config.backup.directory;
    let names = names(config)?;
    let now = AcceptedAt::new(clock::now());
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, output, "backups", LIST_COLUMNS);
    for name in &names {
        let kept = backup::look(directory, *name)?;
        printer.row(told(KEPT, &(kept, now)))?;
    }
    printer.finish(KEPT.iter().map(|(name, _)| *name))?;
    if names.is_empty() && matches!(output, Output::Table) {
        note(format_args!("there is no backup in {}", directory.display()));
    }
    Ok(())
}

/// `tilld backup verify`
pub fn verify(config: &Config, name: Option<&str>, output: Output) -> Result<(), Failure> {
    let now = AcceptedAt::new(clock::now());
    let last = backup::last_good(&config.backup.directory, now)?.map(|(last, _)| last);
    let names = match name {
        Some(name) => vec![named(config, name)?],
        None => names(config)?,
    };
    if names.is_empty() {
        let message = format!(
            "there is no backup in {}; `tilld backup create` makes one",
            config.backup.directory.display()
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let progress = Progress::begin();
    let mut printer =
        Printer::new(BufWriter::new(io::stdout().lock()), output, "backups", VERIFY_COLUMNS);
    let mut bad = Vec::new();
    for name in names {
        let checked = backup::verify(&config.backup.directory, name, &mut |of, done, total| {
            progress.tell(of, done, total);
        })?;
        if checked.differences_count > 0 {
            let differences: Vec<String> =
                checked.differences.iter().map(|text| visible(text)).collect();
            bad.push(format!("backup {name} is damaged:\n  {}", differences.join("\n  ")));
        } else if last == Some(name) {
            // Who may only read the backups checks them all the same.
            let _ = backup::note_verified(&config.backup.directory, now);
        }
        printer.row(told(CHECKED, &(name, checked)))?;
    }
    progress.end();
    printer.finish(CHECKED.iter().map(|(name, _)| *name))?;
    if bad.is_empty() { Ok(()) } else { Err(Failure::new(Exit::BadData, bad.join("\n"))) }
}

/// `tilld backup restore`
pub fn restore(config: &Config, name: &str, despite_loss: bool) -> Result<(), Failure> {
    must_own(&config.state_dir, &format!("backup restore {name}"))?;
    let name = named(config, name)?;
    let progress = Progress::begin();
    let restored = backup::restore(
        &config.state_dir,
        config.mode,
        (&config.backup.directory, name),
        despite_loss,
        config.disk_reserve,
        &mut |of, done, total| progress.tell(of, done, total),
    );
    progress.end();
    let restored = restored?;
    let mut out = io::stdout().lock();
    for path in &restored.moved_aside {
        writeln!(out, "moved aside: {}", path.display())?;
    }
    for file in &restored.tape_files {
        writeln!(out, "the tape's file {file} comes from the backup")?;
    }
    writeln!(out, "backup {name} is in place: {} collections", restored.collections)?;
    if restored.is_tape_lost {
        let at = name.at();
        writeln!(
            out,
            "the tape beyond it is lost: what was recorded after {at} is not in it; compare with \
             the tills and with head office"
        )?;
    } else {
        let completed = restored.completed;
        writeln!(out, "completed from the tape beyond it: {completed} collections")?;
    }
    if restored.damage.is_empty() {
        return Ok(());
    }
    let message = format!("it is in place, but not whole:\n  {}", restored.damage.join("\n  "));
    Err(Failure::new(Exit::BadData, message))
}

fn names(config: &Config) -> Result<Vec<Name>, Failure> {
    may_read(&config.backup.directory)?;
    Ok(backup::names(&config.backup.directory)?)
}

fn named(config: &Config, name: &str) -> Result<Name, Failure> {
    may_read(&config.backup.directory)?;
    let directory = &config.backup.directory;
    backup::find(directory, name)?.ok_or_else(|| {
        let message = format!(
            "there is no backup {} in {}; `tilld backup list` shows those that there are",
            visible(name),
            directory.display()
        );
        Failure::new(Exit::NotFound, message)
    })
}

/// What machines are told of a backup at a moment.
const KEPT: &[Member<(Kept, AcceptedAt)>] = &[
    ("name", |(kept, _)| kept.name.to_string().into()),
    ("made_at", |(kept, _)| kept.name.at().to_string().into()),
    ("collections", |(kept, _)| kept.collections.into()),
    ("bytes", |(kept, _)| kept.bytes.into()),
    ("size", |(kept, _)| bytes(kept.bytes).into()),
    ("age_s", |(kept, now)| age(kept.name, *now).num_seconds().into()),
    ("age", |(kept, now)| words(age(kept.name, *now)).into()),
];

/// What machines are told of the check of one.
const CHECKED: &[Member<(Name, Checked)>] = &[
    ("name", |(name, _)| name.to_string().into()),
    ("ok", |(_, checked)| (checked.differences_count == 0).into()),
    ("result", |(_, checked)| match checked.differences_count {
        0 => "good".into(),
        count => format!("damaged: {count} differences").into(),
    }),
    ("collections", |(_, checked)| checked.collections.into()),
    ("lines", |(_, checked)| checked.lines.into()),
    ("differences_count", |(_, checked)| checked.differences_count.into()),
    ("differences", |(_, checked)| checked.differences.clone().into()),
];

fn age(name: Name, now: AcceptedAt) -> TimeDelta {
    TimeDelta::milliseconds(now.unix_ms().saturating_sub(name.at().unix_ms()))
}

/// Two units at the most; a clock that was wrong is named.
fn words(age: TimeDelta) -> String {
    match (age.num_days(), age.num_hours(), age.num_minutes()) {
        _ if age < TimeDelta::zero() => "in the future".to_owned(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_the_units_that_matter() {
        for (seconds, expected) in [
            (0, "0 min"),
            (3599, "59 min"),
            (3600, "1 h 0 min"),
            (86_399, "23 h 59 min"),
            (90_000, "1 d 1 h"),
            (-1, "in the future"),
        ] {
            assert_eq!(words(TimeDelta::seconds(seconds)), expected);
        }
    }
}
