//! What is counted while it happens: plain numbers of this process, read by whoever shows them.
//!
//! To count costs a few relaxed additions: no lock, no allocation, no order. So numbers that are
//! read together may be a request apart. Knows nothing of what is counted but its names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Requests by the code that they were answered with.
pub static REPLIES: Counts<i32, 11> =
    Counts::of([1000, -1001, -1009, -1015, -1026, 2001, 2002, 2003, 2004, 2005, 2006]);
/// Requests that were answered in HTTP alone, by the status.
pub static HTTP_ANSWERS: Counts<u16, 7> = Counts::of([400, 404, 405, 408, 413, 415, 503]);
/// From a request that is read to its reply, for callers that were let in.
pub static REQUEST_TIME: Times = Times::new();
/// Answers to wrong keys that were held back, because too many came from one address.
pub static SLOWED: Counter = Counter::new();
/// Commits of the database, with their sync.
pub static COMMIT_TIME: Times = Times::new();
/// Writes to the tape, with their sync.
pub static TAPE_TIME: Times = Times::new();
/// Commands that were queued for the writer.
pub static COMMANDS_QUEUED: Counter = Counter::new();
/// Commands that the writer took out of its queue, or that found no room there.
pub static COMMANDS_TAKEN: Counter = Counter::new();
/// Tries to deliver a collection, by the word of their verdict.
pub static TRIES: Counts<&str, 6> =
    Counts::of(["delivered", "settled", "refused", "unreachable", "unknown", "misconfigured"]);
/// Log lines that the log did not take.
pub static LINES_DROPPED: Counter = Counter::new();
/// How often systemd's watchdog was fed.
pub static WATCHDOG_PINGS: Counter = Counter::new();

/// Up to which time each of the first counts of [`Times`] goes, in microseconds: from a fast disk's
/// sync to what a till waits for at most.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 15_000_000,
];

/// Counts what happens.
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// It has happened once more.
    pub fn count(&self) {
        self.add(1);
    }

    /// It has happened so many times more.
    pub fn add(&self, times: u64) {
        self.0.fetch_add(times, Ordering::Relaxed);
    }

    /// How often it has happened since the start.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts what happens by what it is: one of a few kinds that are known beforehand, or another.
pub struct Counts<K, const N: usize> {
    kinds: [K; N],
    counters: [Counter; N],
    others: Counter,
}

impl<K: Copy + PartialEq, const N: usize> Counts<K, N> {
    const fn of(kinds: [K; N]) -> Counts<K, N> {
        Counts { kinds, counters: [const { Counter::new() }; N], others: Counter::new() }
    }

    /// It has happened once more.
    pub fn count(&self, kind: K) {
        let place = self.kinds.iter().position(|known| *known == kind);
        place.map_or(&self.others, |place| &self.counters[place]).count();
    }

    /// How often each kind has happened since the start; the last one is all others.
    pub fn all(&self) -> impl Iterator<Item = (Option<K>, u64)> {
        let known = self.kinds.iter().map(|kind| Some(*kind));
        let counters = self.counters.iter().chain([&self.others]);
        known.chain([None]).zip(counters.map(Counter::get))
    }
}

/// Counts how long something takes.
pub struct Times {
    counts: [Counter; BOUNDS_US.len() + 1],
    sum_ns: Counter,
}

/// What was counted of [`Times`].
pub struct Spread {
    /// By the longest time that is counted there: how many took no longer than that, and longer
    /// than the one before. Nothing is any time.
    pub counts: Vec<(Option<Duration>, u64)>,
    /// How long all of them took together.
    pub sum: Duration,
}

impl Times {
    const fn new() -> Times {
        Times { counts: [const { Counter::new() }; BOUNDS_US.len() + 1], sum_ns: Counter::new() }
    }

    /// It took so long once more.
    pub fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        self.counts[BOUNDS_US.partition_point(|bound| *bound < us)].count();
        self.sum_ns.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was counted since the start.
    pub fn spread(&self) -> Spread {
        let bounds = BOUNDS_US.iter().map(|us| Some(Duration::from_micros(*us))).chain([None]);
        Spread {
            counts: bounds.zip(self.counts.iter().map(Counter::get)).collect(),
            sum: Duration::from_nanos(self.sum_ns.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_beforehand_is_counted_as_another() {
        let counts = Counts::of([200, 404]);
        for kind in [404, 200, 418, 404, 500] {
            counts.count(kind);
        }
        let all: Vec<_> = counts.all().collect();
        assert_eq!(all, [(Some(200), 1), (Some(404), 2), (None, 2)]);
    }

    #[test]
    fn a_time_is_counted_up_to_the_bound_that_it_does_not_pass() {
        let times = Times::new();
        let us = Duration::from_micros;
        for took in [Duration::ZERO, us(100), Duration::from_nanos(100_001), us(250), us(1001)] {
            times.note(took);
        }
        times.note(Duration::from_secs(3600));
        let Spread { counts, sum } = times.spread();
        let counted: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        let up_to = |bound| Some(us(bound));
        let expected = [(up_to(100), 2), (up_to(250), 2), (up_to(2500), 1), (None, 1)];
        assert_eq!(counted, expected);
        assert_eq!(sum, Duration::from_nanos(1_451_001) + Duration::from_secs(3600));
    }
}
