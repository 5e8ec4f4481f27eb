//! A till: one connection over TLS, kept alive, speaking HTTP/1.1 byte by byte, so that a test can
//! also send what no HTTP library would.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use serde_json::Value;

/// No answer takes this long: a test fails then instead of hanging.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

pub struct Till {
    stream: StreamOwned<ClientConnection, TcpStream>,
    unread: Vec<u8>,
}

/// One HTTP response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Who a client says that it is: its certificate in DER, and the key to it.
pub type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Trusts the certificate in this PEM file and nothing else.
pub fn trusting(certificate: &Path) -> Arc<ClientConfig> {
    trusting_over(certificate, rustls::ALL_VERSIONS)
}

/// The same with these versions of TLS only.
pub fn trusting_over(
    certificate: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    trusting_as(certificate, versions, None)
}

/// The same for a client that can present a certificate of its own.
pub fn trusting_as(
    certificate: &Path,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&Identity>,
) -> Arc<ClientConfig> {
    let certificate = CertificateDer::from_pem_file(certificate).expect("the daemon's certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate that can be trusted");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(versions).expect("versions that ring has");
    let builder = builder.with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
            .expect("a certificate and its key"),
    })
}

/// A TCP connection from a loopback address of the test's choice.
pub fn tcp_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        socket.connect(to).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

impl Till {
    /// Connects and completes the handshake.
    pub fn connect(to: SocketAddr, tls: &Arc<ClientConfig>) -> io::Result<Till> {
        Self::on(TcpStream::connect(to)?, tls)
    }

    /// The same from another loopback address.
    pub fn connect_from(
        source: Ipv4Addr,
        to: SocketAddr,
        tls: &Arc<ClientConfig>,
    ) -> io::Result<Till> {
        Self::on(tcp_from(source, to)?, tls)
    }

    /// Completes the handshake on a connection that is there.
    pub fn on(tcp: TcpStream, tls: &Arc<ClientConfig>) -> io::Result<Till> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        tcp.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        let name = IpAddr::from(Ipv4Addr::LOCALHOST).into();
        let session = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Till { stream, unread: Vec::new() })
    }

    /// Posts and waits for the answer on the same connection.
    pub fn post(
        &mut self,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.try_post(path, content_type, headers, body).expect("an answer")
    }

    pub fn try_post(
        &mut self,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        self.send(&request(path, content_type, headers, body))?;
        self.receive()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads one response; `UnexpectedEof` when the connection ends before it is whole.
    pub fn receive(&mut self) -> io::Result<Answer> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            self.read_more()?;
        };
        let head = String::from_utf8(self.unread.drain(..head_end + 4).collect())
            .map_err(io::Error::other)?;
        let mut lines = head.trim_end().lines();
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(status_line.to_owned()))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: String::new() };
        let length = answer.header("content-length").and_then(|text| text.parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.unread.len() < length {
            self.read_more()?;
        }
        let body = self.unread.drain(..length).collect();
        answer.body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(answer)
    }

    /// Whether nothing of an answer has come.
    pub fn nothing_received(&self) -> bool {
        self.unread.is_empty()
    }

    /// Reads until the other side closes; whatever came is dropped.
    pub fn wait_for_close(&mut self) -> io::Result<()> {
        loop {
            match self.read_more() {
                Ok(()) => {}
                Err(error) if is_close(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits this long; true if the other side has closed meanwhile.
    pub fn closed_within(&mut self, time: Duration) -> bool {
        self.stream.sock.set_read_timeout(Some(time)).expect("a time-out that is not zero");
        match self.read_more() {
            Ok(()) => false,
            Err(error) => is_close(&error),
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let bytes = self.stream.read(&mut buffer)?;
        if bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend(&buffer[..bytes]);
        Ok(())
    }
}

/// Whether the connection was ended by the other side, in whatever way.
pub fn is_close(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A request as a till's HTTP library would send it.
pub fn request(path: &str, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let extra: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n{}\r\n",
        body.len(),
        extra.concat()
    );
    [head.as_bytes(), body].concat()
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The code of a plain answer, whose form is checked on the way.
    pub fn code(&self) -> String {
        self.reply().0
    }

    /// The description of a plain answer.
    pub fn description(&self) -> String {
        self.reply().1
    }

    /// Status and headers without the date: what is left must be the same for every -1001.
    pub fn head_but_for_date(&self) -> (u16, Vec<(String, String)>) {
        let headers = self.headers.iter().filter(|(name, _)| name != "date");
        (self.status, headers.cloned().collect())
    }

    /// The body without its responseTime: what is left must be the same for every -1001.
    pub fn but_for_time(&self) -> String {
        let time = reply_time(&self.body);
        self.body.replace(&time, "TIME")
    }

    fn reply(&self) -> (String, String) {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let code = parse_reply(&self.body);
        assert!(self.status == 200 || (self.status == 503 && code.0 == "-1009"), "{self:?}");
        code
    }
}

/// Code and description of a reply, whose form is checked against the table of outputs.
pub fn parse_reply(text: &str) -> (String, String) {
    reply_time(text);
    let reply: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    let members = reply.as_object().map(serde_json::Map::len);
    assert_eq!(members, Some(3), "{text}");
    let code = match &reply["responseCode"] {
        Value::String(code) => code.clone(),
        Value::Number(code) => code.to_string(),
        _ => panic!("no code: {text}"),
    };
    let description = reply["responseDescription"].as_str().expect("a description").to_owned();
    assert!((1..=255).contains(&description.chars().count()), "{text}");
    (code, description)
}

/// The responseTime: `yyyy-MM-dd HH:mm:ss.SSSS`.
fn reply_time(text: &str) -> String {
    let reply: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    let time = reply["responseTime"].as_str().unwrap_or_else(|| panic!("no time: {text}"));
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00 00:00:00.0000", "{text}");
    time.to_owned()
}
