//! What was taken today, by channel and by hour, against the same weekday before.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::books::Counted;
use super::frame::{self, Column, number, text};
use super::words::{self, Light};
use crate::domain::amount::Centavos;
use crate::domain::collection::PayChannel;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::operator::snapshot::Snapshot;
use crate::skypay::channel;
use crate::store::takings::{Takings, Tally};

/// Sizes of a chart, in its own units; it is scaled to the page.
const CHART_WIDTH: i64 = 400;
const LABEL_WIDTH: i64 = 138;
const ROW_HEIGHT: i64 = 22;

/// Takings that have something in common, on both days.
struct Line {
    name: String,
    now: Takings,
    before: Takings,
}

/// The page.
pub fn page(snapshot: Option<&Snapshot>, counted: &Counted, now: AcceptedAt) -> Markup {
    let day = now.date();
    let before_day = day.week_before();
    let now_hour = now.wall_clock().get(11..13).and_then(|hour| hour.parse().ok()).unwrap_or(23);
    let total = total(counted.of_day.as_ref(), 23);
    let so_far = self::total(counted.before.as_ref(), now_hour);
    let before = self::total(counted.before.as_ref(), 23);
    let by_hour = lines(counted, |(_, hour)| hour, |hour| format!("{hour:02}:00"));
    let by_channel = lines(counted, |(channel, _)| channel, channel_name);
    html! {
        (frame::light(snapshot))
        @if !counted.is_whole {
            p.light.waiting { (frame::sign(Light::Waiting)) (words::COUNTING) }
        }
        section.sum aria-label=(words::TAKEN_TODAY) {
            p.big { (words::pesos(total.sum)) }
            p { (words::collections(total.count)) ", " (words::day(day)) }
            p.quiet { (words::compared(so_far.sum, now_hour, before.sum, before_day)) }
        }
        div.columns {
            (part(words::BY_HOUR, Some(words::BY_HOUR_NOTE), words::HOUR, &by_hour, before_day))
            (part(words::BY_CHANNEL, None, words::CHANNEL, &by_channel, before_day))
        }
    }
}

fn part(
    title: &str,
    remark: Option<&str>,
    key: &'static str,
    lines: &[Line],
    before: BusinessDate,
) -> Markup {
    let columns: [Column; 4] =
        [text(key), number(words::COUNT), number(words::PESOS), number(words::WEEK_BEFORE)];
    let rows: Vec<Vec<Markup>> = lines
        .iter()
        .map(|line| {
            vec![
                frame::foreign(&line.name),
                html! { (line.now.count) },
                html! { (words::money(line.now.sum)) },
                html! { (words::money(line.before.sum)) },
            ]
        })
        .collect();
    html! {
        section {
            h2 { (title) }
            @if let Some(remark) = remark { p.quiet { (remark) } }
            @if lines.is_empty() {
                p { (words::NOTHING_TAKEN) }
            } @else {
                (chart(title, lines))
                p.quiet { (words::legend(before)) }
                (frame::table(title, &columns, &rows))
            }
        }
    }
}

/// Two bars a line: thick for the day, thin for the one before. The table beneath has the figures.
fn chart(title: &str, lines: &[Line]) -> Markup {
    let most = lines.iter().map(|line| line.now.sum.0.max(line.before.sum.0)).max().unwrap_or(0);
    let width = |sum: Centavos| {
        let room = i128::from(CHART_WIDTH - LABEL_WIDTH);
        let width = i128::from(sum.0) * room / i128::from(most.max(1));
        // What is not nothing is seen.
        width.max(i128::from(sum.0 > 0))
    };
    let height = ROW_HEIGHT * i64::try_from(lines.len()).unwrap_or(0);
    html! {
        svg.chart role="img" aria-label=(title) viewBox={ "0 0 " (CHART_WIDTH) " " (height) } {
            @for (line, row) in lines.iter().zip(0..) {
                @let top = row * ROW_HEIGHT;
                text x=(LABEL_WIDTH - 8) y=(top + 14) text-anchor="end" { (short(&line.name)) }
                rect.now x=(LABEL_WIDTH) y=(top + 2) width=(width(line.now.sum)) height="11" {}
                @let thin = width(line.before.sum);
                rect.before x=(LABEL_WIDTH) y=(top + 14) width=(thin) height="4" {}
            }
        }
    }
}

/// A name that fits beside a bar; the whole one stands in the table.
fn short(name: &str) -> String {
    const CHARS_MAX: usize = 17;
    if name.chars().count() <= CHARS_MAX {
        return name.to_owned();
    }
    name.chars().take(CHARS_MAX - 1).chain(['…']).collect()
}

/// The takings of both days by a part of their cells.
fn lines(
    counted: &Counted,
    key: impl Fn((u32, u32)) -> u32,
    name: impl Fn(u32) -> String,
) -> Vec<Line> {
    let by = |tally: Option<&Tally>| -> BTreeMap<u32, Takings> {
        let mut by = BTreeMap::<u32, Takings>::new();
        for (cell, takings) in tally.iter().flat_map(|tally| &tally.cells) {
            by.entry(key(*cell)).or_default().add(*takings);
        }
        by
    };
    let (now, before) = (by(counted.of_day.as_ref()), by(counted.before.as_ref()));
    let keys: BTreeSet<u32> = now.keys().chain(before.keys()).copied().collect();
    let of = |by: &BTreeMap<u32, Takings>, key| by.get(&key).copied().unwrap_or_default();
    let line = |key| Line { name: name(key), now: of(&now, key), before: of(&before, key) };
    keys.into_iter().map(line).collect()
}

/// What was taken up to and within an hour.
fn total(tally: Option<&Tally>, last_hour: u32) -> Takings {
    let mut total = Takings::default();
    for ((_, hour), takings) in tally.iter().flat_map(|tally| &tally.cells) {
        if *hour <= last_hour {
            total.add(*takings);
        }
    }
    total
}

fn channel_name(code: u32) -> String {
    let known = PayChannel::parse(&code.to_string()).ok().and_then(channel::name);
    known.map_or_else(|| code.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(day: BusinessDate, cells: &[(u32, u32, i64)]) -> Tally {
        let mut tally = Tally::new(day);
        for (channel, hour, centavos) in cells {
            let one = Takings { count: 1, sum: Centavos(*centavos) };
            tally.cells.entry((*channel, *hour)).or_default().add(one);
        }
        tally
    }

    #[test]
    fn both_days_are_told_hour_by_hour_and_channel_by_channel() {
        let now = AcceptedAt::from_wall_clock("2026-11-22 10:30:00").unwrap();
        let of_day = tally(now.date(), &[(10, 9, 390_000), (6, 10, 10_000)]);
        let before = tally(now.date().week_before(), &[(10, 9, 100_000), (10, 11, 50_000)]);
        let counted = Counted { of_day: Some(of_day), before: Some(before), is_whole: true };
        let page = page(None, &counted, now).into_string();
        for expected in [
            "₱4,000.00",
            "2 collections, Sunday, 2026-11-22",
            "on Sunday, 2026-11-15: ₱1,000.00 before 11:00, ₱1,500.00 on the whole day",
            ">11:00<",
            ">7-Eleven<",
            ">GCash<",
        ] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert!(!page.contains(words::COUNTING) && !page.contains("style="), "{page}");
        assert_eq!(page.matches("<svg").count(), 2);
    }

    #[test]
    fn a_part_that_is_counted_says_so() {
        let now = AcceptedAt::from_wall_clock("2026-11-22 10:30:00").unwrap();
        let page = page(None, &Counted::default(), now).into_string();
        assert!(page.contains(words::COUNTING) && page.contains(words::NOTHING_TAKEN), "{page}");
    }
}
