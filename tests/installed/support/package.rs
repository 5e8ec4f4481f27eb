//! The package under test, and later versions of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::tree::succeed;

/// `TILLD_DEB`, or the one in `target/debian`.
pub fn path() -> PathBuf {
    if let Some(path) = std::env::var_os("TILLD_DEB") {
        return path.into();
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian");
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("tilld_") && name.ends_with(".deb")
    };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_ours).collect();
    let Some(package) = found.pop() else {
        panic!("no package in {}: run packaging/build-deb first", dir.display());
    };
    assert!(found.is_empty(), "{} has several packages: name one in TILLD_DEB", dir.display());
    package
}

/// The same package with a higher version, at this place.
pub fn write_newer(place: &Path) {
    let dir = TempDir::new().expect("a temporary directory");
    let tree = dir.path().join("tree");
    succeed(Command::new("dpkg-deb").arg("-R").arg(path()).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a control file");
    let newer: Vec<String> = text
        .lines()
        .map(
            |line| if line.starts_with("Version:") { format!("{line}+newer") } else { line.into() },
        )
        .collect();
    fs::write(&control, newer.join("\n") + "\n").expect("a written control file");
    succeed(Command::new("dpkg-deb").args(["-Znone", "-b"]).arg(&tree).arg(place));
}
