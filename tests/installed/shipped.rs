//! What is in the package besides the program: unit, manual, configuration, directories.

use crate::support::Machine;

/// The most that `systemd-analyze security` may find to say against the unit, in tenths.
const EXPOSURE_MAX: u32 = 15;

#[test]
fn what_runs_does_so_in_a_sandbox_that_systemd_finds_tight() {
    let machine = Machine::serving();
    for unit in ["tilld.service", "tilld-backup.service"] {
        let analysis = machine.sh(&format!("systemd-analyze security --no-pager {unit}"));
        let told = analysis.lines().last().unwrap_or_default();
        let score = told.split_whitespace().find_map(|word| {
            let (whole, tenth) = word.split_once('.')?;
            Some(whole.parse::<u32>().ok()? * 10 + tenth.parse::<u32>().ok()?)
        });
        assert!(score.is_some_and(|score| score <= EXPOSURE_MAX), "{analysis}");
    }
    let status = machine.sh("cat /proc/$(systemctl show -P MainPID tilld)/status");
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    let nice = "awk '$2 == \"(check)\" { print $19 }' \
                /proc/$(systemctl show -P MainPID tilld)/task/*/stat";
    assert_eq!(machine.sh(nice).trim(), "19", "the daily check gives way");
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let machine = Machine::serving();
    let ran = machine.run(
        "systemd-analyze verify --man=yes \
         $(dpkg -L tilld | grep -E '/systemd/system/.*[.](service|timer|socket)$')",
    );
    assert_eq!((ran.code, ran.text().as_str()), (Some(0), ""));
}

#[test]
fn every_page_of_the_manual_renders_without_a_warning() {
    let machine = Machine::serving();
    machine.sh("man -w 8 tilld && man -w 5 tilld.toml");
    let pages = machine.sh("dpkg -L tilld | grep -E '/man/man[0-9]/.*[.]gz$'");
    for page in pages.lines() {
        let ran = machine.run(&format!("MANWIDTH=80 man --warnings -P cat -l {page}"));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{page}");
        assert!(ran.stdout.contains("NAME"), "{page}: {}", ran.stdout);
    }
}

#[test]
fn every_configuration_in_the_package_loads() {
    let machine = Machine::serving();
    let files = machine.sh("ls /etc/tilld/tilld.toml; dpkg -L tilld | grep '[.]toml$'");
    assert!(files.lines().count() >= 2, "{files}");
    for file in files.lines() {
        machine.sh(&format!("runuser -u _tilld -- tilld config check --config {file}"));
    }
}

#[test]
fn its_directories_have_the_owners_and_rights_that_keep_others_out() {
    let machine = Machine::serving();
    let found = machine
        .sh("stat -c '%A %U:%G %n' /var/lib/tilld /run/tilld /run/tilld/tilld.sock \
         /run/tilld/status.json /etc/tilld/secrets.d /var/lib/tilld/tilld.db");
    let expected = "drwxr-s--- _tilld:tilld-admin /var/lib/tilld\n\
                    drwxr-s--x _tilld:tilld-admin /run/tilld\n\
                    srw-rw---- _tilld:tilld-admin /run/tilld/tilld.sock\n\
                    -rw-r--r-- _tilld:tilld-admin /run/tilld/status.json\n\
                    drwxr-x--- root:_tilld /etc/tilld/secrets.d\n\
                    -rw-r----- _tilld:tilld-admin /var/lib/tilld/tilld.db";
    assert_eq!(found, expected);
}
