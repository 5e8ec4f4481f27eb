//! `tilld verify`, `tilld rebuild` and `tilld undelivered`: database and tape, held against each
//! other.

use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::Mode as FileMode;
use serde_json::Value;

use super::progress::Progress;
use crate::config::Config;
use crate::domain::amount::Centavos;
use crate::domain::time::BusinessDate;
use crate::operator::cli::Output;
use crate::operator::output::{
    Column, Member, Printer, Row, document, note, number, row_of, text, visible,
};
use crate::operator::{Exit, Failure, may_read};
use crate::store::rebuild as rebuilding;
use crate::store::takings::Days;
use crate::store::verify::{self, Day, Manner, Verified};
use crate::store::{database_path, undelivered};

/// What is made here is the daemon's and its group's alone, as if the daemon had made it.
const UMASK: u32 = 0o027;

const DAY_COLUMNS: &[Column] = &[
    text("business_date", "DAY"),
    number("database_count", "DATABASE"),
    number("database_pesos", "PESOS"),
    number("tape_count", "TAPE"),
    number("tape_pesos", "PESOS"),
];

/// `tilld verify`
pub fn verify(config: &Config, days: Days, output: Output) -> Result<(), Failure> {
    may_read(&database_path(&config.state_dir))?;
    let progress = Progress::begin();
    let verified = verify::verify(&config.state_dir, days, Manner::Insists, &mut |done, total| {
        progress.tell("of the tape", done, total);
    })?;
    progress.end();
    print(&verified, output)?;
    if verified.is_ok() {
        return Ok(());
    }
    let message = format!("{} differences between database and tape", verified.differences_count);
    Err(Failure::new(Exit::BadData, message))
}

fn print(verified: &Verified, output: Output) -> io::Result<()> {
    let days = verified.days.iter().map(|(date, day)| row_of(DAY, &(*date, *day)));
    let mut out = BufWriter::new(io::stdout().lock());
    if let Output::Json = output {
        let mut members = Row::new();
        members.insert("ok".to_owned(), verified.is_ok().into());
        members.insert("lines".to_owned(), verified.lines.into());
        members.insert("days".to_owned(), days.map(Value::from).collect());
        members.insert("differences_count".to_owned(), verified.differences_count.into());
        members.insert("differences".to_owned(), verified.differences.clone().into());
        writeln!(out, "{}", document(members))?;
        return out.flush();
    }
    let mut printer = Printer::new(&mut out, output, "days", DAY_COLUMNS);
    for day in days {
        printer.row(day)?;
    }
    printer.finish(DAY.iter().map(|(name, _)| *name))?;
    // Standard output is data only, but for people the differences are the data.
    if let Output::Table = output {
        for difference in &verified.differences {
            writeln!(out, "{}", visible(difference))?;
        }
        let result = if verified.is_ok() { "database and tape agree" } else { "they do not agree" };
        writeln!(out, "{} lines on the tape: {result}", verified.lines)?;
    } else {
        for difference in &verified.differences {
            note(visible(difference));
        }
    }
    out.flush()
}

/// What machines are told of a business date.
const DAY: &[Member<(BusinessDate, Day)>] = &[
    ("business_date", |(date, _)| date.to_string().into()),
    ("database_count", |(_, day)| day.database.count.into()),
    ("database_centavos", |(_, day)| day.database.centavos.into()),
    ("database_pesos", |(_, day)| Centavos(day.database.centavos).to_string().into()),
    ("tape_count", |(_, day)| day.tape.count.into()),
    ("tape_centavos", |(_, day)| day.tape.centavos.into()),
    ("tape_pesos", |(_, day)| Centavos(day.tape.centavos).to_string().into()),
    ("currency", |_| "PHP".into()),
    ("agree", |(_, day)| (day.database == day.tape).into()),
];

/// `tilld rebuild`
pub fn rebuild(config: &Config, despite_damage: bool) -> Result<(), Failure> {
    must_own(&config.state_dir, "rebuild")?;
    let rebuilt = rebuilding::rebuild(&config.state_dir, config.mode, despite_damage)?;
    let mut out = io::stdout().lock();
    for path in &rebuilt.moved_aside {
        writeln!(out, "moved aside: {}", path.display())?;
    }
    writeln!(out, "a new database with {} collections is in place", rebuilt.collections)?;
    if rebuilt.damage.is_empty() {
        return Ok(());
    }
    let message = format!("not taken over:\n  {}", rebuilt.damage.join("\n  "));
    Err(Failure::new(Exit::BadData, message))
}

/// `tilld undelivered`
pub fn undelivered(config: &Config) -> Result<(), Failure> {
    rustix::process::umask(FileMode::from_raw_mode(UMASK));
    let number = undelivered::count(&config.state_dir)?;
    writeln!(io::stdout().lock(), "{number}")?;
    Ok(())
}

/// Lets the owner go on, and as the daemon would: what another user made here, the daemon could
/// not write.
pub(super) fn must_own(state_dir: &Path, command: &str) -> Result<(), Failure> {
    may_read(state_dir)?;
    let owner = std::fs::metadata(state_dir).map_err(|error| {
        let message = format!("state_dir {}: {error}", state_dir.display());
        Failure::new(Exit::Error, message)
    })?;
    let owner = owner.uid();
    if owner == rustix::process::geteuid().as_raw() {
        rustix::process::umask(FileMode::from_raw_mode(UMASK));
        return Ok(());
    }
    let message = format!(
        "{} belongs to the user with the id {owner}: use `sudo -u '#{owner}' tilld {command}`",
        state_dir.display()
    );
    Err(Failure::new(Exit::Permission, message))
}
