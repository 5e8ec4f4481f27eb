//! How a command that cannot do its work says so: the exit code, and words that name the place.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rusqlite::Connection;

use crate::support::site::NOBODY;
use crate::support::{Confirmation, Daemon, Setup, Site};

fn set_mode(path: &PathBuf, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a file of ours");
}

/// A site with one collection, its daemon down.
fn used_site() -> Site {
    let site = Setup::live().prepare();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
    daemon.stop();
    site
}

#[test]
fn who_may_not_enter_the_state_directory_hears_exit_4_and_which_right_is_missing() {
    let site = used_site();
    set_mode(&site.state_dir(), 0o000);
    for (arguments, file) in [
        (&["list"] as &[&str], "tilld.db"),
        (&["refusals"], "tilld.db"),
        (&["show", "1"], "tilld.db"),
        (&["verify"], "tilld.db"),
        (&["cert", "show"], "tls/cert.pem"),
        (&["cert", "show", "--pem"], "tls/cert.pem"),
    ] {
        let output = site.tilld_as_nobody(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {errors}");
        let path = site.state_dir().join(file).display().to_string();
        assert!(errors.contains(&path), "{arguments:?}: {errors}");
        assert!(errors.contains("use sudo, or a user"), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    set_mode(&site.state_dir(), 0o750);
}

#[test]
fn who_may_not_write_the_state_directory_cannot_serve_and_hears_exit_4() {
    let site = used_site();
    for secret in ["0.keys", "0.passwords", "1.keys"] {
        // Theirs, so that they are not what it stumbles over.
        let path = site.path().join(secret);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(NOBODY), None).unwrap();
        }
    }
    set_mode(&site.state_dir(), 0o000);
    let output = site.tilld_as_nobody(&["serve"]);
    set_mode(&site.state_dir(), 0o750);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(errors.contains(&site.state_dir().display().to_string()), "{errors}");
}

#[test]
fn a_port_that_is_taken_is_exit_1_and_named() {
    let site = Setup::live().prepare();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let configuration = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), configuration.replace("127.0.0.1:0", &address)).unwrap();
    let (code, written) = Daemon::refused(&site);
    assert_eq!(code, Some(1), "{written}");
    assert!(written.contains(&format!("cannot listen on {address}")), "{written}");
}

#[test]
fn a_file_that_is_no_database_is_exit_65_and_left_as_it_is() {
    let site = used_site();
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(site.state_dir().join(format!("tilld.db{suffix}"))).unwrap();
    }
    let path = site.state_dir().join("tilld.db");
    let junk = "this was a database once\n".repeat(400);
    fs::write(&path, &junk).unwrap();
    let (code, written) = Daemon::refused(&site);
    assert_eq!(code, Some(65), "{written}");
    assert_eq!(fs::read_to_string(&path).unwrap(), junk);
    for arguments in [&["list"] as &[&str], &["show", "1"], &["verify"]] {
        let output = site.tilld(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{arguments:?}: {errors}");
    }
}

/// A site whose `tilld.db` was made by these statements.
fn site_with_database(statements: &str) -> Site {
    let site = Setup::live().prepare();
    fs::create_dir(site.state_dir()).unwrap();
    let database = Connection::open(site.state_dir().join("tilld.db")).unwrap();
    database.execute_batch(statements).unwrap();
    site
}

#[test]
fn a_database_of_somebody_else_is_exit_78_and_left_as_it_is() {
    let table = "CREATE TABLE customer (name TEXT); INSERT INTO customer VALUES ('Ana');";
    for (name, statements) in [
        ("no mark at all", table.to_owned()),
        ("another application", format!("{table} PRAGMA application_id = 7;")),
        ("a version of its own", format!("{table} PRAGMA user_version = 1;")),
        ("a version over 255", format!("{table} PRAGMA user_version = 300;")),
        ("a version over 255 and no table", "PRAGMA user_version = 300;".to_owned()),
        ("a version below nought", format!("{table} PRAGMA user_version = -1;")),
    ] {
        let site = site_with_database(&statements);
        let before = fs::read(site.state_dir().join("tilld.db")).unwrap();
        let (code, written) = Daemon::refused(&site);
        assert_eq!(code, Some(78), "{name}: {written}");
        let list = site.tilld(&["list"]);
        let errors = String::from_utf8_lossy(&list.stderr);
        assert_eq!(list.status.code(), Some(78), "{name}: {errors}");
        let after = fs::read(site.state_dir().join("tilld.db")).unwrap();
        assert!(before == after, "{name}: it was changed");
    }
}

#[test]
fn a_database_of_a_newer_tilld_is_exit_78_and_left_as_it_is() {
    for version in [100, 300] {
        let site = used_site();
        let path = site.state_dir().join("tilld.db");
        let database = Connection::open(&path).unwrap();
        database.pragma_update(None, "user_version", version).unwrap();
        drop(database);
        let (code, written) = Daemon::refused(&site);
        assert_eq!(code, Some(78), "{version}: {written}");
        assert!(written.contains("newer"), "{version}: {written}");
        let database = Connection::open(&path).unwrap();
        database.pragma_update(None, "user_version", 1).unwrap();
        drop(database);
        assert_eq!(site.all().len(), 1);
    }
}

#[test]
fn an_empty_directory_for_the_certificate_gets_one() {
    let site = Setup::live().prepare();
    fs::create_dir_all(site.state_dir().join("tls")).unwrap();
    let daemon = site.start();
    assert_eq!(daemon.code(&Confirmation::fresh()), "1000");
}
