//! Contracts: the payment codes that payers bring, and how strictly they are judged.

use std::fmt;

use super::Invalid;

/// Whether real money is meant. A database remembers its mode and is never opened in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real collections, passed on to head office.
    Live,
    /// Takes the published samples with their masked digits and never sends anything.
    Sandbox,
}

impl Mode {
    /// The word in configuration and database.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Live => "live",
            Mode::Sandbox => "sandbox",
        }
    }
}

/// How often one contract may be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContractPolicy {
    /// Once: a second receipt is answered -1026.
    Single,
    /// Any number of times, each with a receipt of its own.
    Installments,
}

/// The first five characters of a contract number: the biller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Parses `[A-Z0-9]{5}`.
    pub fn parse(text: &str) -> Result<Prefix, Invalid> {
        if text.len() == 5 && text.bytes().all(is_upper_or_digit) {
            Ok(Prefix(text.to_owned()))
        } else {
            Err(Invalid { expected: "5 capital letters or digits such as SKY01" })
        }
    }

    /// The prefix as it is printed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A payment code: a prefix of 5, then 8 to 10 digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContractNumber(String);

impl ContractNumber {
    /// Parses `[A-Z0-9]{5}[0-9]{8,10}`. Sandbox also takes capital letters in the tail, because
    /// the published sample `SKY0XXXXXXXXXX` is masked.
    pub fn parse(text: &str, mode: Mode) -> Result<ContractNumber, Invalid> {
        let in_tail = |b: u8| match mode {
            Mode::Live => b.is_ascii_digit(),
            Mode::Sandbox => is_upper_or_digit(b),
        };
        let bytes = text.as_bytes();
        if (13..=15).contains(&bytes.len())
            && bytes[..5].iter().copied().all(is_upper_or_digit)
            && bytes[5..].iter().copied().all(in_tail)
        {
            Ok(ContractNumber(text.to_owned()))
        } else {
            Err(Invalid {
                expected: "5 capital letters or digits, then 8 to 10 digits such as SKY0112345678",
            })
        }
    }

    /// Whether this contract belongs to the biller with that prefix.
    pub fn has_prefix(&self, prefix: &Prefix) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// The number as it is printed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContractNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_upper_or_digit(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_contract_ends_in_digits_and_a_sandbox_one_may_be_masked() {
        let live = |text| ContractNumber::parse(text, Mode::Live).is_ok();
        let sandbox = |text| ContractNumber::parse(text, Mode::Sandbox).is_ok();
        for text in ["SKY0112345678", "SKY01123456789", "SKY011234567890", "0123456789012"] {
            assert!(live(text) && sandbox(text), "{text}");
        }
        assert!(sandbox("SKY0XXXXXXXXXX") && !live("SKY0XXXXXXXXXX"));
        for text in [
            "",
            "SKY011234567",
            "SKY0112345678901",
            "sky0112345678",
            "SKY01 2345678",
            "SKY011234567x",
            "ÑKY011234567",
            "SKY01-2345678",
        ] {
            assert!(!live(text) && !sandbox(text), "{text}");
        }
    }
}
