//! What systemd is told: ready, stopping, and what takes so long. Without systemd nothing is told.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// How long systemd is asked to wait on, and how often: three asks may be lost.
const EXTENSION: Duration = Duration::from_secs(40);
const EXTENSION_INTERVAL: Duration = Duration::from_secs(10);

/// Tells that requests are answered from now on.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells in one line how it stands.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Tells that the end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("answering what is open")]);
}

/// Something that may take longer than systemd waits for a start. Dropped when it is over.
pub struct LongWork {
    _over: Sender<()>,
}

impl LongWork {
    /// Tells what is being done, and asks for more time until this is dropped.
    pub fn begin(status: &str) -> LongWork {
        let (over, is_over) = channel();
        tell(&[NotifyState::Status(status)]);
        let asking = move || {
            while let Err(RecvTimeoutError::Timeout) = is_over.recv_timeout(EXTENSION_INTERVAL) {
                let us = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
                tell(&[NotifyState::ExtendTimeoutUsec(us)]);
            }
        };
        // Without the thread systemd only waits as long as it is configured to.
        let _ = thread::Builder::new().name("notify".to_owned()).spawn(asking);
        LongWork { _over: over }
    }
}

/// A service manager that does not listen is no reason to stop.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("systemd was not told: {error}");
    }
}
