//! What hyper and rustls cost alone: an endpoint with the daemon's TLS settings and as many worker
//! threads, which reads a body and answers always the same. It must not know anything else.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tilld::net::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::Outcome;

/// The daemon has no more threads for connections either.
const THREADS_MAX: usize = 8;

/// As long as what the daemon answers.
const ANSWER: &[u8] = b"{\"responseCode\":\"1000\",\"responseDescription\":\"SUCCESS\",\
    \"responseTime\":\"2026-11-21 17:52:10\"}";

/// Listens with a certificate and key of the daemon's own making until the runtime is dropped.
pub fn start(directory: &Path) -> Outcome<(Runtime, u16)> {
    tls::ensure_self_signed(&directory.join("tls"), &["localhost".to_owned()])?;
    let tls = tls::load(
        &directory.join("tls").join(tls::CERTIFICATE_FILE),
        &directory.join("tls").join(tls::KEY_FILE),
        None,
    )?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(cores.min(THREADS_MAX))
        .build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let port = listener.local_addr()?.port();
    let acceptor = TlsAcceptor::from(tls.config);
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, acceptor.clone()));
        }
    });
    Ok((runtime, port))
}

async fn serve(socket: TcpStream, acceptor: TlsAcceptor) {
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let Ok(stream) = acceptor.accept(socket).await else { return };
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    // A client that goes is nothing to tell of.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::from(ANSWER));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
