//! Delivery to head office: what one try came to, and what becomes of a collection thereby.

use std::fmt;
use std::time::Duration;

use super::Invalid;
use super::decision::Sequence;
use super::provenance::Digest;
use super::time::AcceptedAt;

/// Names one life of a database: made with it, and anew by every rebuild. Sequences of another
/// epoch are other sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u32);

impl Epoch {
    /// An epoch out of random bytes.
    pub fn new(random: [u8; 4]) -> Epoch {
        Epoch(u32::from_be_bytes(random))
    }

    /// Parses 8 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Epoch, Invalid> {
        let in_form =
            text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let value = u32::from_str_radix(text, 16).ok().filter(|_| in_form);
        value.map(Epoch).ok_or(Invalid { expected: "8 hex digits" })
    }
}

/// 8 lower-case hex digits.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A number within an epoch, `EPOCH-N` on the wire: in `Tilld-Sequence` the number of one
/// collection, in `Tilld-Have` and `Tilld-Held` what head office has (then it may be 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The branch's database.
    pub epoch: Epoch,
    /// The number in it.
    pub sequence: Sequence,
}

impl Place {
    /// Parses `EPOCH-N`.
    pub fn parse(text: &str) -> Result<Place, Invalid> {
        let invalid = Invalid { expected: "EPOCH-N such as 1f2e3d4c-17" };
        let (epoch, number) = text.split_once('-').ok_or(invalid)?;
        Ok(Place { epoch: Epoch::parse(epoch).map_err(|_| invalid)?, sequence: digits(number)? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

/// What head office has of one epoch of a branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Everything up to this number (`Tilld-Have`).
    pub up_to: Sequence,
    /// So many numbers in all (`Tilld-Held`): it tells of a loss also while one number that never
    /// comes holds `up_to` back.
    pub count: i64,
}

impl Holdings {
    /// The lower of both, number by number.
    #[must_use]
    pub fn lowest(self, other: Holdings) -> Holdings {
        Holdings { up_to: self.up_to.min(other.up_to), count: self.count.min(other.count) }
    }

    /// The higher of both, number by number.
    #[must_use]
    pub fn highest(self, other: Holdings) -> Holdings {
        Holdings { up_to: self.up_to.max(other.up_to), count: self.count.max(other.count) }
    }

    /// Whether something is gone that `before` had.
    pub fn is_less_than(self, before: Holdings) -> bool {
        self.up_to < before.up_to || self.count < before.count
    }
}

/// A line on a tape, `N-SHA256` on the wire (`Tilld-Tape`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapeLine {
    /// Its number.
    pub number: i64,
    /// Its SHA-256.
    pub digest: Digest,
}

impl TapeLine {
    /// Parses `N-SHA256`.
    pub fn parse(text: &str) -> Result<TapeLine, Invalid> {
        let invalid = Invalid { expected: "N-SHA256" };
        let (number, digest) = text.split_once('-').ok_or(invalid)?;
        Ok(TapeLine { number: digits(number)?, digest: Digest::parse(digest)? })
    }
}

impl fmt::Display for TapeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.digest)
    }
}

/// A number from 0 in plain digits.
fn digits(text: &str) -> Result<i64, Invalid> {
    let in_form = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| in_form);
    number.ok_or(Invalid { expected: "a number of at most 18 digits" })
}

/// What one try to deliver came to (the table of upstream's answers in README).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 1000 or -1015: head office has it.
    Delivered,
    /// -1026: head office says that the contract is settled otherwise; a person must look.
    Settled,
    /// Head office will not have it as it is.
    Refused,
    /// It may have arrived or not; to be sent again, for ever.
    Unknown {
        /// How far it got.
        cause: UnknownCause,
        /// When head office wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// Head office does not take us for who we are, or is not there: nothing about this row.
    Misconfigured,
}

/// How far a try with an unknown outcome got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownCause {
    /// No connection: DNS, TCP or TLS failed, so nothing was sent.
    NoConnection,
    /// Something was sent, or could have been.
    NoAnswer,
}

impl Verdict {
    /// The word in the database and for people.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Delivered => "delivered",
            Verdict::Settled => "settled",
            Verdict::Refused => "refused",
            Verdict::Unknown { cause: UnknownCause::NoConnection, .. } => "unreachable",
            Verdict::Unknown { cause: UnknownCause::NoAnswer, .. } => "unknown",
            Verdict::Misconfigured => "misconfigured",
        }
    }
}

/// One try to deliver one collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub at: AcceptedAt,
    /// How long it took.
    pub took: Duration,
    /// The HTTP status, if one came.
    pub http: Option<u16>,
    /// The protocol's code, if one came.
    pub code: Option<i32>,
    /// What it means.
    pub verdict: Verdict,
    /// In words what came back or went wrong; empty when delivered. Holds no secret.
    pub reason: String,
}

/// Why a collection is parked: it is not sent again until a person says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkedFor {
    /// Head office says that the contract is settled (-1026).
    Settled,
    /// Head office refused it three times over at least ten minutes.
    Refused,
    /// The row differs from its digest or its line on the tape, so it is not what was confirmed.
    Damaged,
}

impl ParkedFor {
    /// The word in the database, on the tape and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            ParkedFor::Settled => "settled",
            ParkedFor::Refused => "refused",
            ParkedFor::Damaged => "damaged",
        }
    }

    /// Parses the word.
    pub fn parse(text: &str) -> Result<ParkedFor, Invalid> {
        match text {
            "settled" => Ok(ParkedFor::Settled),
            "refused" => Ok(ParkedFor::Refused),
            "damaged" => Ok(ParkedFor::Damaged),
            _ => Err(Invalid { expected: "settled, refused or damaged" }),
        }
    }
}

/// What becomes of a collection after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits and is tried again.
    Waits,
    /// Head office has it.
    Delivered,
    /// It waits for a person.
    Parked(ParkedFor),
}
