//! When to send what to head office: the rules, the loop around them, and the state of the link.

pub mod lane;

mod run;
mod state;

pub use run::{Ready, prepare};
pub use state::{Handle, Link, State};
