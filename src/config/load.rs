//! From what is written to what is valid: every rule and every default of the configuration.
//!
//! Looks at no file but the configuration's own; that the files it names exist is found out by
//! whoever opens them. A value that a later file replaces is not judged, only its type is.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::env;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use ipnet::IpNet;
use log::LevelFilter;
use rustls::pki_types::ServerName;

use super::raw::{self, Quantity};
use super::source::{Found, Source, Sources};
use super::{
    Backup, Caller, CertificateFiles, Config, ConfigError, Endpoint, Log, Operator, ReplyCode, Tls,
    Upstream,
};
use crate::domain::Invalid;
use crate::domain::collection::{BranchName, UserName};
use crate::domain::contract::{ContractPolicy, Mode, Prefix};

/// What systemd names the directory of a unit's credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// That directory for the unit of the package.
const UNIT_CREDENTIALS_DIR: &str = "/run/credentials/tilld.service";

/// Where the unit of the package has its configuration, and its socket.
const UNIT_CONFIGURATION_DIR: &str = "/etc/tilld";
const UNIT_RUNTIME_DIR: &str = "/run/tilld";

/// What the machine contributes to a configuration.
pub(super) struct Surroundings {
    /// Where the control socket lives; none is made for it.
    pub runtime_dir: Option<PathBuf>,
    /// Where systemd put the unit's credentials.
    pub credentials_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of the configuration in this file. The unit's directory is for the unit's socket:
    /// another configuration is another daemon's, and must not meet the first one.
    pub fn of(path: &Path) -> Surroundings {
        let is_units = path::absolute(path).is_ok_and(|it| it.starts_with(UNIT_CONFIGURATION_DIR));
        let of_unit = Some(PathBuf::from(UNIT_RUNTIME_DIR)).filter(|it| it.is_dir());
        let given = env::var_os(CREDENTIALS_VARIABLE).map(PathBuf::from);
        // Commands are no part of the unit, and must find what the daemon found.
        let credentials_dir =
            given.or_else(|| of_unit.as_ref().map(|_| UNIT_CREDENTIALS_DIR.into()));
        Surroundings { credentials_dir, runtime_dir: of_unit.filter(|_| is_units) }
    }
}

/// Reads the files and makes the valid configuration of them.
pub(super) fn load(path: &Path, surroundings: &Surroundings) -> Result<Config, ConfigError> {
    let path = path::absolute(path).map_err(|error| {
        ConfigError::about_file(path, error, "name the configuration with --config FILE")
    })?;
    let sources = Sources::read(&path)?;
    Loader { sources: &sources, surroundings }.config(path)
}

/// Looks a key up in all files: its dotted name goes into the error.
macro_rules! key {
    ($loader:ident, $first:ident $(. $rest:ident)*) => {
        $loader.sources.last(
            concat!(stringify!($first) $(, ".", stringify!($rest))*),
            |document| document.$first $(.$rest)* .as_ref(),
        )
    };
}

struct Loader<'a> {
    sources: &'a Sources,
    surroundings: &'a Surroundings,
}

impl Loader<'_> {
    fn config(&self, file: PathBuf) -> Result<Config, ConfigError> {
        let words = [("live", Mode::Live), ("sandbox", Mode::Sandbox)];
        let mode = parsed(key!(self, mode), word_of(&words))?.unwrap_or(Mode::Live);
        let state_dir = self.path(key!(self, state_dir))?.unwrap_or("/var/lib/tilld".into());
        let disk_reserve = parsed(key!(self, disk_reserve), size)?.unwrap_or(64 << 20);
        Ok(Config {
            file,
            mode,
            disk_reserve,
            endpoint: self.endpoint()?,
            callers: self.callers()?,
            upstream: self.upstream()?,
            operator: self.operator(&state_dir)?,
            backup: self.backup(&state_dir)?,
            log: self.log()?,
            state_dir,
        })
    }

    fn endpoint(&self) -> Result<Endpoint, ConfigError> {
        let listen = parsed(key!(self, endpoint.listen), address)?;
        let words =
            [("single", ContractPolicy::Single), ("installments", ContractPolicy::Installments)];
        let contracts = parsed(key!(self, endpoint.contracts), word_of(&words))?;
        let prefixes = parsed_each(key!(self, endpoint.prefixes), Prefix::parse)?;
        let words = [("string", ReplyCode::String), ("number", ReplyCode::Number)];
        let reply_code = parsed(key!(self, endpoint.reply_code), word_of(&words))?;
        let connections = number_in(1..=65_535);
        let connections_max =
            parsed(key!(self, endpoint.connections_max), &connections)?.unwrap_or(1024);
        let per_address = key!(self, endpoint.connections_per_address_max);
        let connections_per_address_max = match &per_address {
            None => connections_max.min(256),
            Some(found) => match found.parse(&connections)? {
                limit if limit > connections_max => {
                    let allowed =
                        format!("expected at most `connections_max`, which is {connections_max}");
                    return Err(found.error("is above the limit for all connections", &allowed));
                }
                limit => limit,
            },
        };
        Ok(Endpoint {
            listen: listen.unwrap_or(([0, 0, 0, 0], 8443).into()),
            contracts: contracts.unwrap_or(ContractPolicy::Single),
            prefixes,
            reply_code: reply_code.unwrap_or(ReplyCode::String),
            connections_max,
            connections_per_address_max,
            tls: self.tls()?,
        })
    }

    fn tls(&self) -> Result<Tls, ConfigError> {
        Ok(Tls {
            names: parsed_each(key!(self, endpoint.tls.names), host_name)?,
            files: self.certificate_files(
                (key!(self, endpoint.tls.certificate), "certificate"),
                (key!(self, endpoint.tls.private_key), "private_key"),
            )?,
            client_ca: self.path(key!(self, endpoint.tls.client_ca))?,
        })
    }

    /// Two keys, each with its name, that only make sense together.
    fn certificate_files(
        &self,
        (certificate, certificate_name): (Option<Found<'_, String>>, &str),
        (private_key, private_key_name): (Option<Found<'_, String>>, &str),
    ) -> Result<Option<CertificateFiles>, ConfigError> {
        let alone = |found: &Found<'_, String>, missing: &str| {
            let allowed = "expected both a certificate and its private key, or neither";
            found.error(&format!("stands without `{missing}`"), allowed)
        };
        match (certificate, private_key) {
            (None, None) => Ok(None),
            (Some(found), None) => Err(alone(&found, private_key_name)),
            (None, Some(found)) => Err(alone(&found, certificate_name)),
            (Some(certificate), Some(private_key)) => Ok(Some(CertificateFiles {
                certificate: self.path_of(&certificate)?,
                private_key: self.path_of(&private_key)?,
            })),
        }
    }

    fn callers(&self) -> Result<Vec<Caller>, ConfigError> {
        let mut callers = Vec::new();
        let mut places = HashMap::new();
        for source in self.sources.iter() {
            for raw in &source.document.caller {
                let user_name = source.found("caller.user_name", &raw.user_name);
                callers.push(self.caller(source, raw, &user_name)?);
                if let Some(first) = places.insert(user_name.value, user_name.place()) {
                    let what = format!("\"{}\" stands twice", user_name.value);
                    let allowed = format!("expected each caller once; it is already in {first}");
                    return Err(user_name.error(&what, &allowed));
                }
            }
        }
        Ok(callers)
    }

    fn caller(
        &self,
        source: &Source,
        raw: &raw::Caller,
        user_name: &Found<'_, String>,
    ) -> Result<Caller, ConfigError> {
        let authentication_file =
            source.found("caller.authentication_file", &raw.authentication_file);
        let encryption_file = raw.encryption_file.as_ref();
        let encryption_file =
            self.path(encryption_file.map(|file| source.found("caller.encryption_file", file)))?;
        let require_encryption = match &raw.require_encryption {
            None => false,
            Some(required) if *required.get_ref() && encryption_file.is_none() => {
                let required = source.found("caller.require_encryption", required);
                let allowed = "expected a file with the passwords, or no `require_encryption`";
                return Err(required.error("stands without `encryption_file`", allowed));
            }
            Some(required) => *required.get_ref(),
        };
        let allow_from = raw.allow_from.as_ref();
        let branch = raw.branch.as_ref().map(|branch| source.found("caller.branch", branch));
        Ok(Caller {
            user_name: user_name.parse(UserName::parse)?,
            authentication_file: self.path_of(&authentication_file)?,
            encryption_file,
            require_encryption,
            allow_from: parsed_each(
                allow_from.map(|networks| source.found("caller.allow_from", networks)),
                network,
            )?,
            branch: parsed(branch, BranchName::parse)?,
        })
    }

    fn upstream(&self) -> Result<Option<Upstream>, ConfigError> {
        let mut sections = self
            .sources
            .iter()
            .filter_map(|source| source.document.upstream.span.as_ref().map(|span| (source, span)));
        let Some((source, span)) = sections.next() else { return Ok(None) };
        let missing = |name: &str| {
            source.error(
                span,
                &format!("`upstream.{name}` is missing"),
                "expected `url`, `branch`, `user_name` and `authentication_file`; without a head \
                 office to send to, leave the whole section out",
            )
        };
        let url = parsed(key!(self, upstream.url), https_url)?;
        let branch = parsed(key!(self, upstream.branch), BranchName::parse)?;
        let user_name = parsed(key!(self, upstream.user_name), UserName::parse)?;
        let authentication_file = self.path(key!(self, upstream.authentication_file))?;
        let concurrency = parsed(key!(self, upstream.concurrency), number_in(1..=256))?;
        let connect_timeout = parsed(key!(self, upstream.connect_timeout), duration_of)?;
        let timeout = parsed(key!(self, upstream.timeout), duration_of)?;
        Ok(Some(Upstream {
            url: url.ok_or_else(|| missing("url"))?,
            branch: branch.ok_or_else(|| missing("branch"))?,
            user_name: user_name.ok_or_else(|| missing("user_name"))?,
            authentication_file: authentication_file
                .ok_or_else(|| missing("authentication_file"))?,
            encryption_file: self.path(key!(self, upstream.encryption_file))?,
            ca_file: self.path(key!(self, upstream.ca_file))?,
            client_certificate: self.certificate_files(
                (key!(self, upstream.client_certificate), "client_certificate"),
                (key!(self, upstream.client_key), "client_key"),
            )?,
            concurrency: concurrency.unwrap_or(128),
            connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(5)),
            timeout: timeout.unwrap_or(Duration::from_secs(15)),
        }))
    }

    fn operator(&self, state_dir: &Path) -> Result<Operator, ConfigError> {
        let runtime_dir = self.surroundings.runtime_dir.as_deref();
        let socket = self
            .path(key!(self, operator.socket))?
            .unwrap_or_else(|| runtime_dir.unwrap_or(state_dir).join("tilld.sock"));
        let users_file = self.path(key!(self, operator.users_file))?;
        Ok(Operator {
            listen: parsed(key!(self, operator.listen), address)?
                .unwrap_or(([127, 0, 0, 1], 9443).into()),
            status_file: socket.with_file_name("status.json"),
            socket,
            users_file: users_file.unwrap_or("/etc/tilld/users".into()),
            metrics_takings: key!(self, operator.metrics_takings).is_some_and(|found| *found.value),
        })
    }

    fn backup(&self, state_dir: &Path) -> Result<Backup, ConfigError> {
        let directory = self.path(key!(self, backup.directory))?;
        Ok(Backup {
            directory: directory.unwrap_or_else(|| state_dir.join("backups")),
            keep_days: parsed(key!(self, backup.keep_days), number_in(1..=3650))?.unwrap_or(7),
        })
    }

    fn log(&self) -> Result<Log, ConfigError> {
        let words = [
            ("error", LevelFilter::Error),
            ("warn", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("debug", LevelFilter::Debug),
            ("trace", LevelFilter::Trace),
        ];
        let level = parsed(key!(self, log.level), word_of(&words))?;
        Ok(Log { level: level.unwrap_or(LevelFilter::Info) })
    }

    fn path(&self, found: Option<Found<'_, String>>) -> Result<Option<PathBuf>, ConfigError> {
        found.map(|found| self.path_of(&found)).transpose()
    }

    /// An absolute path: relative ones start from the directory of the file they stand in.
    fn path_of(&self, found: &Found<'_, String>) -> Result<PathBuf, ConfigError> {
        let text = found.value.as_str();
        if text.is_empty() {
            return Err(found.error("is empty", "expected a path"));
        }
        if !text.starts_with("${") {
            return Ok(found.directory().join(text));
        }
        let Some(name) = text.strip_prefix("${CREDENTIALS_DIRECTORY}/") else {
            let allowed = "expected a path; only ${CREDENTIALS_DIRECTORY}/ is put in for you";
            return Err(found.error("names an unknown variable", allowed));
        };
        let unset = || {
            let allowed = "systemd sets it for a unit with LoadCredential=; anywhere else, name \
                           the file itself";
            found.error("needs the environment variable CREDENTIALS_DIRECTORY, unset here", allowed)
        };
        Ok(self.surroundings.credentials_dir.as_ref().ok_or_else(unset)?.join(name))
    }
}

fn parsed<'a, T: Borrow<B>, B: ?Sized + 'a, U, E: Display>(
    found: Option<Found<'a, T>>,
    parse: impl FnOnce(&'a B) -> Result<U, E>,
) -> Result<Option<U>, ConfigError> {
    found.map(|found| found.parse(parse)).transpose()
}

fn parsed_each<U, E: Display>(
    found: Option<Found<'_, Vec<toml::Spanned<String>>>>,
    parse: impl Fn(&str) -> Result<U, E>,
) -> Result<Vec<U>, ConfigError> {
    found.map_or(Ok(Vec::new()), |found| found.parse_each(parse))
}

/// One of a few words.
fn word_of<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let meant = words.iter().find(|(word, _)| *word == text).map(|&(_, value)| value);
        meant.ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            format!("expected {}", words.join(" or "))
        })
    }
}

/// A whole number within bounds. The bounds must fit the type that is asked for.
fn number_in<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&Quantity) -> Result<T, String> {
    move |value| {
        let number = value.as_integer().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            format!("expected a whole number from {} to {}", range.start(), range.end())
        })
    }
}

/// Bytes: a whole number, or a text with a unit.
fn size(value: &Quantity) -> Result<u64, Invalid> {
    let bytes = match value {
        Quantity::Integer(bytes) => u64::try_from(*bytes).ok(),
        Quantity::String(text) => {
            with_unit(text, &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)])
        }
        _ => None,
    };
    bytes.ok_or(Invalid { expected: "a size such as \"512 KiB\", \"64 MiB\", \"1 GiB\" or bytes" })
}

/// Parses a duration: more than nothing, and short enough for any timer to take it.
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    const MS_MAX: u64 = 60 * 60 * 1000;
    let ms = with_unit(text, &[("ms", 1), ("s", 1000), ("min", 60_000)])
        .filter(|ms| (1..=MS_MAX).contains(ms));
    ms.map(Duration::from_millis).ok_or(Invalid {
        expected: "a duration such as \"500 ms\", \"5 s\" or \"2 min\", up to \"60 min\"",
    })
}

fn duration_of(value: &Quantity) -> Result<Duration, Invalid> {
    duration(value.as_str().unwrap_or_default())
}

/// A whole number and its unit, with or without a blank between them.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn address(text: &str) -> Result<SocketAddr, Invalid> {
    text.parse()
        .map_err(|_| Invalid { expected: "an IP address and a port such as \"0.0.0.0:8443\"" })
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, Invalid> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        Invalid { expected: "a network such as \"192.168.10.0/24\", or one IP address" }
    })
}

/// A name that a certificate can hold.
fn host_name(text: &str) -> Result<String, Invalid> {
    ServerName::try_from(text).map(|_| text.to_owned()).map_err(|_| Invalid {
        expected: "a host name such as \"till.example.com\", or an IP address",
    })
}

fn https_url(text: &str) -> Result<Uri, Invalid> {
    let is_https = |url: &Uri| url.scheme_str() == Some("https");
    // What stands before an @ would be a password, and those live in files.
    let is_host = |url: &Uri| {
        url.authority().is_some_and(|host| !host.host().is_empty() && !host.as_str().contains('@'))
    };
    text.parse().ok().filter(|url| is_https(url) && is_host(url)).ok_or(Invalid {
        expected: "an address such as \"https://collect.example.com/collectionCollect\"",
    })
}
