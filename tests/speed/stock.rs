//! What the benches start from: a state directory with so many collections in it, recorded through
//! the store itself. Knows nothing of what is measured with it.

use std::collections::VecDeque;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use tilld::domain::collection::UserName;
use tilld::domain::contract::{ContractPolicy, Mode};
use tilld::domain::decision::Rule;
use tilld::domain::provenance::{Confirmation, Digest, Form, KeyId, Provenance};
use tilld::skypay::request::{Request, Terms};
use tilld::store::backup::Backups;
use tilld::store::{Recorded, Store, Writing};

use crate::Outcome;

/// Confirmations that wait for the writer at a time: less than its queue holds.
const WAITING_MAX: usize = 2048;

/// A directory with a state directory of so many collections, made when it is not there yet, and
/// not to be written to: it is there for the next time, too, as long as the schema stays the same.
pub fn stocked(place: &Path, collections: u64) -> Outcome<PathBuf> {
    let mut schema = DefaultHasher::new();
    include_str!("../../src/store/schema/1.sql").hash(&mut schema);
    let name = format!("stock-{collections}-");
    let directory = place.join(format!("{name}{:016x}", schema.finish()));
    if !directory.exists() {
        let unfinished = place.join("stock-unfinished");
        fs::create_dir_all(place)?;
        for entry in fs::read_dir(place)? {
            let other = entry?.path();
            let is_old = other.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name));
            if is_old || other == unfinished {
                fs::remove_dir_all(other)?;
            }
        }
        fs::create_dir_all(unfinished.join("state"))?;
        let (store, writing) = open(&unfinished.join("state"))?;
        fill(&store, 1..=collections)?;
        close(store, writing)?;
        fs::rename(unfinished, &directory)?;
    }
    Ok(directory)
}

/// Opens the store of a live branch in this state directory.
pub fn open(state_dir: &Path) -> Outcome<(Store, Writing)> {
    Ok(Store::open(state_dir, Mode::Live, 0, &Backups::inside(state_dir))?)
}

/// Waits until all is written.
pub fn close(store: Store, writing: Writing) -> Outcome<()> {
    drop(store);
    writing.thread.join().map_err(|_| "the writer panicked".into())
}

/// Records different collections with these numbers, as a till's.
pub fn fill(store: &Store, numbers: RangeInclusive<u64>) -> Outcome<()> {
    let mut outcomes = VecDeque::new();
    let last = *numbers.end();
    for number in numbers {
        let (confirmation, provenance) = confirmation(number)?;
        let outcome = store.record(confirmation, provenance, Rule::Policy(ContractPolicy::Single));
        outcomes.push_back(outcome.map_err(|error| format!("{error:?}"))?);
        // The oldest half at a time, so that the writer always has the other to do.
        while outcomes.len() == WAITING_MAX || (number == last && !outcomes.is_empty()) {
            for outcome in outcomes.drain(..outcomes.len().div_ceil(2)) {
                match outcome.blocking_recv()? {
                    Ok(Recorded::New(_)) => {}
                    other => return Err(format!("{other:?}").into()),
                }
            }
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
