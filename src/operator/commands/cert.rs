//! `tilld cert show`: what a technician compares with what a till shows.

use crate::config::Config;
use crate::net::tls;
use crate::operator::{Exit, Failure};

/// `tilld cert show`
pub fn show(config: &Config, pem: bool) -> Result<(), Failure> {
    let path = match &config.endpoint.tls.files {
        Some(files) => files.certificate.clone(),
        None => config.self_signed_dir().join(tls::CERTIFICATE_FILE),
    };
    if !path.exists() {
        let message = format!(
            "{} is not there yet: the daemon makes it when it starts first",
            path.display()
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let certificate =
        tls::describe(&path).map_err(|error| Failure::new(Exit::BadData, error.to_string()))?;
    if pem {
        print!("{}", certificate.pem);
    } else {
        println!("file         {}", path.display());
        println!("names        {}", certificate.names.join(", "));
        println!("valid from   {}", certificate.not_before);
        println!("valid until  {}", certificate.not_after);
        println!("SHA-256      {}", certificate.fingerprint);
    }
    Ok(())
}
