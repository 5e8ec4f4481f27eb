//! The server's certificate and key: made at first start, loaded, and shown.
//!
//! Knows files and rustls only: neither where the paths come from nor who is calling.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;

/// The certificate that [`ensure_self_signed`] makes, within its directory.
pub const CERTIFICATE_FILE: &str = "cert.pem";

/// The private key that [`ensure_self_signed`] makes, within its directory.
pub const KEY_FILE: &str = "key.pem";

/// The longest common name that X.509 has room for (RFC 5280, A.1, ub-common-name).
const COMMON_NAME_BYTES_MAX: usize = 64;

/// A certificate or key that cannot be used.
#[derive(Debug)]
pub struct TlsError {
    pub(super) path: PathBuf,
    pub(super) problem: String,
    pub(super) remedy: &'static str,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path.display(), self.problem, self.remedy)
    }
}

impl std::error::Error for TlsError {}

/// What a listener needs, and what the log says of it.
pub struct ServerTls {
    /// For the listener: TLS 1.2 and 1.3, HTTP/1.1.
    pub config: Arc<ServerConfig>,
    /// What is presented to clients.
    pub certificate: Certificate,
}

/// A certificate chain, as a person wants to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The DNS names and addresses that it holds for.
    pub names: Vec<String>,
    /// When it begins to hold, RFC 3339 in UTC.
    pub not_before: String,
    /// When it ends to hold, RFC 3339 in UTC.
    pub not_after: String,
    /// SHA-256 of the first certificate in DER, as `openssl x509 -fingerprint -sha256` prints it:
    /// `AB:CD:…`.
    pub fingerprint: String,
    /// The chain in PEM. Never a key, even when the file holds one.
    pub pem: String,
}

impl Certificate {
    /// Whether it holds for a DNS name or an address.
    pub fn is_for(&self, name: &str) -> bool {
        let address = name.parse::<IpAddr>().ok();
        self.names.iter().any(|own| match address {
            Some(address) => own.parse() == Ok(address),
            None => own.eq_ignore_ascii_case(name),
        })
    }
}

/// Makes a self-signed certificate for these names and addresses in a new directory, unless it is
/// there. True when it was made now. A power cut leaves all of it or nothing. An error of kind
/// `InvalidInput` means that the names are wrong, any other one that the machine refuses.
///
/// It is valid from 2000 to the end of 2049, because branch clocks are wrong. It is no CA: whoever
/// trusts it trusts this server alone, and clients that verify it as both root and leaf take it.
pub fn ensure_self_signed(dir: &Path, names: &[String]) -> io::Result<bool> {
    // An empty directory is replaced by the new one.
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(false);
    }
    let (certificate, key) = self_signed(names).map_err(|error| {
        let message = format!(
            "no certificate can be made for the names {names:?}: {error}; correct the names: DNS \
             names in ASCII, or addresses"
        );
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    let files = [(CERTIFICATE_FILE, &*certificate, 0o644), (KEY_FILE, &*key, 0o600)];
    write_whole(dir, &files).map_err(|error| {
        let message = format!(
            "{}: the self-signed certificate cannot be written: {error}; give the daemon's user \
             the right to write there, and room on the disk",
            dir.display()
        );
        io::Error::new(error.kind(), message)
    })?;
    Ok(true)
}

/// Makes another self-signed certificate in the place of the one in this directory, which is gone
/// then. A power cut leaves one of the two. Errors are those of [`ensure_self_signed`].
pub fn renew_self_signed(dir: &Path, names: &[String]) -> io::Result<()> {
    let next = dir.with_extension("next");
    if next.exists() {
        fs::remove_dir_all(&next)?;
    }
    ensure_self_signed(&next, names)?;
    renameat_with(CWD, &next, CWD, dir, RenameFlags::EXCHANGE)?;
    File::open(dir.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    fs::remove_dir_all(next)
}

/// Loads a PEM chain and its key for a listener. With a client CA, clients must present a
/// certificate that it has signed.
///
/// Session tickets are encrypted with a key made here, so that what was agreed under one
/// configuration is not resumed under the next.
pub fn load(
    certificate: &Path,
    private_key: &Path,
    client_ca: Option<&Path>,
) -> Result<ServerTls, TlsError> {
    let chain = read_certificates(certificate)?;
    let described = describe_chain(certificate, &chain)?;
    let key = read_key(private_key)?;
    let provider = Arc::new(ring::default_provider());
    let failed = |path: &Path, error: rustls::Error, remedy| TlsError {
        path: path.to_owned(),
        problem: error.to_string(),
        remedy,
    };

    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| failed(certificate, error, "report this: it is a fault in tilld"))?;
    let builder = match client_ca {
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        failed(
            private_key,
            error,
            "name the key that belongs to the certificate: RSA from 2048 bits, ECDSA P-256 or \
             P-384, or Ed25519",
        )
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(|error| {
        failed(private_key, error, "the kernel gives no randomness; start again")
    })?;
    Ok(ServerTls { config: Arc::new(config), certificate: described })
}

/// Whether callers' certificates could be checked against this CA.
pub fn check_client_ca(client_ca: &Path) -> Result<(), TlsError> {
    client_verifier(client_ca, Arc::new(ring::default_provider())).map(drop)
}

/// Reads a certificate chain to show it. Needs no right to read the key.
pub fn describe(certificate: &Path) -> Result<Certificate, TlsError> {
    describe_chain(certificate, &read_certificates(certificate)?)
}

/// A certificate and its key, both in PEM.
fn self_signed(names: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2050, 1, 1) - Duration::from_secs(1);
    params.is_ca = IsCa::ExplicitNoCa;
    // No key usage: a self-signed certificate that has one without the right to sign certificates
    // is not taken for its own issuer by older OpenSSL. The serial number is left to rcgen, which
    // derives it from the key: another key, another number.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let common_name = names.iter().find(|name| name.len() <= COMMON_NAME_BYTES_MAX);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name.map_or("tilld", String::as_str));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes files (name, text, mode) into a new directory that appears whole, synced, or not at all.
fn write_whole(dir: &Path, files: &[(&str, &str, u32)]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no path of a directory"));
    };
    let prefix = format!("{}.new-", name.to_string_lossy());
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let new = parent.join(format!("{prefix}{}", std::process::id()));
    fs::create_dir(&new)?;
    for (name, text, mode) in files {
        let path = new.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(path)?;
        // The mode at creation keeps others out from the first moment; the umask may have taken
        // rights from it that are wanted.
        file.set_permissions(Permissions::from_mode(*mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    File::open(&new)?.sync_all()?;
    fs::rename(&new, dir)?;
    File::open(parent)?.sync_all()
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError {
        path: path.to_owned(),
        problem: format!("it cannot be read: {error}"),
        remedy: "correct the path, or give the daemon's user the right to read it",
    })
}

/// All certificates of a file, at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |problem: &str, remedy| TlsError {
        path: path.to_owned(),
        problem: problem.to_owned(),
        remedy,
    };
    let chain = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| failed("its PEM is damaged", "put the file in place once more"))?;
    if chain.is_empty() {
        return Err(failed(
            "it holds no certificate",
            "it must be in PEM, with a line -----BEGIN CERTIFICATE-----",
        ));
    }
    Ok(chain)
}

pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path)?;
    let failed = |problem: &str, remedy| TlsError {
        path: path.to_owned(),
        problem: problem.to_owned(),
        remedy,
    };
    // PKCS#8 says so in its BEGIN line, the older form in a header field below it.
    if pem.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED") {
        return Err(failed(
            "the private key is encrypted, and nobody is there to type its password at a restart",
            "decrypt it with: openssl pkey -in OLD -out NEW",
        ));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => failed(
            "it holds no private key",
            "it must be in PEM, with a line -----BEGIN PRIVATE KEY-----",
        ),
        _ => failed("its PEM is damaged", "put the file in place once more"),
    })
}

fn client_verifier(
    path: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let failed = |problem: String| TlsError {
        path: path.to_owned(),
        problem,
        remedy: "name the certificates of the CA that signs your clients'",
    };
    let mut roots = RootCertStore::empty();
    for root in read_certificates(path)? {
        roots.add(root).map_err(|error| failed(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| failed(error.to_string()))
}

fn describe_chain(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Certificate, TlsError> {
    let failed = |problem: String| TlsError {
        path: path.to_owned(),
        problem,
        remedy: "put the certificate in place once more",
    };
    let leaf = chain.first().ok_or_else(|| failed("it holds no certificate".to_owned()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| failed(format!("its first certificate is damaged: {error}")))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| failed(format!("the names in its first certificate: {error}")))?
        .map(|extension| extension.value.general_names.iter().filter_map(name_text).collect())
        .unwrap_or_default();
    let validity = parsed.validity();
    Ok(Certificate {
        names,
        not_before: rfc3339(validity.not_before.timestamp()),
        not_after: rfc3339(validity.not_after.timestamp()),
        fingerprint: fingerprint(leaf),
        pem: chain.iter().map(|certificate| pem_text(certificate)).collect(),
    })
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// A time that X.509 can say is one that chrono can.
fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Secs, true)
}

pub(super) fn fingerprint(der: &[u8]) -> String {
    let digest = Sha256::digest(der);
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// One certificate in PEM (RFC 7468): lines of 64 characters.
fn pem_text(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (place, character) in base64.chars().enumerate() {
        if place > 0 && place % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["till-server", "localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("the file is there").permissions().mode() & 0o7777
    }

    fn error_of(result: Result<ServerTls, TlsError>) -> String {
        result.err().expect("this must not load").to_string()
    }

    #[test]
    fn a_certificate_is_made_once_and_kept() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("tls");
        assert!(ensure_self_signed(&dir, &names()).unwrap());
        let first = describe(&dir.join(CERTIFICATE_FILE)).unwrap();
        assert!(!ensure_self_signed(&dir, &names()).unwrap());
        assert_eq!(describe(&dir.join(CERTIFICATE_FILE)).unwrap(), first);
        assert_eq!(first.names, names());
        assert_eq!(first.not_before, "2000-01-01T00:00:00Z");
        assert_eq!(first.not_after, "2049-12-31T23:59:59Z");
        assert_eq!(first.fingerprint.len(), 32 * 3 - 1);
        let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        assert_eq!(first.pem, fs::read_to_string(&certificate).unwrap().replace('\r', ""));
        assert_eq!(load(&certificate, &key, None).unwrap().certificate, first);
    }

    #[test]
    fn the_key_is_for_its_owner_only() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("tls");
        ensure_self_signed(&dir, &names()).unwrap();
        assert_eq!(mode(&dir.join(KEY_FILE)), 0o600);
        assert_eq!(mode(&dir.join(CERTIFICATE_FILE)), 0o644);
    }

    #[test]
    fn what_a_power_cut_left_is_removed_and_never_used() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("tls");
        let half = state.path().join("tls.new-4711");
        fs::create_dir(&half).unwrap();
        fs::write(half.join(KEY_FILE), "half a key").unwrap();
        assert!(ensure_self_signed(&dir, &names()).unwrap());
        let left: Vec<_> =
            fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["tls"]);
        load(&dir.join(CERTIFICATE_FILE), &dir.join(KEY_FILE), None).unwrap();
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let state = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| state.path().join(name));
        ensure_self_signed(&one, &names()).unwrap();
        ensure_self_signed(&other, &names()).unwrap();
        let certificate = one.join(CERTIFICATE_FILE);
        let encrypted = state.path().join("encrypted.pem");
        fs::write(&encrypted, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();

        let foreign = other.join(KEY_FILE);
        let error = error_of(load(&certificate, &foreign, None));
        assert!(error.starts_with(&foreign.display().to_string()), "{error}");
        assert!(error.contains("name the key that belongs to the certificate"), "{error}");

        let error = error_of(load(&certificate, &encrypted, None));
        assert!(error.contains("openssl pkey"), "{error}");
        let error = error_of(load(&certificate, &certificate, None));
        assert!(error.contains("it holds no private key"), "{error}");
        let error = error_of(load(&one.join(KEY_FILE), &one.join(KEY_FILE), None));
        assert!(error.contains("it holds no certificate"), "{error}");
        let error = error_of(load(&state.path().join("absent"), &encrypted, None));
        assert!(error.contains("cannot be read"), "{error}");
        let error = error_of(load(&certificate, &one.join(KEY_FILE), Some(&encrypted)));
        assert!(error.starts_with(&encrypted.display().to_string()), "{error}");
    }

    #[test]
    fn names_that_no_certificate_can_hold_are_said_to_be_so() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("tls");
        let error = ensure_self_signed(&dir, &["PARAÑAQUE".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("PARAÑAQUE") && error.contains("correct the names"), "{error}");
        assert!(!dir.exists());
    }
}
