//! From what `[upstream]` says to a way to head office: the daemon's, and the one that
//! `config check` only makes to see that it can be made.

use crate::config::Upstream;
use crate::domain::Invalid;
use crate::net::client_tls;
use crate::operator::{Exit, Failure};
use crate::skypay::cipher::Password;
use crate::upstream::https::{Https, Settings};

/// Reads all that it names. Connects to nobody yet.
pub fn connection(upstream: &Upstream) -> Result<Https, Failure> {
    let password = upstream.encryption_password()?;
    let identity = upstream.client_certificate.as_ref();
    let tls = client_tls::load(
        upstream.ca_file.as_deref(),
        identity.map(|files| (files.certificate.as_path(), files.private_key.as_path())),
    )
    .map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
    let settings = Settings {
        url: upstream.url.clone(),
        branch: upstream.branch.clone(),
        user_name: upstream.user_name.clone(),
        key: upstream.authentication_key()?,
        password: password.map(|password| Password::new(&password)),
        tls,
        connect_timeout: upstream.connect_timeout,
        timeout: upstream.timeout,
        concurrency: upstream.concurrency,
    };
    Https::new(settings).map_err(|Invalid { expected }| {
        let message = format!("[upstream] url {}: expected {expected}", upstream.url);
        Failure::new(Exit::Configuration, message)
    })
}
