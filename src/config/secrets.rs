//! The files of keys and passwords that a configuration names.
//!
//! Knows nothing of what the keys open. No error here ever shows what is in such a file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::ConfigError;

/// The longest `authentication` of the protocol.
const KEY_CHARS_MAX: usize = 255;

/// Hundreds of keys of the greatest length: more is not a file of keys.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// The group may not write, others may do nothing.
const FORBIDDEN_MODE_BITS: u32 = 0o027;

/// Reads one key from each line; blank lines are skipped. There is at least one key.
///
/// `wanted_by` says in an error who needs the file. A file that the group can write or that others
/// can reach is refused, and so is anything but a regular file.
pub fn read(path: &Path, wanted_by: &str) -> Result<Vec<Zeroizing<String>>, ConfigError> {
    let shown = path.display();
    let unusable = |what: &str, help: &str| {
        let what = format!("the secrets of {wanted_by} cannot be read: {what}");
        ConfigError::about_file(path, what, help)
    };
    let make = format!(
        "make it: sudo install -m 0640 -g _tilld /dev/stdin {shown}\n\
         then type the keys, one a line, and end with Ctrl-D"
    );
    // Without NONBLOCK a named pipe would hold the start for ever.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|error| {
        let help = match error {
            rustix::io::Errno::NOENT => make.clone(),
            _ => format!(
                "let the daemon read it: sudo chgrp _tilld {shown} && sudo chmod 0640 {shown}"
            ),
        };
        unusable(&error.to_string(), &help)
    })?;
    let metadata = file.metadata().map_err(|error| unusable(&error.to_string(), &make))?;
    if !metadata.is_file() {
        return Err(unusable("it is not a regular file", &make));
    }
    if metadata.mode() & FORBIDDEN_MODE_BITS != 0 {
        let what = format!(
            "others can reach it, or its group can write it (mode {:04o})",
            metadata.mode() & 0o7777
        );
        return Err(unusable(&what, &format!("mend it: chmod 0640 {shown}")));
    }
    // The whole room at once: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unusable(&error.to_string(), &make))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(unusable("it is larger than 64 KiB", "expected one key a line"));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| unusable("it is not UTF-8 text", "expected one key a line"))?;
    keys(text).map_err(|(what, help)| unusable(&what, help))
}

/// Reads the first key of a file, under the rules of [`read`].
pub fn read_first(path: &Path, wanted_by: &str) -> Result<Zeroizing<String>, ConfigError> {
    // There is at least one.
    read(path, wanted_by).map(|mut keys| keys.swap_remove(0))
}

/// The keys in a text, or what is wrong with it and what to do.
pub fn keys(text: &str) -> Result<Vec<Zeroizing<String>>, (String, &'static str)> {
    // Some editors put a byte order mark in front; it is no part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.split('\n')) {
        let key = line.strip_suffix('\r').unwrap_or(line);
        if key.trim().is_empty() {
            continue;
        }
        if key.chars().count() > KEY_CHARS_MAX {
            let what = format!("line {number} is longer than {KEY_CHARS_MAX} characters");
            return Err((what, "expected one key a line, each as agreed with the other side"));
        }
        keys.push(Zeroizing::new(key.to_owned()));
    }
    if keys.is_empty() {
        let help = "put the key agreed with the other side into it, one a line; all are active";
        return Err(("it has no key in it".to_owned(), help));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read_with(content: &[u8], mode: u32) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skypay.keys");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let directory = directory.path().to_str().unwrap();
        read(&path, "caller AppName@skypay")
            .map(|keys| keys.iter().map(|key| key.to_string()).collect())
            .map_err(|error| error.to_string().replace(directory, "DIR"))
    }

    #[test]
    fn every_line_that_is_not_blank_is_a_key() {
        let expected = vec!["one".to_owned(), " tw o ".to_owned(), "#three".to_owned()];
        assert_eq!(read_with(b"one\r\n\n  \n tw o \n\r\n#three", 0o640), Ok(expected));
        assert_eq!(read_with("\u{feff}Ñ\r".as_bytes(), 0o400), Ok(vec!["Ñ".to_owned()]));
        let longest = "Ñ".repeat(255);
        assert_eq!(read_with(longest.as_bytes(), 0o600), Ok(vec![longest]));
    }

    #[test]
    fn a_file_that_others_can_reach_or_the_group_can_write_is_refused_with_the_cure() {
        for mode in [0o644, 0o660, 0o642, 0o641, 0o620] {
            let error = read_with(b"hunter2", mode).unwrap_err();
            let expected = format!(
                "DIR/skypay.keys: the secrets of caller AppName@skypay cannot be read: others can \
                 reach it, or its group can write it (mode {mode:04o})\n\
                 mend it: chmod 0640 DIR/skypay.keys"
            );
            assert_eq!(error, expected);
        }
        for mode in [0o640, 0o600, 0o440, 0o400] {
            assert!(read_with(b"hunter2", mode).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn a_missing_file_is_reported_with_who_wants_it_and_how_to_make_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no.keys");
        let error = read(&path, "caller AppName@skypay").unwrap_err().to_string();
        assert!(error.contains("caller AppName@skypay"), "{error}");
        assert!(error.contains("No such file"), "{error}");
        let make = format!("sudo install -m 0640 -g _tilld /dev/stdin {}", path.display());
        assert!(error.contains(&make), "{error}");
    }

    #[test]
    fn an_empty_file_is_refused_and_told_what_to_put_in() {
        for content in ["", "\n\n", "  \r\n"] {
            let error = read_with(content.as_bytes(), 0o640).unwrap_err();
            assert!(error.contains("it has no key in it\nput the key agreed"), "{error}");
        }
    }

    #[test]
    fn no_error_shows_what_is_in_the_file() {
        let long_line = format!("hunter2{}", "x".repeat(249));
        let large = "hunter2\n".repeat(8193);
        for (content, reason) in [
            (long_line.as_bytes(), "line 1 is longer than 255 characters"),
            (large.as_bytes(), "larger than 64 KiB"),
            (b"hunter2\xff", "not UTF-8"),
        ] {
            let error = read_with(content, 0o640).unwrap_err();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn only_regular_files_are_read_and_a_pipe_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        for path in [directory.path(), &pipe, Path::new("/dev/null")] {
            let error = read(path, "caller x").unwrap_err().to_string();
            assert!(error.contains("it is not a regular file"), "{error}");
        }
    }
}
