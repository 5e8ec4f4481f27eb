//! `tilld serve`: from a valid configuration to a daemon that answers, and back to nothing.
//!
//! Start: log, store, callers, TLS, socket. End: stop accepting, drain, let the writer finish,
//! flush the log. What was accepted is answered.

use std::fs::DirBuilder;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Mode as FileMode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::checks;
use crate::config::{Config, ReplyCode};
use crate::endpoint::{Callers, Endpoint, Rules};
use crate::net::listener::{self, Limits};
use crate::net::tls::{self, ServerTls, TlsError};
use crate::operator::{Exit, Failure};
use crate::skypay::reply::CodeForm;
use crate::store::{Store, Writing};
use crate::system::{limits, logging};

/// Files of the daemon are its own and its group's.
const UMASK: u32 = 0o027;

/// Serves in the foreground until SIGTERM, SIGINT or a failure of the storage.
pub fn run(config: &Config) -> Result<(), Failure> {
    logging::start(config.log.level)?;
    let runtime = runtime()?;
    let stop = {
        let _guard = runtime.enter();
        asked_to_stop()?
    };
    let (ready, _) = oneshot::channel();
    let served = runtime.block_on(serve(config, ready, stop));
    log::logger().flush();
    served
}

/// The runtime for everything that waits; its threads are as many as the machine has cores.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("net").build()
}

/// Builds the parts, serves until `stop`, and ends in order. `ready` hears where it listens.
pub async fn serve(
    config: &Config,
    ready: oneshot::Sender<SocketAddr>,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    rustix::process::umask(FileMode::from_raw_mode(UMASK));
    limits::raise_open_files()?;
    make_state_dir(&config.state_dir)?;
    let callers = Callers::load(&config.callers)?;
    let tls = server_tls(config)?;
    let (store, writing) = Store::open(&config.state_dir, config.mode, config.disk_reserve)?;
    let listener = listen(config.endpoint.listen).await?;
    let address = listener.local_addr()?;

    log::info!("certificate SHA-256 fingerprint {}", tls.certificate.fingerprint);
    if config.callers.is_empty() {
        log::warn!("no caller is configured: every request is answered -1001");
    }
    log::info!("listening on {address}, mode {}", config.mode.as_str());
    let _ = ready.send(address);
    checks::start(config.state_dir.clone())?;

    let Writing { thread, failed } = writing;
    let endpoint = Arc::new(Endpoint::new(rules(config), callers, store));
    let limits = Limits {
        connections_max: config.endpoint.connections_max,
        connections_per_address_max: config.endpoint.connections_per_address_max,
    };
    let mut storage_failed = false;
    let shutdown = async {
        tokio::select! {
            () = stop => log::info!("stopping: open requests are answered first"),
            _ = failed => storage_failed = true,
        }
    };
    let drained = listener::serve(listener, tls.config, limits, endpoint, shutdown).await;
    log::info!("stopped: {} connections ended, {} were cut", drained.finished, drained.cut);
    // The last handle to the store is gone with the endpoint, so the writer ends by itself.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    if storage_failed {
        let message = "the storage failed: see the lines above; a restart recovers what it holds";
        return Err(Failure::new(Exit::Error, message));
    }
    Ok(())
}

fn rules(config: &Config) -> Rules {
    Rules {
        mode: config.mode,
        contracts: config.endpoint.contracts,
        prefixes: config.endpoint.prefixes.clone(),
        code_form: match config.endpoint.reply_code {
            ReplyCode::String => CodeForm::String,
            ReplyCode::Number => CodeForm::Number,
        },
    }
}

/// The package makes the state directory; without it, it is made here.
fn make_state_dir(state_dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o750).create(state_dir).map_err(|error| {
        let message = format!("state_dir {} cannot be made: {error}", state_dir.display());
        Failure::new(Exit::Error, message)
    })
}

fn server_tls(config: &Config) -> Result<ServerTls, Failure> {
    let wanted = &config.endpoint.tls;
    let loaded = match &wanted.files {
        Some(files) => {
            tls::load(&files.certificate, &files.private_key, wanted.client_ca.as_deref())
        }
        None => self_signed(config, &wanted.names),
    };
    loaded.map_err(|error| Failure::new(Exit::Configuration, error.to_string()))
}

fn self_signed(config: &Config, names: &[String]) -> Result<ServerTls, TlsError> {
    let directory = config.self_signed_dir();
    if tls::ensure_self_signed(&directory, &certificate_names(names))? {
        log::info!("made a self-signed certificate in {}", directory.display());
    }
    let certificate = directory.join(tls::CERTIFICATE_FILE);
    let client_ca = config.endpoint.tls.client_ca.as_deref();
    tls::load(&certificate, &directory.join(tls::KEY_FILE), client_ca)
}

/// Under which names a till may reach this machine; the interfaces are not asked, because their
/// addresses change and the certificate stays.
fn certificate_names(configured: &[String]) -> Vec<String> {
    let mut names = vec![limits::hostname()];
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.extend(configured.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    names
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let message =
            format!("cannot listen on {address}: {error}; is another program there? (ss -ltnp)");
        Failure::new(Exit::Error, message)
    })
}

/// Resolves at SIGTERM, as systemd sends it, or at Ctrl-C.
pub fn asked_to_stop() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
