//! The manual pages: `tilld(8)`, one for each command, and `tilld.toml(5)`.
//!
//! Commands and options come from clap, settings from `settings`, exit codes from their own type;
//! only where things lie is told here.

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use tilld::operator::cli::Cli;

use crate::settings::{self, Key, Presence, Section};

const MANUAL: &str = "Collections of a store";

/// Where things lie, and what each is.
const FILES: &[(&str, &str)] = &[
    ("/etc/tilld/tilld.toml", "The configuration, described in tilld.toml(5)."),
    ("/etc/tilld/conf.d/*.toml", "Further files of it, read in byte order of their names."),
    ("/etc/tilld/secrets.d", "Files of keys and passwords; see tilld-key(8)."),
    ("/etc/tilld/users", "Who may log in at the web console; see tilld-user(8)."),
    ("/var/lib/tilld", "Database, tape, backups and self-signed certificate."),
    ("/run/tilld/tilld.sock", "The control socket, for root and the group `tilld-admin`."),
    ("/run/tilld/status.json", "What every user of this machine may know."),
    ("/usr/share/doc/tilld/examples/tilld.toml", "Every setting with what it means."),
    ("/usr/share/doc/tilld/README.md.gz", "The handbook, with what to do when."),
];

/// Writes all pages into a directory.
pub fn write(sections: &[Section], directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_command(&command, directory)?;
    fs::write(directory.join("tilld.toml.5"), configuration(sections).to_roff())?;
    Ok(())
}

fn write_command(command: &Command, directory: &Path) -> Result<(), Box<dyn Error>> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_command(below, directory)?;
    }
    let page = Man::new(command.clone()).section("8").source(source()).manual(MANUAL);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    let mut end = Roff::new();
    if command.get_name() == "tilld" {
        exit_status(&mut end)?;
        end.control("SH", ["FILES"]);
        for (path, what) in FILES {
            entry(&mut end, &format!("`{path}`"), what);
        }
    }
    see_also(&mut end, &["tilld(8)", "tilld.toml(5)", "journalctl(1)"]);
    end.to_writer(&mut text)?;
    fs::write(directory.join(page.get_filename()), text)?;
    Ok(())
}

/// The version that the pages are of.
fn source() -> String {
    format!("tilld {}", Cli::command().get_version().unwrap_or_default())
}

fn exit_status(page: &mut Roff) -> Result<(), Box<dyn Error>> {
    page.control("SH", ["EXIT STATUS"]);
    let mut codes = settings::exit_codes()?;
    codes.push((0, "Done.".to_owned()));
    codes.push((2, "Wrong use of the command line.".to_owned()));
    codes.sort();
    for (code, meaning) in codes {
        entry(page, &format!("`{code}`"), &meaning);
    }
    Ok(())
}

fn configuration(sections: &[Section]) -> Roff {
    let mut page = Roff::new();
    page.control("TH", ["tilld.toml", "5", "", &source(), MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman("tilld.toml - the configuration of tilld")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("/etc/tilld/tilld.toml")]);
    page.control("br", []);
    page.text([bold("/etc/tilld/conf.d/*.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in [
        "One TOML file, then all files `conf.d/*.toml` beside it in byte order of their names, \
         those left out that begin with a dot. A value in a later file replaces an earlier one; \
         sections `[[caller]]` add up. An unknown key is an error. An empty file is valid: then \
         there is no caller, and every request is answered -1001.",
        "A size is a whole number of bytes, or a text such as `\"64 MiB\"`. A duration is a text \
         such as `\"500 ms\"`, `\"5 s\"` or `\"2 min\"`. A path that is not absolute starts from \
         the directory of the file it stands in; one that begins with `${CREDENTIALS_DIRECTORY}/` \
         names a credential that systemd has loaded for the unit.",
        "`tilld config check`, run as the user `_tilld`, says whether the daemon would take it.",
    ] {
        page_text(&mut page, paragraph);
    }
    for section in sections {
        let header = if section.header.is_empty() { "SETTINGS" } else { &section.header };
        page.control("SH", [header]);
        if !section.header.is_empty() {
            for paragraph in &section.about {
                page_text(&mut page, paragraph);
            }
        }
        for key in &section.keys {
            setting(&mut page, key);
        }
    }
    see_also(&mut page, &["tilld(8)", "systemd.exec(5)"]);
    page
}

fn page_text(page: &mut Roff, paragraph: &str) {
    page.text(inline(paragraph));
    page.control("PP", []);
}

fn setting(page: &mut Roff, key: &Key) {
    let presence = match key.presence {
        Presence::Default => "Default",
        Presence::Required => "Must be there, such as",
        Presence::Example => "Not set by default. Example",
    };
    let comma = if key.remark.is_empty() { "" } else { ", " };
    let shown = format!("{presence}: `{}`{comma}{}", key.value, key.remark);
    let mut paragraphs = key.about.iter().chain([&shown]);
    let first = paragraphs.next().map_or("", String::as_str);
    entry(page, &format!("`{}`", key.name), first);
    for paragraph in paragraphs {
        page.control("IP", []);
        page.text(inline(paragraph));
    }
}

/// An indented paragraph below its term.
fn entry(page: &mut Roff, term: &str, text: &str) {
    page.control("TP", []);
    page.text(inline(term));
    page.text(inline(text));
}

fn see_also(page: &mut Roff, others: &[&str]) {
    page.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for (i, other) in others.iter().enumerate() {
        let (name, section) = other.split_once('(').unwrap_or((other, ""));
        line.extend([roman(if i == 0 { "" } else { ", " }), bold(name)]);
        line.push(roman(format!("({section}")));
    }
    page.text(line);
}

/// Text in which what stands in backticks is bold.
fn inline(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate();
    pieces.map(|(i, piece)| if i % 2 == 1 { bold(piece) } else { roman(piece) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_every_setting_is_in_the_manual() {
        let directory = tempfile::tempdir().unwrap();
        let sections = settings::sections().unwrap();
        write(&sections, directory.path()).unwrap();
        for page in ["tilld.8", "tilld-list.8", "tilld-sync.8", "tilld-sync-retry.8"] {
            assert!(directory.path().join(page).is_file(), "{page}");
        }
        let page = fs::read_to_string(directory.path().join("tilld.toml.5")).unwrap();
        for key in sections.iter().flat_map(|section| &section.keys) {
            assert!(page.contains(&format!("\\fB{}\\fR", key.name)), "{}", key.name);
        }
    }
}
