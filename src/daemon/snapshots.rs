//! Takes the snapshots: on a thread of its own, because to count what waits may take a while.
//!
//! It keeps `status.json` and the line that systemd shows up to date, and answers whoever asks.
//! It only reads: what it tells of the writer and the relay, these have told before.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::checks::LastCheck;
use super::reload::Shown;
use crate::config::Config;
use crate::domain::collection::UserName;
use crate::domain::contract::Mode;
use crate::domain::time::{AcceptedAt, BusinessDate};
use crate::endpoint::{Strayed, StrayedCallers};
use crate::operator::metrics::{Meter, Reading};
use crate::operator::snapshot::{
    Books, Disk, Door, Link, LinkState, Moment, Rows, SCHEMA_VERSION, Snapshot, StrayedCaller,
    Today,
};
use crate::relay;
use crate::store::backup::{self, Name};
use crate::store::reader::Reader;
use crate::store::{Branch, Health, OpenError};
use crate::system::{clock, notify};

/// How often it looks for changes, and at most writes the file.
const INTERVAL: Duration = Duration::from_secs(1);

/// How old the file may become while nothing changes: who reads it sees that it is kept.
const FILE_AGE_MAX: Duration = Duration::from_secs(60);

/// How often it looks into directories.
const STOCK_INTERVAL: Duration = Duration::from_secs(5);

/// Counting rests so many times as long as it takes: a million rows wait a while, and cashiers
/// need the disk and the processor more.
const REST_FACTOR: u32 = 50;

/// So long somebody who asks may be kept waiting for the rest to be over; else older counts do.
const REST_WAITED_MAX: Duration = Duration::from_millis(200);

/// Questions that may wait: more than the control socket has connections.
const ASKS_MAX: usize = 64;

/// `status.json`: for every local user.
const FILE_MODE: u32 = 0o644;

/// What a snapshot is taken of.
pub struct Subjects {
    /// Where tills connect to.
    pub endpoint: SocketAddr,
    /// The operator's listener.
    pub operator: watch::Receiver<Door>,
    /// The control socket.
    pub control: Door,
    /// The storage.
    pub health: Arc<Health>,
    /// What is configured.
    pub shown: watch::Receiver<Shown>,
    /// Whom of those who are configured the endpoint turned away.
    pub strayed: Arc<StrayedCallers>,
    /// The last check of both witnesses.
    pub last_check: LastCheck,
}

/// The thread at work.
pub struct Snapshots {
    asker: Asker,
    last: Last,
    thread: JoinHandle<()>,
}

/// What it can be asked for.
enum Ask {
    Snapshot(oneshot::Sender<Snapshot>),
    Reading(oneshot::Sender<Reading>),
}
/// The last snapshot that was taken, for who does not want to wait for one.
pub type Last = watch::Receiver<Option<Arc<Snapshot>>>;

/// The way to ask it.
#[derive(Clone)]
pub struct Asker(SyncSender<Ask>);

impl Asker {
    /// How it stands now; `None` when that cannot be told any more.
    pub async fn ask(&self) -> Option<Snapshot> {
        let (answer, snapshot) = oneshot::channel();
        self.0.try_send(Ask::Snapshot(answer)).ok()?;
        snapshot.await.ok()
    }
}

impl Meter for Asker {
    async fn read(&self) -> Option<Reading> {
        let (answer, reading) = oneshot::channel();
        self.0.try_send(Ask::Reading(answer)).ok()?;
        reading.await.ok()
    }
}

impl Snapshots {
    /// Starts it.
    pub fn start(config: &Config, subjects: Subjects) -> Result<Snapshots, OpenError> {
        let reader = Reader::open(&config.state_dir)?;
        let now = Moment(AcceptedAt::new(clock::now()));
        let (published, last) = watch::channel(None);
        let mut photographer = Photographer {
            mode: config.mode,
            started_at: now,
            counter: Counter::new(reader, now),
            subjects,
            stock: Stocktaker { backups: config.backup.directory.clone(), seen: None },
            file: StatusFile::new(&config.operator.status_file),
            line: String::new(),
            published,
        };
        let (asker, asks) = sync_channel(ASKS_MAX);
        let run = move || photographer.run(&asks);
        let thread = thread::Builder::new().name("status".to_owned()).spawn(run);
        let thread = thread.expect("a process that has its other threads can have this one");
        Ok(Snapshots { asker: Asker(asker), last, thread })
    }

    /// The way to ask it.
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// The last one, as it changes.
    pub fn last(&self) -> Last {
        self.last.clone()
    }

    /// Ends it, and `status.json` with it. Every other [`Asker`] must be gone.
    pub fn end(self) {
        drop(self.asker);
        let _ = self.thread.join();
    }
}

struct Photographer {
    mode: Mode,
    started_at: Moment,
    counter: Counter,
    subjects: Subjects,
    stock: Stocktaker,
    file: StatusFile,
    /// What systemd was told last.
    line: String,
    published: watch::Sender<Option<Arc<Snapshot>>>,
}

impl Photographer {
    fn run(&mut self, asks: &Receiver<Ask>) {
        let mut wait = Duration::ZERO;
        loop {
            let ask = match asks.recv_timeout(wait) {
                Ok(ask) => Some(ask),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            wait = INTERVAL;
            let snapshot = self.take();
            self.publish(&snapshot);
            // Whoever asked may be gone.
            match ask {
                Some(Ask::Snapshot(answer)) => drop(answer.send(snapshot)),
                Some(Ask::Reading(answer)) => drop(answer.send(self.reading(snapshot))),
                None => {}
            }
        }
        self.file.remove();
    }

    fn take(&mut self) -> Snapshot {
        let now = AcceptedAt::new(clock::now());
        let Shown {
            lacking_names,
            certificate_begins_at,
            certificate_ends_at,
            keys,
            mut head_office,
            relay,
            config,
            ..
        } = self.subjects.shown.borrow().clone();
        let tells_takings = config.operator.metrics_takings;
        let books = self.counter.count(now, head_office.is_some(), tells_takings);
        let Stock { last_backup, tape_bytes } = self.stock.look(now, &self.subjects.health);
        let Subjects { endpoint, operator, control, health, strayed, last_check, .. } =
            &self.subjects;
        if let (Some(office), Some(relay)) = (&mut head_office, relay) {
            office.link = Some(link(relay.state(), self.counter.last_delivered_at));
        }
        let (last_backup, backup_trouble) = match last_backup {
            Ok(last) => (last, None),
            Err(trouble) => (None, Some(trouble)),
        };
        let snapshot = Snapshot {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: self.mode.as_str().to_owned(),
            started_at: self.started_at,
            at: Moment(now),
            endpoint: *endpoint,
            operator: operator.borrow().clone(),
            control: control.clone(),
            callers: config.callers.len(),
            lacking_names,
            certificate_begins_at,
            certificate_ends_at,
            keys,
            strayed: strayed.all().into_iter().map(strayed_caller).collect(),
            last_backup_at: last_backup.map(|(name, _)| Moment(name.at())),
            last_backup_verified_at: last_backup.map(|(_, verified_at)| Moment(verified_at)),
            backup_trouble,
            condition: health.condition(),
            disk: Disk {
                free_bytes: health.free_bytes(),
                reserve_bytes: health.disk_reserve(),
                wal_bytes: health.wal_bytes(),
                database_bytes: health.database_bytes(),
                tape_bytes,
            },
            books,
            head_office,
            recovered: health.recovered(),
            last_check: last_check.get(),
            warnings: Vec::new(),
        };
        snapshot.judged()
    }

    /// The same with what only metrics tell. Of branches that are configured no more nothing is
    /// told: nobody waits for them.
    fn reading(&mut self, snapshot: Snapshot) -> Reading {
        let configured = Arc::clone(&self.subjects.shown.borrow().branches);
        let branches = (!configured.is_empty()).then(|| {
            let mut branches = self.counter.branches();
            branches.retain(|branch| configured.contains(&branch.branch));
            branches
        });
        Reading { snapshot, branches }
    }

    fn publish(&mut self, snapshot: &Snapshot) {
        let line = snapshot.one_line();
        if line != self.line {
            notify::status(&line);
            self.line = line;
        }
        self.file.update(snapshot);
        self.published.send_replace(Some(Arc::new(snapshot.clone())));
    }
}

fn strayed_caller((caller, strayed): (UserName, Strayed)) -> StrayedCaller {
    let Strayed { count, last_at } = strayed;
    StrayedCaller { caller: caller.as_str().to_owned(), count, last_at: Moment(last_at) }
}

fn link(state: relay::State, last_delivered_at: Option<AcceptedAt>) -> Link {
    Link {
        state: match state.link {
            relay::Link::Up => LinkState::Up,
            relay::Link::Down => LinkState::Down,
            relay::Link::Probing => LinkState::Probing,
            relay::Link::Misconfigured => LinkState::Misconfigured,
        },
        since: Moment(state.since),
        trouble: state.trouble,
        next_probe_at: state.next_probe_at.map(Moment),
        last_success_at: state.last_success_at.or(last_delivered_at).map(Moment),
        paused: state.paused,
        is_copy: state.is_copy,
    }
}

/// Counts the books, not more often than is good for them.
struct Counter {
    reader: Reader,
    books: Books,
    /// When head office last took something, also in an earlier process.
    last_delivered_at: Option<AcceptedAt>,
    /// Of which version of the books, for which day, and whether with its takings.
    counted: Option<(i64, BusinessDate, bool)>,
    rest_until: Instant,
    branches: Vec<Branch>,
    branches_rest_until: Instant,
}

impl Counter {
    fn new(reader: Reader, now: Moment) -> Counter {
        let books = Books {
            counted_at: now,
            count_trouble: None,
            first_at: None,
            today: Today::new(now.0.date(), 0, None),
            queued: Rows::default(),
            parked: Rows::default(),
        };
        let rest_until = clock::monotonic();
        Counter {
            reader,
            books,
            last_delivered_at: None,
            counted: None,
            rest_until,
            branches: Vec::new(),
            branches_rest_until: rest_until,
        }
    }

    /// What stands in the books; of some time ago when it was counted not long enough ago.
    fn count(&mut self, now: AcceptedAt, delivers: bool, tells_takings: bool) -> Books {
        let rest = self.rest_until.saturating_duration_since(clock::monotonic());
        if rest <= REST_WAITED_MAX {
            thread::sleep(rest);
            let began = clock::monotonic();
            let counted = self.recount(now, delivers, tells_takings);
            self.books.count_trouble = counted.err().map(|error| error.to_string());
            self.rest_until = clock::monotonic() + began.elapsed() * REST_FACTOR;
        }
        // Whoever switched them off need not wait.
        self.books.today.centavos = self.books.today.centavos.filter(|_| tells_takings);
        self.books.clone()
    }

    /// The branches that relay to here; of some time ago when they were read not long enough ago.
    fn branches(&mut self) -> Vec<Branch> {
        let began = clock::monotonic();
        if began >= self.branches_rest_until {
            self.branches = self.reader.branches().unwrap_or_default();
            self.branches_rest_until = clock::monotonic() + began.elapsed() * REST_FACTOR;
        }
        self.branches.clone()
    }

    fn recount(
        &mut self,
        now: AcceptedAt,
        delivers: bool,
        tells_takings: bool,
    ) -> Result<(), OpenError> {
        let day = now.date();
        let counted = Some((self.reader.version()?, day, tells_takings));
        if counted != self.counted {
            let taken = tells_takings.then(|| self.reader.taken_on(day)).transpose()?;
            self.books.today = Today::new(day, self.reader.recorded_on(day)?, taken);
            if self.books.first_at.is_none() {
                self.books.first_at = self.reader.first_recorded_at()?.map(Moment);
            }
            self.books.queued = Rows::of(self.reader.queued()?);
            self.books.parked = Rows::of(self.reader.parked_sum()?);
            if delivers {
                self.last_delivered_at = self.reader.last_delivered_at()?;
            }
            self.counted = counted;
        }
        self.books.counted_at = Moment(now);
        Ok(())
    }
}

/// What lies in directories, looked into now and then.
struct Stocktaker {
    backups: PathBuf,
    seen: Option<(Stock, Instant)>,
}

/// What was seen there.
#[derive(Clone)]
struct Stock {
    /// The last good backup, if there is any, and when it was last found good.
    last_backup: Result<Option<(Name, AcceptedAt)>, String>,
    tape_bytes: Option<u64>,
}

impl Stocktaker {
    fn look(&mut self, now: AcceptedAt, health: &Health) -> Stock {
        let seen = self.seen.take().filter(|(_, at)| at.elapsed() < STOCK_INTERVAL);
        let seen = seen.unwrap_or_else(|| {
            let last_backup = backup::last_good(&self.backups, now);
            let last_backup = last_backup.map_err(|error| error.to_string());
            (Stock { last_backup, tape_bytes: health.tape_bytes() }, clock::monotonic())
        });
        self.seen.insert(seen).0.clone()
    }
}

/// `status.json`, which any local user may read.
struct StatusFile {
    path: PathBuf,
    written: Option<(Snapshot, Instant)>,
    /// A trouble is logged once.
    is_failing: bool,
}

impl StatusFile {
    fn new(path: &Path) -> StatusFile {
        StatusFile { path: path.to_owned(), written: None, is_failing: false }
    }

    /// Writes it when there is news, or when it would look forgotten.
    fn update(&mut self, snapshot: &Snapshot) {
        let public = snapshot.without_sums();
        let is_due = self.written.as_ref().is_none_or(|(written, at)| {
            let age = at.elapsed();
            age >= FILE_AGE_MAX || (age >= INTERVAL && public.is_news_after(written))
        });
        if !is_due {
            return;
        }
        match self.write(&public) {
            Ok(()) => self.is_failing = false,
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                log::warn!(
                    "{} cannot be written: {error}; `tilld status` tells the same to who may ask \
                     the daemon",
                    self.path.display()
                );
            }
            Err(_) => {}
        }
        self.written = Some((public, clock::monotonic()));
    }

    /// Its readers see the old one or the new one, never half of one.
    fn write(&self, public: &Snapshot) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        file.write_all(&serde_json::to_vec_pretty(public)?)?;
        file.write_all(b"\n")?;
        fs::rename(&new, &self.path)
    }

    /// A daemon that ended tells nothing.
    fn remove(&self) {
        // When it cannot be removed, its age tells that nobody keeps it.
        let _ = fs::remove_file(&self.path);
    }
}
