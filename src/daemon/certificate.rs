//! The endpoint's certificate: the configured one, or one that is made at the first start.

use std::io;
use std::path::Path;

use crate::config::{Config, Tls};
use crate::net::tls::{self, Certificate, ServerTls};
use crate::operator::{Exit, Failure};
use crate::system::event::Event;
use crate::system::limits;

/// Loads the certificate that tills are shown; makes it where none is configured.
pub fn server_tls(config: &Config) -> Result<ServerTls, Failure> {
    let wanted = &config.endpoint.tls;
    let (certificate, private_key) = if let Some(files) = &wanted.files {
        (files.certificate.clone(), files.private_key.clone())
    } else {
        let directory = config.self_signed_dir();
        make_certificate(&directory, &certificate_names(&wanted.names))?;
        (directory.join(tls::CERTIFICATE_FILE), directory.join(tls::KEY_FILE))
    };
    let loaded = tls::load(&certificate, &private_key, wanted.client_ca.as_deref());
    loaded.map_err(|error| Failure::new(Exit::Configuration, error.to_string()))
}

/// Makes another self-signed certificate, with the names that are configured now.
pub fn renew(config: &Config) -> Result<(), Failure> {
    if let Some(files) = &config.endpoint.tls.files {
        let message = format!(
            "the certificate is {}, which is for others to renew: put the new one there, then \
             `tilld reload`",
            files.certificate.display()
        );
        return Err(Failure::new(Exit::Configuration, message));
    }
    let directory = config.self_signed_dir();
    let names = certificate_names(&config.endpoint.tls.names);
    tls::renew_self_signed(&directory, &names).map_err(|error| not_made(&error))?;
    log_made(&directory);
    Ok(())
}

/// The configured names that the self-signed certificate does not hold for.
pub fn lacking_names(config: &Config, certificate: &Certificate) -> Vec<String> {
    let Tls { names, files, .. } = &config.endpoint.tls;
    let is_lacking = |name: &&String| files.is_none() && !certificate.is_for(name);
    names.iter().filter(is_lacking).cloned().collect()
}

/// Makes the self-signed certificate at the first start.
fn make_certificate(directory: &Path, names: &[String]) -> Result<(), Failure> {
    if tls::ensure_self_signed(directory, names).map_err(|error| not_made(&error))? {
        log_made(directory);
    }
    Ok(())
}

fn log_made(directory: &Path) {
    log::info!(
        TILLD_EVENT = Event::CertificateMade;
        "made a self-signed certificate in {}", directory.display()
    );
}

/// What the machine refuses, such as room on the disk, is tried again by the next start; wrong
/// names are not.
fn not_made(error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::InvalidInput => Exit::Configuration,
        _ => Exit::Error,
    };
    Failure::new(exit, error.to_string())
}

/// Under which names a till may reach this machine; the interfaces are not asked, because their
/// addresses change and the certificate stays.
fn certificate_names(configured: &[String]) -> Vec<String> {
    let mut names = vec![limits::hostname()];
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.extend(configured.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    names
}
