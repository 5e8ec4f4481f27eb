//! A reply as whoever sent a confirmation reads it: its code and its words.
//!
//! Liberal where nothing hangs on it, because who answers may be any partner's program; what a code
//! means for the collection is not known here.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::cipher::{Password, Sealed};
use super::request::form_of;
use crate::domain::collection::is_printable;
use crate::domain::provenance::Form;

/// The published length of `responseDescription` (all seeds).
const DESCRIPTION_CHARS_MAX: usize = 255;

/// What head office replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `responseCode`.
    pub code: i32,
    /// `responseDescription`, at most 255 characters, each printable; empty when there is none.
    pub description: String,
}

impl Answer {
    /// Reads one JSON object with `responseCode` as a string or a number. One comma before the
    /// closing brace is forgiven: the sample of seed 004 has it. Time and unknown members are not
    /// judged.
    ///
    /// Plain JSON is taken whether or not there is a password, since -1001 always comes plain;
    /// anything else is opened with `password`.
    pub fn read(body: &[u8], password: Option<&Password>) -> Result<Answer, Unreadable> {
        let body = body.trim_ascii();
        if form_of(body) == Form::Json {
            // A wrong encoding of the description must not hide that the collection was taken.
            return Answer::from_json(&String::from_utf8_lossy(body));
        }
        if body.is_empty() {
            return Err(Unreadable::Empty);
        }
        if body.starts_with(b"<") {
            return Err(Unreadable::WebPage);
        }
        let sealed = Sealed::decode(body).ok_or(Unreadable::NoReply)?;
        let password = password.ok_or(Unreadable::NotOpened)?;
        let text = password.open(&sealed).ok_or(Unreadable::NotOpened)?;
        Answer::from_json(text.trim_ascii())
    }

    fn from_json(text: &str) -> Result<Answer, Unreadable> {
        // serde takes an array for a struct, too.
        if !text.starts_with('{') {
            return Err(Unreadable::NoReply);
        }
        let forgiven = without_trailing_comma(text);
        let members: Members<'_> = serde_json::from_str(text)
            .or_else(|error| serde_json::from_str(forgiven.as_deref().ok_or(error)?))
            .map_err(|_: serde_json::Error| Unreadable::NoReply)?;
        let code = decoded(members.code).unwrap_or(Cow::Borrowed(members.code.get()));
        // Rust's numbers may have a plus sign, the protocol's may not.
        let code = Some(code).filter(|code| !code.starts_with('+'));
        let code = code.and_then(|code| code.parse().ok()).ok_or(Unreadable::NoReply)?;
        let description = members.description.and_then(decoded).unwrap_or_default();
        let harmless = |c| if is_printable(c) { c } else { ' ' };
        Ok(Answer {
            code,
            description: description.chars().take(DESCRIPTION_CHARS_MAX).map(harmless).collect(),
        })
    }
}

/// Why a body is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// There is nothing in it.
    Empty,
    /// HTML or XML.
    WebPage,
    /// Encrypted, and our password, if there is one, does not open it.
    NotOpened,
    /// No JSON object with a `responseCode`.
    NoReply,
}

/// In words for a person, as what came back.
impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreadable::Empty => "an empty body instead of a reply",
            Unreadable::WebPage => {
                "a web page instead of a reply: is there a login page on this line?"
            }
            Unreadable::NotOpened => {
                "an encrypted reply that our password does not open: is it in encryption_file?"
            }
            Unreadable::NoReply => "something that is no reply: is the url right?",
        })
    }
}

/// What is looked at in a reply. A name that stands twice makes it unreadable.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, rename = "responseCode")]
    code: &'a RawValue,
    #[serde(borrow, default, rename = "responseDescription")]
    description: Option<&'a RawValue>,
}

/// The text of a JSON string, borrowed where it has no escapes.
fn decoded(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    serde_json::from_str(value.get()).ok().map(|Text(text)| text)
}

/// The object without the one comma before its closing brace, if it has one.
fn without_trailing_comma(object: &str) -> Option<String> {
    let members = object.strip_suffix('}')?.trim_ascii_end().strip_suffix(',')?;
    Some(format!("{members}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "k3yForTests-01";

    /// The answer of the sample of edition 004, its trailing comma included.
    const SAMPLE_004: &str = r#"{
    "responseTime":"2018-06-18 17:52:10.5211",
    "responseCode":"1000",
    "responseDescription":"Success",
}"#;

    fn code(body: &str) -> Result<i32, Unreadable> {
        Answer::read(body.as_bytes(), None).map(|answer| answer.code)
    }

    fn description(json: &str) -> String {
        let body = format!(r#"{{"responseCode":"1","responseDescription":{json}}}"#);
        Answer::read(body.as_bytes(), None).unwrap().description
    }

    #[test]
    fn the_sample_with_its_trailing_comma_is_a_reply() {
        let expected = Answer { code: 1000, description: "Success".to_owned() };
        assert_eq!(Answer::read(SAMPLE_004.as_bytes(), None), Ok(expected));
        assert_eq!(code(r#" {"responseCode":1000 , } "#), Ok(1000));
    }

    #[test]
    fn the_code_is_a_string_or_a_number_and_nothing_else_is_judged() {
        for (body, expected) in [
            (r#"{"responseCode":"1000"}"#, 1000),
            (r#"{"responseCode":1000}"#, 1000),
            (r#"{"responseCode":"-1015"}"#, -1015),
            (r#"{"responseCode":-1015}"#, -1015),
            (r#"{"responseC\u006fde":"\u0031000"}"#, 1000),
            ("\r\n{\"responseCode\":\"2003\",\"responseTime\":null}\n", 2003),
            (r#"{"x":[[{"a":1,"a":2}]],"responseCode":1,"responseDescription":7}"#, 1),
        ] {
            assert_eq!(code(body), Ok(expected), "{body}");
        }
        let latin_1 = b"{\"responseCode\":\"1000\",\"responseDescription\":\"PARA\xd1AQUE\"}";
        assert_eq!(Answer::read(latin_1, None).unwrap().code, 1000);
    }

    #[test]
    fn what_is_not_one_object_with_a_code_is_no_reply() {
        for body in [
            "{}",
            "{,}",
            r#"{"responseCode":null}"#,
            r#"{"responseCode":""}"#,
            r#"{"responseCode":"+1000"}"#,
            r#"{"responseCode":"1000 "}"#,
            r#"{"responseCode":"1000.0"}"#,
            r#"{"responseCode":1e3}"#,
            r#"{"responseCode":99999999999}"#,
            r#"{"responseCode":["1000"]}"#,
            r#"{"responsecode":"1000"}"#,
            r#"{"responseCode":"1000","responseCode":"2003"}"#,
            r#"{"responseCode":"1000",,}"#,
            r#"{"responseCode":"1000"},"#,
            r#"{"responseCode":"1000"}{"responseCode":"1000"}"#,
            r#"{"responseCode":"1000""#,
            r#"["1000"]"#,
            "\"1000\"",
            "1000",
            "OK",
        ] {
            assert_eq!(code(body), Err(Unreadable::NoReply), "{body}");
        }
    }

    #[test]
    fn an_empty_body_and_a_web_page_are_told_apart() {
        assert_eq!(code(" \n"), Err(Unreadable::Empty));
        assert_eq!(code("\n<!DOCTYPE html><title>Login</title>"), Err(Unreadable::WebPage));
    }

    #[test]
    fn an_encrypted_reply_is_opened_and_a_plain_one_is_always_taken() {
        let password = Password::new(PASSWORD);
        let read = |body: &str| Answer::read(body.as_bytes(), Some(&password));
        assert_eq!(read(&password.seal(SAMPLE_004)).map(|answer| answer.code), Ok(1000));
        assert_eq!(read(r#"{"responseCode":"-1001"}"#).map(|answer| answer.code), Ok(-1001));
        let foreign = Password::new("k3yForTests-02").seal(SAMPLE_004);
        assert_eq!(read(&foreign), Err(Unreadable::NotOpened));
        assert_eq!(read(&password.seal("no reply")), Err(Unreadable::NoReply));
        assert_eq!(code(&password.seal(SAMPLE_004)), Err(Unreadable::NotOpened));
    }

    #[test]
    fn the_description_is_short_and_harmless() {
        assert_eq!(description("\"PARA\u{d1}AQUE\""), "PARA\u{d1}AQUE");
        assert_eq!(description(r#""a\n\u001b[2Jb\u202ec""#), "a  [2Jb c");
        assert_eq!(description(&format!("\"{}\"", "\u{d1}".repeat(300))), "\u{d1}".repeat(255));
        for odd in ["null", "7", r#""\ud800""#] {
            assert_eq!(description(odd), "", "{odd}");
        }
    }
}
