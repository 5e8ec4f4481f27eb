//! A state directory held in memory: made once, then damaged in another way for each case and
//! put on the disk again.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Setup, Site};

/// The database's files.
pub const DATABASE: &str = "tilld.db";
pub const WAL: &str = "tilld.db-wal";
pub const SHM: &str = "tilld.db-shm";

/// Files by their path inside the directory.
#[derive(Clone)]
pub struct State(BTreeMap<String, File>);

#[derive(Clone)]
struct File {
    mode: u32,
    bytes: Vec<u8>,
}

impl State {
    /// What lies in a site's state directory now.
    pub fn of(site: &Site) -> State {
        let mut files = BTreeMap::new();
        read(&site.state_dir(), "", &mut files);
        State(files)
    }

    /// A new live site with this state.
    pub fn site(&self) -> Site {
        let site = Setup::live().prepare();
        self.put(&site);
        site
    }

    /// Puts this in the place of a site's state.
    pub fn put(&self, site: &Site) {
        if site.state_dir().exists() {
            fs::remove_dir_all(site.state_dir()).expect("a directory of ours");
        }
        for (name, file) in &self.0 {
            let path = site.state_dir().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a made directory");
            fs::write(&path, &file.bytes).expect("a written file");
            fs::set_permissions(&path, Permissions::from_mode(file.mode)).expect("its rights");
        }
    }

    /// A file to be damaged.
    pub fn file(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.0.get_mut(name).unwrap_or_else(|| panic!("no file {name}")).bytes
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The same without these files.
    pub fn without(mut self, names: &[&str]) -> State {
        for name in names {
            self.0.remove(*name).unwrap_or_else(|| panic!("no file {name}"));
        }
        self
    }

    pub fn rename(&mut self, name: &str, new: &str) {
        let file = self.0.remove(name).unwrap_or_else(|| panic!("no file {name}"));
        self.0.insert(new.to_owned(), file);
    }

    /// The files whose names begin so, in order.
    pub fn names(&self, beginning: &str) -> Vec<String> {
        self.0.keys().filter(|name| name.starts_with(beginning)).cloned().collect()
    }

    /// The tape's files in order, without what was set aside.
    pub fn tape_files(&self) -> Vec<String> {
        let mut names = self.names("tape/");
        names.retain(|name| !name.contains(".torn-"));
        names
    }

    /// The tape's only file.
    pub fn tape(&mut self) -> &mut Vec<u8> {
        let [name] = &self.tape_files()[..] else { panic!("one file: {:?}", self.tape_files()) };
        self.file(name)
    }
}

fn read(directory: &Path, inside: &str, files: &mut BTreeMap<String, File>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let entry = entry.expect("a readable entry");
        let name = format!("{inside}{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata().expect("a file's rights");
        if metadata.is_dir() {
            read(&entry.path(), &format!("{name}/"), files);
        } else {
            let mode = metadata.permissions().mode();
            let bytes = fs::read(entry.path()).expect("a readable file");
            files.insert(name, File { mode, bytes });
        }
    }
}
