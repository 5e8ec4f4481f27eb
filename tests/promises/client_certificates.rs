//! With `client_ca`, only callers that hold a certificate of that authority get in at all.

use std::fs;
use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tilld::domain::provenance::Digest;

use crate::support::till::{Identity, trusting_as};
use crate::support::{Answer, Confirmation, Daemon, JSON, PATH, Setup, Site, Till, authority};

/// A till's certificate, signed by this authority.
fn identity(issuer: &Issuer<'static, KeyPair>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["till-7".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap().der().clone();
    (certificate, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

fn site_with(ca_pem: &str) -> Site {
    let extra = "[endpoint.tls]\nclient_ca = \"ca.pem\"".to_owned();
    let site = Setup { extra, ..Setup::live() }.prepare();
    fs::write(site.path().join("ca.pem"), ca_pem).unwrap();
    site
}

/// Connects and posts. In TLS 1.3 a client hears only after its own part that it was refused.
fn try_confirm(
    daemon: &Daemon,
    tls: &Arc<ClientConfig>,
    confirmation: &Confirmation,
) -> io::Result<Answer> {
    let mut till = Till::connect(daemon.address(), tls)?;
    till.try_post(PATH, JSON, &[], confirmation.text().as_bytes())
}

#[test]
fn without_a_certificate_of_the_configured_authority_nothing_is_said_and_nothing_recorded() {
    let (ca, _) = authority();
    let site = site_with(&ca);
    let daemon = site.start();
    let (_, another) = authority();
    let stranger = identity(&another);
    for version in rustls::ALL_VERSIONS {
        for identity in [None, Some(&stranger)] {
            let tls = trusting_as(&site.certificate(), &[version], identity);
            let answer = try_confirm(&daemon, &tls, &Confirmation::fresh());
            assert!(answer.is_err(), "{version:?}: {answer:?}");
        }
    }
    assert!(site.all().is_empty() && site.refusals().is_empty());
}

#[test]
fn the_certificate_that_a_caller_presented_is_kept_with_its_collection() {
    let (ca, issuer) = authority();
    let site = site_with(&ca);
    let daemon = site.start();
    for version in rustls::ALL_VERSIONS {
        let till = identity(&issuer);
        let tls = trusting_as(&site.certificate(), &[version], Some(&till));
        let confirmation = Confirmation::fresh();
        assert_eq!(try_confirm(&daemon, &tls, &confirmation).unwrap().code(), "1000");
        let story: Value =
            serde_json::from_str(&site.story(&confirmation.get("contractNumber"))).unwrap();
        let fingerprint = Digest(Sha256::digest(&till.0).into()).to_string();
        assert_eq!(story["stories"][0]["client_certificate"], fingerprint, "{version:?}: {story}");
    }
}
