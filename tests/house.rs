//! The rules of the house, read off the source text: who may use whom, how files begin, what is
//! never called. Knows nothing of what the program does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tilld::system::event::Event;

/// What each module may import of ours; `main` stands for `src/main.rs`.
const IMPORT_TABLE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("skypay", &["domain"]),
    ("config", &["domain"]),
    ("system", &[]),
    ("net", &["system"]),
    ("store", &["domain", "system"]),
    ("endpoint", &["domain", "skypay", "store", "config", "net", "system"]),
    ("upstream", &["domain", "skypay", "net", "system"]),
    ("relay", &["domain", "store", "upstream", "system"]),
    ("operator", &["domain", "skypay", "store", "config", "upstream", "net", "system"]),
    (
        "daemon",
        &[
            "domain", "skypay", "config", "system", "net", "store", "endpoint", "upstream",
            "relay", "operator",
        ],
    ),
    ("main", &["operator", "daemon"]),
];

const LINE_CHARS_MAX: usize = 100;
const SOURCE_LINES_MAX: usize = 700;

/// Texts that must not stand in code, in two pieces so that this file does not hold them.
const BANNED_EVERYWHERE: &[(&str, &str)] = &[
    ("un", "safe "),
    ("[al", "low("),
    ("#[ig", "nore"),
    ("to", "do!"),
    ("unimple", "mented!"),
    ("db", "g!"),
];

/// Clocks are read in one file only.
const CLOCKS: &[(&str, &str)] = &[("SystemTime:", ":now"), ("Utc:", ":now"), ("Instant:", ":now")];
const CLOCK_FILE: &str = "src/system/clock.rs";

/// Where the log's events are named, and where it is told what they mean.
const EVENT_FILE: &str = "src/system/event.rs";
const CATALOG_FILE: &str = "systemd/tilld.catalog";

/// Money never meets a float in these modules.
const WITHOUT_FLOATS: &[&str] = &["src/domain", "src/skypay", "src/store"];

struct SourceFile {
    path: String,
    text: String,
}

impl SourceFile {
    /// The module it belongs to: `store` for `src/store/writer.rs`, `main` for `src/main.rs`.
    fn module(&self) -> &str {
        let inside = self.path.trim_start_matches("src/");
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// Line number and text of each line that is not a comment.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(i, line)| (i + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// What is compiled into the product: everything above the tests.
    fn shipped(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod ").next().unwrap_or(&self.text)
    }
}

#[test]
fn modules_import_only_what_the_import_table_allows() {
    let mut found = Vec::new();
    for file in rust_files("src") {
        if file.path == "src/lib.rs" {
            continue;
        }
        let row = IMPORT_TABLE.iter().find(|(module, _)| *module == file.module());
        let Some((module, allowed)) = row else {
            found.push(format!("{}: its module is not in the import table", file.path));
            continue;
        };
        let root = if *module == "main" { "tilld::" } else { "crate::" };
        for (number, imported) in imports(&file, root) {
            if imported != *module && !allowed.contains(&imported.as_str()) {
                found.push(format!("{}:{number}: {module} may not use {imported}", file.path));
            }
        }
        for (number, line) in file.code_lines() {
            if line.contains("super::super") {
                found.push(format!("{}:{number}: say crate:: instead", file.path));
            }
        }
    }
    none(&found);
}

#[test]
fn every_rust_file_opens_by_saying_what_it_is_for() {
    let nameless = all_rust_files().into_iter().filter(|file| !file.text.starts_with("//! "));
    none(&nameless.map(|file| file.path).collect::<Vec<_>>());
}

#[test]
fn banned_calls_stand_nowhere() {
    none(&lines_with(&all_rust_files(), BANNED_EVERYWHERE));
}

/// `print` and its kin panic when nobody reads, and a panic leaves things behind.
#[test]
fn what_is_printed_is_written_so_that_a_closed_pipe_is_an_error_like_any_other() {
    let printing = ["print", "println", "eprint", "eprintln"].map(|name| (name, "!("));
    none(&lines_with(&rust_files("src"), &printing));
}

#[test]
fn clocks_are_read_in_one_file_only() {
    let mut files = all_rust_files();
    files.retain(|file| file.path != CLOCK_FILE);
    none(&lines_with(&files, CLOCKS));
}

#[test]
fn only_the_store_knows_the_database_library() {
    let mut files = rust_files("src");
    files.retain(|file| !file.path.starts_with("src/store/"));
    none(&lines_with(&files, &[("rus", "qlite")]));
}

#[test]
fn no_float_comes_near_money() {
    let mut files = rust_files("src");
    files.retain(|file| WITHOUT_FLOATS.iter().any(|place| file.path.starts_with(place)));
    none(&lines_with(&files, &[("f", "32"), ("f", "64")]));
}

#[test]
fn only_the_store_can_prove_durability() {
    let needle = "impl ProofOfDurability for";
    let all = rust_files("src");
    let provers: Vec<&str> = all
        .iter()
        .flat_map(|file| file.shipped().matches(needle).map(|_| file.path.as_str()))
        .collect();
    assert!(matches!(provers[..], [one] if one.starts_with("src/store/")), "{provers:?}");
}

#[test]
fn lines_and_files_are_short_enough_to_read() {
    let mut found = Vec::new();
    for file in all_rust_files() {
        for (i, line) in file.text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX {
                found.push(format!("{}:{}: over {LINE_CHARS_MAX} characters", file.path, i + 1));
            }
        }
        let lines = file.text.lines().count();
        if file.path.starts_with("src/") && lines >= SOURCE_LINES_MAX {
            found.push(format!("{}: {lines} lines", file.path));
        }
    }
    none(&found);
}

#[test]
fn every_event_of_the_log_has_its_entry_in_the_catalog_and_the_other_way_round() {
    let text = read(CATALOG_FILE);
    let entries: Vec<(&str, &str)> =
        text.split("\n-- ").skip(1).filter_map(|entry| entry.split_once('\n')).collect();
    let told: Vec<&str> = entries.iter().map(|(message_id, _)| *message_id).collect();
    let named: Vec<&str> = Event::ALL.iter().map(|event| event.message_id()).collect();
    assert_eq!(told, named, "the catalog has the order of {EVENT_FILE}");
    let mut found = Vec::new();
    for (message_id, entry) in entries {
        let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if message_id.len() != 32 || !message_id.chars().all(is_hex) {
            found.push(format!("{message_id}: not 32 lower-case hex digits"));
        }
        let (head, body) = entry.split_once("\n\n").unwrap_or((entry, ""));
        if !head.starts_with("Subject: ") || !head.contains("\nDefined-By: tilld\n") {
            found.push(format!("{message_id}: begins with Subject and Defined-By"));
        }
        if body.trim().is_empty() {
            found.push(format!("{message_id}: says nothing"));
        }
    }
    none(&found);
}

#[test]
fn no_two_events_have_one_name_or_one_message_id() {
    let mut found = Vec::new();
    for (i, event) in Event::ALL.iter().enumerate() {
        for other in &Event::ALL[..i] {
            if event.name() == other.name() || event.message_id() == other.message_id() {
                found.push(format!("{event:?} and {other:?}"));
            }
        }
    }
    none(&found);
}

#[test]
fn every_event_is_logged_somewhere_and_told_of_in_the_readme() {
    let readme = read("README.md");
    let mut files = rust_files("src");
    files.retain(|file| file.path != EVENT_FILE);
    let mut found = Vec::new();
    for event in Event::ALL {
        let name = format!("Event::{event:?}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
        let is_used = |text: &str| text.split(&name).skip(1).any(ends);
        if !files.iter().any(|file| is_used(file.shipped())) {
            found.push(format!("{name} is not used"));
        }
        if !readme.contains(&format!("`{}`", event.name())) {
            found.push(format!("README.md does not name `{}`", event.name()));
        }
    }
    // A word that is typed where it is logged would have no entry in the catalog.
    let typed = [Event::FIELD, " = \""].concat();
    found.extend(lines_with(&files, &[(&typed, "")]));
    none(&found);
}

#[test]
fn nothing_names_a_place_outside_the_repository() {
    let inside = ["/wo", "rk"].concat();
    let beside = ["../sha", "red"].concat();
    let mut found = Vec::new();
    for path in files_below(repository()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (i, line) in text.lines().enumerate() {
            if line.contains(&beside) || names_path(line, &inside) {
                found.push(format!("{}:{}: {line}", path.display(), i + 1));
            }
        }
    }
    none(&found);
}

#[test]
fn every_control_breaks_the_source_of_today() {
    let mut unfit = Vec::new();
    for patch in files_below(&repository().join("tests/faults/controls")) {
        let tried = Command::new("patch")
            .args(["--dry-run", "--forward", "--fuzz=0", "--strip=1", "--input"])
            .arg(&patch)
            .current_dir(repository())
            .output()
            .expect("patch can be run");
        if !tried.status.success() {
            unfit.push(format!("{}: {}", patch.display(), String::from_utf8_lossy(&tried.stdout)));
        }
    }
    none(&unfit);
}

/// Whether an absolute path in `line` begins with the directory `root`.
fn names_path(line: &str, root: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || "._-/".contains(c);
    line.match_indices(root).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + root.len()..].chars().next();
        !before.is_some_and(part_of_word) && after.is_none_or(|c| c == '/' || !part_of_word(c))
    })
}

/// Line number and module of each path that begins with `root`, groups taken apart.
fn imports(file: &SourceFile, root: &str) -> Vec<(usize, String)> {
    let identifier = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    let code: String = file
        .text
        .lines()
        .map(|line| if line.trim_start().starts_with("//") { "\n" } else { line }.to_owned() + "\n")
        .collect();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let number = code[..at].lines().count();
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((number, identifier(rest)));
            continue;
        };
        let mut depth = 1;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                found.push((number, identifier(&group[start..i])));
                start = i + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// Each code line that holds one of the needles as a word, not as the end of a longer one.
fn lines_with(files: &[SourceFile], needles: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.code_lines() {
            for (first, second) in needles {
                let needle = [*first, *second].concat();
                let in_word =
                    |at: usize| line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                if line.match_indices(&needle).any(|(at, _)| !in_word(at)) {
                    found.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    found
}

fn none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn all_rust_files() -> Vec<SourceFile> {
    ["src", "tests", "packaging"].into_iter().flat_map(rust_files).collect()
}

fn rust_files(place: &str) -> Vec<SourceFile> {
    let mut paths = files_below(&repository().join(place));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = |path: PathBuf| SourceFile {
        path: path.strip_prefix(repository()).unwrap_or(&path).display().to_string(),
        text: fs::read_to_string(&path).expect("a readable source file"),
    };
    let files: Vec<SourceFile> = paths.into_iter().map(read).collect();
    assert!(!files.is_empty(), "no Rust files below {place}");
    files
}

/// Every file that could be committed, in a stable order.
fn files_below(place: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(place).expect("a readable directory") {
        let path = entry.expect("a readable directory entry").path();
        let name = path.file_name().unwrap_or_default();
        if name == ".git" || path == repository().join("target") {
            continue;
        }
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).expect("a readable file")
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
