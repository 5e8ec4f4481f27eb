//! What all pages share: the frame, tables, the light. Knows no page's content.

use maud::{DOCTYPE, Markup, html};

use super::sessions::Session;
use super::words::{self, Light};
use crate::config::accounts::Role;
use crate::domain::act::Words;
use crate::domain::time::AcceptedAt;
use crate::operator::output::visible;
use crate::operator::snapshot::Snapshot;

/// The pages that are named above each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    /// What was taken.
    Today,
    /// One collection.
    Find,
    /// What head office has not got.
    Waiting,
    /// What was refused.
    Refusals,
    /// Closed days.
    Close,
    /// Who relays to here.
    Branches,
    /// The daemon.
    Health,
}

impl Tab {
    /// All of them, in their order.
    pub const ALL: [Tab; 7] = [
        Tab::Today,
        Tab::Find,
        Tab::Waiting,
        Tab::Refusals,
        Tab::Close,
        Tab::Branches,
        Tab::Health,
    ];

    /// Where it is.
    pub fn path(self) -> &'static str {
        match self {
            Tab::Today => "/",
            Tab::Find => "/find",
            Tab::Waiting => "/waiting",
            Tab::Refusals => "/refusals",
            Tab::Close => "/close",
            Tab::Branches => "/branches",
            Tab::Health => "/health",
        }
    }

    /// Whether it keeps itself up to date while somebody looks at it: where money comes and goes.
    /// The others cost head office too much to be asked for every few seconds.
    pub fn is_live(self) -> bool {
        matches!(self, Tab::Today | Tab::Waiting)
    }

    fn name(self) -> &'static str {
        match self {
            Tab::Today => words::TODAY,
            Tab::Find => words::FIND,
            Tab::Waiting => words::WAITING,
            Tab::Refusals => words::REFUSALS,
            Tab::Close => words::CLOSE,
            Tab::Branches => words::BRANCHES,
            Tab::Health => words::HEALTH,
        }
    }
}

/// A column of a table.
#[derive(Clone, Copy)]
pub struct Column {
    heading: &'static str,
    class: Option<&'static str>,
}

/// A table with more columns than this becomes cards on a phone.
const COLUMNS_ON_PHONE_MAX: usize = 4;

/// A column of text.
pub const fn text(heading: &'static str) -> Column {
    Column { heading, class: None }
}

/// A column of money or numbers, which are compared by their last digits.
pub const fn number(heading: &'static str) -> Column {
    Column { heading, class: Some("number") }
}

/// A column of times.
pub const fn moment(heading: &'static str) -> Column {
    Column { heading, class: Some("moment") }
}

/// A column of contracts or receipts, which are hard to read in pieces.
pub const fn name(heading: &'static str) -> Column {
    Column { heading, class: Some("name") }
}

/// A whole page. Without a session it names no other one.
pub fn whole(
    title: &str,
    here: Option<Tab>,
    session: Option<&Session>,
    content: &Markup,
) -> Markup {
    let version = env!("CARGO_PKG_VERSION");
    html! {
        (DOCTYPE)
        html lang=(words::LANGUAGE) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href={ "/icon.svg?" (version) };
                title { (title) " · tilld" }
                link rel="stylesheet" href={ "/console.css?" (version) };
            }
            body {
                a.skip href="#page" { (words::SKIP) }
                header {
                    span.brand { "tilld" }
                    @if let Some(session) = session {
                        nav aria-label=(words::PAGES) {
                            @for tab in Tab::ALL {
                                @let current = (here == Some(tab)).then_some("page");
                                a href=(tab.path()) aria-current=[current] { (tab.name()) }
                            }
                        }
                        form.out method="post" action="/logout" {
                            (token(session))
                            span.who { (session.account.name) ", " (session.account.role.as_str()) }
                            button { (words::LOG_OUT) }
                        }
                    }
                }
                main #page {
                    h1 { (title) }
                    (content)
                }
            }
        }
    }
}

/// What a script may replace by what it is later, with the time of which it is; whole without one.
pub fn live(content: &Markup, now: AcceptedAt) -> Markup {
    html! {
        p.quiet #as-of { (words::as_of(now)) }
        p.light.waiting #silent role="status" hidden { (sign(Light::Waiting)) (words::SILENT) }
        p.light.waiting #ended role="status" hidden { (sign(Light::Waiting)) (words::ENDED) }
        div #live tabindex="-1" { (content) }
        script src={ "/live.js?" (env!("CARGO_PKG_VERSION")) } defer {}
    }
}

/// What every form that changes something brings along.
pub fn token(session: &Session) -> Markup {
    html! { input type="hidden" name="token" value=(session.form_token); }
}

/// How it stands with head office, as far as that is known.
pub fn light(snapshot: Option<&Snapshot>) -> Markup {
    let (light, words) =
        snapshot.map_or_else(|| (Light::Waiting, words::STARTING.to_owned()), words::light);
    let class = match light {
        Light::Good => "good",
        Light::Waiting => "waiting",
        Light::Bad => "bad",
    };
    html! { p.light.(class) { (sign(light)) (visible(&words)) } }
}

/// A light's sign, for who sees it.
pub fn sign(light: Light) -> Markup {
    html! { span.sign aria-hidden="true" { (light.sign()) } " " }
}

/// A message with what follows from it.
pub fn message(what: &str, then: &str) -> Markup {
    html! {
        p.light.bad role="alert" { (sign(Light::Bad)) (what) }
        @for line in then.lines() { p { (visible(line)) } }
    }
}

/// A form with one line of text that says why, for who may act.
pub fn reasoned(
    session: &Session,
    path: &str,
    (name, value): (&str, &str),
    (field, label, button): (&str, &str, &str),
) -> Markup {
    let id = format!("{field}-{name}-{value}");
    html! {
        @if session.account.role == Role::Manager {
            form.reasoned method="post" action=(path) {
                (token(session))
                input type="hidden" name=(name) value=(value);
                label for=(id) { (label) }
                input id=(id) name=(field) maxlength=(Words::CHARS_MAX) required;
                button { (button) }
            }
        }
    }
}

/// A table, whose caption only those hear who do not see the heading above it. A wide one becomes a
/// list of cards where there is no room for columns; the roles keep it a table for who hears it.
pub fn table(caption: &str, columns: &[Column], rows: &[Vec<Markup>]) -> Markup {
    let cards = (columns.len() > COLUMNS_ON_PHONE_MAX).then_some("cards");
    html! {
        table role="table" class=[cards] {
            caption { (caption) }
            thead role="rowgroup" {
                tr role="row" {
                    @for column in columns {
                        th scope="col" role="columnheader" class=[column.class] {
                            (column.heading)
                        }
                    }
                }
            }
            tbody role="rowgroup" {
                @for row in rows {
                    tr role="row" {
                        @for (column, cell) in columns.iter().zip(row) {
                            td role="cell" class=[column.class] data-label=(column.heading) {
                                div { (cell) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A list of names and values.
pub fn facts(facts: &[(&str, Markup)]) -> Markup {
    html! { dl { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } } }
}

/// Our own text with `commands` in it.
pub fn spoken(text: &str) -> Markup {
    html! {
        @for (i, part) in text.split('`').enumerate() {
            @if i % 2 == 1 { code { (visible(part)) } } @else { (visible(part)) }
        }
    }
}

/// Text that callers wrote, with what would steer or reorder it made visible.
pub fn foreign(text: &str) -> Markup {
    html! { (visible(text)) }
}
