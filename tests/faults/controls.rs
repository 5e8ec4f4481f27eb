//! Builds whose durability is broken on purpose, each by a patch to a copy of the source: the
//! power cuts and faults that do the real build no harm must find them out. What cannot fail proves
//! nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::every_call::wrong_when_a_sync_of_the_tape_fails;
use crate::full_disk::{setup_without_reserve, wrong_after_a_full_disk};
use crate::kills::wrong_after_kills;
use crate::ledger::is_loss;
use crate::machine::succeed;
use crate::power_cut::{Cuts, Sync};
use crate::rounds::Rounds;
use crate::support::site::copy_program;
use crate::support::{Setup, Site};

/// A broken build must be found out by so many power cuts. About every second one does so.
const CUTS_MAX: usize = 20;

/// The copy is one, and so is the place where it is built.
static COPY: Mutex<()> = Mutex::new(());

/// A new site that runs the build with this patch.
fn broken_by(patch: &str) -> Site {
    site_broken_by(patch, &Setup::live())
}

fn site_broken_by(patch: &str, setup: &Setup) -> Site {
    let _one_at_a_time = COPY.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target").join("controls");
    let source = place.join("source");
    copy_source(&source);
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let change = package.join("tests/faults/controls").join(format!("{patch}.patch"));
    let mut apply = Command::new("patch");
    apply.args(["--forward", "--fuzz=0", "-p1", "-i"]).arg(change).current_dir(&source);
    let applied = apply.output().expect("patch can be run");
    let said = String::from_utf8_lossy(&applied.stdout);
    assert!(
        applied.status.success(),
        "{patch}.patch does not apply any more: break today's source in the same way\n{said}"
    );
    let target = place.join("target");
    seed(&target);
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--offline", "--release", "--bin", "tilld"]);
    build.arg("--target-dir").arg(&target).current_dir(&source);
    succeed(&mut build);
    let mut site = setup.prepare();
    // What is traced is known by its name.
    let programs = place.join(patch);
    let _ = fs::remove_dir_all(&programs);
    fs::create_dir_all(&programs).expect("a made directory");
    site.program = programs.join("tilld");
    copy_program(&target.join("release/tilld"), &site.program);
    site
}

/// The package as it is, but for what is built. Every file is new, so that cargo looks at it.
fn copy_source(to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a made directory");
    let entries = fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the package");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let kept: Vec<PathBuf> =
        paths.filter(|path| !path.ends_with("target") && !path.ends_with(".git")).collect();
    succeed(Command::new("cp").arg("-r").args(kept).arg(to));
}

/// Lends the dependencies as they were compiled for this test. What is of the package itself stays
/// out: the broken build would be written over the real one.
fn seed(target: &Path) {
    let program = Path::new(env!("CARGO_BIN_EXE_tilld"));
    let built = program.parent().expect("a directory");
    let release = target.join("release");
    if release.exists() || !built.ends_with("release") {
        return;
    }
    let making = target.join("making");
    let _ = fs::remove_dir_all(&making);
    fs::create_dir_all(&making).expect("a made directory");
    let parts = [".fingerprint", "build", "deps"].map(|part| built.join(part));
    succeed(Command::new("cp").arg("-al").args(parts).arg(&making));
    let own = ["-depth", "-name", "*tilld*", "-exec", "rm", "-r", "{}", "+"];
    succeed(Command::new("find").arg(&making).args(own));
    fs::rename(making, release).expect("a finished directory");
}

/// Whether one of the cuts finds that something is lost, which is told: what else is wrong, as a
/// build that does not even start, shows nothing about the faults.
fn is_found_out(patch: &str, cut: impl Fn(&mut Cuts) -> Vec<String>) -> bool {
    let mut cuts = Cuts::of(broken_by(patch));
    (1..=CUTS_MAX).any(|count| {
        let wrong = cut(&mut cuts);
        has_lost(patch, count, &wrong)
    })
}

/// Whether something is lost, which is told.
fn has_lost(patch: &str, rounds: usize, wrong: &[String]) -> bool {
    let lost: Vec<&String> = wrong.iter().filter(|what| is_loss(what)).collect();
    if let Some(first) = lost.first() {
        println!("{patch}: after {rounds} rounds {} things are lost: {first}", lost.len());
    }
    !lost.is_empty()
}

#[test]
fn a_build_that_does_not_sync_is_found_out() {
    assert!(is_found_out("unsynced", Cuts::under_load));
}

#[test]
fn a_build_that_answers_first_is_found_out() {
    assert!(is_found_out("answer-first", Cuts::under_load));
}

#[test]
fn a_build_that_answers_first_is_found_out_by_kills_too() {
    let site = broken_by("answer-first");
    let wrong = wrong_after_kills(&site, Rounds::of("kills of a broken build", 20, 20));
    assert!(has_lost("answer-first", 20, &wrong), "{wrong:#?}");
}

#[test]
fn a_build_that_hears_no_failed_sync_is_found_out() {
    let site = broken_by("deaf");
    let wrong = wrong_when_a_sync_of_the_tape_fails(&site.program);
    assert!(wrong.iter().any(|what| what.ends_with(" after a failed sync")), "{wrong:#?}");
    println!("deaf: {} things are wrong: {}", wrong.len(), wrong[0]);
}

#[test]
fn a_build_that_hears_nothing_of_a_full_disk_is_found_out() {
    let site = site_broken_by("heedless", &setup_without_reserve());
    let wrong = wrong_after_a_full_disk(&site);
    assert!(has_lost("heedless", 1, &wrong), "{wrong:#?}");
}

#[test]
fn a_build_that_starts_without_a_checkpoint_is_found_out() {
    assert!(is_found_out("no-checkpoint", |cuts| cuts.after_repeat(Sync::OfWal)));
}
