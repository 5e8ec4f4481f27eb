//! The machine: its clocks, its randomness, its log, its limits. Knows nothing of collections.

pub mod clock;
pub mod entropy;
pub mod event;
pub mod figures;
pub mod limits;
pub mod logging;
pub mod notify;
pub mod sockets;
pub mod strangers;
pub mod watchdog;
