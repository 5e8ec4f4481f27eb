//! A collection: what a caller confirms, and the values it is made of.

use std::fmt;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::Invalid;
use super::amount::Amount;
use super::contract::ContractNumber;
use super::time::CollectedAt;

/// What was confirmed: cash was taken for this contract, under this receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// What the payer pays off.
    pub contract: ContractNumber,
    /// What the payer holds in hand.
    pub receipt: ReceiptNumber,
    /// The cash.
    pub amount: Amount,
    /// Whom to reach about it.
    pub phone: Phone,
    /// When the cash was taken, as the caller says.
    pub collected_at: CollectedAt,
    /// Where it was taken.
    pub channel: PayChannel,
}

/// A proof that a collection is durable: committed and synced in every witness.
///
/// Replies 1000 and -1015 ask for one, so that to answer too early does not compile. The store's
/// `Receipt` alone implements it; `tests/house.rs` holds that.
pub trait ProofOfDurability {}

/// The number on the payer's receipt; together with the contract it identifies a collection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReceiptNumber(String);

impl ReceiptNumber {
    const CHARS_MAX: usize = 50;

    /// Trims outer blanks, composes to NFC, and takes 1 to 50 characters, none of them control,
    /// format, bidi, line separator or unassigned. Case is kept.
    pub fn parse(text: &str) -> Result<ReceiptNumber, Invalid> {
        let text = text.trim();
        // Nearly every one is ASCII, which is composed as it stands.
        let composed: String = if text.is_ascii() { text.to_owned() } else { text.nfc().collect() };
        let length = composed.chars().count();
        if (1..=Self::CHARS_MAX).contains(&length) && composed.chars().all(is_printable) {
            Ok(ReceiptNumber(composed))
        } else {
            Err(Invalid { expected: "1 to 50 printable characters" })
        }
    }

    /// `text` as it is stored if it is a receipt number, and else as it is: what to look up.
    pub fn as_stored(text: &str) -> String {
        ReceiptNumber::parse(text).map_or_else(|_| text.to_owned(), |receipt| receipt.0)
    }

    /// The number as it is printed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReceiptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether a character has a glyph or is a space, so that it does no harm in a line: bidi marks
/// are format characters, and the two separators would break a line that a person reads.
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    !matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::Unassigned
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// The payer's phone number, as loosely as tills send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phone(String);

impl Phone {
    const CHARS_MAX: usize = 50;

    /// Takes at most 50 characters of digits, `+`, `-`, blank, `(` and `)`, with a digit among
    /// them.
    pub fn parse(text: &str) -> Result<Phone, Invalid> {
        let allowed = |b: u8| b.is_ascii_digit() || b"+- ()".contains(&b);
        if text.len() <= Self::CHARS_MAX
            && text.bytes().all(allowed)
            && text.bytes().any(|b| b.is_ascii_digit())
        {
            Ok(Phone(text.to_owned()))
        } else {
            Err(Invalid { expected: "a phone number such as 09270348095" })
        }
    }

    /// Whether it has the published form: 11 digits starting 09 or 08.
    pub fn is_usual(&self) -> bool {
        self.0.len() == 11
            && (self.0.starts_with("09") || self.0.starts_with("08"))
            && self.0.bytes().all(|b| b.is_ascii_digit())
    }

    /// The first four and the last two characters, for the log; short numbers vanish whole.
    pub fn masked(&self) -> String {
        match self.0.len() {
            length @ 7.. => {
                format!("{}{}{}", &self.0[..4], "*".repeat(length - 6), &self.0[length - 2..])
            }
            length => "*".repeat(length),
        }
    }

    /// The number as it was sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Through which chain of stores the cash came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayChannel(u32);

impl PayChannel {
    /// Parses `[0-9]{1,5}`; `01` is 1.
    pub fn parse(text: &str) -> Result<PayChannel, Invalid> {
        let invalid = Invalid { expected: "a channel code of 1 to 5 digits such as 10" };
        if (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().map(PayChannel).map_err(|_| invalid)
        } else {
            Err(invalid)
        }
    }

    /// The code as a number, 0 to 99,999.
    pub fn code(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PayChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a configured caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    const CHARS_MAX: usize = 50;

    /// Takes 1 to 50 characters, not only blanks.
    pub fn parse(text: &str) -> Result<UserName, Invalid> {
        if !text.trim().is_empty() && text.chars().count() <= Self::CHARS_MAX {
            Ok(UserName(text.to_owned()))
        } else {
            Err(Invalid { expected: "a user name of 1 to 50 characters" })
        }
    }

    /// The name as it is configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The name of a branch of this company, such as `MNL-042`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BranchName(String);

impl BranchName {
    /// Parses `[A-Za-z0-9._-]{1,32}`, which fits into an HTTP header as it is.
    pub fn parse(text: &str) -> Result<BranchName, Invalid> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(BranchName(text.to_owned()))
        } else {
            Err(Invalid { expected: "1 to 32 letters, digits, dots, dashes or underscores" })
        }
    }

    /// The name as it is configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_has_one_identity_in_both_unicode_forms() {
        let composed = ReceiptNumber::parse("711|PARA\u{d1}AQUE").unwrap();
        assert_eq!(ReceiptNumber::parse(" 711|PARAN\u{303}AQUE "), Ok(composed.clone()));
        assert_ne!(ReceiptNumber::parse("711|para\u{f1}aque"), Ok(composed));
    }

    #[test]
    fn a_receipt_has_only_printable_characters() {
        let long = "Ñ".repeat(50);
        for text in ["B6C13B76E4BF", "R 1", "収据 7", long.as_str()] {
            assert!(ReceiptNumber::parse(text).is_ok(), "{text}");
        }
        let too_long = "1".repeat(51);
        for text in [
            "",
            "  ",
            "R\u{0}1",
            "R\n1",
            "R\u{200f}1",
            "R\u{feff}1",
            "R\u{202e}1",
            "R\u{2028}1",
            "R\u{378}1",
            "R\u{7f}1",
            too_long.as_str(),
        ] {
            assert!(ReceiptNumber::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_phone_number_is_loose_and_masked() {
        let sample = Phone::parse("6392210083333").unwrap();
        assert!(!sample.is_usual());
        assert_eq!(sample.masked(), "6392*******33");
        assert!(Phone::parse("09270348095").unwrap().is_usual());
        assert!(!Phone::parse("+63 (922) 100-8333").unwrap().is_usual());
        for text in ["", "none", "( )", "0927\u{0}348095", &"1".repeat(51)] {
            assert!(Phone::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn channel_01_is_channel_1() {
        assert_eq!(PayChannel::parse("01"), PayChannel::parse("1"));
        for text in ["", "-1", "1.0", "100000", "1a"] {
            assert!(PayChannel::parse(text).is_err(), "{text}");
        }
    }
}
