//! The reference configuration: every key with its meaning, commented out.
//!
//! A line of prose begins with `# `, a setting that could be taken in with `#` alone.

use crate::settings::{Presence, Section};

/// The width of a comment, so that the file reads well in a terminal.
const LINE_CHARS_MAX: usize = 80;

const PREAMBLE: &str = "Every setting of tilld with what it means. A path that is not absolute \
                        starts from the directory of the file it stands in. Settings belong into \
                        /etc/tilld/tilld.toml or a file of your own, /etc/tilld/conf.d/*.toml; see \
                        tilld.toml(5).";

/// The whole file.
pub fn text(sections: &[Section]) -> String {
    let mut lines = Vec::new();
    comment(&mut lines, PREAMBLE);
    lines.push(String::new());
    for section in sections {
        if !section.header.is_empty() {
            for paragraph in &section.about {
                comment(&mut lines, paragraph);
            }
            lines.extend([format!("#{}", section.header), String::new()]);
        }
        for key in &section.keys {
            let presence = match key.presence {
                Presence::Default => "Default",
                Presence::Required => "Must be there, such as",
                Presence::Example => "Not set by default. Example",
            };
            let remark = match key.remark.as_str() {
                "" => String::new(),
                remark => format!(" ({remark})"),
            };
            for paragraph in key.about.iter().chain([&format!("{presence}{remark}:")]) {
                comment(&mut lines, paragraph);
            }
            lines.extend([format!("#{} = {}", key.name, key.value), String::new()]);
        }
    }
    lines.join("\n")
}

/// Appends a paragraph as comment lines.
fn comment(lines: &mut Vec<String>, paragraph: &str) {
    let mut line = String::from("#");
    for word in paragraph.replace('`', "").split(' ') {
        if line.chars().count() + 1 + word.chars().count() > LINE_CHARS_MAX {
            lines.push(line);
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines.push(line);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tilld::config::Config;

    use super::*;
    use crate::settings::{self, Key};

    /// What the daemon makes of a file with this text, wherever that lies.
    fn loaded(text: &str) -> Config {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("tilld.toml");
        fs::write(&path, text).expect("a file that can be written");
        let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Config { file: "tilld.toml".into(), ..config }
    }

    /// The reference with those settings taken in that are `wanted`.
    fn taken_in(wanted: impl Fn(&Key) -> bool) -> String {
        let mut sections = settings::sections().expect("documented settings");
        for section in &mut sections {
            section.keys.retain(&wanted);
        }
        sections.retain(|section| !section.keys.is_empty());
        let text = text(&sections);
        let is_setting = |rest: &str| !rest.is_empty() && !rest.starts_with(' ');
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if is_setting(rest) => rest,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn as_it_is_the_reference_sets_nothing() {
        assert_eq!(loaded(&text(&settings::sections().unwrap())), loaded(""));
    }

    #[test]
    fn with_everything_taken_in_it_is_valid() {
        let config = loaded(&taken_in(|_| true));
        assert_eq!(config.callers.len(), 1);
        assert!(config.upstream.is_some() && config.endpoint.tls.files.is_some());
    }

    #[test]
    fn the_defaults_it_shows_are_those_of_the_daemon() {
        let shown = loaded(&taken_in(|key| key.presence != Presence::Example));
        let mut left_out = loaded(&taken_in(|key| key.presence == Presence::Required));
        // Where these lie without being told depends on the machine.
        left_out.operator.socket.clone_from(&shown.operator.socket);
        left_out.operator.status_file.clone_from(&shown.operator.status_file);
        assert_eq!(shown, left_out);
    }

    #[test]
    fn the_shipped_configuration_is_valid_and_sets_nothing() {
        assert_eq!(loaded(include_str!("../tilld.toml")), loaded(""));
    }
}
