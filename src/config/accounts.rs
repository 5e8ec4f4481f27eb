//! The file of the people who may log in at the console: one line each, with the name, the role and
//! the Argon2 hash of the password, which is made and checked elsewhere.
//!
//! It has the rights of a file of secrets. Whoever reads it while it is changed finds it whole.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{ConfigError, key_file, secrets};
use crate::domain::Invalid;

/// Whose file it is, where that is told.
const WANTED_BY: &str = "the console's accounts";

/// The longest name, in characters: an actor on the tape may have as many.
const NAME_CHARS_MAX: usize = 64;

/// Somebody who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name to log in with.
    pub name: AccountName,
    /// What the person may do.
    pub role: Role,
    /// The password's hash as a PHC string: `$argon2id$…`.
    pub password_hash: String,
}

/// The name of an account: it stands on the tape for what its owner does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountName(String);

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look.
    Viewer,
    /// Look, and act.
    Manager,
}

/// The file while nobody else changes it.
pub struct AccountsFile {
    path: PathBuf,
    /// Locked, and to be synced.
    directory: File,
    accounts: Vec<Account>,
}

impl AccountName {
    /// Parses 1 to 64 letters, digits, `.`, `-`, `_` and `@`.
    pub fn parse(text: &str) -> Result<AccountName, Invalid> {
        let in_name = |b: u8| b.is_ascii_alphanumeric() || b".-_@".contains(&b);
        if (1..=NAME_CHARS_MAX).contains(&text.len()) && text.bytes().all(in_name) {
            Ok(AccountName(text.to_owned()))
        } else {
            Err(Invalid { expected: "1 to 64 letters, digits, points, hyphens, _ and @" })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Role {
    /// The word in the file and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Manager => "manager",
        }
    }

    /// Parses the word.
    pub fn parse(text: &str) -> Result<Role, Invalid> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "manager" => Ok(Role::Manager),
            _ => Err(Invalid { expected: "viewer or manager" }),
        }
    }
}

impl Account {
    fn parse(line: &str) -> Option<Account> {
        let mut words = line.split(' ');
        let (name, role, hash) = (words.next()?, words.next()?, words.next()?);
        let account = Account {
            name: AccountName::parse(name).ok()?,
            role: Role::parse(role).ok()?,
            password_hash: hash.to_owned(),
        };
        (words.next().is_none() && hash.starts_with('$')).then_some(account)
    }
}

/// Reads the file; one that is not there has nobody in it.
pub fn read(path: &Path) -> Result<Vec<Account>, ConfigError> {
    match path.try_exists() {
        Ok(false) => return Ok(Vec::new()),
        Ok(true) => {}
        Err(error) => {
            let help = "let the daemon's user enter its directory";
            return Err(ConfigError::about_file(path, error, help));
        }
    }
    let lines = secrets::read(path, WANTED_BY)?;
    let parse = |(number, line): (usize, &str)| {
        Account::parse(line).ok_or_else(|| {
            let what = format!("its entry {number} is not NAME ROLE HASH, one blank between them");
            let help = "remove that line, then `tilld user add` the person";
            ConfigError::about_file(path, what, help)
        })
    };
    (1..).zip(lines.iter().map(|line| line.as_str())).map(parse).collect()
}

impl AccountsFile {
    /// Reads the file, and waits until nobody else changes it.
    pub fn open(path: &Path) -> Result<AccountsFile, ConfigError> {
        let directory = key_file::lock_directory(path).map_err(|error| {
            ConfigError::about_file(path, error, "make its directory, or name another users_file")
        })?;
        Ok(AccountsFile { path: path.to_owned(), directory, accounts: read(path)? })
    }

    /// Who is in it.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Adds somebody, or replaces who has the same name: then true. A new file is made readable for
    /// this group.
    pub fn put(&mut self, account: Account, group: Option<u32>) -> Result<bool, ConfigError> {
        let before = self.accounts.len();
        self.accounts.retain(|other| other.name != account.name);
        let is_replaced = self.accounts.len() < before;
        self.accounts.push(account);
        self.write(group)?;
        Ok(is_replaced)
    }

    /// Drops somebody; false when nobody has this name.
    pub fn drop_account(&mut self, name: &AccountName) -> Result<bool, ConfigError> {
        let before = self.accounts.len();
        self.accounts.retain(|account| account.name != *name);
        if self.accounts.len() == before {
            return Ok(false);
        }
        self.write(None)?;
        Ok(true)
    }

    fn write(&self, group: Option<u32>) -> Result<(), ConfigError> {
        let written = if self.accounts.is_empty() { self.remove() } else { self.replace(group) };
        written.map_err(|error| {
            let what = format!("it cannot be written: {error}; the accounts are as before");
            ConfigError::about_file(&self.path, what, "do it as root: sudo tilld user …")
        })
    }

    fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.directory.sync_all()
    }

    fn replace(&self, group: Option<u32>) -> io::Result<()> {
        let group = match (fs::metadata(&self.path), group) {
            (Ok(present), _) => present.gid(),
            (Err(_), Some(group)) => group,
            (Err(_), None) => self.directory.metadata()?.gid(),
        };
        let lines = self.accounts.iter().map(|account| {
            let Account { name, role, password_hash } = account;
            format!("{name} {} {password_hash}\n", role.as_str())
        });
        key_file::replace(&self.directory, &self.path, group, lines.collect::<String>().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn account(name: &str, role: Role, password_hash: &str) -> Account {
        let name = AccountName::parse(name).unwrap();
        Account { name, role, password_hash: password_hash.to_owned() }
    }

    #[test]
    fn people_come_go_and_are_replaced_and_only_the_group_may_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        assert_eq!(read(&path).unwrap(), []);
        let open = || AccountsFile::open(&path).unwrap();
        assert!(!open().put(account("ana", Role::Manager, "$1"), None).unwrap());
        assert!(!open().put(account("ben", Role::Viewer, "$2"), None).unwrap());
        assert!(open().put(account("ana", Role::Viewer, "$3"), None).unwrap());
        let both = [account("ben", Role::Viewer, "$2"), account("ana", Role::Viewer, "$3")];
        assert_eq!(read(&path).unwrap(), both);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(!open().drop_account(&AccountName::parse("eva").unwrap()).unwrap());
        assert!(open().drop_account(&both[0].name).unwrap());
        assert!(open().drop_account(&both[1].name).unwrap());
        assert_eq!(read(&path).unwrap(), []);
    }

    #[test]
    fn a_file_that_others_can_read_or_that_holds_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for (text, mode, reason) in [
            ("ana manager $1\n", 0o644, "others can reach it"),
            ("ana manager $1\nben owner $2\n", 0o640, "entry 2"),
            ("ana manager secret\n", 0o640, "entry 1"),
            ("ana manager $1 $2\n", 0o640, "entry 1"),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("secret\n"), "{error}");
        }
    }

    #[test]
    fn a_name_can_neither_break_a_line_nor_a_page() {
        for name in ["ana", "Ana.Reyes-2", "ana_r@mnl-042"] {
            assert_eq!(AccountName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "ana reyes", "ana\n", "<b>", "Ñ", &"a".repeat(65)] {
            assert!(AccountName::parse(name).is_err(), "{name}");
        }
    }
}
