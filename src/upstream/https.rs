//! Head office over HTTPS: one confirmation, one POST, on connections that are kept alive.
//!
//! It follows no redirect and never sends anything twice by itself: whether to try again is for
//! whoever asked. It must not know what is stored.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio::time;
use zeroize::Zeroizing;

use super::connect::{Gate, in_words, is_turned_away};
use super::{Outgoing, Tried, Upstream, http_date, in_one_line, judge, retry_after};
use crate::domain::Invalid;
use crate::domain::collection::{BranchName, UserName};
use crate::domain::delivery::{Epoch, Holdings, Place, UnknownCause, Verdict};
use crate::skypay::answer::Answer;
use crate::skypay::cipher::Password;
use crate::skypay::outgoing;
use crate::system::clock;

/// The longest answer that is read, in bytes: a reply has a few hundred.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// An idle connection is used again within this time. Servers close theirs after 30 s and more, and
/// what is sent while they do is lost without an answer.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);

const HTTPS_PORT: u16 = 443;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const BRANCH: HeaderName = HeaderName::from_static("tilld-branch");
const SEQUENCE: HeaderName = HeaderName::from_static("tilld-sequence");
const TAPE: HeaderName = HeaderName::from_static("tilld-tape");
const HAVE: HeaderName = HeaderName::from_static("tilld-have");
const HELD: HeaderName = HeaderName::from_static("tilld-held");

/// Where confirmations are posted, and as whom.
pub struct Settings {
    /// An `https` address.
    pub url: Uri,
    /// Our own name.
    pub branch: BranchName,
    /// Sent as `userName`.
    pub user_name: UserName,
    /// Sent as `authentication`.
    pub key: Zeroizing<String>,
    /// What bodies are encrypted with. None: they are plain JSON.
    pub password: Option<Password>,
    /// Whom we trust, and what we present.
    pub tls: Arc<ClientConfig>,
    /// How long connecting may take: name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long a whole try may take.
    pub timeout: Duration,
    /// Tries at a time, and thereby how many connections are kept.
    pub concurrency: usize,
}

/// Head office over HTTPS.
pub struct Https {
    gate: Gate,
    /// Path and query.
    target: Uri,
    /// What is the same in every request.
    headers: HeaderMap,
    user_name: UserName,
    key: Zeroizing<String>,
    password: Option<Password>,
    timeout: Duration,
    idle: Idle,
}

/// What was heard on a visit.
pub struct Heard {
    /// What the answer would mean for a confirmation: a refusal, when our key is taken.
    pub verdict: Verdict,
    /// The protocol's code, if one came.
    pub code: Option<i32>,
    /// The answer in words.
    pub words: String,
    /// Head office's clock, in whole seconds, if it told it.
    pub date: Option<DateTime<Utc>>,
}

impl Https {
    /// Connects to nobody yet.
    pub fn new(settings: Settings) -> Result<Https, Invalid> {
        let invalid = Invalid { expected: "a URL with the host's name or address" };
        let Settings { url, branch, user_name, key, password, tls, .. } = settings;
        let host = url.host().ok_or(invalid)?;
        let port = url.port_u16().unwrap_or(HTTPS_PORT);
        // As it is written, an IPv6 address in its brackets.
        let authority = if port == HTTPS_PORT { host.to_owned() } else { format!("{host}:{port}") };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| invalid)?;
        let target = url.path_and_query().map_or("/".to_owned(), ToString::to_string);
        let content_type = if password.is_some() { "text/plain" } else { "application/json" };
        let user_agent = concat!("tilld/", env!("CARGO_PKG_VERSION"));
        Ok(Https {
            target: target.parse().map_err(|_| invalid)?,
            headers: HeaderMap::from_iter([
                (HOST, HeaderValue::try_from(authority).map_err(|_| invalid)?),
                (USER_AGENT, HeaderValue::from_static(user_agent)),
                (CONTENT_TYPE, HeaderValue::from_static(content_type)),
                (BRANCH, value(&branch.as_str())),
            ]),
            gate: Gate { host, port, name, tls, time_max: settings.connect_timeout },
            user_name,
            key,
            password,
            timeout: settings.timeout,
            idle: Idle { connections: Mutex::default(), count_max: settings.concurrency },
        })
    }

    /// Where head office's name leads at this moment, or in words why nowhere.
    pub async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        match time::timeout(self.gate.time_max, self.gate.addresses()).await {
            Ok(found) => found,
            Err(_) => {
                Err(format!("no answer from the name server within {:?}", self.gate.time_max))
            }
        }
    }

    /// Shows our key without bringing anything: what is asked for names no contract, so nobody can
    /// take it for a collection, and whoever takes the key answers 2002.
    pub async fn visit(&self) -> Result<Heard, String> {
        let request = self.post(outgoing::empty_body(&self.user_name, &self.key));
        let exchange = async { self.exchange(request, &mut Progress::default()).await };
        let (head, body) = time::timeout(self.timeout, exchange)
            .await
            .map_err(|_| format!("no answer within {:?}", self.timeout))??;
        let date = head.headers.get(DATE).and_then(|value| value.to_str().ok());
        let answer = Answer::read(&body, self.password.as_ref());
        let (verdict, words) = judge(head.status.as_u16(), None, &answer);
        let words = in_one_line(&words.replace(self.key.as_str(), "(our key)"));
        let code = answer.ok().map(|answer| answer.code);
        Ok(Heard { verdict, code, words, date: date.and_then(http_date) })
    }

    fn request(&self, confirmation: &Outgoing) -> Request<Full<Bytes>> {
        let Outgoing { sequence, collection, line } = confirmation;
        let mut request = self.post(outgoing::body(collection, &self.user_name, &self.key));
        let headers = request.headers_mut();
        headers.insert(IDEMPOTENCY_KEY, value(&outgoing::idempotency_key(collection)));
        headers.insert(SEQUENCE, value(sequence));
        if let Some(line) = line {
            headers.insert(TAPE, value(line));
        }
        request
    }

    fn post(&self, mut body: String) -> Request<Full<Bytes>> {
        if let Some(password) = &self.password {
            body = password.seal(&body);
        }
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        request.headers_mut().clone_from(&self.headers);
        request
    }

    /// Sends the request, and reads the answer to its end, or says in words what went wrong.
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        progress: &mut Progress,
    ) -> Result<(Parts, Bytes), String> {
        let (answer, connection) = self.send(request, progress).await?;
        let (head, body) = answer.into_parts();
        progress.http = Some(head.status.as_u16());
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                format!("an answer longer than {} KiB", ANSWER_BYTES_MAX / 1024)
            } else {
                format!("the answer broke off: {}", in_words(&*error))
            }
        })?;
        // One whose answer said that it ends is closed by hyper, which shows when it is taken.
        self.idle.keep(connection, clock::monotonic());
        Ok((head, body.to_bytes()))
    }

    /// Sends the request on an idle connection, or on a new one. An idle one that turns out to be
    /// closed before anything was sent gives the request back, so nothing is ever sent twice.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        progress: &mut Progress,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), String> {
        while let Some(mut connection) = self.idle.take(clock::monotonic()) {
            if connection.ready().await.is_err() {
                continue;
            }
            progress.sent = true;
            let mut failure = match connection.try_send_request(request).await {
                Ok(answer) => return Ok((answer, connection)),
                Err(failure) => failure,
            };
            let Some(unsent) = failure.take_message() else {
                return Err(no_answer(&failure.into_error()));
            };
            progress.sent = false;
            request = unsent;
        }
        let (mut connection, ending) = self.connect().await?;
        progress.sent = true;
        match connection.try_send_request(request).await {
            Ok(answer) => Ok((answer, connection)),
            Err(mut failure) => {
                let is_out = failure.take_message().is_none();
                let mut error = failure.into_error();
                // It ended first, and only it knows why: head office wants a certificate, say.
                if error.is_canceled()
                    && let Ok(Err(why)) = ending.await
                {
                    error = why;
                }
                progress.sent = is_out && !is_turned_away(&error);
                Err(no_answer(&error))
            }
        }
    }

    /// A new connection, and what it comes to in the end.
    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, Ending), String> {
        let stream = self.gate.connect().await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| in_words(&error))?;
        // It ends with its sender.
        Ok((sender, tokio::spawn(connection)))
    }

    fn judged(&self, epoch: Epoch, head: &Parts, body: &[u8]) -> Tried {
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name| {
            let place = Place::parse(text(name)?).ok().filter(|place| place.epoch == epoch);
            place.map(|place| place.sequence)
        };
        let asked = text(RETRY_AFTER);
        let wait = asked.and_then(|asked| retry_after(asked, text(DATE), clock::now()));
        let reply = Answer::read(body, self.password.as_ref());
        let http = head.status.as_u16();
        let (verdict, reason) = judge(http, wait, &reply);
        Tried {
            verdict,
            http: Some(http),
            code: reply.ok().map(|answer| answer.code),
            // Whoever finds our key wrong may repeat it.
            reason: reason.replace(self.key.as_str(), "(our key)"),
            took: Duration::ZERO,
            held: number(HAVE).map(|up_to| Holdings { up_to, count: number(HELD).unwrap_or(0) }),
        }
    }
}

impl Upstream for Https {
    async fn deliver(&self, outgoing: &Outgoing) -> Tried {
        let began = clock::monotonic();
        let mut progress = Progress::default();
        let exchange = self.exchange(self.request(outgoing), &mut progress);
        let ended = time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            // The line is silent, so the idle connections are dead most likely, too: each of them
            // would cost a whole time-out before the first new one tells that the line is down.
            self.idle.clear();
            Err(format!("no answer within {:?}", self.timeout))
        });
        let mut tried = match ended {
            Ok((head, body)) => self.judged(outgoing.sequence.epoch, &head, &body),
            Err(reason) => progress.failed(reason),
        };
        tried.reason = in_one_line(&tried.reason);
        tried.took = clock::monotonic().saturating_duration_since(began);
        tried
    }
}

type Ending = JoinHandle<hyper::Result<()>>;

/// How far a try got.
#[derive(Default)]
struct Progress {
    /// Whether anything of the request was sent, or could have been.
    sent: bool,
    http: Option<u16>,
}

impl Progress {
    fn failed(&self, reason: String) -> Tried {
        let cause = if self.sent { UnknownCause::NoAnswer } else { UnknownCause::NoConnection };
        Tried {
            verdict: Verdict::Unknown { cause, retry_after: None },
            http: self.http,
            code: None,
            reason,
            took: Duration::ZERO,
            held: None,
        }
    }
}

/// The connections that wait for the next request, the longest idle first.
struct Idle {
    connections: Mutex<VecDeque<(Instant, SendRequest<Full<Bytes>>)>>,
    count_max: usize,
}

impl Idle {
    /// The one that was used last, unless all have been idle too long.
    fn take(&self, now: Instant) -> Option<SendRequest<Full<Bytes>>> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        drop_stale(&mut connections, now);
        connections.pop_back().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: SendRequest<Full<Bytes>>, now: Instant) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        drop_stale(&mut connections, now);
        if connections.len() < self.count_max {
            connections.push_back((now, connection));
        }
    }

    fn clear(&self) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn drop_stale<T>(connections: &mut VecDeque<(Instant, T)>, now: Instant) {
    let is_stale = |since: Instant| now.saturating_duration_since(since) > IDLE_TIME_MAX;
    while connections.front().is_some_and(|(since, _)| is_stale(*since)) {
        connections.pop_front();
    }
}

fn no_answer(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() {
        "the connection was closed before an answer came".to_owned()
    } else {
        in_words(error)
    }
}

/// The value of a header, for what has only letters, digits, dots, dashes and underscores.
fn value(text: &impl ToString) -> HeaderValue {
    HeaderValue::try_from(text.to_string()).expect("such a text fits into a header")
}

#[cfg(test)]
mod tests;
