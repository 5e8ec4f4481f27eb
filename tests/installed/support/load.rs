//! Tills that go on posting while something is done to the daemon, each over a new connection every
//! few confirmations, and an account of what they got.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::ClientConfig;

use super::till::Till;
use super::{Confirmation, JSON, PATH, eventually};

/// As many as post at once.
const TILLS: usize = 16;

/// Confirmations over one connection.
const CONFIRMATIONS: usize = 4;

/// A till's cashier is not as fast as a loop; what matters is that somebody posts all the time.
const PAUSE: Duration = Duration::from_millis(10);

pub struct Load {
    shared: Arc<Shared>,
    tills: Vec<JoinHandle<()>>,
}

/// What the tills got.
#[derive(Default)]
pub struct Account {
    /// Contracts that were answered 1000 or, when posted again, -1015.
    pub acknowledged: HashSet<String>,
    /// Connections that did not come about, and why.
    pub refused: Vec<String>,
    /// Confirmations that got no answer over their connection, and why; they were posted again.
    pub unanswered: Vec<String>,
    /// Answers other than those.
    pub odd: Vec<String>,
}

struct Shared {
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    answers: AtomicUsize,
    is_over: AtomicBool,
    account: Mutex<Account>,
}

impl Load {
    /// Begins, and returns when every till has been answered.
    pub fn start(to: SocketAddr, tls: Arc<ClientConfig>) -> Load {
        let shared = Arc::new(Shared {
            to,
            tls,
            answers: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            account: Mutex::default(),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.post())
        };
        let load = Load { tills: (0..TILLS).map(spawn).collect(), shared };
        load.await_answers(10 * TILLS);
        load
    }

    /// Waits until so many more confirmations were answered.
    pub fn await_answers(&self, more: usize) {
        let before = self.shared.answers.load(Ordering::Relaxed);
        eventually("the tills are answered", || {
            self.shared.answers.load(Ordering::Relaxed) >= before + more
        });
    }

    /// Does this, which ends the machine, in the midst of it.
    pub fn end_with(mut self, disaster: impl FnOnce()) -> Account {
        self.shared.is_over.store(true, Ordering::Relaxed);
        disaster();
        self.stop();
        std::mem::take(&mut self.shared.account.lock().unwrap())
    }

    /// Lets every till get its last answer.
    pub fn end(mut self) -> Account {
        self.await_answers(10 * TILLS);
        self.stop();
        std::mem::take(&mut self.shared.account.lock().unwrap())
    }

    fn stop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for till in self.tills.drain(..) {
            let ended = till.join();
            assert!(ended.is_ok() || thread::panicking(), "a till panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Account {
    /// Every connection came about, and every confirmation was answered at its first try.
    pub fn assert_without_fault(&self) {
        let faults = [&self.refused, &self.unanswered, &self.odd].map(Vec::len);
        let Account { refused, unanswered, odd, .. } = self;
        let examples: Vec<_> =
            refused.iter().take(3).chain(unanswered).chain(odd).take(6).collect();
        assert_eq!(faults, [0; 3], "refused, unanswered, odd, such as {examples:?}");
    }
}

impl Shared {
    fn post(&self) {
        let mut open: Option<Confirmation> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let mut till = match Till::connect(self.to, &self.tls) {
                Ok(till) => till,
                Err(error) => {
                    self.account.lock().unwrap().refused.push(error.to_string());
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            for _ in 0..CONFIRMATIONS {
                let confirmation = open.take().unwrap_or_else(Confirmation::fresh);
                let text = confirmation.text();
                match till.try_post(PATH, JSON, &[], text.as_bytes()) {
                    Ok(answer) => {
                        self.note(&confirmation, &answer.code());
                        // As HTTP wants it: the next goes over a new connection.
                        if answer.header("connection") == Some("close") {
                            break;
                        }
                    }
                    Err(error) => {
                        self.account.lock().unwrap().unanswered.push(error.to_string());
                        open = Some(confirmation);
                        break;
                    }
                }
                thread::sleep(PAUSE);
            }
        }
    }

    fn note(&self, confirmation: &Confirmation, code: &str) {
        let contract = confirmation.get("contractNumber");
        let mut account = self.account.lock().unwrap();
        if ["1000", "-1015"].contains(&code) {
            account.acknowledged.insert(contract);
        } else {
            account.odd.push(format!("{contract}: {code}"));
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
    }
}
