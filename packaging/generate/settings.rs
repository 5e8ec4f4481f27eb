//! The settings, read off the types that the daemon itself reads a configuration file into.
//!
//! Each field of `src/config/raw.rs` is a key; its doc comment is what a person is told. The last
//! paragraph of the comment shows a value: `Default: …`, `Required: …` or `Example: …`, the value
//! in backticks first. How any of this is laid out is not known here.

use std::error::Error;

use syn::{
    Attribute, Expr, ExprLit, Fields, GenericArgument, Item, Lit, Meta, PathArguments, Type,
    Variant,
};

/// What the daemon reads a file of settings into.
const SOURCE: &str = include_str!("../../src/config/raw.rs");

/// Where the exit codes are.
const EXIT_SOURCE: &str = include_str!("../../src/operator/mod.rs");

/// The keys below one header, in the order of the source.
pub struct Section {
    /// As in a file: `[endpoint.tls]`, `[[caller]]`; empty for what stands above all headers.
    pub header: String,
    /// What the section is for, one text a paragraph.
    pub about: Vec<String>,
    /// Its keys, never none.
    pub keys: Vec<Key>,
}

/// One key.
pub struct Key {
    /// As in a file.
    pub name: String,
    /// What it means, one text a paragraph.
    pub about: Vec<String>,
    /// What the value is to those who leave the key out.
    pub presence: Presence,
    /// A valid value, as in a file.
    pub value: String,
    /// What else is to be said of the value.
    pub remark: String,
}

/// What becomes of a key that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The shown value counts.
    Default,
    /// The section is not valid without it.
    Required,
    /// Nothing; the value is only an example.
    Example,
}

/// All settings of the daemon that this is compiled with.
pub fn sections() -> Result<Vec<Section>, Box<dyn Error>> {
    let items = syn::parse_file(SOURCE)?.items;
    let mut sections = Vec::new();
    collect(&items, "Document", "", false, &mut sections)?;
    Ok(sections)
}

/// Each exit code of the commands, with its meaning.
pub fn exit_codes() -> Result<Vec<(u8, String)>, Box<dyn Error>> {
    let items = syn::parse_file(EXIT_SOURCE)?.items;
    let codes = items.iter().find_map(|item| match item {
        Item::Enum(codes) if codes.ident == "Exit" => Some(codes),
        _ => None,
    });
    let codes = codes.ok_or("there is no enum Exit")?;
    let with_meaning = |variant: &Variant| match &variant.discriminant {
        Some((_, Expr::Lit(ExprLit { lit: Lit::Int(code), .. }))) => {
            Ok((code.base10_parse()?, paragraphs(&variant.attrs).join(" ")))
        }
        _ => Err(format!("{} has no number", variant.ident).into()),
    };
    codes.variants.iter().map(with_meaning).collect()
}

/// Appends the struct `name` as the section `path`, then those below it.
fn collect(
    items: &[Item],
    name: &str,
    path: &str,
    is_list: bool,
    sections: &mut Vec<Section>,
) -> Result<(), Box<dyn Error>> {
    let found = items.iter().find_map(|item| match item {
        Item::Struct(found) if found.ident == name => Some(found),
        _ => None,
    });
    let found = found.ok_or_else(|| format!("there is no struct {name}"))?;
    let Fields::Named(fields) = &found.fields else {
        return Err(format!("{name} has no named fields").into());
    };
    let mut keys = Vec::new();
    let mut below = Vec::new();
    for field in &fields.named {
        let key = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
        match innermost(&field.ty).as_slice() {
            [outer, ..] if outer == "Key" || outer == "Spanned" => {
                keys.push(self::key(key, paragraphs(&field.attrs))?);
            }
            [outer @ .., section] => {
                below.push((key, section.clone(), outer.iter().any(|name| name == "Vec")));
            }
            [] => return Err(format!("the type of {name}.{key} has no name").into()),
        }
    }
    let header = match (path, is_list) {
        ("", _) => String::new(),
        (path, false) => format!("[{path}]"),
        (path, true) => format!("[[{path}]]"),
    };
    sections.push(Section { header, about: paragraphs(&found.attrs), keys });
    for (key, section, is_list) in below {
        let path = if path.is_empty() { key } else { format!("{path}.{key}") };
        collect(items, &section, &path, is_list, sections)?;
    }
    Ok(())
}

fn key(name: String, mut about: Vec<String>) -> Result<Key, Box<dyn Error>> {
    let unfit = || format!("the comment of `{name}` does not end by showing a value");
    let last = about.pop().ok_or_else(unfit)?;
    let (word, rest) = last.split_once(": `").ok_or_else(unfit)?;
    let presence = match word {
        "Default" => Presence::Default,
        "Required" => Presence::Required,
        "Example" => Presence::Example,
        _ => return Err(unfit().into()),
    };
    let (value, remark) = rest.split_once('`').ok_or_else(unfit)?;
    let remark = remark.trim_start_matches([',', ' ']).to_owned();
    Ok(Key { name, about, presence, value: value.to_owned(), remark })
}

/// The names of a type from the outside in: `Section`, `Upstream` for `Section<Upstream>`.
fn innermost(of: &Type) -> Vec<String> {
    let Type::Path(path) = of else { return Vec::new() };
    let Some(last) = path.path.segments.last() else { return Vec::new() };
    let mut names = vec![last.ident.to_string()];
    if let PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(GenericArgument::Type(inner)) = arguments.args.first()
    {
        names.extend(innermost(inner));
    }
    names
}

/// A doc comment, each paragraph on one line.
fn paragraphs(attributes: &[Attribute]) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in attributes.iter().filter_map(doc_line) {
        let line = line.trim();
        match paragraphs.last_mut() {
            _ if line.is_empty() => paragraphs.push(String::new()),
            Some(paragraph) if !paragraph.is_empty() => {
                paragraph.push(' ');
                paragraph.push_str(line);
            }
            _ => paragraphs.push(line.to_owned()),
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs
}

fn doc_line(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    let Expr::Lit(value) = &pair.value else { return None };
    match &value.lit {
        Lit::Str(text) if pair.path.is_ident("doc") => Some(text.value()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tilld::config::Config;

    use super::*;

    /// The names that the daemon says it expects below this header.
    fn expected_below(section: &Section) -> Vec<String> {
        let required = section.keys.iter().filter(|key| key.presence == Presence::Required);
        let required: Vec<_> =
            required.map(|key| format!("{} = {}", key.name, key.value)).collect();
        let text = format!("{}\n{}\nnonsense = 1\n", section.header, required.join("\n"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tilld.toml");
        fs::write(&path, text).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        let line = error.lines().next().unwrap_or_default();
        let (_, expected) = line.split_once("expected").unwrap_or_else(|| panic!("{error}"));
        let expected = expected.split(", in `").next().unwrap_or_default();
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_keys_are_those_that_the_daemon_expects() {
        let sections = sections().unwrap();
        let is_section = |name: &String| {
            let mut headers =
                sections.iter().map(|section| section.header.trim_matches(['[', ']']));
            headers.any(|header| header.split('.').next_back() == Some(name))
        };
        for section in &sections {
            let mut expected = expected_below(section);
            expected.retain(|name| !is_section(name));
            let keys: Vec<_> = section.keys.iter().map(|key| key.name.as_str()).collect();
            assert_eq!(keys, expected, "{}", section.header);
        }
    }
}
