//! Slows down whoever guesses keys, without ever locking out a right one: only answers to wrong
//! keys are held back, after the comparison.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong keys that an address may send at once without being slowed down: a till whose key was
/// just rotated.
const FREE_TRIES_MAX: u32 = 10;

/// One more free try comes back after this time.
const FREE_TRY_INTERVAL: Duration = Duration::from_secs(6);

/// How long an answer to a wrong key is held back beyond the free tries.
const DELAY: Duration = Duration::from_secs(2);

/// Addresses remembered; beyond it the one that has been quiet longest is forgotten.
const ADDRESSES_MAX: usize = 4096;

/// Remembers which addresses sent wrong keys lately.
#[derive(Default)]
pub struct Throttle {
    /// By address: until when its tries are used up, one [`FREE_TRY_INTERVAL`] each.
    used_until: Mutex<HashMap<IpAddr, Instant>>,
}

impl Throttle {
    /// Notes a wrong key; the time for which the answer is to be held back.
    pub fn wrong_key(&self, address: IpAddr, now: Instant) -> Duration {
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        if used_until.len() >= ADDRESSES_MAX && !used_until.contains_key(&address) {
            used_until.retain(|_, until| *until > now);
            let oldest = used_until.iter().min_by_key(|(_, until)| **until).map(|(a, _)| *a);
            if used_until.len() >= ADDRESSES_MAX
                && let Some(oldest) = oldest
            {
                used_until.remove(&oldest);
            }
        }
        let until = used_until.entry(address).or_insert(now);
        let used = until.saturating_duration_since(now);
        if used >= FREE_TRY_INTERVAL * FREE_TRIES_MAX {
            return DELAY;
        }
        *until = now + used + FREE_TRY_INTERVAL;
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::clock;

    #[test]
    fn ten_wrong_keys_are_free_and_come_back_one_by_one() {
        let throttle = Throttle::default();
        let guesser = IpAddr::from([192, 168, 10, 7]);
        let start = clock::monotonic();
        for _ in 0..FREE_TRIES_MAX {
            assert_eq!(throttle.wrong_key(guesser, start), Duration::ZERO);
        }
        assert_eq!(throttle.wrong_key(guesser, start), DELAY);
        let later = start + FREE_TRY_INTERVAL;
        assert_eq!(throttle.wrong_key(guesser, later), Duration::ZERO);
        assert_eq!(throttle.wrong_key(guesser, later), DELAY);
        assert_eq!(throttle.wrong_key(IpAddr::from([192, 168, 10, 8]), later), Duration::ZERO);
    }

    #[test]
    fn the_memory_of_addresses_is_bounded() {
        let throttle = Throttle::default();
        let now = clock::monotonic();
        for n in 0..20_000u32 {
            throttle.wrong_key(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(throttle.used_until.lock().unwrap().len(), ADDRESSES_MAX);
    }
}
