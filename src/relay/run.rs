//! The loop around the [`Lane`]: reads what waits, sends what may be tried, writes down what came
//! of it, and sleeps until something happens.
//!
//! One task owns all of it. What is under way is known to this process only: after a crash the
//! outbox still has the row, and head office's own check for doubles makes a second try harmless.

mod fall;
mod writing;

use std::collections::{HashMap, HashSet};
use std::future::{Future, pending};
use std::mem;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use fall::Fall;
use writing::Writing;

use super::lane::{self, Lane, Probe, Sign};
use super::state::{Handle, Link, State};
use crate::domain::decision::Sequence;
use crate::domain::delivery::{Attempt, Epoch, Fate, Holdings, ParkedFor, Place, Verdict};
use crate::domain::time::AcceptedAt;
use crate::store::outgoing::{OutboxReader, Outgoing, Queued};
use crate::store::{Bell, OpenError, Store, Tried};
use crate::system::event::Event;
use crate::system::{clock, entropy, figures};
use crate::upstream::{self, Upstream};

/// Rows read at a time: some milliseconds of reading, and sent within a tenth of a second.
const PAGE_ROWS: usize = 512;

/// Verdicts that may wait to be written; with more nothing new is sent.
const UNWRITTEN_MAX: usize = 4096;

/// Verdicts of so long a time are written together: each transaction is two syncs, for which
/// cashiers wait as well, and the same few pages. The first after a rest is written at once. What a
/// crash takes with it is tried once more, and head office has it already.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// How long verdicts that could not be written wait for the next try.
const WRITE_PAUSE: Duration = Duration::from_secs(2);

/// How long the outbox is left alone after it could not be read.
const READ_PAUSE: Duration = Duration::from_secs(10);

/// What head office answers to what it had not.
const RECORDED: i32 = 1000;

/// Numbers that are queued again in one transaction, which cashiers wait for meanwhile.
const REQUEUE_ROWS: i64 = 2000;

/// At the end, what is under way gets so long to come back. What does not is tried again after the
/// next start.
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// Makes ready to pass on what waits in the outbox of a state directory. All that can fail does so
/// here, while another may still be at work.
pub fn prepare<U: Upstream>(
    store: Store,
    state_dir: &Path,
    upstream: U,
    concurrency: usize,
) -> Result<Ready<U>, OpenError> {
    let (state, relay) = Relay::new(store, state_dir, upstream, concurrency)?;
    Ok(Ready { relay, state })
}

/// Everything is there to pass on what waits.
pub struct Ready<U> {
    relay: Relay<U>,
    state: watch::Receiver<State>,
}

impl<U: Upstream> Ready<U> {
    /// Begins, until `stop` resolves. The task ends then, and with it its hold on the store. Never
    /// two at a time: each counts for itself what is under way.
    pub fn begin(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> (Handle, JoinHandle<()>) {
        let Ready { mut relay, state } = self;
        relay.follow_another();
        let hurry = Arc::new(Notify::new());
        let handle = Handle { hurry: Arc::clone(&hurry), state };
        (handle, tokio::spawn(relay.run(hurry, stop)))
    }
}

struct Relay<U> {
    store: Store,
    bell: Arc<Bell>,
    upstream: Arc<U>,
    epoch: Epoch,
    lane: Lane,
    /// None while it is being read on another thread.
    outbox: Option<OutboxReader>,
    cursor: Cursor,
    read_pause: Option<Instant>,
    /// Why the outbox cannot be read, in words.
    read_trouble: Option<String>,
    /// What is read and waits for its first try.
    contents: HashMap<Sequence, Outgoing>,
    /// Rows that are to be tried now, once they are read again.
    wanted: Vec<Sequence>,
    under_way: JoinSet<Returned>,
    /// What came of tries and is to be written down.
    unwritten: Vec<Tried>,
    /// Rows whose fate is known and not written down yet.
    settling: HashSet<Sequence>,
    /// The lowest number that was read and passed over because of that.
    skipped: Sequence,
    /// Rows whose fate is known and cannot be written down, because of damage. This process sends
    /// them again only when head office loses what it had.
    unwritable: HashSet<Sequence>,
    /// Rows whose fate was written down while a page was read, which may still have them.
    settled: HashSet<Sequence>,
    /// So many of the verdicts that come next are written one by one: one of them met a damaged
    /// page.
    apart: usize,
    write_pause: Option<Instant>,
    /// Until when verdicts are gathered.
    gathers_until: Option<Instant>,
    /// Why verdicts cannot be written, in words.
    write_trouble: Option<&'static str>,
    /// What head office said that it has.
    held: Holdings,
    /// Whether that is to be written down.
    is_held_news: bool,
    /// Head office has lost what it had: nothing is sent until that is queued again.
    fall: Option<Fall>,
    /// Whether head office has numbers that this database has not given yet.
    is_copy: bool,
    /// Collections up to this number may have been tried by an earlier process.
    tried_before: Sequence,
    state: watch::Sender<State>,
}

/// How far the outbox is read.
struct Cursor {
    /// Rows up to this number were read.
    at: Sequence,
    /// Whether nothing waits behind it, as far as is known.
    is_at_end: bool,
    /// Whether it went back since the last page was begun, so that it does not go on to its end.
    is_rewound: bool,
}

/// A try that came back.
struct Returned {
    sequence: Sequence,
    at: AcceptedAt,
    /// What head office was known to have when the try began.
    held: Holdings,
    tried: upstream::Tried,
}

/// What was read from the outbox.
struct Read {
    outbox: OutboxReader,
    page: Option<Result<Vec<Queued>, OpenError>>,
    /// What was asked for one by one.
    wanted: Vec<(Sequence, Result<Queued, OpenError>)>,
}

impl<U: Upstream> Relay<U> {
    fn new(
        store: Store,
        state_dir: &Path,
        upstream: U,
        concurrency: usize,
    ) -> Result<(watch::Receiver<State>, Relay<U>), OpenError> {
        let outbox = OutboxReader::open(state_dir)?;
        let (state, watched) = watch::channel(State {
            link: Link::Up,
            since: wall_clock(),
            trouble: String::new(),
            next_probe_at: None,
            last_success_at: None,
            paused: None,
            is_copy: false,
        });
        let relay = Relay {
            bell: store.bell(),
            epoch: outbox.epoch()?,
            held: outbox.holdings()?,
            is_held_news: false,
            fall: None,
            is_copy: false,
            tried_before: outbox.last_sequence()?,
            store,
            upstream: Arc::new(upstream),
            lane: Lane::new(concurrency),
            outbox: Some(outbox),
            cursor: Cursor { at: 0, is_at_end: false, is_rewound: false },
            read_pause: None,
            read_trouble: None,
            contents: HashMap::new(),
            wanted: Vec::new(),
            under_way: JoinSet::new(),
            unwritten: Vec::new(),
            settling: HashSet::new(),
            skipped: Sequence::MAX,
            unwritable: HashSet::new(),
            settled: HashSet::new(),
            apart: 0,
            write_pause: None,
            gathers_until: None,
            write_trouble: None,
            state,
        };
        Ok((watched, relay))
    }

    /// Takes over what another has done since this one was made.
    fn follow_another(&mut self) {
        self.tried_before = self.tried_before.max(self.bell.ready_to());
        // Else it is what that one knew before: less is heard of as a fall, and is none.
        if let Some(Ok(held)) = self.outbox.as_ref().map(OutboxReader::holdings) {
            self.held = held;
        }
    }

    async fn run(mut self, hurry: Arc<Notify>, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let bell = Arc::clone(&self.bell);
        let mut reading: Option<JoinHandle<Read>> = None;
        let mut writing: Option<Writing> = None;
        loop {
            self.end_pauses();
            if writing.is_none() {
                writing = self.write();
            }
            self.send();
            if reading.is_none() {
                reading = self.read();
            }
            self.tell();
            let wake_at = self.wake_at();
            tokio::select! {
                Some(returned) = self.under_way.join_next() => {
                    self.came_back(returned);
                    while let Some(returned) = self.under_way.try_join_next() {
                        self.came_back(returned);
                    }
                }
                read = ended(&mut reading) => self.take(read),
                written = ended(&mut writing) => self.wrote(written),
                () = bell.rung() => self.rang(),
                () = hurry.notified() => self.lane.hurry(clock::monotonic()),
                () = sleep_until_some(wake_at) => {}
                () = &mut stop => break,
            }
        }
        let _ = timeout(DRAIN_TIME, self.drain(writing)).await;
        // A reader beside the writer's last checkpoint would keep that from being whole, so it goes
        // before the store does.
        if let Some(reading) = reading {
            let _ = reading.await;
        }
        drop(self.outbox);
    }

    /// Waits for what is under way, and writes it down.
    async fn drain(&mut self, mut writing: Option<Writing>) {
        loop {
            if writing.is_none() {
                self.gathers_until = None;
                writing = self.write();
            }
            if writing.is_none() && self.under_way.is_empty() {
                return;
            }
            tokio::select! {
                Some(returned) = self.under_way.join_next() => self.came_back(returned),
                written = ended(&mut writing) => self.wrote(written),
            }
        }
    }

    fn end_pauses(&mut self) {
        let now = clock::monotonic();
        self.read_pause = self.read_pause.filter(|until| *until > now);
        self.write_pause = self.write_pause.filter(|until| *until > now);
        self.gathers_until = self.gathers_until.filter(|until| *until > now);
    }

    fn rang(&mut self) {
        self.cursor.is_at_end = false;
        if let Some(from) = self.bell.again_from() {
            self.rewind_to(from);
        }
    }

    /// Rows from this number on are to be read again.
    fn rewind_to(&mut self, from: Sequence) {
        self.cursor.at = self.cursor.at.min(from - 1);
        self.cursor.is_rewound = true;
        self.cursor.is_at_end = false;
    }

    /// When something is to be done though nothing happens.
    fn wake_at(&self) -> Option<Instant> {
        let lane = if self.may_send() { self.lane.wake_at() } else { None };
        [lane, self.read_pause, self.write_pause, self.gathers_until].into_iter().flatten().min()
    }

    /// Nothing is sent whose verdict could not be kept.
    fn may_send(&self) -> bool {
        let can_be_kept = self.write_trouble.is_none() && self.unwritten.len() < UNWRITTEN_MAX;
        self.fall.is_none() && can_be_kept
    }

    fn send(&mut self) {
        let now = clock::monotonic();
        while self.may_send()
            && let Some(sequence) = self.lane.next(now)
        {
            match self.contents.remove(&sequence) {
                Some(outgoing) => self.launch(outgoing),
                None => self.wanted.push(sequence),
            }
        }
    }

    fn launch(&mut self, outgoing: Outgoing) {
        let Outgoing { sequence, collection, line } = outgoing;
        let outgoing = upstream::Outgoing {
            sequence: Place { epoch: self.epoch, sequence },
            collection,
            line,
        };
        let (upstream, held, at) = (Arc::clone(&self.upstream), self.held, wall_clock());
        self.under_way.spawn(async move {
            let tried = upstream.deliver(&outgoing).await;
            Returned { sequence, at, held, tried }
        });
    }

    /// Begins to read what is to be sent next.
    fn read(&mut self) -> Option<JoinHandle<Read>> {
        // What head office lost is queued again from its end; read meanwhile, it would overtake.
        let is_page_due = !self.cursor.is_at_end && self.lane.wants_more() && self.may_send();
        let is_due = is_page_due || !self.wanted.is_empty();
        if self.read_pause.is_some() || self.fall.is_some() || !is_due {
            return None;
        }
        let mut outbox = self.outbox.take()?;
        let (after, last) = (self.cursor.at, self.bell.ready_to());
        let wanted = mem::take(&mut self.wanted);
        // Before it is read: whoever rings meanwhile takes it back.
        self.cursor.is_at_end |= is_page_due;
        self.cursor.is_rewound &= !is_page_due;
        Some(tokio::task::spawn_blocking(move || {
            let wanted = wanted.into_iter().map(|row| (row, outbox.row(row))).collect();
            let page = is_page_due.then(|| outbox.page(after, last, PAGE_ROWS));
            Read { outbox, page, wanted }
        }))
    }

    fn take(&mut self, read: Result<Read, JoinError>) {
        let Read { outbox, page, wanted } = read.expect("a panic ends the process");
        self.outbox = Some(outbox);
        self.read_trouble = None;
        for (sequence, row) in wanted {
            match row {
                // What was known of head office is not so any more: read again once that is over.
                Ok(_) if self.fall.is_some() => self.wanted.push(sequence),
                Ok(Queued::Sound(outgoing)) => self.launch(outgoing),
                Ok(damaged) => self.take_damaged(damaged),
                Err(error) => {
                    self.wanted.push(sequence);
                    self.cannot_read(&error);
                }
            }
        }
        match page {
            Some(Ok(page)) => self.take_page(page),
            Some(Err(error)) => {
                self.cursor.is_at_end = false;
                self.cannot_read(&error);
            }
            None => {}
        }
        self.settled.clear();
    }

    fn take_page(&mut self, page: Vec<Queued>) {
        if let Some(last) = page.last().filter(|_| !self.cursor.is_rewound) {
            self.cursor.at = last.sequence();
        }
        self.cursor.is_at_end &= page.len() < PAGE_ROWS;
        for queued in page {
            let sequence = queued.sequence();
            if self.settling.contains(&sequence) {
                // It may have been queued again already, by a person; looked at once that is known.
                self.skipped = self.skipped.min(sequence);
            } else if self.settled.contains(&sequence) {
                // Read before its fate was written down, or queued again since: looked at again.
                self.rewind_to(sequence);
            } else if !self.lane.has(sequence) && !self.unwritable.contains(&sequence) {
                match queued {
                    Queued::Sound(outgoing) => {
                        self.lane.take([(sequence, outgoing.collection.contract.clone())]);
                        self.contents.insert(sequence, outgoing);
                    }
                    damaged => self.take_damaged(damaged),
                }
            }
        }
    }

    fn take_damaged(&mut self, queued: Queued) {
        match queued {
            Queued::Sound(_) => {}
            Queued::Damaged { sequence, reason } => self.park_damaged(sequence, reason),
            Queued::Unreadable { sequence, reason } => {
                log::error!(
                    TILLD_EVENT = Event::Damaged, TILLD_SEQUENCE = sequence;
                    "collection {sequence} cannot be read and was not sent to head office: \
                     {reason}; `tilld verify` tells more"
                );
                self.lane.forget(sequence);
            }
        }
    }

    /// A row that is not what was confirmed never leaves: it is shown to a person.
    fn park_damaged(&mut self, sequence: Sequence, reason: String) {
        log::error!(
            TILLD_EVENT = Event::Damaged, TILLD_SEQUENCE = sequence;
            "collection {sequence} is damaged and was not sent to head office: {reason}; \
             `tilld verify` tells more"
        );
        self.lane.forget(sequence);
        let attempt = Attempt {
            at: wall_clock(),
            took: Duration::ZERO,
            http: None,
            code: None,
            verdict: Verdict::Refused,
            reason,
        };
        self.note(sequence, attempt, Fate::Parked(ParkedFor::Damaged));
    }

    fn cannot_read(&mut self, error: &OpenError) {
        log::error!("what waits for head office cannot be read, and is tried again: {error}");
        self.read_trouble = Some(format!("what waits for head office cannot be read: {error}"));
        self.read_pause = Some(clock::monotonic() + READ_PAUSE);
    }

    fn came_back(&mut self, returned: Result<Returned, JoinError>) {
        let Returned { sequence, at, held, tried } = returned.expect("a panic ends the process");
        let upstream::Tried { verdict, http, code, reason, took, held: told } = tried;
        figures::TRIES.count(verdict.as_str());
        let now = clock::monotonic();
        let fate = self.lane.tried(sequence, &verdict, now, random());
        if let Some(told) = told {
            self.hear(told, held, code == Some(RECORDED));
        }
        self.state.send_if_modified(|state| {
            match fate {
                Fate::Delivered => {
                    state.last_success_at = Some(at);
                    state.trouble.clear();
                }
                // It waits for a person, and nothing because of it.
                Fate::Parked(_) => state.trouble.clear(),
                Fate::Waits => state.trouble.clone_from(&reason),
            }
            false
        });
        if let Fate::Parked(parked_for) = fate {
            log::error!(
                TILLD_EVENT = Event::Parked, TILLD_SEQUENCE = sequence;
                "head office did not take collection {sequence} ({}): {reason}; it is parked until \
                 a person sends it again: tilld sync parked",
                parked_for.as_str()
            );
        }
        if self.fall.is_some() && fate == Fate::Delivered {
            // Not written down, so that it is sent once more: should this process end before all is
            // queued again, the next one must have something to send to hear of the loss.
            return;
        }
        self.note(sequence, Attempt { at, took, http, code, verdict, reason }, fate);
    }

    /// Tells people how the link stands, and the log when that changes.
    fn tell(&self) {
        let (link, probe_at, why) = match self.lane.link() {
            lane::Link::Up => (Link::Up, None, ""),
            lane::Link::Down { probe: Probe::UnderWay, .. } => (Link::Probing, None, ""),
            lane::Link::Down { probe: Probe::At(at), .. } => (Link::Down, Some(at), ""),
            lane::Link::Misconfigured { probe, sign, .. } => (
                Link::Misconfigured,
                match probe {
                    Probe::At(at) => Some(at),
                    Probe::UnderWay => None,
                },
                match sign {
                    Sign::Misconfigured => "",
                    Sign::AllRefused => "it refuses everything: ",
                },
            ),
        };
        let now = clock::monotonic();
        let paused = self.write_trouble.map(str::to_owned).or_else(|| self.read_trouble.clone());
        self.state.send_if_modified(|state| {
            // All rows may have to wait for longer than the link.
            let at = probe_at.map(|at| self.lane.wake_at().unwrap_or(at));
            let until = at.map(|at| at.saturating_duration_since(now));
            let is_changed = state.link != link;
            // A probe does not end an outage.
            let is_new = is_changed && !state.link.is_same_trouble(link);
            if is_new {
                state.since = wall_clock();
                log_link(link, why, &state.trouble);
            }
            state.link = link;
            state.paused = paused;
            state.is_copy = self.is_copy;
            state.next_probe_at = until.map(wall_clock_in);
            is_changed
        });
    }
}

fn log_link(link: Link, why: &str, trouble: &str) {
    match link {
        Link::Up => log::info!(TILLD_EVENT = Event::LinkUp; "head office is reached again"),
        Link::Down | Link::Probing => log::warn!(
            TILLD_EVENT = Event::LinkDown;
            "head office cannot be reached: {trouble}; confirmations are kept and sent when it can"
        ),
        Link::Misconfigured => log::error!(
            TILLD_EVENT = Event::Misconfigured;
            "head office takes nothing from here: {why}{trouble}; compare [upstream] with the \
             caller that is configured there; confirmations are kept, and it is tried again"
        ),
    }
}

/// Resolves when what is in the slot does, which is empty then; never while it is empty.
async fn ended<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    let Some(running) = slot else { return pending().await };
    let output = running.await;
    *slot = None;
    output
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

fn wall_clock() -> AcceptedAt {
    wall_clock_in(Duration::ZERO)
}

fn wall_clock_in(time: Duration) -> AcceptedAt {
    AcceptedAt::new(clock::now() + time)
}

/// Spreads the tries of 2,000 branches. Without randomness they are only less spread.
fn random() -> u64 {
    entropy::bytes::<8>().map_or(u64::MAX / 2, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests;
