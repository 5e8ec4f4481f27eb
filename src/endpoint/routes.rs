//! One request to one response: path, method and size, then form, caller, fields, store.
//!
//! The order of checks is the protocol's: size, form, decrypt, JSON, caller and key, action,
//! fields, identity, paid. Knows no SQL and no sockets.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER,
};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::callers::{Callers, Circumstances};
use super::self_test::SelfTest;
use super::strayed::StrayedCallers;
use super::throttle::Throttle;
use crate::domain::collection::Collection;
use crate::domain::contract::{ContractPolicy, Mode, Prefix};
use crate::domain::decision::Rule;
use crate::domain::delivery::{Epoch, Holdings, Place, TapeLine};
use crate::domain::flags::Flags;
use crate::domain::provenance::{Confirmation, Digest, Form, Origin, Provenance};
use crate::domain::time::AcceptedAt;
use crate::net::listener::{self, Peer, Turn};
use crate::skypay::cipher::Password;
use crate::skypay::reply::{Code, CodeForm, Reply};
use crate::skypay::request::{Request, Terms, form_of};
use crate::store::{Recorded, Refused, Store, Unavailable};
use crate::system::event::Event;
use crate::system::{clock, figures, strangers};

/// The largest body taken, in bytes: a confirmation has a few hundred.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// So much of a body that is too large is read and thrown away, so that its sender reads our
/// answer instead of a reset.
const DRAIN_BYTES_MAX: usize = 256 * 1024;

/// A body must be complete within this time; a till sends it in one piece.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// The headers by which a relaying `tilld` names its branch, and where it has what it relays.
const BRANCH_HEADER: &str = "tilld-branch";
const SEQUENCE_HEADER: &str = "tilld-sequence";
const TAPE_HEADER: &str = "tilld-tape";

/// The headers by which it is told up to where everything of its has come, and how many in all.
const HAVE_HEADER: HeaderName = HeaderName::from_static("tilld-have");
const HELD_HEADER: HeaderName = HeaderName::from_static("tilld-held");

/// By which rules this endpoint judges what is sent to it. A request is judged by the same ones
/// from its first check to its answer.
pub struct Rules {
    /// Who may call.
    pub callers: Callers,
    /// Live or sandbox.
    pub mode: Mode,
    /// How often a contract may be collected.
    pub contracts: ContractPolicy,
    /// The billers collected for; empty means every one.
    pub prefixes: Vec<Prefix>,
    /// How `responseCode` is written.
    pub code_form: CodeForm,
}

/// Answers `collectionCollect`.
pub struct Endpoint {
    rules: ArcSwap<Rules>,
    store: Store,
    throttle: Throttle,
    strayed: Arc<StrayedCallers>,
    self_test: SelfTest,
}

impl Rules {
    /// What a caller's values are held against. What a branch relays was already answered 1000.
    fn terms(&self, provenance: &Provenance) -> Terms<'_> {
        match provenance.branch {
            Some(_) => Terms { mode: Mode::Live, prefixes: &[] },
            None => Terms { mode: self.mode, prefixes: &self.prefixes },
        }
    }
}

/// A reply on its way out.
struct Answer<'a> {
    reply: Reply,
    /// The password that opened the request.
    password: Option<&'a Password>,
    status: StatusCode,
    held: Option<(Epoch, Holdings)>,
}

/// What became of a request that its caller may make.
struct Judged {
    reply: Reply,
    /// What is unusual about a refused one.
    flags: Flags,
    /// What a relay is told beside the reply.
    held: Option<(Epoch, Holdings)>,
}

impl Endpoint {
    /// An endpoint that records into `store`.
    pub fn new(rules: Rules, store: Store) -> io::Result<Endpoint> {
        let (throttle, strayed, self_test) =
            (Throttle::default(), Arc::default(), SelfTest::new()?);
        Ok(Endpoint { rules: ArcSwap::from_pointee(rules), store, throttle, strayed, self_test })
    }

    /// A body that is answered as a confirmation would be and is none. It holds a key.
    pub fn self_test(&self) -> Zeroizing<String> {
        self.self_test.body(&self.rules.load().prefixes)
    }

    /// Whom of those who are configured it turned away.
    pub fn strayed(&self) -> Arc<StrayedCallers> {
        Arc::clone(&self.strayed)
    }

    /// Judges by these rules whatever comes from now on.
    pub fn set_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// From a complete body to a reply; `None` when it is not known who sent it. `named` is the
    /// caller's name in the path.
    async fn collect<'a>(
        &self,
        rules: &'a Rules,
        peer: &Peer,
        headers: &HeaderMap,
        named: Option<&str>,
        body: &[u8],
    ) -> Option<Answer<'a>> {
        let form = form_of(body);
        let opened = match form {
            Form::Json => None,
            Form::Encrypted => {
                let opened = rules.callers.open(body);
                if opened.is_none() {
                    // What no password opens does not tell whose it is; only the path can.
                    self.count_strayed(rules, named);
                }
                Some(opened?)
            }
        };
        let password = opened.as_ref().map(|opened| opened.password);
        let text = opened.as_ref().map_or(body, |opened| opened.text.as_bytes());
        let request = match Request::parse(text) {
            Ok(request) => request,
            Err(malformed) => return Some(Answer::new(malformed.into(), password)),
        };
        let circumstances = Circumstances {
            peer: peer.address,
            form,
            named,
            branch: header(headers, BRANCH_HEADER),
        };
        let verified = rules.callers.verify(&request, &circumstances);
        let tester = || self.self_test.verify(&request, &circumstances);
        let (caller, key_id, is_test) = match (verified, verified.is_none().then(tester)) {
            (Some((caller, key_id)), _) => (caller, key_id, false),
            (None, Some(Some((caller, key_id)))) => (caller, key_id, true),
            (None, _) => {
                self.count_strayed(rules, request.user_name());
                return None;
            }
        };
        let provenance = Provenance {
            caller: caller.user_name.clone(),
            branch: caller.branch.clone(),
            origin: caller.branch.as_ref().and_then(|_| origin(headers)),
            key_id,
            peer: peer.address,
            client_certificate: peer.client_certificate.map(Digest),
            form,
            body_digest: request.body_digest(),
        };
        let outcome = match request.confirmation(&rules.terms(&provenance)) {
            Ok(_) if is_test => return Some(Answer::of(self.try_out().await, password)),
            Ok(confirmation) => self.record(rules, confirmation, &provenance).await,
            Err(refusal) => Ok(Judged::new(refusal.into())),
        };
        let outcome = match outcome {
            Ok(judged) if is_kept(&judged.reply) && !is_test => {
                self.keep_refusal(&request, &provenance, judged).await
            }
            outcome => outcome,
        };
        Some(Answer::of(outcome, password))
    }

    /// Counts what is answered -1001 in this name, when it is a configured caller's.
    fn count_strayed(&self, rules: &Rules, name: Option<&str>) {
        if let Some(known) = name.and_then(|name| rules.callers.named(name)) {
            self.strayed.count(known, AcceptedAt::new(clock::now()));
        }
    }

    async fn record(
        &self,
        rules: &Rules,
        confirmation: Confirmation,
        provenance: &Provenance,
    ) -> Result<Judged, Unavailable> {
        let started = clock::monotonic();
        let rule = match provenance.branch {
            Some(_) => Rule::Relayed,
            None => Rule::Policy(rules.contracts),
        };
        let (collection, flags) = (confirmation.collection.clone(), confirmation.flags);
        let waiting = self.store.record(confirmation, provenance.clone(), rule)?;
        let recorded = waiting.await.unwrap_or(Err(Unavailable::Failed))?;
        let took = started.elapsed();
        Ok(match recorded {
            Recorded::New(receipt) => {
                let reply = Reply::success(&receipt);
                log_collection(&reply, &collection, provenance, receipt.sequence(), took);
                Judged { reply, flags: receipt.flags(), held: receipt.held() }
            }
            Recorded::Repeated(receipt) => {
                let reply = Reply::already_collected(&receipt);
                log_collection(&reply, &collection, provenance, receipt.sequence(), took);
                Judged { held: receipt.held(), ..Judged::new(reply) }
            }
            Recorded::Conflict { field, first } => {
                Judged { flags, ..Judged::new(Reply::conflict(field, &first)) }
            }
            Recorded::AlreadyPaid { flags } => {
                Judged { flags, ..Judged::new(Reply::already_paid()) }
            }
        })
    }

    /// The way of a confirmation through the writer, without one.
    async fn try_out(&self) -> Result<Judged, Unavailable> {
        let receipt = self.store.try_out()?.await.unwrap_or(Err(Unavailable::Failed))?;
        Ok(Judged::new(Reply::success(&receipt)))
    }

    /// A cashier may hold the cash of a refused confirmation, so it is kept before it is answered.
    async fn keep_refusal(
        &self,
        request: &Request<'_>,
        provenance: &Provenance,
        judged: Judged,
    ) -> Result<Judged, Unavailable> {
        let started = clock::monotonic();
        let reply = &judged.reply;
        let refused = Refused {
            provenance: provenance.clone(),
            code: reply.code().number(),
            description: reply.description().to_owned(),
            contract: request.contract_text().map(|text| text.chars().take(50).collect()),
            text: request.kept_text(),
            flags: judged.flags,
        };
        self.store.keep(refused)?.await.unwrap_or(Err(Unavailable::Failed))?;
        log::info!(
            TILLD_EVENT = Event::Refused,
            TILLD_CALLER = provenance.caller.as_str(),
            TILLD_CODE = reply.code().number(),
            DURATION_US = micros(started.elapsed());
            "{} to {} at {}: {}",
            reply.code().number(), provenance.caller, provenance.peer, reply.description()
        );
        Ok(judged)
    }

    async fn verification_failed(&self, peer: &Peer, turn: &Turn) -> Answer<'static> {
        let delay = self.throttle.wrong_key(peer.address, clock::monotonic());
        if delay.is_zero() {
            if strangers::WRONG_KEYS.admits_line() {
                log::warn!(
                    TILLD_EVENT = Event::VerificationFailed,
                    TILLD_ADDRESS:% = peer.address,
                    TILLD_CODE = -1001;
                    "-1001 to {}: unknown caller, wrong key or password, or not allowed from there",
                    peer.address
                );
            }
        } else {
            // One address that guesses must not use up the lines of the others.
            strangers::WRONG_KEYS.suppress();
            figures::SLOWED.count();
            turn.hold();
            tokio::time::sleep(delay).await;
        }
        Answer::new(Reply::verification_failed(), None)
    }
}

impl listener::Service for Endpoint {
    async fn answer(
        &self,
        peer: &Peer,
        turn: &Turn,
        request: HttpRequest<Incoming>,
    ) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let named = match route(head.uri.path()) {
            Route::Collect => None,
            Route::Service(named) => Some(named),
            Route::Unknown => {
                return text_response(StatusCode::NOT_FOUND, "post to /collectionCollect\n");
            }
        };
        if head.method != Method::POST {
            let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "use POST\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        if head.headers.contains_key(CONTENT_ENCODING) {
            let text = "send the body as it is, without Content-Encoding\n";
            return text_response(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
        }
        match read_body(body).await {
            Ok(_) if !turn.begin() => closing(StatusCode::SERVICE_UNAVAILABLE, "too busy\n"),
            Ok(body) => {
                let read_at = clock::monotonic();
                let (rules, headers) = (self.rules.load_full(), &head.headers);
                let collected = self.collect(&rules, peer, headers, named.as_deref(), &body).await;
                let is_let_in = collected.is_some();
                let answer = match collected {
                    Some(answer) => answer,
                    None => self.verification_failed(peer, turn).await,
                };
                let response = answer.response(rules.code_form);
                figures::REPLIES.count(answer.reply.code().number());
                if is_let_in {
                    figures::REQUEST_TIME.note(read_at.elapsed());
                }
                response
            }
            Err(refused) => refused.response(),
        }
    }
}

impl<'a> Answer<'a> {
    fn new(reply: Reply, password: Option<&'a Password>) -> Answer<'a> {
        Answer { reply, password, status: StatusCode::OK, held: None }
    }

    fn of(outcome: Result<Judged, Unavailable>, password: Option<&'a Password>) -> Answer<'a> {
        match outcome {
            Ok(Judged { reply, held, .. }) => Answer { held, ..Answer::new(reply, password) },
            Err(unavailable) => {
                let status = match unavailable {
                    Unavailable::QueueFull => StatusCode::SERVICE_UNAVAILABLE,
                    Unavailable::NotWritable | Unavailable::Damaged | Unavailable::Failed => {
                        StatusCode::OK
                    }
                };
                Answer { status, ..Answer::new(Reply::unpredictable(), password) }
            }
        }
    }

    fn response(&self, code_form: CodeForm) -> Response<Full<Bytes>> {
        let json = self.reply.to_json(clock::now(), code_form);
        let (content_type, body) = match self.password {
            // Nobody may learn from the form of the answer whether a password was right.
            Some(password) if self.reply.code() != Code::VerificationFailed => {
                ("text/plain", password.seal(&json))
            }
            _ => ("application/json", json),
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some((epoch, Holdings { up_to, count })) = self.held {
            for (name, number) in [(HAVE_HEADER, up_to), (HELD_HEADER, count)] {
                let value = HeaderValue::try_from(format!("{epoch}-{number}")).ok();
                headers.extend(value.map(|value| (name, value)));
            }
        }
        response
    }
}

impl Judged {
    fn new(reply: Reply) -> Judged {
        Judged { reply, flags: Flags::NONE, held: None }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Where a branch says that it has what it relays. What it relays is recorded also without.
fn origin(headers: &HeaderMap) -> Option<Origin> {
    let place = Place::parse(header(headers, SEQUENCE_HEADER)?).ok();
    let place = place.filter(|place| place.sequence > 0)?;
    let line = header(headers, TAPE_HEADER).and_then(|text| TapeLine::parse(text).ok());
    Some(Origin { place, line })
}

/// Whether a reply is a refusal that is kept.
fn is_kept(reply: &Reply) -> bool {
    !matches!(reply.code(), Code::Success | Code::AlreadyCollected)
}

/// What a path asks for.
enum Route<'a> {
    /// `/collectionCollect`
    Collect,
    /// `/services/{callerName}`, SkyPay's own form, percent-decoded once.
    Service(Cow<'a, str>),
    Unknown,
}

fn route(path: &str) -> Route<'_> {
    match path.strip_prefix("/services/") {
        // What is not UTF-8 equals no user name, which is answered -1001 as any wrong name is.
        Some(name) if !name.is_empty() && !name.contains('/') => {
            Route::Service(percent_decode_str(name).decode_utf8_lossy())
        }
        None if path == "/collectionCollect" => Route::Collect,
        _ => Route::Unknown,
    }
}

/// Why a body was not read.
enum BodyRefused {
    TooLarge,
    TooSlow,
    Broken,
}

impl BodyRefused {
    /// After a body that was not read to its end the connection cannot be used again.
    fn response(&self) -> Response<Full<Bytes>> {
        match self {
            BodyRefused::TooLarge => {
                closing(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 16 KiB\n")
            }
            BodyRefused::TooSlow => {
                closing(StatusCode::REQUEST_TIMEOUT, "the body took over 10 seconds\n")
            }
            BodyRefused::Broken => closing(StatusCode::BAD_REQUEST, "the body broke off\n"),
        }
    }
}

/// The whole body. One that is too large is refused as soon as that is known.
async fn read_body(mut body: Incoming) -> Result<Vec<u8>, BodyRefused> {
    let announced = body.size_hint().lower();
    let reading = async {
        let mut read = Vec::new();
        let mut is_too_large = announced > BODY_BYTES_MAX as u64;
        while !is_too_large {
            let Some(frame) = body.frame().await else { return Ok(read) };
            let Ok(data) = frame.map_err(|_| BodyRefused::Broken)?.into_data() else { continue };
            is_too_large = read.len() + data.len() > BODY_BYTES_MAX;
            read.extend_from_slice(&data);
        }
        Err(BodyRefused::TooLarge)
    };
    let read = tokio::time::timeout(BODY_TIME_MAX, reading).await;
    let read = read.unwrap_or(Err(BodyRefused::TooSlow));
    if matches!(read, Err(BodyRefused::TooLarge)) {
        tokio::spawn(drain(body));
    }
    read
}

/// Reads and throws away so much of a refused body that its sender gets round to our answer.
async fn drain(mut body: Incoming) {
    let draining = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_TIME_MAX, draining).await;
}

/// An answer in HTTP alone, counted.
fn text_response(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    figures::HTTP_ANSWERS.count(status.as_u16());
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let text_plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text_plain);
    response
}

/// As [`text_response`], on a connection that ends with it.
fn closing(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = text_response(status, text);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn log_collection(
    reply: &Reply,
    collection: &Collection,
    provenance: &Provenance,
    sequence: i64,
    took: Duration,
) {
    log::info!(
        TILLD_EVENT = Event::Collection,
        TILLD_SEQUENCE = sequence,
        TILLD_CALLER = provenance.caller.as_str(),
        TILLD_CHANNEL = collection.channel.code(),
        TILLD_CODE = reply.code().number(),
        DURATION_US = micros(took);
        "{} to {} at {}: number {sequence}, contract {}, receipt {}, {} pesos, phone {}",
        reply.code().number(),
        provenance.caller,
        provenance.peer,
        collection.contract,
        collection.receipt,
        collection.amount,
        collection.phone.masked()
    );
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_answered_503_and_minus_1009_and_when_to_come_again() {
        let answered = |unavailable| Answer::of(Err(unavailable), None).response(CodeForm::String);
        let full = answered(Unavailable::QueueFull);
        assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(full.headers()[RETRY_AFTER], "1");
        for unavailable in [Unavailable::NotWritable, Unavailable::Damaged, Unavailable::Failed] {
            let response = answered(unavailable);
            assert_eq!(response.status(), StatusCode::OK);
            assert!(!response.headers().contains_key(RETRY_AFTER));
        }
        assert_eq!(Answer::of(Err(Unavailable::QueueFull), None).reply.code(), Code::Unpredictable);
    }
}
