//! What holds of the listener: its bounds, who makes room for whom, and how it ends.

use std::net::{Ipv4Addr, SocketAddr};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client;

use super::*;
use crate::net::tls;

const TILL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 10, 7));
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: till-server\r\n\r\n";
const REQUEST_HELD: &str = "GET /held HTTP/1.1\r\nHost: till-server\r\n\r\n";
const MOMENT: Duration = Duration::from_millis(1);

/// Answers "served"; `/held` only when released; `/long` with more than a socket takes.
struct Probe {
    asked: mpsc::UnboundedSender<Peer>,
    released: Semaphore,
}

impl Service for Probe {
    async fn answer(
        &self,
        peer: &Peer,
        turn: &Turn,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        assert!(request.uri() == "/reading" || turn.begin());
        self.asked.send(peer.clone()).expect("the test listens");
        if request.uri() == "/reading" {
            self.released.acquire().await.expect("it is never closed").forget();
        }
        if request.uri() == "/held" {
            self.released.acquire().await.expect("it is never closed").forget();
        }
        let body = match request.uri().path() {
            "/long" => Bytes::from(vec![b'.'; 8 << 20]),
            _ => Bytes::from("served"),
        };
        Response::new(Full::new(body))
    }
}

/// A service, the certificate it is reached under, and what it was asked.
struct Rig {
    _state: TempDir,
    server: Arc<ServerConfig>,
    roots: RootCertStore,
    probe: Arc<Probe>,
    asked: mpsc::UnboundedReceiver<Peer>,
}

fn rig() -> Rig {
    rig_with_client_ca(None)
}

fn rig_with_client_ca(client_ca: Option<&str>) -> Rig {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("tls");
    let names = ["till-server", "127.0.0.1"].map(str::to_owned);
    tls::ensure_self_signed(&dir, &names).unwrap();
    let certificate = dir.join(tls::CERTIFICATE_FILE);
    let ca = client_ca.map(|pem| {
        let path = state.path().join("ca.pem");
        std::fs::write(&path, pem).unwrap();
        path
    });
    let loaded = tls::load(&certificate, &dir.join(tls::KEY_FILE), ca.as_deref()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
    let (sender, asked) = mpsc::unbounded_channel();
    let probe = Arc::new(Probe { asked: sender, released: Semaphore::new(0) });
    Rig { _state: state, server: loaded.config, roots, probe, asked }
}

impl Rig {
    fn client(&self) -> TlsConnector {
        self.client_with(&[], None)
    }

    fn client_with(
        &self,
        alpn: &[&[u8]],
        identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> TlsConnector {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match identity {
            Some((leaf, key)) => builder.with_client_auth_cert(vec![leaf], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    /// A connection in memory, so that only tokio's clock decides what happens when.
    async fn greeted(&self, seats: &Arc<Seats>) -> client::TlsStream<DuplexStream> {
        let (ours, theirs) = duplex(16 * 1024);
        self.attend_in_memory(seats, ours).await;
        self.client().connect(server_name(), theirs).await.unwrap()
    }

    async fn attend_in_memory(&self, seats: &Arc<Seats>, ours: DuplexStream) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
        let seat = Arc::new(seats.offer(TILL).await.expect("there is a seat"));
        let greeting = async move { acceptor.accept(ours).await.map(Greeted::over_tls).map(Some) };
        tokio::spawn(attend(greeting, seat, Arc::clone(&self.probe)));
    }

    fn security(&self) -> Security {
        Security::Tls(Arc::new(ArcSwap::new(Arc::clone(&self.server))))
    }

    /// The whole listener on a socket.
    async fn listening(&self, limits: Limits) -> Listening {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, asked_to_end) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(
            listener,
            self.security(),
            limits,
            Arc::clone(&self.probe),
            || {},
            async move { drop(asked_to_end.await) },
        ));
        Listening { address, serving, shutdown }
    }
}

struct Listening {
    address: SocketAddr,
    serving: JoinHandle<Drained>,
    shutdown: oneshot::Sender<()>,
}

impl Listening {
    async fn connect(&self, client: &TlsConnector) -> client::TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        client.connect(server_name(), socket).await.unwrap()
    }

    async fn end(self) -> Drained {
        drop(self.shutdown);
        self.serving.await.unwrap()
    }
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("till-server").unwrap()
}

fn limits(connections_max: usize, connections_per_address_max: usize) -> Limits {
    Limits { connections_max, connections_per_address_max }
}

fn seats() -> Arc<Seats> {
    Seats::new(limits(8, 8))
}

fn nobody_late(seats: &Arc<Seats>) -> impl Future<Output = Drained> {
    drain(seats, VecDeque::new(), |_, _| unreachable!("nobody is late"))
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// One response, up to the end of its body.
async fn response(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    while !text.ends_with("served") {
        let byte = stream.read_u8().await;
        text.push(char::from(byte.unwrap_or_else(|error| panic!("{error} after {text:?}"))));
    }
    text
}

/// What still comes until the connection ends, in whatever way.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        bytes.push(byte);
    }
    String::from_utf8(bytes).unwrap()
}

fn just_before(time: Duration) -> Duration {
    time.saturating_sub(MOMENT)
}

async fn ends_after(time: Duration, stream: &mut (impl AsyncRead + Unpin)) {
    assert!(timeout(just_before(time), stream.read_u8()).await.is_err(), "it ended too early");
    assert_eq!(timeout(2 * MOMENT, rest(stream)).await.expect("it must end"), "");
}

#[tokio::test]
async fn requests_are_served_one_after_the_other_on_one_connection() {
    let mut rig = rig();
    let listening = rig.listening(limits(8, 8)).await;
    let mut till = listening.connect(&rig.client_with(&[b"http/1.1"], None)).await;
    for _ in 0..3 {
        send(&mut till, REQUEST).await;
        assert!(response(&mut till).await.starts_with("HTTP/1.1 200 OK"));
    }
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(rig.asked.recv().await, Some(Peer { address, client_certificate: None }));
    drop(till);
    let drained = listening.end().await;
    assert_eq!((drained.cut, drained.counts.seated), (0, 1));
}

#[tokio::test]
async fn a_client_that_stops_sending_still_gets_its_answer() {
    let mut rig = rig();
    let listening = rig.listening(limits(8, 8)).await;
    let mut till = listening.connect(&rig.client()).await;
    send(&mut till, REQUEST_HELD).await;
    till.shutdown().await.unwrap();
    rig.asked.recv().await;
    rig.probe.released.add_permits(1);
    assert!(response(&mut till).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(rest(&mut till).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_five_seconds() {
    let (rig, seats) = (rig(), seats());
    let (ours, mut theirs) = duplex(16 * 1024);
    rig.attend_in_memory(&seats, ours).await;
    theirs.write_all(&[TLS_HANDSHAKE_RECORD]).await.unwrap();
    ends_after(HANDSHAKE_TIME, &mut theirs).await;
    assert_eq!(seats.counts().timed_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_byte_by_byte_has_five_seconds() {
    let (rig, seats) = (rig(), seats());
    let mut slow = rig.greeted(&seats).await;
    let mut sent = 0;
    for byte in REQUEST.chars() {
        send(&mut slow, &byte.to_string()).await;
        sent += 1;
        if timeout(Duration::from_millis(900), slow.read_u8()).await.is_ok() {
            break;
        }
    }
    assert_eq!(sent, 6, "bytes at 0, 0.9, … 4.5 s, and none at 5.4 s");
    assert_eq!(seats.counts().timed_out, 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_has_thirty_seconds_from_each_response() {
    let (rig, seats) = (rig(), seats());
    let mut till = rig.greeted(&seats).await;
    for _ in 0..2 {
        sleep(just_before(IDLE_TIME)).await;
        send(&mut till, REQUEST).await;
        response(&mut till).await;
    }
    ends_after(IDLE_TIME, &mut till).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_begins_late_in_an_idle_time_has_its_five_seconds() {
    let (rig, seats) = (rig(), seats());
    let mut till = rig.greeted(&seats).await;
    sleep(just_before(IDLE_TIME)).await;
    let (begin, end) = REQUEST.split_at(5);
    send(&mut till, begin).await;
    sleep(just_before(HEAD_TIME)).await;
    send(&mut till, end).await;
    response(&mut till).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_being_answered_has_no_deadline_here() {
    let (rig, seats) = (rig(), seats());
    let mut till = rig.greeted(&seats).await;
    send(&mut till, REQUEST_HELD).await;
    assert!(timeout(Duration::from_secs(3600), till.read_u8()).await.is_err());
    rig.probe.released.add_permits(1);
    response(&mut till).await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_its_response_has_thirty_seconds() {
    let (mut rig, seats) = (rig(), seats());
    let mut deaf = rig.greeted(&seats).await;
    send(&mut deaf, "GET /long HTTP/1.1\r\nHost: till-server\r\n\r\n").await;
    rig.asked.recv().await;
    assert!(timeout(just_before(IDLE_TIME), seats.emptied()).await.is_err());
    timeout(2 * MOMENT, seats.emptied()).await.expect("it must end");
}

#[tokio::test]
async fn at_the_maximum_the_longest_idle_makes_room() {
    let rig = rig();
    let listening = rig.listening(limits(2, 2)).await;
    let client = rig.client();
    let mut longest = listening.connect(&client).await;
    let mut other = listening.connect(&client).await;
    send(&mut longest, REQUEST).await;
    response(&mut longest).await;
    send(&mut other, REQUEST).await;
    response(&mut other).await;
    let mut till = listening.connect(&client).await;
    assert_eq!(rest(&mut longest).await, "");
    for stream in [&mut other, &mut till] {
        send(stream, REQUEST).await;
        response(stream).await;
    }
    assert_eq!(listening.end().await.counts.made_room, 1);
}

#[tokio::test]
async fn a_flood_of_idle_connections_leaves_room_for_a_till_at_the_same_address() {
    let rig = rig();
    let listening = rig.listening(limits(32, 16)).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(listening.address).await.unwrap());
    }
    let mut till = listening.connect(&rig.client()).await;
    send(&mut till, REQUEST).await;
    response(&mut till).await;
    drop((idle, till));
    let counts = listening.end().await.counts;
    assert_eq!((counts.seated, counts.turned_away), (201, 0));
}

#[tokio::test]
async fn what_is_being_answered_never_makes_room() {
    let mut rig = rig();
    let listening = rig.listening(limits(1, 2)).await;
    let client = rig.client();
    let mut busy = listening.connect(&client).await;
    send(&mut busy, REQUEST_HELD).await;
    rig.asked.recv().await;
    let other = TcpStream::connect(listening.address).await.unwrap();
    let connecting = tokio::spawn(async move { client.connect(server_name(), other).await });
    rig.probe.released.add_permits(1);
    response(&mut busy).await;
    assert_eq!(rest(&mut busy).await, "", "once answered, it makes room");
    let mut other = connecting.await.unwrap().unwrap();
    send(&mut other, REQUEST).await;
    response(&mut other).await;
}

#[tokio::test]
async fn an_address_whose_share_is_being_answered_gets_no_more() {
    let mut rig = rig();
    let listening = rig.listening(limits(8, 1)).await;
    let mut busy = listening.connect(&rig.client()).await;
    send(&mut busy, REQUEST_HELD).await;
    rig.asked.recv().await;
    let mut other = TcpStream::connect(listening.address).await.unwrap();
    assert_eq!(rest(&mut other).await, "");
    rig.probe.released.add_permits(1);
    response(&mut busy).await;
    assert_eq!(listening.end().await.counts.turned_away, 1);
}

#[tokio::test]
async fn plain_http_is_told_to_use_https() {
    let rig = rig();
    let listening = rig.listening(limits(8, 8)).await;
    let mut plain = TcpStream::connect(listening.address).await.unwrap();
    send(&mut plain, REQUEST).await;
    plain.shutdown().await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.expect("it ends without a reset");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("\r\n\r\nThis port speaks HTTPS"), "{answer}");
    drop(plain);
    assert_eq!(listening.end().await.counts.plain, 1);
}

#[tokio::test]
async fn http_2_ends_at_once_with_and_without_alpn() {
    let rig = rig();
    let listening = rig.listening(limits(8, 8)).await;
    let mut preface = listening.connect(&rig.client()).await;
    send(&mut preface, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    rest(&mut preface).await;
    let socket = TcpStream::connect(listening.address).await.unwrap();
    let client = rig.client_with(&[b"h2"], None);
    assert!(client.connect(server_name(), socket).await.is_err());
}

#[tokio::test]
async fn a_head_too_long_or_with_too_many_fields_is_answered_431() {
    let rig = rig();
    let listening = rig.listening(limits(8, 8)).await;
    let long = format!("X-Long: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
    for fields in [long, "X: x\r\n".repeat(101)] {
        let mut client = listening.connect(&rig.client()).await;
        send(&mut client, &format!("GET / HTTP/1.1\r\n{fields}\r\n")).await;
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_demanded_and_passed_on() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::default();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca_params, ca_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["till-7".to_owned()]).unwrap();
    let right = params.signed_by(&key, &issuer).unwrap().der().clone();
    let wrong = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();

    let mut rig = rig_with_client_ca(Some(&ca.pem()));
    let listening = rig.listening(limits(8, 8)).await;
    let known = rig.client_with(&[], Some((right.clone(), key.clone_key())));
    let mut till = listening.connect(&known).await;
    send(&mut till, REQUEST).await;
    response(&mut till).await;
    let peer = rig.asked.recv().await.unwrap();
    assert_eq!(peer.client_certificate, Some(Sha256::digest(&right).into()));

    for identity in [None, Some((wrong, key))] {
        let stranger = rig.client_with(&[], identity);
        let socket = TcpStream::connect(listening.address).await.unwrap();
        // In TLS 1.3 the client is done before the server judges its certificate.
        if let Ok(mut stream) = stranger.connect(server_name(), socket).await {
            drop(stream.write_all(REQUEST.as_bytes()).await);
            assert_eq!(rest(&mut stream).await, "");
        }
    }
    assert!(rig.asked.try_recv().is_err(), "no stranger reached the service");
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_is_being_answered_and_closes_what_idles() {
    let (mut rig, seats) = (rig(), seats());
    let mut busy = rig.greeted(&seats).await;
    send(&mut busy, REQUEST_HELD).await;
    rig.asked.recv().await;
    let mut idle = rig.greeted(&seats).await;
    let probe = Arc::clone(&rig.probe);
    let (drained, answer) = tokio::join!(nobody_late(&seats), async {
        ends_after(DRAIN_GRACE, &mut idle).await;
        probe.released.add_permits(1);
        let answer = response(&mut busy).await;
        assert_eq!(rest(&mut busy).await, "");
        answer
    });
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!((drained.finished, drained.cut), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_when_the_drain_begins_is_served() {
    let (rig, seats) = (rig(), seats());
    let (begin, end) = REQUEST.split_at(5);
    let mut reading = rig.greeted(&seats).await;
    send(&mut reading, REQUEST).await;
    response(&mut reading).await;
    send(&mut reading, begin).await;
    let mut coming = rig.greeted(&seats).await;
    let (drained, ()) = tokio::join!(nobody_late(&seats), async {
        sleep(just_before(DRAIN_GRACE)).await;
        send(&mut coming, REQUEST).await;
        response(&mut coming).await;
        sleep(DRAIN_GRACE).await;
        send(&mut reading, end).await;
        assert!(response(&mut reading).await.contains("connection: close\r\n"));
    });
    assert_eq!((drained.finished, drained.cut), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_over_after_ten_seconds() {
    let (mut rig, seats) = (rig(), seats());
    let mut busy = rig.greeted(&seats).await;
    send(&mut busy, REQUEST_HELD).await;
    rig.asked.recv().await;
    let (drained, ()) = tokio::join!(nobody_late(&seats), async {
        ends_after(DRAIN_TIME, &mut busy).await;
    });
    assert_eq!((drained.finished, drained.cut), (0, 1));
}

#[tokio::test]
async fn who_is_connected_when_the_shutdown_comes_is_still_served() {
    let rig = rig();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let (tls, probe) = (rig.security(), Arc::clone(&rig.probe));
    let serving = serve(listener, tls, limits(8, 8), probe, || {}, std::future::ready(()));
    let (drained, answer) = tokio::join!(serving, async {
        let mut till = rig.client().connect(server_name(), socket).await.unwrap();
        send(&mut till, REQUEST).await;
        response(&mut till).await
    });
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!((drained.finished, drained.cut), (1, 0));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn without_tls_it_serves_plain_http_under_the_same_bounds() {
    let mut rig = rig();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let probe = Arc::clone(&rig.probe);
    let shutdown = std::future::ready(());
    let serving = serve(listener, Security::Plain, limits(8, 8), probe, || {}, shutdown);
    let (drained, answer) = tokio::join!(serving, async {
        send(&mut socket, REQUEST).await;
        response(&mut socket).await
    });
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!((drained.finished, drained.counts.plain), (1, 0));
    let peer = rig.asked.recv().await.expect("it was asked");
    assert_eq!((peer.address, peer.client_certificate), (Ipv4Addr::LOCALHOST.into(), None));
}

#[test]
fn only_a_machine_out_of_resources_pauses_accepting() {
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        assert!(is_shortage(&errno.into()));
    }
    assert!(!is_shortage(&Errno::CONNABORTED.into()));
}
