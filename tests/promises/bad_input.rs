//! Bad values: each gets a clear answer, and what was taken is what was meant.

use serde_json::json;

use crate::support::cipher::encrypt;
use crate::support::{
    Answer, Confirmation, Daemon, JSON, PATH, SKYPAY_PASSWORD, Setup, TEXT, Till,
};

fn post(till: &mut Till, confirmation: &Confirmation) -> Answer {
    till.post(PATH, JSON, &[], confirmation.text().as_bytes())
}

fn post_bytes(daemon: &Daemon, body: &[u8]) -> Answer {
    daemon.till().post(PATH, JSON, &[], body)
}

#[test]
fn amounts_are_read_from_their_text_to_the_centavo_or_refused() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for (text, centavos) in [
        ("3400.00", Some(340_000_i64)),
        ("3400.000", Some(340_000)),
        ("3900.0000", Some(390_000)),
        ("3400", Some(340_000)),
        ("0.01", Some(1)),
        ("0.1", Some(10)),
        ("1.10", Some(110)),
        ("4.35", Some(435)),
        ("1.005", None),
        ("99999999.99", Some(9_999_999_999)),
        ("100000000.00", None),
        ("9007199254740993.01", None),
        ("1e3", None),
        ("1E3", None),
        ("1.0e2", None),
        ("-0", None),
        ("-1", None),
        ("0", None),
        ("0.00", None),
        ("0.001", None),
        ("3400.001", None),
        ("3400.0000000000000000", None),
    ] {
        for raw in [text.to_owned(), json!(text).to_string()] {
            let confirmation = Confirmation::fresh().raw("amount", raw.as_str());
            let answer = post(&mut till, &confirmation);
            let expected = if centavos.is_some() { "1000" } else { "2003" };
            assert_eq!(answer.code(), expected, "{raw}: {answer:?}");
            if let Some(centavos) = centavos {
                let row = site.only(&confirmation.get("contractNumber"));
                assert_eq!(row["amount_centavos"], centavos, "{raw}");
            }
        }
    }
}

#[test]
fn amounts_that_are_text_only_are_refused() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for text in [
        "3,400.00",
        "3.400,00",
        "3400,00",
        "+5",
        "5.",
        ".5",
        "5 ",
        " 5",
        "5\u{a0}",
        "PHP 5",
        "₱5",
        "NaN",
        "Infinity",
        "0x10",
        "1_000",
        "٣٤٠٠",
        "３４００",
        "5\u{0}",
        "5\u{200f}",
        "007.50.00",
        "000000000000000000005",
    ] {
        let answer = post(&mut till, &Confirmation::fresh().with("amount", text));
        assert_eq!(answer.code(), "2003", "{text:?}: {answer:?}");
        assert!(answer.description().starts_with("amount: "), "{text:?}: {answer:?}");
    }
    for raw in ["true", "[\"5\"]", "{\"pesos\":5}"] {
        assert_eq!(post(&mut till, &Confirmation::fresh().raw("amount", raw)).code(), "2003");
    }
    for raw in ["NaN", "+5", "5.", ".5", "007", "0x10", "-", "1e", "Infinity"] {
        let answer = post(&mut till, &Confirmation::fresh().raw("amount", raw));
        assert_eq!(answer.code(), "2001", "{raw} is no JSON: {answer:?}");
    }
    assert!(site.all().is_empty());
}

#[test]
fn characters_that_a_person_cannot_see_are_refused_in_every_field() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let hidden = [
        "\\u0000", "\\u0007", "\\n", "\\u001b", "\\u007f", "\\u0085", "\\u200f", "\\u200b",
        "\\u202e", "\\u2066", "\\u2028", "\\ufeff", "\\u0378",
    ];
    for field in ["contractNumber", "amount", "phone", "receiptNumber", "collectedTime"] {
        for escape in hidden {
            let confirmation = Confirmation::fresh();
            let value = confirmation.get(field);
            let (start, end) = value.split_at(value.len() / 2);
            let raw = format!("\"{start}{escape}{end}\"");
            let answer = post(&mut till, &confirmation.raw(field, raw.as_str()));
            assert_eq!(answer.code(), "2003", "{field} {raw}: {answer:?}");
            let printed = answer.description().chars().all(|c| !c.is_control());
            assert!(printed, "{field} {raw}: {answer:?}");
        }
    }
    assert!(site.all().is_empty());
}

#[test]
fn a_refused_contract_number_is_kept_only_as_long_as_one_could_be() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh().with("contractNumber", "N".repeat(12_000));
    assert_eq!(daemon.code(&confirmation), "2003");
    let refusals = site.refusals();
    assert_eq!(refusals[0]["contract"], "N".repeat(50));
    assert!(refusals[0].to_string().len() < 6000, "{}", refusals[0]);
}

#[test]
fn lone_surrogates_are_malformed_wherever_they_stand() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for raw in ["\"\\ud800\"", "\"\\udc00\"", "\"a\\ud83dz\"", "\"\\ude00\\ud83d\""] {
        for field in ["receiptNumber", "userName", "note"] {
            let answer = post(&mut till, &Confirmation::fresh().raw(field, raw));
            assert_eq!(answer.code(), "2001", "{field} {raw}: {answer:?}");
        }
        let named = Confirmation::fresh().text().replace("\"phone\"", raw);
        assert_eq!(till.post(PATH, JSON, &[], named.as_bytes()).code(), "2001", "{raw} as a name");
    }
    let pair = Confirmation::fresh().raw("receiptNumber", "\"\\ud83e\\uddfe 7\"");
    assert_eq!(post(&mut till, &pair).code(), "1000", "a whole pair is one character");
}

#[test]
fn a_letter_has_one_identity_in_both_unicode_forms() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let composed = Confirmation::fresh().with("receiptNumber", "711|PARA\u{d1}AQUE");
    let decomposed = composed.clone().with("receiptNumber", "711|PARAN\u{303}AQUE");
    let escaped = composed.clone().raw("receiptNumber", "\"711|PARA\\u00d1AQUE\"");
    assert_eq!(daemon.code(&decomposed), "1000");
    assert_eq!(daemon.code(&composed), "-1015");
    assert_eq!(daemon.code(&escaped), "-1015");
    let row = site.only(&composed.get("contractNumber"));
    assert_eq!(row["receipt"], "711|PARA\u{d1}AQUE");
}

#[test]
fn dates_that_no_calendar_has_are_refused() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for time in [
        "2025-02-30 10:00:00",
        "2025-02-29 10:00:00",
        "2025-04-31 10:00:00",
        "2025-13-01 10:00:00",
        "2025-00-10 10:00:00",
        "2025-01-00 10:00:00",
        "2025-01-01 24:00:00",
        "2025-01-01 23:60:00",
        "2025-01-01 23:59:60",
        "-025-01-01 10:00:00",
        "0000-00-00 00:00:00",
    ] {
        let answer = post(&mut till, &Confirmation::fresh().with("collectedTime", time));
        assert_eq!(answer.code(), "2003", "{time}: {answer:?}");
    }
    let first_and_last = ["0001-01-01 00:00:00", "9999-12-31 23:59:59"];
    for time in first_and_last {
        let confirmation = Confirmation::fresh().with("collectedTime", time);
        assert_eq!(post(&mut till, &confirmation).code(), "1000", "{time} is a real instant");
    }
}

#[test]
fn nesting_10000_deep_is_malformed_and_costs_nothing() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let text = Confirmation::fresh().text();
    let open = text.trim_end_matches('}');
    for (name, deep) in [
        ("arrays", "[".repeat(10_000)),
        ("closed arrays", "[".repeat(7_000) + &"]".repeat(7_000) + "}"),
        ("objects", "{\"a\":".repeat(3_000)),
    ] {
        let body = format!("{open},\"deep\":{deep}");
        assert_eq!(post_bytes(&daemon, body.as_bytes()).code(), "2001", "{name}");
        let inside = encrypt(SKYPAY_PASSWORD, &body[..body.len().min(12_000)]);
        let answer = daemon.till().post(PATH, TEXT, &[], inside.as_bytes());
        assert_eq!(answer.code(), "-1001", "{name}, encrypted");
    }
    assert_eq!(post_bytes(&daemon, "[".repeat(10_000).as_bytes()).code(), "-1001");
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
}

#[test]
fn an_empty_body_or_only_blanks_is_answered() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for body in ["", " ", "\r\n\r\n"] {
        // No first byte, no JSON: it counts as encrypted, and nothing opens it.
        assert_eq!(post_bytes(&daemon, body.as_bytes()).code(), "-1001", "{body:?}");
    }
}

#[test]
fn a_byte_order_mark_before_the_object_records_nothing() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let text = Confirmation::fresh().text();
    let answer = post_bytes(&daemon, format!("\u{feff}{text}").as_bytes());
    assert_eq!(answer.code(), "2001");
    assert!(site.all().is_empty());
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let answer = post_bytes(&daemon, &[&[0xff, 0xfe], wide.as_slice()].concat());
    assert_eq!(answer.code(), "-1001", "UTF-16 is no form at all");
}
