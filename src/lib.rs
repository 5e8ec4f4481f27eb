//! The map of `tilld`: one confirmed collection on its way from a till to head office.
//!
//! The modules stand in reading order; `tests/house.rs` holds which may use which.

pub mod domain;

pub mod skypay;

pub mod store;

pub mod net;

pub mod endpoint;

pub mod upstream;

pub mod relay;

pub mod operator;

pub mod config;

pub mod system;

pub mod daemon;
