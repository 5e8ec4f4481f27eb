//! Closes a day's books: both witnesses are read and compared, the writer closes the day, and the
//! tape is read on to the line that tells of it.

use super::control::{Control, Progress, done, in_form};
use crate::domain::act::Actor;
use crate::domain::time::BusinessDate;
use crate::operator::control::Reply;
use crate::operator::day_close::{DayClose, Undelivered};
use crate::operator::{Exit, Failure};
use crate::store::closing::{ByChannel, Close, Closed, Closing, OnTape, total_of};

/// So many collections are named that head office has not got; the rest is counted.
const NAMED_MAX: usize = 20;

/// Closes a day, or tells by whom and when it was closed; `progress` is how much of the tape is
/// read, in bytes.
pub async fn close(
    control: &Control,
    (day, actor): (&str, &str),
    with_undelivered: bool,
    progress: Progress,
) -> Result<Reply, Failure> {
    let (day, actor) = (in_form(BusinessDate::parse(day))?, in_form(Actor::parse(actor))?);
    let has_head_office = control.in_force.relay().is_some();
    if let Some(closing) = control.read(move |reader| Ok(reader.closing_of(day)?)).await? {
        return told(control, closing, true, has_head_office).await;
    }
    // Up to here nothing changes any more: it stands in both witnesses.
    let up_to = control.store.bell().ready_to();
    let state_dir = control.state_dir.clone();
    let read = control.read(move |reader| {
        let on_tape = OnTape::read(&state_dir, day, up_to, &mut |done, total| {
            progress.send_if_modified(|told| tell(told, (done, total)));
        })?;
        compare(&reader.by_channel(day, up_to)?, on_tape.agreed(), &format!("{day} stays open"))?;
        Ok(on_tape)
    });
    let mut on_tape = read.await?;
    let agreed = (up_to, on_tape.agreed().clone());
    let close = Close { day, agreed, has_head_office, with_undelivered, actor };
    let closing = match done(control.store.close(close)).await? {
        Closed::Now(closing) => closing,
        Closed::Before(closing) => return told(control, closing, true, has_head_office).await,
        Closed::Undelivered(figures) => {
            let count = figures.waiting.count + figures.parked.count;
            return Err(undelivered(control, day, count).await?);
        }
        Closed::Ahead => {
            let message =
                format!("{day} has not come yet: only today and days before can be closed");
            return Err(Failure::new(Exit::Error, message));
        }
    };
    let (channels, line) = (closing.figures.channels.clone(), closing.line);
    let read_on = control.read(move |_| {
        on_tape.read_on()?;
        let but = format!("{day} is closed with what the database tells");
        compare(&channels, &on_tape.before(line), &but)
    });
    read_on.await?;
    told(control, closing, false, has_head_office).await
}

/// Tells how far it is where that is news: at the end, and a hundred times until then.
fn tell(told: &mut (u64, u64), (done, total): (u64, u64)) -> bool {
    let is_news = done >= total || done > told.0 + total / 100;
    if is_news {
        *told = (done, total);
    }
    is_news
}

/// Both witnesses must tell the same of a day.
fn compare(database: &ByChannel, tape: &ByChannel, what_holds: &str) -> Result<(), Failure> {
    if database == tape {
        return Ok(());
    }
    let [here, there] = [database, tape].map(|channels| {
        let total = total_of(channels);
        format!("{} collections, {} pesos", total.count, total.sum)
    });
    let message = format!(
        "the witnesses tell different figures: the database {here}, the tape {there}; \
         {what_holds}; `tilld verify` names what differs"
    );
    Err(Failure::new(Exit::BadData, message))
}

async fn told(
    control: &Control,
    closing: Closing,
    was_closed: bool,
    has_head_office: bool,
) -> Result<Reply, Failure> {
    let limit = if has_head_office { NAMED_MAX } else { 0 };
    let close = control.read(move |reader| {
        let undelivered = reader.undelivered_of(closing.day, limit)?;
        Ok(DayClose::of(&closing, was_closed, &undelivered))
    });
    Ok(Reply::Closed { close: Box::new(close.await?) })
}

/// Why a day with so many undelivered collections stays open.
async fn undelivered(control: &Control, day: BusinessDate, count: i64) -> Result<Failure, Failure> {
    let named = control.read(move |reader| Ok(reader.undelivered_of(day, NAMED_MAX)?)).await?;
    let mut message = format!("{day} stays open: head office has not got all of it:");
    for listed in &named {
        message = format!("{message}\n  {}", Undelivered::of(listed).in_words());
    }
    let more = usize::try_from(count).unwrap_or_default().saturating_sub(named.len());
    if more > 0 {
        message = format!("{message}\n  and {more} more");
    }
    let message = format!(
        "{message}\n`tilld sync wait` returns when nothing waits, `tilld sync parked` says \
         why some are parked; `tilld close {day} --with-undelivered` closes it all the same"
    );
    Ok(Failure::new(Exit::Degraded, message))
}
