//! Closed days, and closing one: what came through each channel, and what head office had of it.

use maud::{Markup, html};

use super::frame::{self, moment, number, text};
use super::sessions::Session;
use super::words;
use crate::config::accounts::Role;
use crate::domain::collection::PayChannel;
use crate::domain::time::BusinessDate;
use crate::operator::output::visible;
use crate::skypay::channel;
use crate::store::OpenError;
use crate::store::closing::{Closing, Figures};
use crate::store::reader::Reader;
use crate::store::takings::Takings;

/// So many days before today are looked at.
const DAYS: usize = 14;

/// How days were closed.
pub struct Closings {
    of_day: Option<Closing>,
    /// Of today and the days before, the latest first; nothing for an open one.
    of_late: Vec<(BusinessDate, Option<Closing>)>,
}

/// Reads how a day was closed, and those of late.
pub fn read(
    reader: &Reader,
    day: BusinessDate,
    today: BusinessDate,
) -> Result<Closings, OpenError> {
    let days = std::iter::successors(Some(today), |day| day.preceding()).take(DAYS);
    let of_late = days.map(|day| Ok((day, reader.closing_of(day)?)));
    Ok(Closings {
        of_day: reader.closing_of(day)?,
        of_late: of_late.collect::<Result<_, OpenError>>()?,
    })
}

/// The page.
pub fn page(
    day: BusinessDate,
    today: BusinessDate,
    closings: &Closings,
    session: &Session,
) -> Markup {
    html! {
        form.pick method="get" action="/close" {
            label for="day" { (words::DAY) }
            input #day type="date" name="day" value=(day) max=(today) required;
            button { (words::SHOW) }
        }
        h2 { (words::day(day)) }
        @match &closings.of_day {
            Some(closing) => (closed(closing)),
            None => (open(day, session)),
        }
        h2 { (words::DAYS_OF_LATE) }
        (of_late(&closings.of_late))
    }
}

fn open(day: BusinessDate, session: &Session) -> Markup {
    html! {
        p { (words::DAY_IS_OPEN) }
        @if session.account.role == Role::Manager {
            form method="post" action="/close" {
                (frame::token(session))
                input type="hidden" name="day" value=(day);
                p.check {
                    input #with type="checkbox" name="with_undelivered" value="yes";
                    " " label for="with" { (words::WITH_UNDELIVERED) }
                }
                button { (words::CLOSE_THIS_DAY) }
            }
        } @else {
            p { (words::MANAGERS_CLOSE) }
        }
    }
}

fn closed(closing: &Closing) -> Markup {
    let Figures { channels, delivered, waiting, parked, kept } = &closing.figures;
    let row = |name: &str, sum: Takings| {
        vec![html! { (name) }, html! { (sum.count) }, html! { (words::money(sum.sum)) }]
    };
    let mut rows: Vec<_> = channels
        .iter()
        .map(|(code, sum)| {
            let channel = PayChannel::parse(&code.to_string()).ok();
            let name = channel.and_then(channel::name);
            row(name.unwrap_or(&code.to_string()), *sum)
        })
        .collect();
    rows.push(row(words::ALL, closing.figures.total()));
    let standings = [
        (words::DELIVERED, delivered),
        (words::WAITING, waiting),
        (words::PARKED, parked),
        (words::KEPT_HERE, kept),
    ];
    let columns = [text(words::CHANNEL), number(words::COUNT), number(words::PESOS)];
    let by_standing = [text(words::HEAD_OFFICE), number(words::COUNT), number(words::PESOS)];
    let standings: Vec<_> = standings.into_iter().map(|(name, sum)| row(name, *sum)).collect();
    let by = words::by(&visible(closing.actor.as_str()));
    html! {
        p { (words::CLOSED) " " (by) ", " (closing.at.wall_clock()) }
        (frame::table(words::BY_CHANNEL, &columns, &rows))
        (frame::table(words::HEAD_OFFICE, &by_standing, &standings))
    }
}

fn of_late(days: &[(BusinessDate, Option<Closing>)]) -> Markup {
    let columns =
        [text(words::DAY), moment(words::CLOSED), number(words::COUNT), number(words::PESOS)];
    let row = |(day, closing): &(BusinessDate, Option<Closing>)| {
        let total = closing.as_ref().map(|closing| closing.figures.total());
        vec![
            html! { a href={ "/close?day=" (day) } { (day) } },
            html! {
                @match closing {
                    Some(closing) => (closing.at.wall_clock()),
                    None => (words::OPEN),
                }
            },
            html! { @if let Some(total) = total { (total.count) } },
            html! { @if let Some(total) = total { (words::money(total.sum)) } },
        ]
    };
    let rows: Vec<_> = days.iter().map(row).collect();
    frame::table(words::DAYS_OF_LATE, &columns, &rows)
}
