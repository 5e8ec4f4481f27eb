//! Feeds systemd's watchdog, as long as all that must get on does.
//!
//! Each part beats as it comes round, and only when all have beaten since the last time is systemd
//! told that the daemon is alive. So a writer that hangs is restarted although tills can still
//! connect, and the other way round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sd_notify::NotifyState;

use super::{figures, notify};

/// So often within the time that systemd allows the parts are looked at. A part that stalls is
/// noticed at the second look after its last beat, so it may for two thirds of that time.
const LOOKS: u32 = 6;

/// Beats while a part of the daemon gets on.
#[derive(Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// It has come round once more.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts to feed systemd's watchdog, when it has one for this process. Each pulse must beat every
/// second or so.
pub fn start(pulses: Vec<Arc<Pulse>>) {
    let Some(allowed) = sd_notify::watchdog_enabled() else { return };
    let mut watch = Watch::new(pulses);
    let watching = move || {
        loop {
            thread::sleep(allowed / LOOKS);
            if watch.is_alive() {
                notify::tell(&[NotifyState::Watchdog]);
                figures::WATCHDOG_PINGS.count();
            }
        }
    };
    // Without the thread systemd restarts a daemon that cannot have one.
    let _ = thread::Builder::new().name("watchdog".to_owned()).spawn(watching);
}

/// What was seen when all were last seen to get on.
struct Watch(Vec<(Arc<Pulse>, u64)>);

impl Watch {
    fn new(pulses: Vec<Arc<Pulse>>) -> Watch {
        Watch(pulses.into_iter().map(|pulse| (Arc::clone(&pulse), pulse.beats())).collect())
    }

    /// Whether all have beaten since this was last true.
    fn is_alive(&mut self) -> bool {
        let is_alive = self.0.iter().all(|(pulse, seen)| pulse.beats() != *seen);
        if is_alive {
            self.0.iter_mut().for_each(|(pulse, seen)| *seen = pulse.beats());
        }
        is_alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_that_hangs_is_enough() {
        let (writer, door) = (Arc::new(Pulse::default()), Arc::new(Pulse::default()));
        let mut watch = Watch::new(vec![Arc::clone(&writer), Arc::clone(&door)]);
        assert!(!watch.is_alive(), "nothing has happened yet");
        writer.beat();
        assert!(!watch.is_alive(), "the door hangs");
        door.beat();
        assert!(watch.is_alive(), "both came round, if not at the same time");
        assert!(!watch.is_alive());
        (0..3).for_each(|_| door.beat());
        assert!(!watch.is_alive(), "the writer hangs");
    }
}
