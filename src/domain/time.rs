//! The three times of a collection, which must not be mixed up: when the caller says the cash was
//! taken, when we accepted the confirmation, and the day in whose books it stands.

use std::fmt;

use chrono::{
    DateTime, Datelike as _, FixedOffset, NaiveDate, NaiveDateTime, SecondsFormat, TimeDelta, Utc,
    Weekday,
};

use super::Invalid;

/// GMT+8, the only offset of the Philippines and of every time on the wire (all seeds).
pub const MANILA: FixedOffset = match FixedOffset::east_opt(8 * 3600) {
    Some(offset) => offset,
    None => unreachable!(),
};

/// The caller's claim of when the cash was taken, in Philippine time, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectedAt(NaiveDateTime);

impl CollectedAt {
    /// Parses exactly `yyyy-MM-dd HH:mm:ss`, a real instant.
    pub fn parse(text: &str) -> Result<CollectedAt, Invalid> {
        let invalid = Invalid { expected: "a real time as yyyy-MM-dd HH:mm:ss" };
        let separator = |i| match i {
            4 | 7 => Some(b'-'),
            10 => Some(b' '),
            13 | 16 => Some(b':'),
            _ => None,
        };
        let in_form = text.len() == 19
            && text.bytes().enumerate().all(|(i, b)| match separator(i) {
                Some(expected) => b == expected,
                None => b.is_ascii_digit(),
            });
        if !in_form {
            return Err(invalid);
        }
        let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().unwrap_or(u32::MAX);
        let year = i32::try_from(number(0..4)).unwrap_or(i32::MAX);
        NaiveDate::from_ymd_opt(year, number(5..7), number(8..10))
            .and_then(|date| date.and_hms_opt(number(11..13), number(14..16), number(17..19)))
            .map(CollectedAt)
            .ok_or(invalid)
    }

    /// How far the claim lies ahead of our clock; negative when it lies back.
    pub fn ahead_of(self, accepted: AcceptedAt) -> TimeDelta {
        self.0 - accepted.0.naive_local()
    }

    /// The claim with its offset, as machines read it.
    pub fn to_rfc3339(self) -> String {
        self.0.format("%Y-%m-%dT%H:%M:%S+08:00").to_string()
    }

    /// The claimed date.
    pub fn date(self) -> BusinessDate {
        BusinessDate(self.0.date())
    }
}

impl fmt::Display for CollectedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When we accepted a confirmation by our own clock, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AcceptedAt(DateTime<FixedOffset>);

impl AcceptedAt {
    /// Takes a reading of the clock; what is finer than a millisecond is cut off.
    pub fn new(now: DateTime<Utc>) -> AcceptedAt {
        let cut = DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now);
        AcceptedAt(cut.with_timezone(&MANILA))
    }

    /// Takes back what [`AcceptedAt::unix_ms`] gave.
    pub fn from_unix_ms(ms: i64) -> Result<AcceptedAt, Invalid> {
        DateTime::from_timestamp_millis(ms)
            .map(Self::new)
            .ok_or(Invalid { expected: "milliseconds since 1970 within the calendar" })
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn unix_ms(self) -> i64 {
        self.0.timestamp_millis()
    }

    /// The date in the Philippines.
    pub fn date(self) -> BusinessDate {
        BusinessDate(self.0.date_naive())
    }

    /// Takes back what [`AcceptedAt::wall_clock`] gave.
    pub fn from_wall_clock(text: &str) -> Result<AcceptedAt, Invalid> {
        let CollectedAt(there) = CollectedAt::parse(text)?;
        Ok(AcceptedAt::new((there - MANILA).and_utc()))
    }

    /// Date and time in the Philippines to the second, in the form of the wire.
    pub fn wall_clock(self) -> String {
        self.0.format("%Y-%m-%d %H:%M:%S").to_string()
    }
}

/// RFC 3339 with +08:00 and milliseconds.
impl fmt::Display for AcceptedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, false))
    }
}

/// The day in whose books a collection stands, fixed when it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusinessDate(NaiveDate);

impl BusinessDate {
    /// Parses `yyyy-MM-dd`.
    pub fn parse(text: &str) -> Result<BusinessDate, Invalid> {
        CollectedAt::parse(&format!("{text} 00:00:00"))
            .map(CollectedAt::date)
            .map_err(|_| Invalid { expected: "a date as yyyy-MM-dd" })
    }

    /// The day after; none at the end of the calendar.
    pub fn following(self) -> Option<BusinessDate> {
        self.0.succ_opt().map(BusinessDate)
    }

    /// The day before; none at the beginning of the calendar.
    pub fn preceding(self) -> Option<BusinessDate> {
        self.0.pred_opt().map(BusinessDate)
    }

    /// The same weekday of the week before.
    #[must_use]
    pub fn week_before(self) -> BusinessDate {
        BusinessDate(self.0 - TimeDelta::weeks(1))
    }

    /// Which day of the week it is.
    pub fn weekday(self) -> Weekday {
        self.0.weekday()
    }
}

impl fmt::Display for BusinessDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_instants_in_the_published_form_are_taken() {
        for text in ["2018-06-18 17:52:10", "2024-02-29 00:00:00", "2025-12-31 23:59:59"] {
            assert_eq!(CollectedAt::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "2025-02-30 10:00:00",
            "2025-01-01 24:00:00",
            "2025-01-01 23:59:60",
            "2025-1-1 10:00:00",
            "2025-01-01T10:00:00",
            "2025-01-01 10:00:00 ",
            "2025-01-01 10:00",
            "2025-13-01 10:00:00",
            "2025-00-10 10:00:00",
            "２025-01-01 10:00:0",
            "-025-01-01 10:00:00",
            "",
        ] {
            assert!(CollectedAt::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight_in_manila() {
        let at = AcceptedAt::from_unix_ms(1_735_660_800_000).unwrap(); // 2024-12-31T16:00:00Z
        assert_eq!(at.to_string(), "2025-01-01T00:00:00.000+08:00");
        assert_eq!(at.date().to_string(), "2025-01-01");
        assert_eq!(AcceptedAt::from_wall_clock(&at.wall_clock()), Ok(at));
    }
}
