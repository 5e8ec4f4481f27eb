//! `tilld reload`: has the running daemon take what is configured now, and waits until it has.

use std::io::{self, Write as _};

use crate::config::Config;
use crate::operator::Failure;
use crate::operator::control::{self, Reply, Request};

/// `tilld reload`
pub fn run(config: &Config) -> Result<(), Failure> {
    let summary = reload(config)?;
    Ok(writeln!(io::stdout(), "reloaded: {summary}")?)
}

/// Asks for it; gives what is in force then, in a line.
pub fn reload(config: &Config) -> Result<String, Failure> {
    match control::ask(&config.operator.socket, &Request::Reload)? {
        Reply::Reloaded { summary } => Ok(summary),
        _ => Err(control::unexpected()),
    }
}
