//! Serves HTTP/1.1, over TLS or plain, on one socket, within bounds, and ends without dropping a
//! request.
//!
//! Knows nothing of paths, bodies or callers: those are its service's. It bounds what happens
//! before a request is understood (connections, handshake, head, idling) and leaves the time a
//! request takes, its body included, to the service.
//!
//! A service's future runs inside its connection's task and is not spawned. It is dropped
//! unfinished only when the connection breaks or when [`DRAIN_TIME`] is over, so a service must
//! hand what it promises to somebody else before it awaits. A client that only stops sending
//! changes nothing: its request is answered, whether it listens or not.

use std::collections::VecDeque;
use std::future::{self, Future, poll_fn};
use std::io;
use std::iter;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use super::seats::{Counts, Limits};
use super::seats::{Phase, Seat, Seats, Standing};
use crate::system::event::Event;
use crate::system::strangers;

/// From accept to the end of the TLS handshake. A till on the branch LAN needs milliseconds; this
/// leaves room for a lost packet or two.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// From a request's first byte to the end of its head, which any client sends in one go.
pub const HEAD_TIME: Duration = Duration::from_secs(5);

/// From one request's response, or the handshake, to the next request's first byte. Long enough
/// for a queue of payers at one till, short enough that tills which were switched off are noticed.
/// A client that does not read its response has this long, too.
pub const IDLE_TIME: Duration = Duration::from_secs(30);

/// A request's head: a till sends less than 1 KiB, and a proxy adds some. More is answered 431. The
/// number of header fields is bounded by hyper itself, at 100.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// From the shutdown's begin to the last connection's end, well below the 90 s that systemd waits.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

/// How long, after the shutdown's begin, an idle connection stays open for a request that may be
/// under way: a round trip on a bad day.
pub const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// How long nothing is accepted when the machine is out of descriptors or memory: the connection
/// stays in the kernel's queue, and trying again at once would only burn the processor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a listener that can accept says so.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What a connection that did not speak TLS may still send while it reads why it is closed.
const PLAIN_BYTES_MAX: u64 = 64 * 1024;

/// The first byte of every TLS connection: a record that carries a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\
    \r\n\
    This port speaks HTTPS; use https:// in the URL.\n";

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The socket's peer; an IPv4 address also where the socket is an IPv6 one.
    pub address: IpAddr,
    /// SHA-256 of the certificate that the client presented, in DER. Some when one was asked for.
    pub client_certificate: Option<[u8; 32]>,
}

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. It bounds the time itself, and the body that it reads. Until it calls
    /// [`Turn::begin`] its connection may be closed to make room for others.
    fn answer(
        &self,
        peer: &Peer,
        turn: &Turn,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// A request's claim to be answered.
pub struct Turn(Arc<Seat>);

impl Turn {
    /// From now on this connection is not closed to make room: what was asked is being done. False
    /// when it was told to leave already; then nothing may be begun.
    pub fn begin(&self) -> bool {
        self.0.enter(Phase::Busy)
    }

    /// The answer is held back on purpose; meanwhile whoever is in need may have the place.
    pub fn hold(&self) {
        self.0.enter(Phase::Body);
    }
}

/// How serving ended, for one line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open, or waiting to be accepted, when the shutdown began and that
    /// ended by themselves.
    pub finished: usize,
    /// Connections that were still open after [`DRAIN_TIME`] and were cut.
    pub cut: usize,
    /// What happened since the start.
    pub counts: Counts,
}

/// What protects the connections of a listener.
pub enum Security {
    /// Nothing: for a socket that only this machine reaches.
    Plain,
    /// TLS, as it is configured when a connection begins.
    Tls(SharedTls),
}

/// A TLS configuration that can be replaced while it is in use.
pub type SharedTls = Arc<ArcSwap<ServerConfig>>;

/// Serves until `shutdown` is done, and then within [`DRAIN_TIME`] everybody who is connected by
/// then, also those whom only the kernel has accepted yet. Calls `beat` about once a
/// [`BEAT_INTERVAL`] while it can accept.
pub async fn serve<S: Service>(
    listener: TcpListener,
    security: Security,
    limits: Limits,
    service: Arc<S>,
    beat: impl Fn(),
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let seats = Seats::new(limits);
    let start = |socket: TcpStream, seat: Seat| {
        let seat = Arc::new(seat);
        let service = Arc::clone(&service);
        match &security {
            Security::Plain => {
                tokio::spawn(attend(future::ready(greet_plain(socket)), seat, service))
            }
            Security::Tls(config) => {
                let acceptor = TlsAcceptor::from(config.load_full());
                let greeting = greet(socket, acceptor, Arc::clone(&seat));
                tokio::spawn(attend(greeting, seat, service))
            }
        };
    };

    let mut door = Door { listener, short: false };
    let mut beats = interval(BEAT_INTERVAL);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    let in_hand = loop {
        let (socket, address) = tokio::select! {
            biased;
            () = &mut shutdown => break None,
            _ = beats.tick() => {
                beat();
                continue;
            }
            next = door.next() => next,
        };
        let seat = tokio::select! {
            biased;
            () = &mut shutdown => break Some((socket, address)),
            seat = seats.offer(address) => seat,
        };
        if let Some(seat) = seat {
            start(socket, seat);
        }
    };

    let late = in_hand.into_iter().chain(door.close(limits.connections_max)).collect();
    drain(&seats, late, start).await
}

/// Serves the late ones and waits until nobody is connected, or cuts.
async fn drain(
    seats: &Arc<Seats>,
    mut late: VecDeque<(TcpStream, IpAddr)>,
    start: impl Fn(TcpStream, Seat),
) -> Drained {
    let open = seats.drain() + late.len();
    let ending = timeout(DRAIN_TIME, async {
        while let Some(address) = late.front().map(|(_, address)| *address) {
            let seat = seats.offer(address).await;
            if let (Some((socket, _)), Some(seat)) = (late.pop_front(), seat) {
                start(socket, seat);
            }
        }
        seats.emptied().await;
    });
    let cut = match ending.await {
        Ok(()) => 0,
        Err(_) => seats.cut() + late.len(),
    };
    seats.emptied().await;
    Drained { finished: open - cut, cut, counts: seats.counts() }
}

/// The listening socket, and whether the machine was out of resources when it was last asked.
struct Door {
    listener: TcpListener,
    short: bool,
}

impl Door {
    /// The next connection; one that failed before it was accepted is passed over.
    async fn next(&mut self) -> (TcpStream, IpAddr) {
        loop {
            match self.listener.accept().await {
                Ok((socket, peer)) => {
                    self.short = false;
                    return (socket, peer.ip().to_canonical());
                }
                Err(error) if is_shortage(&error) => {
                    if !std::mem::replace(&mut self.short, true) && strangers::NO_ROOM.admits_line()
                    {
                        log::warn!(
                            TILLD_EVENT = Event::AcceptPaused;
                            "no connection can be accepted: {error}; callers wait until others \
                             leave; raise LimitNOFILE or lower connections_max if this returns"
                        );
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => {
                    if strangers::NOT_ACCEPTED.admits_line() {
                        log::debug!("a connection ended before it was accepted: {error}");
                    }
                }
            }
        }
    }

    /// Stops listening, and gives those whom the kernel has accepted already.
    fn close(self, connections_max: usize) -> Vec<(TcpStream, IpAddr)> {
        // The blocking socket's accept asks the kernel, tokio's asks what its poller saw last.
        let Ok(listener) = self.listener.into_std() else { return Vec::new() };
        iter::from_fn(|| listener.accept().ok())
            .take(connections_max)
            .filter_map(|(socket, peer)| {
                socket.set_nonblocking(true).ok()?;
                Some((TcpStream::from_std(socket).ok()?, peer.ip().to_canonical()))
            })
            .collect()
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// A connection that can be served.
struct Greeted<IO> {
    stream: IO,
    client_certificate: Option<[u8; 32]>,
}

/// Without TLS there is nothing to agree on.
fn greet_plain(socket: TcpStream) -> io::Result<Option<Greeted<TcpStream>>> {
    socket.set_nodelay(true)?;
    Ok(Some(Greeted { stream: socket, client_certificate: None }))
}

/// The TLS handshake; `None` when the connection was no TLS and was told so, or said nothing.
async fn greet(
    mut socket: TcpStream,
    acceptor: TlsAcceptor,
    seat: Arc<Seat>,
) -> io::Result<Option<Greeted<TlsStream<TcpStream>>>> {
    // A response is one small write; it must not wait for an acknowledgement.
    socket.set_nodelay(true)?;
    let mut first = [0];
    if socket.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first != [TLS_HANDSHAKE_RECORD] {
        seat.count(|counts| counts.plain += 1);
        if strangers::NOT_TLS.admits_line() {
            log::debug!(TILLD_ADDRESS:% = seat.address(); "a connection does not speak TLS");
        }
        socket.write_all(PLAIN_ANSWER).await?;
        socket.shutdown().await?;
        // To close on unread bytes resets the connection and may destroy the answer on its way.
        tokio::io::copy(&mut socket.take(PLAIN_BYTES_MAX), &mut tokio::io::sink()).await?;
        return Ok(None);
    }
    acceptor.accept(socket).await.map(Greeted::over_tls).map(Some)
}

impl<IO> Greeted<TlsStream<IO>> {
    fn over_tls(stream: TlsStream<IO>) -> Self {
        let certificates = stream.get_ref().1.peer_certificates();
        let leaf = certificates.and_then(<[_]>::first);
        Greeted { client_certificate: leaf.map(|leaf| Sha256::digest(leaf).into()), stream }
    }
}

/// One connection from its greeting to its end.
async fn attend<S: Service, IO>(
    greeting: impl Future<Output = io::Result<Option<Greeted<IO>>>>,
    seat: Arc<Seat>,
    service: Arc<S>,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Greeted { stream, client_certificate } = match within_bounds(&seat, pin!(greeting)).await {
        Some(Ok(Some(greeted))) => greeted,
        Some(Ok(None)) | None => return,
        Some(Err(error)) => {
            if strangers::HANDSHAKES.admits_line() {
                log::debug!(TILLD_ADDRESS:% = seat.address(); "a handshake failed: {error}");
            }
            return;
        }
    };
    seat.enter(Phase::Idle);
    let peer = Arc::new(Peer { address: seat.address(), client_certificate });
    let answering = service_fn(|request| {
        answer(Arc::clone(&seat), Arc::clone(&peer), Arc::clone(&service), request)
    });
    let io = TokioIo::new(Heard { io: stream, seat: Arc::clone(&seat) });
    // A client may stop sending once its request is out; without `half_close` hyper would take
    // that for a hang-up and drop the request. Hyper's own clock runs through an idle time and the
    // head after it, so it gets both; it is the net below ours.
    let connection = http1::Builder::new()
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIME + HEAD_TIME)
        .serve_connection(io, answering);
    let mut connection = pin!(connection);
    match within_bounds(&seat, connection.as_mut()).await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            if strangers::BROKEN.admits_line() {
                log::debug!(TILLD_ADDRESS:% = seat.address(); "a connection broke: {error}");
            }
        }
        None => {
            // One try to say good-bye in TLS, without waiting for it.
            connection.as_mut().graceful_shutdown();
            poll_fn(|cx| {
                let _ = connection.as_mut().poll(cx);
                Poll::Ready(())
            })
            .await;
        }
    }
}

async fn answer<S: Service>(
    seat: Arc<Seat>,
    peer: Arc<Peer>,
    service: Arc<S>,
    request: Request<Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    if !seat.enter(Phase::Body) {
        return Err(io::Error::other("it was told to leave before its request was complete"));
    }
    let turn = Turn(Arc::clone(&seat));
    let mut response = service.answer(&peer, &turn, request).await;
    if seat.draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    seat.enter(Phase::Idle);
    Ok(response)
}

/// Runs a connection's work until it is done, or until the connection has been in one phase for
/// too long or was told to leave: then `None`, and it takes no further request.
async fn within_bounds<F: Future>(seat: &Seat, mut work: Pin<&mut F>) -> Option<F::Output> {
    let mut timer = pin!(None);
    let mut armed = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // Only the work above and those who want this connection to leave change where it stands;
        // the latter wake this task.
        let standing = seat.standing(cx.waker());
        if standing.phase == Phase::Leaving {
            if strangers::MADE_ROOM.admits_line() {
                log::debug!(
                    TILLD_ADDRESS:% = seat.address();
                    "a connection is closed: others want in, or the drain is over"
                );
            }
            return Poll::Ready(None);
        }
        let allowed = time_allowed(standing);
        if armed != Some((standing.since, allowed)) {
            armed = Some((standing.since, allowed));
            timer.set(allowed.map(sleep));
        }
        let Some(timer) = timer.as_mut().as_pin_mut() else { return Poll::Pending };
        ready!(timer.poll(cx));
        if !standing.draining {
            seat.count(|counts| counts.timed_out += 1);
        }
        let phase = standing.phase;
        if strangers::TOO_LONG.admits_line() {
            log::debug!(
                TILLD_ADDRESS:% = seat.address();
                "a connection is closed: {phase:?} took too long"
            );
        }
        seat.enter(Phase::Leaving);
        Poll::Ready(None)
    })
    .await
}

/// How long a connection may be in its phase. What is with the service has no bound here: the
/// service has, and a commit on a slow disk is worth waiting for.
fn time_allowed(standing: Standing) -> Option<Duration> {
    match standing.phase {
        Phase::Handshake => Some(HANDSHAKE_TIME),
        Phase::Head => Some(HEAD_TIME),
        Phase::Idle if standing.draining => Some(DRAIN_GRACE),
        Phase::Idle => Some(IDLE_TIME),
        Phase::Body | Phase::Busy | Phase::Leaving => None,
    }
}

/// A stream that reports when something is read from it: the first byte after an idle time is
/// where a request's head begins.
struct Heard<IO> {
    io: IO,
    seat: Arc<Seat>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Heard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.seat.enter(Phase::Head);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Heard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
