//! The only place where clocks are read.

use chrono::{DateTime, Utc};

/// The wall clock: may be wrong, may jump; fit for stamping, never for waiting.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// The monotonic clock: fit for waiting and measuring, means nothing to a person.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads this clock")]
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}
