//! `tilld takings`: what was taken, for a manager at the end of the day.

use std::io::{self, BufWriter};

use crate::config::Config;
use crate::domain::amount::Centavos;
use crate::domain::collection::PayChannel;
use crate::domain::time::AcceptedAt;
use crate::operator::Failure;
use crate::operator::cli::{By, Output, TakingsArgs};
use crate::operator::output::{Column, Member, Printer, note, number, row_of, text};
use crate::skypay::channel;
use crate::store::reader::Reader;
use crate::store::takings::{Days, Measure, Takings};
use crate::system::clock;

const COLUMNS: &[Column] =
    &[text("name", "BY"), number("count", "COUNT"), number("amount", "PESOS")];

/// Takings that have something in common, and what.
struct Line {
    by: By,
    key: String,
    takings: Takings,
}

/// `tilld takings`
pub fn takings(config: &Config, args: &TakingsArgs) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let days = args.days();
    let found = reader.takings(days, measure(args.by))?;
    let mut printer =
        Printer::new(BufWriter::new(io::stdout().lock()), args.output, "takings", COLUMNS);
    let mut total = Takings::default();
    let mut count = 0;
    for (key, takings) in found {
        total.count += takings.count;
        total.sum = Centavos(total.sum.0 + takings.sum.0);
        count += 1;
        printer.row(&row_of(LINE, &Line { by: args.by, key, takings }))?;
    }
    let is_table = matches!(args.output, Output::Table);
    if is_table && count > 1 {
        let all = Line { by: By::Caller, key: "all".to_owned(), takings: total };
        printer.row(&row_of(LINE, &all))?;
    }
    printer.finish(LINE.iter().map(|(name, _)| *name))?;
    if is_table && count == 0 {
        note("nothing was taken");
    }
    Ok(())
}

impl TakingsArgs {
    /// The day or days that are meant: today unless some are named.
    fn days(&self) -> Days {
        match (self.day, self.from, self.to) {
            (None, None, None) => {
                let today = AcceptedAt::new(clock::now()).date();
                Days { from: Some(today), to: Some(today) }
            }
            (Some(day), _, _) => Days { from: Some(day), to: Some(day) },
            (None, from, to) => Days { from, to },
        }
    }
}

fn measure(by: By) -> Measure {
    match by {
        By::Channel => Measure::Channel,
        By::Hour => Measure::Hour,
        By::Caller => Measure::Caller,
        By::Branch => Measure::Branch,
        By::Day => Measure::Day,
    }
}

/// What machines are told of takings.
const LINE: &[Member<Line>] = &[
    ("key", |line| match line.by {
        By::Channel => PayChannel::parse(&line.key).map_or(0, PayChannel::code).into(),
        _ => line.key.as_str().into(),
    }),
    ("name", |line| match line.by {
        By::Channel => {
            let channel = PayChannel::parse(&line.key).ok();
            let name = channel.and_then(channel::name);
            name.map_or_else(|| line.key.clone(), str::to_owned).into()
        }
        By::Hour => format!("{}:00", line.key).into(),
        By::Branch if line.key.is_empty() => "(here)".into(),
        By::Caller | By::Branch | By::Day => line.key.as_str().into(),
    }),
    ("count", |line| line.takings.count.into()),
    ("amount", |line| line.takings.sum.to_string().into()),
    ("amount_centavos", |line| line.takings.sum.0.into()),
    ("currency", |_| "PHP".into()),
];
