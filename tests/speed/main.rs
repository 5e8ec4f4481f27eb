//! How fast tilld is, in one run on one machine: against an empty endpoint, against what is usually
//! written for the same, against the disk, and with what a branch has after years. A program, not a
//! test: a busy machine makes it slow, never wrong.
//!
//! `tests/bench` builds what this needs and runs it; it prints tables and writes
//! target/bench/figures.json. `--quick` measures little, `--only ab` the load on some endpoints and
//! nothing else, `--only drain` the way to head office and nothing else. Knows nothing of how the
//! daemon is made.

mod daemon;
mod drain;
mod empty;
mod fastify;
mod figures;
mod load;
mod rounds;
mod start;
mod stock;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use drain::Pair;
use figures::Figures;
use rounds::Plan;

/// What can go wrong here is told and ends it.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().collect();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let plan = if is_quick { rounds::QUICK } else { rounds::WHOLE };
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let target = target_directory()?;
    let place = target.join("bench");
    fs::create_dir_all(&place)?;
    let mut figures = Figures::of(&plan);
    match only.map(String::as_str) {
        Some("drain") => drains(&plan, &place, &mut figures)?,
        Some(endpoints) => rounds::run(&plan, endpoints, &place, &mut figures)?,
        None => {
            rounds::run(&plan, "abcde", &place, &mut figures)?;
            drains(&plan, &place, &mut figures)?;
            starts(&plan, &place, &mut figures)?;
            figures.add("binary, MB", megabytes(&daemon::binary()?)?);
            figures.add(".deb, MB", megabytes(&package(&target.join("debian"))?)?);
        }
    }
    figures.write(&place.join("figures.json"))?;
    print!("{figures}");
    Ok(())
}

/// The way to head office, without and with a stock that is delivered.
fn drains(plan: &Plan, place: &Path, figures: &mut Figures) -> Outcome<()> {
    eprintln!("drain of {}", plan.stocked_rows);
    let stock = stock::stocked(place, plan.stocked_rows)?;
    let place_of_stock = place.join("drain-of-stock");
    let (mut stocked, rate) = Pair::with_delivered(&place_of_stock, plan.stocked_rows, &stock)?;
    figures.add("drain of the stock, collections/s", rate);
    // In turn, since they are compared.
    for _ in 0..plan.drains {
        eprintln!("drain of {}, without and with stock", plan.backlog);
        let mut pair = Pair::new(&place.join("drain"))?;
        let drained = pair.measure(plan.backlog)?;
        pair.remove()?;
        figures.add(figures::DRAIN, drained.per_second);
        figures.add("a till's p50 during the drain, ms", 1e3 * drained.till_p50.as_secs_f64());
        figures.add(figures::TILL_P99, 1e3 * drained.till_p99.as_secs_f64());
        figures.add(figures::SINGLE, 1e3 * drained.single_p50.as_secs_f64());
        let drained = stocked.measure(plan.backlog)?;
        figures.add(figures::STOCKED_DRAIN, drained.per_second);
        figures.add(figures::STOCKED_TILL_P99, 1e3 * drained.till_p99.as_secs_f64());
        figures.add(figures::STOCKED_SINGLE, 1e3 * drained.single_p50.as_secs_f64());
    }
    Ok(stocked.remove()?)
}

/// The start of a daemon that has collections.
fn starts(plan: &Plan, place: &Path, figures: &mut Figures) -> Outcome<()> {
    eprintln!("starts with {} collections", plan.started_rows);
    let started = start::measure(&stock::stocked(place, plan.started_rows)?, plan.starts)?;
    for ready in started.ready {
        figures.add(figures::READY, 1e3 * ready.as_secs_f64());
    }
    figures.add("database and tape compared, s", started.checked.as_secs_f64());
    figures.add("tape, bytes a collection", each(started.tape_bytes, plan.started_rows));
    figures.add("database, bytes a collection", each(started.database_bytes, plan.started_rows));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people")]
fn each(bytes: u64, collections: u64) -> f64 {
    (bytes / collections) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a size in megabytes")]
fn megabytes(path: &Path) -> Outcome<f64> {
    Ok(fs::metadata(path)?.len() as f64 / 1e6)
}

/// Where cargo builds: this program lies in a directory of it.
fn target_directory() -> Outcome<PathBuf> {
    Ok(env::current_exe()?.ancestors().nth(2).ok_or("the target directory is nowhere")?.to_owned())
}

/// Copies a directory, without copying a block where the file system can.
pub fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let status = Command::new("cp").args(["-r", "--reflink=auto"]).arg(from).arg(to).status()?;
    if status.success() { Ok(()) } else { Err("the directory cannot be copied".into()) }
}

fn package(directory: &Path) -> Outcome<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    Err("there is no package: run packaging/build-deb".into())
}
