//! `tilld serve`: from a valid configuration to a daemon that answers, and back to nothing.
//!
//! Start: log, store, callers, TLS, socket. End: stop accepting, drain, let the writer finish,
//! flush the log. What was accepted is answered.

use std::fs::{DirBuilder, File};
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
use crate::net::listener::{self, Limits, Security};
use crate::net::tls::{self, ServerTls};
use crate::operator::{Exit, Failure};
use crate::skypay::reply::CodeForm;
use crate::store::{Store, Writing};
use crate::system::notify::{self, LongWork};
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
    if let Err(error) = limits::raise_open_files() {
        log::warn!("the limit of open files cannot be raised: {error}");
    }
    make_state_dir(&config.state_dir)?;
    let callers = Callers::load(&config.callers)?;
    // Takes the lock: whatever else is made in the state directory is made once.
    let long_work = LongWork::begin("making database and tape agree");
    let (store, writing) = Store::open(&config.state_dir, config.mode, config.disk_reserve)?;
    drop(long_work);
    let tls = server_tls(config)?;
    let listener = listen(config.endpoint.listen).await?;
    let address = listener.local_addr()?;

    log::info!("certificate SHA-256 fingerprint {}", tls.certificate.fingerprint);
    if config.callers.is_empty() {
        log::warn!("no caller is configured: every request is answered -1001");
    }
    log::info!("listening on {address}, mode {}", config.mode.as_str());
    notify::ready(&format!("listening on {address}"));
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
        notify::stopping();
    };
    let security = Security::Tls(tls.config);
    let drained = listener::serve(listener, security, limits, endpoint, shutdown).await;
    let counts = drained.counts;
    log::info!(
        "stopped: {} connections ended, {} were cut; since the start {} were served, {} timed out, \
         {} made room, {} were turned away, {} did not speak TLS",
        drained.finished,
        drained.cut,
        counts.seated,
        counts.timed_out,
        counts.made_room,
        counts.turned_away,
        counts.plain
    );
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

/// The package makes the state directory; without it, it is made here, and made durable.
fn make_state_dir(state_dir: &Path) -> Result<(), Failure> {
    if state_dir.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o750).create(state_dir);
    let parent = state_dir.parent().unwrap_or(Path::new("/"));
    made.and_then(|()| File::open(parent)?.sync_all()).map_err(|error| {
        let message = format!("state_dir {} cannot be made: {error}", state_dir.display());
        Failure::new(Exit::Error, message)
    })
}

fn server_tls(config: &Config) -> Result<ServerTls, Failure> {
    let wanted = &config.endpoint.tls;
    let (certificate, private_key) = if let Some(files) = &wanted.files {
        (files.certificate.clone(), files.private_key.clone())
    } else {
        let directory = config.self_signed_dir();
        make_certificate(&directory, &certificate_names(&wanted.names))?;
        (directory.join(tls::CERTIFICATE_FILE), directory.join(tls::KEY_FILE))
    };
    let loaded = tls::load(&certificate, &private_key, wanted.client_ca.as_deref());
    loaded.map_err(|error| Failure::new(Exit::Configuration, error.to_string()))
}

/// Makes the self-signed certificate at the first start. What the machine refuses, such as room on
/// the disk, is tried again by the next start; wrong names are not.
fn make_certificate(directory: &Path, names: &[String]) -> Result<(), Failure> {
    match tls::ensure_self_signed(directory, names) {
        Ok(true) => log::info!("made a self-signed certificate in {}", directory.display()),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(Failure::new(Exit::Configuration, error.to_string()));
        }
        Err(error) => return Err(Failure::new(Exit::Error, error.to_string())),
    }
    Ok(())
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
