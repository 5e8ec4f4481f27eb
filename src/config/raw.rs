//! The configuration file as it is written: one struct a section, one field a key.
//!
//! The comments are what the manual page and the reference configuration say, which are made of
//! them; the last paragraph of a key shows a value, in one of the forms that stand below.
//!
//! Knows names and TOML types only. Every value keeps its place in the file, so that what turns
//! out to be wrong later can still be shown; what a value means is judged in `load`.

use std::ops::{Deref, Range};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// A key that may be left out.
pub(super) type Key<T> = Option<Spanned<T>>;

/// A whole number, or a text with a unit. Kept as any TOML value, because our own words say what
/// is allowed better than the name of a Rust type does.
pub(super) type Quantity = toml::Value;

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Document {
    /// `"live"`, or `"sandbox"`, which takes the masked published samples and queues nothing for
    /// head office. The database remembers its mode and is never opened in the other.
    ///
    /// Default: `"live"`
    pub mode: Key<String>,
    /// Where database, tape, lock and self-signed certificate live. On a local disk: a network file
    /// system is not safe for the database. Made if it is not there. Another directory needs
    /// `ReadWritePaths=` in a drop-in of the unit.
    ///
    /// Default: `"/var/lib/tilld"`
    pub state_dir: Key<String>,
    /// A size. When less is free on the disk, new collections are answered -1009.
    ///
    /// Default: `"64 MiB"`
    pub disk_reserve: Key<Quantity>,
    pub endpoint: Endpoint,
    pub caller: Vec<Caller>,
    pub upstream: Section<Upstream>,
    pub operator: Operator,
    pub backup: Backup,
    pub log: Log,
}

/// How collections are taken.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [endpoint]")]
pub(super) struct Endpoint {
    /// The IP address and port that tills and SkyPay connect to. `"[::]:8443"` listens on IPv6, and
    /// on most machines on IPv4 too.
    ///
    /// Default: `"0.0.0.0:8443"`
    pub listen: Key<String>,
    /// `"single"`: a contract is paid once. `"installments"`: with any number of receipts.
    ///
    /// Default: `"single"`
    pub contracts: Key<String>,
    /// The billers collected for here, each 5 capital letters or digits; others are answered 2006.
    /// Empty: all.
    ///
    /// Default: `[]`
    pub prefixes: Key<Vec<Spanned<String>>>,
    /// The JSON type of `responseCode`: `"string"` or `"number"`.
    ///
    /// Default: `"string"`
    pub reply_code: Key<String>,
    /// Connections at a time, 1 to 65535. At the limit the one that has been idle longest is
    /// closed.
    ///
    /// Default: `1024`
    pub connections_max: Key<Quantity>,
    /// The same from one address, 1 to `connections_max`.
    ///
    /// Default: `256`, or `connections_max` if that is less
    pub connections_per_address_max: Key<Quantity>,
    pub tls: Tls,
}

/// How the endpoint proves who it is. Without a certificate of your own, a self-signed one is made
/// in the state directory at the first start.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [endpoint.tls]")]
pub(super) struct Tls {
    /// Further host names and IP addresses for the self-signed certificate. Read only when it is
    /// made.
    ///
    /// Example: `["192.168.10.5", "tilld.branch.example"]`
    pub names: Key<Vec<Spanned<String>>>,
    /// A certificate of your own (PEM), with what leads to its authority. Needs `private_key`.
    ///
    /// Example: `"/etc/tilld/tls/cert.pem"`
    pub certificate: Key<String>,
    /// The private key (PEM, not encrypted) of `certificate`.
    ///
    /// Example: `"/etc/tilld/tls/key.pem"`
    pub private_key: Key<String>,
    /// The authority (PEM) that must have signed the certificate that every caller then has to
    /// present.
    ///
    /// Example: `"/etc/tilld/tls/tills-ca.pem"`
    pub client_ca: Key<String>,
}

/// Somebody who may confirm collections: one section for each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "sections [[caller]], in double brackets")]
pub(super) struct Caller {
    /// The `userName` that it sends, 1 to 50 characters. A name that stands twice is an error.
    ///
    /// Required: `"till-7"`
    pub user_name: Spanned<String>,
    /// Its keys, one a line, all active. Others must not be able to read the file.
    ///
    /// Required: `"/etc/tilld/secrets.d/till-7.keys"`
    pub authentication_file: Spanned<String>,
    /// Its passwords, one a line, all active. Without it this caller sends plain JSON only.
    ///
    /// Example: `"/etc/tilld/secrets.d/till-7.passwords"`
    pub encryption_file: Key<String>,
    /// Whether plain JSON from this caller is answered -1001. Needs `encryption_file`.
    ///
    /// Default: `false`
    pub require_encryption: Key<bool>,
    /// The networks or addresses from which it may call. The peer of the socket counts; forwarding
    /// headers are ignored. Empty: everywhere.
    ///
    /// Default: `[]`
    pub allow_from: Key<Vec<Spanned<String>>>,
    /// This caller is another tilld that relays for this branch: 1 to 32 letters, digits, dots,
    /// underscores and hyphens. What it relays was answered 1000 before, so it is always recorded.
    ///
    /// Example: `"MNL-042"`
    pub branch: Key<String>,
}

/// Head office, or a hub on the way to it. Without this section collections are kept and not sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [upstream]")]
pub(super) struct Upstream {
    /// Where confirmations are posted; https only.
    ///
    /// Required: `"https://collect.example.com/collectionCollect"`
    pub url: Key<String>,
    /// The name of this branch: 1 to 32 letters, digits, dots, underscores and hyphens.
    ///
    /// Required: `"MNL-042"`
    pub branch: Key<String>,
    /// What we send as `userName`, 1 to 50 characters.
    ///
    /// Required: `"branch-mnl-042"`
    pub user_name: Key<String>,
    /// Our key at head office: the first line.
    ///
    /// Required: `"/etc/tilld/secrets.d/upstream.key"`
    pub authentication_file: Key<String>,
    /// Our password there: the first line. Without it plain JSON is sent, inside TLS.
    ///
    /// Example: `"/etc/tilld/secrets.d/upstream.password"`
    pub encryption_file: Key<String>,
    /// The authorities that we trust (PEM); the self-signed certificate of a head office will do.
    /// Without it those of the system.
    ///
    /// Example: `"/etc/tilld/tls/head-office-ca.pem"`
    pub ca_file: Key<String>,
    /// The certificate (PEM) that we present when asked for one. Needs `client_key`.
    ///
    /// Example: `"/etc/tilld/tls/branch.pem"`
    pub client_certificate: Key<String>,
    /// The private key (PEM) of `client_certificate`.
    ///
    /// Example: `"/etc/tilld/tls/branch.key"`
    pub client_key: Key<String>,
    /// Tries at a time, 1 to 256.
    ///
    /// Default: `128`
    pub concurrency: Key<Quantity>,
    /// How long connecting may take, up to 60 minutes.
    ///
    /// Default: `"5 s"`
    pub connect_timeout: Key<Quantity>,
    /// How long a whole try may take, up to 60 minutes.
    ///
    /// Default: `"15 s"`
    pub timeout: Key<Quantity>,
}

/// What is there for people.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [operator]")]
pub(super) struct Operator {
    /// The IP address and port of the web console, the health checks `/livez` and `/readyz`, and
    /// the figures `/metrics`: plain HTTP on loopback, elsewhere HTTPS under the endpoint's
    /// certificate.
    ///
    /// Default: `"127.0.0.1:9443"`
    pub listen: Key<String>,
    /// The control socket; `status.json` lies beside it. Another directory needs `ReadWritePaths=`
    /// in a drop-in of the unit.
    ///
    /// Default: `"/run/tilld/tilld.sock"`; in `state_dir` for a configuration outside /etc/tilld
    pub socket: Key<String>,
    /// Who may log in at the console; `tilld user` writes it.
    ///
    /// Default: `"/etc/tilld/users"`
    pub users_file: Key<String>,
    /// Whether `/metrics` tells the sum of the day's collections.
    ///
    /// Default: `false`
    pub metrics_takings: Key<bool>,
}

/// Daily verified copies of database and tape.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [backup]")]
pub(super) struct Backup {
    /// Where they are kept; best on another disk. Another directory needs `ReadWritePaths=` in
    /// drop-ins of both units.
    ///
    /// Default: `"/var/lib/tilld/backups"`, or `backups` in `state_dir`
    pub directory: Key<String>,
    /// For how many days, 1 to 3650; days without a backup do not count.
    ///
    /// Default: `7`
    pub keep_days: Key<Quantity>,
}

/// What is logged.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [log]")]
pub(super) struct Log {
    /// The least important lines that are still written: `"error"`, `"warn"`, `"info"`, `"debug"`
    /// or `"trace"`.
    ///
    /// Default: `"info"`
    pub level: Key<String>,
}

/// A section whose mere presence means something.
#[derive(Debug, Default)]
pub(super) struct Section<T> {
    /// Where the section begins; none when the file does not have it.
    pub span: Option<Range<usize>>,
    keys: T,
}

impl<T> Deref for Section<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.keys
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let section = Spanned::<T>::deserialize(deserializer)?;
        Ok(Section { span: Some(section.span()), keys: section.into_inner() })
    }
}
