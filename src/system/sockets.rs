//! Listening sockets that outlive the process: systemd keeps them in its file-descriptor store, so
//! that who connects while one process ends and the next begins waits in the kernel's queue
//! instead of being refused. Without systemd nothing is kept.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use rustix::net::{Shutdown, shutdown};
use sd_notify::NotifyState;

/// What the endpoint's socket is called in the store.
const NAME: &str = "endpoint";

/// What an earlier process left with systemd.
pub struct Kept(Vec<TcpListener>);

impl Kept {
    /// Takes the sockets that systemd gives back. Before the process has a second thread: it
    /// changes the environment, so that no child takes them for its own.
    pub fn take() -> Kept {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = ListenFd::from_env();
        let ours = names.split(':').enumerate().filter(|(_, name)| *name == NAME);
        Kept(ours.filter_map(|(at, _)| given.take_tcp_listener(at).ok().flatten()).collect())
    }

    /// Nothing, as without systemd.
    pub fn nothing() -> Kept {
        Kept(Vec::new())
    }

    /// The socket that listens on this address, if it was kept; any other one is let go.
    pub fn listener(mut self, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        let is_it = |kept: &TcpListener| kept.local_addr().is_ok_and(|kept| kept == address);
        if let Some(at) = self.0.iter().position(is_it) {
            let listener = self.0.swap_remove(at);
            listener.set_nonblocking(true)?;
            return Ok(Some(listener));
        }
        if !self.0.is_empty() {
            sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(NAME)])?;
            // The next socket may want the same port, and systemd closes its end some time later:
            // one that does not listen any more is in nobody's way. If it is, binding says so.
            for kept in &self.0 {
                let _ = shutdown(kept, Shutdown::Both);
            }
        }
        Ok(None)
    }
}

/// Gives systemd a socket to keep.
pub fn keep(listener: &impl std::os::fd::AsFd) {
    let states = [NotifyState::FdStore, NotifyState::FdName(NAME)];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[listener.as_fd()]) {
        log::debug!("systemd does not keep the listening socket: {error}");
    }
}
