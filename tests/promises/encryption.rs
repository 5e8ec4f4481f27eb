//! The encrypted form, both ways, and that nothing about a wrong one can be learned from outside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::cipher::{decrypt, decrypt_blocks, encrypt, encrypt_blocks};
use crate::support::till::parse_reply;
use crate::support::{
    Answer, Caller, Confirmation, Daemon, JSON, PATH, SKYPAY, SKYPAY_KEY, SKYPAY_PASSWORD, Setup,
    TEXT, TILL_7, TILL_7_KEY,
};

const OTHER_PASSWORD: &str = "F3A1C9D2-7B44-4E0E-9C55-AA10B2C3D4E5";

fn post(daemon: &Daemon, body: &str) -> Answer {
    daemon.till().post(PATH, TEXT, &[], body.as_bytes())
}

/// Code and description of an encrypted answer under this password.
fn opened(answer: &Answer, password: &str) -> (String, String) {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(TEXT)), "{answer:?}");
    let text = decrypt(password, &answer.body);
    parse_reply(&text.unwrap_or_else(|| panic!("not under {password}: {answer:?}")))
}

/// A body under `used` whose last block, read under `other`, ends in a padding that fits.
fn padding_by_chance(used: &str, other: &str) -> String {
    let bodies = (0u32..).map(|salt| {
        let confirmation = Confirmation::fresh().with("salt", salt);
        encrypt(used, &confirmation.text())
    });
    let ends_in_one = |body: &String| {
        let bytes = decrypt_blocks(other, &STANDARD.decode(body).unwrap());
        bytes.ends_with(&[1])
    };
    bodies.take(20_000).find(ends_in_one).expect("one in 256 fits")
}

#[test]
fn an_encrypted_request_is_answered_under_its_own_password() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh();
    let body = encrypt(SKYPAY_PASSWORD, &confirmation.text());
    let said = |code: &str, text: &str| (code.to_owned(), text.to_owned());
    assert_eq!(opened(&post(&daemon, &body), SKYPAY_PASSWORD), said("1000", "Success"));
    let repeated = said("-1015", "The transaction has been collected");
    assert_eq!(opened(&post(&daemon, &body), SKYPAY_PASSWORD), repeated);
    let row = site.only(&confirmation.get("contractNumber"));
    assert_eq!((row["form"].as_str(), row["caller"].as_str()), (Some("encrypted"), Some(SKYPAY)));
}

#[test]
fn a_wrong_password_is_its_caller_s_where_the_path_names_it_and_nobody_s_elsewhere() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let wrong = encrypt(OTHER_PASSWORD, &Confirmation::fresh().text());
    let named = format!("/services/{SKYPAY}");
    let mut answers = Vec::new();
    for path in [&*named, PATH, "/services/nobody", "/services/till-7", &*named] {
        for body in [wrong.as_bytes(), b"no base64"] {
            answers.push(daemon.till().post(path, TEXT, &[], body));
        }
    }
    for answer in &answers {
        assert_eq!(answer.header("content-type"), Some(JSON), "{answer:?}");
        assert_eq!(answer.code(), "-1001");
        assert_eq!(answer.body.len(), answers[0].body.len(), "nothing tells them apart");
    }
    let told = site.tilld(&["status", "--output", "json"]);
    let status: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let strayed: Vec<_> = status["strayed"].as_array().expect("callers").iter().collect();
    let counts: Vec<_> = strayed.iter().map(|one| (&one["caller"], &one["count"])).collect();
    assert_eq!(counts, [(&SKYPAY.into(), &4.into()), (&TILL_7.into(), &2.into())]);
}

#[test]
fn two_callers_may_have_been_given_one_password() {
    let till = Caller::new(TILL_7, &[TILL_7_KEY]).passwords(&[SKYPAY_PASSWORD]);
    let site = Setup::live().caller(till).prepare();
    let daemon = site.start();
    for confirmation in [Confirmation::fresh(), Confirmation::fresh().by(TILL_7, TILL_7_KEY)] {
        let answer = post(&daemon, &encrypt(SKYPAY_PASSWORD, &confirmation.text()));
        assert_eq!(opened(&answer, SKYPAY_PASSWORD).0, "1000");
    }
}

#[test]
fn refusals_of_values_are_encrypted_too() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for (code, confirmation) in [
        ("2002", Confirmation::fresh().without("phone")),
        ("2003", Confirmation::fresh().with("amount", "-1")),
        ("2004", Confirmation::fresh().with("action", "collectionInquiry")),
    ] {
        let answer = post(&daemon, &encrypt(SKYPAY_PASSWORD, &confirmation.text()));
        assert_eq!(opened(&answer, SKYPAY_PASSWORD).0, code);
    }
    assert_eq!(site.refusals().len(), 3);
}

#[test]
fn white_space_anywhere_in_the_base64_is_ignored() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    for (between, around) in [("\r\n", "\n"), ("\n", "\r\n\r\n"), (" ", " \t"), ("\t", "")] {
        let body = encrypt(SKYPAY_PASSWORD, &Confirmation::fresh().text());
        let lines: Vec<&str> =
            body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        let body = format!("{around}{}{around}", lines.join(between));
        assert_eq!(opened(&post(&daemon, &body), SKYPAY_PASSWORD).0, "1000", "{between:?}");
    }
}

#[test]
fn every_active_password_opens_and_answers_for_itself() {
    let passwords = [OTHER_PASSWORD, SKYPAY_PASSWORD];
    let caller = Caller::new(SKYPAY, &[SKYPAY_KEY]).passwords(&passwords);
    let site = Setup::live().caller(caller).prepare();
    let daemon = site.start();
    for password in passwords {
        let body = encrypt(password, &Confirmation::fresh().text());
        assert_eq!(opened(&post(&daemon, &body), password).0, "1000");
    }
}

#[test]
fn a_stale_password_that_pads_by_chance_gives_way_to_the_one_that_opens() {
    for passwords in [[OTHER_PASSWORD, SKYPAY_PASSWORD], [SKYPAY_PASSWORD, OTHER_PASSWORD]] {
        let caller = Caller::new(SKYPAY, &[SKYPAY_KEY]).passwords(&passwords);
        let site = Setup::live().caller(caller).prepare();
        let daemon = site.start();
        for (used, other) in [(passwords[0], passwords[1]), (passwords[1], passwords[0])] {
            let answer = post(&daemon, &padding_by_chance(used, other));
            assert_eq!(opened(&answer, used).0, "1000");
        }
    }
}

#[test]
fn an_address_of_its_own_is_compared_with_the_name_inside() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let body = encrypt(SKYPAY_PASSWORD, &Confirmation::fresh().text());
    let at = |path: &str| daemon.till().post(path, TEXT, &[], body.as_bytes());
    assert_eq!(at("/services/till-7").code(), "-1001");
    assert_eq!(opened(&at("/services/AppName%40skypay"), SKYPAY_PASSWORD).0, "1000");
}

#[test]
fn a_caller_that_must_encrypt_is_served_encrypted_only() {
    let caller = Caller::new(TILL_7, &[TILL_7_KEY])
        .passwords(&[OTHER_PASSWORD])
        .option("require_encryption = true");
    let site = Setup::live().caller(caller).prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh().by_till();
    assert_eq!(daemon.code(&confirmation), "-1001");
    let body = encrypt(OTHER_PASSWORD, &confirmation.text());
    assert_eq!(opened(&post(&daemon, &body), OTHER_PASSWORD).0, "1000");
}

#[test]
fn every_wrong_encryption_is_answered_with_the_same_bytes_as_a_wrong_key() {
    let site = Setup::live()
        .caller(Caller::new(TILL_7, &[TILL_7_KEY]).passwords(&[OTHER_PASSWORD]))
        .prepare();
    let daemon = site.start();
    let confirmation = Confirmation::fresh();
    let text = confirmation.text();
    let good = encrypt(SKYPAY_PASSWORD, &text);
    let bytes = STANDARD.decode(&good).unwrap();
    let under = |text: &str| encrypt(SKYPAY_PASSWORD, text);
    let blocks = |plain: &[u8]| STANDARD.encode(encrypt_blocks(SKYPAY_PASSWORD, plain));
    let sixteens = format!("{text:width$}", width = text.len().next_multiple_of(16));
    let bad_padding = [sixteens.as_bytes(), &[16; 15], &[3]].concat();
    let cases: Vec<(&str, String)> = vec![
        ("a password that nobody has", encrypt("stale", &text)),
        ("one that pads by chance", padding_by_chance("stale", SKYPAY_PASSWORD)),
        ("another caller's password", encrypt(OTHER_PASSWORD, &text)),
        ("no whole block", STANDARD.encode(&bytes[..bytes.len() - 1])),
        ("a block too few", STANDARD.encode(&bytes[..bytes.len() - 16])),
        ("bad padding", blocks(&bad_padding)),
        ("no padding", blocks(sixteens.as_bytes())),
        ("a padding of nought", blocks(&[sixteens.as_bytes(), &[0; 16]].concat())),
        ("a padding of 17", blocks(&[sixteens.as_bytes(), &[17; 16]].concat())),
        ("nothing inside", under("")),
        ("an encrypted text", under("paid, please believe us")),
        (
            "invalid UTF-8 inside",
            blocks(&[0xff, 0xfe, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14, 14]),
        ),
        ("an array inside", under(&format!("[{text}]"))),
        ("two objects inside", under(&format!("{text}{text}"))),
        ("malformed JSON inside", under(&text.replace('}', ",}"))),
        ("a name twice inside", under(&confirmation.clone().again("phone", "\"0\"").text())),
        ("another case inside", under(&confirmation.clone().with("Amount", "1").text())),
        ("a wrong key inside", under(&confirmation.clone().with("authentication", "no").text())),
        ("no key inside", under(&confirmation.clone().without("authentication").text())),
        ("an unknown caller inside", under(&confirmation.clone().with("userName", "x").text())),
        ("no base64", "this is *not* base64".to_owned()),
        ("base64 of junk", STANDARD.encode([7; 64])),
        ("base64 with a letter too much", format!("{good}A")),
        ("url-safe base64", good.replace('+', "-").replace('/', "_") + "-_"),
        ("the encryption of an encryption", under(&good)),
        ("one letter", "A".to_owned()),
    ];
    let wrong_key = daemon.till().post(
        PATH,
        JSON,
        &[],
        confirmation.clone().with("authentication", "wrong").text().as_bytes(),
    );
    for (name, body) in cases {
        let answer = post(&daemon, &body);
        assert_eq!(answer.code(), "-1001", "{name}: {answer:?}");
        assert_eq!(answer.but_for_time(), wrong_key.but_for_time(), "{name}");
        assert_eq!(answer.head_but_for_date(), wrong_key.head_but_for_date(), "{name}");
    }
    assert!(site.all().is_empty() && site.refusals().is_empty());
    assert_eq!(opened(&post(&daemon, &good), SKYPAY_PASSWORD).0, "1000");
}

#[test]
fn the_tests_cipher_agrees_with_javas() {
    // From the vectors that Java's platform crypto made.
    let body = "5KBS8aVXxL0Fvfhiqa6U+wXjdy1SX35SIYh0QqaQpW4=";
    assert_eq!(encrypt("k3yForTests-01", "0123456789abcdef"), body);
    assert_eq!(decrypt("k3yForTests-01", body).as_deref(), Some("0123456789abcdef"));
}
