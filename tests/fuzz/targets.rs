//! What is tried: each target takes any bytes, asserts what must hold of them, and names the
//! outcome so that new ones are noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use serde_json::value::RawValue;
use tilld::config::Config;
use tilld::domain::contract::Mode;
use tilld::skypay::answer::Answer;
use tilld::skypay::cipher::{Password, Sealed};
use tilld::skypay::outgoing;
use tilld::skypay::request::{Request, Terms, form_of};
use tilld::store::reader::{Filter, Reader};
use tilld::store::rebuild::rebuild;

const PASSWORD: &str = "k3yForTests-01";

/// The tape that the damaged ones were made from.
const WHOLE_TAPE: &[u8] = include_bytes!("corpus/tape/whole.jsonl");

/// A body as a till posts it.
pub fn request(input: &[u8]) -> String {
    let form = form_of(input);
    let request = match Request::parse(input) {
        Ok(request) => request,
        Err(refusal) => return shape(&format!("{form:?} {refusal:?}")),
    };
    let kept = request.kept_text();
    if let Some(key) = request.authentication().filter(|key| key.len() >= 8) {
        assert!(!kept.contains(key), "a refusal that is kept tells the key");
    }
    let _ = (request.body_digest(), request.contract_text());
    let mut outcome = format!("{:?}", request.user_name().is_some());
    for mode in [Mode::Live, Mode::Sandbox] {
        match request.confirmation(&Terms { mode, prefixes: &[] }) {
            Err(refusal) => outcome += &shape(&format!(" {refusal:?}")),
            Ok(confirmation) => {
                let collection = &confirmation.collection;
                let unknown = confirmation.unknown_fields.as_deref().unwrap_or_default();
                if let Some(key) = request.authentication().filter(|key| key.len() >= 8) {
                    assert!(!unknown.contains(key), "a field that is kept tells the key");
                }
                // What goes on to head office is the same collection there.
                let name = tilld::domain::collection::UserName::parse("branch").expect("a name");
                let body = outgoing::body(collection, &name, "key");
                let again = Request::parse(body.as_bytes()).expect("what we send is well formed");
                let again = again.confirmation(&Terms { mode, prefixes: &[] });
                assert_eq!(&again.expect("and complete").collection, collection);
                outcome += &shape(&format!(" taken {:?}", confirmation.flags));
            }
        }
    }
    outcome
}

/// A body as SkyPay's servers send it.
pub fn cipher(input: &[u8]) -> String {
    let password = Password::new(PASSWORD);
    if let Ok(text) = str::from_utf8(input) {
        let sealed = Sealed::decode(password.seal(text).as_bytes()).expect("it is base64");
        assert_eq!(password.open(&sealed).as_deref(), Some(text));
    }
    match Sealed::decode(input) {
        None => "not sealed".to_owned(),
        Some(sealed) => match password.open(&sealed) {
            None => "does not open".to_owned(),
            Some(text) => format!("opens: {}", text.len() / 16),
        },
    }
}

/// What may come back from head office.
pub fn answer(input: &[u8]) -> String {
    let password = Password::new(PASSWORD);
    let plain = Answer::read(input, None);
    if let Ok(answer) = &plain {
        if matches!(answer.code, 1000 | -1015) {
            // What says that a collection is at head office says so to every reader of JSON.
            assert_eq!(plain_code(input), answer.code.to_string());
        }
        assert!(answer.description.chars().count() <= 255);
        assert!(!answer.description.contains(char::is_control));
    }
    let opened = Answer::read(input, Some(&password));
    let told = |read: Result<Answer, _>| match read {
        Ok(answer) => format!("code {}", answer.code.clamp(-1100, 2100)),
        Err(unreadable) => format!("{unreadable:?}"),
    };
    format!("{} {}", told(plain), told(opened))
}

/// The code of a reply by other means, without zeros before it; its last comma is forgiven.
fn plain_code(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input.trim_ascii());
    let members = text.strip_suffix('}').expect("an object").trim_ascii_end();
    let members = members.strip_suffix(',').unwrap_or(members);
    let members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&format!("{members}}}")).expect("JSON");
    let code: Value = serde_json::from_str(members["responseCode"].get()).expect("a value");
    let code = code.as_str().map_or_else(|| code.to_string(), str::to_owned);
    let (sign, digits) = code.strip_prefix('-').map_or(("", &*code), |digits| ("-", digits));
    format!("{sign}{}", digits.trim_start_matches('0'))
}

/// A text without its numbers, of which there are too many.
fn shape(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// A configuration as somebody typed it.
pub fn config(input: &[u8]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tilld.toml");
    fs::write(&path, input).expect("a written configuration");
    match Config::load(&path) {
        Ok(config) => format!("{} callers, {}", config.callers.len(), config.upstream.is_some()),
        Err(error) => {
            let text = error.to_string();
            let rest = text.strip_prefix(&path.display().to_string()).expect("it names the file");
            assert!(rest.lines().count() > 1, "it says what to do: {text}");
            shape(rest.lines().last().unwrap_or_default())
        }
    }
}

/// A tape of which a disk has made what it likes.
pub fn tape(input: &[u8]) -> String {
    let told = collections_of(WHOLE_TAPE).expect("the whole one can be rebuilt from").0;
    match collections_of(input) {
        Err(kind) => kind,
        Ok((collections, damage)) => {
            let invented: Vec<_> = collections.difference(&told).collect();
            assert!(invented.is_empty(), "{invented:?}");
            format!("{} of {}, {damage}", collections.len(), told.len())
        }
    }
}

/// What a database that is made from this tape alone holds, and how much damage was named.
fn collections_of(tape: &[u8]) -> Result<(BTreeSet<String>, usize), String> {
    let state = tempfile::tempdir().expect("a directory");
    fs::create_dir(state.path().join("tape")).expect("a directory");
    let file = state.path().join("tape/000001-2026-11-21.jsonl");
    fs::write(file, tape).expect("a written tape");
    let rebuilt = rebuild(state.path(), Mode::Live, true);
    let rebuilt = rebuilt.map_err(|error| format!("{:?}", error.kind))?;
    let reader = Reader::open(state.path()).expect("a database that was just made");
    let listed = reader.collections(&Filter::default(), None, 500).expect("and can be read");
    let collections = listed.iter().map(|listed| {
        assert!(listed.is_intact, "{listed:?}");
        format!("{:?}", listed.entry)
    });
    Ok((collections.collect(), rebuilt.damage.len()))
}
