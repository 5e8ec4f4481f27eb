//! `/metrics`: how it stands and what was counted, in the text form of `OpenMetrics`.
//!
//! Whatever the snapshot has is taken from there, so that no two views disagree. What is not known
//! is left out, never told as 0. Nothing here is personal: labels are words of ours, the names of
//! callers and branches as they are configured, and nothing that a request brought.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelValue, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::snapshot::{HeadOffice, Link, LinkState, Moment, Snapshot};
use crate::store::{Branch, Condition};
use crate::system::figures::{self, Spread, Times};
use crate::system::strangers;

/// How the page is told to be what it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of so many branches, and of so many callers, figures of their own are told: twice the largest
/// fleet. The others are only counted.
const NAMED_MAX: usize = 4096;

/// Whoever can tell how it stands.
pub trait Meter: Send + Sync + 'static {
    /// How it stands now; `None` when that cannot be told any more.
    fn read(&self) -> impl Future<Output = Option<Reading>> + Send;
}

/// All that the page is made of, but for what is counted while it happens.
#[derive(Debug)]
pub struct Reading {
    /// How it stands.
    pub snapshot: Snapshot,
    /// The branches that have relayed to here, by name; nothing where none may.
    pub branches: Option<Vec<Branch>>,
}

impl Reading {
    /// The page.
    pub fn page(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let Reading { snapshot, branches } = self;
        of_daemon(&mut page, snapshot)?;
        of_requests(&mut page, snapshot)?;
        of_storage(&mut page, snapshot)?;
        of_books(&mut page, snapshot)?;
        if let Some(office) = &snapshot.head_office {
            of_head_office(&mut page, office)?;
        }
        of_keepers(&mut page, snapshot)?;
        branches.as_ref().map_or(Ok(()), |branches| of_branches(&mut page, branches))
    }
}

fn of_daemon(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let Snapshot { version, mode, started_at, at, condition, warnings, .. } = snapshot;
    let name = "tilld_build_info";
    let mut build = page.family(name, "Always 1: its labels tell what runs.", MetricType::Gauge)?;
    let labels = [("version", version.as_str()), ("mode", mode.as_str())];
    build.encode_family(&labels)?.encode_gauge(&1u64)?;
    page.moment("tilld_started_timestamp_seconds", "When it was started.", Some(*started_at))?;
    page.moment("tilld_clock_timestamp_seconds", "What its clock says.", Some(*at))?;
    page.gauges(
        "tilld_condition",
        "1 for how it stands with recording; collections are recorded in only one of these.",
        "condition",
        CONDITIONS.map(|(one, word)| (word, u64::from(one == *condition))),
    )?;
    page.gauge(
        "tilld_warnings",
        "What needs a person; `tilld status` tells what.",
        Some(warnings.len()),
    )?;
    page.counter(
        "tilld_watchdog_pings",
        "How often systemd's watchdog was fed.",
        figures::WATCHDOG_PINGS.get(),
    )?;
    page.counters(
        "tilld_log_lines_suppressed",
        "Log lines that strangers caused and that were not written.",
        "kind",
        strangers::KINDS.map(|kind| (kind.name(), kind.suppressed())),
    )?;
    page.counter(
        "tilld_log_lines_dropped",
        "Log lines that the log did not take.",
        figures::LINES_DROPPED.get(),
    )
}

fn of_requests(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let codes =
        figures::REPLIES.all().map(|(code, count)| (code.map(|code| code.to_string()), count));
    let statuses = figures::HTTP_ANSWERS.all();
    let statuses =
        statuses.map(|(status, count)| (status.map(|status| format!("http-{status}")), count));
    let other = |word: &str, kind: Option<String>| kind.unwrap_or_else(|| word.to_owned());
    let codes = codes.map(|(code, count)| (other("other", code), count));
    let statuses = statuses.map(|(status, count)| (other("http-other", status), count));
    page.counters(
        "tilld_requests",
        "Requests by the code they were answered with; http-404 and such have no code.",
        "code",
        codes.chain(statuses),
    )?;
    page.histogram(
        "tilld_request_seconds",
        "From a request that is read to its reply, for callers that were let in.",
        &figures::REQUEST_TIME,
    )?;
    page.counter(
        "tilld_slowed_answers",
        "Answers to wrong keys that were held back, because too many came from one address.",
        figures::SLOWED.get(),
    )?;
    let strayed = || snapshot.strayed.iter().take(NAMED_MAX);
    page.counters(
        "tilld_wrong_keys",
        "How often a configured caller was answered -1001.",
        "caller",
        strayed().map(|strayed| (strayed.caller.as_str(), strayed.count)),
    )?;
    page.gauges(
        "tilld_wrong_key_last_timestamp_seconds",
        "When a configured caller was last answered -1001.",
        "caller",
        strayed().map(|strayed| (strayed.caller.as_str(), seconds(strayed.last_at))),
    )
}

fn of_storage(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    // In this order: what is queued in between does not make it less than nothing.
    let taken = figures::COMMANDS_TAKEN.get();
    let queued = figures::COMMANDS_QUEUED.get().saturating_sub(taken);
    page.gauge("tilld_writer_queue_commands", "What waits for the writer.", Some(queued))?;
    page.histogram(
        "tilld_commit_seconds",
        "How long a commit and its sync took; one commit may be for many requests.",
        &figures::COMMIT_TIME,
    )?;
    page.histogram(
        "tilld_tape_sync_seconds",
        "How long a write to the tape and its sync took.",
        &figures::TAPE_TIME,
    )?;
    let disk = &snapshot.disk;
    page.gauge("tilld_database_bytes", "How long the database is.", disk.database_bytes)?;
    page.gauge(
        "tilld_database_wal_bytes",
        "How long its WAL is; it grows while another program reads an old state.",
        Some(disk.wal_bytes),
    )?;
    page.gauge("tilld_tape_bytes", "How long the tape is.", disk.tape_bytes)?;
    page.gauge("tilld_disk_free_bytes", "What is free on the disk of state_dir.", disk.free_bytes)?;
    page.gauge(
        "tilld_disk_reserve_bytes",
        "When less is free, new collections are answered -1009.",
        Some(disk.reserve_bytes),
    )
}

fn of_books(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let books = &snapshot.books;
    // What could not be counted is older than anybody expects.
    let known = books.count_trouble.is_none();
    page.gauge(
        "tilld_collections_today",
        "Collections of the business date.",
        known.then_some(books.today.count),
    )?;
    page.gauge(
        "tilld_takings_today_centavos",
        "Their sum; told only with metrics_takings.",
        books.today.centavos.filter(|_| known),
    )?;
    page.gauge(
        "tilld_outbox_waiting",
        "Collections that head office is to get.",
        known.then_some(books.queued.count),
    )?;
    page.moment(
        "tilld_outbox_oldest_timestamp_seconds",
        "When the oldest of them was recorded.",
        books.queued.oldest_at.filter(|_| known),
    )?;
    page.gauge(
        "tilld_outbox_parked",
        "Collections that head office did not take: they wait for a person.",
        known.then_some(books.parked.count),
    )?;
    page.moment(
        "tilld_outbox_parked_oldest_timestamp_seconds",
        "When the oldest of them was recorded.",
        books.parked.oldest_at.filter(|_| known),
    )
}

/// Where nothing is ever sent, nothing is told of sending.
fn of_head_office(page: &mut Page<'_>, office: &HeadOffice) -> fmt::Result {
    let Some(Link { state, since, last_success_at, paused, .. }) = &office.link else {
        return Ok(());
    };
    page.counters(
        "tilld_upstream_tries",
        "Tries to deliver a collection to head office, by what they came to.",
        "verdict",
        figures::TRIES.all().filter_map(|(verdict, count)| Some((verdict?, count))),
    )?;
    page.moment(
        "tilld_upstream_last_success_timestamp_seconds",
        "When head office last took something.",
        *last_success_at,
    )?;
    page.gauges(
        "tilld_link_state",
        "1 for how the link to head office stands.",
        "state",
        LINK_STATES.map(|(one, word)| (word, u64::from(one == *state))),
    )?;
    page.moment("tilld_link_since_timestamp_seconds", "Since when it does.", Some(*since))?;
    page.gauge(
        "tilld_link_paused",
        "Whether nothing is sent although something could be; the log says why.",
        Some(u64::from(paused.is_some())),
    )
}

fn of_keepers(page: &mut Page<'_>, snapshot: &Snapshot) -> fmt::Result {
    let of_upstream = snapshot.head_office.as_ref().and_then(|office| office.certificate_ends_at);
    let begins = snapshot.certificate_begins_at.map(|at| ("endpoint", seconds(at)));
    let ends = [("endpoint", snapshot.certificate_ends_at), ("upstream", of_upstream)];
    page.gauges(
        "tilld_certificate_begins_timestamp_seconds",
        "When a certificate begins to hold: the one that tills are shown.",
        "of",
        begins,
    )?;
    page.gauges(
        "tilld_certificate_ends_timestamp_seconds",
        "When it ends to hold; also the one that is presented to head office.",
        "of",
        ends.into_iter().filter_map(|(of, at)| Some((of, seconds(at?)))),
    )?;
    page.gauges(
        "tilld_key_added_timestamp_seconds",
        "When the oldest key of a caller was added, if `tilld key add` did it.",
        "caller",
        snapshot.keys.iter().take(NAMED_MAX).map(|key| (key.caller.as_str(), seconds(key.since))),
    )?;
    page.moment(
        "tilld_backup_last_success_timestamp_seconds",
        "When the last good backup was begun.",
        snapshot.last_backup_at,
    )?;
    page.moment(
        "tilld_backup_last_verified_timestamp_seconds",
        "When the last good backup was last checked and found good.",
        snapshot.last_backup_verified_at,
    )?;
    let check = snapshot.last_check.as_ref();
    page.moment(
        "tilld_check_last_timestamp_seconds",
        "When database and tape were last held against each other.",
        check.map(|check| check.at),
    )?;
    page.gauge(
        "tilld_check_failed",
        "Whether that could not be done.",
        check.map(|check| u64::from(check.trouble.is_some())),
    )?;
    let done = check.filter(|check| check.trouble.is_none());
    page.gauge(
        "tilld_check_differences",
        "How much did not fit.",
        done.map(|check| check.differences),
    )?;
    page.gauge(
        "tilld_start_damage",
        "What the start found damaged and could not mend, or 1 when it was met later.",
        Some(snapshot.recovered.damage),
    )
}

fn of_branches(page: &mut Page<'_>, branches: &[Branch]) -> fmt::Result {
    let named = || branches.iter().take(NAMED_MAX);
    page.gauges(
        "tilld_branch_last_heard_timestamp_seconds",
        "When a branch last relayed something.",
        "branch",
        named().map(|branch| (branch.branch.as_str(), seconds(Moment(branch.heard_at)))),
    )?;
    page.gauges(
        "tilld_branch_missing_collections",
        "How many numbers of a branch have not come, below the highest that has.",
        "branch",
        named().map(|branch| (branch.branch.as_str(), branch.missing)),
    )?;
    page.gauge(
        "tilld_branches_unnamed",
        "Branches beyond those that are told of one by one.",
        Some(branches.len().saturating_sub(NAMED_MAX)),
    )
}

/// The words of conditions.
const CONDITIONS: [(Condition, &str); 5] = [
    (Condition::Recording, "recording"),
    (Condition::Recovering, "recovering"),
    (Condition::DiskLow, "disk-low"),
    (Condition::TapeUnwritable, "tape-unwritable"),
    (Condition::Failed, "failed"),
];

/// The words of a link's states.
const LINK_STATES: [(LinkState, &str); 4] = [
    (LinkState::Up, "up"),
    (LinkState::Down, "down"),
    (LinkState::Probing, "probing"),
    (LinkState::Misconfigured, "misconfigured"),
];

/// Seconds since 1970, as Prometheus has times.
fn seconds(Moment(at): Moment) -> i64 {
    at.unix_ms().div_euclid(1000)
}

/// Writes one family of figures after the other. One without a figure is left out.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        of_type: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, of_type)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: Option<impl EncodeGaugeValue>,
    ) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn moment(&mut self, name: &str, help: &str, at: Option<Moment>) -> fmt::Result {
        self.gauge(name, help, at.map(seconds))
    }

    fn gauges<L: EncodeLabelValue, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.family(name, help, MetricType::Gauge)?;
        values
            .try_for_each(|(of, value)| family.encode_family(&[(label, of)])?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, u64, f64>(&count, None)
    }

    fn counters<L: EncodeLabelValue>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut counts = counts.into_iter().peekable();
        if counts.peek().is_none() {
            return Ok(());
        }
        let mut family = self.family(name, help, MetricType::Counter)?;
        counts.try_for_each(|(of, count)| {
            let labels = [(label, of)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)
        })
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Times) -> fmt::Result {
        let Spread { counts, sum } = times.spread();
        let upper = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |b| b.as_secs_f64());
        let buckets: Vec<(f64, u64)> =
            counts.into_iter().map(|(bound, count)| (upper(bound), count)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut family = self.family(name, help, MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::amount::Centavos;
    use crate::domain::collection::BranchName;
    use crate::operator::snapshot::tests::{MIN, calm, moment, with_link};
    use crate::operator::snapshot::{Check, StrayedCaller};

    fn page(snapshot: Snapshot, branches: Option<Vec<Branch>>) -> String {
        Reading { snapshot, branches }.page().unwrap()
    }

    /// The lines of the page that begin so, what they are of and how much it is.
    fn figures<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
        page.lines().filter(|line| line.starts_with(name)).collect()
    }

    fn branch(number: usize) -> Branch {
        Branch {
            branch: BranchName::parse(&format!("B-{number}")).unwrap(),
            epoch: None,
            heard_at: moment(MIN).0,
            last_sequence: 9,
            gaps: Vec::new(),
            missing: 2,
            count: 7,
            sum: Centavos(1),
            overpaid: 0,
            possible_doubles: 0,
        }
    }

    #[test]
    fn what_is_known_is_told_in_seconds_and_bytes() {
        let page = page(calm(), Some(vec![branch(7)]));
        for line in [
            "tilld_build_info{version=\"0.1.0\",mode=\"live\"} 1",
            "tilld_started_timestamp_seconds 1795305600",
            "tilld_outbox_waiting 3",
            "tilld_outbox_oldest_timestamp_seconds 1795313580",
            "tilld_takings_today_centavos 4711000",
            "tilld_database_bytes 3000000",
            "tilld_link_state{state=\"up\"} 1",
            "tilld_key_added_timestamp_seconds{caller=\"till-7\"} 1787529600",
            "tilld_branch_last_heard_timestamp_seconds{branch=\"B-7\"} 1795305660",
            "tilld_branch_missing_collections{branch=\"B-7\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}: {page}");
        }
        assert!(page.ends_with("\n# EOF\n"), "{page}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut snapshot = calm();
        snapshot.disk.free_bytes = None;
        snapshot.disk.tape_bytes = None;
        snapshot.last_backup_at = None;
        snapshot.last_backup_verified_at = None;
        snapshot.certificate_ends_at = None;
        snapshot.keys.clear();
        snapshot.head_office = None;
        snapshot.books.today.centavos = None;
        let check = Check { at: moment(0), lines: 0, differences: 0, trouble: Some("no".into()) };
        snapshot.last_check = Some(check);
        snapshot.books.count_trouble = Some("no".to_owned());
        let page = page(snapshot, None);
        for name in [
            "tilld_disk_free",
            "tilld_tape_bytes",
            "tilld_backup",
            "tilld_certificate_ends",
            "tilld_key",
            "tilld_upstream",
            "tilld_link",
            "tilld_check_differences",
            "tilld_outbox",
            "tilld_collections",
            "tilld_takings",
            "tilld_branch",
        ] {
            assert!(!page.contains(name), "{name}: {page}");
        }
        assert_eq!(figures(&page, "tilld_check_failed"), ["tilld_check_failed 1"]);
    }

    #[test]
    fn so_many_branches_are_named_and_the_others_counted() {
        let branches = (0..NAMED_MAX + 3).map(branch).collect();
        let page = page(calm(), Some(branches));
        assert_eq!(figures(&page, "tilld_branch_missing").len(), NAMED_MAX);
        assert_eq!(figures(&page, "tilld_branches_unnamed"), ["tilld_branches_unnamed 3"]);
    }

    #[test]
    fn a_name_cannot_end_its_label() {
        let mut snapshot = calm();
        let caller = "a\"} 1\\".to_owned();
        snapshot.strayed = vec![StrayedCaller { caller, count: 3, last_at: moment(0) }];
        let page = page(snapshot, None);
        let escaped = [r#"tilld_wrong_keys_total{caller="a\"} 1\\"} 3"#];
        assert_eq!(figures(&page, "tilld_wrong_keys"), escaped);
    }

    #[test]
    fn one_state_of_each_is_1_and_has_the_word_that_machines_are_told_elsewhere() {
        for (condition, word) in CONDITIONS {
            assert_eq!(serde_json::to_value(condition).unwrap(), word);
            let page = page(Snapshot { condition, ..calm() }, None);
            let lines = figures(&page, "tilld_condition");
            let of_word = format!("tilld_condition{{condition=\"{word}\"}} 1");
            assert_eq!(lines.iter().filter(|line| line.ends_with(" 1")).count(), 1, "{lines:?}");
            assert!(lines.contains(&&*of_word), "{lines:?}");
        }
        for (state, word) in LINK_STATES {
            assert_eq!(serde_json::to_value(state).unwrap(), word);
            let page = page(with_link(state), None);
            let of_word = format!("tilld_link_state{{state=\"{word}\"}} 1");
            assert!(figures(&page, "tilld_link_state").contains(&&*of_word), "{page}");
        }
    }
}
