//! A till of the daemon's own: posts to the endpoint of this very process, and trusts the one
//! certificate that it shows.

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::net::client_tls;
use crate::system::clock;

pub struct Till {
    address: SocketAddr,
    tls: TlsConnector,
}

/// What came back.
pub struct Answered {
    /// The body.
    pub body: String,
    /// How long TCP and TLS took.
    pub connecting: Duration,
    /// How long it took from the request to the whole answer.
    pub answering: Duration,
}

impl Till {
    /// One that posts to whoever listens here, if it shows the certificate with this fingerprint.
    pub fn new(listening: SocketAddr, fingerprint: &str) -> Till {
        let loopback = match listening {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let ip = if listening.ip().is_unspecified() { loopback } else { listening.ip() };
        let tls = TlsConnector::from(client_tls::trusting_only(fingerprint));
        Till { address: (ip, listening.port()).into(), tls }
    }

    /// Posts a confirmation on a connection of its own.
    pub async fn post(&self, body: String) -> Result<Answered, Box<dyn Error + Send + Sync>> {
        let began = clock::monotonic();
        let socket = TcpStream::connect(self.address).await?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, socket).await?;
        let (connecting, connected) = (began.elapsed(), clock::monotonic());
        let (mut sender, connection) =
            http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request =
            Request::post("/collectionCollect").header("Host", "localhost").body(body.into())?;
        let answer = sender.send_request(request).await?.into_body().collect().await?;
        let body = String::from_utf8(answer.to_bytes().into())?;
        Ok(Answered { body, connecting, answering: connected.elapsed() })
    }
}
