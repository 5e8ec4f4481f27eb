//! One collection from its beginning to its end: received, stored, on tape, tried, delivered. Meant
//! to be printed, too.

use maud::{Markup, html};

use super::frame;
use super::sessions::Session;
use super::waiting;
use super::words;
use crate::config::accounts::Role;
use crate::domain::act::About;
use crate::domain::amount::Centavos;
use crate::domain::contract::ContractPolicy;
use crate::domain::flags::Flag;
use crate::domain::provenance::Form;
use crate::operator::output::visible;
use crate::skypay::channel;
use crate::store::Act;
use crate::store::reader::{HeadOffice, Story};

/// The page's title.
pub fn title(story: &Story) -> String {
    let collection = &story.listed.entry.confirmation.collection;
    format!("{} {}", words::CONTRACT, visible(collection.contract.as_str()))
}

/// The page.
pub fn page(story: &Story, contracts: ContractPolicy, session: &Session) -> Markup {
    let entry = &story.listed.entry;
    let collection = &entry.confirmation.collection;
    let channel = channel::name(collection.channel)
        .map_or_else(|| collection.channel.to_string(), str::to_owned);
    let flags: Vec<&str> = entry.confirmation.flags.iter().map(Flag::as_str).collect();
    let mut facts = vec![
        (words::RECEIPT, frame::foreign(collection.receipt.as_str())),
        (words::AMOUNT, html! { (words::pesos(Centavos(collection.amount.centavos()))) }),
        (words::PHONE, frame::foreign(collection.phone.as_str())),
        (words::CHANNEL, html! { (channel) }),
    ];
    if !flags.is_empty() {
        facts.push((words::FLAGS, html! { (flags.join(", ")) }));
    }
    html! {
        @if !story.listed.is_intact { (frame::message(words::ALTERED, "")) }
        (frame::facts(&facts))
        h2 { (words::STORY) }
        ol.story { @for (name, event) in events(story) { li { strong { (name) } " " (event) } } }
        @if session.account.role == Role::Manager { (forms(story, contracts, session)) }
        @if !story.refusals.is_empty() {
            h2 { (words::REFUSED_TOO) }
            (super::refusals::list(words::REFUSED_TOO, &story.refusals, session))
        }
    }
}

/// What a manager may do about it.
fn forms(story: &Story, contracts: ContractPolicy, session: &Session) -> Markup {
    let sequence = story.listed.entry.sequence;
    let contract = story.listed.entry.confirmation.collection.contract.as_str();
    // Where a contract may be paid any number of times, nothing is to be reopened.
    let is_shut = !story.is_reopened && contracts == ContractPolicy::Single;
    html! {
        @if let HeadOffice::Parked(_) = story.listed.standing {
            (waiting::send_again(sequence, session))
        }
        (frame::reasoned(
            session,
            "/notes",
            ("about", &About::Collection(sequence).to_string()),
            ("text", words::NOTE, words::WRITE_NOTE),
        ))
        @if is_shut {
            details.acts {
                summary { (words::REOPEN) }
                p.quiet { (words::REOPEN_NOTE) }
                (frame::reasoned(
                    session,
                    &format!("/collections/{sequence}"),
                    ("contract", contract),
                    ("reason", words::REOPEN_WHY, words::REOPEN),
                ))
            }
        }
    }
}

/// What happened, in its order.
fn events(story: &Story) -> Vec<(&'static str, Markup)> {
    let listed = &story.listed;
    let entry = &listed.entry;
    let provenance = &entry.provenance;
    let collected_at = entry.confirmation.collection.collected_at.to_string();
    let at = entry.accepted_at.wall_clock();
    let is_encrypted = provenance.form == Form::Encrypted;
    let caller = visible(provenance.caller.as_str());
    let received = words::received(&caller, &provenance.peer.to_string(), is_encrypted);
    let day = entry.business_date.to_string();
    let mut events = vec![
        (
            words::RECEIVED,
            html! { (time(&at)) " " (received) "; " (words::cash_taken(&collected_at)) },
        ),
        (words::STORED, html! { (words::stored(entry.sequence, &day)) }),
        (words::ON_TAPE, html! { (words::on_tape(listed.line)) }),
    ];
    if let Some(repeats) = listed.repeats {
        let again = words::again(repeats.count, repeats.last_at);
        events.push((words::CONFIRMED_AGAIN, html! { (again) }));
    }
    for variant in &story.variants {
        let (phone, collected_at) = (variant.phone.as_str(), variant.collected_at.to_string());
        let event = html! {
            (time(&variant.first_at.wall_clock())) " " (visible(phone)) ", "
            (words::cash_taken(&collected_at))
        };
        events.push((words::REPEATED_WITH, event));
    }
    // Tries that decided nothing, and those that did, by their time.
    let mut tries: Vec<_> = Vec::new();
    for attempt in &story.attempts {
        let event = tried(&attempt.at.wall_clock(), attempt.took_ms, &attempt.reason);
        tries.push((attempt.at, words::TRIED, event));
    }
    for delivery in &story.deliveries {
        let name = if delivery.parked_for.is_some() { words::PARKED } else { words::DELIVERED };
        let reason = match delivery.code {
            Some(code) if delivery.reason.is_empty() => code.to_string(),
            _ => delivery.reason.clone(),
        };
        let event = tried(&delivery.at.wall_clock(), delivery.took_ms, &reason);
        tries.push((delivery.at, name, event));
    }
    // What people did stands among them.
    for act in &story.acts {
        tries.extend(words::deed(&act.deed).map(|name| (act.at, name, done(act))));
    }
    tries.sort_by_key(|(at, ..)| *at);
    events.extend(tries.into_iter().map(|(_, name, event)| (name, event)));
    match listed.standing {
        HeadOffice::Nothing => events.push((words::HEAD_OFFICE, html! { (words::IS_KEPT) })),
        HeadOffice::Queued => events.push((words::HEAD_OFFICE, html! { (words::IS_QUEUED) })),
        HeadOffice::Parked(_) | HeadOffice::Delivered(_) => {}
    }
    events
}

/// When and by whom something was done, and what was written with it.
pub fn done(act: &Act) -> Markup {
    html! {
        (time(&act.at.wall_clock())) " " (words::by(&visible(act.actor.as_str())))
        @if let Some(written) = act.deed.words() { ": " (visible(written.as_str())) }
    }
}

fn tried(at: &str, took_ms: i64, reason: &str) -> Markup {
    html! {
        (time(at)) ", " (words::took(took_ms))
        @if !reason.is_empty() { ": " (visible(reason)) }
    }
}

fn time(wall_clock: &str) -> Markup {
    html! { time { (wall_clock) } }
}
