//! `tilld doctor`: looks at everything that a technician would, and says what to do about it. Works
//! with the daemon up or down, and with a configuration that cannot be read.
//!
//! It changes nothing, here or at head office, where it asks for nothing that is ever recorded as
//! a collection.

mod bundle;
mod doors;
mod office;
mod rights;
mod service;

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::progress::Progress;
use super::{check, status};
use crate::config::Config;
use crate::domain::contract::Mode;
use crate::operator::cli::Output;
use crate::operator::control::{self, Reply, Request};
use crate::operator::output::{Member, Printer, note, told, visible};
use crate::operator::snapshot::{Snapshot, counted};
use crate::operator::{Exit, Failure, may_read};
use crate::store::database_path;
use crate::store::takings::Days;
use crate::store::verify::{self, Manner};
use crate::system::limits;

/// `tilld doctor`
pub fn doctor(config: &Path, bundle: Option<&Path>, output: Output) -> Result<(), Failure> {
    let loaded = Config::load(config);
    let mut findings = Vec::new();
    let mut snapshot = None;
    match &loaded {
        Ok(loaded) => examine(loaded, &mut findings, &mut snapshot),
        Err(error) => {
            let what =
                format!("it cannot be used, so nothing that it names was looked at: {error}");
            findings.push(Finding::mend("configuration", what, "correct that; then look again"));
        }
    }
    service::examine(snapshot.as_ref(), &mut findings);
    print(BufWriter::new(io::stdout().lock()), &findings, output)?;
    if let Some(path) = bundle {
        bundle::write(path, config, loaded.as_ref().ok(), snapshot.as_ref(), &findings)?;
        note(format!(
            "{}: read it, then send it to support; it has no key, no password and no whole phone \
             number",
            path.display()
        ));
    }
    match findings.iter().filter(|finding| finding.result == Outcome::Mend).count() {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Degraded, "one thing is to be mended")),
        count => Err(Failure::new(Exit::Degraded, format!("{count} things are to be mended"))),
    }
}

/// What one look brought to light.
struct Finding {
    result: Outcome,
    /// What was looked at.
    check: &'static str,
    /// What is the case.
    what: String,
    /// What to do about it; empty when there is nothing to do.
    remedy: String,
}

/// Whether anything is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Ok,
    /// It could not be looked at, or there is nothing of the kind.
    Skipped,
    /// It is to be mended.
    Mend,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Skipped => "skipped",
            Outcome::Mend => "MEND",
        }
    }
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding { result: Outcome::Ok, check, what: what.into(), remedy: String::new() }
    }

    fn skipped(check: &'static str, why: impl Into<String>) -> Finding {
        Finding { result: Outcome::Skipped, check, what: why.into(), remedy: String::new() }
    }

    fn mend(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { result: Outcome::Mend, check, what: what.into(), remedy: remedy.into() }
    }

    /// Of something that went well, or that did not, perhaps only because this user may not look.
    fn of(check: &'static str, looked: Result<String, Failure>, remedy: &str) -> Finding {
        match looked {
            Ok(what) => Finding::ok(check, what),
            Err(failure) if failure.exit == Exit::Permission => {
                Finding::skipped(check, failure.message)
            }
            Err(failure) => Finding::mend(check, failure.message, remedy),
        }
    }
}

fn examine(config: &Config, findings: &mut Vec<Finding>, snapshot: &mut Option<Snapshot>) {
    let is_sandbox = config.mode == Mode::Sandbox;
    findings.push(Finding::of("configuration", configuration(config), "correct that"));
    rights::examine(config, findings);
    match control::ask(&config.operator.socket, &Request::Status) {
        Ok(Reply::Status { snapshot: told }) => {
            findings.push(daemon(&told));
            findings.extend(told.warnings.iter().map(|warning| {
                Finding::mend("warning", warning.what.as_str(), warning.remedy.as_str())
            }));
            *snapshot = Some(*told);
        }
        Ok(_) => findings.push(Finding::of("daemon", Err(control::unexpected()), "")),
        Err(failure) => findings.push(Finding::of("daemon", Err(failure), "")),
    }
    doors::examine(config, snapshot.is_some(), findings);
    match &config.upstream {
        None => findings.push(Finding::skipped("head office", "none is configured")),
        Some(_) if is_sandbox => {
            findings.push(Finding::skipped("head office", "a sandbox sends nothing"));
        }
        Some(upstream) => office::examine(upstream, findings),
    }
    findings.push(disk(config));
    findings.push(Finding::of(
        "database",
        witnesses(config),
        "`tilld verify` names the differences; call support before anything is deleted",
    ));
}

fn configuration(config: &Config) -> Result<String, Failure> {
    for caller in &config.callers {
        may_read(&caller.authentication_file)?;
        caller.encryption_file.as_deref().map_or(Ok(()), may_read)?;
    }
    if let Some(upstream) = &config.upstream {
        may_read(&upstream.authentication_file)?;
        upstream.encryption_file.as_deref().map_or(Ok(()), may_read)?;
    }
    check::examine(config)
}

fn daemon(snapshot: &Snapshot) -> Finding {
    let Snapshot { version, started_at, .. } = snapshot;
    let since = snapshot.clock_of(*started_at);
    if version == env!("CARGO_PKG_VERSION") {
        return Finding::ok("daemon", format!("version {version} runs since {since}"));
    }
    let ours = env!("CARGO_PKG_VERSION");
    let what = format!("version {version} runs since {since}, and {ours} is installed");
    Finding::mend(
        "daemon",
        what,
        "`sudo systemctl restart tilld`; no till is turned away meanwhile",
    )
}

fn disk(config: &Config) -> Finding {
    let Config { state_dir, disk_reserve, .. } = config;
    let free = match limits::free_bytes(state_dir) {
        Ok(free) => free,
        Err(error) => {
            let what = format!("state_dir {}: {error}", state_dir.display());
            return Finding::mend("disk", what, "correct `state_dir`, or install the package anew");
        }
    };
    let database = fs::metadata(database_path(state_dir)).map_or(0, |file| file.len());
    let what = format!(
        "{} free, {} in reserve; the database has {}",
        status::bytes(free),
        status::bytes(*disk_reserve),
        status::bytes(database)
    );
    if free < *disk_reserve {
        let remedy = "free some: below the reserve every new collection is answered -1009";
        return Finding::mend("disk", what, remedy);
    }
    if free - disk_reserve < 2 * database {
        let remedy = "free some: a backup wants twice the database";
        return Finding::mend("disk", what, remedy);
    }
    Finding::ok("disk", what)
}

fn witnesses(config: &Config) -> Result<String, Failure> {
    may_read(&config.state_dir)?;
    may_read(&database_path(&config.state_dir))?;
    let progress = Progress::begin();
    let verified =
        verify::verify(&config.state_dir, Days::default(), Manner::Insists, &mut |done, total| {
            progress.tell("of the tape", done, total);
        });
    progress.end();
    let verified = verified?;
    if verified.is_ok() {
        let lines = counted(verified.lines.cast_signed(), "line");
        return Ok(format!("it agrees with the tape, {lines}"));
    }
    let what = format!("{} differences between database and tape", verified.differences_count);
    Err(Failure::new(Exit::BadData, what))
}

/// What machines are told of a finding.
const FINDING: &[Member<Finding>] = &[
    ("check", |finding| finding.check.into()),
    ("result", |finding| finding.result.as_str().to_lowercase().into()),
    ("what", |finding| finding.what.as_str().into()),
    ("remedy", |finding| finding.remedy.as_str().into()),
];

fn print(mut out: impl Write, findings: &[Finding], output: Output) -> io::Result<()> {
    if let Output::Table = output {
        for line in findings.iter().map(in_words) {
            writeln!(out, "{line}")?;
        }
        return out.flush();
    }
    let mut printer = Printer::new(&mut out, output, "findings", &[]);
    for finding in findings {
        printer.row(told(FINDING, finding))?;
    }
    printer.finish([])?;
    out.flush()
}

/// A finding for people; a long one goes on below itself.
fn in_words(finding: &Finding) -> String {
    let Finding { result, check, what, remedy } = finding;
    let begin = format!("{:<8} {check:<14} ", result.as_str());
    let mut words = what.trim_end().lines().map(visible).collect::<Vec<_>>();
    words.extend(remedy.lines().map(|line| format!("→ {}", visible(line))));
    begin + &words.join(&format!("\n{:24}", ""))
}
