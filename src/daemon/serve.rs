//! `tilld serve`: from a valid configuration to a daemon that answers, and back to nothing.
//!
//! Start: log, store, what is configured, socket, the relay, what there is for people. End: stop
//! accepting, drain, end the relay and what there is for people, let the writer finish, flush the
//! log. What was accepted is answered.

use std::fs::{DirBuilder, File};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use rustix::fs::Mode as FileMode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::checks::{self, LastCheck};
use super::people::People;
use super::reload::{InForce, Prepared};
use crate::config::Config;
use crate::net::listener::{self, Drained, Limits, Security};
use crate::operator::{Exit, Failure, commands};
use crate::store::{Store, Writing, undelivered};
use crate::system::event::Event;
use crate::system::notify::{self, LongWork};
use crate::system::sockets::{self, Kept};
use crate::system::watchdog::{self, Pulse};
use crate::system::{limits, logging};

/// Files of the daemon are its own and its group's.
const UMASK: u32 = 0o027;

/// With this many cores for connections, disks have long been what everybody waits for.
const NET_THREADS_MAX: usize = 8;

/// For what reads the disk or looks up a name beside them.
const BLOCKING_THREADS_MAX: usize = 32;

/// Serves in the foreground until SIGTERM, SIGINT or a failure of the storage.
pub fn run(config: Config) -> Result<(), Failure> {
    // Before there is a second thread.
    let kept = Kept::take();
    logging::start(config.log.level)?;
    if let Err(error) = limits::keep_memory_private() {
        log::warn!("a core dump of this process would hold keys: {error}");
    }
    let runtime = runtime()?;
    let stop = {
        let _guard = runtime.enter();
        asked_to_stop()?
    };
    let (ready, _) = oneshot::channel();
    let served = runtime.block_on(serve(config, kept, ready, stop));
    log::logger().flush();
    // What is still being made to agree for a start that was called off need not be waited for.
    runtime.shutdown_background();
    served
}

/// The runtime for everything that waits, with a bounded number of threads: systemd kills what has
/// more than the unit allows, and a server may have a hundred cores.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("net")
        .worker_threads(cores.min(NET_THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
}

/// Builds the parts, serves until `stop`, and ends in order. `ready` hears where it listens.
pub async fn serve(
    config: Config,
    kept: Kept,
    ready: oneshot::Sender<SocketAddr>,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    rustix::process::umask(FileMode::from_raw_mode(UMASK));
    if let Err(error) = limits::raise_open_files() {
        log::warn!("the limit of open files cannot be raised: {error}");
    }
    make_state_dir(&config.state_dir)?;
    let mut stop = pin!(stop);
    // Takes the lock: whatever else is made in the state directory is made once.
    let (store, writing) = tokio::select! {
        opened = open_store(config.clone()) => opened?,
        () = &mut stop => {
            log::info!("stopped before it served: the next start goes on with what this one did");
            return Ok(());
        }
    };
    let prepared = Prepared::of(config.clone())?;
    let listener = listen(kept, config.endpoint.listen).await?;
    let address = listener.local_addr()?;
    let in_force = Arc::new(InForce::begin(prepared, store.clone())?);
    let last_check = LastCheck::default();
    let people = People::start(&config, address, &store, &in_force, last_check.clone()).await?;

    log::info!(
        TILLD_EVENT = Event::Ready;
        "listening on {address}, mode {}", config.mode.as_str()
    );
    let door = Arc::new(Pulse::default());
    watchdog::start(vec![store.health().pulse(), Arc::clone(&door)]);
    notify::ready();
    let _ = ready.send(address);
    checks::start(config.state_dir.clone(), last_check)?;

    drop(store);
    let Writing { thread, failed } = writing;
    let limits = Limits {
        connections_max: config.endpoint.connections_max,
        connections_per_address_max: config.endpoint.connections_per_address_max,
    };
    let mut storage_failed = false;
    let stop_people = people.stop();
    let shutdown = async {
        tokio::select! {
            () = &mut stop => log::info!("stopping: open requests are answered first"),
            _ = failed => storage_failed = true,
        }
        notify::stopping();
        let _ = stop_people.send(true);
    };
    let (security, endpoint) = (Security::Tls(in_force.tls()), in_force.endpoint());
    let beat = || door.beat();
    let drained = listener::serve(listener, security, limits, endpoint, beat, shutdown).await;
    log_end(drained);
    // What was confirmed last may still leave.
    in_force.end().await;
    people.end().await;
    drop(in_force);
    // The last handle to the store is gone with these three, so the writer ends by itself.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    if storage_failed {
        let message = "the storage failed: see the lines above; a restart recovers what it holds";
        return Err(Failure::new(Exit::Error, message));
    }
    undelivered::leave(&config.state_dir);
    Ok(())
}

/// Opens the storage on a thread of its own: after a crash that may take a while.
async fn open_store(config: Config) -> Result<(Store, Writing), Failure> {
    let long_work = LongWork::begin("making database and tape agree");
    let opening = tokio::task::spawn_blocking(move || {
        let backups = commands::backups(&config);
        Store::open(&config.state_dir, config.mode, config.disk_reserve, &backups)
    });
    let opened = opening.await.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    drop(long_work);
    Ok(opened?)
}

fn log_end(drained: Drained) {
    let counts = drained.counts;
    log::info!(
        TILLD_EVENT = Event::Stopped;
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

/// The socket that tills connect to: the one of the process before, when it was kept, or a new one,
/// to be kept for the next.
async fn listen(kept: Kept, address: SocketAddr) -> Result<TcpListener, Failure> {
    if let Some(listener) = kept.listener(address)? {
        return Ok(TcpListener::from_std(listener)?);
    }
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let message =
            format!("cannot listen on {address}: {error}; is another program there? (ss -ltnp)");
        Failure::new(Exit::Error, message)
    })?;
    sockets::keep(&listener);
    Ok(listener)
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
