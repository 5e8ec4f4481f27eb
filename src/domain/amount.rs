//! Money: whole centavos of the Philippine peso, never a float.

use std::fmt;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::Invalid;

/// The cash a payer handed over: 1 to 9,999,999,999 centavos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

impl Amount {
    /// 99,999,999.99 pesos, the most that the published `decimal(10,2)` holds.
    pub const MAX: Amount = Amount(9_999_999_999);

    /// The longest text that is looked at, in bytes.
    const TEXT_BYTES_MAX: usize = 20;

    const INVALID: Invalid =
        Invalid { expected: "pesos from 0.01 to 99999999.99 such as 3400.00, at most 2 decimals" };

    /// Parses `[0-9]+(\.[0-9]+)?` as pesos. Digits after the second decimal must be zeros, which
    /// is how some databases print money.
    pub fn parse(text: &str) -> Result<Amount, Invalid> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if text.len() > Self::TEXT_BYTES_MAX || !digits(whole) || !fraction.is_none_or(digits) {
            return Err(Self::INVALID);
        }
        let pesos = Decimal::from_str_exact(text).map_err(|_| Self::INVALID)?;
        let centavos = (pesos * Decimal::ONE_HUNDRED).normalize();
        if centavos.scale() > 0 {
            return Err(Self::INVALID);
        }
        Self::from_centavos(centavos.to_i64().ok_or(Self::INVALID)?)
    }

    /// Takes back what [`Amount::centavos`] gave, for instance out of the database.
    pub fn from_centavos(centavos: i64) -> Result<Amount, Invalid> {
        if (1..=Self::MAX.0).contains(&centavos) {
            Ok(Amount(centavos))
        } else {
            Err(Self::INVALID)
        }
    }

    /// The amount in centavos.
    pub fn centavos(self) -> i64 {
        self.0
    }
}

/// Pesos with two decimals and no separator: `3400.00`. Parsing it gives the same amount.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Decimal::new(self.0, 2).fmt(f)
    }
}

/// A sum of amounts, in centavos; it may be nothing, and more than one amount can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Centavos(pub i64);

/// Pesos with two decimals and no separator.
impl fmt::Display for Centavos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Decimal::new(self.0, 2).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_texts_are_taken_and_no_others() {
        let centavos = |text| Amount::parse(text).map(Amount::centavos).ok();
        for (text, expected) in [
            ("3400.00", 340_000),
            ("3900", 390_000),
            ("3400.000", 340_000),
            ("3900.0000", 390_000),
            ("0.01", 1),
            ("0.1", 10),
            ("007.50", 750),
            ("99999999.99", 9_999_999_999),
        ] {
            assert_eq!(centavos(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "0.00",
            "0.001",
            "3400.001",
            "100000000.00",
            "1e3",
            "1E3",
            "-0",
            "-1",
            "+5",
            "5.",
            ".5",
            "3,400.00",
            " 5",
            "5 ",
            "5.0.0",
            "NaN",
            "Infinity",
            "1_000",
            "٣",
            "0x10",
            "9007199254740993.01",
            "000000000000000000001",
            "3400.0000000000000001",
        ] {
            assert_eq!(centavos(text), None, "{text}");
        }
    }

    /// The documented language, written down a second time and without a decimal library.
    fn documented(text: &str) -> Option<i64> {
        if text.len() > 20 || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return None;
        }
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        let mut fraction = parts.get(1).copied().unwrap_or("").trim_end_matches('0').to_string();
        if fraction.len() > 2 {
            return None;
        }
        while fraction.len() < 2 {
            fraction.push('0');
        }
        let centavos: u128 = format!("{}{fraction}", parts[0]).parse().ok()?;
        (1..=9_999_999_999).contains(&centavos).then(|| i64::try_from(centavos).unwrap())
    }

    proptest! {
        #[test]
        fn every_centavo_value_printed_and_parsed_gives_itself(centavos in 1i64..=9_999_999_999) {
            let amount = Amount::from_centavos(centavos).unwrap();
            prop_assert_eq!(Amount::parse(&amount.to_string()), Ok(amount));
        }

        #[test]
        fn the_parser_accepts_exactly_the_documented_language(
            text in "[0-9]{0,10}(\\.[0-9]{0,6})?|\\PC{0,24}|[0-9.,+\\-eE ]{0,22}"
        ) {
            prop_assert_eq!(Amount::parse(&text).map(Amount::centavos).ok(), documented(&text));
        }
    }
}
