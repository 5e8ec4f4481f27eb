//! Weeks at a branch in virtual time: the lane between a simulated outbox and a simulated head
//! office, through outages of every kind, rows that always fail, restarts and people in a hurry.
//!
//! Time jumps from one event to the next and nothing sleeps. The lane is only ever given
//! [`Instant`]s; the wall clock, which jumps by years either way, has a say only where head office
//! names a date.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;
use crate::domain::contract::Mode;
use crate::system::clock;
use crate::upstream;

/// Sequences that are tried: a few seconds on a small machine.
const CASES: u32 = 32;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A link that does not work is tried so often at the least.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(5 * 60);

/// How long a try without an answer takes.
const TIMEOUT: Duration = Duration::from_secs(15);

const RETRY_AFTER_MAX_S: u64 = 15 * 60;

/// Rows are read from the outbox so many at a time.
const PAGE: usize = 16;

/// How the way to head office is.
#[derive(Clone, Copy, Debug)]
enum Weather {
    Healthy,
    /// Every other reply is lost after head office has the row.
    LosesReplies,
    NoConnection,
    BlackHole,
    /// 503 to everything, now and then with a Retry-After.
    Busy,
    WrongKey,
    RefusesAll,
}

#[derive(Clone, Debug)]
enum Event {
    Weather(Weather),
    /// So many rows are confirmed, of so many contracts.
    Collect {
        rows: u8,
        contracts: u8,
    },
    /// SIGKILL and a new process.
    Restart,
    Hurry,
    /// From now on the wall clock is so many days off.
    ClockJumps(i64),
    /// A person has every parked row sent again.
    RetryParked,
}

/// What becomes of a row at a healthy head office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Good,
    TimesOut,
    Refused,
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    Delivered,
    Parked,
}

struct Row {
    contract: u64,
    nature: Nature,
    standing: Standing,
    was_parked: bool,
    has_arrived: bool,
    /// What this process knows of it.
    life: Life,
}

#[derive(Default)]
struct Life {
    /// When its last try ended, and how long it may wait from then on.
    waits: Option<(Instant, Duration)>,
    /// Until when head office asked not to be tried with it.
    asked_until: Option<Instant>,
    refused_at: Vec<Instant>,
    is_last_unknown: bool,
}

struct Try {
    sequence: Sequence,
    verdict: Verdict,
    is_probe: bool,
}

struct World {
    began: Instant,
    now: Instant,
    clock_is_off: TimeDelta,
    concurrency: usize,
    random: u64,
    lane: Lane,
    weather: Weather,
    /// The outbox; sequences from 1.
    rows: BTreeMap<Sequence, Row>,
    /// Those that are open, by contract.
    open: BTreeMap<u64, BTreeSet<Sequence>>,
    /// Up to here the outbox was read.
    read: Sequence,
    /// By end and sequence.
    under_way: BTreeMap<(Instant, Sequence), Try>,
    /// First arrivals at head office, in order.
    arrived: Vec<Sequence>,
    taken_at: Option<Instant>,
    /// Since when the link is in its state, probes that failed since, when the next may begin.
    pause: Option<(Instant, u32, Instant)>,
}

impl World {
    fn new(seed: u64, concurrency: usize) -> World {
        let now = clock::monotonic();
        World {
            began: now,
            now,
            clock_is_off: TimeDelta::zero(),
            concurrency,
            random: seed,
            lane: Lane::new(concurrency),
            weather: Weather::Healthy,
            rows: BTreeMap::new(),
            open: BTreeMap::new(),
            read: 0,
            under_way: BTreeMap::new(),
            arrived: Vec::new(),
            taken_at: None,
            pause: None,
        }
    }

    /// The next of a sequence that the seed decides (`SplitMix64`).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Weather(weather) => self.weather = weather,
            Event::Collect { rows, contracts } => {
                for _ in 0..rows {
                    let contract = self.random() % u64::from(contracts);
                    let nature = match self.random() % 32 {
                        0 => Nature::TimesOut,
                        1 => Nature::Refused,
                        2 => Nature::Settled,
                        _ => Nature::Good,
                    };
                    let sequence = self.rows.last_key_value().map_or(1, |(last, _)| last + 1);
                    self.rows.insert(sequence, Row::new(contract, nature));
                    self.open.entry(contract).or_default().insert(sequence);
                }
            }
            Event::Restart => {
                self.lane = Lane::new(self.concurrency);
                self.read = 0;
                self.under_way.clear();
                self.taken_at = None;
                self.pause = None;
                self.rows.values_mut().for_each(|row| row.life = Life::default());
            }
            Event::Hurry => {
                self.lane.hurry(self.now);
                self.rows.values_mut().for_each(|row| row.life.asked_until = None);
                if let Some((_, _, probe_at)) = &mut self.pause {
                    *probe_at = self.now.min(*probe_at);
                }
            }
            Event::ClockJumps(days) => self.clock_is_off = TimeDelta::days(days),
            Event::RetryParked => {
                for (sequence, row) in &mut self.rows {
                    if row.standing == Standing::Parked {
                        row.standing = Standing::Open;
                        self.open.entry(row.contract).or_default().insert(*sequence);
                        row.life = Life::default();
                        self.lane.take([(*sequence, contract(row.contract))]);
                    }
                }
            }
        }
    }

    /// The loop around the lane, for a time.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.read();
            while self.begin() {
                self.read();
            }
            self.check_that_nothing_is_stranded();
            let ended = self.under_way.keys().next().map(|(at, _)| *at);
            let wake_at = self.lane.wake_at();
            assert!(wake_at.is_none_or(|at| at > self.now), "it would spin");
            match ended.into_iter().chain(wake_at).min() {
                Some(next) if next <= end => self.now = next,
                _ => break,
            }
            while let Some(entry) = self.under_way.first_entry()
                && entry.key().0 <= self.now
            {
                let ended = entry.remove();
                self.end(&ended);
            }
        }
        self.now = end;
    }

    fn read(&mut self) {
        while self.lane.wants_more() {
            let behind = self.rows.range(self.read + 1..);
            let open = behind.filter(|(_, row)| row.standing == Standing::Open);
            let page = open.take(PAGE).map(|(sequence, row)| (*sequence, contract(row.contract)));
            let page: Vec<_> = page.collect();
            let Some((last, _)) = page.last() else { return };
            self.read = *last;
            self.lane.take(page);
        }
    }

    /// Begins a try, if the lane has one.
    fn begin(&mut self) -> bool {
        let is_up = self.lane.link() == Link::Up;
        let Some(sequence) = self.lane.next(self.now) else { return false };
        assert!(self.under_way.len() < self.concurrency, "more under way than the concurrency");
        if !is_up {
            let (_, _, probe_at) = self.pause.expect("a state that was announced");
            assert!(self.now >= probe_at, "a probe before its time");
            let probes = self.under_way.values().filter(|t| t.is_probe).count();
            assert_eq!(probes, 0, "one probe at a time");
        }
        let row = &self.rows[&sequence];
        assert_eq!(row.standing, Standing::Open, "{sequence} is settled");
        assert!(row.life.asked_until.is_none_or(|until| until <= self.now), "before Retry-After");
        let first = self.open[&row.contract].first();
        assert_eq!(first, Some(&sequence), "overtaken on its contract");
        let same = |other: &Sequence| self.rows[other].contract == row.contract;
        let beside = self.under_way.values().find(|other| same(&other.sequence));
        assert!(beside.is_none(), "{sequence} goes beside another of its contract");
        let (verdict, takes, arrives) = self.send(sequence);
        let row = self.rows.get_mut(&sequence).expect("a row");
        if arrives && !std::mem::replace(&mut row.has_arrived, true) {
            self.arrived.push(sequence);
        }
        let begun = Try { sequence, verdict, is_probe: !is_up };
        self.under_way.insert((self.now + takes, sequence), begun);
        true
    }

    /// What a try comes to, how long it takes, and whether head office has the row.
    fn send(&mut self, sequence: Sequence) -> (Verdict, Duration, bool) {
        let soon = Duration::from_millis(1 + self.random() % 300);
        let retry_after = self.asked_to_wait();
        let unknown = |cause, retry_after| Verdict::Unknown { cause, retry_after };
        let no_answer = unknown(UnknownCause::NoAnswer, None);
        let is_lost = self.random().is_multiple_of(2);
        match (self.weather, self.rows[&sequence].nature) {
            (Weather::NoConnection, _) => (unknown(UnknownCause::NoConnection, None), soon, false),
            (Weather::BlackHole, _) | (_, Nature::TimesOut) => (no_answer, TIMEOUT, false),
            (Weather::Busy, _) => (unknown(UnknownCause::NoAnswer, retry_after), soon, false),
            (Weather::WrongKey, _) => (Verdict::Misconfigured, soon, false),
            (Weather::RefusesAll, _) | (_, Nature::Refused) => (Verdict::Refused, soon, false),
            (Weather::LosesReplies, nature) if is_lost => {
                (no_answer, TIMEOUT, nature == Nature::Good)
            }
            (_, Nature::Settled) => (Verdict::Settled, soon, false),
            (Weather::Healthy | Weather::LosesReplies, Nature::Good) => {
                (Verdict::Delivered, soon, true)
            }
        }
    }

    /// What we make of the Retry-After of a head office whose clock is right.
    fn asked_to_wait(&mut self) -> Option<Duration> {
        let wait = Duration::from_secs(1 + self.random() % RETRY_AFTER_MAX_S);
        let right = DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + (self.now - self.began);
        let ours = right + self.clock_is_off;
        let http = |at: DateTime<Utc>| at.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let (until, date) = (http(right + wait), http(right));
        let (header, date) = match self.random() % 6 {
            0 => (wait.as_secs().to_string(), None),
            1 => (until, Some(&*date)),
            2 => return upstream::retry_after(&until, None, ours),
            _ => return None,
        };
        let heard = upstream::retry_after(&header, date, ours);
        assert_eq!(heard, Some(wait), "{header} from {date:?} with our clock at {ours}");
        heard
    }

    fn end(&mut self, ended: &Try) {
        let Try { sequence, verdict, .. } = ended;
        let random = self.random();
        let fate = self.lane.tried(*sequence, verdict, self.now, random);
        let row = self.rows.get_mut(sequence).expect("a row");
        let mut cap = BACKOFF_MAX;
        row.life.is_last_unknown = false;
        match verdict {
            Verdict::Refused => row.life.refused_at.push(self.now),
            Verdict::Unknown { retry_after, .. } => {
                row.life.is_last_unknown = true;
                row.life.asked_until = retry_after.map(|delay| self.now + delay);
                cap = retry_after.unwrap_or(cap);
            }
            Verdict::Delivered | Verdict::Settled => self.taken_at = Some(self.now),
            Verdict::Misconfigured => {}
        }
        row.life.waits = Some((self.now, cap));
        row.standing = match fate {
            Fate::Waits => Standing::Open,
            Fate::Delivered => Standing::Delivered,
            Fate::Parked(_) => Standing::Parked,
        };
        row.was_parked |= row.standing == Standing::Parked;
        if row.standing != Standing::Open {
            self.open.entry(row.contract).or_default().remove(sequence);
        }
        if fate == Fate::Parked(ParkedFor::Refused) {
            self.check_that_parking_is_right(*sequence);
        }
        let expected = match verdict {
            Verdict::Delivered => fate == Fate::Delivered,
            Verdict::Settled => fate == Fate::Parked(ParkedFor::Settled),
            Verdict::Refused => fate == Fate::Waits || fate == Fate::Parked(ParkedFor::Refused),
            Verdict::Unknown { .. } | Verdict::Misconfigured => fate == Fate::Waits,
        };
        assert!(expected, "{verdict:?} came to {fate:?}");
        self.check_the_next_probe(ended.is_probe);
    }

    /// After each try: what the lane announces keeps to the steps.
    fn check_the_next_probe(&mut self, was_probe: bool) {
        let (since, probe, is_down) = match self.lane.link() {
            Link::Up => {
                self.pause = None;
                return;
            }
            Link::Down { since, probe } => (since, probe, true),
            Link::Misconfigured { since, probe, .. } => (since, probe, false),
        };
        let known = self.pause.filter(|(known, ..)| *known == since);
        let Probe::At(probe_at) = probe else { return };
        let failures = match known {
            Some((_, failures, _)) if was_probe => failures + 1,
            Some((_, _, known)) => {
                assert_eq!(probe_at, known, "only a probe moves the next one");
                return;
            }
            None => 0,
        };
        let step = Duration::from_secs(2_u64.saturating_pow(failures).min(300));
        let least = if is_down { Duration::from_millis(100) } else { step };
        let delay = probe_at - self.now;
        assert!((least..=step).contains(&delay), "{delay:?} after {failures} failures");
        self.pause = Some((since, failures, probe_at));
    }

    /// Three refusals over ten minutes; and if nothing was taken meanwhile, too few others to tell
    /// that it is not about the row.
    fn check_that_parking_is_right(&self, sequence: Sequence) {
        let refused_at = &self.rows[&sequence].life.refused_at;
        let first = refused_at[0];
        assert!(refused_at.len() >= 3 && self.now - first >= Duration::from_secs(600));
        if self.taken_at.is_some_and(|taken_at| taken_at >= first) {
            return;
        }
        let contract = self.rows[&sequence].contract;
        let others = self.open.iter().filter(|(other, _)| **other != contract);
        let firsts = others.filter_map(|(_, rows)| rows.first());
        let telling = 1 + firsts.filter(|row| !self.rows[row].life.is_last_unknown).count();
        assert!(telling < 20, "{sequence} is parked, and {telling} rows could tell more");
    }

    /// When nothing is under way, open rows wait for a time that comes soon enough.
    fn check_that_nothing_is_stranded(&self) {
        if !self.under_way.is_empty() {
            return;
        }
        let mut firsts = self.open.values().filter_map(BTreeSet::first);
        let Some(wake_at) = self.lane.wake_at() else {
            assert_eq!(firsts.next(), None, "rows are open, and nothing will wake the lane");
            return;
        };
        assert!(wake_at - self.now <= Duration::from_secs(RETRY_AFTER_MAX_S));
        if self.lane.link() == Link::Up {
            for sequence in firsts {
                let (since, cap) =
                    self.rows[sequence].life.waits.expect("a fresh row is never kept waiting");
                assert!(since + cap > self.now, "{sequence} waits longer than {cap:?}");
            }
        }
    }

    /// The first open row of each contract.
    fn firsts(&self) -> impl Iterator<Item = &Row> {
        self.open.values().filter_map(BTreeSet::first).map(|row| &self.rows[row])
    }

    /// However it went, head office gets everything that it will have, and in order.
    fn finish(&mut self) {
        self.weather = Weather::Healthy;
        // After long trouble each row that fails by itself may have one probe before a good one.
        let failing = self.firsts().filter(|row| row.fails()).count();
        self.pass(HOUR + PROBE_INTERVAL_MAX * u32::try_from(failing).expect("a few hundred"));
        assert!(self.firsts().all(Row::fails), "a row is held back by rows of other contracts");
        self.rows.values_mut().for_each(|row| row.nature = Nature::Good);
        self.happen(&Event::RetryParked);
        self.pass(HOUR);
        let open = self.rows.iter().find(|(_, row)| row.standing != Standing::Delivered);
        assert_eq!(open.map(|(sequence, _)| sequence), None, "not delivered");
        assert!(self.lane.rows.is_empty() && self.lane.contracts.is_empty());
        assert_eq!(self.arrived.len(), self.rows.len(), "what head office has");
        let mut last = BTreeMap::new();
        for sequence in &self.arrived {
            let row = &self.rows[sequence];
            if !row.was_parked {
                let before = last.insert(row.contract, *sequence);
                assert!(before < Some(*sequence), "{sequence} arrived after {before:?}");
            }
        }
    }
}

impl Row {
    fn new(contract: u64, nature: Nature) -> Row {
        let (standing, life) = (Standing::Open, Life::default());
        Row { contract, nature, standing, was_parked: false, has_arrived: false, life }
    }

    /// Whether it comes to nothing also on the best of days.
    fn fails(&self) -> bool {
        matches!(self.nature, Nature::TimesOut | Nature::Refused)
    }
}

fn contract(number: u64) -> ContractNumber {
    ContractNumber::parse(&format!("SKY01{number:010}"), Mode::Live).expect("a contract")
}

fn event() -> impl Strategy<Value = Event> {
    let weather = prop_oneof![
        3 => Just(Weather::Healthy),
        1 => Just(Weather::LosesReplies),
        1 => Just(Weather::NoConnection),
        1 => Just(Weather::BlackHole),
        1 => Just(Weather::Busy),
        1 => Just(Weather::WrongKey),
        2 => Just(Weather::RefusesAll),
    ];
    let collect = (1..60_u8, prop_oneof![1..4_u8, 20..=255_u8]);
    prop_oneof![
        6 => weather.prop_map(Event::Weather),
        6 => collect.prop_map(|(rows, contracts)| Event::Collect { rows, contracts }),
        1 => Just(Event::Restart),
        1 => Just(Event::Hurry),
        1 => (-3660..=3660_i64).prop_map(Event::ClockJumps),
        1 => Just(Event::RetryParked),
    ]
}

/// How long nothing else happens: moments, minutes, hours or days.
fn gap() -> impl Strategy<Value = Duration> {
    let ms = prop_oneof![
        0..2_000_u64,
        0..600_000_u64,
        600_000..20_000_000_u64,
        20_000_000..200_000_000_u64,
    ];
    ms.prop_map(Duration::from_millis)
}

proptest! {
    // What it finds becomes a test with a name, so nothing is kept beside the sources. A failure
    // prints the steps and the seed, and they are all that chance decides.
    #![proptest_config(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_lost_or_overtakes_or_is_stranded_through_weeks_of_outages(
        seed in any::<u64>(),
        concurrency in 1..20_usize,
        steps in prop::collection::vec((event(), gap()), 1..60),
    ) {
        let mut world = World::new(seed, concurrency);
        for (event, gap) in &steps {
            world.happen(event);
            world.pass(*gap);
        }
        world.finish();
    }
}
