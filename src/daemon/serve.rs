//! `tilld serve`: from a valid configuration to a daemon that answers, and back to nothing.
//!
//! Start: log, callers, store, TLS, socket, the relay, what there is for people. End: stop
//! accepting, drain, end the relay and what there is for people, let the writer finish, flush the
//! log. What was accepted is answered.

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

use super::certificate::server_tls;
use super::checks::{self, LastCheck};
use super::head_office::{self, PassingOn};
use super::people::People;
use crate::config::{Config, ReplyCode};
use crate::endpoint::{Callers, Endpoint, Rules};
use crate::net::listener::{self, Drained, Limits, Security};
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
    let upstream = head_office::upstream(config)?;
    let listener = listen(config.endpoint.listen).await?;
    let address = listener.local_addr()?;
    let passing_on = upstream.map(|upstream| PassingOn::start(config, &store, upstream));
    let passing_on = passing_on.transpose()?;
    let relay = passing_on.as_ref().map(PassingOn::handle);
    let last_check = LastCheck::default();
    let people =
        People::start(config, (address, &tls.config), &store, relay, last_check.clone()).await?;

    log::info!("certificate SHA-256 fingerprint {}", tls.certificate.fingerprint);
    if config.callers.is_empty() {
        log::warn!("no caller is configured: every request is answered -1001");
    }
    log::info!("listening on {address}, mode {}", config.mode.as_str());
    notify::ready();
    let _ = ready.send(address);
    checks::start(config.state_dir.clone(), last_check)?;

    let Writing { thread, failed } = writing;
    let endpoint = Arc::new(Endpoint::new(rules(config), callers, store));
    let limits = Limits {
        connections_max: config.endpoint.connections_max,
        connections_per_address_max: config.endpoint.connections_per_address_max,
    };
    let mut storage_failed = false;
    let stop_people = people.stop();
    let shutdown = async {
        tokio::select! {
            () = stop => log::info!("stopping: open requests are answered first"),
            _ = failed => storage_failed = true,
        }
        notify::stopping();
        let _ = stop_people.send(true);
    };
    let security = Security::Tls(tls.config);
    let drained = listener::serve(listener, security, limits, endpoint, shutdown).await;
    log_end(drained);
    // What was confirmed last may still leave.
    if let Some(passing_on) = passing_on {
        passing_on.end().await;
    }
    people.end().await;
    // The last handle to the store is gone with these three, so the writer ends by itself.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    if storage_failed {
        let message = "the storage failed: see the lines above; a restart recovers what it holds";
        return Err(Failure::new(Exit::Error, message));
    }
    Ok(())
}

fn log_end(drained: Drained) {
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
