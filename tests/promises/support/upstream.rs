//! Somebody in head office's place who answers as a test wants, over real TLS, and keeps what came.
//! Knows nothing of the protocol but where a contract number stands.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;
use tilld::system::clock;

use super::{Answer, Daemon, JSON, PATH, Till};

pub struct Upstream {
    address: SocketAddr,
    dir: TempDir,
    got: Arc<Mutex<Vec<Got>>>,
    is_over: Arc<AtomicBool>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Got {
    pub at: Instant,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These bytes; the connection stays.
    Whole(String),
    /// These bytes, and then the connection ends.
    ThenClosed(String),
    /// These bytes, and then the last of them again and again for as long as they are taken.
    Endless(String),
    /// These bytes, and then nothing more for as long as the other side waits.
    Stalled(String),
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A field of a body that is not encrypted.
    pub fn field(&self, name: &str) -> String {
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}")).to_owned()
    }

    pub fn contract(&self) -> String {
        self.field("contractNumber")
    }
}

impl Reply {
    /// An answer with this status, further header lines and body.
    pub fn http(status: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
        Reply::Whole(head + body)
    }

    /// A reply of the protocol.
    pub fn code(code: i32) -> Reply {
        Self::http("200 OK", "Content-Type: application/json\r\n", &reply_body(code))
    }

    /// What `daemon` answers to this request. It must be there.
    pub fn of(daemon: SocketAddr, tls: &Arc<ClientConfig>, got: &Got) -> Reply {
        let own = |(name, _): &&(String, String)| name.contains('-') && name != "content-length";
        let headers: Vec<(&str, &str)> = got.headers.iter().filter(own).map(pair).collect();
        let mut till = Till::connect(daemon, tls).expect("a connection");
        let Answer { status, headers, body } = till.post(PATH, JSON, &headers, got.body.as_bytes());
        let own = headers.iter().filter(|(name, _)| name != "content-length");
        let lines: Vec<String> = own.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Self::http(&format!("{status} As There"), &lines.concat(), &body)
    }

    /// The same, but only so many bytes of it.
    pub fn cut_after(&self, bytes: usize) -> Reply {
        let Reply::Whole(text) = self else { panic!("{self:?} cannot be cut") };
        Reply::ThenClosed(text[..bytes].to_owned())
    }
}

fn pair((name, value): &(String, String)) -> (&str, &str) {
    (name, value)
}

/// The body of a reply with this code.
pub fn reply_body(code: i32) -> String {
    format!(
        "{{\"responseTime\":\"2026-01-02 03:04:05.0000\",\"responseCode\":\"{code}\",\
         \"responseDescription\":\"as programmed\"}}"
    )
}

impl Upstream {
    /// Answers each request with what `answer` makes of it.
    pub fn start(answer: impl Fn(&Got) -> Reply + Send + Sync + 'static) -> Upstream {
        let dir = TempDir::new().expect("a temporary directory");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("cert.pem"), certificate.pem()).expect("a written file");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions that ring has")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate and its key");
        let (tls, answer) = (Arc::new(tls), Arc::new(answer));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (got, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let upstream =
            Upstream { address, dir, got: Arc::clone(&got), is_over: Arc::clone(&is_over) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (tls, answer, got) = (tls.clone(), answer.clone(), got.clone());
                thread::spawn(move || serve(stream, tls, &*answer, &got));
            }
        });
        upstream
    }

    /// In front of a daemon: passes on what comes and answers what it answers, unless `change`
    /// makes something else of it.
    pub fn before(
        daemon: &Daemon,
        change: impl Fn(&Got, &dyn Fn() -> Reply) -> Reply + Send + Sync + 'static,
    ) -> Upstream {
        let (address, tls) = (daemon.address(), daemon.tls().clone());
        Self::start(move |got| change(got, &|| Reply::of(address, &tls, got)))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that it shows.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// Everything that has come.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub fn await_requests(&self, count: usize) -> Vec<Got> {
        let deadline = clock::monotonic() + Duration::from_secs(60);
        loop {
            let got = self.got();
            if got.len() >= count {
                return got;
            }
            assert!(clock::monotonic() < deadline, "{} requests came", got.len());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// One connection, request after request, until one side ends it.
fn serve(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    answer: &(impl Fn(&Got) -> Reply + ?Sized),
    got: &Mutex<Vec<Got>>,
) {
    let _ = tcp.set_nodelay(true);
    let Ok(session) = ServerConnection::new(tls) else { return };
    let mut stream = StreamOwned::new(session, tcp);
    while let Ok(request) = receive(&mut stream) {
        got.lock().unwrap().push(request.clone());
        let reply = answer(&request);
        let (Reply::Whole(text)
        | Reply::ThenClosed(text)
        | Reply::Endless(text)
        | Reply::Stalled(text)) = &reply;
        if stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
        match reply {
            Reply::Whole(_) => {}
            Reply::ThenClosed(_) => return,
            Reply::Endless(text) => {
                let more = text[text.len() - 1..].repeat(4096);
                while stream.write_all(more.as_bytes()).is_ok() {}
                return;
            }
            Reply::Stalled(_) => {
                let _ = stream.read(&mut [0]);
                return;
            }
        }
    }
}

fn receive(stream: &mut impl Read) -> std::io::Result<Got> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let mut length = None;
    loop {
        let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head_end) = head_end {
            let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
            let headers: Vec<(String, String)> = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let named = headers.iter().find(|(name, _)| name == "content-length");
            let body_length: usize = named.map_or(0, |(_, value)| value.parse().unwrap());
            length = Some(head_end + body_length);
            if bytes.len() >= head_end + body_length {
                let body = String::from_utf8_lossy(&bytes[head_end..]).into_owned();
                return Ok(Got { at: clock::monotonic(), headers, body });
            }
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            assert!(length.is_none(), "half a request");
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend(&buffer[..read]);
    }
}
