//! The line between a branch and head office: a TCP proxy that can be cut, fall silent, or break
//! off in the middle of an answer. Its own address stays the same whoever stands behind it. Knows
//! nothing of TLS.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// What the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It passes everything on.
    Up,
    /// Connections are reset, those that stand and those that come.
    Cut,
    /// Connections are taken and stay, and nothing passes any more.
    Silent,
    /// Each new connection ends when so many bytes have come back over it.
    CutAfter(usize),
}

pub struct Wan {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    line: Line,
    /// Who stands behind it.
    target: Option<SocketAddr>,
    connections: Vec<Weak<Connection>>,
    /// The connections that came, whatever became of them.
    count: usize,
    is_over: bool,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Wan {
    /// A line that is up, to nobody yet.
    pub fn new() -> Wan {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = State {
            line: Line::Up,
            target: None,
            connections: Vec::new(),
            count: 0,
            is_over: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.state.lock().unwrap().is_over {
                    return;
                }
                let shared = Arc::clone(&accepting);
                thread::spawn(move || shared.serve(client));
            }
        });
        Wan { address, shared }
    }

    /// Where one calls to get through.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who answers from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.state.lock().unwrap().target = Some(target);
    }

    pub fn set(&self, line: Line) {
        let mut state = self.shared.state.lock().unwrap();
        state.line = line;
        if line == Line::Cut {
            for connection in state.connections.drain(..).filter_map(|weak| weak.upgrade()) {
                connection.reset();
            }
        }
        self.shared.changed.notify_all();
    }

    /// How many connections have come, whatever became of them.
    pub fn calls(&self) -> usize {
        self.shared.state.lock().unwrap().count
    }

    /// Waits until so many connections more have come than there were `before`.
    pub fn await_calls(&self, before: usize, more: usize) {
        let state = self.shared.state.lock().unwrap();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.count < before + more);
        let is_late = waited.unwrap().1.timed_out();
        assert!(!is_late, "nobody calls");
    }
}

/// How long a call may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

impl Drop for Wan {
    fn drop(&mut self) {
        self.set(Line::Cut);
        self.shared.state.lock().unwrap().is_over = true;
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let (line, target) = {
            let mut state = self.state.lock().unwrap();
            state.count += 1;
            self.changed.notify_all();
            (state.line, state.target)
        };
        if line == Line::Cut || !self.passes() {
            abort(&client);
            return;
        }
        let Some(server) = target.and_then(|target| TcpStream::connect(target).ok()) else {
            abort(&client);
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let connection = Arc::new(Connection { client, server });
        {
            let mut state = self.state.lock().unwrap();
            if state.line == Line::Cut {
                connection.reset();
                return;
            }
            state.connections.retain(|weak| weak.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
        }
        let limit = if let Line::CutAfter(bytes) = line { bytes } else { usize::MAX };
        thread::scope(|scope| {
            let Connection { client, server } = &*connection;
            scope.spawn(|| self.pump(client, server, usize::MAX));
            self.pump(server, client, limit);
            if limit < usize::MAX {
                let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            }
        });
    }

    /// Passes on at most so many bytes, until one of both ends it.
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, mut left: usize) {
        let mut buffer = [0; 16 * 1024];
        while left > 0 {
            let Ok(bytes @ 1..) = from.read(&mut buffer) else { break };
            let bytes = bytes.min(left);
            left -= bytes;
            if !self.passes() || to.write_all(&buffer[..bytes]).is_err() {
                return;
            }
        }
        if self.state.lock().unwrap().line != Line::Cut {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Waits while the line is silent; whether it is not cut then.
    fn passes(&self) -> bool {
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, |state| state.line == Line::Silent).unwrap();
        state.line != Line::Cut
    }
}

impl Connection {
    /// Lets it end with a reset as soon as both its threads have let go of it.
    fn reset(&self) {
        for stream in [&self.client, &self.server] {
            abort(stream);
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

/// Makes the end of this connection a reset.
fn abort(stream: &TcpStream) {
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}
