//! `tilld sync` and `tilld branches`: delivery, as a branch and as head office see it.

use std::io::{self, BufWriter, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::books::COLLECTION;
use super::progress::Progress;
use crate::config::Config;
use crate::domain::decision::Sequence;
use crate::operator::cli::{Output, SyncCommand};
use crate::operator::control::{self, Reply, Request, Which};
use crate::operator::output::{Column, Member, Printer, Row, note, number, row_of, text, told};
use crate::operator::snapshot::{Link, LinkState, Snapshot, counted};
use crate::operator::{Exit, Failure};
use crate::store::Branch;
use crate::store::reader::{HeadOffice, Listed, PAGE_ROWS, Reader};

const PARKED_COLUMNS: &[Column] = &[
    number("sequence", "NO"),
    text("parked_at", "PARKED"),
    text("contract", "CONTRACT"),
    text("receipt", "RECEIPT"),
    number("amount", "PESOS"),
    text("parked_for", "WHY"),
    number("parked_code", "CODE"),
    text("parked_reason", "WHAT HEAD OFFICE SAID"),
];

const BRANCH_COLUMNS: &[Column] = &[
    text("branch", "BRANCH"),
    text("epoch", "EPOCH"),
    number("last_sequence", "LAST"),
    number("missing", "MISSING"),
    text("heard_at", "HEARD"),
    number("count", "COLLECTIONS"),
    number("pesos", "PESOS"),
    number("overpaid", "OVERPAID"),
    number("possible_doubles", "DOUBLES"),
];

/// `tilld sync …`
pub fn sync(config: &Config, command: &SyncCommand) -> Result<(), Failure> {
    match command {
        SyncCommand::Now => now(config),
        SyncCommand::Wait { timeout } => wait(config, *timeout),
        SyncCommand::Retry { references, .. } => retry(config, references),
        SyncCommand::Parked { output } => parked(config, *output),
    }
}

fn now(config: &Config) -> Result<(), Failure> {
    let reply = control::ask(&config.operator.socket, &Request::SyncNow)?;
    let Reply::Status { snapshot } = reply else { return Err(control::unexpected()) };
    let waiting = snapshot.books.queued.count;
    let line = match waiting {
        0 => "nothing waits".to_owned(),
        _ => format!("sending {waiting} waiting{}", on_what_line(&snapshot)),
    };
    Ok(writeln!(io::stdout(), "{line}")?)
}

fn wait(config: &Config, timeout: Duration) -> Result<(), Failure> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let reply = control::ask(&config.operator.socket, &Request::SyncWait { timeout_ms })?;
    let Reply::Waited { is_empty, snapshot } = reply else { return Err(control::unexpected()) };
    if !is_empty {
        let waiting = counted(snapshot.books.queued.count, "collection");
        let message = format!("still waiting: {waiting}{}", on_what_line(&snapshot));
        return Err(Failure::new(Exit::TimedOut, message));
    }
    let parked = match snapshot.books.parked.count {
        0 => String::new(),
        count => format!("; {} parked: see `tilld sync parked`", counted(count, "collection")),
    };
    Ok(writeln!(io::stdout(), "nothing waits{parked}")?)
}

/// What keeps things waiting, when something does.
fn on_what_line(snapshot: &Snapshot) -> String {
    let link = snapshot.head_office.as_ref().and_then(|office| office.link.as_ref());
    match link {
        Some(link) if link.state != LinkState::Up => {
            format!("; {}: {}", snapshot.line_words(link), link.trouble)
        }
        Some(Link { paused: Some(paused), .. }) => format!("; nothing is sent: {paused}"),
        Some(link) => {
            snapshot.last_trouble(link).map_or_else(String::new, |what| format!("; {what}"))
        }
        None => String::new(),
    }
}

fn retry(config: &Config, references: &[String]) -> Result<(), Failure> {
    let which = match references {
        [] => Which::AllParked,
        these => Which::These(these.to_vec()),
    };
    let request = Request::Retry { which, actor: control::claimed_actor() };
    let progress = Progress::begin();
    let reply = control::ask_telling(&config.operator.socket, &request, &mut |done, total| {
        progress.tell("of what is parked", done, total);
    });
    progress.end();
    let Reply::SentAgain { count } = reply? else { return Err(control::unexpected()) };
    let line = match count {
        0 => "nothing is parked".to_owned(),
        1 => "1 collection is sent again".to_owned(),
        count => format!("{count} collections are sent again"),
    };
    Ok(writeln!(io::stdout(), "{line}")?)
}

fn parked(config: &Config, output: Output) -> Result<(), Failure> {
    let reader = Reader::open(&config.state_dir)?;
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, output, "parked", PARKED_COLUMNS);
    let mut after: Sequence = 0;
    loop {
        let page = reader.parked(after, PAGE_ROWS)?;
        for listed in &page {
            printer.row(parked_row(listed))?;
        }
        let Some(last) = page.last().filter(|_| page.len() == PAGE_ROWS) else { break };
        after = last.entry.sequence;
    }
    let members = COLLECTION.iter().chain(PARKED).map(|(name, _)| *name);
    if printer.finish(members)? == 0 && matches!(output, Output::Table) {
        note("nothing is parked");
    }
    // The books tell it without the daemon; but it is the one that would send it again.
    control::reach(&config.operator.socket).map(drop)
}

fn parked_row(listed: &Listed) -> Row {
    let mut row = row_of(COLLECTION, listed);
    row.extend(row_of(PARKED, listed));
    row
}

/// What machines are told of a parked collection beside what it is.
const PARKED: &[Member<Listed>] = &[
    ("parked_at", |listed| of_delivery(listed, |delivery| delivery.at.to_string().into())),
    ("parked_for", |listed| of_delivery(listed, |delivery| delivery.fate_word().into())),
    ("parked_http", |listed| of_delivery(listed, |delivery| delivery.http.into())),
    ("parked_code", |listed| of_delivery(listed, |delivery| delivery.code.into())),
    ("parked_reason", |listed| of_delivery(listed, |delivery| delivery.reason.as_str().into())),
];

fn of_delivery(listed: &Listed, tell: impl Fn(&crate::store::Delivery) -> Value) -> Value {
    match &listed.standing {
        HeadOffice::Parked(delivery) => tell(delivery),
        // It was sent again since the page was read.
        HeadOffice::Nothing | HeadOffice::Queued | HeadOffice::Delivered(_) => Value::Null,
    }
}

/// `tilld branches`
pub fn branches(config: &Config, output: Output) -> Result<(), Failure> {
    let branches = Reader::open(&config.state_dir)?.branches()?;
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, output, "branches", BRANCH_COLUMNS);
    for branch in &branches {
        printer.row(told(BRANCH, branch))?;
    }
    let count = printer.finish(BRANCH.iter().map(|(name, _)| *name))?;
    if count == 0 && matches!(output, Output::Table) {
        note("no branch has relayed to here");
    }
    Ok(())
}

/// What machines are told of a branch.
const BRANCH: &[Member<Branch>] = &[
    ("branch", |branch| branch.branch.as_str().into()),
    ("epoch", |branch| branch.epoch.map(|epoch| epoch.to_string()).into()),
    ("last_sequence", |branch| branch.last_sequence.into()),
    ("missing", |branch| branch.missing.into()),
    ("gaps", |branch| {
        let gaps = branch.gaps.iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            _ => format!("{first}-{last}"),
        });
        json!(gaps.collect::<Vec<_>>())
    }),
    ("heard_at", |branch| branch.heard_at.to_string().into()),
    ("count", |branch| branch.count.into()),
    ("centavos", |branch| branch.sum.0.into()),
    ("pesos", |branch| branch.sum.to_string().into()),
    ("currency", |_| "PHP".into()),
    ("overpaid", |branch| branch.overpaid.into()),
    ("possible_doubles", |branch| branch.possible_doubles.into()),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::snapshot::tests::{calm, with_link};

    #[test]
    fn what_keeps_collections_waiting_is_told() {
        assert_eq!(on_what_line(&calm()), "");
        let down = on_what_line(&with_link(LinkState::Down));
        assert_eq!(down, "; line down since 10:12: connection refused by 10.1.0.1:8443");
        let mut paused = calm();
        let link = paused.head_office.as_mut().and_then(|office| office.link.as_mut()).unwrap();
        link.paused = Some("the writer has too much to do".to_owned());
        assert_eq!(on_what_line(&paused), "; nothing is sent: the writer has too much to do");
        let mut troubled = with_link(LinkState::Up);
        let met = "; the last try met: connection refused by 10.1.0.1:8443; it is tried again";
        assert_eq!(on_what_line(&troubled), met);
        troubled.books.queued.count = 0;
        assert_eq!(on_what_line(&troubled), "", "nothing waits");
    }
}
