//! `tilld list`, `tilld refusals`, `tilld show`: reading the books.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};

use crate::config::Config;
use crate::domain::collection::{BranchName, Collection};
use crate::domain::flags::Flag;
use crate::operator::cli::{ListArgs, Output};
use crate::operator::output::{Printer, Row, document, plain};
use crate::operator::{Exit, Failure};
use crate::skypay::channel;
use crate::store::KeptRefusal;
use crate::store::reader::{Filter, Listed, PAGE_ROWS, Reader, Story};

const LIST_COLUMNS: &[(&str, &str)] = &[
    ("sequence", "NO"),
    ("accepted_at", "ACCEPTED"),
    ("contract", "CONTRACT"),
    ("receipt", "RECEIPT"),
    ("amount", "PESOS"),
    ("channel_name", "CHANNEL"),
    ("caller", "CALLER"),
    ("flags", "FLAGS"),
];

const REFUSAL_COLUMNS: &[(&str, &str)] = &[
    ("id", "NO"),
    ("last_at", "LAST"),
    ("count", "TIMES"),
    ("code", "CODE"),
    ("description", "WHY"),
    ("caller", "CALLER"),
    ("text", "WHAT IT SAID"),
];

/// `tilld list`
pub fn list(config: &Config, args: &ListArgs) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let filter = Filter {
        day: args.day,
        channel: args.channel,
        contract: args.contract.clone(),
        receipt: args.receipt.clone(),
        flag: args.flag,
    };
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, args.output, "collections", LIST_COLUMNS);
    let mut before = None;
    let mut left = args.limit;
    while left > 0 {
        let page = reader.collections(&filter, before, left)?;
        let Some(last) = page.last() else { break };
        before = Some(last.entry.sequence);
        left -= page.len();
        let is_last = page.len() < PAGE_ROWS;
        for listed in &page {
            printer.row(&collection_row(listed))?;
        }
        if is_last {
            break;
        }
    }
    if printer.finish()? == 0 && matches!(args.output, Output::Table) {
        eprintln!("no such collection");
    }
    Ok(())
}

/// `tilld refusals`
pub fn refusals(
    config: &Config,
    contract: Option<&str>,
    limit: usize,
    output: Output,
) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, output, "refusals", REFUSAL_COLUMNS);
    let mut before = None;
    let mut left = limit;
    while left > 0 {
        let page = reader.refusals(contract, before, left)?;
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        left -= page.len();
        for kept in &page {
            printer.row(&refusal_row(kept))?;
        }
    }
    if printer.finish()? == 0 && matches!(output, Output::Table) {
        eprintln!("nothing was refused");
    }
    let beyond = reader.refusals_beyond()?;
    if beyond > 0 {
        eprintln!("{beyond} more were only counted, because too many came on one day");
    }
    Ok(())
}

/// `tilld show`
pub fn show(config: &Config, reference: &str, output: Output) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let stories = reader.stories(reference)?;
    if stories.is_empty() {
        let refused = reader.refusals(Some(reference), None, 1)?;
        let hint = match refused.first() {
            Some(_) => format!("; but some were refused: tilld refusals --contract {reference}"),
            None => String::new(),
        };
        let message =
            format!("no collection has the contract, receipt or number {reference}{hint}");
        return Err(Failure::new(Exit::NotFound, message));
    }
    let out = BufWriter::new(io::stdout().lock());
    match output {
        Output::Table => tell(out, &stories)?,
        Output::Json => {
            let mut out = out;
            let stories: Vec<Value> = stories.iter().map(|story| story_row(story).into()).collect();
            let members = Row::from_iter([("stories".to_owned(), stories.into())]);
            writeln!(out, "{}", document(members))?;
            out.flush()?;
        }
        Output::Jsonl | Output::Csv => {
            let mut printer = Printer::new(out, output, "stories", &[]);
            for story in &stories {
                printer.row(&story_row(story))?;
            }
            printer.finish()?;
        }
    }
    Ok(())
}

/// The story of each collection, for people.
fn tell(mut out: impl Write, stories: &[Story]) -> io::Result<()> {
    for (i, story) in stories.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let mut row = collection_row(&story.listed);
        for hidden in ["amount_centavos", "currency"] {
            row.shift_remove(hidden);
        }
        for (member, value) in row.iter().filter(|(_, value)| !plain(value).is_empty()) {
            writeln!(out, "{:<20} {}", member.replace('_', " "), plain(value))?;
        }
        for variant in &story.variants {
            writeln!(
                out,
                "{:<20} phone {}, collected {}, first at {}",
                "repeated with",
                variant.phone.as_str(),
                variant.collected_at,
                variant.first_at
            )?;
        }
        for kept in &story.refusals {
            let refused = &kept.refused;
            writeln!(
                out,
                "{:<20} {} {} ({} times, last at {}): {}",
                "refused",
                refused.code,
                refused.description,
                kept.count,
                kept.last_at,
                refused.text
            )?;
        }
    }
    out.flush()
}

fn story_row(story: &Story) -> Row {
    let mut row = collection_row(&story.listed);
    let variants = story.variants.iter().map(|variant| {
        json!({
            "phone": variant.phone.as_str(),
            "collected_at": variant.collected_at.to_rfc3339(),
            "first_at": variant.first_at.to_string(),
        })
    });
    row.insert("variants".to_owned(), variants.collect());
    let refusals = story.refusals.iter().map(|kept| Value::from(refusal_row(kept)));
    row.insert("refusals".to_owned(), refusals.collect());
    row
}

fn collection_row(listed: &Listed) -> Row {
    let entry = &listed.entry;
    let provenance = &entry.provenance;
    let Collection { contract, receipt, amount, phone, collected_at, channel } =
        &entry.confirmation.collection;
    let flags: Vec<&str> = entry.confirmation.flags.iter().map(Flag::as_str).collect();
    row(json!({
        "sequence": entry.sequence,
        "contract": contract.as_str(),
        "receipt": receipt.as_str(),
        "amount": amount.to_string(),
        "amount_centavos": amount.centavos(),
        "currency": "PHP",
        "phone": phone.as_str(),
        "collected_at": collected_at.to_rfc3339(),
        "accepted_at": entry.accepted_at.to_string(),
        "business_date": entry.business_date.to_string(),
        "channel": channel.code(),
        "channel_name": channel::name(*channel).map_or_else(|| channel.to_string(), str::to_owned),
        "caller": provenance.caller.as_str(),
        "branch": provenance.branch.as_ref().map(BranchName::as_str),
        "flags": flags,
        "repeats": listed.repeats.map_or(0, |repeats| repeats.count),
        "last_repeat_at": listed.repeats.map(|repeats| repeats.last_at.to_string()),
        "queued": listed.is_queued,
        "tape_line": listed.line,
        "intact": listed.is_intact,
        "form": provenance.form.as_str(),
        "key_id": provenance.key_id.to_string(),
        "peer": provenance.peer.to_string(),
        "client_certificate": provenance.client_certificate.map(|digest| digest.to_string()),
        "amount_text": entry.confirmation.amount_text,
        "contract_field": entry.confirmation.contract_field.as_str(),
        "unknown_fields": entry.confirmation.unknown_fields,
        "body_sha256": provenance.body_digest.to_string(),
    }))
}

fn refusal_row(kept: &KeptRefusal) -> Row {
    let refused = &kept.refused;
    let flags: Vec<&str> = refused.flags.iter().map(Flag::as_str).collect();
    row(json!({
        "id": kept.id,
        "code": refused.code,
        "description": refused.description,
        "contract": refused.contract,
        "caller": refused.provenance.caller.as_str(),
        "branch": refused.provenance.branch.as_ref().map(BranchName::as_str),
        "count": kept.count,
        "first_at": kept.first_at.to_string(),
        "last_at": kept.last_at.to_string(),
        "flags": flags,
        "form": refused.provenance.form.as_str(),
        "key_id": refused.provenance.key_id.to_string(),
        "peer": refused.provenance.peer.to_string(),
        "text": refused.text,
        "body_sha256": refused.provenance.body_digest.to_string(),
    }))
}

fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        _ => Row::new(),
    }
}
