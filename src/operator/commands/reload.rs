//! `tilld reload` and `tilld cert renew`: has the running daemon take what is configured now, and
//! waits until it has.

use std::io::{self, Write as _};

use crate::config::Config;
use crate::operator::Failure;
use crate::operator::control::{self, Reply, Request};

/// `tilld reload`
pub fn run(config: &Config) -> Result<(), Failure> {
    let summary = reload(config)?;
    Ok(writeln!(io::stdout(), "reloaded: {summary}")?)
}

/// `tilld cert renew`
pub fn renew_certificate(config: &Config) -> Result<(), Failure> {
    let summary = ask(config, &Request::RenewCertificate)?;
    Ok(writeln!(
        io::stdout(),
        "renewed: {summary}\ntills that trusted the one before must be given this one: \
         `tilld cert show --pem`"
    )?)
}

/// Asks for it; gives what is in force then, in a line.
pub fn reload(config: &Config) -> Result<String, Failure> {
    ask(config, &Request::Reload)
}

fn ask(config: &Config, request: &Request) -> Result<String, Failure> {
    match control::ask(&config.operator.socket, request)? {
        Reply::Reloaded { summary } => Ok(summary),
        _ => Err(control::unexpected()),
    }
}
