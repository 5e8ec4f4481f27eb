//! The valid configuration. Whoever holds a [`Config`] need not check it again.
//!
//! `raw` mirrors the file, `source` reads the files and shows mistakes, `load` makes the one from
//! the other, `secrets` reads the files of keys that a configuration names. Nothing here listens,
//! connects or logs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use ipnet::IpNet;
use log::LevelFilter;
use zeroize::Zeroizing;

use crate::domain::collection::{BranchName, UserName};
use crate::domain::contract::{ContractPolicy, Mode, Prefix};

pub mod accounts;
pub mod key_file;
mod load;
mod raw;
pub mod secrets;
mod source;

use key_file::KnownKey;
pub use load::duration;
pub use source::ConfigError;

/// All that can be configured. Every path is absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it was read from.
    pub file: PathBuf,
    /// Whether real money is meant. Default: live.
    pub mode: Mode,
    /// Where database, tape and certificate live. Default: `/var/lib/tilld`.
    pub state_dir: PathBuf,
    /// Bytes that new collections must leave free on the disk. Default: 64 MiB.
    pub disk_reserve: u64,
    /// `[endpoint]`
    pub endpoint: Endpoint,
    /// `[[caller]]`, each user name once. None at all is valid: then every request is refused.
    pub callers: Vec<Caller>,
    /// `[upstream]`. None: nothing is sent, rows are kept.
    pub upstream: Option<Upstream>,
    /// `[operator]`
    pub operator: Operator,
    /// `[backup]`
    pub backup: Backup,
    /// `[log]`
    pub log: Log,
}

impl Config {
    /// Reads the file at `path`, then `conf.d/*.toml` in the same directory in byte order of file
    /// name. A later value replaces an earlier one, `[[caller]]` appends.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        load::load(path, &load::Surroundings::of(path))
    }

    /// Where the self-signed certificate lives when none is configured.
    pub fn self_signed_dir(&self) -> PathBuf {
        self.state_dir.join("tls")
    }
}

/// How collections are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where tills and SkyPay connect to. Default: `0.0.0.0:8443`.
    pub listen: SocketAddr,
    /// How often one contract may be collected. Default: once.
    pub contracts: ContractPolicy,
    /// The billers collected for here. Empty, the default: all.
    pub prefixes: Vec<Prefix>,
    /// How `responseCode` is written. Default: as a string.
    pub reply_code: ReplyCode,
    /// Connections at a time, 1 to 65,535. Default: 1024.
    pub connections_max: usize,
    /// Connections at a time from one address, at most `connections_max`. Default: 256, or
    /// `connections_max` when that is less.
    pub connections_per_address_max: usize,
    /// `[endpoint.tls]`
    pub tls: Tls,
}

/// The JSON type of `responseCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyCode {
    /// As in every published sample.
    String,
    /// As in the published tables.
    Number,
}

/// How the endpoint proves who it is, and whom it asks to do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Further DNS names and IP addresses for the self-signed certificate.
    pub names: Vec<String>,
    /// None: a self-signed certificate is made in the state directory.
    pub files: Option<CertificateFiles>,
    /// The authority (PEM) that must have signed the callers' certificates. None: callers need
    /// not present one.
    pub client_ca: Option<PathBuf>,
}

/// A certificate (PEM, with its chain) and its private key (PEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then whatever leads to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
}

/// Somebody who may confirm collections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name in `userName`.
    pub user_name: UserName,
    /// The keys that are taken in `authentication`.
    pub authentication_file: PathBuf,
    /// The passwords of encrypted bodies. None: this caller sends plain JSON only.
    pub encryption_file: Option<PathBuf>,
    /// Whether plain JSON is refused. Default: no.
    pub require_encryption: bool,
    /// The networks it calls from. Empty, the default: everywhere.
    pub allow_from: Vec<IpNet>,
    /// The branch, when this caller is another `tilld` that relays.
    pub branch: Option<BranchName>,
}

impl Caller {
    /// Reads the keys that are taken in `authentication`; never none.
    pub fn authentication_keys(&self) -> Result<Vec<Zeroizing<String>>, ConfigError> {
        secrets::read(&self.authentication_file, &format!("caller {}", self.user_name))
    }

    /// The same without what is secret about them.
    pub fn known_keys(&self) -> Result<Vec<KnownKey>, ConfigError> {
        key_file::known(&self.authentication_file, &format!("caller {}", self.user_name))
    }

    /// Reads the passwords of encrypted bodies; none when this caller has no such file.
    pub fn encryption_passwords(&self) -> Result<Vec<Zeroizing<String>>, ConfigError> {
        let wanted_by = format!("caller {}", self.user_name);
        let file = self.encryption_file.as_deref();
        file.map_or(Ok(Vec::new()), |file| secrets::read(file, &wanted_by))
    }
}

/// Head office, or a hub on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where confirmations are posted; always `https` with a host.
    pub url: Uri,
    /// Our own name.
    pub branch: BranchName,
    /// The name that we send as `userName`.
    pub user_name: UserName,
    /// The key that we send as `authentication`: the first in the file.
    pub authentication_file: PathBuf,
    /// The password that we encrypt with: the first in the file. None: we send plain JSON.
    pub encryption_file: Option<PathBuf>,
    /// The authorities (PEM) that we trust. None: those of the system.
    pub ca_file: Option<PathBuf>,
    /// What we present when head office asks for a certificate.
    pub client_certificate: Option<CertificateFiles>,
    /// Tries at a time, 1 to 256. Default: 128, because a try waits most for head office's disk,
    /// and all that are under way share its sync.
    pub concurrency: usize,
    /// How long connecting may take. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long a whole try may take. Default: 15 s.
    pub timeout: Duration,
}

impl Upstream {
    /// Reads the key that we send as `authentication`: the file's first.
    pub fn authentication_key(&self) -> Result<Zeroizing<String>, ConfigError> {
        secrets::read_first(&self.authentication_file, "[upstream]")
    }

    /// Reads the password that we encrypt with, the file's first; none without such a file.
    pub fn encryption_password(&self) -> Result<Option<Zeroizing<String>>, ConfigError> {
        let file = self.encryption_file.as_deref();
        file.map(|file| secrets::read_first(file, "[upstream]")).transpose()
    }
}

/// What is there for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Console, metrics and health. Default: `127.0.0.1:9443`.
    pub listen: SocketAddr,
    /// The control socket. Default: `/run/tilld/tilld.sock`; in the state directory when there is
    /// no such directory, or the configuration is not in `/etc/tilld`.
    pub socket: PathBuf,
    /// What any local user may know: `status.json` beside the socket.
    pub status_file: PathBuf,
    /// Who may log in at the console. Default: `/etc/tilld/users`.
    pub users_file: PathBuf,
    /// Whether `/metrics` tells the sum of the day's collections. Default: no.
    pub metrics_takings: bool,
}

/// Daily backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Where they are kept. Default: `backups` in the state directory.
    pub directory: PathBuf,
    /// For how many days, 1 to 3650. Default: 7.
    pub keep_days: u32,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important lines that are still written. Default: info.
    pub level: LevelFilter,
}

#[cfg(test)]
mod tests;
