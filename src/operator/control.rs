//! The control socket: what the daemon can be asked for, what it answers, and how a command asks.
//!
//! One line of JSON there, one line back, and the connection ends; what takes long says in lines
//! before that one how far it is. Who may connect, the socket's permissions say; whoever may is
//! believed when it says for whom it acts.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::day_close::DayClose;
use super::snapshot::Snapshot;
use super::{Exit, Failure};
use crate::domain::act::Actor;

/// A longer question is refused: this has room for a thousand references.
pub const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// A longer answer is not read: a snapshot has a few kilobytes, a day's close 150 bytes for each of
/// at most 100,000 channels.
const REPLY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Beyond that, how long a tape of many years may take to be read.
const TAPE_TIME: Duration = Duration::from_secs(600);

/// How long an answer may take that needs no waiting.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it stands.
    Status,
    /// Send at once what waits for a time.
    SyncNow,
    /// Answer when nothing waits any more, or when the time is over.
    SyncWait {
        /// How long, in milliseconds.
        timeout_ms: u64,
    },
    /// Send parked collections again.
    Retry {
        /// Which.
        which: Which,
        /// Who wishes it.
        actor: String,
    },
    /// Send a confirmation to itself, which is kept apart from the books.
    SelfTest,
    /// Write a note beside a collection or a refusal.
    Note {
        /// Which.
        reference: String,
        /// What it says.
        text: String,
        /// Who writes it.
        actor: String,
    },
    /// Close a day's books.
    Close {
        /// The business date, as yyyy-MM-dd.
        day: String,
        /// Whether also when head office has not got all of it.
        with_undelivered: bool,
        /// Who wishes it.
        actor: String,
    },
    /// Make a collection of a kept refusal.
    Accept {
        /// The refusal's number.
        refusal: i64,
        /// Why.
        reason: String,
        /// Who wishes it.
        actor: String,
    },
    /// Let a paid contract be paid once more.
    Reopen {
        /// Which.
        contract: String,
        /// Why.
        reason: String,
        /// Who wishes it.
        actor: String,
    },
    /// Take the configuration as it is on the disk now.
    Reload,
    /// The same with a self-signed certificate that is made for it.
    RenewCertificate,
}

/// Which parked collections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Those with these contracts, receipts or sequence numbers.
    These(Vec<String>),
    /// All.
    AllParked,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    /// How it stands, once what was asked for is done.
    Status {
        /// All of it.
        snapshot: Box<Snapshot>,
    },
    /// The end of waiting.
    Waited {
        /// Whether nothing waits any more.
        is_empty: bool,
        /// How it stands.
        snapshot: Box<Snapshot>,
    },
    /// So much is done; the answer is still to come.
    Underway {
        /// Bytes of the tape that are read, or parked collections that are sent again.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// Parked collections are to be sent again.
    SentAgain {
        /// How many.
        count: usize,
    },
    /// A confirmation of its own was answered 1000.
    Tested {
        /// How long TCP and TLS took, in microseconds.
        connecting_us: u64,
        /// How long the answer took then, in microseconds.
        answering_us: u64,
    },
    /// The note stands.
    Noted {
        /// Beside what, as in `collection:17`.
        about: String,
    },
    /// The day is closed.
    Closed {
        /// How.
        close: Box<DayClose>,
    },
    /// The refusal is a collection.
    Accepted {
        /// That collection's number.
        sequence: i64,
        /// Since when.
        since: Since,
    },
    /// The contract may be paid once more.
    Reopened {
        /// Whether it was reopened before.
        was_open: bool,
    },
    /// The configuration is taken.
    Reloaded {
        /// What is in force now, in a line.
        summary: String,
    },
    /// It was not done.
    Failed {
        /// How the command ends.
        exit: Exit,
        /// Why, and what to do.
        message: String,
    },
}

/// Since when a refusal is a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Since {
    /// Since now.
    Now,
    /// The same cash was confirmed in another way before.
    Confirmed,
    /// It was accepted before.
    Accepted,
}

impl Request {
    /// Reads a line.
    pub fn parse(line: &[u8]) -> Result<Request, Failure> {
        let invalid = |why: &dyn std::fmt::Display| {
            let message = format!("the request is not understood: {why}; is it another version's?");
            Failure::new(Exit::Error, message)
        };
        let request = serde_json::from_slice(line).map_err(|error| invalid(&error))?;
        if let Request::Retry { actor, .. }
        | Request::Note { actor, .. }
        | Request::Close { actor, .. }
        | Request::Accept { actor, .. }
        | Request::Reopen { actor, .. } = &request
        {
            Actor::parse(actor).map_err(|error| invalid(&error))?;
        }
        Ok(request)
    }
}

impl From<Failure> for Reply {
    fn from(Failure { exit, message }: Failure) -> Reply {
        Reply::Failed { exit, message }
    }
}

/// One line of a message.
pub fn line_of(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages hold nothing that JSON cannot");
    line.push(b'\n');
    line
}

/// Asks the daemon. What it could not do is a failure here, too.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply, Failure> {
    ask_telling(socket, request, &mut |_, _| {})
}

/// The same; of what takes long, `progress` is told how much is done, and of how much.
pub fn ask_telling(
    socket: &Path,
    request: &Request,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Reply, Failure> {
    let wait = match request {
        Request::SyncWait { timeout_ms } => Duration::from_millis(*timeout_ms),
        Request::Close { .. } => TAPE_TIME,
        _ => Duration::ZERO,
    };
    let stream = reach(socket)?;
    let silent = |error: io::Error| {
        let message = format!("the daemon does not answer on {}: {error}", socket.display());
        Failure::new(Exit::Error, message)
    };
    let mut answers = exchange(stream, request, wait + PATIENCE).map_err(silent)?;
    loop {
        let answered = line(&mut answers).map_err(silent)?;
        match serde_json::from_slice(&answered) {
            Ok(Reply::Underway { done, total }) => progress(done, total),
            Ok(Reply::Failed { exit, message }) => return Err(Failure::new(exit, message)),
            Ok(reply) => return Ok(reply),
            Err(error) => {
                let message = format!(
                    "the daemon's answer is not understood: {error}; is it another version's? \
                     `systemctl restart tilld` starts this one"
                );
                return Err(Failure::new(Exit::Error, message));
            }
        }
    }
}

/// The daemon has answered, but not what was asked.
pub fn unexpected() -> Failure {
    let message = "the daemon answered something else; is it another version's?";
    Failure::new(Exit::Error, message)
}

/// For whom this command acts: the user behind sudo, else the user, as the environment claims.
pub fn claimed_actor() -> String {
    let claimed = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| {
        let name: String = std::env::var(name).ok()?.chars().take(Actor::CHARS_MAX).collect();
        Actor::parse(&name).is_ok().then_some(name)
    });
    let uid = || format!("uid {}", rustix::process::getuid().as_raw());
    claimed.into_iter().next().unwrap_or_else(uid)
}

/// Connects to the daemon, if it runs.
pub fn reach(socket: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(socket).map_err(|error| unreachable(socket, &error))
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::NotRunning,
            format!(
                "the daemon is not running: nobody answers on {socket}; `systemctl start tilld` \
                 starts it, and `journalctl -u tilld` says why it ended"
            ),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Permission,
            format!("{socket}: {error}; use sudo, or a user in the group that owns it"),
        ),
        _ => Failure::new(Exit::Error, format!("{socket}: {error}")),
    }
}

/// Asks; gives what is answered.
fn exchange(
    mut stream: UnixStream,
    request: &Request,
    patience: Duration,
) -> io::Result<BufReader<UnixStream>> {
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&line_of(request))?;
    Ok(BufReader::new(stream))
}

fn line(answers: &mut BufReader<UnixStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    answers.take(REPLY_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::other("it ended the connection; is it stopping?"));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::operator::snapshot::tests::calm;

    #[test]
    fn every_message_is_one_line_and_comes_back_as_it_was() {
        let actor = "ana".to_owned();
        let these = Which::These(vec!["SKY0112345678".to_owned(), "17".to_owned()]);
        for request in [
            Request::Status,
            Request::SyncNow,
            Request::SyncWait { timeout_ms: 60_000 },
            Request::Retry { which: these, actor: actor.clone() },
            Request::Retry { which: Which::AllParked, actor },
            Request::SelfTest,
            Request::Note {
                reference: "refusal:7".to_owned(),
                text: "payer \"came\" back".to_owned(),
                actor: "ana".to_owned(),
            },
            Request::Close {
                day: "2026-11-22".to_owned(),
                with_undelivered: true,
                actor: "ana".to_owned(),
            },
            Request::Accept {
                refusal: 7,
                reason: "cash is here".to_owned(),
                actor: "ana".to_owned(),
            },
            Request::Reopen {
                contract: "SKY0112345678".to_owned(),
                reason: "paid back".to_owned(),
                actor: "ana".to_owned(),
            },
            Request::Reload,
            Request::RenewCertificate,
        ] {
            let line = line_of(&request);
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
            assert_eq!(Request::parse(&line).unwrap(), request);
        }
        let failure = Failure::new(Exit::NotFound, "two\nlines");
        let snapshot = Box::new(calm());
        for reply in [
            Reply::Status { snapshot: snapshot.clone() },
            Reply::Waited { is_empty: false, snapshot },
            Reply::Underway { done: 7, total: 12 },
            Reply::SentAgain { count: 3 },
            Reply::Tested { connecting_us: 900, answering_us: 1200 },
            Reply::Noted { about: "refusal:7".to_owned() },
            Reply::Reopened { was_open: true },
            Reply::Accepted { sequence: 9, since: Since::Confirmed },
            Reply::Reloaded { summary: "1 caller".to_owned() },
            failure.into(),
        ] {
            let line = line_of(&reply);
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
            assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), reply);
        }
    }

    #[test]
    fn how_far_it_is_is_told_and_then_what_came_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tilld.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let underway = |done| Reply::Underway { done, total: 12 };
            for reply in [underway(7), underway(12), Reply::SentAgain { count: 3 }] {
                stream.write_all(&line_of(&reply)).unwrap();
            }
        });
        let mut told = Vec::new();
        let reply = ask_telling(&path, &Request::Status, &mut |done, total| {
            told.push((done, total));
        });
        assert_eq!(reply.unwrap(), Reply::SentAgain { count: 3 });
        assert_eq!(told, [(7, 12), (12, 12)]);
        answering.join().unwrap();
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        let too_long = "x".repeat(65);
        for line in [
            "",
            "status",
            "{}",
            "[1]",
            r#"{"do":"destroy"}"#,
            r#"{"do":"status"} {"do":"status"}"#,
            r#"{"do":"sync-wait"}"#,
            r#"{"do":"sync-wait","timeout_ms":-1}"#,
            r#"{"do":"retry","which":"all-parked"}"#,
            r#"{"do":"retry","which":"all-parked","actor":""}"#,
            "{\"do\":\"retry\",\"which\":\"all-parked\",\"actor\":\"a\\u001bb\"}",
            r#"{"do":"close","day":"2026-11-22","with_undelivered":false,"actor":""}"#,
            r#"{"do":"reopen","contract":"SKY0112345678","reason":"x","actor":""}"#,
            r#"{"do":"accept","refusal":7,"reason":"x","actor":""}"#,
            r#"{"do":"note","reference":"17","text":"x","actor":""}"#,
            &format!(r#"{{"do":"retry","which":"all-parked","actor":"{too_long}"}}"#),
        ] {
            let failure = Request::parse(line.as_bytes()).expect_err(line);
            assert!(failure.message.contains("not understood"), "{line}: {failure}");
        }
    }
}
