//! A kept refusal that becomes a collection, because a person says that its cash was taken.

use sha2::{Digest as _, Sha256};

use crate::domain::act::{Actor, Words};
use crate::domain::collection::{Collection, ReceiptNumber};
use crate::domain::decision::Sequence;
use crate::domain::provenance::{Confirmation, Digest, Provenance};
use crate::domain::time::AcceptedAt;

/// Characters of the first receipt in a receipt of its own: with a tilde and 16 digits it has the
/// 50 that a receipt may have.
const KEPT_CHARS_MAX: usize = 33;

/// What is to be accepted.
#[derive(Clone, Debug)]
pub struct Accept {
    /// The refusal's number.
    pub refusal: i64,
    /// What it confirms.
    pub confirmation: Confirmation,
    /// Who sent it.
    pub provenance: Provenance,
    /// When it came first: that is the time by which its own is odd, and others are near it.
    pub came_at: AcceptedAt,
    /// Why it is accepted.
    pub reason: Words,
    /// Who accepts it.
    pub actor: Actor,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is this collection now.
    Now(Sequence),
    /// The same cash stands already, as this collection; that is written down.
    Stands(Sequence),
    /// It was accepted before, as this collection.
    Before(Sequence),
}

impl Accepted {
    /// The collection's number.
    pub fn sequence(self) -> Sequence {
        let (Accepted::Now(sequence) | Accepted::Stands(sequence) | Accepted::Before(sequence)) =
            self;
        sequence
    }
}

/// The receipt of a collection whose own one stands for something else. It follows from what makes
/// two confirmations the same (contract, receipt, amount and channel) and from nothing else, so
/// that the same cash, refused twice at different times, is one collection.
pub fn own_receipt(collection: &Collection) -> ReceiptNumber {
    let Collection { contract, receipt, amount, channel, .. } = collection;
    let all = format!("{contract}\n{receipt}\n{}\n{channel}", amount.centavos());
    let digest = Digest(Sha256::digest(all).into()).to_string();
    let kept: String = receipt.as_str().chars().take(KEPT_CHARS_MAX).collect();
    let own = format!("{kept}~{}", &digest[..16]);
    ReceiptNumber::parse(&own).expect("a part of a receipt, and 17 printable characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::amount::Amount;
    use crate::domain::collection::{PayChannel, Phone};
    use crate::domain::contract::{ContractNumber, Mode};
    use crate::domain::time::CollectedAt;

    fn collection(receipt: &str, amount: &str, time: &str) -> Collection {
        Collection {
            contract: ContractNumber::parse("SKY0112345678", Mode::Live).unwrap(),
            receipt: ReceiptNumber::parse(receipt).unwrap(),
            amount: Amount::parse(amount).unwrap(),
            phone: Phone::parse("09270348095").unwrap(),
            collected_at: CollectedAt::parse(time).unwrap(),
            channel: PayChannel::parse("1").unwrap(),
        }
    }

    #[test]
    fn a_receipt_of_its_own_tells_other_cash_and_nothing_else() {
        let (at, later) = ("2026-01-02 03:04:05", "2026-01-02 03:04:06");
        let first = own_receipt(&collection("R1", "1.00", at));
        assert!(first.as_str().starts_with("R1~") && first.as_str().len() == 19, "{first}");
        assert_eq!(own_receipt(&collection("R1", "1", later)), first);
        assert_ne!(own_receipt(&collection("R1", "1.01", at)), first);
        // Also of the longest receipts, which differ only where they are cut.
        let [long, other] = ["1", "2"].map(|end| "Ñ".repeat(49) + end);
        let own = own_receipt(&collection(&long, "1.00", at));
        assert_eq!(own.as_str().chars().count(), 50);
        assert_ne!(own_receipt(&collection(&other, "1.00", at)), own);
    }
}
