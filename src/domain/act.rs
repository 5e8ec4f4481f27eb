//! What people say and whom they claim to be when they do something about the books.

use std::fmt;

use super::Invalid;
use super::collection::is_printable;
use super::decision::Sequence;

/// A note, or a reason: what a person writes for those who read the books later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// The longest text.
    pub const CHARS_MAX: usize = 500;

    /// Trims outer blanks and takes 1 to 500 characters that have a glyph or are a space: on one
    /// line, and harmless for a terminal.
    pub fn parse(text: &str) -> Result<Words, Invalid> {
        let text = text.trim();
        let is_short = (1..=Self::CHARS_MAX).contains(&text.chars().count());
        if is_short && text.chars().all(is_printable) {
            Ok(Words(text.to_owned()))
        } else {
            Err(Invalid { expected: "1 to 500 printable characters on one line" })
        }
    }

    /// The words as they were written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who did something, as claimed over the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// The longest name, in characters.
    pub const CHARS_MAX: usize = 64;

    /// Takes 1 to 64 characters, none of them control.
    pub fn parse(name: &str) -> Result<Actor, Invalid> {
        let is_short = (1..=Self::CHARS_MAX).contains(&name.chars().count());
        if is_short && !name.contains(char::is_control) {
            Ok(Actor(name.to_owned()))
        } else {
            Err(Invalid { expected: "a name of 1 to 64 characters" })
        }
    }

    /// The name as it was claimed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an act is about. Written and read as `collection:17` and `refusal:7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The collection of this number.
    Collection(Sequence),
    /// The kept refusal of this number.
    Refusal(i64),
}

impl About {
    /// Parses the form in which it is written; anything else may be a contract, a receipt or a
    /// bare number.
    pub fn parse(text: &str) -> Option<About> {
        let (kind, number) = text.split_once(':')?;
        let number = number.parse().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit()))?;
        match kind {
            "collection" => Some(About::Collection(number)),
            "refusal" => Some(About::Refusal(number)),
            _ => None,
        }
    }
}

/// A number as it is printed: with a sign or zeros before it, it is a receipt.
pub fn bare_number(text: &str) -> Option<Sequence> {
    text.parse().ok().filter(|number: &Sequence| number.to_string() == text)
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            About::Collection(number) => write!(f, "collection:{number}"),
            About::Refusal(number) => write!(f, "refusal:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_short_line_that_steers_no_terminal() {
        let long = "Ñ".repeat(500);
        for text in ["payer came back", " Ñandú: 3,900 pesos (twice?) ", "=1+1", &long] {
            assert_eq!(Words::parse(text).unwrap().as_str(), text.trim());
        }
        let too_long = "x".repeat(501);
        for text in ["", "  ", "a\nb", "a\tb", "\u{1b}[2J", "a\u{202e}b", "a\u{2028}b", &too_long] {
            assert!(Words::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_actor_has_a_short_name_without_control_characters() {
        for name in ["ana", "uid 1000", &"Ñ".repeat(64)] {
            assert_eq!(Actor::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "a\u{1b}b", &"x".repeat(65)] {
            assert!(Actor::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_an_act_is_about_is_read_as_it_is_written_and_nothing_else_is() {
        for about in [About::Collection(17), About::Refusal(1)] {
            assert_eq!(About::parse(&about.to_string()), Some(about));
        }
        for text in ["17", "refusal", "refusal:", "refusal:+1", "refusal:-1", "refusal:x", "R:1"] {
            assert_eq!(About::parse(text), None, "{text}");
        }
    }
}
