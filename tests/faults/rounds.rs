//! How often a fault is brought about: as often as fits beside the other tests, or, in a torture,
//! as often as its share of the time allows. Knows nothing of the faults.

use std::time::{Duration, Instant};

use tilld::system::clock;

/// Set by `tests/torture`: the seconds that each kind of fault has.
const SECONDS: &str = "TILLD_TORTURE_SECONDS";

/// Whether there is more time than beside the other tests.
pub fn is_torture() -> bool {
    std::env::var_os(SECONDS).is_some()
}

/// Counts the rounds of one kind of fault; says at the end how many there were.
pub struct Rounds {
    name: &'static str,
    count: usize,
    done: usize,
    deadline: Option<Instant>,
}

impl Rounds {
    /// `short` rounds, or `long` ones in a torture that has the time for them.
    pub fn of(name: &'static str, short: usize, long: usize) -> Rounds {
        let seconds = std::env::var(SECONDS).ok();
        let time = seconds.map(|text| Duration::from_secs(text.parse().expect("seconds")));
        let count = if time.is_some() { long } else { short };
        let deadline = time.map(|time| clock::monotonic() + time);
        Rounds { name, count, done: 0, deadline }
    }
}

impl Iterator for Rounds {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let is_late = self.deadline.is_some_and(|deadline| clock::monotonic() >= deadline);
        if self.done == self.count || is_late {
            println!("{}: {} of {} rounds", self.name, self.done, self.count);
            return None;
        }
        self.done += 1;
        Some(self.done - 1)
    }
}
