//! A bar on standard error for what takes long. Without a terminal there is none.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::system::clock;

/// What is over sooner shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// The progress of one command.
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    of: Cell<&'static str>,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn begin() -> Progress {
        let bar = ProgressBar::hidden();
        bar.set_style(
            ProgressStyle::with_template("{bar:40} {percent}% {msg}, {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Progress { bar, began: clock::monotonic(), of: Cell::new("") }
    }

    /// So much of this is done; the bar begins anew with each thing.
    pub fn tell(&self, of: &'static str, done: u64, total: u64) {
        if self.bar.is_hidden() && self.began.elapsed() > PROGRESS_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        if self.of.replace(of) != of {
            self.bar.reset();
            self.bar.set_message(of);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
