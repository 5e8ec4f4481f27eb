//! `tilld reconcile`: a day's books against somebody else's report of it, to the centavo.

use std::collections::BTreeMap;
use std::io::{self, BufWriter};

use serde_json::Value;

use crate::config::Config;
use crate::domain::amount::Amount;
use crate::domain::collection::ReceiptNumber;
use crate::operator::cli::{ColumnMap, Output, ReconcileArgs};
use crate::operator::output::{Column, Member, Printer, as_it_was, note, number, text, told};
use crate::operator::{Exit, Failure, may_read};
use crate::store::reader::{Identified, Reader};

const COLUMNS: &[Column] = &[
    text("finding", "FINDING"),
    text("contract", "CONTRACT"),
    text("receipt", "RECEIPT"),
    number("here", "HERE"),
    number("there", "THERE"),
    text("there_lines", "LINES OF THE REPORT"),
    text("here_on", "HERE ON"),
];

/// What is compared: contract, and receipt unless the report has none.
type Key = (String, Option<String>);

/// A line of the report.
struct Reported {
    line: u64,
    amount: Amount,
}

/// What stands on both sides under one key.
#[derive(Default)]
struct Sides {
    here: Vec<Identified>,
    there: Vec<Reported>,
}

/// What came of comparing one key.
struct Finding {
    what: What,
    key: Key,
    sides: Sides,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Matched,
    OnlyHere,
    OnlyThere,
    OtherDay,
    AmountDiffers,
    SeveralToOne,
}

/// `tilld reconcile`
pub fn reconcile(config: &Config, args: &ReconcileArgs) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let has_receipt = args.map.receipt.is_some();
    let mut keys: BTreeMap<Key, Sides> = BTreeMap::new();
    for (key, reported) in report(args)? {
        keys.entry(key).or_default().there.push(reported);
    }
    for here in reader.of_day(args.day)? {
        keys.entry(key_of(&here, has_receipt)).or_default().here.push(here);
    }
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, args.output, "findings", COLUMNS);
    let is_table = matches!(args.output, Output::Table);
    let (mut matched, mut others) = (0, 0);
    for (key, sides) in keys {
        let finding = compare(&reader, key, sides)?;
        let is_match = finding.what == What::Matched;
        *(if is_match { &mut matched } else { &mut others }) += 1;
        if !(is_table && is_match) {
            printer.row(told(FINDING, &finding))?;
        }
    }
    printer.finish(FINDING.iter().map(|(name, _)| *name))?;
    if others > 0 {
        let message = format!("{matched} match, {others} do not");
        return Err(Failure::new(Exit::BadData, message));
    }
    if is_table {
        note(format_args!("{matched} match, and there is nothing else on either side"));
    }
    Ok(())
}

fn key_of(here: &Identified, has_receipt: bool) -> Key {
    (here.contract.clone(), has_receipt.then(|| here.receipt.clone()))
}

/// What the report says, line by line.
fn report(args: &ReconcileArgs) -> Result<Vec<(Key, Reported)>, Failure> {
    let ReconcileArgs { file, map, .. } = args;
    let bad = |what: String| {
        Failure::new(Exit::BadData, format!("{}: {what}; nothing was compared", file.display()))
    };
    may_read(file)?;
    let mut reader = csv::Reader::from_path(file).map_err(|error| bad(error.to_string()))?;
    let headers = reader.headers().map_err(|error| bad(error.to_string()))?.clone();
    let column = |name: &str| {
        let found = headers.iter().position(|header| header.trim() == name);
        let named: Vec<&str> = headers.iter().collect();
        found.ok_or_else(|| bad(format!("no column {name:?}; it has {}", named.join(", "))))
    };
    let ColumnMap { contract, receipt, amount } = map;
    let (contract, amount) = (column(contract)?, column(amount)?);
    let receipt = receipt.as_deref().map(column).transpose()?;
    let mut reported = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| bad(error.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |column: usize| record.get(column).unwrap_or_default().trim().to_owned();
        let amount = pesos(&cell(amount)).ok_or_else(|| {
            bad(format!("line {line}: {:?} is no amount in pesos such as 3,900.00", cell(amount)))
        })?;
        let receipt = receipt.map(|column| ReceiptNumber::as_stored(as_it_was(&cell(column))));
        reported.push(((cell(contract), receipt), Reported { line, amount }));
    }
    Ok(reported)
}

/// Pesos as reports print them: with or without the currency, and a comma before each three digits.
fn pesos(text: &str) -> Option<Amount> {
    let text = ["PHP", "\u{20b1}"].iter().fold(text, |text, currency| {
        text.trim_start_matches(currency).trim_end_matches(currency).trim()
    });
    let whole = text.split('.').next()?;
    let mut groups = whole.split(',');
    let first = groups.next()?.len();
    let is_grouped = whole.contains(',');
    let in_threes = groups.all(|group| group.len() == 3);
    if is_grouped && !(in_threes && (1..=3).contains(&first)) {
        return None;
    }
    if text.len() - whole.len() > ".00".len() {
        // Three digits behind a point may be thousands.
        return None;
    }
    let without = whole.replace(',', "") + &text[whole.len()..];
    Amount::parse(&without).ok()
}

fn compare(reader: &Reader, key: Key, mut sides: Sides) -> Result<Finding, Failure> {
    let is_of_the_day = !sides.here.is_empty();
    if !is_of_the_day {
        // A report may draw the line between two days elsewhere.
        let of_contract = reader.of_contract(&key.0)?.into_iter();
        sides.here = of_contract.filter(|here| key_of(here, key.1.is_some()) == key).collect();
    }
    let mut here: Vec<Amount> = sides.here.iter().map(|here| here.amount).collect();
    let mut there: Vec<Amount> = sides.there.iter().map(|there| there.amount).collect();
    here.sort_unstable();
    there.sort_unstable();
    let what = match (here.len(), there.len()) {
        (_, 0) => What::OnlyHere,
        (0, _) => What::OnlyThere,
        _ if here == there && is_of_the_day => What::Matched,
        _ if here == there => What::OtherDay,
        (ours, theirs) if ours == theirs => What::AmountDiffers,
        _ => What::SeveralToOne,
    };
    Ok(Finding { what, key, sides })
}

/// What machines are told of a finding.
const FINDING: &[Member<Finding>] = &[
    ("finding", |finding| {
        match finding.what {
            What::Matched => "matched",
            What::OnlyHere => "only-here",
            What::OnlyThere => "only-there",
            What::OtherDay => "here-on-another-day",
            What::AmountDiffers => "amount-differs",
            What::SeveralToOne => "several-to-one",
        }
        .into()
    }),
    ("contract", |finding| finding.key.0.as_str().into()),
    ("receipt", |finding| match &finding.key.1 {
        Some(receipt) => receipt.as_str().into(),
        None => finding.sides.here.iter().map(|here| here.receipt.as_str()).collect(),
    }),
    ("here", |finding| several(finding.sides.here.iter().map(|here| here.amount.to_string()))),
    ("there", |finding| several(finding.sides.there.iter().map(|there| there.amount.to_string()))),
    ("here_centavos", |finding| finding.sides.here.iter().map(|h| h.amount.centavos()).collect()),
    ("there_centavos", |finding| {
        finding.sides.there.iter().map(|there| there.amount.centavos()).collect()
    }),
    ("currency", |_| "PHP".into()),
    ("there_lines", |finding| finding.sides.there.iter().map(|there| there.line).collect()),
    ("here_on", |finding| several(finding.sides.here.iter().map(|here| here.day.to_string()))),
];

/// Several as a list.
fn several(texts: impl Iterator<Item = String>) -> Value {
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pesos_are_read_as_reports_print_them_and_nothing_is_guessed() {
        for (text, centavos) in [
            ("3900.00", 390_000),
            ("3,900.00", 390_000),
            ("1,234,567.8", 123_456_780),
            ("PHP 3,900.00", 390_000),
            ("\u{20b1}0.01", 1),
            ("3900", 390_000),
        ] {
            assert_eq!(pesos(text).map(Amount::centavos), Some(centavos), "{text}");
        }
        for text in
            ["", "3.900,00", "39,00", ",900", "3900.001", "3.900", "-3900.00", "3 900", "1,2345"]
        {
            assert_eq!(pesos(text), None, "{text}");
        }
    }
}
