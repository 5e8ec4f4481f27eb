//! What is configured, in force: taken at the start, and again when somebody asks for it, all of it
//! or nothing.
//!
//! What a reload cannot change says so: a restart takes it, and no till is refused meanwhile.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;

use super::certificate::{self, lacking_names, server_tls};
use super::head_office::{self, PassingOn, Ready, Way};
use crate::config::{Config, ReplyCode, Upstream};
use crate::domain::collection::BranchName;
use crate::endpoint::{Callers, Endpoint, Rules};
use crate::net::listener::SharedTls;
use crate::net::tls::{Certificate, ServerTls};
use crate::operator::commands::callers_in_words;
use crate::operator::snapshot::{self, Moment, OldestKey};
use crate::operator::{Exit, Failure};
use crate::relay;
use crate::skypay::reply::CodeForm;
use crate::store::Store;
use crate::system::event::Event;

/// What of the configuration people are shown, and what runs because of it.
#[derive(Clone)]
pub struct Shown {
    /// Configured names that the certificate does not hold for.
    pub lacking_names: Vec<String>,
    /// When the certificate begins to hold.
    pub certificate_begins_at: Option<Moment>,
    /// When it ends to hold.
    pub certificate_ends_at: Option<Moment>,
    /// Since when callers have their keys.
    pub keys: Vec<OldestKey>,
    /// The branches that may relay to here.
    pub branches: Arc<HashSet<BranchName>>,
    /// Where collections go.
    pub head_office: Option<snapshot::HeadOffice>,
    /// What sends them there.
    pub relay: Option<relay::Handle>,
    /// All of it.
    pub config: Arc<Config>,
    /// What tills are shown.
    pub certificate: Arc<Certificate>,
}

/// A configuration with everything that it names read and found good; nothing of it is in force.
pub struct Prepared {
    config: Config,
    rules: Rules,
    tls: ServerTls,
    keys: Vec<OldestKey>,
    way: Option<Way>,
}

impl Prepared {
    /// Reads keys, certificates and passwords.
    pub fn of(config: Config) -> Result<Prepared, Failure> {
        Ok(Prepared {
            rules: rules(&config)?,
            tls: server_tls(&config)?,
            keys: oldest_keys(&config)?,
            way: head_office::way(&config)?,
            config,
        })
    }

    /// In one line, for the log and for whoever asked.
    fn summary(&self) -> String {
        let callers = callers_in_words(&self.config);
        let head_office = match (&self.config.upstream, &self.way) {
            (Some(upstream), Some(_)) => format!("head office at {}", host(upstream)),
            (Some(_), None) => "a sandbox, so nothing is sent to [upstream]".to_owned(),
            (None, _) => "collections are kept here".to_owned(),
        };
        let fingerprint = &self.tls.certificate.fingerprint;
        format!("{callers}; {head_office}; certificate SHA-256 {fingerprint}")
    }
}

/// The configuration in force, and the parts that follow it.
pub struct InForce {
    endpoint: Arc<Endpoint>,
    tls: SharedTls,
    store: Store,
    shown: watch::Sender<Shown>,
    parts: Mutex<Parts>,
}

/// What a reload does about the self-signed certificate.
#[derive(Clone, Copy)]
enum Certificates {
    AsTheyAre,
    Renewed,
}

struct Parts {
    config: Config,
    passing_on: Option<PassingOn>,
    has_ended: bool,
}

impl InForce {
    /// Puts what is prepared in force for the first time.
    pub fn begin(prepared: Prepared, store: Store) -> Result<InForce, Failure> {
        log::info!(TILLD_EVENT = Event::Configured; "configured: {}", prepared.summary());
        warn_without_callers(&prepared.config);
        let Prepared { config, rules, tls, keys, way } = prepared;
        let ready = way.map(|way| way.ready(&config, &store)).transpose()?;
        let passing_on = ready.map(Ready::begin);
        let (shown, _) =
            watch::channel(shown(&config, &tls.certificate, keys, passing_on.as_ref()));
        Ok(InForce {
            endpoint: Arc::new(Endpoint::new(rules, store.clone())?),
            tls: Arc::new(ArcSwap::new(tls.config)),
            store,
            shown,
            parts: Mutex::new(Parts { config, passing_on, has_ended: false }),
        })
    }

    /// What answers tills.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint)
    }

    /// What protects whoever listens.
    pub fn tls(&self) -> SharedTls {
        Arc::clone(&self.tls)
    }

    /// What sends to head office now, if anything does.
    pub fn relay(&self) -> Option<relay::Handle> {
        self.shown.borrow().relay.clone()
    }

    /// What people are shown, as it changes.
    pub fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Takes the configuration as it is on the disk now, and says in a line what that is. When
    /// anything about it is wrong, nothing is changed.
    pub async fn reload(&self) -> Result<String, Failure> {
        self.reload_with(Certificates::AsTheyAre).await
    }

    /// The same with a self-signed certificate that is made for it.
    pub async fn renew_certificate(&self) -> Result<String, Failure> {
        self.reload_with(Certificates::Renewed).await
    }

    async fn reload_with(&self, certificates: Certificates) -> Result<String, Failure> {
        let mut parts = self.parts.lock().await;
        let taken = self.take(&mut parts, certificates).await;
        match &taken {
            Ok(summary) => {
                log::info!(TILLD_EVENT = Event::Configured; "reloaded: {summary}");
                warn_without_callers(&parts.config);
            }
            Err(failure) => log::error!(
                TILLD_EVENT = Event::ReloadRefused;
                "not reloaded, what was configured before stays in force: {failure}"
            ),
        }
        taken
    }

    async fn take(&self, parts: &mut Parts, certificates: Certificates) -> Result<String, Failure> {
        if parts.has_ended {
            return Err(Failure::new(Exit::Error, "the daemon is stopping"));
        }
        let before = parts.config.clone();
        let reading = spawn_blocking(move || {
            let config = Config::load(&before.file)?;
            can_follow(&before, &config)?;
            let prepared = Prepared::of(config.clone())?;
            match certificates {
                Certificates::AsTheyAre => Ok(prepared),
                // Only now: with a configuration that is not taken it would be one too many.
                Certificates::Renewed => {
                    certificate::renew(&config)?;
                    Prepared::of(config)
                }
            }
        });
        // The process ends with a thread that panics.
        let prepared =
            reading.await.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        let prepared = prepared?;
        let summary = prepared.summary();
        let Prepared { config, rules, tls, keys, way } = prepared;
        self.follow(parts, &config, way).await?;
        self.endpoint.set_rules(rules);
        self.tls.store(tls.config);
        log::set_max_level(config.log.level);
        let passing_on = parts.passing_on.as_ref();
        self.shown.send_replace(shown(&config, &tls.certificate, keys, passing_on));
        parts.config = config;
        Ok(summary)
    }

    /// Lets another relay take over when the way to head office is another one.
    async fn follow(
        &self,
        parts: &mut Parts,
        config: &Config,
        way: Option<Way>,
    ) -> Result<(), Failure> {
        let present = parts.passing_on.as_ref().map(PassingOn::fingerprint);
        if present == way.as_ref().map(Way::fingerprint) {
            return Ok(());
        }
        let ready = way.map(|way| way.ready(config, &self.store)).transpose()?;
        // Never two at a time: each counts for itself what is under way.
        if let Some(passing_on) = parts.passing_on.take() {
            passing_on.end().await;
        }
        parts.passing_on = ready.map(Ready::begin);
        Ok(())
    }

    /// Ends what passes collections on; nothing is taken any more.
    pub async fn end(&self) {
        let mut parts = self.parts.lock().await;
        parts.has_ended = true;
        if let Some(passing_on) = parts.passing_on.take() {
            passing_on.end().await;
        }
    }
}

fn warn_without_callers(config: &Config) {
    if config.callers.is_empty() {
        log::warn!(
            TILLD_EVENT = Event::NoCallers;
            "no caller is configured: every request is answered -1001"
        );
    }
}

/// Whether a running daemon can go from one configuration to the other.
fn can_follow(before: &Config, after: &Config) -> Result<(), Failure> {
    let limits = |config: &Config| {
        let endpoint = &config.endpoint;
        (endpoint.connections_max, endpoint.connections_per_address_max)
    };
    let listens =
        |config: &Config| -> [SocketAddr; 2] { [config.endpoint.listen, config.operator.listen] };
    let fixed = [
        ("mode", before.mode == after.mode),
        ("state_dir", before.state_dir == after.state_dir),
        ("disk_reserve", before.disk_reserve == after.disk_reserve),
        ("`listen`", listens(before) == listens(after)),
        ("connections_max or connections_per_address_max", limits(before) == limits(after)),
        ("`socket` in [operator]", before.operator.socket == after.operator.socket),
        ("`directory` in [backup]", before.backup.directory == after.backup.directory),
    ];
    match fixed.into_iter().find(|(_, is_same)| !is_same) {
        None => Ok(()),
        Some((what, _)) => {
            let message = format!(
                "{what} has changed, which takes a restart: systemctl restart tilld (no till is \
                 refused meanwhile); nothing of the new configuration is in force"
            );
            Err(Failure::new(Exit::Configuration, message))
        }
    }
}

fn rules(config: &Config) -> Result<Rules, Failure> {
    Ok(Rules {
        callers: Callers::load(&config.callers)?,
        mode: config.mode,
        contracts: config.endpoint.contracts,
        prefixes: config.endpoint.prefixes.clone(),
        code_form: match config.endpoint.reply_code {
            ReplyCode::String => CodeForm::String,
            ReplyCode::Number => CodeForm::Number,
        },
    })
}

fn shown(
    config: &Config,
    certificate: &Certificate,
    keys: Vec<OldestKey>,
    passing_on: Option<&PassingOn>,
) -> Shown {
    let moment = |text: &str| Moment::try_from(text.to_owned()).ok();
    Shown {
        lacking_names: lacking_names(config, certificate),
        certificate_begins_at: moment(&certificate.not_before),
        certificate_ends_at: moment(&certificate.not_after),
        keys,
        branches: Arc::new(
            config.callers.iter().filter_map(|caller| caller.branch.clone()).collect(),
        ),
        head_office: config.upstream.as_ref().map(|upstream| snapshot::HeadOffice {
            branch: upstream.branch.as_str().to_owned(),
            host: host(upstream).to_owned(),
            certificate_ends_at: passing_on
                .and_then(PassingOn::certificate)
                .and_then(|certificate| moment(&certificate.not_after)),
            link: None,
        }),
        relay: passing_on.map(PassingOn::handle),
        config: Arc::new(config.clone()),
        certificate: Arc::new(certificate.clone()),
    }
}

/// The oldest key of each caller whose keys all tell since when they are there: one that was added
/// by hand may be older than the others.
fn oldest_keys(config: &Config) -> Result<Vec<OldestKey>, Failure> {
    let mut oldest = Vec::new();
    for caller in &config.callers {
        let keys = caller.known_keys()?;
        let since = keys.iter().map(|key| key.since).min().flatten();
        oldest.extend(since.map(|since| OldestKey {
            caller: caller.user_name.as_str().to_owned(),
            since: Moment(since),
        }));
    }
    Ok(oldest)
}

fn host(upstream: &Upstream) -> &str {
    upstream.url.host().unwrap_or_default()
}
