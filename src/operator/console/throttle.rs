//! Slows down whoever guesses passwords: so many wrong ones of an address and of a name are free,
//! then tries come back one by one. A right password costs no try.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong passwords of an address, or for a name, that are not slowed down.
const FREE_TRIES_MAX: u32 = 10;

/// One more try comes back after this time.
const TRY_INTERVAL: Duration = Duration::from_secs(30);

/// Addresses and names that are remembered; beyond it the one that has been quiet longest is
/// forgotten.
const REMEMBERED_MAX: usize = 2048;

/// So much of a name is remembered: nobody's is longer.
const NAME_CHARS_MAX: usize = 64;

/// Remembers the tries of late.
#[derive(Default)]
pub struct Throttle {
    /// Until when their tries are used up, one [`TRY_INTERVAL`] each.
    used_until: Mutex<HashMap<Guesser, Instant>>,
}

/// Of whom tries are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Guesser {
    /// An address; of IPv6 its network, all of which may be one guesser's.
    From([u8; 8]),
    /// A name, whether anybody has it or not.
    For(String),
}

impl Throttle {
    /// Takes a try before the password is looked at; the time to wait when there is none left.
    pub fn take(&self, address: IpAddr, name: &str, now: Instant) -> Result<(), Duration> {
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        let guessers = guessers(address, name);
        let all = TRY_INTERVAL * FREE_TRIES_MAX;
        let used = |guesser: &Guesser| {
            let until = used_until.get(guesser).copied().unwrap_or(now);
            until.saturating_duration_since(now)
        };
        // None is left as long as not a whole one is.
        let waits =
            guessers.iter().map(|guesser| (used(guesser) + TRY_INTERVAL).saturating_sub(all));
        if let Some(wait) = waits.max().filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        for guesser in guessers {
            make_room(&mut used_until, &guesser, now);
            let until = used_until.entry(guesser).or_insert(now);
            *until = (*until).max(now) + TRY_INTERVAL;
        }
        Ok(())
    }

    /// Gives the try of a right password back.
    pub fn give_back(&self, address: IpAddr, name: &str) {
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        for guesser in guessers(address, name) {
            if let Some(until) = used_until.get_mut(&guesser) {
                *until = until.checked_sub(TRY_INTERVAL).unwrap_or(*until);
            }
        }
    }
}

fn guessers(address: IpAddr, name: &str) -> [Guesser; 2] {
    let mut network = [0; 8];
    match address {
        IpAddr::V4(v4) => network[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => network.copy_from_slice(&v6.octets()[..8]),
    }
    // Longer names are nobody's, and one guesser's like any other.
    [Guesser::From(network), Guesser::For(name.chars().take(NAME_CHARS_MAX).collect())]
}

fn make_room(used_until: &mut HashMap<Guesser, Instant>, guesser: &Guesser, now: Instant) {
    if used_until.len() < REMEMBERED_MAX || used_until.contains_key(guesser) {
        return;
    }
    used_until.retain(|_, until| *until > now);
    let oldest = used_until.iter().min_by_key(|(_, until)| **until).map(|(g, _)| g.clone());
    if used_until.len() >= REMEMBERED_MAX
        && let Some(oldest) = oldest
    {
        used_until.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::clock;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 10, last])
    }

    #[test]
    fn ten_wrong_passwords_are_free_and_tries_come_back_one_by_one() {
        let throttle = Throttle::default();
        let start = clock::monotonic();
        for _ in 0..FREE_TRIES_MAX {
            assert_eq!(throttle.take(address(7), "ana", start), Ok(()));
        }
        assert_eq!(throttle.take(address(7), "ben", start), Err(TRY_INTERVAL), "this address");
        assert_eq!(throttle.take(address(8), "ana", start), Err(TRY_INTERVAL), "this name");
        assert_eq!(throttle.take(address(8), "ben", start), Ok(()));
        let later = start + TRY_INTERVAL;
        assert_eq!(throttle.take(address(7), "ana", later), Ok(()));
        assert_eq!(throttle.take(address(7), "ana", later), Err(TRY_INTERVAL));
    }

    #[test]
    fn a_right_password_costs_no_try() {
        let throttle = Throttle::default();
        let now = clock::monotonic();
        for _ in 0..100 {
            assert_eq!(throttle.take(address(7), "ana", now), Ok(()));
            throttle.give_back(address(7), "ana");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let throttle = Throttle::default();
        let now = clock::monotonic();
        for n in 0..10_000u32 {
            let _ = throttle.take(IpAddr::from(n.to_be_bytes()), &n.to_string(), now);
        }
        assert_eq!(throttle.used_until.lock().unwrap().len(), REMEMBERED_MAX);
    }
}
