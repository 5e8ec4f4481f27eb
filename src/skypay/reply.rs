//! The reply to one confirmation: its code, its words, its bytes.
//!
//! It cannot be made to say 1000 or -1015 without a proof that the collection is durable, and it
//! must not know how that proof came about.

use chrono::{DateTime, Utc};

use super::json;
use crate::domain::collection::ProofOfDurability;
use crate::domain::decision::{ConflictField, First};
use crate::domain::time::MANILA;

/// The published length of `responseDescription` (all seeds).
const DESCRIPTION_CHARS_MAX: usize = 255;

/// What a reply says. Negative codes and 1000 are published; partners define their own codes
/// starting with 2 (all seeds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1000: recorded and durable.
    Success,
    /// -1001: caller, key, address or encryption is not right; never says which.
    VerificationFailed,
    /// -1009: nothing is certain; the caller posts the same receipt again.
    Unpredictable,
    /// -1015: this very collection stands already.
    AlreadyCollected,
    /// -1026: the contract was paid under another receipt.
    AlreadyPaid,
    /// 2005: the receipt stands already, for something else.
    Conflict,
    /// 2001 to 2004 and 2006: the request itself is at fault.
    Refused(RefusalCode),
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        match self {
            Code::Success => 1000,
            Code::VerificationFailed => -1001,
            Code::Unpredictable => -1009,
            Code::AlreadyCollected => -1015,
            Code::AlreadyPaid => -1026,
            Code::Conflict => 2005,
            Code::Refused(code) => code.number(),
        }
    }
}

/// Why a request is refused for what it says, whatever was collected before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// 2001: not exactly one well-formed JSON object.
    Malformed,
    /// 2002: mandatory fields are absent.
    Missing,
    /// 2003: a value is not what its field takes.
    WrongValue,
    /// 2004: another service is asked for.
    ActionNotSupported,
    /// 2006: the contract's prefix is not collected here.
    PrefixNotCollected,
}

impl RefusalCode {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        match self {
            RefusalCode::Malformed => 2001,
            RefusalCode::Missing => 2002,
            RefusalCode::WrongValue => 2003,
            RefusalCode::ActionNotSupported => 2004,
            RefusalCode::PrefixNotCollected => 2006,
        }
    }
}

/// A request refused for what it says. No such refusal can be turned into a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// In words, for the cashier or the till's programmer.
    pub description: String,
}

/// Whether `responseCode` is a JSON string, as in every published sample, or a number, as in the
/// published tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeForm {
    /// `"1000"`
    String,
    /// `1000`
    Number,
}

/// What one caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: Code,
    description: String,
}

impl Reply {
    /// 1000: the collection is recorded.
    pub fn success(_: &impl ProofOfDurability) -> Reply {
        Self::new(Code::Success, "Success")
    }

    /// -1015: the collection stood already, so a caller that lost our first answer has succeeded.
    pub fn already_collected(_: &impl ProofOfDurability) -> Reply {
        Self::new(Code::AlreadyCollected, "The transaction has been collected")
    }

    /// -1026: the contract was paid under another receipt.
    pub fn already_paid() -> Reply {
        Self::new(Code::AlreadyPaid, "Transactions has been paid")
    }

    /// -1001: the same words whatever failed, so that nobody learns what did not.
    pub fn verification_failed() -> Reply {
        Self::new(Code::VerificationFailed, "Verification failed")
    }

    /// -1009: may or may not be recorded.
    pub fn unpredictable() -> Reply {
        Self::new(Code::Unpredictable, "An Unpredictable exception occurs")
    }

    /// 2005: `field` differs from the collection that stands under this receipt.
    pub fn conflict(field: ConflictField, first: &First) -> Reply {
        let (amount, at) = (first.amount, first.accepted_at.wall_clock());
        Self::new(
            Code::Conflict,
            &format!("same receipt, different {field}; the first stands: {amount} at {at}"),
        )
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The words, at most 255 characters.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The body as plain JSON, members in the published order; `at` is when we answer.
    pub fn to_json(&self, at: DateTime<Utc>, form: CodeForm) -> String {
        let number = self.code.number();
        let code = match form {
            CodeForm::String => format!("\"{number}\""),
            CodeForm::Number => number.to_string(),
        };
        format!(
            r#"{{"responseTime":"{}","responseCode":{code},"responseDescription":{}}}"#,
            response_time(at),
            json::quoted(&self.description),
        )
    }

    /// Private: whoever could choose the code could answer 1000 too early.
    fn new(code: Code, description: &str) -> Reply {
        Reply { code, description: description.chars().take(DESCRIPTION_CHARS_MAX).collect() }
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        Self::new(Code::Refused(refusal.code), &refusal.description)
    }
}

/// `yyyy-MM-dd HH:mm:ss.SSSS` in Philippine time. chrono has no format for four digits of a
/// second. The remainder keeps a leap second, which chrono counts past 10⁹ ns, within them.
fn response_time(at: DateTime<Utc>) -> String {
    let seconds = at.with_timezone(&MANILA).format("%Y-%m-%d %H:%M:%S");
    format!("{seconds}.{:04}", at.timestamp_subsec_nanos() % 1_000_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::amount::Amount;
    use crate::domain::collection::{PayChannel, Phone};
    use crate::domain::time::{AcceptedAt, CollectedAt};

    /// Stands for the store's receipt.
    struct Committed;
    impl ProofOfDurability for Committed {}

    fn at(rfc3339: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(rfc3339).unwrap().to_utc()
    }

    fn first() -> First {
        First {
            sequence: 7,
            amount: Amount::parse("3900").unwrap(),
            channel: PayChannel::parse("1").unwrap(),
            phone: Phone::parse("09270348095").unwrap(),
            collected_at: CollectedAt::parse("2018-06-18 17:50:00").unwrap(),
            accepted_at: AcceptedAt::new(at("2018-06-18T09:52:10.521Z")),
        }
    }

    fn refused(code: RefusalCode, description: &str) -> Reply {
        Refusal { code, description: description.to_owned() }.into()
    }

    #[test]
    fn success_is_answered_as_the_published_sample_prints_it() {
        assert_eq!(
            Reply::success(&Committed).to_json(at("2018-06-18T09:52:10.5211Z"), CodeForm::String),
            concat!(
                r#"{"responseTime":"2018-06-18 17:52:10.5211","responseCode":"1000","#,
                r#""responseDescription":"Success"}"#
            )
        );
    }

    #[test]
    fn the_code_may_be_a_number_as_in_the_published_tables() {
        assert_eq!(
            Reply::verification_failed().to_json(at("2025-12-31T16:00:00Z"), CodeForm::Number),
            concat!(
                r#"{"responseTime":"2026-01-01 00:00:00.0000","responseCode":-1001,"#,
                r#""responseDescription":"Verification failed"}"#
            )
        );
    }

    #[test]
    fn every_reply_has_its_documented_code_and_words() {
        let stands = "the first stands: 3900.00 at 2018-06-18 17:52:10";
        let amount = format!("same receipt, different amount; {stands}");
        let channel = format!("same receipt, different payChannel; {stands}");
        for (reply, number, words) in [
            (Reply::success(&Committed), 1000, "Success"),
            (Reply::verification_failed(), -1001, "Verification failed"),
            (Reply::unpredictable(), -1009, "An Unpredictable exception occurs"),
            (Reply::already_collected(&Committed), -1015, "The transaction has been collected"),
            (Reply::already_paid(), -1026, "Transactions has been paid"),
            (refused(RefusalCode::Malformed, "a"), 2001, "a"),
            (refused(RefusalCode::Missing, "b"), 2002, "b"),
            (refused(RefusalCode::WrongValue, "c"), 2003, "c"),
            (refused(RefusalCode::ActionNotSupported, "d"), 2004, "d"),
            (Reply::conflict(ConflictField::Amount, &first()), 2005, amount.as_str()),
            (Reply::conflict(ConflictField::PayChannel, &first()), 2005, channel.as_str()),
            (refused(RefusalCode::PrefixNotCollected, "e"), 2006, "e"),
        ] {
            assert_eq!((reply.code().number(), reply.description()), (number, words));
        }
    }

    #[test]
    fn the_time_has_four_digits_of_a_second_that_are_cut_not_rounded() {
        for (utc, expected) in [
            ("2018-06-18T09:52:10Z", "2018-06-18 17:52:10.0000"),
            ("2018-06-18T09:52:10.00009Z", "2018-06-18 17:52:10.0000"),
            ("2018-06-18T09:52:10.0001Z", "2018-06-18 17:52:10.0001"),
            ("2018-06-18T16:59:59.999999999Z", "2018-06-19 00:59:59.9999"),
            ("2016-12-31T23:59:60.5Z", "2017-01-01 07:59:60.5000"),
        ] {
            assert_eq!(response_time(at(utc)), expected);
        }
    }

    #[test]
    fn a_long_description_is_cut_between_characters_and_an_odd_one_is_escaped() {
        let long = refused(RefusalCode::Malformed, &"Ñ".repeat(300));
        assert_eq!(long.description(), "Ñ".repeat(255));
        let odd = refused(RefusalCode::Malformed, "the name \"a\\b\"\n\u{1}");
        let json = odd.to_json(at("2018-06-18T09:52:10Z"), CodeForm::String);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["responseDescription"], odd.description());
    }
}
