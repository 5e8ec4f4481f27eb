//! The power goes: under load, while the daemon starts, and after it was killed and has answered
//! what the killed one had not. Each cut leaves its disk to the next one, so that what recovered
//! recovers again.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use tilld::system::clock;

use crate::ledger::Ledger;
use crate::machine::{Machine, OFFICE, PORT};
use crate::rounds::Rounds;
use crate::support::fleet::{Branch, MANILA, Office, Way, assert_same_books, office_setup};
use crate::support::state::WAL;
use crate::support::till::trusting;
use crate::support::{Chance, Daemon, Setup, Site, Till};

const CLIENTS: usize = 16;

/// The power goes after at most so many answers.
const ANSWERS_MAX: usize = 200;

/// How it begins when what is wrong is that the daemon does not start.
const NO_START: &str = "it does not start";

/// The sync at which the daemon is killed.
#[derive(Clone, Copy, Debug)]
pub enum Sync {
    /// The one that makes a commit durable.
    OfWal,
    /// That one, or the one of the tape.
    OfEither,
}

/// The daemon is killed at one of its first syncs, which come before so many answers.
const SYNCS: usize = 40;

/// A killed daemon leaves something that is asked again in at least one of so many lives: most of
/// its syncs are for somebody who waits.
const LIVES_MAX: usize = 20;

/// A branch whose power is cut again and again, with the ledger of its clients.
pub struct Cuts {
    site: Site,
    /// It takes what the machine sends, if there is one; its own power stays.
    office: Option<Office>,
    machine: Machine,
    tls: Arc<ClientConfig>,
    ledger: Ledger,
    chance: Chance,
    /// How long the last start took.
    start_time: Duration,
    /// Repeats that were answered -1015 between a crash and a power cut.
    repeats_answered: usize,
}

impl Cuts {
    /// Of a new branch with a head office.
    fn with_office() -> Cuts {
        let extra = format!("[endpoint.tls]\nnames = [{OFFICE:?}]\n");
        let office = Office::open_as(&Setup { extra, ..office_setup() });
        let branch = Branch::of(&office, MANILA);
        // At a place that the machine is given.
        let certificate = branch.site.path().join("office.pem");
        fs::copy(office.site.certificate(), &certificate).expect("a copy");
        let address = format!("{OFFICE}:{PORT}").parse().expect("an address");
        branch.configure(&Setup::live(), &Way::to(address, certificate));
        Cuts::begin(branch.site, Some(office))
    }

    /// Of a new site that sends nothing.
    pub fn of(site: Site) -> Cuts {
        Cuts::begin(site, None)
    }

    fn begin(site: Site, office: Option<Office>) -> Cuts {
        // Nobody can trust a certificate that is made inside. All else is born there.
        site.start().stop();
        for entry in fs::read_dir(site.state_dir()).expect("a state") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                fs::remove_file(path).expect("a removed file");
            } else if !path.ends_with("tls") {
                fs::remove_dir_all(path).expect("a removed directory");
            }
        }
        Cuts {
            machine: Machine::of(&site, office.as_ref().map(|office| office.daemon().address())),
            tls: trusting(&site.certificate()),
            ledger: Ledger::begin(site.path()),
            chance: Chance::new(),
            start_time: Duration::ZERO,
            repeats_answered: 0,
            office,
            site,
        }
    }

    /// Cuts the power under load. Gives what is wrong then.
    pub fn under_load(&mut self) -> Vec<String> {
        let mut power = self.machine.boot(None);
        power.await_start();
        let started = clock::monotonic();
        power.await_ready();
        self.start_time = started.elapsed();
        let answers = 1 + self.chance.below(ANSWERS_MAX);
        let pause = Duration::from_micros(self.chance.below(20_000) as u64);
        self.ledger.clients(CLIENTS, power.address(), &self.tls, |told| {
            let answers_got = told.iter().take(answers).count();
            thread::sleep(pause);
            power.cut();
            assert_eq!(answers_got, answers, "the clients were gone before");
        });
        self.wrong_on_disk()
    }

    /// Cuts the power while the daemon starts upon what the last cut left.
    pub fn at_start(&mut self) -> Vec<String> {
        let mut power = self.machine.boot(None);
        power.await_start();
        let start_us = usize::try_from(self.start_time.as_micros()).expect("a short time");
        thread::sleep(Duration::from_micros(self.chance.below(start_us) as u64));
        power.cut();
        self.wrong_on_disk()
    }

    /// Has the daemon killed where it is about to sync by this call, and cuts the power as soon as
    /// the next one, which lacks room, has said what it has of that which the killed one never
    /// answered: it only reads then, and no sync of its own makes good what it reads.
    pub fn after_repeat(&mut self, sync: Sync) -> Vec<String> {
        let when = 1 + self.chance.below(SYNCS);
        let path = match sync {
            Sync::OfWal => format!(" ONLY={}", self.site.state_dir().join(WAL).display()),
            Sync::OfEither => String::new(),
        };
        let fault = format!("FAULT=fdatasync:signal=KILL:when={when}{path}");
        let mut power = self.machine.boot(Some(&fault));
        power.await_ready();
        if !power.has_killed() {
            // Few, so that little waits behind what was about to be synced.
            let clients = 1 + self.chance.below(3);
            self.ledger.clients(clients, power.address(), &self.tls, |told| {
                told.iter().for_each(drop);
            });
            power.await_ready();
        }
        let codes: Vec<_> = self
            .ledger
            .entries()
            .untold()
            .into_iter()
            .map(|number| {
                let mut till = Till::connect(power.address(), &self.tls).expect("a connection");
                self.ledger.send(&mut till, number).expect("an answer")
            })
            .collect();
        power.cut();
        self.repeats_answered += codes.iter().filter(|code| *code == "-1015").count();
        println!("killed at {sync:?} {when}, then answered {codes:?}");
        self.wrong_on_disk()
    }

    /// What is wrong with what is on the disk, after a start upon it.
    fn wrong_on_disk(&self) -> Vec<String> {
        self.machine.show_disk(&self.site);
        match Daemon::try_start(&self.site) {
            Ok(daemon) => {
                let mut wrong = self.ledger.wrong_in_books(&self.site);
                if let Some(office) = &self.office {
                    wrong.extend(wrong_at_office(&self.site, &office.site));
                }
                daemon.stop();
                wrong
            }
            Err((code, text)) => vec![format!("{NO_START}, exit {code:?}:\n{text}")],
        }
    }

    /// What is wrong with the answers to everything that was told, sent to a daemon upon what the
    /// last cut left.
    pub fn wrong_when_repeated(&self) -> Vec<String> {
        let daemon = self.site.start();
        let wrong = self.ledger.wrong_when_repeated(&daemon);
        println!("{} told", self.ledger.entries().told.len());
        daemon.stop();
        wrong
    }

    /// Lets what the last cut left go out, and holds both books against each other.
    fn assert_passed_on(self) {
        let office = self.office.expect("a head office");
        let arrived = office.site.all().len();
        println!("{arrived} at head office before the last start");
        assert!(arrived > 0, "nothing was sent from inside the machine");
        let mut branch = Branch::at(self.site, MANILA);
        branch.configure(&Setup::live(), &office.way());
        branch.start();
        assert_same_books(&office.site, &[&branch]);
    }
}

/// What head office has and the branch has not, or the branch believes it to have.
fn wrong_at_office(branch: &Site, office: &Site) -> Vec<String> {
    let amounts = |rows: &[Value]| -> BTreeSet<(String, i64)> {
        let amounts = rows.iter().map(|row| {
            let contract = row["contract"].as_str().expect("a contract").to_owned();
            (contract, row["amount_centavos"].as_i64().expect("an amount"))
        });
        amounts.collect()
    };
    let mut rows = branch.all();
    let here = amounts(&rows);
    rows.retain(|row| row["head_office"] == "delivered");
    let delivered = amounts(&rows);
    let there = amounts(&office.all());
    let lost = there.difference(&here).map(|one| format!("only head office has {one:?}"));
    let missing = delivered.difference(&there).map(|one| format!("head office lacks {one:?}"));
    lost.chain(missing).collect()
}

#[test]
fn when_the_power_goes_under_load_or_during_a_start_nothing_answered_is_lost() {
    let mut cuts = Cuts::with_office();
    for round in Rounds::of("power cuts under load", 10, 200) {
        let mut wrong = cuts.under_load();
        if round % 2 == 1 {
            wrong.extend(cuts.at_start());
        }
        assert!(wrong.is_empty(), "round {round}: {wrong:#?}");
    }
    let wrong = cuts.wrong_when_repeated();
    assert!(wrong.is_empty(), "{wrong:#?}");
    cuts.assert_passed_on();
}

#[test]
fn what_is_answered_after_a_crash_outlives_the_power_cut_that_follows() {
    let mut cuts = Cuts::of(Setup::live().prepare());
    for round in Rounds::of("power cuts after a crash", 5, 100) {
        let answered = cuts.repeats_answered;
        let has_answered = (0..LIVES_MAX).any(|_| {
            let wrong = cuts.after_repeat([Sync::OfWal, Sync::OfEither][round % 2]);
            assert!(wrong.is_empty(), "round {round}: {wrong:#?}");
            cuts.repeats_answered > answered
        });
        assert!(has_answered, "round {round}: no crash left anything that was asked again");
    }
    let wrong = cuts.wrong_when_repeated();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
