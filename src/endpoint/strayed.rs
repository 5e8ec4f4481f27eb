//! Configured callers that were answered -1001: a key or a password was replaced here before the
//! till got the new one, or somebody knows a user name. Counts; decides nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::collection::UserName;
use crate::domain::time::AcceptedAt;

/// What was counted of one caller since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strayed {
    /// How often.
    pub count: u64,
    /// When last.
    pub last_at: AcceptedAt,
}

/// Counts by caller: never more of them than were ever configured, whoever knocks.
#[derive(Default)]
pub struct StrayedCallers(Mutex<BTreeMap<UserName, Strayed>>);

impl StrayedCallers {
    /// Everyone of whom something was counted.
    pub fn all(&self) -> BTreeMap<UserName, Strayed> {
        self.counts().clone()
    }

    /// A request in the name of a configured caller was answered -1001.
    pub(super) fn count(&self, caller: &UserName, now: AcceptedAt) {
        let mut counts = self.counts();
        let first = Strayed { count: 0, last_at: now };
        let strayed = counts.entry(caller.clone()).or_insert(first);
        *strayed = Strayed { count: strayed.count + 1, last_at: now };
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<UserName, Strayed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
