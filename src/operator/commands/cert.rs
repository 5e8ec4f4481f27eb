//! `tilld cert show`: what a technician compares with what a till shows.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::config::Config;
use crate::net::tls::{self, Certificate};
use crate::operator::cli::Output;
use crate::operator::output::{Member, Printer, document, row_of, visible};
use crate::operator::{Exit, Failure, may_read};

/// `tilld cert show`
pub fn show(config: &Config, pem: bool, output: Output) -> Result<(), Failure> {
    let path = match &config.endpoint.tls.files {
        Some(files) => files.certificate.clone(),
        None => config.self_signed_dir().join(tls::CERTIFICATE_FILE),
    };
    may_read(&path)?;
    if !path.exists() {
        let remedy = match &config.endpoint.tls.files {
            Some(_) => "correct `certificate` in [endpoint.tls]",
            None => "the daemon makes it when it starts first",
        };
        let message = format!("{} is not there yet: {remedy}", path.display());
        return Err(Failure::new(Exit::NotFound, message));
    }
    let certificate =
        tls::describe(&path).map_err(|error| Failure::new(Exit::BadData, error.to_string()))?;
    let mut out = BufWriter::new(io::stdout().lock());
    if pem {
        write!(out, "{}", certificate.pem)?;
    } else {
        print(&mut out, &(path, certificate), output)?;
    }
    Ok(out.flush()?)
}

fn print(mut out: impl Write, shown: &(PathBuf, Certificate), output: Output) -> io::Result<()> {
    let (path, certificate) = shown;
    let row = row_of(CERTIFICATE, shown);
    match output {
        Output::Table => {
            writeln!(out, "file         {}", path.display())?;
            writeln!(out, "names        {}", visible(&certificate.names.join(", ")))?;
            writeln!(out, "valid from   {}", certificate.not_before)?;
            writeln!(out, "valid until  {}", certificate.not_after)?;
            writeln!(out, "SHA-256      {}", certificate.fingerprint)
        }
        Output::Json => writeln!(out, "{}", document(row)),
        Output::Jsonl | Output::Csv => {
            let mut printer = Printer::new(out, output, "certificate", &[]);
            printer.row(row)?;
            printer.finish([]).map(drop)
        }
    }
}

/// What machines are told of a certificate.
const CERTIFICATE: &[Member<(PathBuf, Certificate)>] = &[
    ("file", |(path, _)| path.display().to_string().into()),
    ("names", |(_, certificate)| certificate.names.clone().into()),
    ("valid_from", |(_, certificate)| certificate.not_before.as_str().into()),
    ("valid_until", |(_, certificate)| certificate.not_after.as_str().into()),
    ("sha256", |(_, certificate)| certificate.fingerprint.as_str().into()),
];
