//! A closed day as the daemon tells it, for every view of it alike.

use serde::{Deserialize, Serialize};

use crate::store::closing::{Closing, Figures};
use crate::store::reader::Listed;
use crate::store::takings::Takings;

/// A day that is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayClose {
    /// The business date, as yyyy-MM-dd.
    pub day: String,
    /// When it was closed, RFC 3339.
    pub closed_at: String,
    /// By whom, as claimed.
    pub closed_by: String,
    /// Whether it was closed before it was now asked for.
    pub was_closed: bool,
    /// The line on the tape that tells of it.
    pub tape_line: i64,
    /// What came through each channel.
    pub channels: Vec<ChannelSum>,
    /// What head office had.
    pub delivered: Sum,
    /// What was still to be sent.
    pub waiting: Sum,
    /// What waited for a person.
    pub parked: Sum,
    /// What stays here, because there is no head office.
    pub kept: Sum,
    /// What of the day has not reached head office now, the oldest.
    pub undelivered: Vec<Undelivered>,
}

/// A number of collections and what they come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub count: i64,
    /// Their sum.
    pub centavos: i64,
}

/// What came through a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelSum {
    /// The channel's code.
    pub channel: u32,
    /// How much.
    pub sum: Sum,
}

/// A collection that head office has not got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undelivered {
    /// Its number.
    pub sequence: i64,
    /// For this contract.
    pub contract: String,
    /// Under this receipt.
    pub receipt: String,
    /// In pesos with two decimals.
    pub amount: String,
    /// Whether it is parked, and not only waiting.
    pub is_parked: bool,
}

impl From<Takings> for Sum {
    fn from(takings: Takings) -> Sum {
        Sum { count: takings.count, centavos: takings.sum.0 }
    }
}

impl DayClose {
    /// How a day was closed.
    pub fn of(closing: &Closing, was_closed: bool, undelivered: &[Listed]) -> DayClose {
        let Figures { channels, delivered, waiting, parked, kept } = &closing.figures;
        let channels =
            channels.iter().map(|(code, sum)| ChannelSum { channel: *code, sum: (*sum).into() });
        DayClose {
            day: closing.day.to_string(),
            closed_at: closing.at.to_string(),
            closed_by: closing.actor.as_str().to_owned(),
            was_closed,
            tape_line: closing.line,
            channels: channels.collect(),
            delivered: (*delivered).into(),
            waiting: (*waiting).into(),
            parked: (*parked).into(),
            kept: (*kept).into(),
            undelivered: undelivered.iter().map(Undelivered::of).collect(),
        }
    }
}

impl Undelivered {
    /// What names a collection.
    pub fn of(listed: &Listed) -> Undelivered {
        let collection = &listed.entry.confirmation.collection;
        Undelivered {
            sequence: listed.entry.sequence,
            contract: collection.contract.as_str().to_owned(),
            receipt: collection.receipt.as_str().to_owned(),
            amount: collection.amount.to_string(),
            is_parked: listed.standing.as_str() == Some("parked"),
        }
    }

    /// It in words for a person.
    pub fn in_words(&self) -> String {
        let Undelivered { sequence, contract, receipt, amount, is_parked } = self;
        let standing = if *is_parked { "parked" } else { "waiting" };
        format!(
            "{standing}: collection:{sequence}, contract {contract}, receipt {receipt}, {amount} \
             pesos"
        )
    }
}
