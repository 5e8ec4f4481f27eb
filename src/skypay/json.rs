//! Strict JSON: one object, each value in its original text, and nothing that two readers could
//! take for two different things.
//!
//! It must not know any field of the protocol. Its descriptions never hold a value, because one of
//! the values is a secret.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::Invalid;

/// A byte order mark, which RFC 8259 forbids at the start of JSON.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Objects and arrays within each other, the body itself included. A confirmation needs one.
const NESTING_MAX: usize = 8;

/// A member of a JSON object. The names of one object's members differ.
pub struct Member<'a> {
    /// The name, its escapes undone.
    pub name: Cow<'a, str>,
    /// The value as it was written.
    pub raw: &'a str,
    value: Value<'a>,
}

/// What a value is, as far as the protocol tells values apart.
enum Value<'a> {
    Null,
    String(Cow<'a, str>),
    /// A number without fraction and exponent.
    Integer,
    /// Any other number. It has no value here: it might not fit into anything but its own text.
    Number,
    /// A boolean, an object or an array, which no field takes.
    Other,
}

impl Member<'_> {
    /// Whether the value is null, empty or only blanks.
    pub fn is_absent(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::String(text) => text.trim().is_empty(),
            _ => false,
        }
    }

    /// The text of a string, its escapes undone.
    pub fn string(&self) -> Result<&str, Invalid> {
        match &self.value {
            Value::String(text) => Ok(text),
            _ => Err(Invalid { expected: "a JSON string" }),
        }
    }

    /// The text of a string, or an integer as it was written.
    pub fn string_or_integer(&self) -> Result<&str, Invalid> {
        match &self.value {
            Value::String(text) => Ok(text),
            Value::Integer => Ok(self.raw),
            _ => Err(Invalid { expected: "a JSON string or integer" }),
        }
    }

    /// The text of a string, or a number as it was written.
    pub fn string_or_number(&self) -> Result<&str, Invalid> {
        match &self.value {
            Value::String(text) => Ok(text),
            Value::Integer | Value::Number => Ok(self.raw),
            _ => Err(Invalid { expected: "a JSON number or string" }),
        }
    }

    /// Name and value as they stand within an object.
    pub fn to_json(&self) -> String {
        let mut text = quoted(&self.name);
        text.extend([":", self.raw]);
        text
    }
}

/// The members of exactly one JSON object in their order, or what is malformed and where: invalid
/// UTF-8, a byte order mark, no JSON, a lone surrogate, too deep nesting, or a name that stands
/// twice in one object at any depth.
pub fn object(body: &[u8]) -> Result<Vec<Member<'_>>, String> {
    let body = std::str::from_utf8(body).map_err(|error| {
        format!("the body is not UTF-8 after its first {} bytes", error.valid_up_to())
    })?;
    if body.starts_with(BYTE_ORDER_MARK) {
        return Err("the body begins with a byte order mark".to_owned());
    }
    // serde_json skips a raw value with a stack on the heap, so depth costs nothing here.
    let whole: &RawValue =
        serde_json::from_str(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    if !whole.get().starts_with('{') {
        return Err("the body is not a JSON object".to_owned());
    }
    Walk { body }.object(whole, 1)
}

/// `text` as a JSON string, quotes included.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is always JSON")
}

/// Looks at every value of a body that is known to be JSON, for what RFC 8259 lets through and
/// this protocol does not.
#[derive(Clone, Copy)]
struct Walk<'a> {
    body: &'a str,
}

impl<'a> Walk<'a> {
    fn object(self, object: &'a RawValue, depth: usize) -> Result<Vec<Member<'a>>, String> {
        self.check_depth(object, depth)?;
        let Names(members) = self.decode(object)?;
        let mut seen = BTreeSet::new();
        if let Some((name, _)) = members.iter().find(|(name, _)| !seen.insert(&**name)) {
            return Err(format!("the name {name:?} stands twice in one object"));
        }
        let judged = members.into_iter().map(|(name, raw)| {
            let value = self.value(raw, depth)?;
            Ok(Member { name, raw: raw.get(), value })
        });
        judged.collect()
    }

    fn array(self, array: &'a RawValue, depth: usize) -> Result<(), String> {
        self.check_depth(array, depth)?;
        let elements: Vec<&RawValue> = self.decode(array)?;
        elements.into_iter().try_for_each(|element| self.value(element, depth).map(drop))
    }

    /// Judges a value that stands within `depth` objects and arrays.
    fn value(self, value: &'a RawValue, depth: usize) -> Result<Value<'a>, String> {
        match value.get().as_bytes() {
            [b'n', ..] => Ok(Value::Null),
            [b'"', ..] => self.decode(value).map(|Text(text)| Value::String(text)),
            [b'{', ..] => self.object(value, depth + 1).map(|_| Value::Other),
            [b'[', ..] => self.array(value, depth + 1).map(|()| Value::Other),
            [b'-' | b'0'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
                Ok(Value::Integer)
            }
            [b'-' | b'0'..=b'9', ..] => Ok(Value::Number),
            _ => Ok(Value::Other),
        }
    }

    fn check_depth(self, value: &RawValue, depth: usize) -> Result<(), String> {
        if depth <= NESTING_MAX {
            return Ok(());
        }
        let place = self.place(value, 1, 1);
        Err(format!("objects and arrays more than {NESTING_MAX} deep at {place}"))
    }

    /// Decodes one value. Its syntax is known to be right, so what can fail is a text that no
    /// Unicode string holds.
    fn decode<T: Deserialize<'a>>(self, value: &'a RawValue) -> Result<T, String> {
        serde_json::from_str(value.get()).map_err(|error| {
            let place = self.place(value, error.line(), error.column());
            format!("a lone surrogate at {place}")
        })
    }

    /// Where in the body a line and column of one of its values are; all count from 1.
    fn place(self, value: &RawValue, line: usize, column: usize) -> String {
        let before = &self.body[..value.get().as_ptr().addr() - self.body.as_ptr().addr()];
        let lines_before = before.matches('\n').count();
        let columns_before =
            if line == 1 { before.len() - before.rfind('\n').map_or(0, |at| at + 1) } else { 0 };
        format!("line {} column {}", lines_before + line, columns_before + column)
    }
}

/// A decoded string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's names, decoded but not judged, and its values as they were written.
struct Names<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Names<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collector;

        impl<'de> Visitor<'de> for Collector {
            type Value = Names<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), raw)) = map.next_entry()? {
                    members.push((name, raw));
                }
                Ok(Names(members))
            }
        }

        deserializer.deserialize_map(Collector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn malformed(body: impl AsRef<[u8]>) -> String {
        let body = body.as_ref();
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
        object(body).err().unwrap_or_else(|| panic!("{shown} was taken"))
    }

    fn nested(open: &str, close: &str, depth: usize) -> String {
        format!("{{\"x\":{}0{}}}", open.repeat(depth), close.repeat(depth))
    }

    #[test]
    fn members_keep_their_order_and_their_original_text() {
        let body = r#" {"b" : 1.50e+2 , "\u0061":"\u00d1" ,"c":{ "d" :[ 1 ]}} "#;
        let members = object(body.as_bytes()).unwrap();
        let texts: Vec<String> = members.iter().map(Member::to_json).collect();
        assert_eq!(texts, [r#""b":1.50e+2"#, r#""a":"\u00d1""#, r#""c":{ "d" :[ 1 ]}"#]);
        assert_eq!(members[1].string(), Ok("Ñ"));
    }

    #[test]
    fn values_are_told_apart_by_how_they_are_written() {
        let kinds = |value: &str| {
            let body = format!("{{\"x\":{value}}}");
            let members = object(body.as_bytes()).unwrap();
            let x = &members[0];
            (x.string().is_ok(), x.string_or_integer().is_ok(), x.string_or_number().is_ok())
        };
        assert_eq!(kinds("\"5\""), (true, true, true));
        for integer in ["0", "-0", "5", "-123", "12345678901234567890123"] {
            assert_eq!(kinds(integer), (false, true, true), "{integer}");
        }
        for number in ["5.0", "1e3", "1E3", "-1.5", "1e400", "1e-400"] {
            assert_eq!(kinds(number), (false, false, true), "{number}");
        }
        for other in ["null", "true", "false", "[]", "{}", "[\"5\"]"] {
            assert_eq!(kinds(other), (false, false, false), "{other}");
        }
    }

    #[test]
    fn null_empty_and_blank_values_are_absent() {
        for (value, absent) in [
            ("null", true),
            ("\"\"", true),
            ("\" \\t\u{a0}\\u3000\"", true),
            ("\"0\"", false),
            ("\"\\u0000\"", false),
            ("0", false),
            ("false", false),
            ("[]", false),
        ] {
            let body = format!("{{\"x\":{value}}}");
            assert_eq!(object(body.as_bytes()).unwrap()[0].is_absent(), absent, "{value}");
        }
    }

    #[test]
    fn what_is_not_exactly_one_object_is_malformed() {
        for body in [
            "",
            " ",
            "null",
            "[]",
            "[{}]",
            "\"{}\"",
            "{",
            "}",
            "{}{}",
            "{} x",
            "{\"a\":1",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{\"a\":}",
            "{a:1}",
            "{'a':1}",
            "{1:1}",
            "{}\u{0}",
            "{\u{a0}}",
            "{} // a comment",
        ] {
            malformed(body);
        }
    }

    #[test]
    fn a_syntax_error_is_told_with_its_place() {
        assert_eq!(
            malformed("{\"a\":1,\n \"b\":+5}"),
            "the body is not JSON: expected value at line 2 column 6"
        );
    }

    #[test]
    fn numbers_that_are_not_json_are_malformed() {
        for number in ["+5", "5.", ".5", "-", "01", "1e", "0x10", "NaN", "-NaN", "Infinity", "1_0"]
        {
            malformed(format!("{{\"x\":{number}}}"));
        }
    }

    #[test]
    fn a_byte_order_mark_is_malformed() {
        assert_eq!(malformed("\u{feff}{}"), "the body begins with a byte order mark");
        malformed(" \u{feff}{}");
        malformed("{}\u{feff}");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_malformed() {
        assert_eq!(malformed(b"{\"a\":\"\xff\"}"), "the body is not UTF-8 after its first 6 bytes");
        malformed(b"{\"a\":\"\xc3\"}"); // half a character
        malformed(b"{\"a\":\"\xed\xa0\x80\"}"); // a surrogate in UTF-8
        malformed(b"{\"a\":\"\xc0\x80\"}"); // NUL in two bytes
        malformed("{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    }

    #[test]
    fn a_raw_control_character_is_malformed_and_an_escaped_one_is_not() {
        for control in ["\u{0}", "\u{1}", "\n", "\t", "\u{1f}"] {
            malformed(format!("{{\"a\":\"{control}\"}}"));
            malformed(format!("{{\"{control}\":1}}"));
        }
        assert_eq!(object(br#"{"a":"\u0000\n"}"#).unwrap()[0].string(), Ok("\0\n"));
    }

    #[test]
    fn a_lone_surrogate_is_malformed_wherever_it_stands() {
        for lone in
            [r"\ud800", r"\uDFFF", r"\ud800x", r"\ud800\n", r"\ud800\ud800", r"\udc00\ud800"]
        {
            for body in [
                format!("{{\"a\":\"{lone}\"}}"),
                format!("{{\"{lone}\":1}}"),
                format!("{{\"a\":[{{\"b\":\"{lone}\"}}]}}"),
                format!("{{\"a\":[{{\"{lone}\":1}}]}}"),
            ] {
                assert!(malformed(&body).starts_with("a lone surrogate at line 1 "), "{body}");
            }
        }
        assert_eq!(object(br#"{"a":"\ud83d\ude00"}"#).unwrap()[0].string(), Ok("😀"));
    }

    #[test]
    fn the_place_of_a_nested_fault_counts_from_the_beginning_of_the_body() {
        let first_line = r#"{"a":"\udc00"}"#;
        let column = first_line.find("dc00").unwrap() + 4;
        assert_eq!(malformed(first_line), format!("a lone surrogate at line 1 column {column}"));
        let third_line = "{\"ñ\":1,\n\n \"b\":\"\\udc00\"}";
        assert_eq!(malformed(third_line), "a lone surrogate at line 3 column 12");
        let within = "{\"a\":\n {\"b\":1,\n\"\\udc00\":1}}";
        assert_eq!(malformed(within), "a lone surrogate at line 3 column 7");
    }

    #[test]
    fn a_name_that_stands_twice_is_malformed_at_any_depth_and_however_it_is_escaped() {
        for body in [
            r#"{"amount":1,"amount":1}"#,
            r#"{"amount":1,"x":2,"amo\u0075nt":1}"#,
            r#"{"x":{"amount":1,"\u0061mount":2}}"#,
            r#"{"x":[0,[{"amount":1,"amount":2}]]}"#,
        ] {
            assert_eq!(malformed(body), "the name \"amount\" stands twice in one object");
        }
        assert!(object(br#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#).is_ok());
    }

    #[test]
    fn eight_levels_are_taken_and_nine_are_malformed() {
        for (open, close) in [("[", "]"), ("{\"x\":", "}"), ("[{\"x\":", "}]")] {
            let levels = open.matches(['[', '{']).count();
            assert!(object(nested(open, close, 7 / levels).as_bytes()).is_ok());
            let described = malformed(nested(open, close, 8));
            assert!(described.starts_with("objects and arrays more than 8 deep at"), "{described}");
        }
    }

    #[test]
    fn ten_thousand_levels_do_not_overflow_the_stack() {
        for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
            malformed(nested(open, close, 10_000));
            malformed(nested(open, "", 10_000));
        }
    }

    #[test]
    fn no_description_repeats_a_value() {
        for body in [
            "\"s3cret\"",
            "{\"authentication\":s3cret}",
            "{\"authentication\":\"s3cret",
            "{\"authentication\":\"s3cret\\q\"}",
            "{\"authentication\":\"s3cret\n\"}",
            "{\"authentication\":\"s3cret\\ud800\"}",
            "{\"authentication\":\"s3cret\"}\"s3cret\"",
            "{\"authentication\":\"s3cret\",\"authentication\":\"s3cret\"}",
            "{\"authentication\":[[[[[[[[[[\"s3cret\"]]]]]]]]]]}",
        ] {
            assert!(!malformed(body).contains("s3cret"), "{body}");
        }
    }
}
