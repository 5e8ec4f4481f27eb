//! Sockets and TLS, for whoever listens, and TLS for whoever calls. Knows nothing of collections.
//!
//! Every bound on what strangers can make us do before a request is understood stands here:
//! connections, handshakes, request heads, idling. What a request may do is its service's matter.

pub mod listener;
mod seats;
pub mod tls;

pub mod client_tls;
