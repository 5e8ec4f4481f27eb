//! Every row of the request table, and what no caller should send.

use proptest::prelude::*;

use super::*;

/// As seed 001 prints it: `controlNumber`, and a blank before each colon.
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

/// As seed 004 prints it.
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

const LIVE: Terms = Terms { mode: Mode::Live, prefixes: &[] };
const SANDBOX: Terms = Terms { mode: Mode::Sandbox, prefixes: &[] };

/// A live confirmation; each change gives a field another value text, or none for "".
fn body(changes: &[(&str, &str)]) -> String {
    let mut members = vec![
        ("userName", r#""AppName@skypay""#),
        ("action", r#""collectionCollect""#),
        ("authentication", r#""s3cret""#),
        ("contractNumber", r#""SKY0112345678""#),
        ("amount", "3400.00"),
        ("phone", r#""09270348095""#),
        ("receiptNumber", r#""R1""#),
        ("collectedTime", r#""2018-06-18 17:52:10""#),
        ("payChannel", "1"),
    ];
    for (name, value) in changes {
        match members.iter_mut().find(|(known, _)| known == name) {
            Some(member) => member.1 = value,
            None => members.push((name, value)),
        }
    }
    let present = members.iter().filter(|(_, value)| !value.is_empty());
    let texts: Vec<String> = present.map(|(name, raw)| format!("\"{name}\":{raw}")).collect();
    format!("{{{}}}", texts.join(","))
}

fn judged(changes: &[(&str, &str)], terms: &Terms) -> Result<Confirmation, Refusal> {
    Request::parse(body(changes).as_bytes()).unwrap().confirmation(terms)
}

fn taken(changes: &[(&str, &str)]) -> Confirmation {
    judged(changes, &LIVE).unwrap_or_else(|refusal| panic!("{changes:?}: {refusal:?}"))
}

fn refusal(changes: &[(&str, &str)]) -> (i32, String) {
    match judged(changes, &LIVE) {
        Ok(_) => panic!("{changes:?} was taken"),
        Err(refusal) => (refusal.code.number(), refusal.description),
    }
}

fn parsed_as(body: &str) -> Result<(), (i32, String)> {
    let refusal = Request::parse(body.as_bytes()).err();
    refusal.map_or(Ok(()), |refusal| Err((refusal.code.number(), refusal.description)))
}

/// Each of these values for `field` is a 2003 that names the field.
fn all_wrong(field: &str, values: &[&str]) {
    for value in values {
        let (code, description) = refusal(&[(field, value)]);
        assert_eq!(code, 2003, "{field} {value}");
        assert!(description.starts_with(&format!("{field}: expected ")), "{description}");
    }
}

#[test]
fn the_first_byte_that_is_not_blank_decides_the_form() {
    for body in ["{", " \r\n\t{}", "\u{feff}{}", " \u{feff} {}"] {
        assert_eq!(form_of(body.as_bytes()), Form::Json, "{body:?}");
    }
    for body in ["", " ", "BeN3", "[]", "\u{feff}", "\u{feff}BeN3", "\"{\"", "\u{a0}{}"] {
        assert_eq!(form_of(body.as_bytes()), Form::Encrypted, "{body:?}");
    }
}

#[test]
fn the_published_samples_are_taken_word_for_word_and_are_one_collection() {
    let of = |sample: &str| {
        let request = Request::parse(sample.as_bytes()).unwrap();
        assert_eq!(request.user_name(), Some("AppName@skypay"));
        let secret = "30AC21B2-9EAA-4503-B0F0-7BE5C277ED75";
        assert_eq!(request.authentication(), Some(secret));
        let live = request.confirmation(&LIVE).unwrap_err();
        assert_eq!(live.code, RefusalCode::WrongValue, "masked digits are for the sandbox");
        request.confirmation(&SANDBOX).unwrap()
    };
    let (seed_001, seed_004) = (of(SAMPLE_001), of(SAMPLE_004));
    assert_eq!(seed_001.contract_field, ContractField::ControlNumber);
    assert_eq!(seed_004.contract_field, ContractField::ContractNumber);
    assert_eq!(seed_001.collection, seed_004.collection);
    assert_eq!(seed_001.collection.amount.centavos(), 390_000);
    assert_eq!(seed_001.amount_text, "3900.00");
    assert_eq!((seed_001.flags, seed_001.unknown_fields), (Flags::NONE, None));
}

#[test]
fn a_user_name_or_key_that_is_absent_too_long_or_no_string_is_not_handed_out() {
    let claimed = |value: &str| {
        let body = body(&[("userName", value), ("authentication", value)]);
        let request = Request::parse(body.as_bytes()).unwrap();
        (request.user_name().is_some(), request.authentication().is_some())
    };
    let of_length = |chars: usize| claimed(&format!("\"{}\"", "Ñ".repeat(chars)));
    assert_eq!(of_length(50), (true, true));
    assert_eq!(of_length(51), (false, true));
    assert_eq!(of_length(255), (false, true));
    assert_eq!(of_length(256), (false, false));
    for value in ["", "null", "\"\"", "\"  \"", "1", "true", "[\"a\"]", "{\"a\":\"b\"}"] {
        assert_eq!(claimed(value), (false, false), "{value}");
    }
}

#[test]
fn the_misprinted_action_is_taken_and_flagged() {
    assert_eq!(taken(&[]).flags, Flags::NONE);
    let misprinted = taken(&[("action", r#""generate711Barcode""#)]);
    assert!(misprinted.flags.has(Flag::MisprintedAction));
}

#[test]
fn another_action_is_2004_before_any_field_is_looked_at() {
    let changes = [("action", r#""collectionInquiry""#), ("amount", "0"), ("phone", "")];
    assert_eq!(refusal(&changes), (2004, "action not supported: collectionInquiry".to_owned()));
    for action in ["1", "true", "[]", r#""CollectionCollect""#, r#"" collectionCollect""#] {
        assert_eq!(refusal(&[("action", action)]).0, 2004, "{action}");
    }
}

#[test]
fn an_action_that_does_not_look_like_one_is_not_repeated() {
    for action in [r#""30AC21B2-9EAA""#, r#""a\nb""#, r#""\u202e""#] {
        let expected = "action not supported: expected collectionCollect";
        assert_eq!(refusal(&[("action", action)]), (2004, expected.to_owned()));
    }
    // A phone number, or the key.
    let key = r#""0d7c8f5b2a914e6c""#;
    for changes in [
        [("phone", "1"), ("action", r#""09270348095""#)],
        [("authentication", key), ("action", key)],
    ] {
        let expected = "action not supported: expected collectionCollect";
        assert_eq!(refusal(&changes), (2004, expected.to_owned()));
    }
}

#[test]
fn all_missing_fields_are_named_in_the_published_order() {
    let all = Request::parse(b"{}").unwrap().confirmation(&LIVE).unwrap_err();
    assert_eq!(all.code.number(), 2002);
    assert_eq!(
        all.description,
        "missing: userName, action, authentication, contractNumber, amount, phone, \
         receiptNumber, collectedTime, payChannel"
    );
    let some = [("payChannel", "null"), ("phone", "\" \""), ("action", ""), ("amount", "\"\"")];
    assert_eq!(
        refusal(&some),
        (2002, "missing: action, amount, phone, payChannel".to_owned()),
        "null, empty and blank count as absent"
    );
    assert_eq!(refusal(&[("amount", "0"), ("payChannel", "")]).0, 2002, "before wrong values");
}

#[test]
fn the_first_wrong_value_in_the_published_order_is_named() {
    let wrong = [("phone", "1"), ("payChannel", "-1"), ("amount", "0"), ("receiptNumber", "{}")];
    for field in ["amount", "phone", "receiptNumber", "payChannel"] {
        let left = wrong.iter().copied().filter(|(name, _)| {
            let place = |name| FIELDS.iter().position(|known| *known == name);
            place(*name) >= place(field)
        });
        let (code, description) = refusal(&left.collect::<Vec<_>>());
        assert!(code == 2003 && description.starts_with(field), "{description}");
    }
}

#[test]
fn the_contract_comes_under_either_name() {
    let number = r#""SKY0112345678""#;
    for (contract, control, under) in [
        (number, "", ContractField::ContractNumber),
        (number, number, ContractField::ContractNumber),
        (number, "null", ContractField::ContractNumber),
        (number, "\" \"", ContractField::ContractNumber),
        ("", number, ContractField::ControlNumber),
        ("null", number, ContractField::ControlNumber),
        ("\"\"", number, ContractField::ControlNumber),
    ] {
        let both = [("contractNumber", contract), ("controlNumber", control)];
        let confirmation = taken(&both);
        assert_eq!(confirmation.contract_field, under, "{both:?}");
        assert_eq!(confirmation.collection.contract.as_str(), "SKY0112345678");
        assert_eq!(confirmation.unknown_fields, None, "{both:?}");
    }
    let neither = [("contractNumber", "\" \""), ("controlNumber", "null")];
    assert_eq!(refusal(&neither), (2002, "missing: contractNumber".to_owned()));
}

#[test]
fn two_contract_numbers_that_differ_are_2003() {
    for other in [r#""SKY0112345679""#, "1", "[]"] {
        let (code, description) = refusal(&[("controlNumber", other)]);
        assert_eq!(code, 2003);
        assert!(description.starts_with("contractNumber: expected the same value as"));
    }
}

#[test]
fn a_wrong_contract_number_is_2003_under_the_name_it_came_with() {
    let values = ["1", "{}", r#""sky0112345678""#, r#""SKY0XXXXXXXXXX""#, r#""SKY01 2345678""#];
    all_wrong("contractNumber", &values);
    let (code, description) = refusal(&[("contractNumber", ""), ("controlNumber", r#""SKY01""#)]);
    assert!(code == 2003 && description.starts_with("controlNumber: expected "));
}

#[test]
fn a_prefix_of_another_biller_is_2006_once_every_value_is_right() {
    let prefixes = [Prefix::parse("SKY98").unwrap(), Prefix::parse("SKY02").unwrap()];
    let terms = Terms { mode: Mode::Live, prefixes: &prefixes };
    let elsewhere = judged(&[], &terms).unwrap_err();
    assert_eq!(elsewhere.code.number(), 2006);
    assert_eq!(elsewhere.description, "prefix not collected here: SKY01");
    let wrong = judged(&[("payChannel", "-1")], &terms).unwrap_err();
    assert_eq!(wrong.code, RefusalCode::WrongValue);
    assert!(judged(&[("contractNumber", r#""SKY0212345678""#)], &terms).is_ok());
}

#[test]
fn an_amount_is_a_number_or_a_string_and_keeps_its_text() {
    for (value, text, centavos) in [
        ("3400.00", "3400.00", 340_000),
        ("3400", "3400", 340_000),
        ("\"3900.00\"", "3900.00", 390_000),
        ("\"3900.0000\"", "3900.0000", 390_000),
        ("3400.000", "3400.000", 340_000),
        ("99999999.99", "99999999.99", 9_999_999_999),
        ("\"\\u0035\"", "5", 500),
    ] {
        let confirmation = taken(&[("amount", value)]);
        assert_eq!(confirmation.collection.amount.centavos(), centavos, "{value}");
        assert_eq!(confirmation.amount_text, text);
    }
}

#[test]
fn an_amount_out_of_its_form_or_bounds_is_2003() {
    let numbers = "1e3 1E3 -0 0 0.00 0.001 3400.001 -1 100000000.00 9007199254740993.01 1e400";
    all_wrong("amount", &numbers.split(' ').collect::<Vec<_>>());
    for text in "3,400.00 +5 5. .5 1e3 -0 0 NaN Infinity 100000000.00 ٣ 0x10 5\\u0000".split(' ') {
        all_wrong("amount", &[&format!("\"{text}\"")]);
    }
    all_wrong("amount", &["\" 5\"", "\"5 \"", "true", "[5]", "{\"a\":5}"]);
    for number in ["+5", "5.", "NaN", "007"] {
        let refusal = parsed_as(&body(&[("amount", number)])).unwrap_err();
        assert_eq!(refusal.0, 2001, "{number} is not JSON");
    }
}

#[test]
fn a_phone_number_is_a_string_with_a_digit() {
    let sample = taken(&[("phone", r#""6392210083333""#)]);
    assert_eq!(sample.collection.phone.as_str(), "6392210083333");
    let long = format!("\"{}\"", "1".repeat(51));
    all_wrong("phone", &["9270348095", "true", r#""none""#, r#""( )""#, r#""0927\u0000""#, &long]);
}

#[test]
fn a_receipt_number_is_a_string_or_an_integer() {
    let receipt = |value: &str| taken(&[("receiptNumber", value)]).collection.receipt;
    assert_eq!(receipt("123").as_str(), "123");
    assert_eq!(receipt("\"123\""), receipt("123"));
    assert_eq!(receipt("12345678901234567890123").as_str(), "12345678901234567890123");
    assert_eq!(receipt("\" 711|PARA\u{d1}AQUE \"").as_str(), "711|PARA\u{d1}AQUE");
    let decomposed = receipt("\"PARAN\u{303}AQUE\"");
    assert_eq!(decomposed, receipt("\"PARA\\u00d1AQUE\""), "both Unicode forms are one identity");
    assert_ne!(receipt("\"r1\""), receipt("\"R1\""));
    let long = format!("\"{}\"", "1".repeat(51));
    all_wrong("receiptNumber", &["1.0", "1e3", "true", "{}", "[1]", &long]);
    let odd = [r#""R\u00001""#, r#""R\n1""#, r#""R\u200f1""#, r#""R\u202e1""#, r#""R\ufeff1""#];
    all_wrong("receiptNumber", &odd);
}

#[test]
fn a_collected_time_is_a_real_instant_in_the_published_form() {
    let values = [
        "1529315530",
        r#""2025-02-30 10:00:00""#,
        r#""2025-01-01 24:00:00""#,
        r#""2025-01-01T10:00:00""#,
        r#""2025-01-01 10:00:00 ""#,
        r#""2018-06-18 17:52""#,
        r#""2018-06-18 17:52:10.5211""#,
    ];
    all_wrong("collectedTime", &values);
}

#[test]
fn a_channel_is_an_integer_or_a_string_of_up_to_five_digits() {
    for value in ["1", "\"1\"", "\"01\"", "\"00001\""] {
        let confirmation = taken(&[("payChannel", value)]);
        assert_eq!(confirmation.collection.channel.code(), 1, "{value}");
        assert!(!confirmation.flags.has(Flag::UnknownChannel));
    }
    let values = ["-1", "-0", "1.0", "1e0", "100000", "\"1 \"", "\"+1\"", "true", "[1]"];
    all_wrong("payChannel", &values);
}

#[test]
fn an_unknown_channel_is_taken_and_flagged() {
    for value in ["0", "2", "\"98\"", "99999"] {
        assert!(taken(&[("payChannel", value)]).flags.has(Flag::UnknownChannel), "{value}");
    }
}

#[test]
fn unknown_fields_are_kept_in_their_own_text() {
    let confirmation = taken(&[("remark", "\"\\u00d1\""), ("x\\n", "{ \"a\": 1.50 }")]);
    let kept = r#"{"remark":"\u00d1","x\n":{ "a": 1.50 }}"#;
    assert_eq!(confirmation.unknown_fields.as_deref(), Some(kept));
    assert_eq!(confirmation.flags, Flags::NONE);
}

#[test]
fn a_key_that_stands_in_another_field_too_is_not_kept() {
    const KEY: &str = "30AC21B2-9EAA-4503-B0F0-7BE5C277ED75";
    let (key, copy) = (format!("\"{KEY}\""), format!("{{\"copy\":\"{KEY}\"}}"));
    let body = body(&[("authentication", &key), ("token", &copy), ("till", "7")]);
    let request = Request::parse(body.as_bytes()).unwrap();
    assert!(!request.kept_text().contains(KEY), "{}", request.kept_text());
    let confirmation = request.confirmation(&LIVE).unwrap();
    assert_eq!(confirmation.unknown_fields.as_deref(), Some(r#"{"till":7}"#));
    assert!(confirmation.flags.has(Flag::UnknownFieldsDropped));
    assert_eq!(request.contract_text(), Some("SKY0112345678"));
}

#[test]
fn a_key_is_found_in_another_field_with_whatever_escapes_and_as_a_contract_number() {
    let key = ("authentication", r#""q/Zk\"7bP+\u0041""#);
    for copy in [r#""q\/Zk\"7bP+A""#, r#""\u0071/Zk\"7bP+A""#, r#"{"copy":"q\/Zk\"7bP+A"}"#] {
        let body = body(&[key, ("token", copy)]);
        let request = Request::parse(body.as_bytes()).unwrap();
        let confirmation = request.confirmation(&LIVE).unwrap();
        assert_eq!(confirmation.unknown_fields, None, "{copy}");
        assert!(!request.kept_text().contains("token"), "{copy}");
    }
    let body = body(&[key, ("contractNumber", key.1)]);
    assert_eq!(Request::parse(body.as_bytes()).unwrap().contract_text(), None);
}

#[test]
fn unknown_fields_beyond_four_kib_are_dropped_and_flagged() {
    let filling = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - r#"{"a":""}"#.len()));
    let full = taken(&[("a", &filling(4096))]);
    assert_eq!(full.unknown_fields.map(|text| text.len()), Some(4096));
    assert_eq!(full.flags, Flags::NONE);
    let over = taken(&[("a", &filling(4097))]);
    assert_eq!(over.unknown_fields, None);
    assert!(over.flags.has(Flag::UnknownFieldsDropped));
    let beside = taken(&[("b", "1"), ("a", &filling(4096)), ("c", "2")]);
    assert_eq!(beside.unknown_fields.as_deref(), Some(r#"{"b":1,"c":2}"#));
    assert!(beside.flags.has(Flag::UnknownFieldsDropped));
}

#[test]
fn a_known_name_in_another_case_is_malformed() {
    assert_eq!(
        parsed_as(&body(&[("Amount", "1")])),
        Err((2001, "the name \"Amount\" must be written \"amount\"".to_owned()))
    );
    for name in ["USERNAME", "contractnumber", "ControlNumber", "Authenti\\u0063ation"] {
        assert_eq!(parsed_as(&body(&[(name, "1")])).unwrap_err().0, 2001, "{name}");
    }
    assert_eq!(parsed_as(&body(&[("x", "{\"Amount\":1,\"amount\":2}")])), Ok(()));
}

#[test]
fn the_digest_covers_all_that_was_said_but_the_secret() {
    let digest = |body: &str| Request::parse(body.as_bytes()).unwrap().body_digest();
    let plain = digest(r#"{"authentication":"a","amount":1.0,"x\n":"\u00d1"}"#);
    let hashed = Sha256::digest(r#""amount":1.0,"x\n":"\u00d1""#);
    assert_eq!(plain, Digest(hashed.into()));
    assert_eq!(plain, digest(r#"{ "amount" : 1.0, "x\u000a":"\u00d1" ,"authentication":2}"#));
    for other in [
        r#"{"amount":1.00,"x\n":"\u00d1"}"#,
        r#"{"amount":1.0,"x\n":"\u00D1"}"#,
        r#"{"x\n":"\u00d1","amount":1.0}"#,
        r#"{"amount":1.0}"#,
    ] {
        assert_ne!(plain, digest(other), "{other}");
    }
    assert_eq!(digest("{}"), digest(r#"{"authentication":"b"}"#));
}

#[test]
fn a_kept_text_has_no_credentials_and_the_known_fields_first() {
    let kept = |body: &str| Request::parse(body.as_bytes()).unwrap().kept_text();
    let mixed = r#"{"x": [ 1 ],"userName":"u","amount":1.50,"authentication":"s3cret","y":2}"#;
    assert_eq!(kept(mixed), r#"{"amount":1.50,"x":[ 1 ],"y":2}"#);
    assert_eq!(kept(r#"{"userName":"u","authentication":"s3cret"}"#), "{}");
    let flood = format!(r#"{{"x":"{}","y":2,"amount":1}}"#, "x".repeat(KEPT_BYTES_MAX));
    assert_eq!(kept(&flood), r#"{"amount":1,"y":2}"#);
}

/// Something like a member, now and then a real one.
const MEMBER: &str = concat!(
    r#""(amount|action|phone|receiptNumber|[a-z\\u0-9ñ]{0,6})":"#,
    r#"([0-9]{1,4}|\PC{0,8}|"\PC{0,8}"|[\[{}\]":,0-9e.-]{0,8})"#
);

fn use_all_of(body: &[u8]) {
    if let Ok(request) = Request::parse(body) {
        let _ = (request.user_name(), request.authentication(), request.body_digest());
        assert!(serde_json::from_str::<serde_json::Value>(&request.kept_text()).is_ok());
        assert!(request.kept_text().len() <= KEPT_BYTES_MAX);
        let _ = (request.confirmation(&LIVE), request.confirmation(&SANDBOX));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        form_of(&body);
        use_all_of(&body);
    }

    #[test]
    fn no_members_panic(members in prop::collection::vec(MEMBER, 0..6)) {
        use_all_of(format!("{{{}}}", members.join(",")).as_bytes());
    }

    #[test]
    fn a_damaged_sample_never_panics(at in 0..SAMPLE_001.len(), byte in any::<u8>()) {
        let mut damaged = SAMPLE_001.as_bytes().to_vec();
        damaged[at] = byte;
        use_all_of(&damaged);
    }
}

#[test]
fn a_kept_text_gives_the_confirmation_that_it_was_made_of_or_what_it_lacks() {
    for changes in [&[] as &[(&str, &str)], &[("extra", r#"{"a":[1]}"#)], &[("amount", "3900")]] {
        let body = body(changes);
        let request = Request::parse(body.as_bytes()).unwrap();
        let kept = kept_confirmation(&request.kept_text(), &LIVE);
        assert_eq!(kept, request.confirmation(&LIVE), "{body}");
    }
    for (changes, code) in [
        (&[("amount", "\"\"")] as &[(&str, &str)], RefusalCode::Missing),
        (&[("amount", "1.001")], RefusalCode::WrongValue),
        (&[("action", r#""collectionInquiry""#)], RefusalCode::ActionNotSupported),
    ] {
        let body = body(changes);
        let kept = Request::parse(body.as_bytes()).unwrap().kept_text();
        assert_eq!(kept_confirmation(&kept, &LIVE).unwrap_err().code, code, "{body}");
    }
    assert_eq!(kept_confirmation("{}", &LIVE).unwrap_err().code, RefusalCode::Missing);
}
