//! `tilld config check`: reads all that the daemon would read, with the daemon's own eyes.

use std::io::{self, Write as _};

use crate::config::{Config, Tls};
use crate::net::tls::{self, TlsError};
use crate::operator::connection::connection;
use crate::operator::{Exit, Failure};
use crate::store::{OpenErrorKind, fits};

/// `tilld config check`
pub fn config_check(config: &Config) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "configuration ok: {}", examine(config)?)?)
}

/// What is configured, in a few words, once all that it names has been read.
pub fn examine(config: &Config) -> Result<String, Failure> {
    let unusable = |error: TlsError| Failure::new(Exit::Configuration, error.to_string());
    for caller in &config.callers {
        caller.authentication_keys()?;
        caller.encryption_passwords()?;
    }
    if let Some(upstream) = &config.upstream {
        connection(upstream)?;
    }
    check_tls(&config.endpoint.tls).map_err(unusable)?;
    match fits(&config.state_dir, config.mode) {
        // Who may not read the database checks the rest, and the daemon makes what is missing.
        Err(error) if error.kind != OpenErrorKind::Mismatch => {}
        fitting => fitting?,
    }
    let callers = callers_in_words(config);
    Ok(format!("mode {}, {callers}", config.mode.as_str()))
}

/// How many callers there are.
pub fn callers_in_words(config: &Config) -> String {
    match config.callers.len() {
        0 => "no caller: every request is answered -1001".to_owned(),
        1 => "1 caller".to_owned(),
        count => format!("{count} callers"),
    }
}

fn check_tls(configured: &Tls) -> Result<(), TlsError> {
    let client_ca = configured.client_ca.as_deref();
    match &configured.files {
        Some(files) => tls::load(&files.certificate, &files.private_key, client_ca).map(drop),
        None => client_ca.map_or(Ok(()), tls::check_client_ca),
    }
}
