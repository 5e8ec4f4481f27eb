//! The daemon's end of the control socket: within bounds, one question and one answer a connection,
//! and before the answer how far it is.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest, Ready,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::closing;
use super::reload::{InForce, Shown};
use super::snapshots::Asker;
use super::stopped;
use super::till::Till;
use crate::domain::Invalid;
use crate::domain::act::{About, Actor, Words};
use crate::domain::contract::{ContractNumber, Mode};
use crate::domain::decision::Sequence;
use crate::domain::provenance::{Confirmation, Provenance};
use crate::domain::time::AcceptedAt;
use crate::operator::control::{REQUEST_BYTES_MAX, Reply, Request, Since, Which, line_of};
use crate::operator::snapshot::Snapshot;
use crate::operator::{Exit, Failure};
use crate::relay;
use crate::skypay::answer::Answer;
use crate::skypay::request::{Terms, kept_confirmation};
use crate::store::reader::Reader;
use crate::store::{Accept, Accepted, Refused, Reopened, Store, Unavailable, Waiting};
use crate::system::clock;

/// People and their scripts, each with one question.
const CONNECTIONS_MAX: usize = 16;

/// From connecting to a complete question, and for taking the answer: both are this machine's own.
const TALK_TIME: Duration = Duration::from_secs(5);

/// What is being answered when the daemon stops has this long.
const END_TIME: Duration = Duration::from_secs(5);

/// How often it looks whether something still waits: cheap, and no person notices.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// So many parked collections are sent again at a time: tills get their turn in between.
const AGAIN_ROWS: usize = 1000;

/// Nothing is accepted for so long when the machine is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A till would not wait longer for its answer (README, the caller's duties).
const SELF_TEST_TIME: Duration = Duration::from_secs(15);

/// The code of what was recorded.
const SUCCESS: i32 = 1000;

/// The group may ask; others may not even connect.
const SOCKET_MODE: u32 = 0o660;

/// How much is done of what takes long, and of how much.
pub type Progress = watch::Sender<(u64, u64)>;

/// What questions are answered from.
#[derive(Clone)]
pub struct Control {
    /// For what is to be written.
    pub store: Store,
    /// What is configured, to be taken anew, and what sends because of it.
    pub in_force: Arc<InForce>,
    /// How it stands.
    pub snapshots: Asker,
    /// The books.
    pub state_dir: PathBuf,
}

/// Makes the socket. What a dead daemon left is replaced; one that answers is somebody else's.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("something else is there"));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::other("another daemon answers there")),
            Err(_) => fs::remove_file(path)?,
        },
    }
    let listener = UnixListener::bind(path)?;
    // Until here the umask has kept everybody else out.
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Answers until told to stop, and then removes the socket.
pub async fn serve(
    listener: UnixListener,
    path: PathBuf,
    control: Control,
    mut stop: watch::Receiver<bool>,
) {
    let control = Arc::new(control);
    let mut talks = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = talks.join_next() => {}
            accepted = listener.accept(), if talks.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    talks.spawn(talk(stream, Arc::clone(&control), stop.clone()));
                }
                Err(error) => {
                    log::debug!("the control socket accepts nothing: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let _ = fs::remove_file(path);
    let _ = timeout(END_TIME, async { while talks.join_next().await.is_some() {} }).await;
    talks.shutdown().await;
}

/// One question and its answer.
async fn talk(mut stream: UnixStream, control: Arc<Control>, stop: watch::Receiver<bool>) {
    let request = match read_request(&mut stream).await {
        Ok(Some(request)) => Ok(request),
        Ok(None) => return,
        Err(failure) => Err(failure),
    };
    let answered = match request {
        Ok(request) => control.answer(request, &mut stream, stop).await,
        Err(failure) => Err(failure),
    };
    let line = line_of(&answered.unwrap_or_else(Reply::from));
    // Who does not take the answer does not want it.
    let _ = timeout(TALK_TIME, stream.write_all(&line)).await;
}

/// Does what takes long, and says meanwhile how far it is.
async fn telling(
    stream: &mut UnixStream,
    mut told: watch::Receiver<(u64, u64)>,
    doing: impl Future<Output = Result<Reply, Failure>>,
) -> Result<Reply, Failure> {
    tokio::pin!(doing);
    loop {
        tokio::select! {
            biased;
            done = &mut doing => return done,
            Ok(()) = told.changed() => {
                let (done, total) = *told.borrow_and_update();
                let line = line_of(&Reply::Underway { done, total });
                // It is done whether somebody watches or not.
                let _ = timeout(TALK_TIME, stream.write_all(&line)).await;
            }
        }
    }
}

/// `None` when nothing was asked.
async fn read_request(stream: &mut UnixStream) -> Result<Option<Request>, Failure> {
    let mut line = Vec::new();
    let mut reading = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    let read = timeout(TALK_TIME, reading.read_until(b'\n', &mut line)).await;
    match read {
        Ok(Ok(0) | Err(_)) => Ok(None),
        Ok(Ok(_)) if line.ends_with(b"\n") => Request::parse(&line).map(Some),
        Ok(Ok(_)) => {
            let message = format!("the request is no line of at most {REQUEST_BYTES_MAX} bytes");
            Err(Failure::new(Exit::Error, message))
        }
        Err(_) => Err(Failure::new(Exit::Error, "no complete request has come within 5 s")),
    }
}

impl Control {
    async fn answer(
        &self,
        request: Request,
        stream: &mut UnixStream,
        stop: watch::Receiver<bool>,
    ) -> Result<Reply, Failure> {
        let Request::SyncWait { timeout_ms } = request else {
            let (progress, told) = watch::channel((0, 0));
            return telling(stream, told, self.carry_out(request, progress)).await;
        };
        self.relay(&self.snapshot().await?)?;
        let time = Duration::from_millis(timeout_ms);
        let is_empty = self.wait(time, stream, stop).await?;
        let snapshot = Box::new(self.snapshot().await?);
        Ok(Reply::Waited { is_empty, snapshot })
    }

    /// Does what is asked for, but for waiting: that is over at once.
    pub async fn carry_out(&self, request: Request, progress: Progress) -> Result<Reply, Failure> {
        match request {
            Request::Status | Request::SyncWait { .. } => {}
            Request::SyncNow => {
                let snapshot = self.snapshot().await?;
                self.relay(&snapshot)?.hurry();
                return Ok(Reply::Status { snapshot: Box::new(snapshot) });
            }
            Request::Retry { which, actor } => return self.retry(which, &actor, progress).await,
            Request::SelfTest => return self.test().await,
            Request::Note { reference, text, actor } => {
                return self.note(reference, &text, &actor).await;
            }
            Request::Close { day, with_undelivered, actor } => {
                return closing::close(self, (&day, &actor), with_undelivered, progress).await;
            }
            Request::Accept { refusal, reason, actor } => {
                return self.accept(refusal, &reason, &actor).await;
            }
            Request::Reopen { contract, reason, actor } => {
                return self.reopen(&contract, &reason, &actor).await;
            }
            Request::Reload => {
                let summary = self.in_force.reload().await?;
                return Ok(Reply::Reloaded { summary });
            }
            Request::RenewCertificate => {
                let summary = self.in_force.renew_certificate().await?;
                return Ok(Reply::Reloaded { summary });
            }
        }
        Ok(Reply::Status { snapshot: Box::new(self.snapshot().await?) })
    }

    async fn snapshot(&self) -> Result<Snapshot, Failure> {
        self.snapshots.ask().await.ok_or_else(stopping)
    }

    fn relay(&self, snapshot: &Snapshot) -> Result<relay::Handle, Failure> {
        self.in_force.relay().ok_or_else(|| {
            let message = if snapshot.is_sandbox() {
                "this is a sandbox: nothing is ever sent"
            } else {
                "no [upstream] is configured: collections are kept here, and nothing is sent"
            };
            Failure::new(Exit::Configuration, message)
        })
    }

    /// Whether nothing waits any more before the time is over.
    async fn wait(
        &self,
        time: Duration,
        stream: &UnixStream,
        mut stop: watch::Receiver<bool>,
    ) -> Result<bool, Failure> {
        let reader = Reader::open(&self.state_dir)?;
        let began = clock::monotonic();
        while reader.has_queued()? {
            let left = time.saturating_sub(began.elapsed());
            if left.is_zero() || is_gone(stream).await {
                return Ok(false);
            }
            tokio::select! {
                () = stopped(&mut stop) => return Err(stopping()),
                () = sleep(left.min(LOOK_INTERVAL)) => {}
            }
        }
        Ok(true)
    }

    /// Confirms a collection that is none, as a till would.
    async fn test(&self) -> Result<Reply, Failure> {
        let Shown { config, certificate, .. } = self.in_force.shown().borrow().clone();
        if config.endpoint.tls.client_ca.is_some() {
            let message = "callers must present a certificate here (client_ca), and the daemon has \
                           none of them; let a till confirm something";
            return Err(Failure::new(Exit::Configuration, message));
        }
        let till = Till::new(self.snapshot().await?.endpoint, &certificate.fingerprint);
        let body = self.in_force.endpoint().self_test();
        let answered = timeout(SELF_TEST_TIME, till.post(body.to_string())).await;
        let failed = |why: String| Failure::new(Exit::Error, format!("a till would fail: {why}"));
        let answered = answered
            .map_err(|_| failed(format!("no answer within {SELF_TEST_TIME:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        let code = Answer::read(answered.body.as_bytes(), None).map(|answer| answer.code);
        if code != Ok(SUCCESS) {
            return Err(failed(format!("it is answered {}", answered.body)));
        }
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (connecting_us, answering_us) = (us(answered.connecting), us(answered.answering));
        log::info!("self-test: answered 1000 in {answering_us} us");
        Ok(Reply::Tested { connecting_us, answering_us })
    }

    async fn retry(&self, which: Which, actor: &str, progress: Progress) -> Result<Reply, Failure> {
        let actor = in_form(Actor::parse(actor))?;
        let meant = self.read(move |reader| match which {
            Which::AllParked => Ok(reader.all_parked()?),
            Which::These(references) => parked(reader, &references),
        });
        let (meant, mut count) = (meant.await?, 0);
        let total = meant.len() as u64;
        for these in meant.chunks(AGAIN_ROWS) {
            let again = done(self.store.send_again(these.to_vec(), actor.clone())).await;
            count += again.map_err(|Failure { exit, message }| {
                Failure::new(exit, format!("{message}; before that {count} were sent again"))
            })?;
            progress.send_replace((count as u64, total));
        }
        if let Some(relay) = self.in_force.relay() {
            relay.hurry();
        }
        Ok(Reply::SentAgain { count })
    }

    async fn note(&self, reference: String, text: &str, actor: &str) -> Result<Reply, Failure> {
        let (words, actor) = (in_form(Words::parse(text))?, in_form(Actor::parse(actor))?);
        let about = self.read(move |reader| meant(reader, &reference)).await?;
        done(self.store.note(about, words, actor)).await?;
        Ok(Reply::Noted { about: about.to_string() })
    }

    async fn accept(&self, refusal: i64, reason: &str, actor: &str) -> Result<Reply, Failure> {
        let (reason, actor) = (in_form(Words::parse(reason))?, in_form(Actor::parse(actor))?);
        let (confirmation, provenance, came_at) =
            self.read(move |reader| kept(reader, refusal)).await?;
        let accept = Accept { refusal, confirmation, provenance, came_at, reason, actor };
        let (sequence, since) = match done(self.store.accept(accept)).await? {
            Accepted::Now(sequence) => (sequence, Since::Now),
            Accepted::Stands(sequence) => (sequence, Since::Confirmed),
            Accepted::Before(sequence) => (sequence, Since::Accepted),
        };
        Ok(Reply::Accepted { sequence, since })
    }

    async fn reopen(&self, contract: &str, reason: &str, actor: &str) -> Result<Reply, Failure> {
        let (reason, actor) = (in_form(Words::parse(reason))?, in_form(Actor::parse(actor))?);
        let number = in_form(ContractNumber::parse(contract, Mode::Sandbox))?;
        match done(self.store.reopen(number, reason, actor)).await? {
            Reopened::Now => Ok(Reply::Reopened { was_open: false }),
            Reopened::Before => Ok(Reply::Reopened { was_open: true }),
            Reopened::Unknown => {
                let message = format!("nothing was ever collected for {contract}, so it is open");
                Err(Failure::new(Exit::NotFound, message))
            }
        }
    }

    /// Looks into the books where that holds up nobody.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let state_dir = self.state_dir.clone();
        let looked = spawn_blocking(move || look(&Reader::open(&state_dir)?));
        looked.await.map_err(|_| stopping())?
    }
}

/// What the writer answers.
pub(super) async fn done<T>(queued: Result<Waiting<T>, Unavailable>) -> Result<T, Failure> {
    let outcome = queued.map_err(unavailable)?.await.unwrap_or(Err(Unavailable::Failed));
    outcome.map_err(unavailable)
}

/// What a command has checked before it asked.
pub(super) fn in_form<T>(parsed: Result<T, Invalid>) -> Result<T, Failure> {
    parsed.map_err(|invalid| Failure::new(Exit::BadData, invalid.to_string()))
}

/// What a refusal confirms, who sent it, and when it came first.
fn kept(reader: &Reader, refusal: i64) -> Result<(Confirmation, Provenance, AcceptedAt), Failure> {
    let Some((kept, _)) = reader.refusal(refusal)? else {
        let message =
            format!("no kept refusal has the number {refusal}; `tilld refusals` lists them");
        return Err(Failure::new(Exit::NotFound, message));
    };
    let Refused { provenance, text, flags, .. } = kept.refused;
    // Whoever accepts it knows better than the list of prefixes whether that cash was taken.
    let mode = if provenance.branch.is_some() { Mode::Live } else { reader.mode()? };
    let terms = Terms { mode, prefixes: &[] };
    let mut confirmation = kept_confirmation(&text, &terms).map_err(|lacking| {
        let message = format!(
            "refusal:{refusal} cannot be accepted, because what came is no whole confirmation: {}; \
             have the till send it correctly under the same receipt, or write a note beside it",
            lacking.description
        );
        Failure::new(Exit::BadData, message)
    })?;
    // What was unusual then is seen no more: the text was cut, the other till's day is over.
    flags.iter().for_each(|flag| confirmation.flags.raise(flag));
    Ok((confirmation, provenance, kept.first_at))
}

/// The one thing that a reference means.
fn meant(reader: &Reader, reference: &str) -> Result<About, Failure> {
    let message = match reader.meant(reference)?.as_slice() {
        [about] => return Ok(*about),
        [] => format!(
            "no collection has the contract, receipt or number {reference}, and no refusal is \
             named so; `tilld list` and `tilld refusals` tell the numbers, as in collection:17 \
             and refusal:7"
        ),
        several => {
            let named: Vec<String> = several.iter().map(About::to_string).collect();
            format!("{reference} means several: name one of {}", named.join(", "))
        }
    };
    Err(Failure::new(Exit::NotFound, message))
}

/// The parked collections that are meant, when each reference means one at least.
fn parked(reader: &Reader, references: &[String]) -> Result<Vec<Sequence>, Failure> {
    let mut meant = Vec::new();
    let mut wrong = Vec::new();
    for reference in references {
        let found = reader.parked_named(reference)?;
        if found.is_empty() {
            wrong.push(match reader.stands(reference)? {
                None => format!(
                    "no collection has the contract or number {reference}, and none with that \
                     receipt is parked"
                ),
                Some(standing) => {
                    let stands = standing.as_str().unwrap_or("not meant for head office");
                    format!("{reference} is not parked: it is {stands}")
                }
            });
        }
        meant.extend(found);
    }
    if wrong.is_empty() {
        return Ok(meant);
    }
    let message = format!("{}; nothing is sent again", wrong.join("; "));
    Err(Failure::new(Exit::NotFound, message))
}

/// Whether the other end has closed the connection, and not only its writing half.
async fn is_gone(stream: &UnixStream) -> bool {
    let ready = stream.ready(Interest::WRITABLE).await;
    ready.is_ok_and(Ready::is_write_closed)
}

fn stopping() -> Failure {
    Failure::new(Exit::NotRunning, "the daemon is stopping")
}

fn unavailable(unavailable: Unavailable) -> Failure {
    let message = match unavailable {
        Unavailable::QueueFull => "too much waits to be written: try again",
        Unavailable::NotWritable => "nothing can be written now: `tilld status` says why",
        Unavailable::Damaged => {
            "a row or a page of the database that it needs is damaged, so nothing was done: `tilld \
             verify` tells more"
        }
        Unavailable::Failed => "the storage failed; whether it was done is unknown: see the log",
    };
    Failure::new(Exit::Error, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_hangs_up_is_gone_and_who_only_stops_sending_is_not() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(!is_gone(&ours).await);
        theirs.shutdown().await.unwrap();
        ours.readable().await.unwrap();
        assert!(!is_gone(&ours).await, "it may still listen");
        drop(theirs);
        while !is_gone(&ours).await {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_dead_daemon_s_socket_is_replaced_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tilld.sock");
        let first = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let refused = bind(&path).expect_err("the first one answers");
        assert!(refused.to_string().contains("another daemon"), "{refused}");
        drop(first);
        assert!(path.exists(), "as after a SIGKILL");
        drop(bind(&path).expect("nobody answers"));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        bind(&path).expect_err("it is no socket");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}
