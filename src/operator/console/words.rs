//! Every text of the console, so that another language can follow. Knows neither pages nor what
//! they look like.

use chrono::Weekday;

use crate::domain::amount::Centavos;
use crate::domain::decision::Sequence;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::operator::commands::grouped;
use crate::operator::snapshot::{LinkState, Snapshot, counted};
use crate::store::{Condition, Deed};

/// The language of these texts.
pub const LANGUAGE: &str = "en";

pub const TODAY: &str = "Today";
pub const FIND: &str = "Find";
pub const WAITING: &str = "Waiting";
pub const REFUSALS: &str = "Refusals";
pub const BRANCHES: &str = "Branches";
pub const HEALTH: &str = "Health";

pub const CLOSE: &str = "Day close";

pub const DAY: &str = "Day";
pub const SHOW: &str = "Show";
pub const DAYS_OF_LATE: &str = "The last two weeks";
pub const OPEN: &str = "open";
pub const CLOSED: &str = "Closed";
pub const ALL: &str = "all";
pub const DAY_IS_OPEN: &str = "This day is open. What is confirmed for it after it was closed \
     stands in the next open day's books. A closed day cannot be opened again.";
pub const WITH_UNDELIVERED: &str = "Also when head office has not got all of it";
pub const CLOSE_THIS_DAY: &str = "Close this day";
pub const MANAGERS_CLOSE: &str = "A manager may close it.";
pub const WRITE_NOTE: &str = "Write a note";
pub const NOTE: &str = "Note";
pub const ACCEPT: &str = "Accept";
pub const ACCEPT_WHY: &str = "Why this is a collection after all";
pub const REOPEN: &str = "Reopen the contract";
pub const REOPEN_WHY: &str = "Why it may be paid once more";
pub const REOPEN_NOTE: &str = "It is paid, so another receipt for it is refused. Reopened, it \
     takes the next new receipt, and then it is paid again.";

pub const SKIP: &str = "Skip to the page";
pub const PAGES: &str = "Pages";
pub const SILENT: &str = "This page cannot be brought up to date just now, so what stands here may \
     be old. It is tried again.";
pub const ENDED: &str = "You are logged out, so this page is not kept up to date any more. Log in \
     again to see how it stands.";
pub const LOG_IN: &str = "Log in";
pub const LOG_OUT: &str = "Log out";
pub const USER: &str = "User";
pub const PASSWORD: &str = "Password";
pub const WRONG_LOGIN: &str = "That user and password do not belong together.";
pub const STALE_FORM: &str = "This form is not valid any more.";
pub const STALE_FORM_HELP: &str = "Nothing was done. Open the page again and try once more.";
pub const NOBODY: &str = "Nobody can log in yet.";
pub const NOBODY_HELP: &str = "On the server, make the first account with this command, then open \
     this page again:";
pub const NOBODY_COMMAND: &str = "sudo tilld user add NAME --role manager";
pub const USERS_UNREADABLE: &str = "The accounts cannot be read, so nobody can log in.";
pub const USERS_UNREADABLE_HELP: &str = "The log says why: journalctl -u tilld";
pub const NOT_FOUND: &str = "Not found";
pub const NOT_THERE: &str = "There is no such page.";
pub const NOT_THERE_HELP: &str = "The pages are named above.";
pub const NO_METHOD: &str = "This page cannot be asked for in that way.";
pub const FORBIDDEN: &str = "Your account may look, and not act.";
pub const FORBIDDEN_HELP: &str = "Nothing was done. A manager may do it.";
pub const BUSY: &str = "Too many pages are being read.";
pub const BUSY_HELP: &str = "Tills come first. Open the page again.";
pub const UNREADABLE: &str = "The books cannot be read.";
pub const IS_OPEN: &str = "The contract was reopened before, and has not been paid since.";
/// Also when nobody knows whether it was done, or a part of it was: what follows says so.
pub const NOT_AS_ASKED: &str = "It did not go as asked.";
pub const STARTING: &str = "The daemon is starting.";

pub const HOUR: &str = "Hour";
pub const CHANNEL: &str = "Channel";
pub const COUNT: &str = "Count";
pub const PESOS: &str = "Pesos";
pub const WEEK_BEFORE: &str = "A week before";
pub const BY_HOUR: &str = "By hour";
pub const BY_HOUR_NOTE: &str = "The hour at which the cash was taken, by the till's clock.";
pub const BY_CHANNEL: &str = "By channel";
pub const NOTHING_TAKEN: &str = "Nothing was taken yet.";
pub const COUNTING: &str = "Still counting, so these figures are too low. Open the page again.";
pub const TAKEN_TODAY: &str = "Taken today";

pub const FIND_LABEL: &str = "Receipt, contract, last digits of a phone, or amount";
pub const FIND_HELP: &str = "A contract or receipt number as it is printed, the last 4 or more \
     digits of the payer's phone, or an amount such as 3900.00. #17 is collection number 17.";
pub const FOUND: &str = "Found";
pub const KEPT_HERE: &str = "Kept here";
pub const LOOK_FURTHER: &str = "Look further back";
pub const NOTHING_FOUND: &str = "Nothing was found.";
pub const LOOKED_AT_ALL: &str = "All collections were looked at.";
pub const RECEIVED: &str = "Received";
pub const CONTRACT: &str = "Contract";
pub const RECEIPT: &str = "Receipt";
pub const PHONE: &str = "Phone";
pub const HEAD_OFFICE: &str = "Head office";
pub const REFUSED_TOO: &str = "Refused for this contract";
pub const NO_COLLECTION: &str = "There is no collection with this number.";

pub const AMOUNT: &str = "Amount";
pub const STORY: &str = "What happened";
pub const STORED: &str = "Stored";
pub const ON_TAPE: &str = "On the tape";
pub const CONFIRMED_AGAIN: &str = "Confirmed again";
pub const TRIED: &str = "Tried";
pub const DELIVERED: &str = "Delivered";
pub const PARKED: &str = "Parked";
pub const IS_QUEUED: &str = "It waits to be sent.";
pub const IS_KEPT: &str = "It is kept here and not meant for head office.";
pub const ALTERED: &str = "This row was altered after it was recorded: call support.";
pub const FLAGS: &str = "Unusual";
pub const REPEATED_WITH: &str = "Repeated with";

pub const AGE: &str = "Since";
pub const TRIES: &str = "Tries";
pub const LAST_ANSWER: &str = "Last answer";
pub const PARKED_TITLE: &str = "Parked";
pub const PARKED_NOTE: &str = "Head office did not take these as they are. They are safe here and \
     wait for a person: settle with head office what is wrong, then send them again.";
pub const NOTHING_PARKED: &str = "Nothing is parked.";
pub const WAITING_TITLE: &str = "Waiting to be sent";
pub const NOTHING_WAITS: &str = "Nothing waits.";
pub const SEND_AGAIN: &str = "Send again";
pub const SEND_ALL_AGAIN: &str = "Send all parked again";
pub const MANAGERS_ONLY: &str = "A manager may send them again.";
pub const ACT: &str = "Act";

pub const REFUSALS_TITLE: &str = "Refusals and conflicts";
pub const REFUSALS_NOTE: &str = "These confirmations were refused. The cashier may hold this cash: \
     settle with the till and the payer what it was for.";
pub const NOTHING_REFUSED: &str = "Nothing was refused.";
pub const WHY: &str = "Why";
pub const TIMES: &str = "Times";
pub const LAST: &str = "Last";
pub const FROM: &str = "From";
pub const SAID: &str = "What it said";
pub const OLDER: &str = "Older ones";

pub const NO_BRANCHES: &str = "No branch relays to here.";
pub const BRANCH: &str = "Branch";
pub const HEARD: &str = "Last heard";
pub const MISSING: &str = "Missing";
pub const OVERPAID: &str = "Overpaid";
pub const DOUBLES: &str = "Possible doubles";

pub const WARNINGS: &str = "Warnings";
pub const NO_WARNINGS: &str = "Nothing needs a person.";
pub const WHAT_TO_DO: &str = "What to do:";
pub const DAEMON: &str = "The daemon";
pub const VERSION: &str = "Version";
pub const MODE: &str = "Mode";
pub const RUNS_SINCE: &str = "Runs since";
pub const TILLS_CONNECT: &str = "Tills connect to";
pub const DISK: &str = "Disk";
pub const WITNESSES: &str = "Database and tape";
pub const CERTIFICATE: &str = "Certificate";
pub const CERTIFICATE_NOTE: &str = "Compare the fingerprint with what the till shows.";
pub const NAMES: &str = "Names";
pub const ENDS: &str = "Holds until";
pub const FINGERPRINT: &str = "SHA-256";
pub const KEYS: &str = "Keys of callers";
pub const CALLER: &str = "Caller";
pub const KIND: &str = "Kind";
pub const KEY: &str = "Key";
pub const PASSWORDS: &str = "Password";
pub const KEY_ID: &str = "Id";
pub const ADDED: &str = "Added";
pub const DAYS: &str = "Days";
pub const NO_KEYS: &str = "No caller is configured.";
pub const BACKUPS: &str = "Backups";
pub const NO_BACKUPS: &str = "There is no backup yet.";
pub const BACKUPS_NOTE: &str = "Each was checked after it was made; the newest first.";
pub const DAMAGED: &str = "of a damaged tape";
pub const UNKNOWN: &str = "unknown";
pub const NOT_CHECKED: &str = "the first check is not over";
pub const LINE: &str = "The line to head office";

/// How it stands with head office, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    /// All is well.
    Good,
    /// It mends itself.
    Waiting,
    /// A person should look.
    Bad,
}

impl Light {
    /// A sign of its own for each, because not everybody sees its colour.
    pub fn sign(self) -> &'static str {
        match self {
            Light::Good => "✓",
            Light::Waiting => "…",
            Light::Bad => "!",
        }
    }
}

/// All that matters in a few words, and what kind of news it is.
pub fn light(snapshot: &Snapshot) -> (Light, String) {
    if snapshot.condition != Condition::Recording {
        let words = snapshot.warnings.first().map(|warning| warning.what.clone());
        return (Light::Bad, words.unwrap_or_else(|| STARTING.to_owned()));
    }
    let differences = snapshot.last_check.as_ref().map_or(0, |check| check.differences);
    if snapshot.recovered.damage > 0 || differences > 0 {
        return (Light::Bad, "Database and tape differ: see Health".to_owned());
    }
    let (mut light, mut words) = line(snapshot);
    if snapshot.books.parked.count > 0 {
        light = Light::Bad;
        let parked = counted(snapshot.books.parked.count, "collection");
        words = format!("{words}; {parked} parked");
    }
    (light, words)
}

fn line(snapshot: &Snapshot) -> (Light, String) {
    if snapshot.is_sandbox() {
        return (Light::Waiting, "Sandbox: no real money, and nothing is sent".to_owned());
    }
    let link = snapshot.head_office.as_ref().and_then(|office| office.link.as_ref());
    let Some(link) = link else {
        return (Light::Good, "All kept here: no head office is configured".to_owned());
    };
    let state = match link.state {
        LinkState::Up => None,
        LinkState::Down | LinkState::Probing => Some("line down"),
        LinkState::Misconfigured => Some("head office does not take us"),
    };
    let since = snapshot.clock_of(link.since);
    match (snapshot.books.queued.count, state) {
        (0, None) => (Light::Good, "All sent".to_owned()),
        (count, None) => (Light::Waiting, format!("{count} waiting, being sent")),
        (count, Some(state)) => {
            let light =
                if link.state == LinkState::Misconfigured { Light::Bad } else { Light::Waiting };
            let waiting =
                if count == 0 { "All sent".to_owned() } else { format!("{count} waiting") };
            (light, format!("{waiting}, {state} since {since}, nothing lost"))
        }
    }
}

/// Money, as people read it.
pub fn pesos(sum: Centavos) -> String {
    format!("₱{}", money(sum))
}

/// The same below a heading that says what it is.
pub fn money(sum: Centavos) -> String {
    grouped(&sum.to_string())
}

/// A number of collections.
pub fn collections(count: i64) -> String {
    counted(count, "collection")
}

/// A day by its name and date.
pub fn day(day: BusinessDate) -> String {
    let name = match day.weekday() {
        Weekday::Mon => "Monday",
        Weekday::Tue => "Tuesday",
        Weekday::Wed => "Wednesday",
        Weekday::Thu => "Thursday",
        Weekday::Fri => "Friday",
        Weekday::Sat => "Saturday",
        Weekday::Sun => "Sunday",
    };
    format!("{name}, {day}")
}

/// The takings of a week before, up to an hour and in all.
pub fn compared(so_far: Centavos, hour: u32, all: Centavos, before: BusinessDate) -> String {
    format!(
        "A week before, on {}: {} before {:02}:00, {} on the whole day.",
        day(before),
        pesos(so_far),
        hour + 1,
        pesos(all)
    )
}

/// What a chart's bars are.
pub fn legend(before: BusinessDate) -> String {
    format!("Thick bars: today. Thin bars: {}.", day(before))
}

/// That a list is longer than what is shown of it.
pub fn newest_only(shown: usize) -> String {
    format!(
        "Only the newest {shown} of this contract are shown. `tilld list` and `tilld refusals` \
         with `--contract` and a higher `--limit` show more."
    )
}

/// How far a search has looked.
pub fn looked_back_to(at: AcceptedAt) -> String {
    format!("Looked at everything since {}.", at.wall_clock())
}

/// What was received, from whom and how.
pub fn received(caller: &str, peer: &str, is_encrypted: bool) -> String {
    let form = if is_encrypted { "encrypted" } else { "plain" };
    format!("from {caller} at {peer}, {form}")
}

/// When the cash was taken.
pub fn cash_taken(at: &str) -> String {
    format!("cash taken at {at} by the till's clock")
}

/// Where it stands.
pub fn stored(number: i64, day: &str) -> String {
    format!("as number {number}, in the books of {day}")
}

/// Where it stands a second time.
pub fn on_tape(line: i64) -> String {
    format!("line {line}")
}

/// How often it came again.
pub fn again(count: i64, last_at: AcceptedAt) -> String {
    format!("{}, the last at {}", counted(count, "time"), last_at.wall_clock())
}

/// What somebody did about a collection.
pub fn deed(deed: &Deed) -> Option<&'static str> {
    match deed {
        Deed::Retry(_) => Some("Sent again"),
        Deed::Note(..) => Some("Note"),
        Deed::Accept(..) => Some("Accepted, although it had been refused"),
        Deed::Reopen(..) => Some("Contract reopened"),
        Deed::Close(..) => None,
    }
}

/// Who did it.
pub fn by(actor: &str) -> String {
    format!("by {actor}")
}

/// What a refusal has become.
pub fn accepted_as(sequence: Sequence) -> String {
    format!("accepted as number {sequence}")
}

/// How long something took.
pub fn took(ms: i64) -> String {
    format!("{ms} ms")
}

/// What the act of sending again came to.
pub fn sent_again(count: usize) -> String {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    match count {
        0 => "Nothing of that is parked any more.".to_owned(),
        _ => format!("To be sent again: {}.", collections(count)),
    }
}

/// That a list shows only its beginning.
pub fn first_of(shown: usize, all: i64) -> String {
    format!("The oldest {shown} of {all}.")
}

/// Of when a page is.
pub fn as_of(now: AcceptedAt) -> String {
    format!("As of {}", now.wall_clock())
}

/// So many tries at a login were too many.
pub fn too_many_tries(seconds: u64) -> String {
    format!("Too many wrong passwords. Wait {seconds} seconds, then try again.")
}

/// Refusals that were only counted.
pub fn counted_only(count: i64) -> String {
    format!("{count} more were only counted, because too many came on one day.")
}

/// Room on the disk.
pub fn room(free: &str, reserve: &str) -> String {
    format!("{free} free, {reserve} in reserve")
}

/// How the last check of both witnesses ended.
pub fn agreed(at: &str, lines: u64, differences: usize) -> String {
    match differences {
        0 => {
            let lines = counted(i64::try_from(lines).unwrap_or(i64::MAX), "line");
            format!("agreed at {at}, {lines}")
        }
        _ => format!("at {at}, differences: {differences}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::snapshot::tests::{calm, moment, with_link};
    use crate::operator::snapshot::{Rows, Snapshot};

    fn words(snapshot: Snapshot) -> (Light, String) {
        light(&snapshot.judged())
    }

    #[test]
    fn the_light_says_in_words_how_it_stands() {
        let none = Rows { count: 0, centavos: Some(0), oldest_at: None };
        let mut sent = calm();
        sent.books.queued = none;
        assert_eq!(words(sent.clone()), (Light::Good, "All sent".to_owned()));
        assert_eq!(words(calm()), (Light::Waiting, "3 waiting, being sent".to_owned()));
        let mut down = with_link(LinkState::Down);
        down.books.queued.count = 42;
        let expected = "42 waiting, line down since 10:12, nothing lost";
        assert_eq!(words(down.clone()), (Light::Waiting, expected.to_owned()));
        down.books.queued = none;
        let expected = "All sent, line down since 10:12, nothing lost";
        assert_eq!(words(down), (Light::Waiting, expected.to_owned()));
        let (light, text) = words(with_link(LinkState::Misconfigured));
        assert_eq!(light, Light::Bad);
        assert!(text.contains("does not take us"), "{text}");
        sent.books.parked = Rows { count: 2, centavos: Some(2), oldest_at: Some(moment(0)) };
        let expected = "All sent; 2 collections parked";
        assert_eq!(words(sent), (Light::Bad, expected.to_owned()));
    }

    #[test]
    fn nothing_is_called_well_while_nothing_can_be_recorded_or_something_differs() {
        let mut full = calm();
        full.condition = Condition::DiskLow;
        let (light, text) = words(full);
        assert_eq!(light, Light::Bad);
        assert!(text.contains("-1009"), "{text}");
        let mut damaged = calm();
        damaged.recovered.damage = 1;
        assert_eq!(words(damaged).0, Light::Bad);
    }

    #[test]
    fn money_and_days_are_told_as_people_read_them() {
        assert_eq!(pesos(Centavos(123_456_789)), "₱1,234,567.89");
        assert_eq!(day(BusinessDate::parse("2026-11-22").unwrap()), "Sunday, 2026-11-22");
    }
}
