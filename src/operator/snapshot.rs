//! How the daemon stands at one moment, and what of it needs a person.
//!
//! The daemon takes one [`Snapshot`] and everything shows that one: `tilld status` in all its
//! forms, `status.json`, the line that systemd keeps. So they cannot disagree. Knows neither the
//! daemon's parts nor how a snapshot travels.

mod warnings;

use std::net::SocketAddr;

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use crate::domain::amount::Centavos;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::store::reader::Queue;
use crate::store::{Condition, Recovered};

pub use warnings::obstacle;

/// The version of a snapshot's shape; raised when a member changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// How the daemon stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The daemon's version.
    pub version: String,
    /// `live` or `sandbox`.
    pub mode: String,
    /// Since when this process serves.
    pub started_at: Moment,
    /// When the snapshot was taken.
    pub at: Moment,
    /// Where tills connect to.
    pub endpoint: SocketAddr,
    /// The listener for health.
    pub operator: Door,
    /// The control socket.
    pub control: Door,
    /// How many callers are configured.
    pub callers: usize,
    /// Names under which tills are to reach it, and that its certificate does not hold for.
    pub lacking_names: Vec<String>,
    /// When the certificate that tills are shown begins to hold; nothing when that is beyond the
    /// calendar.
    pub certificate_begins_at: Option<Moment>,
    /// When it ends to hold.
    pub certificate_ends_at: Option<Moment>,
    /// Since when callers have their oldest keys, as far as that is known.
    pub keys: Vec<OldestKey>,
    /// Configured callers that were answered -1001 since the start.
    pub strayed: Vec<StrayedCaller>,
    /// When the last good backup was begun, by its name.
    pub last_backup_at: Option<Moment>,
    /// When the last good backup was last checked and found good: when it was made, or later.
    pub last_backup_verified_at: Option<Moment>,
    /// Why backups cannot be looked for.
    pub backup_trouble: Option<String>,
    /// Whether collections can be recorded.
    pub condition: Condition,
    /// The disk of the state directory.
    pub disk: Disk,
    /// What was counted.
    #[serde(flatten)]
    pub books: Books,
    /// Where collections go; nothing when none is configured.
    pub head_office: Option<HeadOffice>,
    /// What this start made good.
    pub recovered: Recovered,
    /// The last check of database against tape; nothing before the first is over.
    pub last_check: Option<Check>,
    /// What a person should look at.
    pub warnings: Vec<Warning>,
}

/// A time, written as RFC 3339 with +08:00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(pub AcceptedAt);

/// Something of ours that others connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Where it is; nothing while it is shut.
    pub address: Option<String>,
    /// Why it is shut.
    pub trouble: Option<String>,
}

/// A configured caller that was answered -1001.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayedCaller {
    /// Its user name.
    pub caller: String,
    /// How often.
    pub count: u64,
    /// When last.
    pub last_at: Moment,
}

/// The oldest key of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldestKey {
    /// The caller's user name.
    pub caller: String,
    /// When it was added.
    pub since: Moment,
}

/// Room for more collections, and what takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What is free; nothing when the disk does not say.
    pub free_bytes: Option<u64>,
    /// What new collections leave free.
    pub reserve_bytes: u64,
    /// How long the database's WAL is.
    pub wal_bytes: u64,
    /// How long the database is.
    pub database_bytes: Option<u64>,
    /// How long the files of the tape are, all together.
    pub tape_bytes: Option<u64>,
}

/// What was counted in the books. That takes time when much waits, so it may be somewhat older than
/// the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// When it was counted.
    pub counted_at: Moment,
    /// Why it could not be counted since.
    pub count_trouble: Option<String>,
    /// When the first collection was recorded.
    pub first_at: Option<Moment>,
    /// The day's collections.
    pub today: Today,
    /// What head office is to get.
    pub queued: Rows,
    /// What waits for a person.
    pub parked: Rows,
}

/// The collections of a business date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Today {
    /// As yyyy-MM-dd.
    pub business_date: String,
    /// How many.
    pub count: i64,
    /// Their sum, when metrics are to tell it; left out where any local user can read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centavos: Option<i64>,
}

/// Collections that wait for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// How many.
    pub count: i64,
    /// Their sum; left out where any local user can read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centavos: Option<i64>,
    /// When the oldest was recorded.
    pub oldest_at: Option<Moment>,
}

/// Where collections go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadOffice {
    /// Our own name there.
    pub branch: String,
    /// The machine that is spoken to.
    pub host: String,
    /// When the certificate that we present there ends to hold; nothing without one.
    pub certificate_ends_at: Option<Moment>,
    /// How the link stands; nothing when nothing is ever sent, as from a sandbox.
    pub link: Option<Link>,
}

/// The link to head office.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// How it stands.
    pub state: LinkState,
    /// Since when.
    pub since: Moment,
    /// What the last try met that did not get through; empty when there was none since one did.
    pub trouble: String,
    /// When the next try is due, while it is not up.
    pub next_probe_at: Option<Moment>,
    /// When head office last took something.
    pub last_success_at: Option<Moment>,
    /// Why nothing is sent although something could be.
    pub paused: Option<String>,
    /// Whether head office has numbers that this database has not given yet: it is a copy of an
    /// older one.
    pub is_copy: bool,
}

/// How the link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// It works, as far as is known.
    Up,
    /// No try gets through.
    Down,
    /// It was down, and is being tried.
    Probing,
    /// Head office does not take us.
    Misconfigured,
}

/// A check of database against tape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// When it was over.
    pub at: Moment,
    /// Lines on the tape.
    pub lines: u64,
    /// How much did not fit.
    pub differences: usize,
    /// Why it could not be done.
    pub trouble: Option<String>,
}

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What is the matter.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Snapshot {
    /// The same with the warnings that follow from it.
    #[must_use]
    pub fn judged(mut self) -> Snapshot {
        self.warnings = warnings::of(&self);
        self
    }

    /// Whether something does not mend itself. A line that is merely down does.
    pub fn needs_a_person(&self) -> bool {
        !self.warnings.is_empty()
    }

    /// Whether collections are meant for nobody but this machine: a sandbox, or no upstream.
    pub fn sends_nothing(&self) -> bool {
        self.is_sandbox() || self.head_office.is_none()
    }

    /// Whether no real money is meant.
    pub fn is_sandbox(&self) -> bool {
        self.mode == "sandbox"
    }

    /// The same without what is nobody else's business: takings.
    #[must_use]
    pub fn without_sums(&self) -> Snapshot {
        let mut public = self.clone();
        public.books.today.centavos = None;
        public.books.queued.centavos = None;
        public.books.parked.centavos = None;
        public
    }

    /// Whether it tells more than the time and the disk otherwise than an older one.
    pub fn is_news_after(&self, older: &Snapshot) -> bool {
        let mut same = self.clone();
        same.at = older.at;
        same.disk = older.disk;
        same.books.counted_at = older.books.counted_at;
        same != *older
    }

    /// All that matters in one line, as in "412 today, 3 waiting, line down since 10:12".
    pub fn one_line(&self) -> String {
        let mut parts = vec![format!("{} today", self.books.today.count)];
        if self.callers == 0 {
            parts.push("unconfigured".to_owned());
        }
        let Rows { count: waiting, .. } = self.books.queued;
        if waiting > 0 && !self.sends_nothing() {
            parts.push(format!("{waiting} waiting"));
        }
        if self.books.parked.count > 0 {
            parts.push(format!("{} parked", self.books.parked.count));
        }
        if self.is_sandbox() {
            parts.push("sandbox".to_owned());
        } else if let Some(link) = self.head_office.as_ref().and_then(|office| office.link.as_ref())
        {
            parts.push(self.line_words(link));
        }
        match self.warnings.len() {
            0 => {}
            1 => parts.push("1 warning: see `tilld status`".to_owned()),
            count => parts.push(format!("{count} warnings: see `tilld status`")),
        }
        parts.join(", ")
    }

    /// How the line to head office stands, in a few words.
    pub fn line_words(&self, link: &Link) -> String {
        let since = self.clock_of(link.since);
        match link.state {
            LinkState::Up => "line up".to_owned(),
            LinkState::Down | LinkState::Probing => format!("line down since {since}"),
            LinkState::Misconfigured => format!("refused by head office since {since}"),
        }
    }

    /// Why something waits though the line is up, in words.
    pub fn last_trouble(&self, link: &Link) -> Option<String> {
        let is_waiting = link.state == LinkState::Up && self.books.queued.count > 0;
        let met = || format!("the last try met: {}; it is tried again", link.trouble);
        (is_waiting && !link.trouble.is_empty()).then(met)
    }

    /// A time as this snapshot's reader wants it: without the date when that is today's.
    pub fn clock_of(&self, moment: Moment) -> String {
        let Moment(at) = moment;
        let wall_clock = at.wall_clock();
        let begin = if at.date() == self.at.0.date() { 11 } else { 0 };
        wall_clock.get(begin..16).unwrap_or(&wall_clock).to_owned()
    }
}

impl Rows {
    /// What was counted, with its sum.
    pub fn of(queue: Queue) -> Rows {
        Rows {
            count: queue.count,
            centavos: Some(queue.sum.0),
            oldest_at: queue.oldest_at.map(Moment),
        }
    }

    /// The sum in pesos, where it is told.
    pub fn pesos(&self) -> Option<String> {
        self.centavos.map(|centavos| Centavos(centavos).to_string())
    }
}

impl Today {
    /// The collections of a day.
    pub fn new(day: BusinessDate, count: i64, sum: Option<Centavos>) -> Today {
        let centavos = sum.map(|Centavos(centavos)| centavos);
        Today { business_date: day.to_string(), count, centavos }
    }
}

impl From<Moment> for String {
    fn from(Moment(at): Moment) -> String {
        at.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Moment, &'static str> {
        let at = DateTime::parse_from_rfc3339(&text).map_err(|_| "expected a time as RFC 3339")?;
        let at = AcceptedAt::from_unix_ms(at.timestamp_millis()).map_err(|e| e.expected)?;
        // A certificate that never ends does so with the year 9999, which is over in Manila before.
        let is_readable = DateTime::parse_from_rfc3339(&at.to_string()).is_ok();
        is_readable.then_some(Moment(at)).ok_or("expected a time before the year 10000")
    }
}

/// A number of things in words.
pub fn counted(count: i64, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        count => format!("{count} {thing}s"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::WAL_BYTES_MAX;

    /// A time on the day of [`calm`], in milliseconds after its 08:00.
    pub fn moment(ms: i64) -> Moment {
        let eight = Moment::try_from("2026-11-22T08:00:00+08:00".to_owned()).unwrap();
        Moment(AcceptedAt::from_unix_ms(eight.0.unix_ms() + ms).unwrap())
    }

    #[test]
    fn a_time_is_taken_only_when_it_can_be_read_back() {
        let moment = |text: &str| Moment::try_from(text.to_owned());
        assert!(moment("9999-12-31T15:59:59Z").is_ok());
        // What a certificate that never ends says: the year 10000 in Manila.
        assert!(moment("9999-12-31T23:59:59Z").is_err());
    }

    /// The minutes of a day.
    pub const MIN: i64 = 60_000;

    const DAY: i64 = 24 * 60 * MIN;

    /// A branch where all is well, with the line up.
    pub fn calm() -> Snapshot {
        let rows = |count, centavos, oldest_at| Rows { count, centavos: Some(centavos), oldest_at };
        Snapshot {
            schema_version: SCHEMA_VERSION,
            version: "0.1.0".to_owned(),
            mode: "live".to_owned(),
            started_at: moment(0),
            at: moment(150 * MIN),
            endpoint: "0.0.0.0:8443".parse().unwrap(),
            callers: 1,
            lacking_names: Vec::new(),
            certificate_begins_at: Some(moment(-365 * DAY)),
            certificate_ends_at: Some(moment(365 * DAY)),
            keys: vec![OldestKey { caller: "till-7".to_owned(), since: moment(-90 * DAY) }],
            strayed: Vec::new(),
            backup_trouble: None,
            last_backup_at: Some(moment(-290 * MIN)),
            last_backup_verified_at: Some(moment(-290 * MIN)),
            operator: Door { address: Some("127.0.0.1:9443".to_owned()), trouble: None },
            control: Door { address: Some("/run/tilld/tilld.sock".to_owned()), trouble: None },
            condition: Condition::Recording,
            disk: Disk {
                free_bytes: Some(51_200_000_000),
                reserve_bytes: 64 << 20,
                wal_bytes: 0,
                database_bytes: Some(3_000_000),
                tape_bytes: Some(7_000_000),
            },
            books: Books {
                counted_at: moment(150 * MIN),
                count_trouble: None,
                first_at: Some(moment(-30 * DAY)),
                today: Today {
                    centavos: Some(4_711_000),
                    business_date: "2026-11-22".to_owned(),
                    count: 412,
                },
                queued: rows(3, 1_170_000, Some(moment(133 * MIN))),
                parked: rows(0, 0, None),
            },
            head_office: Some(HeadOffice {
                branch: "MNL-042".to_owned(),
                host: "collect.example.com".to_owned(),
                certificate_ends_at: None,
                link: Some(Link {
                    state: LinkState::Up,
                    since: moment(0),
                    trouble: String::new(),
                    next_probe_at: None,
                    last_success_at: Some(moment(149 * MIN)),
                    paused: None,
                    is_copy: false,
                }),
            }),
            recovered: Recovered::default(),
            last_check: Some(Check { at: moment(MIN), lines: 1234, differences: 0, trouble: None }),
            warnings: Vec::new(),
        }
    }

    /// The same with the link in another state since 10:12.
    pub fn with_link(state: LinkState) -> Snapshot {
        let mut snapshot = calm();
        let link = snapshot.head_office.as_mut().and_then(|office| office.link.as_mut()).unwrap();
        link.state = state;
        link.since = moment(132 * MIN);
        link.trouble = "connection refused by 10.1.0.1:8443".to_owned();
        link.next_probe_at = Some(moment(150 * MIN + 40_000));
        snapshot
    }

    fn first_warning(change: impl FnOnce(&mut Snapshot)) -> Option<String> {
        let mut snapshot = calm();
        change(&mut snapshot);
        let judged = snapshot.judged();
        assert_eq!(judged.needs_a_person(), !judged.warnings.is_empty());
        judged.warnings.into_iter().next().map(|warning| warning.what)
    }

    #[test]
    fn only_what_does_not_mend_itself_needs_a_person() {
        assert_eq!(first_warning(|_| {}), None);
        assert_eq!(first_warning(|calm| *calm = with_link(LinkState::Down)), None);
        assert_eq!(first_warning(|calm| *calm = with_link(LinkState::Probing)), None);
        assert_eq!(first_warning(|calm| calm.head_office = None), None, "rows are kept");
        assert_eq!(first_warning(|calm| calm.recovered.rows = 2), None, "it is made good");
        for (expected, change) in [
            ("parked", (|s| s.books.parked.count = 1) as fn(&mut Snapshot)),
            ("the certificate ends", |s| s.certificate_ends_at = Some(moment(20 * DAY))),
            ("the certificate ends", |s| s.certificate_ends_at = Some(moment(12 * 60 * MIN))),
            ("the certificate has ended", |s| s.certificate_ends_at = Some(moment(0))),
            ("directory of backups cannot be read", |s| s.backup_trouble = Some("gone".to_owned())),
            ("the last backup is of", |s| s.last_backup_at = Some(moment(-4 * DAY))),
            ("no backup was ever made", |s| s.last_backup_at = None),
            ("till-7 was answered -1001 1 time", |s| {
                s.strayed = vec![StrayedCaller {
                    caller: "till-7".to_owned(),
                    count: 1,
                    last_at: moment(149 * MIN),
                }];
            }),
            ("an old state", |s| s.disk.wal_bytes = WAL_BYTES_MAX + 1),
            ("less than disk_reserve", |s| s.condition = Condition::DiskLow),
            ("tape cannot be written", |s| s.condition = Condition::TapeUnwritable),
            ("not recovered", |s| s.condition = Condition::Recovering),
            ("storage failed", |s| s.condition = Condition::Failed),
            ("does not take us", |s| *s = with_link(LinkState::Misconfigured)),
            ("damage found", |s| s.recovered.damage = 1),
            ("differences", |s| s.last_check.as_mut().unwrap().differences = 2),
            ("could not be checked", |s| {
                s.last_check.as_mut().unwrap().trouble = Some("no".to_owned());
            }),
            ("cannot be counted", |s| s.books.count_trouble = Some("no".to_owned())),
            ("/readyz", |s| s.operator.trouble = Some("in use".to_owned())),
            ("control socket", |s| s.control.trouble = Some("no room".to_owned())),
        ] {
            let what = first_warning(change).unwrap_or_default();
            assert!(what.contains(expected), "{expected}: {what}");
        }
    }

    #[test]
    fn one_line_tells_what_a_person_can_use() {
        assert_eq!(calm().one_line(), "412 today, 3 waiting, line up");
        let down = with_link(LinkState::Down);
        assert_eq!(down.one_line(), "412 today, 3 waiting, line down since 10:12");
        let mut kept = calm();
        kept.head_office = None;
        assert_eq!(kept.one_line(), "412 today");
        let sandbox = Snapshot { mode: "sandbox".to_owned(), ..kept };
        assert_eq!(sandbox.one_line(), "412 today, sandbox");
        let mut parked = calm();
        parked.books.parked.count = 1;
        let line = parked.judged().one_line();
        assert_eq!(line, "412 today, 3 waiting, 1 parked, line up, 1 warning: see `tilld status`");
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_its_public_form_tells_no_sum() {
        let snapshot = with_link(LinkState::Misconfigured).judged();
        let text = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
        assert!(text.contains("1170000"), "{text}");
        let public = serde_json::to_string(&snapshot.without_sums()).unwrap();
        assert!(!public.contains("1170000") && !public.contains("4711000"), "{public}");
        assert!(!public.contains("centavos"), "{public}");
        assert!(serde_json::from_str::<Snapshot>(&public).is_ok());
    }

    #[test]
    fn time_and_disk_alone_are_no_news() {
        let older = calm();
        let mut later = calm();
        later.at = moment(151 * MIN);
        later.books.counted_at = moment(151 * MIN);
        later.disk.free_bytes = Some(1);
        assert!(!later.is_news_after(&older));
        later.books.today.count += 1;
        assert!(later.is_news_after(&older));
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        assert_eq!(calm().clock_of(moment(0)), "08:00");
        assert_eq!(calm().clock_of(moment(-24 * 60 * MIN)), "2026-11-21 08:00");
    }
}
