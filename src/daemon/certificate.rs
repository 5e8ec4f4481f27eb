//! The endpoint's certificate: the configured one, or one that is made at the first start.

use std::io;
use std::path::Path;

use crate::config::Config;
use crate::net::tls::{self, ServerTls};
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

/// Makes the self-signed certificate at the first start. What the machine refuses, such as room on
/// the disk, is tried again by the next start; wrong names are not.
fn make_certificate(directory: &Path, names: &[String]) -> Result<(), Failure> {
    match tls::ensure_self_signed(directory, names) {
        Ok(true) => log::info!(
            TILLD_EVENT = Event::CertificateMade;
            "made a self-signed certificate in {}", directory.display()
        ),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(Failure::new(Exit::Configuration, error.to_string()));
        }
        Err(error) => return Err(Failure::new(Exit::Error, error.to_string())),
    }
    Ok(())
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
