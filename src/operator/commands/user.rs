//! `tilld user`: who may log in at the console. The running daemon takes a change by itself.

use std::fs;
use std::io::{self, BufWriter, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use uzers::get_user_by_uid;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::config::accounts::{self, Account, AccountName, AccountsFile, Role};
use crate::operator::cli::{Output, UserCommand};
use crate::operator::console::passwords::{self, PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN};
use crate::operator::output::{Column, Member, Printer, note, text, told};
use crate::operator::{Exit, Failure, may_read};

/// More than a password can have, in bytes.
const INPUT_BYTES_MAX: usize = 4096;

/// `tilld user …`
pub fn user(config: &Config, command: &UserCommand) -> Result<(), Failure> {
    let path = &config.operator.users_file;
    match command {
        UserCommand::Add { name, role } => add(config, name, *role),
        UserCommand::List { output } => list(path, *output),
        UserCommand::Drop { name } => drop_user(path, name),
    }
}

fn add(config: &Config, name: &AccountName, role: Role) -> Result<(), Failure> {
    let path = &config.operator.users_file;
    may_read(path.parent().unwrap_or(Path::new("/")))?;
    let password = read_password(name)?;
    let password_hash = passwords::hash(&password)?;
    let account = Account { name: name.clone(), role, password_hash };
    let is_replaced = AccountsFile::open(path)?.put(account, daemon_group(config))?;
    let what = if is_replaced { "has a new password and is" } else { "may log in as" };
    let scheme = if config.operator.listen.ip().is_loopback() { "http" } else { "https" };
    Ok(writeln!(
        io::stdout(),
        "{name} {what} {} now, at {scheme}://{}/",
        role.as_str(),
        config.operator.listen
    )?)
}

fn drop_user(path: &Path, name: &AccountName) -> Result<(), Failure> {
    may_read(path)?;
    if !AccountsFile::open(path)?.drop_account(name)? {
        let message = format!("there is no user {name}: `tilld user list` shows who there is");
        return Err(Failure::new(Exit::NotFound, message));
    }
    Ok(writeln!(io::stdout(), "{name} cannot log in any more, and is logged out")?)
}

fn list(path: &Path, output: Output) -> Result<(), Failure> {
    may_read(path)?;
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = Printer::new(out, output, "users", COLUMNS);
    for account in accounts::read(path)? {
        printer.row(told(USER, &account))?;
    }
    if printer.finish(USER.iter().map(|(name, _)| *name))? == 0 && matches!(output, Output::Table) {
        note("nobody can log in: sudo tilld user add NAME --role manager");
    }
    Ok(())
}

const COLUMNS: &[Column] = &[text("user", "USER"), text("role", "ROLE")];

const USER: &[Member<Account>] = &[
    ("user", |account| account.name.as_str().into()),
    ("role", |account| account.role.as_str().into()),
];

/// The group of the daemon's user, whom the state directory belongs to: it is to read the file.
fn daemon_group(config: &Config) -> Option<u32> {
    let owner = fs::metadata(&config.state_dir).ok()?.uid();
    get_user_by_uid(owner).map(|user| user.primary_group_id())
}

/// One password from standard input; a terminal does not show it, and asks for it twice.
fn read_password(name: &AccountName) -> Result<Zeroizing<String>, Failure> {
    let wrong = |what: &str| Failure::new(Exit::BadData, format!("{what}; nothing is changed"));
    let password = if io::stdin().is_terminal() {
        note(format_args!("password of {name}, not shown; end with Enter:"));
        let password = Zeroizing::new(rpassword::read_password()?);
        note("the same again:");
        if *password != *Zeroizing::new(rpassword::read_password()?) {
            return Err(wrong("the second is not the first"));
        }
        password
    } else {
        let mut given = Zeroizing::new(String::with_capacity(INPUT_BYTES_MAX + 1));
        io::stdin().lock().take(INPUT_BYTES_MAX as u64).read_to_string(&mut given)?;
        let line = given.strip_suffix('\n').unwrap_or(&given);
        Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned())
    };
    if password.contains(char::is_control) {
        return Err(wrong("a password is one line"));
    }
    if !(PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&password.chars().count()) {
        let what = format!(
            "a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters; four words \
             are easier to keep in mind than eight signs"
        );
        return Err(wrong(&what));
    }
    Ok(password)
}
