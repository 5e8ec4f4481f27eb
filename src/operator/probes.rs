//! `/livez` and `/readyz`: what a supervisor or a load balancer asks. Tells nothing of the books.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::snapshot;
use crate::net::listener::{Peer, Service, Turn};
use crate::store::{Condition, Health};

/// Answers them.
pub struct Probes {
    health: Arc<Health>,
}

impl Probes {
    /// Answers about this storage. To be served once the endpoint listens.
    pub fn new(health: Arc<Health>) -> Probes {
        Probes { health }
    }
}

impl Service for Probes {
    async fn answer(
        &self,
        _peer: &Peer,
        _turn: &Turn,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let condition = || self.health.condition();
        let (status, text) = answer(request.method(), request.uri().path(), condition);
        let mut response = Response::new(Full::from(text + "\n"));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// Ready is who can record. Head office plays no part: to go on without it is what this is for.
fn answer(
    method: &Method,
    path: &str,
    condition: impl FnOnce() -> Condition,
) -> (StatusCode, String) {
    let ok = (StatusCode::OK, "ok".to_owned());
    match path {
        "/livez" | "/readyz" if !matches!(*method, Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, "ask with GET".to_owned())
        }
        "/livez" => ok,
        "/readyz" => snapshot::obstacle(condition())
            .map_or(ok, |obstacle| (StatusCode::SERVICE_UNAVAILABLE, obstacle.what)),
        _ => (StatusCode::NOT_FOUND, "there are /livez and /readyz here".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_is_who_answers_and_ready_is_who_can_record() {
        let status = |method, path, condition| answer(&method, path, || condition).0.as_u16();
        for condition in [
            Condition::Recovering,
            Condition::DiskLow,
            Condition::TapeUnwritable,
            Condition::Failed,
        ] {
            assert_eq!(status(Method::GET, "/livez", condition), 200);
            assert_eq!(status(Method::GET, "/readyz", condition), 503);
        }
        let recording = |method, path| status(method, path, Condition::Recording);
        assert_eq!(recording(Method::GET, "/readyz"), 200);
        assert_eq!(recording(Method::HEAD, "/readyz"), 200);
        assert_eq!(recording(Method::POST, "/readyz"), 405);
        assert_eq!(recording(Method::DELETE, "/livez"), 405);
        assert_eq!(recording(Method::GET, "/"), 404);
        assert_eq!(recording(Method::POST, "/collectionCollect"), 404);
    }
}
