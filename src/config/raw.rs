//! The configuration file as it is written: one struct a section, one field a key.
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
    pub mode: Key<String>,
    pub state_dir: Key<String>,
    pub disk_reserve: Key<Quantity>,
    pub endpoint: Endpoint,
    pub caller: Vec<Caller>,
    pub upstream: Section<Upstream>,
    pub operator: Operator,
    pub backup: Backup,
    pub log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [endpoint]")]
pub(super) struct Endpoint {
    pub listen: Key<String>,
    pub contracts: Key<String>,
    pub prefixes: Key<Vec<Spanned<String>>>,
    pub reply_code: Key<String>,
    pub connections_max: Key<Quantity>,
    pub connections_per_address_max: Key<Quantity>,
    pub tls: Tls,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [endpoint.tls]")]
pub(super) struct Tls {
    pub names: Key<Vec<Spanned<String>>>,
    pub certificate: Key<String>,
    pub private_key: Key<String>,
    pub client_ca: Key<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "sections [[caller]], in double brackets")]
pub(super) struct Caller {
    pub user_name: Spanned<String>,
    pub authentication_file: Spanned<String>,
    pub encryption_file: Key<String>,
    pub require_encryption: Key<bool>,
    pub allow_from: Key<Vec<Spanned<String>>>,
    pub branch: Key<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [upstream]")]
pub(super) struct Upstream {
    pub url: Key<String>,
    pub branch: Key<String>,
    pub user_name: Key<String>,
    pub authentication_file: Key<String>,
    pub encryption_file: Key<String>,
    pub ca_file: Key<String>,
    pub client_certificate: Key<String>,
    pub client_key: Key<String>,
    pub concurrency: Key<Quantity>,
    pub connect_timeout: Key<Quantity>,
    pub timeout: Key<Quantity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [operator]")]
pub(super) struct Operator {
    pub listen: Key<String>,
    pub socket: Key<String>,
    pub users_file: Key<String>,
    pub metrics_takings: Key<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [backup]")]
pub(super) struct Backup {
    pub directory: Key<String>,
    pub keep_days: Key<Quantity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section [log]")]
pub(super) struct Log {
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
