//! What the benches start from: a state directory with so many collections in it, recorded through
//! the store itself, and daemons as child processes.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::io;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tilld::domain::collection::{BranchName, UserName};
use tilld::domain::contract::{ContractPolicy, Mode};
use tilld::domain::decision::{Rule, Sequence};
use tilld::domain::delivery::{Epoch, Place};
use tilld::domain::provenance::{Confirmation, Digest, Form, KeyId, Origin, Provenance};
use tilld::skypay::request::{Request, Terms};
use tilld::store::{Recorded, Store};

/// Confirmations that wait for the writer at a time: less than its queue holds.
const WAITING_MAX: usize = 2048;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Records different collections with these numbers, as a till's or, with an epoch, as relayed by a
/// branch that has them under the same numbers; `each` hears the sequences that they got.
pub fn fill(
    store: &Store,
    numbers: std::ops::RangeInclusive<u64>,
    relayed: Option<Epoch>,
    mut each: impl FnMut(&[Sequence]) -> Outcome<()>,
) -> Outcome<()> {
    let mut outcomes = VecDeque::new();
    let last = *numbers.end();
    for number in numbers {
        let (confirmation, provenance) = confirmation(number)?;
        let outcome = match relayed {
            None => store.record(confirmation, provenance, Rule::Policy(ContractPolicy::Single)),
            Some(epoch) => {
                let place = Place { epoch, sequence: i64::try_from(number)? };
                let branch = Some(BranchName::parse("MNL-042")?);
                let origin = Some(Origin { place, line: None });
                let provenance = Provenance { branch, origin, ..provenance };
                store.record(confirmation, provenance, Rule::Relayed)
            }
        };
        outcomes.push_back(outcome.map_err(|error| format!("{error:?}"))?);
        if outcomes.len() == WAITING_MAX || number == last {
            let mut recorded = Vec::new();
            for outcome in outcomes.drain(..) {
                match outcome.blocking_recv()? {
                    Ok(Recorded::New(receipt)) => recorded.push(receipt.sequence()),
                    other => return Err(format!("{other:?}").into()),
                }
            }
            each(&recorded)?;
        }
    }
    Ok(())
}

fn confirmation(number: u64) -> Outcome<(Confirmation, Provenance)> {
    let body = body(number);
    let request = Request::parse(body.as_bytes()).map_err(|_| "a malformed body")?;
    let terms = Terms { mode: Mode::Live, prefixes: &[] };
    let confirmation = request.confirmation(&terms).map_err(|_| "a refused body")?;
    let provenance = Provenance {
        caller: UserName::parse("till-7")?,
        branch: None,
        origin: None,
        key_id: KeyId::of(Digest([7; 32])),
        peer: IpAddr::from(Ipv4Addr::new(192, 168, 10, 17)),
        client_certificate: None,
        form: Form::Json,
        body_digest: request.body_digest(),
    };
    Ok((confirmation, provenance))
}

/// The nine usual fields; numbers and receipts come in no order.
pub fn body(number: u64) -> String {
    let contract = number * 38_183_291 % 100_000_000;
    let receipt = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let (pesos, centavos) = (1 + number % 9000, number % 100);
    let phone = number * 7_654_321 % 1_000_000_000;
    format!(
        "{{\"userName\":\"till-7\",\"action\":\"collectionCollect\",\"authentication\":\"key\",\
         \"contractNumber\":\"SKY01{contract:08}\",\"amount\":\"{pesos}.{centavos:02}\",\
         \"phone\":\"09{phone:09}\",\"receiptNumber\":\"{receipt:012X}\",\
         \"collectedTime\":\"2026-11-21 17:52:10\",\"payChannel\":\"10\"}}"
    )
}

/// A daemon and its log.
pub struct Daemon {
    child: Child,
    pub log: Option<BufReader<ChildStderr>>,
}

impl Daemon {
    pub fn start(config: &Path) -> Outcome<Daemon> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tilld"))
            .args(["serve", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().map(BufReader::new);
        Ok(Daemon { child, log })
    }

    /// Waits for a line of the log with this text, and gives it.
    pub fn wait_for(&mut self, text: &str) -> Outcome<String> {
        let log = self.log.as_mut().ok_or("its log is read elsewhere")?;
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            if log.read_line(&mut line)? == 0 {
                return Err(format!("it ended before it said {text:?}").into());
            }
        }
        Ok(line)
    }

    /// What the kernel says of its memory now.
    pub fn resident(&self) -> Outcome<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Stops it cleanly.
    pub fn stop(mut self) -> Outcome<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("no process id")?;
        kill_process(pid, Signal::TERM)?;
        // The rest of its log must not fill the pipe.
        self.log.as_mut().map(|log| io::copy(log, &mut io::sink())).transpose()?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}").into()) }
    }
}
