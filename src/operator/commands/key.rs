//! `tilld key`: the keys and passwords of callers, without ever showing one. Whatever is changed,
//! the running daemon takes at once.

use std::io::{self, BufWriter, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::reload::reload;
use crate::config::key_file::{KeyFile, KnownKey, id_of};
use crate::config::{Caller, Config, secrets};
use crate::domain::provenance::KeyId;
use crate::domain::time::AcceptedAt;
use crate::operator::cli::{KeyArgs, KeyCommand, Output};
use crate::operator::output::{Column, Member, Printer, note, text, told};
use crate::operator::{Exit, Failure, may_read};
use crate::store::reader::Reader;
use crate::system::clock;

/// More than one key can have: 255 characters, and what surrounds it.
const INPUT_BYTES_MAX: usize = 4096;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// `tilld key …`
pub fn key(config: &Config, command: &KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Add(whose) => add(config, whose),
        KeyCommand::List { caller, output } => list(config, caller.as_deref(), *output),
        KeyCommand::Drop { whose, key } => drop_key(config, whose, *key),
    }
}

fn add(config: &Config, whose: &KeyArgs) -> Result<(), Failure> {
    let (path, wanted_by) = file_of(config, whose)?;
    may_read(path.parent().unwrap_or(Path::new("/")))?;
    let key = read_key(whose)?;
    let id = id_of(&key);
    let mut file = KeyFile::open(&path, &wanted_by)?;
    if !file.add(key, now())? {
        return Ok(writeln!(io::stdout(), "{id} is a key of {wanted_by} already")?);
    }
    take(config, &format!("{id} is a key of {wanted_by} now, in {}", path.display()))
}

fn drop_key(config: &Config, whose: &KeyArgs, id: KeyId) -> Result<(), Failure> {
    let (path, wanted_by) = file_of(config, whose)?;
    may_read(&path)?;
    if !KeyFile::open(&path, &wanted_by)?.drop_key(id)? {
        let message = format!("{wanted_by} has no key {id}: `tilld key list` shows what it has");
        return Err(Failure::new(Exit::NotFound, message));
    }
    take(config, &format!("{id} is no key of {wanted_by} any more"))
}

/// Has the daemon take what was done.
fn take(config: &Config, done: &str) -> Result<(), Failure> {
    match reload(config) {
        Ok(_) => Ok(writeln!(io::stdout(), "{done}; the daemon has taken it")?),
        Err(failure) if failure.exit == Exit::NotRunning => {
            Ok(writeln!(io::stdout(), "{done}; the daemon takes it when it starts")?)
        }
        Err(Failure { exit, message }) => {
            let message = format!("{done}, but the daemon has not taken it: {message}");
            Err(Failure::new(exit, message))
        }
    }
}

/// The file that is meant, and whose it is in words.
fn file_of(config: &Config, whose: &KeyArgs) -> Result<(PathBuf, String), Failure> {
    let caller = caller(config, &whose.caller)?;
    let wanted_by = format!("caller {}", caller.user_name);
    if !whose.encryption {
        return Ok((caller.authentication_file.clone(), wanted_by));
    }
    let file = caller.encryption_file.clone().ok_or_else(|| {
        let message = format!(
            "{wanted_by} has no encryption_file: name one in its [[caller]], then add a password"
        );
        Failure::new(Exit::Configuration, message)
    })?;
    Ok((file, format!("{wanted_by} (encryption)")))
}

fn caller<'a>(config: &'a Config, name: &str) -> Result<&'a Caller, Failure> {
    let found = config.callers.iter().find(|caller| caller.user_name.as_str() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = config.callers.iter().map(|caller| caller.user_name.as_str()).collect();
        let message = match names[..] {
            [] => "no caller is configured: add a [[caller]] with its user_name and \
                   authentication_file to the configuration first"
                .to_owned(),
            _ => format!("there is no caller {name}; configured are: {}", names.join(", ")),
        };
        Failure::new(Exit::NotFound, message)
    })
}

/// One key from standard input; a terminal does not show it.
fn read_key(whose: &KeyArgs) -> Result<Zeroizing<String>, Failure> {
    let kind = if whose.encryption { "password" } else { "key" };
    let given = if io::stdin().is_terminal() {
        note(format_args!("{kind} of {}, not shown; end with Enter:", whose.caller));
        Zeroizing::new(rpassword::read_password()?)
    } else {
        let mut given = Zeroizing::new(String::with_capacity(INPUT_BYTES_MAX + 1));
        io::stdin().lock().take(INPUT_BYTES_MAX as u64).read_to_string(&mut given)?;
        given
    };
    let wrong = |what: String| Failure::new(Exit::BadData, format!("{what}; nothing is changed"));
    let mut keys =
        secrets::keys(&given).map_err(|(what, _)| wrong(format!("the {kind}: {what}")))?;
    match keys.len() {
        1 => Ok(keys.swap_remove(0)),
        count => Err(wrong(format!("{count} lines came: give one {kind} at a time"))),
    }
}

/// A key in the list.
struct Listed {
    caller: String,
    kind: &'static str,
    key: KnownKey,
    last_used: Option<AcceptedAt>,
}

fn list(config: &Config, name: Option<&str>, output: Output) -> Result<(), Failure> {
    let callers = match name {
        Some(name) => vec![caller(config, name)?],
        None => config.callers.iter().collect(),
    };
    let reader = Reader::open(&config.state_dir);
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, output, "keys", COLUMNS);
    for caller in callers {
        let used = match &reader {
            Ok(reader) => reader.last_uses(&caller.user_name)?,
            Err(_) => Vec::new(),
        };
        let files = [
            ("key", Some(&caller.authentication_file)),
            ("password", caller.encryption_file.as_ref()),
        ];
        for (kind, path) in files {
            let Some(path) = path else { continue };
            may_read(path)?;
            for key in KeyFile::open(path, &format!("caller {}", caller.user_name))?.keys() {
                let last_used = used.iter().find(|(id, _)| *id == key.id).map(|(_, at)| *at);
                let caller = caller.user_name.to_string();
                printer.row(told(KEY, &Listed { caller, kind, key, last_used }))?;
            }
        }
    }
    if printer.finish(KEY.iter().map(|(name, _)| *name))? == 0 && matches!(output, Output::Table) {
        note("no key is there");
    }
    Ok(())
}

const COLUMNS: &[Column] = &[
    text("caller", "CALLER"),
    text("kind", "KIND"),
    text("key_id", "ID"),
    text("added_at", "ADDED"),
    text("age_days", "DAYS"),
    text("last_used_at", "LAST USED"),
];

const KEY: &[Member<Listed>] = &[
    ("caller", |listed| listed.caller.as_str().into()),
    ("kind", |listed| listed.kind.into()),
    ("key_id", |listed| listed.key.id.to_string().into()),
    ("added_at", |listed| listed.key.since.map(|since| since.to_string()).into()),
    ("age_days", |listed| {
        let age_ms = |since: AcceptedAt| now().unix_ms() - since.unix_ms();
        listed.key.since.map(|since| age_ms(since) / DAY_MS).into()
    }),
    ("last_used_at", |listed| listed.last_used.map(|at| at.to_string()).into()),
];

fn now() -> AcceptedAt {
    AcceptedAt::new(clock::now())
}
