//! When an answer may be given: not before the syncs of both witnesses that it rests on are over,
//! and never when one of them failed. Nothing goes to head office here, so that whatever is synced
//! while a till waits is synced for it.

use std::process::Command;
use std::time::Duration;

use tilld::system::clock::monotonic;

use crate::calls::{self, Call, Fault};
use crate::ledger::Ledger;
use crate::support::clock::Clock;
use crate::support::{Daemon, Setup, Site, Till};

/// Each has a commit and a line on the tape of its own.
const CONFIRMATIONS: usize = 3;

/// How much later a sync begins: more than everything else takes for one answer.
const DELAY: Duration = Duration::from_millis(300);

/// So long may a daemon take that is to end.
const END_TIME_MAX: Duration = Duration::from_secs(20);

/// A site and its only till.
struct Shop {
    site: Site,
    clock: Clock,
    ledger: Ledger,
}

/// What the till was answered.
#[derive(Debug)]
struct Answered {
    /// None: it was not.
    code: Option<String>,
    took: Duration,
    /// Whether a call had failed before the till had its answer.
    has_failed: bool,
}

impl Shop {
    fn open() -> Shop {
        let site = Setup::live().prepare();
        Shop { clock: Clock::of(&site), ledger: Ledger::begin(site.path()), site }
    }

    /// A daemon's life with a few confirmations, as long as they are recorded. Empty when it does
    /// not begin.
    fn live(&self, command: Command) -> Vec<Answered> {
        let Ok(mut daemon) = Daemon::try_start_by(&self.site, command) else { return Vec::new() };
        let mut answered = Vec::new();
        // It may end as soon as it has begun.
        let mut till = Till::connect(daemon.address(), daemon.tls()).ok();
        while let Some(till) = till.as_mut().filter(|_| answered.len() < CONFIRMATIONS) {
            let began = monotonic();
            let code = self.ledger.send(till, self.ledger.next());
            let took = began.elapsed();
            answered.push(Answered { code, took, has_failed: calls::is_injected(&self.site) });
            if answered.last().is_some_and(|answered| !answered.is_recorded()) {
                break;
            }
        }
        daemon.sigterm();
        daemon.wait(END_TIME_MAX);
        answered
    }
}

impl Answered {
    fn is_recorded(&self) -> bool {
        self.code.as_deref() == Some("1000")
    }
}

/// All syncs of the WAL and of the tape, from the birth of the database to a clean stop.
fn syncs() -> Vec<Call> {
    let shop = Shop::open();
    let answered = shop.live(calls::recorded(&shop.site, &shop.clock));
    assert_eq!(answered.iter().filter(|answered| answered.is_recorded()).count(), CONFIRMATIONS);
    let mut syncs = calls::calls_of(&shop.site);
    syncs.retain(|call| call.is_sync() && (call.is_about_wal() || call.is_about_tape()));
    syncs
}

#[test]
fn who_waits_for_a_sync_that_fails_is_not_told_1000() {
    let mut count = 0;
    for sync in syncs() {
        let shop = Shop::open();
        let fault = Fault::Error("EIO");
        let answered = shop.live(calls::with_fault(&shop.site, &shop.clock, &sync, fault));
        for answered in answered.into_iter().filter(|answered| answered.has_failed) {
            assert!(!answered.is_recorded(), "{answered:?} though this failed: {sync:?}");
            count += 1;
        }
        let daemon = shop.site.start();
        let wrong = shop.ledger.wrong_in_books(&shop.site);
        assert!(wrong.is_empty(), "{sync:?}: {wrong:#?}");
        daemon.stop();
    }
    assert!(count >= 2 * CONFIRMATIONS, "somebody waited for only {count} of them");
}

#[test]
fn nobody_is_told_1000_before_the_syncs_of_both_witnesses_are_over() {
    let all = syncs();
    let of_wal = all.iter().rfind(|sync| sync.is_about_wal()).expect("syncs");
    let of_tape = all.iter().find(|sync| sync.is_about_tape()).expect("syncs");
    for sync in [of_wal, of_tape] {
        let shop = Shop::open();
        let answered = shop.live(calls::with_delays(&shop.site, &shop.clock, sync, DELAY));
        assert_eq!(answered.len(), CONFIRMATIONS);
        for answered in answered {
            assert!(answered.is_recorded() && answered.took >= DELAY, "{answered:?}: {sync:?}");
        }
    }
}
