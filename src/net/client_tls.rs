//! TLS for whoever calls: which authorities are trusted, and what is shown when asked who we are.
//!
//! Knows files and rustls only: neither where the paths come from nor who is called.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};

use super::tls::{TlsError, fingerprint, read_certificates, read_key};

/// Where Debian and its kin keep the authorities that the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs";

/// What a client needs: TLS 1.2 and 1.3, HTTP/1.1. Trusts the authorities in `ca_file` (PEM) alone,
/// or the system's when there is none; presents `identity` (a PEM chain and its key) when asked.
pub fn load(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(path) => authorities(path)?,
        None => system_authorities()?,
    };
    let failed = |path: &Path, error: rustls::Error, remedy| TlsError {
        path: path.to_owned(),
        problem: error.to_string(),
        remedy,
    };
    let trusted = ca_file.unwrap_or(Path::new(SYSTEM_ROOTS));
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| failed(trusted, error, "report this: it is a fault in tilld"))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, private_key)) => {
            let chain = read_certificates(certificate)?;
            builder.with_client_auth_cert(chain, read_key(private_key)?).map_err(|error| {
                failed(private_key, error, "name the key that belongs to the certificate")
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For whoever calls itself: trusts the one certificate that has this SHA-256 fingerprint, whoever
/// signed it and whatever its names and dates are.
pub fn trusting_only(fingerprint: &str) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let known = Known { fingerprint: fingerprint.to_owned(), provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring has what both versions need");
    Arc::new(
        builder.dangerous().with_custom_certificate_verifier(Arc::new(known)).with_no_client_auth(),
    )
}

/// The one certificate that is trusted. That the other side has its key, TLS shows all the same.
#[derive(Debug)]
struct Known {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if fingerprint(certificate) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in read_certificates(path)? {
        roots.add(root).map_err(|error| TlsError {
            path: path.to_owned(),
            problem: error.to_string(),
            remedy: "name the certificates of the authority that signs the other side's",
        })?;
    }
    Ok(roots)
}

/// SHA-256 of all authorities that the system trusts, to tell whether they have changed.
pub fn digest_of_system_roots() -> [u8; 32] {
    let mut hash = Sha256::new();
    for root in rustls_native_certs::load_native_certs().certs {
        hash.update(Sha256::digest(&root));
    }
    hash.finalize().into()
}

/// The authorities that the system trusts. One that rustls cannot read is passed over, as browsers
/// do; none at all is an error.
fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(TlsError {
            path: SYSTEM_ROOTS.into(),
            problem: format!("the system trusts no authority{why}"),
            remedy: "install the package ca-certificates, or name the authority in ca_file",
        });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::{CERTIFICATE_FILE, KEY_FILE, ensure_self_signed};

    fn error_of(ca_file: Option<&Path>, identity: Option<(&Path, &Path)>) -> String {
        load(ca_file, identity).expect_err("this must not load").to_string()
    }

    #[test]
    fn authorities_and_our_own_certificate_are_read_from_their_files() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("tls");
        ensure_self_signed(&dir, &["localhost".to_owned()]).unwrap();
        let (certificate, key) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        let config = load(Some(&certificate), Some((&certificate, &key))).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        assert!(config.client_auth_cert_resolver.has_certs());
        let config = load(Some(&certificate), None).unwrap();
        assert!(!config.client_auth_cert_resolver.has_certs());
    }

    #[test]
    fn errors_name_the_file_and_what_to_do() {
        let state = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| state.path().join(name));
        for dir in [&one, &other] {
            ensure_self_signed(dir, &["localhost".to_owned()]).unwrap();
        }
        let certificate = one.join(CERTIFICATE_FILE);
        let foreign = other.join(KEY_FILE);
        let absent = state.path().join("absent");
        for (error, path, remedy) in [
            (error_of(Some(&absent), None), &absent, "correct the path"),
            (error_of(Some(&foreign), None), &foreign, "it must be in PEM"),
            (
                error_of(Some(&certificate), Some((&certificate, &foreign))),
                &foreign,
                "name the key that belongs to the certificate",
            ),
        ] {
            assert!(error.starts_with(&path.display().to_string()), "{error}");
            assert!(error.contains(remedy), "{error}");
        }
    }
}
