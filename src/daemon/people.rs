//! What there is for people beside the endpoint: health, figures, the control socket, the status.
//! It begins once the endpoint listens, and whatever of it cannot be had never keeps a till
//! waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::checks::LastCheck;
use super::control::{self, Control};
use super::reload::{InForce, Shown};
use super::snapshots::{Asker, Last, Snapshots, Subjects};
use super::stopped;
use crate::config::Config;
use crate::net::listener::{self, Limits, Security, SharedTls};
use crate::net::tls::Certificate;
use crate::operator::Failure;
use crate::operator::console::{Console, Daemon};
use crate::operator::control::{Reply, Request};
use crate::operator::probes::Probes;
use crate::operator::snapshot::{Door, Snapshot};
use crate::store::Store;
use crate::system::event::Event;

/// Supervisors, load balancers and people: few, and each with few connections.
const LIMITS: Limits = Limits { connections_max: 64, connections_per_address_max: 64 };

/// How often an address that cannot be listened on is tried again.
const BIND_INTERVAL: Duration = Duration::from_secs(30);

/// All of it, at work.
pub struct People {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    snapshots: Snapshots,
    /// Keeps the writer until nobody reads beside it: its last checkpoint is to be a whole one.
    store: Store,
}

impl People {
    /// Starts it for an endpoint that listens on `endpoint`, under its certificate where one is
    /// needed.
    pub async fn start(
        config: &Config,
        endpoint: SocketAddr,
        store: &Store,
        in_force: &Arc<InForce>,
        last_check: LastCheck,
    ) -> Result<People, Failure> {
        let (stop, stopping) = watch::channel(false);
        let (console_door, operator) = watch::channel(Door::default());
        let console = ConsoleListener {
            address: config.operator.listen,
            tls: in_force.tls(),
            door: console_door,
        };
        let bound = console.open().await;
        let (socket, control_door) = open_socket(config);

        let subjects = Subjects {
            endpoint,
            operator,
            control: control_door,
            health: store.health(),
            shown: in_force.shown(),
            strayed: in_force.endpoint().strayed(),
            last_check,
        };
        let snapshots = Snapshots::start(config, subjects)?;
        let control = Control {
            store: store.clone(),
            in_force: Arc::clone(in_force),
            snapshots: snapshots.asker(),
            state_dir: config.state_dir.clone(),
        };
        let asked =
            Asked { control: control.clone(), shown: in_force.shown(), last: snapshots.last() };
        let probes = Probes::new(store.health(), snapshots.asker());
        let service = Arc::new(Console::new(asked, probes, console.is_plain()));
        let mut tasks = vec![tokio::spawn(console.serve(service, bound, stopping.clone()))];
        if let Some(socket) = socket {
            let path = config.operator.socket.clone();
            tasks.push(tokio::spawn(control::serve(socket, path, control, stopping)));
        }
        Ok(People { stop, tasks, snapshots, store: store.clone() })
    }

    /// What tells it to end.
    pub fn stop(&self) -> watch::Sender<bool> {
        self.stop.clone()
    }

    /// Ends it, and gives back all that it had of the store.
    pub async fn end(self) {
        let _ = self.stop.send(true);
        let People { tasks, snapshots, store, .. } = self;
        for task in tasks {
            let _ = task.await;
        }
        let _ = tokio::task::spawn_blocking(move || snapshots.end()).await;
        drop(store);
    }
}

/// The daemon, as the console asks it.
struct Asked {
    control: Control,
    shown: watch::Receiver<Shown>,
    last: Last,
}

impl Daemon for Asked {
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.last.borrow().clone()
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.shown.borrow().config)
    }

    fn certificate(&self) -> Arc<Certificate> {
        Arc::clone(&self.shown.borrow().certificate)
    }

    async fn carry_out(&self, request: Request) -> Result<Reply, Failure> {
        // A page shows what came of it, not how far it is.
        self.control.carry_out(request, watch::channel((0, 0)).0).await
    }
}

/// The operator's listener, whose address may be somebody else's for a while.
struct ConsoleListener {
    address: SocketAddr,
    tls: SharedTls,
    door: watch::Sender<Door>,
}

impl ConsoleListener {
    /// Tries to listen, and says how that went when that is news.
    async fn open(&self) -> Option<TcpListener> {
        let bound = TcpListener::bind(self.address).await;
        match bound.and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((address, listener)) => {
                log::info!("operator's listener on {address}, {}", self.scheme());
                let address = Some(address.to_string());
                self.door.send_replace(Door { address, trouble: None });
                Some(listener)
            }
            Err(error) => {
                let trouble = Some(format!("cannot listen on {}: {error}", self.address));
                if self.door.borrow().trouble != trouble {
                    log::error!(
                        TILLD_EVENT = Event::OperatorShut;
                        "operator's listener: cannot listen on {}: {error}; tills are served all \
                         the same, console, /livez, /readyz and /metrics are not; correct `listen` \
                         in [operator] or end the other program (ss -ltnp)",
                        self.address
                    );
                    self.door.send_replace(Door { address: None, trouble });
                }
                None
            }
        }
    }

    async fn serve(
        self,
        service: Arc<Console<Asked, Asker>>,
        bound: Option<TcpListener>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut bound = bound;
        loop {
            if let Some(listener) = bound {
                let shutdown = async move { stopped(&mut stop).await };
                let security = self.security();
                listener::serve(listener, security, LIMITS, service, || {}, shutdown).await;
                return;
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = sleep(BIND_INTERVAL) => {}
            }
            bound = self.open().await;
        }
    }

    /// What never leaves this machine needs no TLS.
    fn is_plain(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    fn security(&self) -> Security {
        if self.is_plain() { Security::Plain } else { Security::Tls(Arc::clone(&self.tls)) }
    }

    fn scheme(&self) -> &'static str {
        if self.is_plain() { "plain HTTP" } else { "HTTPS" }
    }
}

/// The control socket, or why there is none.
fn open_socket(config: &Config) -> (Option<UnixListener>, Door) {
    let path = &config.operator.socket;
    let opened: io::Result<UnixListener> = control::bind(path);
    match opened {
        Ok(listener) => {
            let address = Some(path.display().to_string());
            (Some(listener), Door { address, trouble: None })
        }
        Err(error) => {
            let trouble = format!("{}: {error}", path.display());
            log::error!(
                TILLD_EVENT = Event::OperatorShut;
                "control socket {trouble}; tills are served all the same, `tilld status` and \
                 `tilld sync` are not; correct `socket` in [operator] and restart"
            );
            (None, Door { address: None, trouble: Some(trouble) })
        }
    }
}
