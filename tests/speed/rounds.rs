//! The rounds: every endpoint under every load, one after the other and all of it again, so that
//! whatever else the machine does hits all of them alike. Judges nothing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tilld::system::clock;

use crate::Outcome;
use crate::daemon::{Daemon, configure};
use crate::fastify::Fastify;
use crate::figures::{self, Figures};
use crate::load::{Load, Numbers, Target};
use crate::{copy, empty, stock};

/// How much is measured.
pub struct Plan {
    pub rounds: u64,
    /// How long each load lasts.
    pub seconds: u64,
    /// Collections in the stocked daemon.
    pub stocked_rows: u64,
    pub backlog: u64,
    pub drains: u64,
    /// Collections in the daemon that is started.
    pub started_rows: u64,
    pub starts: u64,
}

/// What README tells of.
pub const WHOLE: Plan = Plan {
    rounds: 5,
    seconds: 5,
    stocked_rows: 5_000_000,
    backlog: 100_000,
    drains: 3,
    started_rows: 1_000_000,
    starts: 9,
};

/// Enough to see that everything works.
pub const QUICK: Plan = Plan {
    rounds: 1,
    seconds: 2,
    stocked_rows: 100_000,
    backlog: 5_000,
    drains: 1,
    started_rows: 100_000,
    starts: 3,
};

/// The connections that wrk keeps open.
pub const CONNECTIONS: [u32; 3] = [1, 16, 64];

/// How many are made at a time when each is used once.
const TILLS: u32 = 16;

/// How long each load lasts that nothing is measured of.
const WARM_SECONDS: u64 = 2;

/// The one that is sent encrypted bodies.
const SEALED: char = 'd';

/// One write and its sync; as much as a page of the database.
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// What is synced in one round.
const SYNCS: u64 = 500;

/// Runs all rounds with the endpoints of these letters. What is needed again lies in `place`, all
/// else is removed.
pub fn run(plan: &Plan, only: &str, place: &Path, figures: &mut Figures) -> Outcome<()> {
    let run = place.join("run");
    if run.exists() {
        fs::remove_dir_all(&run)?;
    }
    fs::create_dir(&run)?;
    let empty = run.join("empty");
    fs::create_dir(&empty)?;
    let (_empty, port) = empty::start(&empty)?;
    let empty = Target { port, database: None };
    let stocked = only.contains('c').then(|| start_stocked(plan, place, &run)).transpose()?;
    // The stock has the numbers below.
    let mut numbers = Numbers { next: plan.stocked_rows + 1, directory: run.clone() };
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        let directory = run.join("round");
        let (mut json_daemon, json) = start(&directory.join("json"))?;
        json_daemon.wait_for("database and tape agree")?;
        figures.add(figures::MEMORY_AT_REST, megabytes(json_daemon.memory("VmRSS:")?));
        let (sealed_daemon, sealed) = start(&directory.join("sealed"))?;
        let fastify = only.contains('e').then(|| Fastify::start(place, &directory.join("fastify")));
        let fastify = fastify.transpose()?.flatten();
        let mut targets = vec![('a', &empty), ('b', &json), (SEALED, &sealed)];
        targets.extend(stocked.as_ref().map(|(_, target)| ('c', target)));
        targets.extend(fastify.as_ref().map(|fastify| ('e', &fastify.target)));
        targets.retain(|(name, _)| only.contains(*name));
        one_round(plan, &targets, &mut numbers, figures)?;
        figures.add(figures::MEMORY_AT_PEAK, megabytes(json_daemon.memory("VmHWM:")?));
        drop(fastify);
        json_daemon.stop()?;
        sealed_daemon.stop()?;
        fs::remove_dir_all(directory)?;
    }
    if let Some((daemon, _)) = stocked {
        figures.add(figures::MEMORY_STOCKED, megabytes(daemon.memory("VmHWM:")?));
        daemon.stop()?;
    }
    fs::remove_dir_all(run)?;
    Ok(())
}

/// A daemon on a copy of the stock.
fn start_stocked(plan: &Plan, place: &Path, run: &Path) -> Outcome<(Daemon, Target)> {
    eprintln!("a daemon with {} collections", plan.stocked_rows);
    let stock = stock::stocked(place, plan.stocked_rows)?;
    let place = run.join("stocked");
    copy(&stock, &place)?;
    start(&place)
}

/// Every endpoint under every load, once.
fn one_round(
    plan: &Plan,
    targets: &[(char, &Target)],
    numbers: &mut Numbers,
    figures: &mut Figures,
) -> Outcome<()> {
    let directory = numbers.directory.clone();
    let mut run = |name, target, connections, seconds, closes| {
        numbers.run(target, Load { connections, seconds, closes, is_sealed: name == SEALED })
    };
    // What is compiled, cached or grown at first use is so before anything counts.
    for (name, target) in targets {
        run(*name, target, TILLS, WARM_SECONDS, false)?;
    }
    for grows in [true, false] {
        let sync = sync_time(&directory.join("synced"), grows)?;
        figures.add(if grows { figures::SYNC } else { figures::SYNC_OVER }, sync);
    }
    for connections in CONNECTIONS {
        for (name, target) in targets {
            let run = run(*name, target, connections, plan.seconds, false)?;
            figures.add(&figures::rate(*name, connections), run.per_second);
            figures.add(&figures::p50(*name, connections), run.p50);
            figures.add(&figures::p99(*name, connections), run.p99);
        }
    }
    for (name, target) in targets.iter().filter(|(name, _)| *name != SEALED) {
        let run = run(*name, target, TILLS, plan.seconds, true)?;
        figures.add(&figures::handshakes(*name), run.per_second);
    }
    Ok(())
}

/// Starts a daemon that goes on comparing what it has in the background, as after any start.
fn start(directory: &Path) -> Outcome<(Daemon, Target)> {
    let mut daemon = Daemon::start(&configure(directory, "till-7", "")?)?;
    let port = daemon.port()?;
    Ok((daemon, Target { port, database: Some(directory.join("state/tilld.db")) }))
}

/// The disk's own time for a write of 4 KiB and its fdatasync, at the end of a file or over what is
/// there already: p50 in microseconds.
fn sync_time(path: &Path, grows: bool) -> Outcome<f64> {
    let file = File::create(path)?;
    file.write_all_at(&BLOCK, 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for number in 1..=SYNCS {
        let offset = if grows { number * BLOCK.len() as u64 } else { 0 };
        let started = clock::monotonic();
        file.write_all_at(&BLOCK, offset)?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(1e6 * times[times.len() / 2].as_secs_f64())
}

/// From KiB.
#[expect(clippy::cast_precision_loss, reason = "thousands of KiB")]
fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
