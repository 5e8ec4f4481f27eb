//! The branches that relay to here, and what of theirs is missing.

use maud::{Markup, html};

use super::frame::{self, moment, number, text};
use super::words;
use crate::store::Branch;

/// The page.
pub fn page(branches: &[Branch]) -> Markup {
    let columns = [
        text(words::BRANCH),
        moment(words::HEARD),
        number(words::MISSING),
        number(words::COUNT),
        number(words::PESOS),
        number(words::OVERPAID),
        number(words::DOUBLES),
    ];
    let rows: Vec<Vec<Markup>> = branches.iter().map(row).collect();
    html! {
        @if rows.is_empty() {
            p { (words::NO_BRANCHES) }
        } @else {
            (frame::table(words::BRANCHES, &columns, &rows))
        }
    }
}

fn row(branch: &Branch) -> Vec<Markup> {
    let missing = html! {
        @if branch.missing > 0 { strong { "! " (branch.missing) } } @else { "0" }
    };
    vec![
        frame::foreign(branch.branch.as_str()),
        html! { (branch.heard_at.wall_clock()) },
        missing,
        html! { (branch.count) },
        html! { (words::money(branch.sum)) },
        html! { (branch.overpaid) },
        html! { (branch.possible_doubles) },
    ]
}
