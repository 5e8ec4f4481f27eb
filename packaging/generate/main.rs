//! Writes what the package holds beside the program: manual pages, completions and the reference
//! configuration, all made from the source that the program itself is made from.
//!
//! `cargo run -p tilld-generate -- DIRECTORY`. A crate of its own, so that the program shares none
//! of its dependencies and features. It reads no file, and writes the same bytes each time.

mod pages;
mod reference;
mod settings;

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use tilld::operator::cli::Cli;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("name the directory to write to")?;
    let directory = Path::new(&directory);
    let sections = settings::sections()?;

    let manual = directory.join("man");
    fs::create_dir_all(&manual)?;
    pages::write(&sections, &manual)?;

    let examples = directory.join("examples");
    fs::create_dir_all(&examples)?;
    fs::write(examples.join("tilld.toml"), reference::text(&sections))?;

    for (shell, place) in [
        (Shell::Bash, "completions/bash/tilld"),
        (Shell::Fish, "completions/fish/tilld.fish"),
        (Shell::Zsh, "completions/zsh/_tilld"),
    ] {
        let path = directory.join(place);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "tilld", &mut script);
        fs::write(path, script)?;
    }
    Ok(())
}
