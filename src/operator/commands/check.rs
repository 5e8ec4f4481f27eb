//! `tilld config check`: reads all that the daemon would read, with the daemon's own eyes.

use crate::config::Config;
use crate::net::tls;
use crate::operator::{Exit, Failure};

/// `tilld config check`
pub fn config_check(config: &Config) -> Result<(), Failure> {
    for caller in &config.callers {
        caller.authentication_keys()?;
        caller.encryption_passwords()?;
    }
    let tls = &config.endpoint.tls;
    if let Some(files) = &tls.files {
        tls::load(&files.certificate, &files.private_key, tls.client_ca.as_deref())
            .map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
    }
    let callers = match config.callers.len() {
        0 => "no caller: every request will be answered -1001".to_owned(),
        1 => "1 caller".to_owned(),
        count => format!("{count} callers"),
    };
    println!("configuration ok: mode {}, {callers}", config.mode.as_str());
    Ok(())
}
