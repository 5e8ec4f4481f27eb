//! Keeps strangers from filling the log: of each kind of line that anybody on the network can cause
//! so many are written, and the others counted.
//!
//! Journald would limit too, but all lines of a unit alike, and each collection must have its line.
//! Lines about callers whose key was right are not limited. Remembers no address.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use super::clock;

/// Lines of a kind that are written at once: a branch whose tills all lost their key.
const LINES_FREE_MAX: u32 = 20;

/// One more line may be written after this time, which comes to some 10 MB a day.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A rush is over when nothing was suppressed for this time.
const QUIET_TIME: Duration = Duration::from_secs(60);

/// A rush that does not end is told of this often.
const RUSH_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// Wrong keys and passwords, and callers that are not known.
pub static WRONG_KEYS: Kind =
    Kind::new(Level::Warn, "wrong-keys", "wrong keys and unknown callers");
/// Connections that failed before they were accepted.
pub static NOT_ACCEPTED: Kind =
    Kind::new(Level::Debug, "not-accepted", "connections that were not accepted");
/// Times when the machine had no room for another connection.
pub static NO_ROOM: Kind = Kind::new(Level::Warn, "no-room", "times without room for a connection");
/// Connections that do not speak TLS.
pub static NOT_TLS: Kind = Kind::new(Level::Debug, "not-tls", "connections without TLS");
/// TLS handshakes that failed.
pub static HANDSHAKES: Kind = Kind::new(Level::Debug, "handshakes", "handshakes that failed");
/// Connections that broke.
pub static BROKEN: Kind = Kind::new(Level::Debug, "broken", "connections that broke");
/// Connections closed to make room.
pub static MADE_ROOM: Kind =
    Kind::new(Level::Debug, "made-room", "connections closed because others want in");
/// Connections closed because they took too long.
pub static TOO_LONG: Kind = Kind::new(Level::Debug, "too-long", "connections that took too long");

/// All kinds.
pub static KINDS: [&Kind; 8] =
    [&WRONG_KEYS, &NOT_ACCEPTED, &NO_ROOM, &NOT_TLS, &HANDSHAKES, &BROKEN, &MADE_ROOM, &TOO_LONG];

/// A kind of line that strangers can cause.
pub struct Kind {
    level: Level,
    name: &'static str,
    what: &'static str,
    bucket: Mutex<Bucket>,
    suppressed: AtomicU64,
}

/// What was written and suppressed of a kind lately.
struct Bucket {
    /// Until when its lines are used up, one [`LINE_INTERVAL`] each.
    used_until: Option<Instant>,
    rush: Option<Rush>,
}

/// Suppressed lines that nobody was told of yet.
struct Rush {
    lines: u64,
    began: Instant,
    last: Instant,
}

impl Kind {
    pub(super) const fn new(level: Level, name: &'static str, what: &'static str) -> Kind {
        let bucket = Mutex::new(Bucket { used_until: None, rush: None });
        Kind { level, name, what, bucket, suppressed: AtomicU64::new(0) }
    }

    /// Whether a line of this kind is to be logged now; if not, it is counted.
    pub fn admits_line(&self) -> bool {
        self.is_logged() && self.admits_line_at(clock::monotonic())
    }

    /// Counts a line that is not written for a reason of its writer's.
    pub fn suppress(&self) {
        if self.is_logged() {
            self.suppress_at(&mut self.bucket(), clock::monotonic());
        }
    }

    /// How many lines were suppressed since the start.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    /// Its word for machines.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The level of its lines.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// What its lines are about.
    pub(super) fn what(&self) -> &'static str {
        self.what
    }

    /// How many lines a rush suppressed that is over, or that lasts and is due; tells it once.
    pub(super) fn rush_over(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.bucket();
        let over = bucket.rush.take_if(|rush| {
            now.saturating_duration_since(rush.last) >= QUIET_TIME
                || now.saturating_duration_since(rush.began) >= RUSH_TIME_MAX
        });
        over.map(|rush| rush.lines)
    }

    /// The same, whether it is over or not: the last chance to tell.
    pub(super) fn end_rush(&self) -> Option<u64> {
        self.bucket().rush.take().map(|rush| rush.lines)
    }

    pub(super) fn admits_line_at(&self, now: Instant) -> bool {
        let mut bucket = self.bucket();
        let until = bucket.used_until.unwrap_or(now);
        let used = until.saturating_duration_since(now);
        if used > LINE_INTERVAL * (LINES_FREE_MAX - 1) {
            self.suppress_at(&mut bucket, now);
            return false;
        }
        bucket.used_until = Some(now + used + LINE_INTERVAL);
        true
    }

    fn suppress_at(&self, bucket: &mut Bucket, now: Instant) {
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        let rush = bucket.rush.get_or_insert(Rush { lines: 0, began: now, last: now });
        rush.lines += 1;
        rush.last = now;
    }

    /// A line that nobody would see is not suppressed.
    fn is_logged(&self) -> bool {
        self.level <= log::max_level()
    }

    /// Nothing that holds this lock stops half-way, so poison means nothing.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Kind {
        Kind::new(Level::Warn, "strangers", "strangers")
    }

    /// How many of so many lines at this moment are written.
    fn admitted(kind: &Kind, lines: usize, now: Instant) -> usize {
        (0..lines).filter(|_| kind.admits_line_at(now)).count()
    }

    #[test]
    fn so_many_lines_are_written_at_once_and_come_back_one_by_one() {
        let (kind, now) = (kind(), clock::monotonic());
        assert_eq!(admitted(&kind, 1000, now), 20);
        assert_eq!(admitted(&kind, 1000, now + LINE_INTERVAL), 1);
        assert_eq!(admitted(&kind, 1000, now + LINE_INTERVAL * 4), 3);
        assert_eq!(admitted(&kind, 1000, now + LINE_INTERVAL * 1000), 20);
        assert_eq!(kind.suppressed(), 4000 - 44);
    }

    #[test]
    fn what_was_suppressed_is_told_once_when_the_rush_is_over() {
        let (kind, now) = (kind(), clock::monotonic());
        admitted(&kind, 50, now);
        let last = now + Duration::from_secs(1);
        admitted(&kind, 50, last);
        assert_eq!(kind.rush_over(now + QUIET_TIME), None, "it was quiet for 59 s only");
        assert_eq!(kind.rush_over(last + QUIET_TIME), Some(80));
        assert_eq!(kind.rush_over(last + QUIET_TIME * 2), None);
        assert_eq!(kind.suppressed(), 80);
    }

    #[test]
    fn a_rush_without_an_end_is_told_every_hour() {
        let (kind, start) = (kind(), clock::monotonic());
        let told: Vec<u64> = (0..2 * 60 * 60)
            .filter_map(|second| {
                let now = start + Duration::from_secs(second);
                admitted(&kind, 2, now);
                kind.rush_over(now)
            })
            .collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0] + kind.end_rush().unwrap(), kind.suppressed());
        assert_eq!(kind.end_rush(), None);
    }

    #[test]
    fn a_quiet_kind_has_nothing_to_tell() {
        let (kind, now) = (kind(), clock::monotonic());
        assert_eq!(admitted(&kind, 20, now), 20);
        assert_eq!((kind.rush_over(now + RUSH_TIME_MAX), kind.end_rush()), (None, None));
    }
}
