//! Inputs from inputs: bytes changed, stretches left out, doubled, exchanged, and words put in that
//! mean something to one of the parsers. Knows nothing of what the inputs are.

use std::collections::HashSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use sha2::{Digest as _, Sha256};
use tilld::domain::provenance::Digest;
use tilld::system::{clock, entropy};

/// Inputs that are kept beyond the committed ones: enough variety, and bounded memory.
const KEPT_MAX: usize = 2000;

/// The longest input, a little beyond the bound of a request's body.
const BYTES_MAX: usize = 20 * 1024;

/// Changes made to an input at once, at the most.
const CHANGES_MAX: usize = 6;

/// What parsers look for.
const WORDS: &[&str] = &[
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\n",
    "\r\n",
    "\t",
    " ",
    "\u{feff}",
    "\0",
    "-",
    ".",
    "0",
    "1e9",
    "-0",
    "00",
    "1.",
    "0.001",
    "99999999.99",
    "100000000",
    "null",
    "true",
    "\\u0000",
    "\\ud800",
    "\\udc00\\ud800",
    "Ñ",
    "\u{202e}",
    "😀",
    "3900.00",
    "2018-06-18 17:52:10",
    "2024-02-30 00:00:00",
    "SKY0XXXXXXXXXX",
    "\"amount\":",
    "\"amount\":\"1.00\",",
    "\"contractNumber\":",
    "\"controlNumber\":",
    "\"CONTRACTNUMBER\":",
    "\"responseCode\":",
    "1000",
    "-1015",
    "-1026",
    "<html>",
    "AAAA",
    "====",
    "=",
    "[[caller]]",
    "[upstream]",
    "#",
    "'",
    "\"\"\"",
    "${CREDENTIALS_DIRECTORY}/",
    "listen = ",
    "9223372036854775808",
    "\"line\":",
    "\"previous\":",
    "\"check\":",
];

/// Replays a target's corpus, and goes on from there for as long as the environment says.
pub fn fuzz(target: &str, run: fn(&[u8]) -> String) {
    let mut inputs = corpus(target);
    assert!(!inputs.is_empty(), "no corpus of {target}");
    let mut outcomes = HashSet::new();
    for input in &inputs {
        outcomes.insert(watched(target, run, input));
    }
    let variable = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let Some(seconds) = variable("TILLD_FUZZ_SECONDS") else { return };
    let chosen = || u64::from_be_bytes(entropy::bytes::<8>().expect("randomness"));
    let seed = variable("TILLD_FUZZ_SEED").unwrap_or_else(chosen);
    println!("{target}: TILLD_FUZZ_SEED={seed}");
    let mut random = Random::new(seed);
    let (began, allowed) = (clock::monotonic(), Duration::from_secs(seconds));
    let mut count = 0_u64;
    while began.elapsed() < allowed {
        let input = random.changed(&inputs);
        count += 1;
        if outcomes.insert(watched(target, run, &input)) && inputs.len() < KEPT_MAX {
            inputs.push(input);
        }
    }
    println!("{target}: {count} inputs, {} outcomes", outcomes.len());
}

/// The outcome; an input that makes the target panic is kept and named.
fn watched(target: &str, run: fn(&[u8]) -> String, input: &[u8]) -> String {
    catch_unwind(AssertUnwindSafe(|| run(input))).unwrap_or_else(|_| {
        let name = Digest(Sha256::digest(input).into()).to_string();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(target);
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join(&name[..16]);
        fs::write(&path, input).expect("a written input");
        panic!("{target} fails for {}", path.display())
    })
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(directory).expect("a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("an input")).collect()
}

struct Random(TestRng);

impl Random {
    fn new(seed: u64) -> Random {
        let seed: [u8; 32] = Sha256::digest(seed.to_be_bytes()).into();
        Random(TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
    }

    /// A number below this one; 0 below 0.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).expect("a small number");
        usize::try_from(self.0.next_u64() % bound).expect("a small number")
    }

    fn changed(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut input, inputs);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + self.below(16)).min(input.len());
        match self.below(7) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.below(256).to_le_bytes()[0];
                }
            }
            2 => drop(input.drain(at..end)),
            3 => {
                let stretch = input[at..end].to_vec();
                input.splice(at..at, stretch);
            }
            4 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.bytes());
            }
            5 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..end, word.bytes());
            }
            _ => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
        }
    }
}
