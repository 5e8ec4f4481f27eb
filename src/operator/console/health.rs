//! How the daemon is: warnings with what mends them, its certificate, keys and backups.

use std::path::Path;

use maud::{Markup, html};

use super::frame::{self, moment, number, text};
use super::words::{self, Light};
use crate::config::Config;
use crate::config::key_file::{self, KnownKey};
use crate::domain::time::AcceptedAt;
use crate::net::tls::Certificate;
use crate::operator::commands::bytes;
use crate::operator::output::visible;
use crate::operator::snapshot::{LinkState, Snapshot};
use crate::store::backup::{self, Name};

/// So many backups are named.
const BACKUPS_MAX: usize = 10;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The keys of a file, or why they are not known.
type Known = Result<Vec<KnownKey>, String>;

/// What is read for the page.
pub struct Read {
    /// By caller and kind.
    keys: Vec<(String, &'static str, Known)>,
    backups: Result<Vec<Name>, String>,
}

/// Reads the files of keys and looks for backups.
pub fn read(config: &Config) -> Read {
    let of = |path: &Path, caller: &str, kind| {
        let known = key_file::known(path, &format!("caller {caller}"));
        (caller.to_owned(), kind, known.map_err(|error| error.to_string()))
    };
    let mut keys = Vec::new();
    for caller in &config.callers {
        let name = caller.user_name.as_str();
        keys.push(of(&caller.authentication_file, name, words::KEY));
        keys.extend(caller.encryption_file.iter().map(|path| of(path, name, words::PASSWORDS)));
    }
    let backups = backup::names(&config.backup.directory).map(|mut names| {
        names.sort_by_key(|name| std::cmp::Reverse(name.at()));
        names.truncate(BACKUPS_MAX);
        names
    });
    Read { keys, backups: backups.map_err(|error| error.to_string()) }
}

/// The page.
pub fn page(
    snapshot: Option<&Snapshot>,
    certificate: &Certificate,
    read: &Read,
    now: AcceptedAt,
) -> Markup {
    html! {
        (frame::light(snapshot))
        @if let Some(snapshot) = snapshot {
            (warnings(snapshot))
            h2 { (words::DAEMON) }
            (daemon(snapshot))
        }
        h2 { (words::CERTIFICATE) }
        p.quiet { (words::CERTIFICATE_NOTE) }
        (frame::facts(&[
            (words::NAMES, html! { (visible(&certificate.names.join(", "))) }),
            (words::ENDS, html! { (certificate.not_after) }),
            (words::FINGERPRINT, html! { code { (certificate.fingerprint) } }),
        ]))
        h2 { (words::KEYS) }
        (keys(read, now))
        h2 { (words::BACKUPS) }
        (backups(read))
    }
}

fn warnings(snapshot: &Snapshot) -> Markup {
    html! {
        h2 { (words::WARNINGS) }
        @if snapshot.warnings.is_empty() { p { (words::NO_WARNINGS) } }
        @for warning in &snapshot.warnings {
            div.light.bad {
                p { (frame::sign(Light::Bad)) (visible(&warning.what)) }
                p { (words::WHAT_TO_DO) " " (frame::spoken(&warning.remedy)) }
            }
        }
    }
}

fn daemon(snapshot: &Snapshot) -> Markup {
    let free = snapshot.disk.free_bytes.map_or(words::UNKNOWN.to_owned(), bytes);
    let check = match &snapshot.last_check {
        None => words::NOT_CHECKED.to_owned(),
        Some(check) => match &check.trouble {
            Some(trouble) => trouble.clone(),
            None => words::agreed(&snapshot.clock_of(check.at), check.lines, check.differences),
        },
    };
    let link = snapshot.head_office.as_ref().and_then(|office| office.link.as_ref());
    let mut facts = vec![
        (words::VERSION, html! { (snapshot.version) }),
        (words::MODE, html! { (snapshot.mode) }),
        (words::RUNS_SINCE, html! { (snapshot.started_at.0.wall_clock()) }),
        (words::TILLS_CONNECT, html! { (snapshot.endpoint) }),
        (words::DISK, html! { (words::room(&free, &bytes(snapshot.disk.reserve_bytes))) }),
        (words::WITNESSES, html! { (visible(&check)) }),
    ];
    if let Some(link) = link {
        let told = html! {
            (snapshot.line_words(link))
            // What a line met that is up by now is no news.
            @if link.state != LinkState::Up { ": " (visible(&link.trouble)) }
        };
        facts.push((words::LINE, told));
    }
    frame::facts(&facts)
}

fn keys(read: &Read, now: AcceptedAt) -> Markup {
    let columns = [
        text(words::CALLER),
        text(words::KIND),
        text(words::KEY_ID),
        moment(words::ADDED),
        number(words::DAYS),
    ];
    let mut rows: Vec<Vec<Markup>> = Vec::new();
    for (caller, kind, keys) in &read.keys {
        let cells = || vec![frame::foreign(caller), html! { (kind) }];
        let rest = match keys {
            Ok(keys) => keys.iter().map(|key| known(*key, now)).collect(),
            Err(error) => vec![vec![html! { (visible(error)) }, html! {}, html! {}]],
        };
        rows.extend(rest.into_iter().map(|rest| [cells(), rest].concat()));
    }
    html! {
        @if rows.is_empty() {
            p { (words::NO_KEYS) }
        } @else {
            (frame::table(words::KEYS, &columns, &rows))
        }
    }
}

fn known(key: KnownKey, now: AcceptedAt) -> Vec<Markup> {
    let days = key.since.map(|since| (now.unix_ms() - since.unix_ms()) / DAY_MS);
    vec![
        html! { code { (key.id) } },
        html! { (key.since.map_or(words::UNKNOWN.to_owned(), AcceptedAt::wall_clock)) },
        html! { (days.map_or(words::UNKNOWN.to_owned(), |days| days.to_string())) },
    ]
}

fn backups(read: &Read) -> Markup {
    html! {
        @match &read.backups {
            Err(error) => p { (visible(error)) },
            Ok(names) if names.is_empty() => p { (words::NO_BACKUPS) },
            Ok(names) => {
                p.quiet { (words::BACKUPS_NOTE) }
                ul {
                    @for name in names {
                        li {
                            (name.at().wall_clock())
                            @if name.is_damaged() { ", " (words::DAMAGED) }
                        }
                    }
                }
            },
        }
    }
}
