//! The unit as systemd has it: whether it starts at boot, what was changed in it, how often it was
//! restarted, and whether the program that runs is the one that is installed.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::Finding;
use crate::operator::snapshot::Snapshot;

const CHECK: &str = "unit";

const PROPERTIES: &str = "LoadState,ActiveState,SubState,UnitFileState,FragmentPath,DropInPaths,\
                          NeedDaemonReload,NRestarts,Result,ExecMainStatus,MainPID";

/// Where an administrator's copy of the unit stands, in place of the package's.
const ADMINISTRATORS: &str = "/etc/systemd/system/";

pub(super) fn examine(snapshot: Option<&Snapshot>, findings: &mut Vec<Finding>) {
    let Some(unit) = shown() else {
        findings.push(Finding::skipped(CHECK, "systemd does not answer"));
        return;
    };
    let is = |name: &str, value: &str| unit.get(name).is_some_and(|known| known == value);
    if is("LoadState", "not-found") {
        findings.push(Finding::skipped(CHECK, "the package is not installed"));
        return;
    }
    findings.push(state(&unit, snapshot.is_some()));
    if !is("UnitFileState", "enabled") {
        let what = "it does not start when the machine does";
        findings.push(Finding::mend(CHECK, what, "sudo systemctl enable tilld"));
    }
    if is("NeedDaemonReload", "yes") {
        let what = "its files have changed since systemd read them";
        findings.push(Finding::mend(CHECK, what, "sudo systemctl daemon-reload"));
    }
    findings.extend(overrides(&unit));
    findings.extend(unit.get("MainPID").and_then(|pid| replaced(pid)));
    findings.push(synchronised());
}

type Unit = BTreeMap<String, String>;

fn shown() -> Option<Unit> {
    let property = format!("--property={PROPERTIES}");
    let output = Command::new("systemctl").args(["show", "tilld.service", &property]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn state(unit: &Unit, is_running: bool) -> Finding {
    let get = |name: &str| unit.get(name).map_or("", String::as_str);
    let restarts = match get("NRestarts") {
        "" | "0" => String::new(),
        "1" => ", restarted once by systemd".to_owned(),
        count => format!(", restarted {count} times by systemd"),
    };
    let what = format!("{} ({}){restarts}", get("ActiveState"), get("SubState"));
    if get("ActiveState") == "active" {
        return Finding::ok(CHECK, what);
    }
    if is_running {
        return Finding::ok(CHECK, format!("{what}; the daemon that answers runs without it"));
    }
    let what = format!("{what}; it ended with {} {}", get("Result"), get("ExecMainStatus"));
    Finding::mend(CHECK, what, "`journalctl -u tilld -n 50` says why; sudo systemctl start tilld")
}

/// What differs from the unit as the package has it. A drop-in is no mistake, but whoever looks
/// for one should know of it.
fn overrides(unit: &Unit) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(path) = unit.get("FragmentPath").filter(|path| path.starts_with(ADMINISTRATORS)) {
        let what = format!("{path} stands in place of the packaged unit: updates do not reach it");
        findings.push(Finding::mend(CHECK, what, "sudo systemctl revert tilld"));
    }
    for path in unit.get("DropInPaths").map_or("", String::as_str).split_whitespace() {
        findings.push(Finding::ok(CHECK, format!("{path} changes it: `systemctl cat tilld`")));
    }
    findings
}

/// A package that was upgraded takes effect with a restart.
fn replaced(pid: &str) -> Option<Finding> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    program.to_string_lossy().ends_with(" (deleted)").then(|| {
        let what = "the program that runs is not the one that is installed";
        let remedy = "sudo systemctl restart tilld; no till is turned away meanwhile";
        Finding::mend(CHECK, what, remedy)
    })
}

fn synchronised() -> Finding {
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    let output = Command::new("timedatectl").args(arguments).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match said.as_deref() {
        Ok("yes") => Finding::ok("time server", "the clock is synchronised"),
        Ok("no") => {
            let what = "the clock is not synchronised";
            Finding::mend("time server", what, "sudo timedatectl set-ntp true")
        }
        _ => Finding::skipped("time server", "systemd does not say whether the clock is right"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::commands::doctor::Outcome;

    fn unit(pairs: &[(&str, &str)]) -> Unit {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_unit_that_ended_says_how_and_one_that_runs_how_often_it_was_restarted() {
        let running = unit(&[("ActiveState", "active"), ("SubState", "running")]);
        let finding = state(&running, true);
        assert_eq!((finding.result, finding.what.as_str()), (Outcome::Ok, "active (running)"));
        let ended = unit(&[
            ("ActiveState", "failed"),
            ("SubState", "failed"),
            ("NRestarts", "3"),
            ("Result", "exit-code"),
            ("ExecMainStatus", "78"),
        ]);
        let finding = state(&ended, false);
        assert_eq!(finding.result, Outcome::Mend);
        let what = "failed (failed), restarted 3 times by systemd; it ended with exit-code 78";
        assert_eq!(finding.what, what);
    }

    #[test]
    fn what_was_changed_in_the_unit_is_named() {
        let packaged = "/usr/lib/systemd/system/tilld.service";
        let packaged = unit(&[("FragmentPath", packaged), ("DropInPaths", "")]);
        assert!(overrides(&packaged).is_empty());
        let own = "/etc/systemd/system/tilld.service";
        let drop_in = "/etc/systemd/system/tilld.service.d/slow.conf";
        let changed = unit(&[("FragmentPath", own), ("DropInPaths", drop_in)]);
        let findings = overrides(&changed);
        assert!(findings[0].result == Outcome::Mend && findings[0].what.contains(own));
        assert!(findings[1].result == Outcome::Ok && findings[1].what.contains(drop_in));
    }
}
