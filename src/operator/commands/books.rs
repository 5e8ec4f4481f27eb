//! `tilld list`, `tilld refusals`, `tilld show`: reading the books.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};

use crate::config::Config;
use crate::domain::act::{About, Words};
use crate::domain::collection::{BranchName, Collection};
use crate::domain::flags::Flag;
use crate::operator::cli::{ListArgs, Output, RefusalsArgs};
use crate::operator::output::{
    Column, Member, Printer, Row, document, note, number, plain, row_of, shown, text, told, visible,
};
use crate::operator::{Exit, Failure};
use crate::skypay::channel;
use crate::store::reader::{Filter, Listed, PAGE_ROWS, Reader, STORIES_MAX, Story};
use crate::store::{Act, Deed, KeptRefusal, OpenError};

const LIST_COLUMNS: &[Column] = &[
    number("sequence", "NO"),
    text("accepted_at", "ACCEPTED"),
    text("contract", "CONTRACT"),
    text("receipt", "RECEIPT"),
    number("amount", "PESOS"),
    text("channel_name", "CHANNEL"),
    text("caller", "CALLER"),
    text("flags", "FLAGS"),
];

const REFUSAL_COLUMNS: &[Column] = &[
    number("id", "NO"),
    text("last_at", "LAST"),
    number("count", "TIMES"),
    number("code", "CODE"),
    number("accepted_as", "ACCEPTED AS"),
    text("description", "WHY"),
    text("caller", "CALLER"),
    text("text", "WHAT IT SAID"),
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
    let printer = Printer::new(out, args.output, "collections", LIST_COLUMNS);
    let count = print_pages(printer, COLLECTION, args.limit, |last, left| {
        reader.collections(&filter, last.map(|listed: &Listed| listed.entry.sequence), left)
    })?;
    if count == 0 && matches!(args.output, Output::Table) {
        note("no such collection");
    }
    Ok(())
}

/// `tilld refusals`
pub fn refusals(config: &Config, args: &RefusalsArgs) -> Result<(), Failure> {
    let RefusalsArgs { contract, limit, output, .. } = args;
    let reader = Reader::open(&config.state_dir)?;
    let out = BufWriter::new(io::stdout().lock());
    let printer = Printer::new(out, *output, "refusals", REFUSAL_COLUMNS);
    let count = print_pages(printer, REFUSAL, *limit, |last, left| {
        reader.refusals(contract.as_deref(), last.map(|kept: &KeptRefusal| kept.id), left)
    })?;
    if count == 0 && matches!(output, Output::Table) {
        note("nothing was refused");
    }
    let beyond = reader.refusals_beyond()?;
    if beyond > 0 {
        note(format_args!("{beyond} more were only counted, because too many came on one day"));
    }
    Ok(())
}

/// Prints at most `limit` things, page by page; `page` gives what follows the last one printed.
/// Gives how many there were.
fn print_pages<T>(
    mut printer: Printer<'_, impl Write>,
    members: &[Member<T>],
    limit: usize,
    page: impl Fn(Option<&T>, usize) -> Result<Vec<T>, OpenError>,
) -> Result<usize, Failure> {
    let mut left = limit;
    let mut last = None;
    while left > 0 {
        let mut things = page(last.as_ref(), left)?;
        for thing in &things {
            printer.row(told(members, thing))?;
        }
        left -= things.len();
        if things.len() < PAGE_ROWS {
            break;
        }
        last = things.pop();
    }
    Ok(printer.finish(members.iter().map(|(name, _)| *name))?)
}

/// `tilld show`
pub fn show(config: &Config, reference: &str, output: Output) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    if let Some(About::Refusal(id)) = About::parse(reference) {
        return show_refusal(&reader, id, output);
    }
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
    if stories.len() == STORIES_MAX {
        note(format!(
            "the newest {STORIES_MAX} of {reference} are shown; `tilld list --contract` or \
             `--receipt` lists all"
        ));
    }
    let out = BufWriter::new(io::stdout().lock());
    match output {
        Output::Table => tell(out, &stories)?,
        Output::Json | Output::Jsonl | Output::Csv => {
            print_rows(out, output, "stories", stories.iter().map(story_row))?;
        }
    }
    Ok(())
}

/// `tilld show refusal:7`
fn show_refusal(reader: &Reader, id: i64, output: Output) -> Result<(), Failure> {
    let Some(refusal) = reader.refusal(id)? else {
        let message = format!("no kept refusal has the number {id}; `tilld refusals` lists them");
        return Err(Failure::new(Exit::NotFound, message));
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if !matches!(output, Output::Table) {
        return print_rows(out, output, "refusals", [refusal_row(&refusal)].into_iter());
    }
    tell_row(&mut out, &row_of(REFUSAL, &refusal.0))?;
    tell_acts(&mut out, &refusal.1)?;
    Ok(out.flush()?)
}

/// All members of each row, for machines.
fn print_rows(
    mut out: impl Write,
    output: Output,
    name: &str,
    rows: impl Iterator<Item = Row>,
) -> Result<(), Failure> {
    if matches!(output, Output::Json) {
        let rows: Vec<Value> = rows.map(Value::from).collect();
        let members = Row::from_iter([(name.to_owned(), rows.into())]);
        writeln!(out, "{}", document(members))?;
        return Ok(out.flush()?);
    }
    let mut printer = Printer::new(out, output, name, &[]);
    for row in rows {
        printer.row(row)?;
    }
    printer.finish([])?;
    Ok(())
}

/// The story of each collection, for people.
fn tell(mut out: impl Write, stories: &[Story]) -> io::Result<()> {
    for (i, story) in stories.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let mut row = row_of(COLLECTION, &story.listed);
        for hidden in ["amount_centavos", "currency"] {
            row.shift_remove(hidden);
        }
        tell_row(&mut out, &row)?;
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
        for attempt in &story.attempts {
            writeln!(
                out,
                "{:<20} {} ({} ms): {} {}",
                "tried at",
                attempt.at,
                attempt.took_ms,
                attempt.verdict,
                visible(&attempt.reason)
            )?;
        }
        for delivery in &story.deliveries {
            writeln!(
                out,
                "{:<20} {} at {} ({} ms){} {}",
                "head office",
                delivery.fate_word(),
                delivery.at,
                delivery.took_ms,
                if delivery.already_there { ", was there already" } else { "" },
                visible(&delivery.reason)
            )?;
        }
        tell_acts(&mut out, &story.acts)?;
        for (kept, acts) in &story.refusals {
            let refused = &kept.refused;
            writeln!(
                out,
                "{:<20} {} {} ({} times, last at {}): {}",
                "refused",
                refused.code,
                visible(&refused.description),
                kept.count,
                kept.last_at,
                visible(&refused.text)
            )?;
            tell_acts(&mut out, acts)?;
        }
    }
    out.flush()
}

/// The members that are not empty, one a line.
fn tell_row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    for (member, value) in row.iter().filter(|(_, value)| !plain(value).is_empty()) {
        writeln!(out, "{:<20} {}", member.replace('_', " "), shown(value))?;
    }
    Ok(())
}

/// What people did, one a line.
fn tell_acts(out: &mut impl Write, acts: &[Act]) -> io::Result<()> {
    for act in acts {
        let what = match act.deed {
            Deed::Retry(_) => "sent again",
            Deed::Note(..) => "note",
            Deed::Reopen(..) => "contract reopened",
            Deed::Close(..) => "day closed",
            Deed::Accept(refusal, sequence, _) => {
                &format!("refusal:{refusal} accepted as collection:{sequence}")
            }
        };
        let words = act.deed.words().map(|words| format!(": {}", visible(words.as_str())));
        writeln!(
            out,
            "{what:<20} by {} at {}{}",
            visible(act.actor.as_str()),
            act.at,
            words.unwrap_or_default()
        )?;
    }
    Ok(())
}

fn story_row(story: &Story) -> Row {
    let mut row = row_of(COLLECTION, &story.listed);
    let variants = story.variants.iter().map(|variant| {
        json!({
            "phone": variant.phone.as_str(),
            "collected_at": variant.collected_at.to_rfc3339(),
            "first_at": variant.first_at.to_string(),
        })
    });
    row.insert("variants".to_owned(), variants.collect());
    let attempts = story.attempts.iter().map(|attempt| {
        json!({
            "number": attempt.number,
            "at": attempt.at.to_string(),
            "took_ms": attempt.took_ms,
            "http": attempt.http,
            "code": attempt.code,
            "verdict": attempt.verdict,
            "reason": attempt.reason,
        })
    });
    row.insert("attempts".to_owned(), attempts.collect());
    let deliveries = story.deliveries.iter().map(|delivery| {
        json!({
            "fate": delivery.fate_word(),
            "at": delivery.at.to_string(),
            "took_ms": delivery.took_ms,
            "http": delivery.http,
            "code": delivery.code,
            "already_there": delivery.already_there,
            "reason": delivery.reason,
        })
    });
    row.insert("deliveries".to_owned(), deliveries.collect());
    let refusals = story.refusals.iter().map(|refusal| Value::from(refusal_row(refusal)));
    row.insert("refusals".to_owned(), refusals.collect());
    row.insert("acts".to_owned(), acts_value(&story.acts));
    row
}

fn refusal_row((kept, acts): &(KeptRefusal, Vec<Act>)) -> Row {
    let mut row = row_of(REFUSAL, kept);
    row.insert("acts".to_owned(), acts_value(acts));
    row
}

fn acts_value(acts: &[Act]) -> Value {
    let acts = acts.iter().map(|act| {
        json!({
            "act": act.deed.word(),
            "at": act.at.to_string(),
            "actor": act.actor.as_str(),
            "text": act.deed.words().map(Words::as_str),
        })
    });
    acts.collect()
}

/// What machines are told of a collection.
pub(super) const COLLECTION: &[Member<Listed>] = &[
    ("sequence", |listed| listed.entry.sequence.into()),
    ("contract", |listed| collection(listed).contract.as_str().into()),
    ("receipt", |listed| collection(listed).receipt.as_str().into()),
    ("amount", |listed| collection(listed).amount.to_string().into()),
    ("amount_centavos", |listed| collection(listed).amount.centavos().into()),
    ("currency", |_| "PHP".into()),
    ("phone", |listed| collection(listed).phone.as_str().into()),
    ("collected_at", |listed| collection(listed).collected_at.to_rfc3339().into()),
    ("accepted_at", |listed| listed.entry.accepted_at.to_string().into()),
    ("business_date", |listed| listed.entry.business_date.to_string().into()),
    ("channel", |listed| collection(listed).channel.code().into()),
    ("channel_name", |listed| {
        let channel = collection(listed).channel;
        channel::name(channel).map_or_else(|| channel.to_string(), str::to_owned).into()
    }),
    ("caller", |listed| listed.entry.provenance.caller.as_str().into()),
    ("branch", |listed| listed.entry.provenance.branch.as_ref().map(BranchName::as_str).into()),
    ("branch_number", |listed| {
        listed.entry.provenance.origin.map(|origin| origin.place.to_string()).into()
    }),
    ("branch_tape_line", |listed| {
        let line = listed.entry.provenance.origin.and_then(|origin| origin.line);
        line.map(|line| line.to_string()).into()
    }),
    ("flags", |listed| listed.entry.confirmation.flags.iter().map(Flag::as_str).collect()),
    ("repeats", |listed| listed.repeats.map_or(0, |repeats| repeats.count).into()),
    ("last_repeat_at", |listed| listed.repeats.map(|repeats| repeats.last_at.to_string()).into()),
    ("head_office", |listed| listed.standing.as_str().into()),
    ("tape_line", |listed| listed.line.into()),
    ("intact", |listed| listed.is_intact.into()),
    ("form", |listed| listed.entry.provenance.form.as_str().into()),
    ("key_id", |listed| listed.entry.provenance.key_id.to_string().into()),
    ("peer", |listed| listed.entry.provenance.peer.to_string().into()),
    ("client_certificate", |listed| {
        listed.entry.provenance.client_certificate.map(|digest| digest.to_string()).into()
    }),
    ("amount_text", |listed| listed.entry.confirmation.amount_text.as_str().into()),
    ("contract_field", |listed| listed.entry.confirmation.contract_field.as_str().into()),
    ("unknown_fields", |listed| listed.entry.confirmation.unknown_fields.as_deref().into()),
    ("body_sha256", |listed| listed.entry.provenance.body_digest.to_string().into()),
];

fn collection(listed: &Listed) -> &Collection {
    &listed.entry.confirmation.collection
}

/// What machines are told of a kept refusal.
const REFUSAL: &[Member<KeptRefusal>] = &[
    ("id", |kept| kept.id.into()),
    ("code", |kept| kept.refused.code.into()),
    ("description", |kept| kept.refused.description.as_str().into()),
    ("contract", |kept| kept.refused.contract.as_deref().into()),
    ("caller", |kept| kept.refused.provenance.caller.as_str().into()),
    ("branch", |kept| kept.refused.provenance.branch.as_ref().map(BranchName::as_str).into()),
    ("count", |kept| kept.count.into()),
    ("first_at", |kept| kept.first_at.to_string().into()),
    ("last_at", |kept| kept.last_at.to_string().into()),
    ("flags", |kept| kept.refused.flags.iter().map(Flag::as_str).collect()),
    ("form", |kept| kept.refused.provenance.form.as_str().into()),
    ("key_id", |kept| kept.refused.provenance.key_id.to_string().into()),
    ("peer", |kept| kept.refused.provenance.peer.to_string().into()),
    ("text", |kept| kept.refused.text.as_str().into()),
    ("accepted_as", |kept| kept.accepted_as.into()),
    ("body_sha256", |kept| kept.refused.provenance.body_digest.to_string().into()),
];
