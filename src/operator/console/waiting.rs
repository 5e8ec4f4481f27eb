//! What head office has not got: what is to be sent, and what it did not take.

use maud::{Markup, html};

use super::find;
use super::frame::{self, moment, name, number, text};
use super::sessions::Session;
use super::words::{self, Light};
use crate::config::accounts::Role;
use crate::domain::act::About;
use crate::domain::amount::Centavos;
use crate::domain::decision::Sequence;
use crate::operator::output::visible;
use crate::operator::snapshot::Snapshot;
use crate::store::OpenError;
use crate::store::reader::{HeadOffice, Listed, Reader, Waiting};

/// So many of each are shown: the oldest.
const ROWS_MAX: usize = 50;

/// The oldest of both.
pub struct Undelivered {
    parked: Vec<Listed>,
    waiting: Vec<Waiting>,
}

/// Reads them.
pub fn read(reader: &Reader) -> Result<Undelivered, OpenError> {
    Ok(Undelivered { parked: reader.parked(0, ROWS_MAX)?, waiting: reader.waiting(ROWS_MAX)? })
}

/// The page; `done` tells what an act came to.
pub fn page(
    snapshot: Option<&Snapshot>,
    undelivered: &Undelivered,
    session: &Session,
    done: Option<&str>,
) -> Markup {
    let Undelivered { parked, waiting } = undelivered;
    let counts = snapshot.map(|snapshot| &snapshot.books);
    html! {
        @if let Some(done) = done {
            p.light.good role="status" { (frame::sign(Light::Good)) (done) }
        }
        (frame::light(snapshot))
        h2 { (words::PARKED_TITLE) }
        @if parked.is_empty() {
            p { (words::NOTHING_PARKED) }
        } @else {
            p { (words::PARKED_NOTE) }
            (parked_table(parked, session))
            @if session.account.role == Role::Manager {
                (form("all", words::SEND_ALL_AGAIN, None, session))
            } @else {
                p { (words::MANAGERS_ONLY) }
            }
            (first_of(parked.len(), counts.map(|books| books.parked.count)))
        }
        h2 { (words::WAITING_TITLE) }
        @if waiting.is_empty() {
            p { (words::NOTHING_WAITS) }
        } @else {
            (waiting_table(waiting))
            (first_of(waiting.len(), counts.map(|books| books.queued.count)))
        }
    }
}

fn first_of(shown: usize, all: Option<i64>) -> Markup {
    let all = all.unwrap_or(0);
    html! {
        @if shown == ROWS_MAX && usize::try_from(all).is_ok_and(|all| all > shown) {
            p.quiet { (words::first_of(shown, all)) }
        }
    }
}

fn parked_table(parked: &[Listed], session: &Session) -> Markup {
    let is_manager = session.account.role == Role::Manager;
    let mut columns = vec![
        moment(words::AGE),
        name(words::CONTRACT),
        name(words::RECEIPT),
        number(words::PESOS),
        text(words::LAST_ANSWER),
    ];
    columns.extend(is_manager.then_some(text(words::ACT)));
    let row = |listed: &Listed| {
        let answer = match &listed.standing {
            HeadOffice::Parked(delivery) => frame::foreign(&delivery.reason),
            // Between two reads it was sent again.
            other => html! { (find::standing(other)) },
        };
        let mut cells = cells(listed);
        cells.push(answer);
        cells.extend(is_manager.then(|| send_again(listed.entry.sequence, session)));
        cells
    };
    let rows: Vec<Vec<Markup>> = parked.iter().map(row).collect();
    frame::table(words::PARKED_TITLE, &columns, &rows)
}

fn waiting_table(waiting: &[Waiting]) -> Markup {
    let columns = [
        moment(words::AGE),
        name(words::CONTRACT),
        name(words::RECEIPT),
        number(words::PESOS),
        number(words::TRIES),
        text(words::LAST_ANSWER),
    ];
    let row = |waiting: &Waiting| {
        let mut cells = cells(&waiting.listed);
        let last = waiting.last_attempt.as_ref();
        cells.push(html! { (last.map_or(0, |attempt| attempt.number)) });
        cells.push(html! {
            @if let Some(attempt) = last {
                (attempt.at.wall_clock()) " " (visible(&attempt.reason))
            }
        });
        cells
    };
    let rows: Vec<Vec<Markup>> = waiting.iter().map(row).collect();
    frame::table(words::WAITING_TITLE, &columns, &rows)
}

fn cells(listed: &Listed) -> Vec<Markup> {
    let collection = &listed.entry.confirmation.collection;
    vec![
        html! { (listed.entry.accepted_at.wall_clock()) },
        find::link(listed),
        frame::foreign(collection.receipt.as_str()),
        html! { (words::money(Centavos(collection.amount.centavos()))) },
    ]
}

/// The button that sends one parked collection again: by what names it alone, since another one's
/// receipt may be its number.
pub fn send_again(sequence: Sequence, session: &Session) -> Markup {
    let described = format!("{}: #{sequence}", words::SEND_AGAIN);
    let which = About::Collection(sequence).to_string();
    form(&which, words::SEND_AGAIN, Some(&described), session)
}

fn form(which: &str, label: &str, described: Option<&str>, session: &Session) -> Markup {
    html! {
        form.act method="post" action="/waiting" {
            (frame::token(session))
            button name="which" value=(which) aria-label=[described] { (label) }
        }
    }
}
