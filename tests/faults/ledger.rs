//! The ledger of everyone who sends: what was sent and what was answered, each line synced before
//! anything else happens; and what the books must hold by it.
//!
//! What was answered 1000 or -1015 must stand in database and tape, what stands there must have
//! been sent, with equal amounts and nothing twice. It says what is wrong instead of failing,
//! because a build that is broken on purpose must be found out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::iter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use serde_json::Value;
use tilld::system::clock;

use crate::support::till::request;
use crate::support::{Confirmation, Daemon, JSON, PATH, Site, Till};

/// Every so many-th confirmation is sent twice, whatever was answered.
const TWICE_EVERY: u32 = 4;

/// More than any load here takes, on a busy machine and in a slow one.
const ANSWERS_TIME_MAX: Duration = Duration::from_secs(240);

pub struct Ledger {
    path: PathBuf,
    file: File,
    next: AtomicU32,
    /// Sent, but not answered by 1000 or -1015 yet: to be sent again.
    owed: Mutex<Vec<u32>>,
}

/// What a ledger says.
#[derive(Debug, Default)]
pub struct Entries {
    pub sent: BTreeSet<u32>,
    /// Answered 1000 or -1015.
    pub told: BTreeSet<u32>,
    /// Answered otherwise, with the code.
    pub refused: Vec<(u32, String)>,
    /// Answered 1000 more than once.
    new_again: BTreeSet<u32>,
}

/// What clients are told, as it comes.
pub struct Answers {
    told: Receiver<String>,
    deadline: Instant,
}

impl Answers {
    /// Code by code, until all clients are gone.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        iter::from_fn(|| {
            let left = self.deadline.saturating_duration_since(clock::monotonic());
            match self.told.recv_timeout(left) {
                Ok(code) => Some(code),
                Err(RecvTimeoutError::Disconnected) => None,
                Err(RecvTimeoutError::Timeout) => panic!("not over after {ANSWERS_TIME_MAX:?}"),
            }
        })
    }
}

/// Sets what it was made of when it goes.
struct SetAtTheEnd<'a>(&'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether a complaint is that somebody was told of money that is not there.
pub fn is_loss(wrong: &str) -> bool {
    wrong.contains(" was told and is ")
}

/// A confirmation whose amount, contract and receipt all follow from `number`.
pub fn numbered(number: u32) -> Confirmation {
    let amount = format!("{}.{:02}", 1 + number / 100, number % 100);
    Confirmation::numbered(number).by_till().raw("amount", amount)
}

pub fn contract(number: u32) -> String {
    numbered(number).get("contractNumber")
}

pub fn centavos(number: u32) -> i64 {
    100 + i64::from(number)
}

impl Entries {
    /// What was sent and never answered 1000 or -1015.
    pub fn untold(&self) -> Vec<u32> {
        self.sent.difference(&self.told).copied().collect()
    }
}

/// Whether this answer promises that the money is in the books.
fn is_recorded(code: &str) -> bool {
    code == "1000" || code == "-1015"
}

impl Ledger {
    /// A new one in this directory.
    pub fn begin(directory: &Path) -> Ledger {
        Self::begin_at(directory, 1)
    }

    /// The same with `first` as the number of the first confirmation.
    pub fn begin_at(directory: &Path, first: u32) -> Ledger {
        let path = directory.join("ledger");
        let file = OpenOptions::new().append(true).create_new(true).open(&path).expect("a ledger");
        Ledger { path, file, next: AtomicU32::new(first), owed: Mutex::default() }
    }

    /// So many clients, each on a connection of its own, send what is owed, then new ones, until
    /// their connections break or `meanwhile`, which hears the codes that they are told, is over.
    /// It fails when that takes longer than anything here should.
    pub fn clients<R>(
        &self,
        count: usize,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        meanwhile: impl FnOnce(&Answers) -> R,
    ) -> R {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            // Also when `meanwhile` fails: then they would go on for ever.
            let _at_the_end = SetAtTheEnd(&is_over);
            let (sender, told) = mpsc::channel();
            let told = Answers { told, deadline: clock::monotonic() + ANSWERS_TIME_MAX };
            for _ in 0..count {
                let (sender, is_over) = (sender.clone(), &is_over);
                scope.spawn(move || {
                    let Ok(mut till) = Till::connect(address, tls) else { return };
                    while !is_over.load(Ordering::Relaxed) {
                        if self.send_next(&mut till, &sender).is_none() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            meanwhile(&told)
        })
    }

    /// Sends one; what is not recorded then is owed. `None` when the connection broke.
    fn send_next(&self, till: &mut Till, told: &Sender<String>) -> Option<()> {
        let owed = self.owed.lock().unwrap().pop();
        let number = owed.unwrap_or_else(|| self.next());
        let times = if number.is_multiple_of(TWICE_EVERY) { 2 } else { 1 };
        for _ in 0..times {
            let code = self.send(till, number);
            if !code.as_deref().is_some_and(is_recorded) {
                self.owed.lock().unwrap().push(number);
            }
            let _ = told.send(code?);
        }
        Some(())
    }

    /// The number of a confirmation that has not been sent yet.
    pub fn next(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends this one once. `None` when there was no answer.
    pub fn send(&self, till: &mut Till, number: u32) -> Option<String> {
        self.write(&format!("sent {number}\n"));
        let answer = till.try_post(PATH, JSON, &[], numbered(number).text().as_bytes()).ok()?;
        let code = answer.code();
        self.write(&format!("told {number} {code}\n"));
        Some(code)
    }

    /// Sends a new one on a connection of its own, and is gone before any answer.
    pub fn send_and_leave(&self, address: SocketAddr, tls: &Arc<ClientConfig>) {
        let number = self.next();
        self.write(&format!("sent {number}\n"));
        // A full house turns somebody away at the door, too.
        if let Ok(mut till) = Till::connect(address, tls) {
            let _ = till.send(&request(PATH, JSON, &[], numbered(number).text().as_bytes()));
        }
    }

    fn write(&self, line: &str) {
        (&self.file).write_all(line.as_bytes()).expect("room for the ledger");
        self.file.sync_data().expect("a disk that keeps the ledger");
    }

    /// What has been written.
    pub fn entries(&self) -> Entries {
        let mut entries = Entries::default();
        let mut new = BTreeSet::new();
        for line in fs::read_to_string(&self.path).expect("the ledger").lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number: u32 = words[1].parse().expect("a number");
            match words[..] {
                ["sent", _] => drop(entries.sent.insert(number)),
                ["told", _, code] if is_recorded(code) => {
                    entries.told.insert(number);
                    if code == "1000" && !new.insert(number) {
                        entries.new_again.insert(number);
                    }
                }
                ["told", _, code] => entries.refused.push((number, code.to_owned())),
                _ => panic!("{line:?} is no line of a ledger"),
            }
        }
        entries
    }

    /// What is wrong with the books of a site at which nobody sends just now.
    pub fn wrong_in_books(&self, site: &Site) -> Vec<String> {
        let mut wrong = Vec::new();
        let entries = self.entries();
        let database = site.all().into_iter().map(|row| {
            (row["contract"].clone(), row["amount_centavos"].as_i64().expect("an amount"))
        });
        let database = unique(database, "database", &mut wrong);
        let tape = tape(site).into_iter().map(|record| {
            let pesos = record["amount"].as_str().expect("an amount");
            (record["contract"].clone(), pesos.replace('.', "").parse().expect("centavos"))
        });
        let tape = unique(tape, "tape", &mut wrong);
        if database != tape {
            wrong.push("database and tape differ".to_owned());
        }
        let sent: BTreeMap<String, i64> =
            entries.sent.iter().map(|number| (contract(*number), centavos(*number))).collect();
        for (contract, centavos) in &database {
            if sent.get(contract) != Some(centavos) {
                wrong.push(format!("{contract} was never sent with {centavos} centavos"));
            }
        }
        for number in &entries.told {
            if !database.contains_key(&contract(*number)) {
                wrong.push(format!("{} was told and is not there", contract(*number)));
            }
        }
        for number in &entries.new_again {
            wrong.push(format!("{} was new twice", contract(*number)));
        }
        // For want of room, or of a disk, it is asked again; nothing else here is to be refused.
        for (number, code) in entries.refused.iter().filter(|(_, code)| code != "-1009") {
            wrong.push(format!("{} was answered {code}", contract(*number)));
        }
        wrong
    }

    /// What is wrong with the answers to everything that was told, sent once more.
    pub fn wrong_when_repeated(&self, daemon: &Daemon) -> Vec<String> {
        let mut till = daemon.till();
        let told = self.entries().told.into_iter();
        let answers = told.map(|number| (number, self.send(&mut till, number)));
        let others = answers.filter(|(_, code)| code.as_deref() != Some("-1015"));
        let complaints = others.map(|(number, code)| match code.as_deref() {
            Some("1000") => format!("{} was told and is new now", contract(number)),
            code => format!("{} is now {code:?}", contract(number)),
        });
        complaints.collect()
    }
}

/// Centavos by contract; whatever stands twice is wrong.
fn unique(
    rows: impl Iterator<Item = (Value, i64)>,
    witness: &str,
    wrong: &mut Vec<String>,
) -> BTreeMap<String, i64> {
    let mut unique = BTreeMap::new();
    for (contract, centavos) in rows {
        let contract = contract.as_str().expect("a contract").to_owned();
        if unique.insert(contract.clone(), centavos).is_some() {
            wrong.push(format!("{contract} is twice in the {witness}"));
        }
    }
    unique
}

/// The records of all collections on a site's tape, as anybody can read them.
fn tape(site: &Site) -> Vec<Value> {
    let directory = fs::read_dir(site.state_dir().join("tape")).expect("a tape");
    let files = directory.map(|entry| entry.expect("an entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|name| name == "jsonl"));
    let texts = files.map(|path| fs::read_to_string(path).expect("a readable file"));
    let lines: Vec<Value> = texts
        .flat_map(|text| {
            // What is no line tells nothing, and so the witnesses differ.
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_default());
            lines.collect::<Vec<Value>>()
        })
        .collect();
    let collections = lines.into_iter().filter(|line| line["what"] == "collection");
    collections.map(|mut line| line["record"].take()).collect()
}
