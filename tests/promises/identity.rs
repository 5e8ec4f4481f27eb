//! One payment is one collection: what is a repeat, what contradicts, what is paid, and which
//! refusals are kept because a cashier may hold that cash.

use serde_json::Value;

use crate::support::cipher::encrypt;
use crate::support::site::flags;
use crate::support::{Confirmation, Daemon, PATH, SKYPAY_PASSWORD, Setup, TEXT, with_offset};

/// Answers code and description of one plain confirmation.
fn said(daemon: &Daemon, confirmation: &Confirmation) -> (String, String) {
    let answer = daemon.confirm(confirmation);
    (answer.code(), answer.description())
}

#[test]
fn a_repeat_stands_even_when_the_till_stamped_phone_and_time_anew() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    let contract = first.get("contractNumber");
    assert_eq!(daemon.code(&first), "1000");
    let time = "2025-01-02 03:04:05";
    for repeat in [
        first.clone(),
        first.clone().with("phone", "09170000001"),
        first.clone().with("collectedTime", time),
        first.clone().raw("amount", "3900").with("payChannel", "01"),
        first.clone().with("receiptNumber", format!("  {} ", first.get("receiptNumber"))),
        first.clone().with("lane", 4),
        first.clone().with("action", "generate711Barcode"),
    ] {
        assert_eq!(daemon.code(&repeat), "-1015", "{}", repeat.text());
    }
    let row = site.only(&contract);
    assert_eq!((&row["repeats"], &row["phone"]), (&7.into(), &"09270348095".into()), "{row}");
    assert_eq!(row["collected_at"], with_offset(&first.get("collectedTime")));
    let story = site.story(&contract);
    assert!(
        story.contains("09170000001") && story.contains(&with_offset(time)),
        "variants are kept: {story}"
    );
}

#[test]
fn every_repeat_is_counted_and_20_of_its_variants_are_kept() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    assert_eq!(daemon.code(&first), "1000");
    for number in 0..25 {
        let phone = format!("0917{number:07}");
        assert_eq!(daemon.code(&first.clone().with("phone", phone)), "-1015");
    }
    assert_eq!(daemon.code(&first), "-1015");
    let story: Value = serde_json::from_str(&site.story(&first.get("contractNumber"))).unwrap();
    let told = &story["stories"][0];
    assert_eq!(told["repeats"], 26, "{told}");
    let variants = told["variants"].as_array().expect("variants");
    let phones: Vec<String> =
        variants.iter().map(|variant| variant["phone"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> = (0..20).map(|number| format!("0917{number:07}")).collect();
    assert_eq!(phones, expected);
}

#[test]
fn the_same_receipt_for_another_amount_or_channel_is_a_conflict() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    assert_eq!(daemon.code(&first), "1000");
    let (code, text) = said(&daemon, &first.clone().with("amount", "3900.01"));
    assert_eq!(code, "2005");
    assert!(text.contains("different amount") && text.contains("3900.00"), "{text}");
    let today = &first.get("collectedTime")[..10];
    assert!(text.contains(today), "the first's time is not told: {text}");
    let (code, text) = said(&daemon, &first.clone().with("payChannel", "10"));
    assert_eq!(code, "2005");
    assert!(text.contains("different payChannel") && text.contains("3900.00"), "{text}");
    assert_eq!(daemon.code(&first), "-1015");
    assert_eq!(site.only(&first.get("contractNumber"))["amount_centavos"], 390_000);
}

#[test]
fn a_paid_contract_refuses_another_receipt_and_still_knows_its_own() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    let second = first.clone().with("receiptNumber", "another");
    assert_eq!(daemon.code(&first), "1000");
    let paid = ("-1026".to_owned(), "Transactions has been paid".to_owned());
    assert_eq!(said(&daemon, &second), paid);
    assert_eq!(said(&daemon, &second), paid, "a refusal creates no identity");
    assert_eq!(said(&daemon, &second.with("amount", "1")), paid);
    assert_eq!(daemon.code(&first), "-1015");
    let same_but_case = first.get("receiptNumber").to_lowercase();
    assert_eq!(daemon.code(&first.with("receiptNumber", same_but_case)), "-1026");
    assert_eq!(site.all().len(), 1);
}

#[test]
fn installments_take_every_new_receipt() {
    let site = Setup::installments().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    let second = first.clone().with("receiptNumber", "second").with("amount", "100");
    assert_eq!(daemon.code(&first), "1000");
    assert_eq!(daemon.code(&second), "1000");
    assert_eq!(daemon.code(&second), "-1015");
    assert_eq!(daemon.code(&first.with("amount", "100")), "2005");
    assert_eq!(site.all().len(), 2);
}

#[test]
fn who_sent_it_in_which_form_under_which_name_plays_no_part() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh().by_till();
    assert_eq!(daemon.code(&first), "1000");
    let by_skypay = first.by(crate::support::SKYPAY, crate::support::SKYPAY_KEY);
    assert_eq!(daemon.code(&by_skypay), "-1015");
    let alias = by_skypay.renamed("contractNumber", "controlNumber");
    assert_eq!(daemon.code(&alias), "-1015");
    let body = encrypt(SKYPAY_PASSWORD, &alias.text());
    let answer = daemon.till().post(PATH, TEXT, &[], body.as_bytes());
    let opened = crate::support::cipher::decrypt(SKYPAY_PASSWORD, &answer.body).unwrap();
    assert_eq!(crate::support::till::parse_reply(&opened).0, "-1015");
    assert_eq!(site.only(&alias.get("controlNumber"))["caller"], crate::support::TILL_7);
}

#[test]
fn the_same_amount_from_another_caller_may_be_one_payment_reported_twice() {
    let site = Setup::installments().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    let other = |receipt: &str| first.clone().with("receiptNumber", receipt);
    assert_eq!(daemon.code(&first), "1000");
    assert_eq!(daemon.code(&other("by the same caller")), "1000");
    assert_eq!(daemon.code(&other("by the till").by_till()), "1000");
    assert_eq!(daemon.code(&other("by the till, more").by_till().with("amount", "1")), "1000");
    let flagged = site.list(&["--flag", "possible-double"]);
    let receipts: Vec<&Value> = flagged.iter().map(|row| &row["receipt"]).collect();
    assert_eq!(receipts, ["by the till"]);
}

#[test]
fn a_possible_double_of_the_last_of_many_installments_is_flagged() {
    let site = Setup::installments().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    let receipt = |receipt: &str| first.clone().with("receiptNumber", receipt);
    for number in 0..120 {
        let earlier = receipt(&format!("R{number:03}")).with("amount", "1");
        assert_eq!(daemon.code(&earlier), "1000");
    }
    assert_eq!(daemon.code(&receipt("R120")), "1000");
    assert_eq!(daemon.code(&receipt("R121").by_till()), "1000");
    let flagged = site.list(&["--flag", "possible-double"]);
    let receipts: Vec<&Value> = flagged.iter().map(|row| &row["receipt"]).collect();
    assert_eq!(receipts, ["R121"]);
}

#[test]
fn a_possible_double_is_flagged_on_a_kept_refusal_too() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    assert_eq!(daemon.code(&first), "1000");
    assert_eq!(daemon.code(&first.by_till().with("receiptNumber", "the till's")), "-1026");
    let refusals = site.refusals();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!(flags(&refusals[0]), ["possible-double"]);
}

#[test]
fn refusals_after_authentication_are_kept_and_identical_ones_counted() {
    let site = Setup { prefixes: &["SKY01"], ..Setup::live() }.prepare();
    let daemon = site.start();
    let first = Confirmation::fresh();
    assert_eq!(daemon.code(&first), "1000");
    let fresh = Confirmation::fresh;
    let refused = [
        ("2002", fresh().without("phone")),
        ("2003", fresh().with("amount", "5.")),
        ("2004", fresh().with("action", "collectionInquiry")),
        ("2005", first.clone().with("amount", "1.00")),
        ("2006", fresh().with("contractNumber", "SKY9912345678")),
        ("-1026", first.clone().with("receiptNumber", "again")),
    ];
    for (code, confirmation) in &refused {
        for _ in 0..3 {
            assert_eq!(daemon.code(confirmation), *code);
        }
    }
    assert_eq!(daemon.code(&refused[1].1.clone().with("lane", 2)), "2003");
    assert_eq!(daemon.code(&refused[1].1.clone().by_till()), "2003");
    assert_eq!(daemon.code(&fresh().with("authentication", "wrong")), "-1001");
    let kept = site.refusals();
    let counts = |code: &str| -> Vec<i64> {
        let mut counts: Vec<i64> = kept
            .iter()
            .filter(|row| row["code"].to_string().trim_matches('"') == code)
            .map(|row| row["count"].as_i64().expect("a count"))
            .collect();
        counts.sort_unstable();
        counts
    };
    for (code, expected) in [
        ("2002", vec![3]),
        ("2003", vec![1, 1, 3]),
        ("2004", vec![3]),
        ("2005", vec![3]),
        ("2006", vec![3]),
        ("-1026", vec![3]),
        ("-1001", vec![]),
    ] {
        assert_eq!(counts(code), expected, "{code}: {kept:?}");
    }
    let text = format!("{kept:?}");
    assert!(!text.contains(crate::support::SKYPAY_KEY), "{text}");
    assert!(text.contains("SKY9912345678"), "what was refused is not kept: {text}");
}

#[test]
fn a_refused_value_is_taken_once_it_is_corrected() {
    let site = Setup::live().prepare();
    let daemon = site.start();
    let correct = Confirmation::fresh();
    assert_eq!(daemon.code(&correct.clone().with("amount", "3,900.00")), "2003");
    assert_eq!(daemon.code(&correct), "1000");
}
