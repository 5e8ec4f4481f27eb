//! The files of a configuration, and how a mistake in one of them is shown.
//!
//! Knows files, places and the rule that a later value replaces an earlier one; what a value means
//! is judged in `load`.

use std::borrow::Borrow;
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::raw::Document;

/// Far above any real configuration; keeps `--config /dev/zero` from eating the memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why the configuration, or a file that it names, cannot be used. The process exits with 78.
///
/// Its text has several lines and is written for the person who edits the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    text: String,
}

impl ConfigError {
    /// An error about a whole file: what happened, and what to do.
    pub fn about_file(path: &Path, what: impl Display, help: impl Display) -> ConfigError {
        ConfigError { text: format!("{}: {what}\n{help}", path.display()) }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConfigError {}

/// All files of one configuration, in the order in which they count.
#[derive(Debug)]
pub(super) struct Sources(Vec<Source>);

/// One file of the configuration.
#[derive(Debug)]
pub(super) struct Source {
    pub path: PathBuf,
    text: String,
    pub document: Document,
}

impl Sources {
    /// Reads `main`, then `conf.d/*.toml` beside it in byte order of the file names.
    pub fn read(main: &Path) -> Result<Sources, ConfigError> {
        let mut sources = vec![Source::read(main)?];
        for path in drop_ins(&main.with_file_name("conf.d"))? {
            sources.push(Source::read(&path)?);
        }
        Ok(Sources(sources))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    /// The value that counts: the one of the last file that has the key.
    pub fn last<'a, T>(
        &'a self,
        key: &'static str,
        pick: impl Fn(&'a Document) -> Option<&'a Spanned<T>>,
    ) -> Option<Found<'a, T>> {
        self.0.iter().rev().find_map(|source| Some(source.found(key, pick(&source.document)?)))
    }
}

/// The `*.toml` in a directory that need not exist. Names with a dot in front are left out, as a
/// shell would: editors keep their locks and spare copies under such names.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let names = || -> io::Result<Vec<_>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    let mut names = match names() {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(ConfigError::about_file(
                directory,
                format_args!("this directory cannot be read: {error}"),
                "let the user that runs tilld read it, or remove it",
            ));
        }
    };
    names.retain(|name| {
        let name = name.as_encoded_bytes();
        name.ends_with(b".toml") && !name.starts_with(b".")
    });
    // An OsString is ordered by its bytes, whatever the locale says.
    names.sort();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

impl Source {
    fn read(path: &Path) -> Result<Source, ConfigError> {
        let unreadable = |error: io::Error| {
            ConfigError::about_file(
                path,
                format_args!("the configuration cannot be read: {error}"),
                "name the right file with --config FILE; an empty one is valid",
            )
        };
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
        }
        let mut source = Source { path: path.to_owned(), text, document: Document::default() };
        source.document = toml::from_str(&source.text).map_err(|error| source.explain(error))?;
        Ok(source)
    }

    /// Puts the parser's own error into our form.
    fn explain(&self, mut error: toml::de::Error) -> ConfigError {
        let what = error.message().to_owned();
        let span = error.span().unwrap_or_default();
        // Without its input the error prints its message and then "in `section.key`".
        error.set_input(None);
        let printed = error.to_string();
        let section = printed.trim_end().strip_prefix(&what).unwrap_or_default().trim_start();
        let context = if section.is_empty() { "" } else { ", " };
        let place = self.place(span.start);
        // A key of unknown name may well be a password that somebody put here: what follows the
        // name is not shown.
        let shown_until = if what.starts_with("unknown field") { span.end } else { usize::MAX };
        let snippet = self.snippet(&span, shown_until);
        ConfigError { text: format!("{place}: {what}{context}{section}\n{snippet}") }
    }

    /// A value of this file.
    pub fn found<'a, T>(&'a self, key: &'static str, value: &'a Spanned<T>) -> Found<'a, T> {
        Found { source: self, key, span: value.span(), value: value.get_ref() }
    }

    /// An error about a place in this file: what is wrong there, and what is allowed.
    pub fn error(&self, span: &Range<usize>, what: &str, allowed: &str) -> ConfigError {
        let place = self.place(span.start);
        let snippet = self.snippet(span, usize::MAX);
        ConfigError { text: format!("{place}: {what}\n{snippet}\n{allowed}") }
    }

    /// `file:line:column`.
    fn place(&self, offset: usize) -> String {
        let (line, before) = self.line_of(offset);
        format!("{}:{line}:{}", self.path.display(), before.chars().count() + 1)
    }

    /// The number of a byte's line, and what stands before the byte in that line.
    fn line_of(&self, offset: usize) -> (usize, String) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let lines = before.split(|&byte| byte == b'\n');
        let (number, last) = lines.enumerate().last().unwrap_or_default();
        (number + 1, String::from_utf8_lossy(last).into_owned())
    }

    /// The line in which a span begins, with carets under the span.
    fn snippet(&self, span: &Range<usize>, shown_until: usize) -> String {
        let (number, before) = self.line_of(span.start);
        let line = self.text.split('\n').nth(number - 1).unwrap_or_default().trim_end();
        let line_start = span.start.saturating_sub(before.len());
        let shown = line.get(..shown_until.saturating_sub(line_start)).unwrap_or(line);
        let more = if shown.len() < line.len() { " …" } else { "" };
        // One column for each character, also for tabs, so that the carets stand where they should.
        let shown = shown.replace(char::is_control, " ");
        let indent = " ".repeat(before.chars().count());
        let marked = line.get(before.len()..(span.end - line_start).min(line.len()));
        let carets = "^".repeat(marked.map_or(1, |text| text.chars().count()).max(1));
        let margin = " ".repeat(number.to_string().len());
        format!("{margin} |\n{number} | {shown}{more}\n{margin} | {indent}{carets}")
    }
}

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Found<'a, T> {
    pub value: &'a T,
    source: &'a Source,
    key: &'static str,
    span: Range<usize>,
}

impl<'a, T> Found<'a, T> {
    /// Makes a valid value of it. The parser's error says what it expected.
    pub fn parse<B: ?Sized + 'a, U, E: Display>(
        &self,
        parse: impl FnOnce(&'a B) -> Result<U, E>,
    ) -> Result<U, ConfigError>
    where
        T: Borrow<B>,
    {
        parse(self.value.borrow())
            .map_err(|expected| self.error("is not valid", &expected.to_string()))
    }

    /// An error about this value, whose sentence begins with the key.
    pub fn error(&self, what: &str, allowed: &str) -> ConfigError {
        self.source.error(&self.span, &format!("`{}` {what}", self.key), allowed)
    }

    /// `file:line:column`.
    pub fn place(&self) -> String {
        self.source.place(self.span.start)
    }

    /// The directory that a relative path in this file starts from.
    pub fn directory(&self) -> &'a Path {
        self.source.path.parent().unwrap_or(Path::new("/"))
    }
}

impl<'a, T> Found<'a, Vec<Spanned<T>>> {
    /// Makes a valid value of each entry.
    pub fn parse_each<B: ?Sized + 'a, U, E: Display>(
        &self,
        parse: impl Fn(&'a B) -> Result<U, E>,
    ) -> Result<Vec<U>, ConfigError>
    where
        T: Borrow<B>,
    {
        self.value.iter().map(|entry| self.source.found(self.key, entry).parse(&parse)).collect()
    }
}
