//! The way in: one HTTP request becomes one reply.
//!
//! Knows who may call and what the wire says; what becomes of a confirmation is decided in the
//! store, and how connections live and die is the listener's business.

mod callers;
mod routes;
mod self_test;
mod strayed;
mod throttle;

pub use callers::Callers;
pub use routes::{Endpoint, Rules};
pub use strayed::{Strayed, StrayedCallers};
