//! What a person should look at, and what to do about it: judged from a snapshot alone.
//!
//! What mends itself, as a line that is down, is no warning.

use super::{LinkState, Moment, Snapshot, StrayedCaller, Warning, counted};
use crate::store::{Condition, WAL_BYTES_MAX};

/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// A person is told so many days before the certificate ends: every till must be given the next.
const CERTIFICATE_MS: i64 = 30 * DAY_MS;

/// So long a caller that was turned away is told of: a till that has no right key tries again.
const STRAYED_MS: i64 = 3_600_000;

/// With one a day, a backup that is older by days means that they do not succeed.
const BACKUP_MS_MAX: i64 = 3 * DAY_MS;

/// Collects warnings.
#[derive(Default)]
struct Warnings(Vec<Warning>);

impl Warnings {
    fn add(&mut self, what: String, remedy: &str) {
        self.0.push(Warning { what, remedy: remedy.to_owned() });
    }
}

/// All warnings, the most urgent first.
pub fn of(snapshot: &Snapshot) -> Vec<Warning> {
    let mut warnings = Warnings(obstacle(snapshot.condition).into_iter().collect());
    of_callers(snapshot, &mut warnings);
    of_head_office(snapshot, &mut warnings);
    of_books(snapshot, &mut warnings);
    of_doors(snapshot, &mut warnings);
    warnings.0
}

/// Why collections cannot be recorded, if so.
pub fn obstacle(condition: Condition) -> Option<Warning> {
    let (what, remedy) = match condition {
        Condition::Recording => return None,
        Condition::Recovering => (
            "everything is answered -1009: what the earlier run left is not recovered yet",
            "the log says what is in the way; it is tried again every 2 s",
        ),
        Condition::DiskLow => (
            "new collections are answered -1009: less than disk_reserve is free on the disk",
            "make space on the disk of state_dir; then it goes on by itself",
        ),
        Condition::TapeUnwritable => (
            "new collections are answered -1009: the tape cannot be written",
            "the log says why; it is tried again every 2 s",
        ),
        Condition::Failed => (
            "everything is answered -1009: the storage failed",
            "the daemon ends and must start anew; if that does not help, see the log",
        ),
    };
    Some(Warning { what: what.to_owned(), remedy: remedy.to_owned() })
}

fn of_callers(snapshot: &Snapshot, warnings: &mut Warnings) {
    if snapshot.callers == 0 {
        warnings.add(
            "unconfigured: no caller, so every request is answered -1001".to_owned(),
            "add a [[caller]] to the configuration, then `tilld key add` its key",
        );
    }
    if !snapshot.lacking_names.is_empty() {
        let names = snapshot.lacking_names.join(", ");
        warnings.add(
            format!("the certificate does not hold for {names}"),
            "`tilld cert renew` makes one that does; every till must be given it",
        );
    }
    if let Some(ends_at) = snapshot.certificate_ends_at
        && ms_since(snapshot, ends_at) > -CERTIFICATE_MS
    {
        let what = if ms_since(snapshot, ends_at) >= 0 { "has ended" } else { "ends" };
        warnings.add(
            format!("the certificate {what} at {}", ends_at.0.wall_clock()),
            "`tilld cert renew` makes another, unless it is your own; every till must be given it",
        );
    }
    for StrayedCaller { caller, count, last_at } in &snapshot.strayed {
        if ms_since(snapshot, *last_at) < STRAYED_MS {
            let times = counted(i64::try_from(*count).unwrap_or(i64::MAX), "time");
            warnings.add(
                format!(
                    "{caller} was answered -1001 {times} since the start, the last one at {}",
                    snapshot.clock_of(*last_at)
                ),
                "was its key or password replaced here before the till had the new one? `tilld key \
                 list` tells which are taken; README, `-1001`, tells what else it can be",
            );
        }
    }
}

fn of_head_office(snapshot: &Snapshot, warnings: &mut Warnings) {
    if snapshot.books.parked.count > 0 {
        let parked = counted(snapshot.books.parked.count, "collection");
        warnings.add(
            format!("{parked} parked: head office did not take it as it is"),
            "`tilld sync parked` says why; `tilld sync retry` sends again",
        );
    }
    let link = snapshot.head_office.as_ref().and_then(|office| office.link.as_ref());
    if let Some(link) = link.filter(|link| link.state == LinkState::Misconfigured) {
        warnings.add(
            format!("head office does not take us: {}", link.trouble),
            "correct [upstream] here, or what head office knows of this branch",
        );
    }
    if let Some(paused) = link.and_then(|link| link.paused.as_ref()) {
        warnings.add(format!("nothing is sent: {paused}"), "see the log");
    }
    if link.is_some_and(|link| link.is_copy) {
        warnings.add(
            "this database is a copy of an older one: head office has numbers that it has not given"
                .to_owned(),
            "make sure that no other machine runs as this branch; `journalctl -x -u tilld` tells \
             what comes before `tilld rebuild`, which gives it an epoch of its own",
        );
    }
}

fn of_books(snapshot: &Snapshot, warnings: &mut Warnings) {
    let named_by_verify = "`tilld verify` names all; call support before anything is deleted";
    if snapshot.recovered.damage > 0 {
        let what = format!("damage found: {}", snapshot.recovered.damage);
        warnings.add(what, named_by_verify);
    }
    if let Some(check) = &snapshot.last_check {
        if check.differences > 0 {
            let what = format!("differences between database and tape: {}", check.differences);
            warnings.add(what, named_by_verify);
        }
        if let Some(trouble) = &check.trouble {
            let what = format!("database and tape could not be checked: {trouble}");
            warnings.add(what, "`tilld verify` tries again");
        }
    }
    if let Some(trouble) = &snapshot.books.count_trouble {
        warnings.add(format!("the books cannot be counted: {trouble}"), "see the log");
    }
    if let Some(trouble) = &snapshot.backup_trouble {
        warnings.add(
            format!("the directory of backups cannot be read: {trouble}"),
            "is its disk there, and may the daemon's user read it?",
        );
    }
    if let (None, None, Some(first)) =
        (snapshot.last_backup_at, &snapshot.backup_trouble, snapshot.books.first_at)
        && ms_since(snapshot, first) >= BACKUP_MS_MAX
    {
        warnings.add(
            format!("no backup was ever made, and collections are there since {}", first.0.date()),
            "`systemctl enable --now tilld-backup.timer` has one made each day; `tilld backup \
             create` makes one now",
        );
    }
    if let Some(last) = snapshot.last_backup_at
        && ms_since(snapshot, last) >= BACKUP_MS_MAX
    {
        warnings.add(
            format!("the last backup is of {}", last.0.wall_clock()),
            "`journalctl -u tilld-backup` says why; `tilld backup create` makes one now",
        );
    }
    if snapshot.disk.wal_bytes > WAL_BYTES_MAX {
        let megabytes = snapshot.disk.wal_bytes / 1_000_000;
        warnings.add(
            format!(
                "something keeps an old state of tilld.db open, so its WAL grows: it is \
                 {megabytes} MB"
            ),
            "a backup that is being made does, and ends by itself; else `fuser -v` on tilld.db \
             tells which program: close it, and the WAL is emptied",
        );
    }
}

fn of_doors(snapshot: &Snapshot, warnings: &mut Warnings) {
    if let Some(trouble) = &snapshot.operator.trouble {
        warnings.add(
            format!("/livez, /readyz and /metrics cannot be asked: {trouble}"),
            "correct `listen` in [operator], or end the other program (ss -ltnp); tried again \
             every 30 s",
        );
    }
    if let Some(trouble) = &snapshot.control.trouble {
        warnings.add(
            format!("there is no control socket: {trouble}"),
            "correct `socket` in [operator], and restart",
        );
    }
}

/// Milliseconds since a moment; negative before it.
fn ms_since(snapshot: &Snapshot, moment: Moment) -> i64 {
    snapshot.at.0.unix_ms() - moment.0.unix_ms()
}
