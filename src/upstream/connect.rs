//! The way to head office: name, TCP and TLS, and in words what fails on it.
//!
//! It must not know what is sent over the connection.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The next address is tried after this time even if the one before is still silent (RFC 8305, 8).
const STAGGER_MAX: Duration = Duration::from_millis(250);

/// Addresses tried for one name: more are no help within the time that connecting may take.
const ADDRESSES_MAX: u32 = 8;

/// Where head office is, and how we talk TLS to it.
pub struct Gate {
    /// A name or an address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// What its certificate must hold for.
    pub name: ServerName<'static>,
    /// Whom we trust, and who we are.
    pub tls: Arc<ClientConfig>,
    /// How long name, TCP and TLS may take together.
    pub time_max: Duration,
}

impl Gate {
    /// A new connection, or in words why there is none. The name is looked up each time: it may
    /// have moved.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let Gate { host, port, time_max, .. } = self;
        let mut awaited = "";
        match time::timeout(*time_max, self.connect_awaiting(&mut awaited)).await {
            Ok(connected) => connected,
            Err(_) => Err(format!("no {awaited} {host}:{port} within {time_max:?}")),
        }
    }

    /// Where the name leads at this moment.
    pub async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let host = self.host.as_str();
        let addresses = tokio::net::lookup_host((host, self.port))
            .await
            .map_err(|error| lookup_in_words(host, &error))?;
        Ok(addresses.take(ADDRESSES_MAX as usize).collect())
    }

    /// Keeps `awaited` at what is being waited for.
    async fn connect_awaiting(
        &self,
        awaited: &mut &'static str,
    ) -> Result<TlsStream<TcpStream>, String> {
        *awaited = "address from the name server for";
        let addresses = self.addresses().await?;
        *awaited = "connection to";
        // So the last has half of the time for itself.
        let stagger = STAGGER_MAX.min(self.time_max / 2 / ADDRESSES_MAX);
        let stream = first_connected(addresses, stagger).await?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        *awaited = "TLS handshake with";
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| in_words(&error))
    }
}

/// What went wrong with a connection, in words for a person.
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    for cause in iter::successors(Some(error), |&error| error.source()) {
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            if error.is_parse_too_large() {
                return "an answer whose head is too long".to_owned();
            }
            if error.is_parse() {
                return "something that is not HTTP: is the url right?".to_owned();
            }
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return match (of_tls(error), error.kind()) {
                (Some(error), _) => tls_in_words(error),
                (
                    None,
                    ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe,
                ) => "the connection was cut".to_owned(),
                (None, _) => error.to_string(),
            };
        }
    }
    error.to_string()
}

/// Whether it was broken off over who we are. In TLS 1.3 we hear that when the request is out
/// already, which the other side has not read and never will: it is a connection that failed.
pub fn is_turned_away(error: &(dyn Error + 'static)) -> bool {
    iter::successors(Some(error), |&error| error.source())
        .filter_map(|cause| of_tls(cause.downcast_ref::<io::Error>()?))
        .any(|error| matches!(error, rustls::Error::AlertReceived(alert) if is_about_us(*alert)))
}

/// An `io::Error` skips what it wraps when it is asked for its source.
fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether an alert says that our certificate is missing or not taken (RFC 8446, 6.2).
fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

fn tls_in_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate is not trusted: it has expired; is this machine's clock right?"
                    .to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not trusted: it is not valid yet; is this machine's clock \
                 right?"
                    .to_owned()
            }
            // A new authority of the same name as the old one shows as a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not trusted: no authority that we know has signed it; name \
                 that authority in ca_file"
                    .to_owned()
            }
            other => format!("its certificate is not trusted: {other}"),
        },
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate from us (CertificateRequired): name one in client_certificate"
                .to_owned()
        }
        rustls::Error::AlertReceived(alert) if is_about_us(*alert) => {
            format!("it does not take our certificate ({alert:?}): see client_certificate")
        }
        rustls::Error::AlertReceived(alert) => format!("it broke off TLS: {alert:?}"),
        rustls::Error::InvalidMessage(_) => "it does not speak TLS: is the port right?".to_owned(),
        other => other.to_string(),
    }
}

/// The resolver tells its reasons in words only; those of the C library for an unknown name are
/// known, the others are repeated.
fn lookup_in_words(host: &str, error: &io::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit(": ").next().unwrap_or_default();
    if reason == "Name or service not known" {
        format!("no such host: {host}")
    } else {
        format!("{host} cannot be looked up: {reason}")
    }
}

/// Connects to whichever address answers first. Each has a head start of `stagger`, unless the one
/// before has failed already; the last failure is told.
async fn first_connected(
    addresses: Vec<SocketAddr>,
    stagger: Duration,
) -> Result<TcpStream, String> {
    let mut addresses = addresses.into_iter();
    let mut tries = JoinSet::new();
    let mut failure = "the name has no address".to_owned();
    loop {
        if let Some(address) = addresses.next() {
            tries.spawn(async move {
                TcpStream::connect(address).await.map_err(|error| refused(address, &error))
            });
        }
        let head_start = if addresses.len() == 0 { Duration::MAX } else { stagger };
        match time::timeout(head_start, tries.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(reason)))) => failure = reason,
            Ok(Some(Err(error))) => failure = error.to_string(),
            Ok(None) => return Err(failure),
            Err(_) => {}
        }
    }
}

fn refused(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
        kind => format!("no connection to {address}: {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_does_not_eat_the_time_of_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        // TEST-NET-1 (RFC 5737) is routed nowhere: silent, or unreachable at once.
        let silent = "192.0.2.1:9".parse().unwrap();
        let stream = first_connected(vec![silent, open], STAGGER_MAX).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
    }

    #[tokio::test]
    async fn the_last_failure_is_told_and_a_name_without_address_fails() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let failure = first_connected(vec![closed, closed], STAGGER_MAX).await.unwrap_err();
        assert_eq!(failure, format!("connection refused by {closed}"));
        let failure = first_connected(Vec::new(), STAGGER_MAX).await.unwrap_err();
        assert_eq!(failure, "the name has no address");
    }

    #[test]
    fn what_the_resolver_says_is_told_in_words() {
        let said = |text: &str| {
            let text = format!("failed to lookup address information: {text}");
            lookup_in_words("collect.example.com", &io::Error::other(text))
        };
        assert_eq!(said("Name or service not known"), "no such host: collect.example.com");
        assert_eq!(
            said("Temporary failure in name resolution"),
            "collect.example.com cannot be looked up: Temporary failure in name resolution"
        );
    }

    #[test]
    fn a_certificate_out_of_its_time_makes_one_look_at_the_clock() {
        for why in [CertificateError::Expired, CertificateError::NotValidYet] {
            let error = io::Error::other(rustls::Error::InvalidCertificate(why));
            assert!(in_words(&error).ends_with("is this machine's clock right?"));
        }
    }
}
