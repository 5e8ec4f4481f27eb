//! `tilld verify` and `tilld rebuild`: database and tape, held against each other.

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::config::Config;
use crate::domain::amount::Centavos;
use crate::operator::cli::Output;
use crate::operator::output::{Printer, Row, document};
use crate::operator::{Exit, Failure};
use crate::store::rebuild as rebuilding;
use crate::store::verify::{self, Day, Range, Verified};
use crate::system::clock;

/// A check that is over sooner shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

const DAY_COLUMNS: &[(&str, &str)] = &[
    ("business_date", "DAY"),
    ("database_count", "DATABASE"),
    ("database_pesos", "PESOS"),
    ("tape_count", "TAPE"),
    ("tape_pesos", "PESOS"),
];

/// `tilld verify`
pub fn verify(config: &Config, range: Range, output: Output) -> Result<(), Failure> {
    let started = clock::monotonic();
    let bar = ProgressBar::hidden();
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {percent}% of the tape, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let verified = verify::verify(&config.state_dir, range, &mut |done, total| {
        if bar.is_hidden() && started.elapsed() > PROGRESS_AFTER {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    print(&verified, output)?;
    if verified.is_ok() {
        return Ok(());
    }
    let message = format!("{} differences between database and tape", verified.differences_count);
    Err(Failure::new(Exit::BadData, message))
}

fn print(verified: &Verified, output: Output) -> io::Result<()> {
    let days = verified.days.iter().map(|(date, day)| day_row(&date.to_string(), day));
    let mut out = io::stdout().lock();
    if let Output::Json = output {
        let mut members = Row::new();
        members.insert("ok".to_owned(), verified.is_ok().into());
        members.insert("lines".to_owned(), verified.lines.into());
        members.insert("days".to_owned(), days.map(Value::from).collect());
        members.insert("differences_count".to_owned(), verified.differences_count.into());
        members.insert("differences".to_owned(), verified.differences.clone().into());
        return writeln!(out, "{}", document(members));
    }
    let mut printer = Printer::new(&mut out, output, "days", DAY_COLUMNS);
    for day in days {
        printer.row(&day)?;
    }
    printer.finish()?;
    // Standard output is data only, but for people the differences are the data.
    if let Output::Table = output {
        for difference in &verified.differences {
            writeln!(out, "{difference}")?;
        }
        let result = if verified.is_ok() { "database and tape agree" } else { "they do not agree" };
        writeln!(out, "{} lines on the tape: {result}", verified.lines)?;
    } else {
        for difference in &verified.differences {
            eprintln!("{difference}");
        }
    }
    Ok(())
}

fn day_row(date: &str, day: &Day) -> Row {
    let Day { database, tape } = day;
    let row = json!({
        "business_date": date,
        "database_count": database.count,
        "database_centavos": database.centavos,
        "database_pesos": Centavos(database.centavos).to_string(),
        "tape_count": tape.count,
        "tape_centavos": tape.centavos,
        "tape_pesos": Centavos(tape.centavos).to_string(),
        "currency": "PHP",
        "agree": database == tape,
    });
    row.as_object().cloned().unwrap_or_default()
}

/// `tilld rebuild`
pub fn rebuild(config: &Config, despite_damage: bool) -> Result<(), Failure> {
    must_own(&config.state_dir)?;
    let rebuilt = rebuilding::rebuild(&config.state_dir, config.mode, despite_damage)?;
    for path in &rebuilt.moved_aside {
        println!("moved aside: {}", path.display());
    }
    println!("a new database with {} collections is in place", rebuilt.collections);
    if rebuilt.damage.is_empty() {
        return Ok(());
    }
    let message = format!("not taken over:\n  {}", rebuilt.damage.join("\n  "));
    Err(Failure::new(Exit::BadData, message))
}

/// What another user made here, the daemon could not write.
fn must_own(state_dir: &Path) -> Result<(), Failure> {
    let owner = std::fs::metadata(state_dir)?.uid();
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let message = format!(
        "{} belongs to the user with the id {owner}: use `sudo -u '#{owner}' tilld rebuild`",
        state_dir.display()
    );
    Err(Failure::new(Exit::Permission, message))
}
