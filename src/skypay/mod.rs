//! The collectionCollect protocol on the wire, both directions, as SkyPay publishes it.
//!
//! Pure: bytes in, values out and back. It knows nothing of sockets, files, clocks or of who may
//! call; what a confirmation means is `domain`'s business.

pub mod request;

mod json;

pub mod reply;

pub mod outgoing;

pub mod answer;

pub mod cipher;

pub mod channel;
