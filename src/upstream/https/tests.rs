//! What holds of one try over HTTPS, against a server of the tests' own that does as it is told.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::domain::amount::Amount;
use crate::domain::collection::{Collection, PayChannel, Phone, ReceiptNumber};
use crate::domain::contract::{ContractNumber, Mode};
use crate::domain::delivery::TapeLine;
use crate::domain::provenance::Digest;
use crate::domain::time::CollectedAt;
use crate::net::{client_tls, tls};

const KEY: &str = "30AC21B2-9EAA-4503";
const PASSWORD: &str = "k3yForTests-01";

/// What the server does with one request.
enum Step {
    /// Answers this, and waits for the next request.
    Answer(String),
    /// Sends this, and closes.
    Close(String),
    /// Sends this, and then the second text for ever.
    Endless(String, String),
    /// Cuts the connection without a word.
    Reset,
    /// Says nothing, and keeps the connection open.
    Silence,
}

/// A request as the server saw it.
struct Seen {
    /// The number of its connection, from 1.
    connection: usize,
    /// Request line and headers, names in lower case.
    head: Vec<String>,
    body: String,
}

/// Head office as told.
struct Rig {
    state: TempDir,
    address: SocketAddr,
    seen: UnboundedReceiver<Seen>,
}

impl Rig {
    async fn start(steps: impl IntoIterator<Item = Step>) -> Rig {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("tls");
        tls::ensure_self_signed(&dir, &["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = (dir.join(tls::CERTIFICATE_FILE), dir.join(tls::KEY_FILE));
        let acceptor = TlsAcceptor::from(tls::load(&certificate, &key, None).unwrap().config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = unbounded_channel();
        let steps = Arc::new(Mutex::new(VecDeque::from_iter(steps)));
        tokio::spawn(async move {
            for connection in 1.. {
                let (socket, _) = listener.accept().await.unwrap();
                let (acceptor, steps) = (acceptor.clone(), Arc::clone(&steps));
                let sender = sender.clone();
                tokio::spawn(async move {
                    // A client that does not trust us goes away.
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    serve(connection, stream, &steps, &sender).await;
                });
            }
        });
        Rig { state, address, seen }
    }

    fn settings(&self) -> Settings {
        let ca_file = self.state.path().join("tls").join(tls::CERTIFICATE_FILE);
        Settings {
            url: format!("https://{}/collectionCollect?site=1", self.address).parse().unwrap(),
            branch: BranchName::parse("MNL-042").unwrap(),
            user_name: UserName::parse("branch-mnl-042").unwrap(),
            key: Zeroizing::new(KEY.to_owned()),
            password: None,
            tls: client_tls::load(Some(&ca_file), None).unwrap(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
            concurrency: 2,
        }
    }

    fn https(&self) -> Https {
        Https::new(self.settings()).unwrap()
    }

    fn encrypting(&self) -> Https {
        let password = Some(Password::new(PASSWORD));
        Https::new(Settings { password, ..self.settings() }).unwrap()
    }

    /// How many requests came that were not looked at yet, by connection.
    fn connections(&mut self) -> Vec<usize> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).map(|seen| seen.connection).collect()
    }
}

/// Serves one connection until it is closed from either side.
async fn serve(
    connection: usize,
    stream: TlsStream<TcpStream>,
    steps: &Mutex<VecDeque<Step>>,
    sender: &UnboundedSender<Seen>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = request(connection, &mut stream).await {
        sender.send(seen).unwrap();
        let step = steps.lock().unwrap().pop_front();
        match step.expect("a step for each request") {
            Step::Answer(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Step::Close(text) => {
                stream.write_all(text.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                return;
            }
            Step::Endless(head, again) => {
                stream.write_all(head.as_bytes()).await.unwrap();
                // The test hangs here if the client goes on reading.
                while stream.write_all(again.as_bytes()).await.is_ok() {}
                return;
            }
            Step::Reset => return stream.get_ref().get_ref().0.set_zero_linger().unwrap(),
            Step::Silence => {}
        }
    }
}

async fn request(connection: usize, stream: &mut BufReader<TlsStream<TcpStream>>) -> Option<Seen> {
    let mut head: Vec<String> = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { connection, head, body: String::from_utf8(body).unwrap() })
}

/// A whole answer with these headers, each with its line end.
fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Words\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn reply(code: i32) -> String {
    format!(r#"{{"responseCode":"{code}","responseDescription":"Words"}}"#)
}

fn success() -> Step {
    Step::Answer(answer(200, "", &reply(1000)))
}

fn outgoing() -> Outgoing {
    Outgoing {
        sequence: Place::parse("1f2e3d4c-17").unwrap(),
        collection: Collection {
            contract: ContractNumber::parse("SKY0112345678", Mode::Live).unwrap(),
            receipt: ReceiptNumber::parse("R-0001").unwrap(),
            amount: Amount::parse("3900").unwrap(),
            phone: Phone::parse("09270348095").unwrap(),
            collected_at: CollectedAt::parse("2018-06-18 17:52:10").unwrap(),
            channel: PayChannel::parse("1").unwrap(),
        },
        line: Some(TapeLine { number: 23, digest: Digest([0xab; 32]) }),
    }
}

fn unknown(cause: UnknownCause) -> Verdict {
    Verdict::Unknown { cause, retry_after: None }
}

/// What one try against one step comes to.
async fn tried(step: Step) -> Tried {
    let rig = Rig::start([step]).await;
    rig.https().deliver(&outgoing()).await
}

#[tokio::test]
async fn a_confirmation_is_posted_as_documented() {
    let have = "Tilld-Have: 1f2e3d4c-16\r\nTilld-Held: 1f2e3d4c-18\r\n";
    let mut rig = Rig::start([Step::Answer(answer(200, have, &reply(1000)))]).await;
    let tried = rig.https().deliver(&outgoing()).await;
    assert_eq!(tried.verdict, Verdict::Delivered);
    assert_eq!((tried.http, tried.code, tried.reason.as_str()), (Some(200), Some(1000), ""));
    assert_eq!(tried.held, Some(Holdings { up_to: 16, count: 18 }));

    let mut seen = rig.seen.recv().await.unwrap();
    assert_eq!(seen.head.remove(0), "POST /collectionCollect?site=1 HTTP/1.1");
    seen.head.sort();
    assert_eq!(
        seen.head,
        [
            format!("content-length: {}", seen.body.len()),
            "content-type: application/json".to_owned(),
            format!("host: {}", rig.address),
            format!("idempotency-key: {}", outgoing::idempotency_key(&outgoing().collection)),
            "tilld-branch: MNL-042".to_owned(),
            "tilld-sequence: 1f2e3d4c-17".to_owned(),
            format!("tilld-tape: 23-{}", "ab".repeat(32)),
            concat!("user-agent: tilld/", env!("CARGO_PKG_VERSION")).to_owned(),
        ]
    );
    assert_eq!(
        seen.body,
        concat!(
            r#"{"userName":"branch-mnl-042","action":"collectionCollect","#,
            r#""authentication":"30AC21B2-9EAA-4503","contractNumber":"SKY0112345678","#,
            r#""amount":"3900.00","phone":"09270348095","receiptNumber":"R-0001","#,
            r#""collectedTime":"2018-06-18 17:52:10","payChannel":"1"}"#
        )
    );
}

#[tokio::test]
async fn the_tape_is_left_out_when_it_is_unknown_and_what_is_held_of_another_epoch_is_nothing() {
    for have in ["Tilld-Have: 16\r\n", "Tilld-Have: 1f2e3d4d-16\r\n"] {
        let rig = Rig::start([Step::Answer(answer(200, have, &reply(-1015)))]).await;
        let tried = rig.https().deliver(&outgoing()).await;
        assert_eq!((tried.verdict, tried.held), (Verdict::Delivered, None), "{have}");
    }
    let mut rig = Rig::start([Step::Answer(answer(200, "", &reply(-1015)))]).await;
    let tried = rig.https().deliver(&Outgoing { line: None, ..outgoing() }).await;
    assert_eq!((tried.code, tried.held), (Some(-1015), None));
    let seen = rig.seen.recv().await.unwrap();
    assert!(!seen.head.iter().any(|line| line.starts_with("tilld-tape")));
}

#[tokio::test]
async fn connections_are_used_again() {
    let mut rig = Rig::start([success(), success(), success(), success()]).await;
    let https = rig.https();
    for _ in 0..2 {
        let outgoing = outgoing();
        let tried = tokio::join!(https.deliver(&outgoing), https.deliver(&outgoing));
        assert_eq!((tried.0.verdict, tried.1.verdict), (Verdict::Delivered, Verdict::Delivered));
    }
    let mut connections = rig.connections();
    connections.sort_unstable();
    assert_eq!(connections, [1, 1, 2, 2]);
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_costs_nothing() {
    let kept_alive = answer(200, "", &reply(1000));
    let mut rig = Rig::start([Step::Close(kept_alive), success()]).await;
    let https = rig.https();
    assert_eq!(https.deliver(&outgoing()).await.verdict, Verdict::Delivered);
    while !https.idle.connections.lock().unwrap()[0].1.is_closed() {
        tokio::task::yield_now().await;
    }
    assert_eq!(https.deliver(&outgoing()).await.verdict, Verdict::Delivered);
    assert_eq!(rig.connections(), [1, 2]);
}

#[tokio::test]
async fn a_connection_whose_answer_said_close_is_not_used_again() {
    let last = answer(200, "Connection: close\r\n", &reply(1000));
    let mut rig = Rig::start([Step::Answer(last), success()]).await;
    let https = rig.https();
    for _ in 0..2 {
        assert_eq!(https.deliver(&outgoing()).await.verdict, Verdict::Delivered);
    }
    assert_eq!(rig.connections(), [1, 2]);
}

#[test]
fn a_connection_that_was_idle_too_long_is_dropped() {
    let began = clock::monotonic();
    let at = |seconds| began + Duration::from_secs(seconds);
    let mut connections = VecDeque::from([(at(0), 'a'), (at(5), 'b'), (at(12), 'c')]);
    drop_stale(&mut connections, at(20));
    assert_eq!(connections, [(at(5), 'b'), (at(12), 'c')]);
}

#[tokio::test]
async fn a_reset_after_the_request_leaves_the_outcome_unknown() {
    let mut rig = Rig::start([Step::Reset]).await;
    let tried = rig.https().deliver(&outgoing()).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoAnswer));
    assert_eq!((tried.http, tried.code), (None, None));
    assert_eq!(tried.reason, "the connection was cut");
    assert_eq!(rig.connections(), [1]);
}

#[tokio::test]
async fn a_reset_of_a_kept_connection_after_the_request_sends_nothing_twice() {
    let mut rig = Rig::start([success(), Step::Reset]).await;
    let https = rig.https();
    https.deliver(&outgoing()).await;
    let verdict = https.deliver(&outgoing()).await.verdict;
    assert_eq!(verdict, unknown(UnknownCause::NoAnswer));
    assert_eq!(rig.connections(), [1, 1]);
}

#[tokio::test]
async fn an_answer_that_breaks_off_anywhere_leaves_the_outcome_unknown() {
    let whole = answer(200, "", &reply(1000));
    for end in [0, 5, whole.len() - 40, whole.len() - 1] {
        let tried = tried(Step::Close(whole[..end].to_owned())).await;
        assert_eq!(tried.verdict, unknown(UnknownCause::NoAnswer), "{end}");
        assert!(!tried.reason.is_empty(), "{end}");
    }
}

#[tokio::test]
async fn a_refused_connection_sends_nothing() {
    let rig = Rig::start([]).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = unused.local_addr().unwrap();
    drop(unused);
    let url = format!("https://{closed}/collectionCollect").parse().unwrap();
    let https = Https::new(Settings { url, ..rig.settings() }).unwrap();
    let tried = https.deliver(&outgoing()).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoConnection));
    assert_eq!(tried.reason, format!("connection refused by {closed}"));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_with_the_cure() {
    let mut rig = Rig::start([]).await;
    let dir = rig.state.path().join("other");
    tls::ensure_self_signed(&dir, &["127.0.0.1".to_owned()]).unwrap();
    let tls = client_tls::load(Some(&dir.join(tls::CERTIFICATE_FILE)), None).unwrap();
    let https = Https::new(Settings { tls, ..rig.settings() }).unwrap();
    let tried = https.deliver(&outgoing()).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoConnection));
    assert!(tried.reason.starts_with("its certificate is not trusted: "), "{}", tried.reason);
    assert!(tried.reason.contains("ca_file"), "{}", tried.reason);
    assert!(rig.connections().is_empty());
}

#[tokio::test]
async fn a_head_office_that_wants_a_certificate_has_not_read_what_was_sent() {
    let rig = Rig::start([]).await;
    let dir = rig.state.path().join("tls");
    let (certificate, key) = (dir.join(tls::CERTIFICATE_FILE), dir.join(tls::KEY_FILE));
    let demanding = tls::load(&certificate, &key, Some(&certificate)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let accepting = TlsAcceptor::from(demanding.config).accept(socket).into_fallible();
        let (_, mut socket) = accepting.await.expect_err("there is no certificate");
        // Whoever closes with something unread resets the connection, and the alert may be lost.
        socket.shutdown().await.unwrap();
        socket.read_to_end(&mut Vec::new()).await
    });
    let https = Https::new(Settings { url, ..rig.settings() }).unwrap();
    let tried = https.deliver(&outgoing()).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoConnection), "{}", tried.reason);
    assert!(tried.reason.ends_with("name one in client_certificate"), "{}", tried.reason);
}

#[tokio::test]
async fn a_server_without_tls_is_told_as_such() {
    let rig = Rig::start([]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        socket.read_to_end(&mut Vec::new()).await
    });
    let https = Https::new(Settings { url, ..rig.settings() }).unwrap();
    let tried = https.deliver(&outgoing()).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoConnection));
    assert_eq!(tried.reason, "it does not speak TLS: is the port right?");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_made_in_time_sends_nothing() {
    let rig = Rig::start([]).await;
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", mute.local_addr().unwrap()).parse().unwrap();
    let https = Https::new(Settings { url, ..rig.settings() }).unwrap();
    let tried = https.deliver(&outgoing()).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoConnection));
    assert!(tried.reason.ends_with(" within 5s"), "{}", tried.reason);
}

#[tokio::test]
async fn an_answer_that_does_not_come_leaves_the_outcome_unknown_and_drops_what_is_idle() {
    let mut rig = Rig::start([success(), success(), Step::Silence, success()]).await;
    let https = rig.https();
    let outgoing = outgoing();
    tokio::join!(https.deliver(&outgoing), https.deliver(&outgoing));
    // From here on nothing waits for the machine before the request is on its way.
    time::pause();
    let tried = https.deliver(&outgoing).await;
    time::resume();
    assert_eq!(tried.verdict, unknown(UnknownCause::NoAnswer));
    assert_eq!(tried.reason, "no answer within 15s");
    assert_eq!(https.deliver(&outgoing).await.verdict, Verdict::Delivered);
    assert_eq!(rig.connections().last(), Some(&3));
}

#[tokio::test]
async fn an_endless_answer_is_read_within_bounds_and_its_connection_dropped() {
    let head = "HTTP/1.1 200 OK\r\n".to_owned();
    let body = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let chunk = format!("1000\r\n{}\r\n", ".".repeat(0x1000));
    let field = format!("x: {}\r\n", ".".repeat(100));
    for (step, http, words) in [
        (Step::Endless(body, chunk), Some(200), "an answer longer than 64 KiB"),
        (Step::Endless(head, field), None, "an answer whose head is too long"),
    ] {
        let mut rig = Rig::start([step, success()]).await;
        let https = rig.https();
        let tried = https.deliver(&outgoing()).await;
        assert_eq!(tried.verdict, unknown(UnknownCause::NoAnswer));
        assert_eq!((tried.http, tried.reason.as_str()), (http, words));
        assert_eq!(https.deliver(&outgoing()).await.verdict, Verdict::Delivered);
        assert_eq!(rig.connections(), [1, 2]);
    }
}

#[tokio::test]
async fn a_login_page_with_200_is_no_success() {
    let tried = tried(Step::Answer(answer(200, "", "<html>Please log in</html>"))).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoAnswer));
    assert_eq!((tried.http, tried.code), (Some(200), None));
    assert!(tried.reason.contains("login page"), "{}", tried.reason);
}

#[tokio::test]
async fn what_is_not_http_leaves_the_outcome_unknown() {
    let tried = tried(Step::Close("220 mail.example.com ESMTP\r\n\r\n".to_owned())).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoAnswer));
    assert!(tried.reason.contains("not HTTP"), "{}", tried.reason);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = answer(307, "Location: /elsewhere\r\n", &reply(1000));
    let mut rig = Rig::start([Step::Answer(elsewhere), success()]).await;
    let tried = rig.https().deliver(&outgoing()).await;
    assert_eq!(tried.verdict, unknown(UnknownCause::NoAnswer));
    assert_eq!((tried.http, tried.code), (Some(307), Some(1000)));
    assert_eq!(rig.connections(), [1]);
}

#[tokio::test]
async fn head_office_says_when_it_wants_to_be_asked_again() {
    let date = "Date: Sun, 06 Nov 2033 08:49:07 GMT\r\n";
    for (headers, seconds) in [
        ("Retry-After: 120\r\n".to_owned(), 120),
        (format!("{date}Retry-After: Sun, 06 Nov 2033 08:49:37 GMT\r\n"), 30),
    ] {
        let tried = tried(Step::Answer(answer(503, &headers, &reply(-1009)))).await;
        let retry_after = Some(Duration::from_secs(seconds));
        let cause = UnknownCause::NoAnswer;
        assert_eq!(tried.verdict, Verdict::Unknown { cause, retry_after });
        assert_eq!((tried.http, tried.code), (Some(503), Some(-1009)));
        assert_eq!(tried.reason, "HTTP 503: -1009 Words");
    }
}

#[tokio::test]
async fn with_a_password_both_ways_are_encrypted() {
    let password = Password::new(PASSWORD);
    let sealed = Step::Answer(answer(200, "", &password.seal(&reply(1000))));
    let mut rig = Rig::start([sealed]).await;
    let tried = rig.encrypting().deliver(&outgoing()).await;
    assert_eq!((tried.verdict, tried.code), (Verdict::Delivered, Some(1000)));
    let seen = rig.seen.recv().await.unwrap();
    assert!(seen.head.contains(&"content-type: text/plain".to_owned()));
    let opened = crate::skypay::cipher::Sealed::decode(seen.body.as_bytes())
        .and_then(|sealed| password.open(&sealed));
    let plain = rig.https().request(&outgoing()).into_body().collect().await.unwrap().to_bytes();
    assert_eq!(opened.unwrap().as_bytes(), plain);
}

#[tokio::test]
async fn minus_1001_comes_plain_even_when_we_encrypt() {
    let rig = Rig::start([Step::Answer(answer(200, "", &reply(-1001)))]).await;
    let tried = rig.encrypting().deliver(&outgoing()).await;
    assert_eq!((tried.verdict, tried.code), (Verdict::Misconfigured, Some(-1001)));
}

#[tokio::test]
async fn a_reason_is_bounded_and_never_repeats_our_key() {
    let mut words = format!("the key {KEY} is wrong\\n");
    write!(words, "{}", "\u{d1}".repeat(300)).unwrap();
    let body = format!(r#"{{"responseCode":"-1001","responseDescription":"{words}"}}"#);
    let tried = tried(Step::Answer(answer(200, "", &body))).await;
    assert!(
        tried.reason.starts_with("-1001 the key (our key) is wrong \u{d1}"),
        "{}",
        tried.reason
    );
    assert_eq!(tried.reason.chars().count(), 200);
}

#[tokio::test]
async fn host_and_path_are_as_the_url_has_them() {
    let rig = Rig::start([]).await;
    for (url, host, target) in [
        ("https://collect.example.com", "collect.example.com", "/"),
        ("https://collect.example.com:443/a", "collect.example.com", "/a"),
        ("https://collect.example.com:8443?b=1", "collect.example.com:8443", "/?b=1"),
        ("https://[::1]/", "[::1]", "/"),
        ("https://[::1]:8443/a?b", "[::1]:8443", "/a?b"),
        ("https://192.168.10.7:8443/", "192.168.10.7:8443", "/"),
    ] {
        let settings = Settings { url: url.parse().unwrap(), ..rig.settings() };
        let request = Https::new(settings).unwrap().request(&outgoing());
        assert_eq!(request.headers()[HOST], host, "{url}");
        assert_eq!(request.uri(), target, "{url}");
    }
}
