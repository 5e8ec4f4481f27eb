//! Whether the daemon's user may read and write what the configuration names, and whether the
//! unit's sandbox lets it see that at all.
//!
//! By the mode bits, so that any user can ask: what an access control list adds is not seen.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::config::{CertificateFiles, Config};
use crate::store::database_path;

const CHECK: &str = "permissions";

/// What the unit hides from the daemon: `ProtectHome=` and `PrivateTmp=`.
const HIDDEN: &[&str] = &["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const ENTER: u32 = 0o1;

pub(super) fn examine(config: &Config, findings: &mut Vec<Finding>) {
    let state_dir = &config.state_dir;
    let owner = match fs::metadata(state_dir) {
        Ok(metadata) => metadata.uid(),
        Err(error) => {
            let what = format!("state_dir {}: {error}", state_dir.display());
            findings.push(Finding::mend(
                CHECK,
                what,
                format!(
                    "make it: sudo install -d -m 2750 -o _tilld -g tilld-admin {}",
                    state_dir.display()
                ),
            ));
            return;
        }
    };
    let user = User::of(owner);
    let before = findings.len();
    let is_packaged = user.name == "_tilld";
    for (path, wanted) in paths(config) {
        if is_packaged && HIDDEN.iter().any(|hidden| path.starts_with(hidden)) {
            let what = format!("{}: the unit hides this place from the daemon", path.display());
            findings.push(Finding::mend(CHECK, what, "move it below /etc/tilld"));
        } else if let Some(obstacle) = obstacle(&user, &path, wanted) {
            let what = format!("user {} {}", user.name, obstacle.what);
            findings.push(Finding::mend(CHECK, what, obstacle.remedy));
        }
    }
    if findings.len() == before {
        let what = format!("user {} may read and write what it needs", user.name);
        findings.push(Finding::ok(CHECK, what));
    }
}

/// Everything that is configured and there, with what the daemon does to it.
fn paths(config: &Config) -> Vec<(PathBuf, u32)> {
    let mut read = vec![config.file.clone()];
    for caller in &config.callers {
        read.push(caller.authentication_file.clone());
        read.extend(caller.encryption_file.clone());
    }
    let mut certificate = |files: &Option<CertificateFiles>| {
        if let Some(files) = files {
            read.extend([files.certificate.clone(), files.private_key.clone()]);
        }
    };
    certificate(&config.endpoint.tls.files);
    if let Some(upstream) = &config.upstream {
        certificate(&upstream.client_certificate);
        read.push(upstream.authentication_file.clone());
        read.extend(upstream.encryption_file.clone());
        read.extend(upstream.ca_file.clone());
    }
    read.extend(config.endpoint.tls.client_ca.clone());
    let users_file = &config.operator.users_file;
    read.extend(users_file.exists().then(|| users_file.clone()));
    let written = [
        config.state_dir.clone(),
        config.state_dir.join("tape"),
        database_path(&config.state_dir),
        config.backup.directory.clone(),
    ];
    let read = read.into_iter().map(|path| (path, READ));
    let written = written.into_iter().filter(|path| path.exists()).map(|path| (path, WRITE));
    read.chain(written).collect()
}

/// A user with the groups it is in.
struct User {
    name: String,
    id: u32,
    groups: Vec<u32>,
}

impl User {
    fn of(id: u32) -> User {
        let Some(user) = uzers::get_user_by_uid(id) else {
            return User { name: id.to_string(), id, groups: Vec::new() };
        };
        let groups = uzers::get_user_groups(user.name(), user.primary_group_id());
        let groups = groups.unwrap_or_default().iter().map(uzers::Group::gid).collect();
        User { name: user.name().to_string_lossy().into_owned(), id, groups }
    }

    fn may(&self, wanted: u32, thing: &Metadata) -> bool {
        let granted = if self.id == 0 {
            return true;
        } else if thing.uid() == self.id {
            thing.mode() >> 6
        } else if self.groups.contains(&thing.gid()) {
            thing.mode() >> 3
        } else {
            thing.mode()
        };
        granted & wanted == wanted
    }
}

struct Obstacle {
    what: String,
    remedy: String,
}

/// What keeps this user from a file or directory. One that somebody else may not look at is none:
/// the check of the configuration says so.
fn obstacle(user: &User, path: &Path, wanted: u32) -> Option<Obstacle> {
    let mut way: Vec<&Path> = path.ancestors().skip(1).collect();
    way.reverse();
    for directory in way {
        let metadata = fs::metadata(directory).ok()?;
        if !user.may(ENTER, &metadata) {
            let shown = directory.display();
            let what = format!(
                "cannot reach {}: it may not enter {shown} ({})",
                path.display(),
                rights_of(&metadata)
            );
            let remedy = format!("sudo chmod o+x {shown}");
            return Some(Obstacle { what, remedy });
        }
    }
    let metadata = fs::metadata(path).ok()?;
    // To make a file in a directory takes the right to enter it, too.
    let wanted = if wanted == WRITE && metadata.is_dir() { WRITE | ENTER } else { wanted };
    if user.may(wanted, &metadata) {
        return None;
    }
    let shown = path.display();
    let (verb, remedy) = if wanted == READ && metadata.uid() == user.id {
        ("read", format!("sudo chmod u+r {shown}"))
    } else if wanted == READ {
        let group = user.groups.first().and_then(|id| uzers::get_group_by_gid(*id));
        let group = group.map_or_else(|| "_tilld".into(), |group| group.name().to_owned());
        let group = group.to_string_lossy();
        ("read", format!("sudo chgrp {group} {shown} && sudo chmod g+r {shown}"))
    } else {
        ("write", format!("sudo chown -R {} {shown}", user.name))
    };
    let what = format!("cannot {verb} {shown} ({})", rights_of(&metadata));
    Some(Obstacle { what, remedy })
}

/// As in "0640 root:_tilld".
pub(super) fn rights_of(thing: &Metadata) -> String {
    let name = |found: Option<&OsStr>, id: u32| {
        found.map_or_else(|| id.to_string(), |name| name.to_string_lossy().into_owned())
    };
    let user = uzers::get_user_by_uid(thing.uid());
    let group = uzers::get_group_by_gid(thing.gid());
    format!(
        "{:04o} {}:{}",
        thing.mode() & 0o7777,
        name(user.as_ref().map(uzers::User::name), thing.uid()),
        name(group.as_ref().map(uzers::Group::name), thing.gid())
    )
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_user_is_told_what_keeps_it_from_a_file() {
        let place = tempfile::tempdir().unwrap();
        set(place.path(), 0o755);
        let directory = place.path().join("secrets.d");
        let file = directory.join("a.keys");
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "").unwrap();
        let ours = fs::metadata(&file).unwrap();
        let stranger = User { name: "_tilld".to_owned(), id: ours.uid() + 1, groups: vec![4_242] };
        let member = User { groups: vec![ours.gid()], ..User::of(ours.uid() + 1) };
        let what = |user: &User, wanted| obstacle(user, &file, wanted).map(|found| found.what);

        set(&directory, 0o755);
        set(&file, 0o640);
        assert_eq!(what(&member, READ), None);
        assert!(what(&member, WRITE).unwrap().contains("cannot write"));
        let told = what(&stranger, READ).unwrap();
        assert!(told.contains("cannot read") && told.contains("(0640 "), "{told}");
        set(&file, 0o604);
        assert_eq!(what(&stranger, READ), None);
        assert!(what(&member, READ).is_some(), "a group's right stands before that of others");
        set(&directory, 0o700);
        let told = what(&stranger, READ).unwrap();
        assert!(told.contains("may not enter") && told.contains("secrets.d (0700 "), "{told}");
    }
}
