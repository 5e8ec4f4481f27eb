//! Starts the relay when there is a head office to send to.

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::config::{Config, Upstream};
use crate::domain::contract::Mode;
use crate::net::client_tls;
use crate::net::tls::{self, Certificate};
use crate::operator::Failure;
use crate::operator::connection::connection;
use crate::relay::{self, Handle};
use crate::store::Store;
use crate::upstream::https::Https;

/// The way to head office, ready to be used.
pub struct Way {
    https: Https,
    fingerprint: Fingerprint,
    certificate: Option<Certificate>,
}

/// Of all that a way was made of, also of what is in the files: two ways with the same one lead to
/// the same place in the same manner.
pub type Fingerprint = [u8; 32];

impl Way {
    /// What it was made of.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Makes ready to go it.
    pub fn ready(self, config: &Config, store: &Store) -> Result<Ready, Failure> {
        let Way { https, fingerprint, certificate } = self;
        let concurrency = config.upstream.as_ref().map_or(1, |upstream| upstream.concurrency);
        let relay = relay::prepare(store.clone(), &config.state_dir, https, concurrency)?;
        Ok(Ready { relay, fingerprint, certificate })
    }
}

/// The way to head office, made of what is configured. None: nothing is configured, or this is a
/// sandbox, which never sends anything.
pub fn way(config: &Config) -> Result<Option<Way>, Failure> {
    match (&config.upstream, config.mode) {
        (Some(upstream), Mode::Live) => {
            // First: what is exchanged between the two looks is then taken by the next reload.
            let fingerprint = fingerprint(upstream);
            let https = connection(upstream)?;
            let files = upstream.client_certificate.as_ref();
            // What the connection has read just now can be read.
            let certificate = files.and_then(|files| tls::describe(&files.certificate).ok());
            Ok(Some(Way { https, fingerprint, certificate }))
        }
        (Some(_), Mode::Sandbox) | (None, _) => Ok(None),
    }
}

/// All that passing on takes; to begin cannot fail.
pub struct Ready {
    relay: relay::Ready<Https>,
    fingerprint: Fingerprint,
    certificate: Option<Certificate>,
}

impl Ready {
    /// Starts to pass on what waits. Another that does must have ended.
    pub fn begin(self) -> PassingOn {
        let Ready { relay, fingerprint, certificate } = self;
        let (stop, stopped) = oneshot::channel();
        let (handle, task) = relay.begin(async { drop(stopped.await) });
        PassingOn { handle, fingerprint, certificate, stop, task }
    }
}

/// The relay at work.
pub struct PassingOn {
    handle: Handle,
    fingerprint: Fingerprint,
    certificate: Option<Certificate>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PassingOn {
    /// The way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What its way was made of.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What we present to head office when it asks for a certificate.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Lets what is under way come back, and ends.
    pub async fn end(self) {
        drop(self.stop);
        // A task that panicked has ended the process.
        let _ = self.task.await;
    }
}

fn fingerprint(upstream: &Upstream) -> Fingerprint {
    let identity = upstream.client_certificate.as_ref();
    let files = [
        Some(upstream.authentication_file.as_path()),
        upstream.encryption_file.as_deref(),
        upstream.ca_file.as_deref(),
        identity.map(|files| files.certificate.as_path()),
        identity.map(|files| files.private_key.as_path()),
    ];
    // Paths and numbers only: what is secret is in the files.
    let mut hash = Sha256::new_with_prefix(format!("{upstream:?}"));
    for file in files.into_iter().flatten() {
        hash.update(digest_of(file));
    }
    if upstream.ca_file.is_none() {
        hash.update(client_tls::digest_of_system_roots());
    }
    hash.finalize().into()
}

/// One that cannot be read counts as empty; whoever needs it says why.
fn digest_of(file: &Path) -> Fingerprint {
    let bytes = Zeroizing::new(fs::read(file).unwrap_or_default());
    Sha256::digest(&*bytes).into()
}
