//! What is true of money, contracts and confirmations.
//!
//! No I/O, no clock, no serde: values are parsed once, at the rim, and are valid from then on.

pub mod act;
pub mod amount;
pub mod closing;
pub mod collection;
pub mod contract;
pub mod decision;
pub mod delivery;
pub mod flags;
pub mod provenance;
pub mod time;

/// A text that is not a value of the type it was parsed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What would have been valid, in words for the person who sent it.
    pub expected: &'static str,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl std::error::Error for Invalid {}
