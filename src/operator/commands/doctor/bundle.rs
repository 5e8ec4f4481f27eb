//! The file for support: text that a manager can read through before it is sent, without keys,
//! passwords and whole phone numbers.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use zeroize::Zeroizing;

use super::{Finding, in_words, rights};
use crate::config::Config;
use crate::domain::time::AcceptedAt;
use crate::operator::snapshot::Snapshot;
use crate::operator::{Exit, Failure};
use crate::system::clock;

/// Programs that tell about the machine and the unit, the last with the newest lines of the log.
const PROGRAMS: &[&[&str]] = &[
    &["uname", "-a"],
    &["cat", "/etc/os-release"],
    &["dpkg-query", "--list", "tilld"],
    &["uptime"],
    &["df", "-h"],
    &["ip", "-brief", "address"],
    &["timedatectl"],
    &["systemctl", "cat", "tilld.service", "tilld-backup.timer"],
    &["systemctl", "status", "--no-pager", "--lines=0", "tilld.service"],
    &["systemctl", "list-timers", "--no-pager", "tilld-backup.timer"],
    &["journalctl", "--no-pager", "-o", "short-iso-precise", "-n", "5000", "-u", "tilld"],
];

/// Settings whose values are paths may be read; one that was meant for a file of its own may not.
const SECRET_NAMES: &[&str] =
    &["authentication", "encryption", "key", "password", "secret", "token"];

pub(super) fn write(
    path: &Path,
    config_file: &Path,
    config: Option<&Config>,
    snapshot: Option<&Snapshot>,
    findings: &[Finding],
) -> Result<(), Failure> {
    let mut text = String::new();
    let at = AcceptedAt::new(clock::now()).wall_clock();
    let _ = writeln!(text, "tilld {}, looked at {at}", env!("CARGO_PKG_VERSION"));
    section(&mut text, "what the doctor found");
    for finding in findings {
        let _ = writeln!(text, "{}", in_words(finding));
    }
    for file in configuration_files(config_file) {
        section(&mut text, &file.display().to_string());
        let read = fs::read_to_string(&file).unwrap_or_else(|error| error.to_string());
        text.extend(read.lines().map(|line| without_value(line) + "\n"));
    }
    if let Some(config) = config {
        section(&mut text, "files");
        list(&mut text, &config.state_dir, 2);
        if !config.backup.directory.starts_with(&config.state_dir) {
            list(&mut text, &config.backup.directory, 1);
        }
    }
    if let Some(snapshot) = snapshot {
        section(&mut text, "status");
        let _ = writeln!(text, "{:#}", json!(snapshot.without_sums()));
    }
    for program in PROGRAMS {
        section(&mut text, &program.join(" "));
        let output = Command::new(program[0]).args(&program[1..]).output();
        match output {
            Ok(output) => {
                text += &String::from_utf8_lossy(&output.stdout);
                text += &String::from_utf8_lossy(&output.stderr);
            }
            Err(error) => text += &error.to_string(),
        }
    }
    let text = without_phones(&without_secrets(text, config));
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = created.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        Failure::new(Exit::Error, format!("{}: {error}; nothing was written", path.display()))
    })
}

fn section(text: &mut String, heading: &str) {
    let _ = write!(text, "\n==> {heading}\n\n");
}

fn configuration_files(file: &Path) -> Vec<PathBuf> {
    let beside = file.parent().unwrap_or(Path::new("/")).join("conf.d");
    let entries = fs::read_dir(beside).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files.insert(0, file.to_owned());
    files
}

fn list(text: &mut String, directory: &Path, depth: usize) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let (rights, length) = (rights::rights_of(&metadata), metadata.len());
        let _ = writeln!(text, "{rights:<24} {length:>12} {}", path.display());
        if depth > 1 && metadata.is_dir() {
            list(text, &path, depth - 1);
        }
    }
}

/// A line of a configuration, without what somebody has written into it that belongs into a file
/// of its own, and without who is named in a URL.
fn without_value(line: &str) -> String {
    if let Some((name, value)) = line.split_once('=') {
        let (name, value) = (name.to_lowercase(), value.trim());
        let is_path = value.starts_with("\"/") || value.starts_with("\"${");
        if !is_path && SECRET_NAMES.iter().any(|secret| name.contains(secret)) {
            return format!("{} = (left out)", name.trim());
        }
    }
    match (line.find("://"), line.find('@')) {
        (Some(from), Some(to)) if from < to => {
            format!("{}://(left out){}", &line[..from], &line[to..])
        }
        _ => line.to_owned(),
    }
}

/// Keys and passwords that are configured, wherever they may stand.
fn without_secrets(mut text: String, config: Option<&Config>) -> String {
    let mut secrets: Vec<Zeroizing<String>> = Vec::new();
    if let Some(config) = config {
        for caller in &config.callers {
            secrets.extend(caller.authentication_keys().unwrap_or_default());
            secrets.extend(caller.encryption_passwords().unwrap_or_default());
        }
        if let Some(upstream) = &config.upstream {
            secrets.extend(upstream.authentication_key());
            secrets.extend(upstream.encryption_password().ok().flatten());
        }
    }
    for secret in secrets {
        text = text.replace(secret.as_str(), "(secret)");
    }
    text
}

/// Philippine mobile numbers keep their first four digits and their last two, as in the log. A
/// blank or a dash may stand between digits.
fn without_phones(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let begins = first.is_ascii_digit() && !before.is_ascii_alphanumeric();
        let length = if begins { phone_length(rest) } else { None };
        let taken = length.unwrap_or(first.len_utf8());
        let (head, tail) = rest.split_at(taken);
        match length {
            Some(length) => {
                let hidden = |(i, c): (usize, char)| if i < 4 || i + 2 >= length { c } else { '*' };
                harmless.extend(head.chars().enumerate().map(hidden));
            }
            None => harmless.push(first),
        }
        before = head.chars().next_back().unwrap_or(' ');
        rest = tail;
    }
    harmless
}

/// How many bytes at the start of a text are a phone number: 09 or 08 with eleven digits, or 639 or
/// 638 with twelve or thirteen.
fn phone_length(text: &str) -> Option<usize> {
    let mut digits = String::new();
    let mut end = 0;
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => {
                digits.push(char::from(byte));
                end = i + 1;
            }
            b' ' | b'-' if end == i => {}
            _ => break,
        }
        if digits.len() == 13 {
            break;
        }
    }
    let is_national = digits.starts_with("09") || digits.starts_with("08");
    let is_international = digits.starts_with("639") || digits.starts_with("638");
    let is_phone = is_national && digits.len() >= 11 || is_international && digits.len() >= 12;
    is_phone.then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_whole_phone_number_is_left_and_times_and_contracts_stay() {
        for (text, expected) in [
            ("phone 09270348095, 21.01 pesos", "phone 0927*****95, 21.01 pesos"),
            ("(0927 034-8095)", "(0927*******95)"),
            ("+639270348095.", "+6392******95."),
            ("6392210083333", "6392*******33"),
            ("contract SKY0112345678901", "contract SKY0112345678901"),
            ("2026-11-22T09:30:25.702+08:00 INFO", "2026-11-22T09:30:25.702+08:00 INFO"),
            ("08:00:01 and 0927*****95", "08:00:01 and 0927*****95"),
            ("Ñ 08", "Ñ 08"),
        ] {
            assert_eq!(without_phones(text), expected);
        }
    }

    #[test]
    fn what_does_not_belong_into_a_configuration_is_left_out() {
        for (line, expected) in [
            ("authentication_file = \"/etc/tilld/a.keys\"", None),
            ("private_key = \"${CREDENTIALS_DIRECTORY}/key\"", None),
            ("url = \"https://head.example.com/collect\"", None),
            ("  authentication = \"s3cret\"", Some("authentication = (left out)")),
            ("Password=s3cret", Some("password = (left out)")),
            (
                "url = \"https://ana:s3cret@head.example.com/\"",
                Some("url = \"https://(left out)@head.example.com/\""),
            ),
        ] {
            assert_eq!(without_value(line), expected.unwrap_or(line));
        }
    }
}
