//! Days whose books are closed: what comes later for one of them stands in the next open day's.

use std::collections::BTreeSet;

use super::time::BusinessDate;

/// The closed days; they need not follow one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClosedDays(BTreeSet<BusinessDate>);

impl ClosedDays {
    /// Closes a day.
    pub fn close(&mut self, day: BusinessDate) {
        self.0.insert(day);
    }

    /// Whether a day is closed.
    pub fn has(&self, day: BusinessDate) -> bool {
        self.0.contains(&day)
    }

    /// This day when it is open, else the first open one behind it.
    pub fn open_from(&self, day: BusinessDate) -> BusinessDate {
        let days = std::iter::successors(Some(day), |day| day.following());
        // Days without end follow, of which finitely many are closed.
        days.into_iter().find(|day| !self.has(*day)).unwrap_or(day)
    }
}

impl FromIterator<BusinessDate> for ClosedDays {
    fn from_iter<T: IntoIterator<Item = BusinessDate>>(days: T) -> ClosedDays {
        ClosedDays(days.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_goes_to_the_next_open_day_over_months_and_gaps() {
        let day = |text| BusinessDate::parse(text).unwrap();
        let closed: ClosedDays =
            ["2028-02-28", "2028-02-29", "2028-03-02", "2027-12-31"].map(day).into_iter().collect();
        for (taken, open) in [
            ("2028-02-27", "2028-02-27"),
            ("2028-02-28", "2028-03-01"),
            ("2028-02-29", "2028-03-01"),
            ("2028-03-01", "2028-03-01"),
            ("2028-03-02", "2028-03-03"),
            ("2027-12-31", "2028-01-01"),
        ] {
            assert_eq!(closed.open_from(day(taken)), day(open), "{taken}");
        }
    }
}
