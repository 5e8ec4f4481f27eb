//! One box: a receipt, a contract, the last digits of a phone or an amount.

use std::time::Duration;

use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::frame::{self, moment, name, number, text};
use super::refusals::{Kept, with_acts};
use super::sessions::Session;
use super::words::{self, Light};
use crate::domain::amount::{Amount, Centavos};
use crate::domain::collection::ReceiptNumber;
use crate::domain::decision::Sequence;
use crate::operator::output::visible;
use crate::skypay::channel;
use crate::store::OpenError;
use crate::store::reader::{Filter, Found, HeadOffice, Listed, Reader, Sought};
use crate::system::clock;

/// So many are shown at a time.
const ROWS_MAX: usize = 50;

/// So long it is looked through what no index has; then the page says how far it came.
const SEARCH_TIME_MAX: Duration = Duration::from_millis(100);

/// The longest text that is looked for: a contract has up to 50 characters.
const TEXT_CHARS_MAX: usize = 64;

/// Fewer digits end too many phone numbers.
const PHONE_DIGITS_MIN: usize = 4;

/// All that bears on a question.
#[derive(Default)]
pub struct Results {
    /// Of the contract that is named.
    of_contract: Vec<Listed>,
    /// Under its number, its receipt, with its phone or its amount.
    found: Found,
    /// What was refused for that contract.
    refusals: Vec<Kept>,
    /// Whether there is more of that contract than is shown.
    is_cut: bool,
}

/// What a text can mean.
#[derive(Debug, Default, PartialEq, Eq)]
struct Question {
    number: Option<Sequence>,
    contracts: Vec<String>,
    sought: Sought,
}

impl Question {
    fn of(text: &str) -> Question {
        if let Some(number) = text.strip_prefix('#') {
            return Question { number: number.trim().parse().ok(), ..Question::default() };
        }
        let upper = text.to_ascii_uppercase();
        let mut contracts = vec![text.to_owned()];
        contracts.extend((upper != text).then_some(upper));
        let bare: String = text.chars().filter(|c| !" -+".contains(*c)).collect();
        let is_phone = bare.len() >= PHONE_DIGITS_MIN && bare.bytes().all(|b| b.is_ascii_digit());
        let pesos = text.trim_start_matches('₱').replace([',', ' '], "");
        let sought = Sought {
            receipt: Some(ReceiptNumber::as_stored(text)),
            phone_ending: is_phone.then_some(bare),
            amount: Amount::parse(&pesos).ok(),
        };
        Question { number: None, contracts, sought }
    }
}

/// Looks for what a text can mean, in collections that were recorded before number `before`.
pub fn find(reader: &Reader, text: &str, before: Option<Sequence>) -> Result<Results, OpenError> {
    let deadline = clock::monotonic() + SEARCH_TIME_MAX;
    let question = Question::of(text);
    if let Some(number) = question.number {
        let listed = reader.story_of(number)?.map(|story| story.listed).into_iter().collect();
        let found = Found { listed, ..Found::default() };
        return Ok(Results { found, ..Results::default() });
    }
    let mut results = Results::default();
    if before.is_none() {
        for contract in &question.contracts {
            let filter = Filter { contract: Some(contract.clone()), ..Filter::default() };
            let mut listed = reader.collections(&filter, None, ROWS_MAX + 1)?;
            let mut refusals = reader.refusals(Some(contract), None, ROWS_MAX + 1)?;
            results.is_cut |= listed.len().max(refusals.len()) > ROWS_MAX;
            listed.truncate(ROWS_MAX);
            refusals.truncate(ROWS_MAX);
            results.of_contract.extend(listed);
            results.refusals.extend(with_acts(reader, refusals)?);
        }
    }
    if !question.contracts.is_empty() {
        results.found = reader.search(&question.sought, before, ROWS_MAX, deadline)?;
    }
    Ok(results)
}

/// The text as it is looked for: without blanks around it, and not longer than anything is.
pub fn trimmed(text: &str) -> String {
    text.trim().chars().take(TEXT_CHARS_MAX).collect()
}

/// The page; without results nothing was asked yet.
pub fn page(text: &str, results: Option<&Results>, session: &Session) -> Markup {
    html! {
        form.find method="get" action="/find" role="search" {
            label for="q" { (words::FIND_LABEL) }
            div.row {
                input #q name="q" type="search" value=(visible(text)) maxlength=(TEXT_CHARS_MAX)
                    autocomplete="off" aria-describedby="q-help" required;
                button { (words::FIND) }
            }
            p.quiet #q-help { (words::FIND_HELP) }
        }
        @if let Some(results) = results { (found(text, results, session)) }
    }
}

fn found(text: &str, results: &Results, session: &Session) -> Markup {
    let Results { of_contract, found, refusals, is_cut } = results;
    let query = utf8_percent_encode(text, NON_ALPHANUMERIC);
    html! {
        @for (title, these) in [(words::CONTRACT, of_contract), (words::FOUND, &found.listed)] {
            @if !these.is_empty() { h2 { (title) } (listed(title, these)) }
        }
        @if of_contract.is_empty() && found.listed.is_empty() {
            p.light.waiting role="status" {
                (frame::sign(Light::Waiting)) (words::NOTHING_FOUND)
            }
        }
        @if !refusals.is_empty() {
            h2 { (words::REFUSED_TOO) }
            (super::refusals::list(words::REFUSED_TOO, refusals, session))
        }
        @if *is_cut { p { (words::newest_only(ROWS_MAX)) } }
        @match found.next_before {
            Some(before) => p {
                // The collection that tells the time may be one that damage took.
                @if let Some(back_to) = found.back_to { (words::looked_back_to(back_to)) " " }
                a href={ "/find?q=" (query) "&before=" (before) } { (words::LOOK_FURTHER) }
            },
            None => p.quiet { (words::LOOKED_AT_ALL) },
        }
    }
}

/// Collections, each with the way to its story.
fn listed(caption: &str, collections: &[Listed]) -> Markup {
    let columns = [
        moment(words::RECEIVED),
        name(words::CONTRACT),
        name(words::RECEIPT),
        text(words::PHONE),
        text(words::CHANNEL),
        number(words::PESOS),
        text(words::HEAD_OFFICE),
    ];
    let rows: Vec<Vec<Markup>> = collections.iter().map(row).collect();
    frame::table(caption, &columns, &rows)
}

fn row(listed: &Listed) -> Vec<Markup> {
    let collection = &listed.entry.confirmation.collection;
    let channel = collection.channel;
    let channel = channel::name(channel).map_or_else(|| channel.to_string(), str::to_owned);
    vec![
        html! { (listed.entry.accepted_at.wall_clock()) },
        link(listed),
        frame::foreign(collection.receipt.as_str()),
        frame::foreign(collection.phone.as_str()),
        html! { (channel) },
        html! { (words::money(Centavos(collection.amount.centavos()))) },
        html! { (standing(&listed.standing)) },
    ]
}

/// A collection's contract, and the way to its story.
pub fn link(listed: &Listed) -> Markup {
    let contract = listed.entry.confirmation.collection.contract.as_str();
    html! { a href={ "/collections/" (listed.entry.sequence) } { (visible(contract)) } }
}

/// How a collection stands with head office, in a word or two.
pub fn standing(standing: &HeadOffice) -> &'static str {
    match standing {
        HeadOffice::Nothing => words::KEPT_HERE,
        HeadOffice::Queued => words::WAITING,
        HeadOffice::Parked(_) => words::PARKED,
        HeadOffice::Delivered(_) => words::DELIVERED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::console::sessions::tests::session;

    fn sought(text: &str) -> (Option<String>, Option<i64>) {
        let sought = Question::of(text).sought;
        (sought.phone_ending, sought.amount.map(Amount::centavos))
    }

    #[test]
    fn a_text_is_looked_for_as_all_that_it_can_mean() {
        assert_eq!(sought("8095"), (Some("8095".to_owned()), Some(809_500)));
        assert_eq!(sought("₱3,900.00"), (None, Some(390_000)));
        assert_eq!(sought("0927 034-8095"), (Some("09270348095".to_owned()), None));
        assert_eq!(sought("B6C13B76E4BF"), (None, None));
        assert_eq!(sought("095"), (None, Some(9500)), "three digits end too many phones");
        let contracts = Question::of("sky0112345678").contracts;
        assert_eq!(contracts, ["sky0112345678", "SKY0112345678"]);
        assert_eq!(Question::of("#17"), Question { number: Some(17), ..Question::default() });
        assert_eq!(Question::of("#x"), Question::default());
    }

    #[test]
    fn what_is_asked_for_is_written_into_the_page_as_text_only() {
        let hostile = "\"><script>alert(1)</script>\u{202e}";
        let page = page(hostile, Some(&Results::default()), &session()).into_string();
        assert!(!page.contains("<script") && !page.contains('\u{202e}'), "{page}");
        assert!(page.contains("&quot;&gt;&lt;script&gt;"), "{page}");
    }
}
