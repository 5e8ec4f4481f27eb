//! `/livez` and `/readyz`, which a supervisor or a load balancer asks, and `/metrics`. Tells
//! nothing of single collections.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::metrics::{self, Meter, Reading};
use super::snapshot;
use crate::net::listener::{Peer, Service, Turn};
use crate::store::{Condition, Health};

/// How words are told to be words.
const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers them.
pub struct Probes<M> {
    health: Arc<Health>,
    meter: M,
}

/// Whether this path is theirs.
pub fn answers(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/metrics")
}

impl<M> Probes<M> {
    /// Answers about this storage, and what is read off this meter. To be served once the endpoint
    /// listens.
    pub fn new(health: Arc<Health>, meter: M) -> Probes<M> {
        Probes { health, meter }
    }
}

impl<M: Meter> Service for Probes<M> {
    async fn answer(
        &self,
        _peer: &Peer,
        _turn: &Turn,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let condition = || self.health.condition();
        let (status, content_type, text) =
            match answer(request.method(), request.uri().path(), condition) {
                Answer::Words(status, words) => (status, PLAIN, words + "\n"),
                Answer::Figures => match self.meter.read().await.map(Reading::page) {
                    Some(Ok(page)) => (StatusCode::OK, metrics::CONTENT_TYPE, page),
                    _ => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, "stopping\n".to_owned()),
                },
            };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// What is to be said.
enum Answer {
    Words(StatusCode, String),
    /// The page of figures.
    Figures,
}

/// Ready is who can record. Head office plays no part: to go on without it is what this is for.
fn answer(method: &Method, path: &str, condition: impl FnOnce() -> Condition) -> Answer {
    let ok = || Answer::Words(StatusCode::OK, "ok".to_owned());
    match path {
        "/livez" | "/readyz" | "/metrics" if !matches!(*method, Method::GET | Method::HEAD) => {
            Answer::Words(StatusCode::METHOD_NOT_ALLOWED, "ask with GET".to_owned())
        }
        "/livez" => ok(),
        "/readyz" => snapshot::obstacle(condition()).map_or_else(ok, |obstacle| {
            Answer::Words(StatusCode::SERVICE_UNAVAILABLE, obstacle.what)
        }),
        "/metrics" => Answer::Figures,
        _ => {
            let words = "there are /livez, /readyz and /metrics here".to_owned();
            Answer::Words(StatusCode::NOT_FOUND, words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_is_who_answers_and_ready_is_who_can_record() {
        let status = |method, path, condition| match answer(&method, path, || condition) {
            Answer::Words(status, _) => status.as_u16(),
            Answer::Figures => 200,
        };
        for condition in [
            Condition::Recovering,
            Condition::DiskLow,
            Condition::TapeUnwritable,
            Condition::Failed,
        ] {
            assert_eq!(status(Method::GET, "/livez", condition), 200);
            assert_eq!(status(Method::GET, "/readyz", condition), 503);
            assert_eq!(status(Method::GET, "/metrics", condition), 200);
        }
        let recording = |method, path| status(method, path, Condition::Recording);
        assert_eq!(recording(Method::GET, "/readyz"), 200);
        assert_eq!(recording(Method::HEAD, "/readyz"), 200);
        assert_eq!(recording(Method::POST, "/readyz"), 405);
        assert_eq!(recording(Method::DELETE, "/livez"), 405);
        assert_eq!(recording(Method::POST, "/metrics"), 405);
        assert_eq!(recording(Method::GET, "/"), 404);
        assert_eq!(recording(Method::POST, "/collectionCollect"), 404);
    }
}
