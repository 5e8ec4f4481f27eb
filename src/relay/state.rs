//! What the relay tells of itself, and what it can be asked for. Everything else is in the outbox.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::domain::time::AcceptedAt;

/// How the link to head office stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The last try got through, or nothing was tried yet.
    Up,
    /// No try gets through; the next probe waits for its time.
    Down,
    /// It was down, and one row is under way to see whether it still is.
    Probing,
    /// Head office is reached and does not take us, or refuses everything.
    Misconfigured,
}

impl Link {
    /// The word for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Link::Up => "up",
            Link::Down => "down",
            Link::Probing => "probing",
            Link::Misconfigured => "misconfigured",
        }
    }
}

impl Link {
    /// Whether one state leads to the other without anything being better or worse.
    pub(super) fn is_same_trouble(self, other: Link) -> bool {
        let is_down = |link| matches!(link, Link::Down | Link::Probing);
        self == other || (is_down(self) && is_down(other))
    }
}

/// The relay's state, for people. Times are by the wall clock and only for reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// How the link stands.
    pub link: Link,
    /// Since when it does.
    pub since: AcceptedAt,
    /// What the last try met that did not get through, in words; empty when there was none since
    /// one did.
    pub trouble: String,
    /// When the next probe is due, while the link is not up.
    pub next_probe_at: Option<AcceptedAt>,
    /// When head office last took something, in this process.
    pub last_success_at: Option<AcceptedAt>,
    /// Why nothing is sent although something could be, in words: verdicts cannot be written down.
    pub paused: Option<String>,
    /// Whether head office has numbers that this database has not given yet: it is a copy of an
    /// older one.
    pub is_copy: bool,
}

/// The way to a running relay.
#[derive(Clone)]
pub struct Handle {
    pub(super) hurry: Arc<Notify>,
    pub(super) state: watch::Receiver<State>,
}

impl Handle {
    /// Tries at once whatever waits for a time.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// How it stands now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }
}
