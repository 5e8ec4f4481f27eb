//! What was refused and why: the cashier may hold that cash.

use maud::{Markup, html};
use serde_json::Value;

use super::frame::{self, moment, name, number, text};
use super::sessions::Session;
use super::story;
use super::words::{self, Light};
use crate::config::accounts::Role;
use crate::domain::act::About;
use crate::operator::output::{plain, visible};
use crate::store::reader::Reader;
use crate::store::{Act, KeptRefusal, OpenError};

/// So many are shown at a time.
const ROWS_MAX: usize = 50;

/// A refusal, and what people did about it.
pub type Kept = (KeptRefusal, Vec<Act>);

/// A page of them, and how many were only counted.
pub struct Refusals {
    kept: Vec<Kept>,
    beyond: i64,
}

/// Reads the refusals whose number is lower than `before`, newest first.
pub fn read(reader: &Reader, before: Option<i64>) -> Result<Refusals, OpenError> {
    let kept = with_acts(reader, reader.refusals(None, before, ROWS_MAX)?)?;
    Ok(Refusals { kept, beyond: reader.refusals_beyond()? })
}

/// With what people did about each.
pub fn with_acts(reader: &Reader, refusals: Vec<KeptRefusal>) -> Result<Vec<Kept>, OpenError> {
    let found = refusals.into_iter().map(|kept| reader.refusal(kept.id));
    Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The page.
pub fn page(refusals: &Refusals, session: &Session) -> Markup {
    let Refusals { kept, beyond } = refusals;
    let older = kept.last().filter(|_| kept.len() == ROWS_MAX);
    html! {
        @if kept.is_empty() {
            p.light.good { (frame::sign(Light::Good)) (words::NOTHING_REFUSED) }
        } @else {
            p { (words::REFUSALS_NOTE) }
            (list(words::REFUSALS_TITLE, kept, session))
        }
        @if *beyond > 0 { p { (words::counted_only(*beyond)) } }
        @if let Some(oldest) = older {
            p { a href={ "/refusals?before=" (oldest.0.id) } { (words::OLDER) } }
        }
    }
}

/// A table of refusals.
pub fn list(caption: &str, refusals: &[Kept], session: &Session) -> Markup {
    let columns = [
        moment(words::LAST),
        name(words::CONTRACT),
        name(words::RECEIPT),
        number(words::AMOUNT),
        text(words::WHY),
        text(words::FROM),
        number(words::TIMES),
    ];
    let rows: Vec<Vec<Markup>> = refusals.iter().map(|kept| row(kept, session)).collect();
    frame::table(caption, &columns, &rows)
}

fn row((kept, acts): &Kept, session: &Session) -> Vec<Markup> {
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
            @for act in acts {
                @if let Some(name) = words::deed(&act.deed) { p { (name) " " (story::done(act)) } }
            }
            @if session.account.role == Role::Manager { (forms(kept, session)) }
            details { summary { (words::SAID) } code { (visible(&refused.text)) } }
        },
        html! { (visible(refused.provenance.caller.as_str())) " " (refused.provenance.peer) },
        html! { (kept.count) },
    ]
}

fn forms(kept: &KeptRefusal, session: &Session) -> Markup {
    // What is no whole confirmation cannot become a collection.
    let is_whole = !matches!(kept.refused.code, 2001..=2004);
    html! {
        details.acts {
            summary { (words::ACT) }
            @if is_whole && kept.accepted_as.is_none() {
                (frame::reasoned(
                    session,
                    "/refusals",
                    ("refusal", &kept.id.to_string()),
                    ("reason", words::ACCEPT_WHY, words::ACCEPT),
                ))
            }
            (frame::reasoned(
                session,
                "/notes",
                ("about", &About::Refusal(kept.id).to_string()),
                ("text", words::NOTE, words::WRITE_NOTE),
            ))
        }
    }
}
