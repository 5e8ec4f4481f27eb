//! `tilld takings`: what was taken, for a manager at the end of the day.

use std::io::{self, BufWriter};

use serde_json::Value;

use crate::config::Config;
use crate::domain::Invalid;
use crate::domain::amount::Centavos;
use crate::domain::collection::PayChannel;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::operator::cli::{Output, TakingsArgs};
use crate::operator::output::{Column, Member, Printer, note, number, text, told, visible};
use crate::operator::{Exit, Failure};
use crate::skypay::channel;
use crate::store::reader::Reader;
use crate::store::takings::{Days, Measure, Takings};
use crate::system::clock;

const COLUMNS: &[Column] =
    &[text("name", "BY"), number("count", "COUNT"), number("amount", "PESOS")];

/// Takings that have something in common, and what, for machines and for people.
struct Line {
    key: Value,
    name: String,
    takings: Takings,
}

/// `tilld takings`
pub fn takings(config: &Config, args: &TakingsArgs) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let found = reader.takings(args.days()?, args.by)?;
    let mut printer =
        Printer::new(BufWriter::new(io::stdout().lock()), args.output, "takings", COLUMNS);
    let mut total = Takings::default();
    let mut count = 0;
    for (key, takings) in found {
        total.count += takings.count;
        total.sum = Centavos(total.sum.0 + takings.sum.0);
        count += 1;
        printer.row(told(LINE, &Line::of(args.by, key, takings)))?;
    }
    let is_table = matches!(args.output, Output::Table);
    if is_table && count > 1 {
        let all = Line { key: Value::Null, name: "all".to_owned(), takings: total };
        printer.row(told(LINE, &all))?;
    }
    printer.finish(LINE.iter().map(|(name, _)| *name))?;
    if is_table && count == 0 {
        note("nothing was taken");
    }
    if let Some(closing) = args.day.map(|day| reader.closing_of(day)).transpose()?.flatten() {
        let (day, actor) = (closing.day, visible(closing.actor.as_str()));
        note(format_args!("{day} was closed by {actor} at {}", closing.at));
    }
    Ok(())
}

/// The days from one to the other, of which the second must not be before the first.
pub(super) fn days_between(
    from: Option<BusinessDate>,
    to: Option<BusinessDate>,
) -> Result<Days, Failure> {
    let wrong = |Invalid { expected }| Failure::new(Exit::Usage, format!("expected {expected}"));
    Days::between(from, to).map_err(wrong)
}

impl TakingsArgs {
    /// The day or days that are meant: today unless some are named.
    fn days(&self) -> Result<Days, Failure> {
        match (self.day, self.from, self.to) {
            (None, None, None) => {
                let today = AcceptedAt::new(clock::now()).date();
                Ok(Days { from: Some(today), to: Some(today) })
            }
            (Some(day), _, _) => Ok(Days { from: Some(day), to: Some(day) }),
            (None, from, to) => days_between(from, to),
        }
    }
}

impl Line {
    fn of(by: Measure, key: String, takings: Takings) -> Line {
        let channel = PayChannel::parse(&key).ok();
        let name = match by {
            Measure::Channel => channel.and_then(channel::name).unwrap_or(&key).to_owned(),
            Measure::Hour => format!("{key}:00"),
            Measure::Branch if key.is_empty() => "(here)".to_owned(),
            Measure::Caller | Measure::Branch | Measure::Day => key.clone(),
        };
        let key = match (by, channel) {
            (Measure::Channel, Some(channel)) => channel.code().into(),
            _ => key.into(),
        };
        Line { key, name, takings }
    }
}

/// What machines are told of takings.
const LINE: &[Member<Line>] = &[
    ("key", |line| line.key.clone()),
    ("name", |line| line.name.as_str().into()),
    ("count", |line| line.takings.count.into()),
    ("amount", |line| line.takings.sum.to_string().into()),
    ("amount_centavos", |line| line.takings.sum.0.into()),
    ("currency", |_| "PHP".into()),
];
