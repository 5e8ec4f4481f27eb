//! `tilld export`: collections for other programs, page by page, so that it takes no more memory
//! for a million than for one, and can be gone on with where it ended.

use std::io::{self, BufWriter};

use super::books::COLLECTION;
use super::progress::Progress;
use super::takings::days_between;
use crate::config::Config;
use crate::operator::Failure;
use crate::operator::cli::{ExportArgs, ExportOutput, Output};
use crate::operator::output::{Printer, told};
use crate::store::reader::Reader;

/// `tilld export`
pub fn export(config: &Config, args: &ExportArgs) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let days = days_between(args.from, args.to)?;
    let output = match args.output {
        ExportOutput::Csv => Output::Csv,
        ExportOutput::Jsonl => Output::Jsonl,
    };
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, output, "collections", &[]);
    if args.after > 0 {
        printer = printer.continued();
    }
    let progress = Progress::begin();
    let total = reader.count_of(days, args.after)?;
    let (mut after, mut done) = (args.after, 0);
    loop {
        let page = reader.collections_of(days, after)?;
        let Some(last) = page.last() else { break };
        after = last.entry.sequence;
        for listed in &page {
            printer.row(told(COLLECTION, listed))?;
        }
        done += page.len() as u64;
        progress.tell("exporting", done, total);
    }
    progress.end();
    printer.finish(COLLECTION.iter().map(|(name, _)| *name))?;
    Ok(())
}
