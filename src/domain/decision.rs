//! What becomes of a confirmation: the rules between 1000, -1015, -1026, 2005 and the flags.
//!
//! Pure: the store looks up the history inside its transaction, asks here, and does what it hears.

use std::fmt;

use chrono::TimeDelta;

use super::amount::Amount;
use super::collection::{Collection, PayChannel, Phone};
use super::contract::ContractPolicy;
use super::flags::{Flag, Flags};
use super::time::{AcceptedAt, BusinessDate, CollectedAt};

/// A collectedTime further ahead of our clock than this is flagged.
const AHEAD_MAX: TimeDelta = TimeDelta::hours(24);

/// A collectedTime further back than this is flagged.
const BACK_MAX: TimeDelta = TimeDelta::days(400);

/// Within this time a till and SkyPay may both report one payment.
pub const DOUBLE_WINDOW: TimeDelta = TimeDelta::hours(24);

/// Counts recorded collections from 1, without gaps.
pub type Sequence = i64;

/// By which rule a caller's confirmations are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A till or SkyPay: the configured contract policy holds.
    Policy(ContractPolicy),
    /// A branch relays what it has already answered 1000: always recorded, at most flagged.
    Relayed,
}

/// The collection that already has this identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// Its number.
    pub sequence: Sequence,
    /// Its amount.
    pub amount: Amount,
    /// Its channel.
    pub channel: PayChannel,
    /// Its phone number.
    pub phone: Phone,
    /// Its collectedTime.
    pub collected_at: CollectedAt,
    /// When we recorded it.
    pub accepted_at: AcceptedAt,
}

/// What the store already holds that bears on a confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum History {
    /// A collection with the same contract and receipt.
    SameIdentity(First),
    /// None; these are the contract's other collections.
    Others {
        /// Whether the contract was collected under another receipt.
        paid: bool,
        /// Whether another caller confirmed the same amount within [`DOUBLE_WINDOW`].
        possible_double: bool,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Record it.
    Record {
        /// What is unusual about it.
        flags: Flags,
        /// In whose day's books it stands.
        business_date: BusinessDate,
    },
    /// It stands already.
    Repeat {
        /// Its number.
        sequence: Sequence,
        /// Whether phone or collectedTime differ from the first time.
        variant: bool,
    },
    /// The receipt stands already, for something else.
    Conflict {
        /// What differs.
        field: ConflictField,
        /// What stands.
        first: First,
    },
    /// The contract was paid under another receipt.
    AlreadyPaid {
        /// What is unusual about the refused confirmation.
        flags: Flags,
    },
}

/// The field in which a second confirmation contradicts the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictField {
    /// The cash.
    Amount,
    /// The chain of stores.
    PayChannel,
}

/// The field's name on the wire.
impl fmt::Display for ConflictField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConflictField::Amount => "amount",
            ConflictField::PayChannel => "payChannel",
        })
    }
}

/// Decides what becomes of `collection`; `given` are the flags that its wire form raised.
///
/// Identity is looked at before "paid": a repeat of a paid contract's own receipt stands.
pub fn decide(
    collection: &Collection,
    given: Flags,
    accepted: AcceptedAt,
    rule: Rule,
    history: History,
) -> Decision {
    let (paid, possible_double) = match history {
        History::SameIdentity(first) => return compare(collection, first),
        History::Others { paid, possible_double } => (paid, possible_double),
    };
    let mut flags = given;
    let ahead = collection.collected_at.ahead_of(accepted);
    let time_is_odd = ahead > AHEAD_MAX || ahead < -BACK_MAX;
    flags.raise_if(ahead > AHEAD_MAX, Flag::CollectedAhead);
    flags.raise_if(ahead < -BACK_MAX, Flag::CollectedLongAgo);
    flags.raise_if(!collection.phone.is_usual(), Flag::UnusualPhone);
    flags.raise_if(possible_double, Flag::PossibleDouble);
    match rule {
        Rule::Policy(ContractPolicy::Single) if paid => return Decision::AlreadyPaid { flags },
        Rule::Policy(_) => {}
        Rule::Relayed => flags.raise_if(paid, Flag::Overpaid),
    }
    let business_date = if time_is_odd { accepted.date() } else { collection.collected_at.date() };
    Decision::Record { flags, business_date }
}

/// Field by field: money and channel must agree, phone and time may have been stamped anew.
fn compare(collection: &Collection, first: First) -> Decision {
    if collection.amount != first.amount {
        Decision::Conflict { field: ConflictField::Amount, first }
    } else if collection.channel != first.channel {
        Decision::Conflict { field: ConflictField::PayChannel, first }
    } else {
        let variant =
            collection.phone != first.phone || collection.collected_at != first.collected_at;
        Decision::Repeat { sequence: first.sequence, variant }
    }
}
