//! Starts the relay when there is a head office to send to.

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{Config, Upstream};
use crate::domain::Invalid;
use crate::domain::contract::Mode;
use crate::net::client_tls;
use crate::operator::{Exit, Failure};
use crate::relay::{self, Handle};
use crate::skypay::cipher::Password;
use crate::store::Store;
use crate::upstream::https::{Https, Settings};

/// The way to head office, made of what is configured. None: nothing is configured, or this is a
/// sandbox, which never sends anything.
pub fn upstream(config: &Config) -> Result<Option<Https>, Failure> {
    match (&config.upstream, config.mode) {
        (Some(upstream), Mode::Live) => connection(upstream).map(Some),
        (Some(_), Mode::Sandbox) => {
            log::warn!("this is a sandbox: nothing is sent to the configured [upstream]");
            Ok(None)
        }
        (None, _) => Ok(None),
    }
}

/// The relay at work.
pub struct PassingOn {
    handle: Handle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PassingOn {
    /// Starts to pass on what waits.
    pub fn start(config: &Config, store: &Store, upstream: Https) -> Result<PassingOn, Failure> {
        let concurrency = config.upstream.as_ref().map_or(1, |upstream| upstream.concurrency);
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let (handle, task) =
            relay::start(store.clone(), &config.state_dir, upstream, concurrency, stopped)?;
        Ok(PassingOn { handle, stop, task })
    }

    /// The way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Lets what is under way come back, and ends.
    pub async fn end(self) {
        drop(self.stop);
        // A task that panicked has ended the process.
        let _ = self.task.await;
    }
}

fn connection(upstream: &Upstream) -> Result<Https, Failure> {
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
