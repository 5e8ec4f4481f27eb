//! What is unusual about a collection that was taken all the same: the cash has been paid.

use std::fmt;

use super::Invalid;

macro_rules! flags {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One thing that somebody may want to look at later.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Flag { $($(#[$doc])* $variant,)* }

        impl Flag {
            /// Every flag, in the order in which they are listed.
            pub const ALL: &[Flag] = &[$(Flag::$variant,)*];

            /// The name on the command line, in the database and in the log.
            pub fn as_str(self) -> &'static str {
                match self { $(Flag::$variant => $name,)* }
            }
        }
    };
}

flags! {
    /// The action was `generate711Barcode`, the misprint of seeds 001 and 004.
    MisprintedAction = "misprinted-action",
    /// The phone number is not 11 digits starting 09 or 08.
    UnusualPhone = "unusual-phone",
    /// The channel is not one of the published ones.
    UnknownChannel = "unknown-channel",
    /// Unknown fields beyond 4 KiB were dropped.
    UnknownFieldsDropped = "unknown-fields-dropped",
    /// collectedTime lies more than 24 hours ahead of our clock.
    CollectedAhead = "collected-ahead",
    /// collectedTime lies more than 400 days back.
    CollectedLongAgo = "collected-long-ago",
    /// Another caller confirmed the same contract and amount within 24 hours.
    PossibleDouble = "possible-double",
    /// A branch relayed a second receipt for a contract that may be paid only once.
    Overpaid = "overpaid",
    /// Its day was closed when it came, so it stands in the next open day's books.
    Late = "late",
    /// It was refused, and a person accepted it.
    Accepted = "accepted",
}

impl Flag {
    /// Parses a flag's name.
    pub fn parse(text: &str) -> Result<Flag, Invalid> {
        let known = Self::ALL.iter().copied().find(|flag| flag.as_str() == text);
        known.ok_or(Invalid { expected: "the name of a flag such as possible-double" })
    }
}

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);

    /// Parses the names as [`Flags`] prints them.
    pub fn parse(text: &str) -> Result<Flags, Invalid> {
        let mut flags = Flags::NONE;
        for name in text.split(',').filter(|name| !name.is_empty()) {
            flags.raise(Flag::parse(name)?);
        }
        Ok(flags)
    }

    /// Adds a flag.
    pub fn raise(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u16;
    }

    /// Adds a flag if `condition` holds.
    pub fn raise_if(&mut self, condition: bool, flag: Flag) {
        if condition {
            self.raise(flag);
        }
    }

    /// Whether the flag is raised.
    pub fn has(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u16) != 0
    }

    /// The raised flags.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.iter().copied().filter(move |flag| self.has(*flag))
    }
}

/// The names, joined by commas; empty when no flag is raised.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, flag) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_printed_and_parsed_give_themselves() {
        for bits in 0..1u16 << Flag::ALL.len() {
            assert_eq!(Flags::parse(&Flags(bits).to_string()), Ok(Flags(bits)));
        }
    }
}
