//! When to send what to head office: the loop, and the state of the link.

mod state;

pub use state::{Handle, Link, State};
