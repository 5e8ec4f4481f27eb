//! A certificate authority, as somebody who runs several machines would make one.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Its certificate in PEM, and what it signs with.
pub fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).expect("a certificate").pem();
    (pem, Issuer::new(params, key))
}
