//! `tilld close`: a day's books as they are closed, to be printed and filed.

use std::io::{self, BufWriter, Write as _};

use serde_json::{Value, json};

use super::progress::Progress;
use crate::config::Config;
use crate::domain::amount::Centavos;
use crate::domain::collection::PayChannel;
use crate::domain::time::BusinessDate;
use crate::operator::Failure;
use crate::operator::cli::Output;
use crate::operator::control::{self, Reply, Request};
use crate::operator::day_close::{DayClose, Sum, Undelivered};
use crate::operator::output::{
    Column, Member, Printer, Row, document, note, number, text, told, visible,
};
use crate::skypay::channel;

const COLUMNS: &[Column] = &[text("name", ""), number("count", "COUNT"), number("amount", "PESOS")];

/// A line of the close, which tells by itself of what it is one.
struct Line {
    day: String,
    closed_at: String,
    closed_by: String,
    /// `channel`, `all` or `head-office`.
    part: &'static str,
    key: Value,
    name: String,
    sum: Sum,
}

/// `tilld close`
pub fn close(
    config: &Config,
    day: BusinessDate,
    with_undelivered: bool,
    output: Output,
) -> Result<(), Failure> {
    let actor = control::claimed_actor();
    let request = Request::Close { day: day.to_string(), with_undelivered, actor };
    let progress = Progress::begin();
    let reply = control::ask_telling(&config.operator.socket, &request, &mut |done, total| {
        progress.tell("of the tape", done, total);
    });
    progress.end();
    let reply = reply?;
    let Reply::Closed { close } = reply else { return Err(control::unexpected()) };
    let mut out = BufWriter::new(io::stdout().lock());
    match output {
        Output::Json => writeln!(out, "{}", document(members(&close)))?,
        Output::Table => {
            let DayClose { day, closed_by, closed_at, .. } = &*close;
            writeln!(out, "{day}, closed by {} at {closed_at}\n", visible(closed_by))?;
            print_lines(&mut out, &close, output)?;
            if !close.undelivered.is_empty() {
                writeln!(out, "\nnot at head office now:")?;
            }
            for undelivered in &close.undelivered {
                writeln!(out, "  {}", visible(&undelivered.in_words()))?;
            }
        }
        Output::Jsonl | Output::Csv => print_lines(&mut out, &close, output)?,
    }
    out.flush()?;
    if close.was_closed {
        note(format_args!("{day} had been closed before"));
    } else {
        note(format_args!("{day} is closed; database and tape agree"));
    }
    Ok(())
}

fn print_lines(out: &mut impl io::Write, close: &DayClose, output: Output) -> Result<(), Failure> {
    let mut printer = Printer::new(out, output, "lines", COLUMNS);
    for line in lines(close) {
        printer.row(told(LINE, &line))?;
    }
    printer.finish([])?;
    Ok(())
}

fn lines(close: &DayClose) -> Vec<Line> {
    let line = |part, key, name: &str, sum| Line {
        day: close.day.clone(),
        closed_at: close.closed_at.clone(),
        closed_by: close.closed_by.clone(),
        part,
        key,
        name: name.to_owned(),
        sum,
    };
    let mut lines: Vec<Line> = close
        .channels
        .iter()
        .map(|of| line("channel", of.channel.into(), &name_of(of.channel), of.sum))
        .collect();
    lines.push(line("all", Value::Null, "all", total(close)));
    for (name, sum) in standings(close) {
        lines.push(line("head-office", name.into(), name, sum));
    }
    lines
}

fn name_of(code: u32) -> String {
    let parsed = PayChannel::parse(&code.to_string()).ok();
    parsed.and_then(channel::name).map_or_else(|| code.to_string(), str::to_owned)
}

fn total(close: &DayClose) -> Sum {
    close.channels.iter().fold(Sum { count: 0, centavos: 0 }, |total, of| Sum {
        count: total.count + of.sum.count,
        centavos: total.centavos + of.sum.centavos,
    })
}

fn standings(close: &DayClose) -> [(&'static str, Sum); 4] {
    [
        ("delivered", close.delivered),
        ("waiting", close.waiting),
        ("parked", close.parked),
        ("kept", close.kept),
    ]
}

/// What machines are told of a line.
const LINE: &[Member<Line>] = &[
    ("day", |line| line.day.as_str().into()),
    ("closed_at", |line| line.closed_at.as_str().into()),
    ("closed_by", |line| line.closed_by.as_str().into()),
    ("part", |line| line.part.into()),
    ("key", |line| line.key.clone()),
    ("name", |line| line.name.as_str().into()),
    ("count", |line| line.sum.count.into()),
    ("amount", |line| Centavos(line.sum.centavos).to_string().into()),
    ("amount_centavos", |line| line.sum.centavos.into()),
    ("currency", |_| "PHP".into()),
];

/// All of it as one document.
fn members(close: &DayClose) -> Row {
    let sum = |sum: Sum| {
        json!({
            "count": sum.count,
            "amount": Centavos(sum.centavos).to_string(),
            "amount_centavos": sum.centavos,
        })
    };
    let channels = close.channels.iter().map(|of| {
        json!({"channel": of.channel, "channel_name": name_of(of.channel), "sum": sum(of.sum)})
    });
    let head_office: Row =
        standings(close).into_iter().map(|(name, of)| (name.to_owned(), sum(of))).collect();
    let undelivered = close.undelivered.iter().map(|listed| {
        let Undelivered { sequence, contract, receipt, amount, is_parked } = listed;
        json!({
            "sequence": sequence,
            "contract": contract,
            "receipt": receipt,
            "amount": amount,
            "head_office": if *is_parked { "parked" } else { "queued" },
        })
    });
    Row::from_iter([
        ("day".to_owned(), close.day.as_str().into()),
        ("closed_at".to_owned(), close.closed_at.as_str().into()),
        ("closed_by".to_owned(), close.closed_by.as_str().into()),
        ("was_closed".to_owned(), close.was_closed.into()),
        ("tape_line".to_owned(), close.tape_line.into()),
        ("currency".to_owned(), "PHP".into()),
        ("channels".to_owned(), channels.collect()),
        ("all".to_owned(), sum(total(close))),
        ("head_office".to_owned(), head_office.into()),
        ("undelivered".to_owned(), undelivered.collect()),
    ])
}
