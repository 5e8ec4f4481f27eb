//! Which confirmation is to be tried when, and what becomes of it: the rules of the way to head
//! office, without the going.
//!
//! Pure: no I/O, no clock, no randomness. The loop around it reads rows from the outbox, asks
//! [`Lane::next`], sends, and tells [`Lane::tried`]. Times are [`Instant`]s only, so that a wall
//! clock that jumps cannot strand a row. Nothing here outlives the process: after a restart every
//! row of the outbox is due at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::domain::contract::ContractNumber;
use crate::domain::decision::Sequence;
use crate::domain::delivery::{Fate, ParkedFor, UnknownCause, Verdict};

/// The first step of every backoff; each further one is twice as long.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// The longest step of every backoff.
const BACKOFF_MAX: Duration = Duration::from_secs(5 * 60);

/// The shortest wait that full jitter may come to: by chance it would be nothing several times
/// over, and what always fails at once would spin.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// So many rows in succession whose outcome is unknown say that it is the link.
const UNKNOWN_ROWS_MAX: usize = 5;

/// So many rows refused in succession say that it is not about the rows.
const REFUSED_ROWS_MAX: usize = 20;

/// A row is parked at its third refusal,
const REFUSALS_MIN: u32 = 3;

/// but not before this time has passed since its first,
const REFUSED_FOR_MIN: Duration = Duration::from_secs(10 * 60);

/// so a refused row is tried again after this time.
const REFUSED_RETRY_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// With so many rows due no more are read: 50 ms of work at 20,000 a second.
const DUE_ROWS_MAX: usize = 1024;

/// With so many rows in memory no more are read. They are a few numbers each, under 300 bytes with
/// their places in the queues: 30 MB at most.
const ROWS_MAX: usize = 100_000;

/// The state of the way to head office, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// As far as is known it works.
    Up,
    /// Head office cannot be reached.
    Down {
        /// Since when.
        since: Instant,
        /// When it is tried again.
        probe: Probe,
    },
    /// Head office can be reached, and takes nothing from us: a person must look.
    Misconfigured {
        /// How that shows.
        sign: Sign,
        /// Since when.
        since: Instant,
        /// When it is tried again.
        probe: Probe,
    },
}

/// When a link that does not work is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Then, if there is a row to try it with.
    At(Instant),
    /// Now: a row is under way.
    UnderWay,
}

/// How it shows that something is misconfigured, here or at head office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Head office does not take us for who we are, or is not there.
    Misconfigured,
    /// 20 different rows were refused in succession.
    AllRefused,
}

/// The rows that wait for head office, and what is known of the link.
pub struct Lane {
    concurrency: usize,
    rows: HashMap<Sequence, Row>,
    /// All rows by contract. A contract is known by a hash: should two have the same one, they wait
    /// for each other, and that is all.
    contracts: BTreeSet<(u64, Sequence)>,
    /// By contract, at most one each: the row and the generation it was begun in.
    under_way: HashMap<u64, (Sequence, u64)>,
    /// Due rows that were never tried.
    fresh: BTreeSet<Sequence>,
    /// Due rows that were tried before, the one whose last try is longest ago first: what always
    /// fails lets the others go before it.
    again: BTreeSet<(u64, Sequence)>,
    /// Whether a row of `again` comes next. They take turns with the fresh ones, so that neither
    /// holds back the other.
    turn_of_again: bool,
    /// Rows that wait for a time.
    waiting: BTreeSet<(Instant, Sequence)>,
    /// Of the rows tried before those that a probe may use, in the same order: whatever ails a row,
    /// the next probe takes another. The number of tries would not do for an order: beside rows
    /// tried a thousand times in a long outage, a few new ones that always fail would take every
    /// probe.
    tried: BTreeSet<(u64, Sequence)>,
    /// Counts tries that have ended.
    tries: u64,
    /// How many rows of this generation may be under way at once; at most `concurrency`.
    window: usize,
    /// Changes with the state of the link: what fails that was begun before says nothing of it.
    generation: u64,
    /// What is known of a link that does not work.
    pause: Option<Pause>,
    /// The different rows with an unknown outcome since the link last proved to work.
    unknown: BTreeSet<Sequence>,
    /// The different rows refused since the last one was taken, with their refusals before that.
    refused: BTreeMap<Sequence, Option<Refusals>>,
    /// How often head office took something: tells whether it did between two refusals.
    taken: u64,
}

struct Row {
    contract: u64,
    stage: Stage,
    /// Kept also while it is behind another.
    wait: Option<Wait>,
    /// How often it was tried in vain, for whatever reason.
    tries: u32,
    /// The number of its last try.
    last_try: u64,
    /// How often the outcome was unknown while the link was up.
    unknowns: u32,
    refusals: Option<Refusals>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// An earlier row of its contract is open, or another is under way.
    Behind,
    /// It is in `fresh`, `again` or `waiting`.
    Queued,
    UnderWay,
}

#[derive(Clone, Copy)]
struct Wait {
    until: Instant,
    reason: WaitReason,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitReason {
    /// Over when the link recovers; a probe may use the row.
    Backoff,
    /// Head office refused the row, or the link was found misconfigured with it. It may be the row,
    /// so a link that recovers must not stumble over it at once; a probe may use it.
    Own,
    /// Head office asked for it: a probe may not use the row before.
    RetryAfter,
}

#[derive(Clone, Copy)]
struct Refusals {
    count: u32,
    first_at: Instant,
    /// [`Lane::tries`] at the first.
    tries: u64,
    /// [`Lane::taken`] at the first.
    taken: u64,
}

struct Pause {
    /// None: the link is down.
    sign: Option<Sign>,
    since: Instant,
    /// Probes that failed.
    failures: u32,
    probe_at: Instant,
    /// The row under way as probe.
    probe: Option<Sequence>,
}

/// A try that has ended.
struct Ended {
    sequence: Sequence,
    now: Instant,
    random: u64,
    /// Whether the link has not changed its state since it began.
    is_current: bool,
}

impl Lane {
    /// An empty lane whose link is taken to work; `concurrency` rows, at least 1, may be under way
    /// at once.
    pub fn new(concurrency: usize) -> Lane {
        Lane {
            concurrency,
            rows: HashMap::new(),
            contracts: BTreeSet::new(),
            under_way: HashMap::new(),
            fresh: BTreeSet::new(),
            again: BTreeSet::new(),
            turn_of_again: false,
            waiting: BTreeSet::new(),
            tried: BTreeSet::new(),
            tries: 0,
            window: 1,
            generation: 0,
            pause: None,
            unknown: BTreeSet::new(),
            refused: BTreeMap::new(),
            taken: 0,
        }
    }

    /// Takes rows of the outbox; those it knows already are passed over. Read in ascending order,
    /// and not between a verdict and its being written down: the row would be tried once more.
    pub fn take(&mut self, rows: impl IntoIterator<Item = (Sequence, ContractNumber)>) {
        for (sequence, contract) in rows {
            if self.rows.contains_key(&sequence) {
                continue;
            }
            let contract = key(&contract);
            let first = self.first_of(contract).filter(|first| sequence < *first);
            if let Some(overtaken) = first {
                self.dequeue(overtaken);
            }
            self.rows.insert(sequence, Row::new(contract));
            // It may have been parked in this succession; nothing of that is to be taken back.
            if let Some(before) = self.refused.get_mut(&sequence) {
                *before = None;
            }
            self.contracts.insert((contract, sequence));
            self.queue_first_of(contract);
        }
    }

    /// Whether it holds this row.
    pub fn has(&self, sequence: Sequence) -> bool {
        self.rows.contains_key(&sequence)
    }

    /// Whether more rows should be read behind the last one taken: few are due that were never
    /// tried, and there is room. Those that fail again and again must not hold back the others.
    pub fn wants_more(&self) -> bool {
        self.fresh.len() < DUE_ROWS_MAX && self.rows.len() < ROWS_MAX
    }

    /// The row to try now; it is under way from here on until [`Lane::tried`] or [`Lane::forget`].
    /// None: nothing may be tried now.
    pub fn next(&mut self, now: Instant) -> Option<Sequence> {
        while let Some((_, sequence)) = self.waiting.first().filter(|(until, _)| *until <= now) {
            self.end_wait(*sequence);
        }
        if !self.has_room() {
            return None;
        }
        let sequence = match &mut self.pause {
            None => {
                let fresh = self.fresh.first();
                let again = self.again.first().map(|(_, sequence)| sequence);
                let sequence = *if self.turn_of_again { again.or(fresh) } else { fresh.or(again) }?;
                self.turn_of_again = !self.turn_of_again;
                sequence
            }
            Some(pause) if pause.probe_at <= now => {
                // By turns the first and the last of the fresh ones: those that always fail may
                // stand together in front, as after a restart.
                let is_from_end = pause.failures % 2 == 1;
                let fresh = if is_from_end { self.fresh.last() } else { self.fresh.first() };
                let tried = self.tried.first().map(|(_, sequence)| sequence);
                let sequence = *fresh.or(tried)?;
                pause.probe = Some(sequence);
                sequence
            }
            Some(_) => return None,
        };
        self.dequeue(sequence);
        let row = self.rows.get_mut(&sequence)?;
        row.stage = Stage::UnderWay;
        row.wait = None;
        self.under_way.insert(row.contract, (sequence, self.generation));
        Some(sequence)
    }

    /// Takes in what the try of a row came to, and says what must be written down. Expects a
    /// Retry-After within the bounds that upstream holds it to (1 s to 15 min). `random` spreads
    /// the backoff. Nothing follows from a row that is not under way: it was forgotten meanwhile.
    pub fn tried(
        &mut self,
        sequence: Sequence,
        verdict: &Verdict,
        now: Instant,
        random: u64,
    ) -> Fate {
        let Some((mut row, begun)) = self.arrive(sequence) else {
            return match verdict {
                Verdict::Delivered => Fate::Delivered,
                Verdict::Settled => Fate::Parked(ParkedFor::Settled),
                _ => Fate::Waits,
            };
        };
        let ended = Ended { sequence, now, random, is_current: begun == self.generation };
        if let Some(pause) = self.pause.as_mut().filter(|pause| pause.probe == Some(sequence)) {
            pause.probe = None;
            pause.failures = pause.failures.saturating_add(1);
            pause.probe_at = now + pause.delay(random);
        }
        self.tries += 1;
        row.tries = row.tries.saturating_add(1);
        row.last_try = self.tries;
        let fate = match verdict {
            Verdict::Delivered => self.taken(Fate::Delivered),
            Verdict::Settled => self.taken(Fate::Parked(ParkedFor::Settled)),
            Verdict::Refused => self.refused(&mut row, &ended),
            Verdict::Unknown { cause, retry_after } => {
                self.unknown(&mut row, &ended, *cause, *retry_after)
            }
            Verdict::Misconfigured => self.misconfigured(&mut row, &ended),
        };
        let contract = row.contract;
        if fate == Fate::Waits {
            self.rows.insert(sequence, row);
        } else {
            self.contracts.remove(&(contract, sequence));
        }
        self.queue_first_of(contract);
        fate
    }

    /// Drops a row: it was parked unsent, or somebody else settled it.
    pub fn forget(&mut self, sequence: Sequence) {
        self.dequeue(sequence);
        let Some(row) = self.rows.remove(&sequence) else { return };
        self.contracts.remove(&(row.contract, sequence));
        if row.stage == Stage::UnderWay {
            self.under_way.remove(&row.contract);
        }
        if let Some(pause) = self.pause.as_mut().filter(|pause| pause.probe == Some(sequence)) {
            pause.probe = None;
        }
        self.queue_first_of(row.contract);
    }

    /// Drops all rows; what is known of the link stays.
    pub fn forget_all(&mut self) {
        for sequence in self.rows.keys().copied().collect::<Vec<_>>() {
            self.forget(sequence);
        }
    }

    /// When, after `next` gave None, it may give a row though nothing else happens. None: only new
    /// rows or a verdict change anything.
    pub fn wake_at(&self) -> Option<Instant> {
        let waiting = self.waiting.first().map(|(until, _)| *until);
        match &self.pause {
            _ if !self.has_room() => None,
            None => waiting,
            Some(pause) if self.fresh.is_empty() && self.tried.is_empty() => {
                waiting.map(|until| until.max(pause.probe_at))
            }
            Some(pause) => Some(pause.probe_at),
        }
    }

    /// A person wants it now: whatever waits for a time is due, and so is a probe.
    pub fn hurry(&mut self, now: Instant) {
        self.end_waits(|_| true);
        if let Some(pause) = &mut self.pause {
            pause.probe_at = pause.probe_at.min(now);
        }
    }

    /// The state of the link.
    pub fn link(&self) -> Link {
        let Some(pause) = &self.pause else { return Link::Up };
        let probe = if pause.probe.is_some() { Probe::UnderWay } else { Probe::At(pause.probe_at) };
        match pause.sign {
            None => Link::Down { since: pause.since, probe },
            Some(sign) => Link::Misconfigured { sign, since: pause.since, probe },
        }
    }

    /// Whether one more row may be under way.
    fn has_room(&self) -> bool {
        // What was begun before the link last changed takes no room in the window: it may hang
        // until its time is out while the link is up again.
        let current = || self.under_way.values().filter(|(_, begun)| *begun == self.generation);
        self.under_way.len() < self.concurrency
            && match &self.pause {
                None => current().count() < self.window,
                Some(pause) => pause.probe.is_none(),
            }
    }

    /// Head office has decided about a row.
    fn taken(&mut self, fate: Fate) -> Fate {
        self.taken += 1;
        self.refused.clear();
        self.link_works();
        fate
    }

    fn refused(&mut self, row: &mut Row, ended: &Ended) -> Fate {
        let Ended { sequence, now, .. } = *ended;
        if self.pause.as_ref().is_some_and(|pause| pause.sign == Some(Sign::AllRefused)) {
            row.stumble(now);
            return Fate::Waits;
        }
        self.link_works();
        row.wait_until(now + REFUSED_RETRY_INTERVAL, WaitReason::Own);
        if !ended.is_current {
            return Fate::Waits;
        }
        let before = *self.refused.entry(sequence).or_insert(row.refusals);
        if self.refused.len() >= REFUSED_ROWS_MAX {
            row.refusals = before;
            row.stumble(now);
            self.take_refusals_back(now);
            self.pause(Some(Sign::AllRefused), ended);
            return Fate::Waits;
        }
        let (tries, taken) = (self.tries, self.taken);
        let first = Refusals { count: 0, first_at: now, tries, taken };
        let mut refusals = row.refusals.unwrap_or(first);
        refusals.count = refusals.count.saturating_add(1);
        row.refusals = Some(refusals);
        let is_enough = refusals.count >= REFUSALS_MIN
            && now.duration_since(refusals.first_at) >= REFUSED_FOR_MIN;
        if is_enough && !self.may_refuse_all(refusals) {
            return Fate::Parked(ParkedFor::Refused);
        }
        Fate::Waits
    }

    /// Whether it is still open that head office refuses everything: it has taken nothing since the
    /// first of these refusals, and enough rows to tell, not tried since, are due or under way.
    fn may_refuse_all(&self, refusals: Refusals) -> bool {
        let under_way = self.under_way.values().map(|(sequence, _)| sequence);
        let again = self.again.iter().map(|(_, sequence)| sequence);
        let due = self.fresh.iter().chain(again).chain(under_way);
        // A row that always times out is heard once, or it would put the parking off for ever.
        let unheard = due.filter(|sequence| {
            self.rows[sequence].last_try < refusals.tries && !self.refused.contains_key(sequence)
        });
        let missing = REFUSED_ROWS_MAX - self.refused.len();
        refusals.taken == self.taken && unheard.take(missing).count() == missing
    }

    /// What was refused in this succession was not about the rows.
    fn take_refusals_back(&mut self, now: Instant) {
        for (sequence, before) in std::mem::take(&mut self.refused) {
            let was_queued = self.dequeue(sequence);
            if let Some(row) = self.rows.get_mut(&sequence) {
                row.refusals = before;
                if row.wait.is_some_and(|wait| wait.reason == WaitReason::Own) {
                    row.stumble(now);
                }
            }
            if was_queued {
                self.queue(sequence);
            }
        }
    }

    fn unknown(
        &mut self,
        row: &mut Row,
        ended: &Ended,
        cause: UnknownCause,
        retry_after: Option<Duration>,
    ) -> Fate {
        let Ended { sequence, now, random, .. } = *ended;
        if ended.is_current && self.pause.is_none() {
            self.unknown.insert(sequence);
            if cause == UnknownCause::NoConnection || self.unknown.len() >= UNKNOWN_ROWS_MAX {
                self.pause(None, ended);
            }
        }
        if let Some(delay) = retry_after {
            row.wait_until(now + delay, WaitReason::RetryAfter);
        } else if self.pause.is_none() {
            row.wait_until(now + full_jitter(row.unknowns, random), WaitReason::Backoff);
            row.unknowns = row.unknowns.saturating_add(1);
        }
        Fate::Waits
    }

    fn misconfigured(&mut self, row: &mut Row, ended: &Ended) -> Fate {
        let is_known = self.pause.as_ref().is_some_and(|pause| pause.sign.is_some());
        if ended.is_current && !is_known {
            self.pause(Some(Sign::Misconfigured), ended);
        }
        row.stumble(ended.now);
        Fate::Waits
    }

    /// From now on there are only probes.
    fn pause(&mut self, sign: Option<Sign>, ended: &Ended) {
        self.generation += 1;
        self.unknown.clear();
        let mut pause =
            Pause { sign, since: ended.now, failures: 0, probe_at: ended.now, probe: None };
        pause.probe_at += pause.delay(ended.random);
        self.pause = Some(pause);
    }

    fn link_works(&mut self) {
        self.unknown.clear();
        if self.pause.take().is_some() {
            self.generation += 1;
            self.window = 1;
            self.end_waits(|reason| reason == WaitReason::Backoff);
        } else {
            self.window = self.concurrency.min(self.window + 1);
        }
    }

    fn end_waits(&mut self, ends: impl Fn(WaitReason) -> bool) {
        let waiting = self.waiting.iter().map(|(_, sequence)| *sequence);
        let over = |sequence: &Sequence| self.rows[sequence].wait.is_some_and(|w| ends(w.reason));
        for sequence in waiting.filter(over).collect::<Vec<_>>() {
            self.end_wait(sequence);
        }
    }

    fn end_wait(&mut self, sequence: Sequence) {
        self.dequeue(sequence);
        if let Some(row) = self.rows.get_mut(&sequence) {
            row.wait = None;
        }
        self.queue(sequence);
    }

    /// Takes the row out if it is under way, with the generation it was begun in.
    fn arrive(&mut self, sequence: Sequence) -> Option<(Row, u64)> {
        let contract = self.rows.get(&sequence)?.contract;
        let (_, begun) = *self.under_way.get(&contract).filter(|(row, _)| *row == sequence)?;
        self.under_way.remove(&contract);
        let row = self.rows.remove(&sequence)?;
        Some((Row { stage: Stage::Behind, ..row }, begun))
    }

    fn first_of(&self, contract: u64) -> Option<Sequence> {
        let of_contract = (contract, Sequence::MIN)..=(contract, Sequence::MAX);
        self.contracts.range(of_contract).next().map(|(_, sequence)| *sequence)
    }

    /// Queues the first row of a contract, unless one of it is under way.
    fn queue_first_of(&mut self, contract: u64) {
        if !self.under_way.contains_key(&contract)
            && let Some(first) = self.first_of(contract)
        {
            self.queue(first);
        }
    }

    fn queue(&mut self, sequence: Sequence) {
        let Some(row) = self.rows.get_mut(&sequence) else { return };
        row.stage = Stage::Queued;
        match row.wait {
            Some(wait) => self.waiting.insert((wait.until, sequence)),
            None if row.tries == 0 => self.fresh.insert(sequence),
            None => self.again.insert((row.last_try, sequence)),
        };
        if row.tries > 0 && row.wait.is_none_or(|w| w.reason != WaitReason::RetryAfter) {
            self.tried.insert((row.last_try, sequence));
        }
    }

    /// The opposite of [`Lane::queue`]; whether the row was queued.
    fn dequeue(&mut self, sequence: Sequence) -> bool {
        let queued = |row: &&mut Row| row.stage == Stage::Queued;
        let Some(row) = self.rows.get_mut(&sequence).filter(queued) else { return false };
        row.stage = Stage::Behind;
        match row.wait {
            Some(wait) => self.waiting.remove(&(wait.until, sequence)),
            None if row.tries == 0 => self.fresh.remove(&sequence),
            None => self.again.remove(&(row.last_try, sequence)),
        };
        self.tried.remove(&(row.last_try, sequence));
        true
    }
}

impl Row {
    fn new(contract: u64) -> Row {
        let stage = Stage::Behind;
        Row { contract, stage, wait: None, tries: 0, last_try: 0, unknowns: 0, refusals: None }
    }

    fn wait_until(&mut self, until: Instant, reason: WaitReason) {
        self.wait = Some(Wait { until, reason });
    }

    /// Keeps it back for a while that grows with each of its tries.
    fn stumble(&mut self, now: Instant) {
        let until = now + step(self.tries.saturating_sub(1));
        let sooner = self.wait.map_or(until, |wait| wait.until.min(until));
        self.wait_until(sooner, WaitReason::Own);
    }
}

impl Pause {
    /// How long to wait for the next probe.
    fn delay(&self, random: u64) -> Duration {
        match self.sign {
            None => full_jitter(self.failures, random),
            Some(_) => step(self.failures),
        }
    }
}

/// A time between [`BACKOFF_MIN`] and the step after so many failures.
fn full_jitter(failures: u32, random: u64) -> Duration {
    let spread = step(failures).saturating_sub(BACKOFF_MIN);
    let spread_ms = spread.as_secs() * 1000 + u64::from(spread.subsec_millis());
    BACKOFF_MIN + Duration::from_millis(random % (spread_ms + 1))
}

/// 1 s, 2 s, 4 s … up to 5 min.
fn step(failures: u32) -> Duration {
    BACKOFF_MAX.min(BACKOFF_BASE.saturating_mul(2_u32.saturating_pow(failures)))
}

fn key(contract: &ContractNumber) -> u64 {
    let mut hasher = DefaultHasher::new();
    contract.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
