//! The daily check of both witnesses, at low priority, beside a serving daemon.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::domain::time::AcceptedAt;
use crate::operator::snapshot::{Check, Moment};
use crate::store::takings::Days;
use crate::store::verify::{self, Manner};
use crate::system::clock;
use crate::system::event::Event;

/// From one check to the next. The first begins with the daemon: after a power cut is when damage
/// is most likely.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// A check rests so many times as long as it works, so that cashiers do not notice it.
const REST_FACTOR: u32 = 9;

/// The lowest priority that Linux knows.
const NICENESS: i32 = 19;

/// So many differences go to the log; `tilld verify` tells the others.
const DIFFERENCES_LOGGED_MAX: usize = 20;

/// What the last check came to.
#[derive(Clone, Default)]
pub struct LastCheck(Arc<Mutex<Option<Check>>>);

impl LastCheck {
    /// Nothing before the first is over.
    pub fn get(&self) -> Option<Check> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, check: Check) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(check);
    }
}

/// Starts the checks; they end with the process, since they only read.
pub fn start(state_dir: PathBuf, last: LastCheck) -> std::io::Result<()> {
    thread::Builder::new().name("check".to_owned()).spawn(move || {
        // Without the lower priority a check is only less polite.
        let _ = rustix::process::nice(NICENESS);
        loop {
            last.set(check(&state_dir));
            thread::sleep(INTERVAL);
        }
    })?;
    Ok(())
}

fn check(state_dir: &Path) -> Check {
    let mut working_since = clock::monotonic();
    let verified = verify::verify(state_dir, Days::default(), Manner::GivesWay, &mut |_, _| {
        thread::sleep(working_since.elapsed() * REST_FACTOR);
        working_since = clock::monotonic();
    });
    let at = Moment(AcceptedAt::new(clock::now()));
    let (lines, differences, trouble) = match verified {
        Ok(verified) => {
            if verified.is_ok() {
                log::info!(
                    TILLD_EVENT = Event::Verified;
                    "database and tape agree: {} lines checked", verified.lines
                );
            } else {
                for difference in verified.differences.iter().take(DIFFERENCES_LOGGED_MAX) {
                    log::error!(TILLD_EVENT = Event::Difference; "damage: {difference}");
                }
                log::error!(
                    TILLD_EVENT = Event::Difference;
                    "{} differences between database and tape: `tilld verify` names them; call \
                     support before anything is deleted",
                    verified.differences_count
                );
            }
            (verified.lines, verified.differences_count, None)
        }
        Err(error) => {
            log::error!("database and tape could not be checked: {error}");
            (0, 0, Some(error.to_string()))
        }
    };
    Check { at, lines, differences, trouble }
}
