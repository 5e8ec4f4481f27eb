//! SIGKILL at any moment under a crowd of clients, with head office on the line.

use crate::ledger::Ledger;
use crate::rounds::Rounds;
use crate::support::fleet::{Branch, MANILA, Office, assert_same_books};
use crate::support::{Chance, Site};

const CLIENTS: usize = 64;

/// A life ends after at most so many answers.
const ANSWERS_MAX: usize = 700;

/// The books are held against the ledger after so many lives, and at the end.
const CHECK_EVERY: usize = 10;

/// Kills the daemon of a site again and again while clients send. Gives what is wrong in the end.
pub fn wrong_after_kills(site: &Site, rounds: Rounds) -> Vec<String> {
    let mut chance = Chance::new();
    let ledger = Ledger::begin(site.path());
    let mut wrong = Vec::new();
    for round in rounds {
        let mut daemon = site.start();
        if round % CHECK_EVERY == 0 {
            wrong.extend(ledger.wrong_in_books(site));
        }
        let (address, tls) = (daemon.address(), daemon.tls().clone());
        // Within the first answers, or in full flight.
        let answers = 1 + chance.below(ANSWERS_MAX);
        ledger.clients(CLIENTS, address, &tls, |told| {
            let told: Vec<_> = told.iter().take(answers).collect();
            daemon.kill();
            assert_eq!(told.len(), answers, "the clients were gone before");
        });
    }
    let daemon = site.start();
    wrong.extend(ledger.wrong_in_books(site));
    wrong.extend(ledger.wrong_when_repeated(&daemon));
    daemon.stop();
    let entries = ledger.entries();
    println!("{} told", entries.told.len());
    wrong.extend(entries.refused.iter().map(|(number, code)| format!("{number} got {code}")));
    wrong
}

#[test]
fn killed_50_times_under_64_clients_it_loses_and_doubles_nothing_here_or_at_head_office() {
    let office = Office::open();
    let mut branch = Branch::of(&office, MANILA);
    let wrong = wrong_after_kills(&branch.site, Rounds::of("kills", 50, 1000));
    assert!(wrong.is_empty(), "{wrong:#?}");
    branch.start();
    assert_same_books(&office.site, &[&branch]);
}
