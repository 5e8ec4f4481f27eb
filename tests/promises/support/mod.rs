//! What the promises are tested with: a daemon in a directory of its own, a till that speaks to
//! it, and confirmations to send. Asserts nothing about the product but the form of its replies.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use tilld::system::clock::monotonic;

pub mod authority;
pub mod chance;
pub mod cipher;
pub mod clock;
pub mod confirmation;
pub mod daemon;
pub mod fleet;
pub mod site;
pub mod state;
pub mod till;
pub mod upstream;
pub mod wan;

pub use authority::authority;
pub use chance::Chance;
pub use confirmation::{Confirmation, wire_time, with_offset};
pub use daemon::Daemon;
pub use site::{Caller, Setup, Site};
pub use state::State;
pub use till::{Answer, Till};

/// How long something may take that comes by itself: generous, because other tests keep the
/// machine busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// The next datagram. A wait with a time limit is interrupted when the machine is paused and goes
/// on (signal(7)), which is nothing that was received.
pub fn received(socket: &UnixDatagram, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// One request in plain HTTP on a connection of its own.
pub fn http(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: tilld\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Asks until it is so.
pub fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = monotonic() + PATIENCE;
    while !is_so() {
        assert!(monotonic() < deadline, "it is not so after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The caller of the published samples, and its key there.
pub const SKYPAY: &str = "AppName@skypay";
pub const SKYPAY_KEY: &str = "30AC21B2-9EAA-4503-B0F0-7BE5C277ED75";

/// The password under which that caller encrypts.
pub const SKYPAY_PASSWORD: &str = "k3yForTests-01";

/// A till on the branch's own network, and its key.
pub const TILL_7: &str = "till-7";
pub const TILL_7_KEY: &str = "5d0c0a52e0b94f0f";

/// The published address of the service.
pub const PATH: &str = "/collectionCollect";

pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain";
