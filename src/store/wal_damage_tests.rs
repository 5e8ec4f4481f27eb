//! The WAL that a killed daemon left is cut or has a flipped byte, at one place after the other:
//! what was given a receipt is there after the next start, and `verify` finds nothing.
//!
//! Without a daemon around the store, so that all places can be tried in minutes; the daemon itself
//! is tried at some of them by the tests of its promises.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tempfile::TempDir;

use super::model_tests::{confirmation, copy, provenance, start, stop};
use super::takings::Days;
use super::verify::{Manner, verify};
use super::{Recorded, Store, schema, wal_path};
use crate::domain::contract::ContractPolicy;
use crate::domain::decision::Rule;
use crate::system::entropy;

/// Collections that were given a receipt, and those before a clean stop among them.
const COLLECTIONS: u16 = 2000;
const MARKED: u16 = 500;

/// What they all come to, in centavos: the first one, two for the second.
const ALL: i64 = COLLECTIONS as i64 * (COLLECTIONS as i64 + 1) / 2;

/// So many are confirmed at the same time.
const TOGETHER: usize = 100;

/// A byte of so many is flipped.
const FLIP_STEP: usize = 97;

/// One place of so many is tried, from a random one on, unless `TILLD_TORTURE` is set. A build with
/// checks takes seconds for each.
const SAMPLE: usize = if cfg!(debug_assertions) { 2000 } else { 100 };

/// Of SQLite's file format: what stands before the first frame, and a frame.
const WAL_HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

/// What is done to the WAL.
#[derive(Clone, Copy, Debug)]
enum Harm {
    CutAt(usize),
    FlipAt(usize),
}

/// What a start came to.
struct Started {
    /// Rows that only the tape had.
    completed: usize,
    /// What is not as it should be.
    wrong: Option<String>,
}

/// What a killed daemon left: its files, and its WAL.
struct Left {
    directory: TempDir,
    wal: Vec<u8>,
}

fn record(store: &Store, numbers: std::ops::Range<u16>) {
    let numbers: Vec<u16> = numbers.collect();
    for together in numbers.chunks(TOGETHER) {
        let rule = Rule::Policy(ContractPolicy::Installments);
        let confirm = |number: &u16| {
            let [contract, receipt] = number.to_be_bytes();
            let confirmation = confirmation((contract, receipt), 1 + i64::from(*number));
            store.record(confirmation, provenance(), rule).expect("a place in the queue")
        };
        for answer in together.iter().map(confirm).collect::<Vec<_>>() {
            let recorded = answer.blocking_recv().expect("an answer");
            assert!(matches!(recorded, Ok(Recorded::New(_))), "{recorded:?}");
        }
    }
}

fn killed() -> Left {
    let state_dir = TempDir::new().expect("a temporary directory");
    let (store, writing) = start(state_dir.path());
    record(&store, 0..MARKED);
    stop(Some((store, writing)));
    let (store, writing) = start(state_dir.path());
    // Who reads an old state keeps the WAL from being moved, so that every byte of it matters.
    let reader = schema::open_for_reading(state_dir.path()).expect("a readable database");
    reader.execute_batch("BEGIN; SELECT count(*) FROM store").expect("a read state");
    record(&store, MARKED..COLLECTIONS);
    let directory = copy(state_dir.path());
    drop(reader);
    stop(Some((store, writing)));
    let wal = fs::read(wal_path(directory.path())).expect("a WAL");
    let left = Left { directory, wal };
    let lost = left.start_after(Harm::CutAt(0)).completed;
    assert_eq!(lost, usize::from(COLLECTIONS - MARKED), "rows that the WAL alone has");
    left
}

impl Left {
    /// Starts with a WAL that was harmed.
    fn start_after(&self, harm: Harm) -> Started {
        let state_dir = copy(self.directory.path());
        let mut wal = self.wal.clone();
        match harm {
            Harm::CutAt(at) => wal.truncate(at),
            Harm::FlipAt(at) => wal[at] ^= 1 << (at / FLIP_STEP % 8),
        }
        fs::write(wal_path(state_dir.path()), wal).expect("a harmed WAL");
        let (store, writing) = start(state_dir.path());
        let completed = store.health().recovered().rows;
        stop(Some((store, writing)));
        let wrong = match verify(state_dir.path(), Days::default(), Manner::Insists, &mut |_, _| {})
        {
            Ok(verified) => {
                let days = verified.days.values();
                let (rows, lines) = days.fold((0, 0), |(rows, lines), day| {
                    (rows + day.database.centavos, lines + day.tape.centavos)
                });
                let is_whole = verified.differences.is_empty() && (rows, lines) == (ALL, ALL);
                (!is_whole).then(|| format!("{harm:?}: {verified:?}"))
            }
            Err(error) => Some(format!("{harm:?}: {error}")),
        };
        Started { completed, wrong }
    }

    /// Harms it in each of these ways, or in some of them, by all processors.
    fn assert_stands(&self, harms: &[Harm]) {
        let [first] = entropy::bytes::<1>().expect("chance").map(usize::from);
        let (first, step) = match std::env::var_os("TILLD_TORTURE") {
            Some(_) => (0, 1),
            None => (first % SAMPLE.min(harms.len()), SAMPLE),
        };
        let tried: Vec<Harm> = harms.iter().copied().skip(first).step_by(step).collect();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(harm) = tried.get(next.fetch_add(1, Ordering::Relaxed)) {
                        assert_eq!(self.start_after(*harm).wrong, None);
                    }
                });
            }
        });
    }
}

#[test]
fn a_wal_with_any_byte_flipped_takes_nothing_with_it() {
    let left = killed();
    let places = (0..left.wal.len()).step_by(FLIP_STEP);
    left.assert_stands(&places.map(Harm::FlipAt).collect::<Vec<_>>());
}

#[test]
fn a_wal_cut_at_any_frame_or_within_takes_nothing_with_it() {
    let left = killed();
    let ends = (WAL_HEADER..=left.wal.len()).step_by(FRAME);
    // Within the frame's header, and within its page, at another place in each.
    let within = |end: usize| [end, end + 1 + end % 23, end + 25 + end % 4090];
    let cuts = ends.flat_map(within).filter(|cut| *cut <= left.wal.len());
    let harms: Vec<Harm> = (0..=WAL_HEADER).chain(cuts).map(Harm::CutAt).collect();
    left.assert_stands(&harms);
}
