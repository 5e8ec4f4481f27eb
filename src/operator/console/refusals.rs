//! What was refused and why: the cashier may hold that cash.

use maud::{Markup, html};
use serde_json::Value;

use super::frame::{self, moment, name, number, text};
use super::words::{self, Light};
use crate::operator::output::{plain, visible};
use crate::store::KeptRefusal;
use crate::store::OpenError;
use crate::store::reader::Reader;

/// So many are shown at a time.
const ROWS_MAX: usize = 50;

/// A page of them, and how many were only counted.
pub struct Refusals {
    kept: Vec<KeptRefusal>,
    beyond: i64,
}

/// Reads the refusals whose number is lower than `before`, newest first.
pub fn read(reader: &Reader, before: Option<i64>) -> Result<Refusals, OpenError> {
    let kept = reader.refusals(None, before, ROWS_MAX)?;
    Ok(Refusals { kept, beyond: reader.refusals_beyond()? })
}

/// The page.
pub fn page(refusals: &Refusals) -> Markup {
    let Refusals { kept, beyond } = refusals;
    let older = kept.last().filter(|_| kept.len() == ROWS_MAX);
    html! {
        @if kept.is_empty() {
            p.light.good { (frame::sign(Light::Good)) (words::NOTHING_REFUSED) }
        } @else {
            p { (words::REFUSALS_NOTE) }
            (list(words::REFUSALS_TITLE, kept))
        }
        @if *beyond > 0 { p { (words::counted_only(*beyond)) } }
        @if let Some(oldest) = older {
            p { a href={ "/refusals?before=" (oldest.id) } { (words::OLDER) } }
        }
    }
}

/// A table of refusals.
pub fn list<'a>(caption: &str, refusals: impl IntoIterator<Item = &'a KeptRefusal>) -> Markup {
    let columns = [
        moment(words::LAST),
        name(words::CONTRACT),
        name(words::RECEIPT),
        number(words::AMOUNT),
        text(words::WHY),
        text(words::FROM),
        number(words::TIMES),
    ];
    let rows: Vec<Vec<Markup>> = refusals.into_iter().map(row).collect();
    frame::table(caption, &columns, &rows)
}

fn row(kept: &KeptRefusal) -> Vec<Markup> {
    let refused = &kept.refused;
    // What it said may be anything, so its members are shown as they came.
    let said: Value = serde_json::from_str(&refused.text).unwrap_or_default();
    let member = |name: &str| said.get(name).map(plain).unwrap_or_default();
    vec![
        html! { (kept.last_at.wall_clock()) },
        frame::foreign(refused.contract.as_deref().unwrap_or_default()),
        frame::foreign(&member("receiptNumber")),
        frame::foreign(&member("amount")),
        html! {
            (refused.code) " " (visible(&refused.description))
            @if let Some(sequence) = kept.accepted_as {
                "; " a href={ "/collections/" (sequence) } { (words::accepted_as(sequence)) }
            }
            details { summary { (words::SAID) } code { (visible(&refused.text)) } }
        },
        html! { (visible(refused.provenance.caller.as_str())) " " (refused.provenance.peer) },
        html! { (kept.count) },
    ]
}
