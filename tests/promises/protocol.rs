//! The wire: which requests are taken, how each field is read, what every answer looks like.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::cipher::encrypt;
use crate::support::site::flags;
use crate::support::{
    Answer, Caller, Confirmation, JSON, PATH, SKYPAY, SKYPAY_KEY, SKYPAY_PASSWORD, Setup, TEXT,
    TILL_7, TILL_7_KEY, Till, wire_time, with_offset,
};

/// Seed 001 as it prints its post data.
const SAMPLE_001: &str = r#"{
    "userName" : "AppName@skypay",
    "action" : "collectionCollect",
    "authentication" : "30AC21B2-9EAA-4503-B0F0-7BE5C277ED75",
    "controlNumber" : "SKY0XXXXXXXXXX",
    "amount" : "3900.00",
    "phone" : "6392210083333",
    "receiptNumber" : "B6C13B76E4BF",
    "collectedTime" : "2018-06-18 17:52:10",
    "payChannel" : "1"
}"#;

/// Seed 004 as it prints its post data.
const SAMPLE_004: &str = r#"{
    "userName":"AppName@skypay",
    "action":"collectionCollect",
    "authentication":"30AC21B2-9EAA-4503-B0F0-7BE5C277ED75",
    "contractNumber":"SKY0XXXXXXXXXX",
    "amount":"3900.00",
    "phone":"6392210083333",
    "receiptNumber":"B6C13B76E4BF",
    "collectedTime":"2018-06-18 17:52:10",
    "payChannel":"1"
}"#;

const MANDATORY: [&str; 9] = [
    "userName",
    "action",
    "authentication",
    "contractNumber",
    "amount",
    "phone",
    "receiptNumber",
    "collectedTime",
    "payChannel",
];

fn post(till: &mut Till, confirmation: &Confirmation) -> Answer {
    till.post(PATH, JSON, &[], confirmation.text().as_bytes())
}

#[test]
fn the_published_samples_are_taken_word_for_word_in_sandbox() {
    let site = Setup::sandbox().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let first = till.post(PATH, JSON, &[], SAMPLE_001.as_bytes());
    assert_eq!((first.code(), first.description()), ("1000".into(), "Success".into()));
    let second = till.post(PATH, JSON, &[], SAMPLE_004.as_bytes());
    let said = (second.code(), second.description());
    assert_eq!(said, ("-1015".into(), "The transaction has been collected".into()));
    let row = site.only("SKY0XXXXXXXXXX");
    assert_eq!(row["amount_centavos"], 390_000);
    assert_eq!(row["collected_at"], "2018-06-18T17:52:10+08:00");
    assert_eq!(flags(&row), ["unusual-phone", "collected-long-ago"]);
}

#[test]
fn the_masked_sample_is_no_contract_in_live_mode() {
    let site = Setup::live().prepare();
    let answer = site.start().till().post(PATH, JSON, &[], SAMPLE_001.as_bytes());
    assert_eq!(answer.code(), "2003");
    assert!(answer.description().starts_with("controlNumber: "), "{answer:?}");
}

#[test]
fn a_collection_is_listed_as_it_was_confirmed() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh()
        .raw("amount", "3400.5")
        .with("phone", "09270348095")
        .with("payChannel", 10);
    let contract = confirmation.get("contractNumber");
    assert_eq!(daemon.code(&confirmation), "1000");
    let row = site.only(&contract);
    let time = confirmation.get("collectedTime");
    for (key, expected) in [
        ("sequence", json!(1)),
        ("contract", json!(contract)),
        ("receipt", json!(confirmation.get("receiptNumber"))),
        ("amount_centavos", json!(340_050)),
        ("currency", json!("PHP")),
        ("phone", json!("09270348095")),
        ("collected_at", json!(with_offset(&time))),
        ("business_date", json!(time[..10])),
        ("channel", json!(10)),
        ("caller", json!(SKYPAY)),
        ("form", json!("json")),
        ("flags", json!([])),
        ("repeats", json!(0)),
    ] {
        assert_eq!(row[key], expected, "{key} of {row}");
    }
    assert!(row["accepted_at"].as_str().is_some_and(|at| at.ends_with("+08:00")), "{row}");
    let story = site.story(&contract);
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(SKYPAY_KEY));
    let key_id = format!("{a:02x}{b:02x}{c:02x}{d:02x}");
    for kept in [key_id.as_str(), "127.0.0.1", "\"3400.5\"", "contractNumber"] {
        assert!(story.contains(kept), "{kept} is not kept: {story}");
    }
    assert!(!story.contains(SKYPAY_KEY), "{story}");
}

#[test]
fn values_within_the_rules_are_taken_and_the_odd_ones_flagged() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let ahead = json!(wire_time(TimeDelta::hours(25))).to_string();
    let near = json!(wire_time(TimeDelta::hours(23))).to_string();
    let old = json!(wire_time(TimeDelta::days(-401))).to_string();
    let long = json!("Ñ".repeat(50)).to_string();
    let long_phone = json!("1".repeat(50)).to_string();
    let nothing: &[&str] = &[];
    for (field, value, expected) in [
        ("action", "\"generate711Barcode\"", &["misprinted-action"] as &[&str]),
        ("contractNumber", "\"SKY0200000001\"", nothing),
        ("contractNumber", "\"SKY02000000011\"", nothing),
        ("contractNumber", "\"SKY020000000111\"", nothing),
        ("contractNumber", "\"0123456789012\"", nothing),
        ("phone", "\"08270348095\"", nothing),
        ("phone", "\"6392210083333\"", &["unusual-phone"]),
        ("phone", "\"+63 (922) 100-8333\"", &["unusual-phone"]),
        ("phone", &long_phone, &["unusual-phone"]),
        ("receiptNumber", "12345678901234567890", nothing),
        ("receiptNumber", "\"711|PARAÑAQUE\"", nothing),
        ("receiptNumber", &long, nothing),
        ("collectedTime", &near, nothing),
        ("collectedTime", &ahead, &["collected-ahead"]),
        ("collectedTime", &old, &["collected-long-ago"]),
        ("collectedTime", "\"2024-02-29 00:00:00\"", &["collected-long-ago"]),
        ("payChannel", "1", nothing),
        ("payChannel", "\"01\"", nothing),
        ("payChannel", "99", nothing),
        ("payChannel", "2", &["unknown-channel"]),
        ("payChannel", "\"99999\"", &["unknown-channel"]),
        ("controlNumber", "null", nothing),
        ("controlNumber", "\"  \"", nothing),
        ("branchCode", "{\"deep\":[1,2,{\"er\":null}]}", nothing),
    ] {
        let confirmation = Confirmation::fresh().raw(field, value);
        let contract = confirmation.get("contractNumber");
        let answer = post(&mut till, &confirmation);
        assert_eq!(answer.code(), "1000", "{field} {value}: {answer:?}");
        assert_eq!(flags(&site.only(&contract)), expected, "{field} {value}");
    }
}

#[test]
fn values_against_the_rules_are_refused_by_name() {
    let site = Setup { prefixes: &["SKY01"], ..Setup::live() }.prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let long_receipt = json!("1".repeat(51)).to_string();
    let long_phone = json!("1".repeat(51)).to_string();
    for (field, value) in [
        ("contractNumber", "\"SKY011234567\""),
        ("contractNumber", "\"SKY0112345678901\""),
        ("contractNumber", "\"sky0112345678\""),
        ("contractNumber", "\"SKY01 2345678\""),
        ("contractNumber", "\" SKY0112345678\""),
        ("contractNumber", "\"SKY01١٢٣٤٥٦٧٨\""),
        ("contractNumber", "1234567890123"),
        ("contractNumber", "[\"SKY0112345678\"]"),
        ("phone", "9270348095"),
        ("phone", "\"none\""),
        ("phone", "\"( )\""),
        ("phone", "\"٠٩٢٧٠٣٤٨٠٩٥\""),
        ("phone", &long_phone),
        ("receiptNumber", "1.5"),
        ("receiptNumber", "1e3"),
        ("receiptNumber", "true"),
        ("receiptNumber", "{}"),
        ("receiptNumber", &long_receipt),
        ("collectedTime", "1529315530"),
        ("collectedTime", "\"2025-01-01T10:00:00\""),
        ("collectedTime", "\"2025-01-01 10:00\""),
        ("collectedTime", "\"2025-01-01 10:00:00.0\""),
        ("collectedTime", "\"2025-1-01 10:00:00\""),
        ("collectedTime", "\"２０２５-01-01 10:00:00\""),
        ("payChannel", "100000"),
        ("payChannel", "-1"),
        ("payChannel", "1.0"),
        ("payChannel", "\"7-Eleven\""),
        ("payChannel", "true"),
    ] {
        let answer = post(&mut till, &Confirmation::fresh().raw(field, value));
        assert_eq!(answer.code(), "2003", "{field} {value}: {answer:?}");
        let named = format!("{field}: ");
        assert!(answer.description().starts_with(&named), "{field} {value}: {answer:?}");
    }
    let other_biller = Confirmation::fresh().with("contractNumber", "SKY0212345678");
    assert_eq!(post(&mut till, &other_biller).code(), "2006");
    assert_eq!(post(&mut till, &Confirmation::fresh()).code(), "1000");
    assert_eq!(site.all().len(), 1);
}

#[test]
fn the_contract_number_has_two_names_that_must_agree() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let alias = Confirmation::fresh().renamed("contractNumber", "controlNumber");
    let contract = alias.get("controlNumber");
    assert_eq!(daemon.code(&alias), "1000");
    assert!(site.story(&contract).contains("controlNumber"));
    let published = alias.renamed("controlNumber", "contractNumber");
    assert_eq!(daemon.code(&published), "-1015");
    let both = published.with("controlNumber", contract);
    assert_eq!(daemon.code(&both), "-1015");
    assert_eq!(daemon.code(&both.with("controlNumber", "SKY0199999999")), "2003");
}

#[test]
fn every_missing_field_is_named() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for name in MANDATORY {
        let secret = name == "userName" || name == "authentication";
        let complete = Confirmation::fresh();
        let absent = [
            complete.clone().without(name),
            complete.clone().raw(name, "null"),
            complete.clone().with(name, ""),
            complete.clone().with(name, " \t "),
        ];
        for confirmation in absent {
            let answer = post(&mut till, &confirmation);
            if secret {
                assert_eq!(answer.code(), "-1001", "{}", confirmation.text());
            } else {
                let said = (answer.code(), answer.description());
                assert_eq!(said, ("2002".into(), format!("missing: {name}")));
            }
        }
    }
    let bare = MANDATORY
        .into_iter()
        .filter(|name| !["userName", "authentication"].contains(name))
        .fold(Confirmation::fresh(), Confirmation::without);
    let said = post(&mut till, &bare).description();
    for name in &MANDATORY[3..] {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert!(said.starts_with("missing: ") && said.contains("action"), "{said}");
}

#[test]
fn another_action_is_not_supported() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for action in ["\"collectionInquiry\"", "\"CollectionCollect\"", "\"collect\"", "7"] {
        let answer = daemon.confirm(&Confirmation::fresh().raw("action", action));
        assert_eq!(answer.code(), "2004", "{action}");
        assert!(answer.description().starts_with("action not supported: "), "{answer:?}");
    }
}

#[test]
fn unknown_fields_are_kept_up_to_4_kib_and_dropped_with_a_flag_beyond() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let small = Confirmation::fresh().with("cashierName", "Nené").with("lane", 4);
    let large = Confirmation::fresh().with("cashierName", "x".repeat(5000));
    assert_eq!((daemon.code(&small), daemon.code(&large)), ("1000".into(), "1000".into()));
    let story = site.story(&small.get("contractNumber"));
    assert!(story.contains("cashierName") && story.contains("lane"), "{story}");
    let large = site.only(&large.get("contractNumber"));
    assert_eq!(flags(&large), ["unknown-fields-dropped"]);
}

#[test]
fn both_addresses_take_the_same_request_and_the_named_one_only_from_its_caller() {
    let site = Setup::live().caller(Caller::new("Piñata / 7%", &["k-piñata"])).prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let mine = || Confirmation::fresh();
    let named = || Confirmation::fresh().by("Piñata / 7%", "k-piñata");
    for (path, confirmation, code) in [
        (PATH, mine(), "1000"),
        ("/services/AppName%40skypay", mine(), "1000"),
        ("/services/AppName@skypay", mine(), "1000"),
        ("/services/Pi%C3%B1ata%20%2F%207%25", named(), "1000"),
        ("/services/AppName%2540skypay", mine(), "-1001"),
        ("/services/appname%40skypay", mine(), "-1001"),
        ("/services/till-7", mine(), "-1001"),
        ("/services/AppName%40skypay", mine().by_till(), "-1001"),
        ("/services/%FF", mine(), "-1001"),
    ] {
        let answer = post_to(&mut till, path, &confirmation);
        assert_eq!(answer.code(), code, "{path}: {answer:?}");
    }
}

fn post_to(till: &mut Till, path: &str, confirmation: &Confirmation) -> Answer {
    till.post(path, JSON, &[], confirmation.text().as_bytes())
}

#[test]
fn what_is_no_confirmation_at_all_gets_a_plain_http_error() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let body = Confirmation::fresh().text();
    let large = Confirmation::fresh().with("note", "x".repeat(16 * 1024)).text();
    let post = |path: &str, headers: &[(&str, &str)], body: &str| {
        daemon.till().post(path, JSON, headers, body.as_bytes())
    };
    let with_method = |method: &str| {
        let mut till = daemon.till();
        let head = format!("{method} {PATH} HTTP/1.1\r\nHost: till\r\nContent-Length: 0\r\n\r\n");
        till.send(head.as_bytes()).unwrap();
        till.receive().unwrap()
    };
    for (name, answer, status) in [
        ("root", post("/", &[], &body), 404),
        ("longer path", post("/collectionCollect/", &[], &body), 404),
        ("no caller's name", post("/services/", &[], &body), 404),
        ("GET", with_method("GET"), 405),
        ("PUT", with_method("PUT"), 405),
        ("large", post(PATH, &[], &large), 413),
        ("gzip", post(PATH, &[("Content-Encoding", "gzip")], &body), 415),
        ("identity", post(PATH, &[("Content-Encoding", "identity")], &body), 415),
    ] {
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        let is_text = answer.header("content-type").is_some_and(|kind| kind.starts_with(TEXT));
        assert!(is_text && (1..=200).contains(&answer.body.len()), "{name}: {answer:?}");
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("POST"), "{name}");
        }
    }
    assert!(site.all().is_empty());
}

#[test]
fn a_body_of_16_kib_is_taken() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let text = Confirmation::fresh().text();
    let body = format!("{text}{}", " ".repeat(16 * 1024 - text.len()));
    assert_eq!(daemon.till().post(PATH, JSON, &[], body.as_bytes()).code(), "1000");
    assert_eq!(daemon.till().post(PATH, JSON, &[], (body + " ").as_bytes()).status, 413);
}

#[test]
fn the_first_byte_decides_the_form_whatever_the_content_type_says() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    for content_type in [JSON, TEXT, "application/octet-stream", "nonsense"] {
        let body = format!("\r\n \t{}\n", Confirmation::fresh().text());
        assert_eq!(till.post(PATH, content_type, &[], body.as_bytes()).code(), "1000");
        let encrypted = encrypt(SKYPAY_PASSWORD, &Confirmation::fresh().text());
        let answer = till.post(PATH, content_type, &[], encrypted.as_bytes());
        assert_eq!(answer.header("content-type"), Some(TEXT), "{content_type}: {answer:?}");
    }
    assert_eq!(site.all().len(), 8);
}

#[test]
fn what_is_not_exactly_one_plain_object_is_malformed() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let complete = Confirmation::fresh();
    let text = complete.text();
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("cut off", text[..text.len() - 1].into()),
        ("two objects", format!("{text}{text}").into()),
        ("a trailing comma", text.replace('}', ",}").into()),
        ("a comment", text.replacen('{', "{/* paid */", 1).into()),
        ("single quotes", text.replace('"', "'").into()),
        ("invalid UTF-8", [&text.as_bytes()[..text.len() - 1], b",\"x\":\"\xff\"}"].concat()),
        ("a BOM inside", text.replacen('{', "{\u{feff}", 1).into()),
        ("a lone surrogate", complete.clone().raw("note", "\"\\ud83d\"").text().into()),
        ("too deep", complete.clone().raw("note", nested(12)).text().into()),
        ("a name twice", complete.clone().again("amount", "\"3900.00\"").text().into()),
        ("a name twice, escaped", complete.clone().again("\\u0061mount", "1").text().into()),
        ("an unknown name twice", complete.clone().again("x", "1").again("x", "1").text().into()),
        ("twice deep inside", complete.clone().raw("x", "[{\"y\":1,\"\\u0079\":1}]").text().into()),
        ("another case", complete.clone().with("Amount", "1").text().into()),
        ("only another case", complete.clone().renamed("phone", "PHONE").text().into()),
        ("not a number", complete.clone().raw("amount", "NaN").text().into()),
        ("a bare control character", complete.clone().raw("note", "\"a\u{1}b\"").text().into()),
    ];
    for (name, body) in cases {
        let answer = till.post(PATH, JSON, &[], &body);
        assert_eq!(answer.code(), "2001", "{name}: {answer:?}");
    }
    assert_eq!(post(&mut till, &complete.raw("note", nested(6))).code(), "1000");
    assert!(site.refusals().is_empty(), "nobody knows whose they were");
}

#[test]
fn every_failed_verification_is_answered_with_the_same_bytes() {
    let site = Setup::live()
        .caller(Caller::new("far", &["far-key"]).option("allow_from = [\"127.0.0.2/32\"]"))
        .caller(
            Caller::new("secret", &["secret-key"])
                .passwords(&["secret-password"])
                .option("require_encryption = true"),
        )
        .prepare();
    let daemon = site.start();
    let fresh = Confirmation::fresh;
    let long = "k".repeat(256);
    let wrong: Vec<Confirmation> = vec![
        fresh().with("authentication", "wrong"),
        fresh().with("authentication", SKYPAY_KEY.to_lowercase()),
        fresh().with("authentication", format!("{SKYPAY_KEY} ")),
        fresh().with("authentication", TILL_7_KEY),
        fresh().with("authentication", ""),
        fresh().with("authentication", long.as_str()),
        fresh().without("authentication"),
        fresh().raw("authentication", "12345"),
        fresh().raw("authentication", "null"),
        fresh().raw("authentication", "[]"),
        fresh().with("userName", "nobody"),
        fresh().with("userName", "u".repeat(51)),
        fresh().without("userName"),
        fresh().raw("userName", "7"),
        fresh().by("far", "far-key"),
        fresh().by("secret", "secret-key"),
        fresh().with("authentication", "wrong").without("amount").with("action", "nonsense"),
    ];
    let mut till = daemon.till();
    let expected = post(&mut till, &wrong[0]);
    assert_eq!(expected.description(), "Verification failed");
    for confirmation in wrong {
        let answer = post(&mut till, &confirmation);
        assert_eq!(answer.code(), "-1001", "{}", confirmation.text());
        assert_eq!(answer.but_for_time(), expected.but_for_time(), "{}", confirmation.text());
        let (head, expected) = (answer.head_but_for_date(), expected.head_but_for_date());
        assert_eq!(head, expected, "{}", confirmation.text());
    }
    assert!(site.all().is_empty() && site.refusals().is_empty());
}

#[test]
fn a_caller_is_served_at_its_own_addresses_only_and_forwarding_headers_change_nothing() {
    let site = Setup::live()
        .caller(Caller::new("far", &["far-key"]).option("allow_from = [\"127.0.0.2/32\"]"))
        .prepare();
    let daemon = site.start();
    let body = Confirmation::fresh().by("far", "far-key").text();
    let claimed = [("X-Forwarded-For", "127.0.0.2"), ("Forwarded", "for=127.0.0.2")];
    assert_eq!(daemon.till().post(PATH, JSON, &claimed, body.as_bytes()).code(), "-1001");
    let there = Ipv4Addr::new(127, 0, 0, 2);
    let mut till = Till::connect_from(there, daemon.address(), daemon.tls()).unwrap();
    assert_eq!(till.post(PATH, JSON, &[], body.as_bytes()).code(), "1000");
}

#[test]
fn every_active_key_opens_and_a_removed_one_does_not() {
    let both = Setup::live().caller(Caller::new(TILL_7, &["old-key", "new-key"]));
    let site = both.prepare();
    let daemon = site.start();
    let with = |key: &str| Confirmation::fresh().by(TILL_7, key);
    assert_eq!(daemon.code(&with("old-key")), "1000");
    assert_eq!(daemon.code(&with("new-key")), "1000");
    daemon.stop();
    site.configure(&both.caller(Caller::new(TILL_7, &["new-key"])));
    let daemon = site.start();
    assert_eq!(daemon.code(&with("old-key")), "-1001");
    assert_eq!(daemon.code(&with("new-key")), "1000");
}

#[test]
fn wrong_keys_from_an_address_never_lock_out_the_right_one() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let over = AtomicBool::new(false);
    let (wrong_sender, wrong_answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..4 {
            let wrong_sender = wrong_sender.clone();
            let (daemon, over) = (&daemon, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let wrong = Confirmation::fresh().with("authentication", "guessed");
                    if wrong_sender.send(daemon.code(&wrong)).is_err() {
                        break;
                    }
                }
            });
        }
        let wrong: Vec<String> = wrong_answers.iter().take(40).collect();
        let right: Vec<String> = (0..20).map(|_| daemon.code(&Confirmation::fresh())).collect();
        over.store(true, Ordering::Relaxed);
        assert!(wrong.iter().all(|code| code == "-1001"), "{wrong:?}");
        assert!(right.iter().all(|code| code == "1000"), "{right:?}");
    });
}

#[test]
fn while_wrong_keys_are_held_back_a_right_one_from_the_same_address_is_answered() {
    const GUESSES: usize = 30;
    let site = Setup::live().prepare();
    let daemon = site.start();
    let (sender, wrong_answers) = mpsc::channel();
    let mut right = daemon.till();
    thread::scope(|scope| {
        for _ in 0..GUESSES {
            let (sender, mut till) = (sender.clone(), daemon.till());
            scope.spawn(move || {
                let wrong = Confirmation::fresh().with("authentication", "guessed");
                let _ = sender.send(post(&mut till, &wrong).code());
            });
        }
        let mut wrong: Vec<String> = wrong_answers.iter().take(10).collect();
        let mut answered_meanwhile = 0;
        while wrong.len() < GUESSES {
            assert_eq!(post(&mut right, &Confirmation::fresh()).code(), "1000");
            wrong.extend(wrong_answers.try_iter());
            answered_meanwhile += usize::from(wrong.len() < GUESSES);
        }
        assert!(wrong.iter().all(|code| code == "-1001"), "{wrong:?}");
        assert!(answered_meanwhile > 0, "every wrong key was answered before a right one");
    });
}

#[test]
fn the_code_is_a_string_unless_a_number_is_configured() {
    for (reply_code, taken, repeated) in
        [("string", json!("1000"), json!("-1015")), ("number", json!(1000), json!(-1015))]
    {
        let site = Setup { reply_code, ..Setup::live() }.prepare();
        let daemon = site.start();
        let confirmation = Confirmation::fresh();
        for expected in [taken, repeated] {
            let body = daemon.confirm(&confirmation).body;
            let reply: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(reply["responseCode"], expected, "{body}");
        }
    }
}

#[test]
fn the_reply_names_its_fields_in_published_order_and_the_time_in_manila() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let before = wire_time(TimeDelta::seconds(-1));
    let answer = daemon.confirm(&Confirmation::fresh());
    let after = wire_time(TimeDelta::seconds(1));
    let form = "{\"responseTime\":\"TIME\",\"responseCode\":\"1000\",\
                \"responseDescription\":\"Success\"}";
    assert_eq!(answer.but_for_time(), form);
    let reply: Value = serde_json::from_str(&answer.body).unwrap();
    let time = reply["responseTime"].as_str().unwrap();
    assert!((before.as_str()..=after.as_str()).contains(&&time[..19]), "{time}");
}

#[test]
fn one_connection_serves_many_confirmations_also_pipelined() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let mut till = daemon.till();
    let request = || {
        let body = Confirmation::fresh().text();
        crate::support::till::request(PATH, JSON, &[], body.as_bytes())
    };
    till.send(&[request(), request(), request()].concat()).unwrap();
    for _ in 0..3 {
        assert_eq!(till.receive().unwrap().code(), "1000");
    }
    for _ in 0..50 {
        assert_eq!(post(&mut till, &Confirmation::fresh()).code(), "1000");
    }
}
