//! `tilld selftest`: whether a till would be answered 1000 at this moment.

use std::io::{self, BufWriter, Write as _};

use serde_json::Value;

use crate::config::Config;
use crate::operator::Failure;
use crate::operator::cli::Output;
use crate::operator::control::{self, Reply, Request};
use crate::operator::output::{Member, Printer, document, row_of};

/// `tilld selftest`
pub fn selftest(config: &Config, output: Output) -> Result<(), Failure> {
    let Reply::Tested { connecting_us, answering_us } =
        control::ask(&config.operator.socket, &Request::SelfTest)?
    else {
        return Err(control::unexpected());
    };
    let tested = (connecting_us, answering_us);
    let mut out = BufWriter::new(io::stdout().lock());
    match output {
        Output::Table => writeln!(
            out,
            "a till would be answered 1000: TLS took {}, the answer {}; nothing is in the books",
            in_ms(connecting_us),
            in_ms(answering_us)
        )?,
        Output::Json => writeln!(out, "{}", document(row_of(TESTED, &tested)))?,
        Output::Jsonl | Output::Csv => {
            let mut printer = Printer::new(&mut out, output, "selftest", &[]);
            printer.row(row_of(TESTED, &tested))?;
            printer.finish([])?;
        }
    }
    Ok(out.flush()?)
}

fn in_ms(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}

/// What machines are told of a self-test.
const TESTED: &[Member<(u64, u64)>] = &[
    ("code", |_| Value::from(1000)),
    ("connecting_us", |(connecting, _)| (*connecting).into()),
    ("answering_us", |(_, answering)| (*answering).into()),
];
