//! Who owns the ports that are configured.

use std::collections::HashSet;
use std::net::SocketAddr;

use procfs::net::TcpState;
use procfs::process::{self, FDTarget};

use super::Finding;
use crate::config::Config;

const CHECK: &str = "ports";

/// Linux cuts a program's name off after 15 bytes; ours is shorter.
const OUR_NAME: &str = "tilld";

pub(super) fn examine(config: &Config, is_running: bool, findings: &mut Vec<Finding>) {
    let doors = [
        (config.endpoint.listen, "listen in [endpoint]"),
        (config.operator.listen, "listen in [operator]"),
    ];
    for (address, setting) in doors {
        if address.port() == 0 {
            continue;
        }
        findings.push(match owners(address) {
            Ok(owners) => judged(address, setting, is_running, &owners),
            Err(error) => Finding::skipped(CHECK, format!("port {}: {error}", address.port())),
        });
    }
}

fn judged(address: SocketAddr, setting: &str, is_running: bool, owners: &Owners) -> Finding {
    let port = address.port();
    match owners {
        Owners::Nobody if is_running => {
            let what = format!("nobody listens on port {port}, though the daemon runs");
            Finding::mend(CHECK, what, "`sudo tilld reload`, and `tilld status` says why")
        }
        Owners::Nobody => Finding::ok(CHECK, format!("port {port} is free")),
        Owners::Hidden if is_running => {
            Finding::skipped(CHECK, format!("port {port} is in use; only root can see by whom"))
        }
        Owners::Hidden => {
            let what = format!("port {port} is in use; only root can see by whom");
            Finding::mend(CHECK, what, "sudo tilld doctor")
        }
        // Between two lives of the daemon systemd keeps its port, so it is an owner, too.
        Owners::Known(programs) if programs.iter().any(|(_, name)| name == OUR_NAME) => {
            Finding::ok(CHECK, format!("port {port} is tilld's"))
        }
        Owners::Known(programs) => {
            let named = programs.iter().map(|(pid, name)| format!("{name} (process {pid})"));
            let named = named.collect::<Vec<_>>().join(", ");
            let what = format!("port {port} is held by {named}");
            Finding::mend(CHECK, what, format!("end that, or set another {setting}"))
        }
    }
}

enum Owners {
    Nobody,
    /// Processes of other users, and this user may not look at them.
    Hidden,
    /// Process ids and names.
    Known(Vec<(i32, String)>),
}

/// Who listens where `address` would.
fn owners(address: SocketAddr) -> procfs::ProcResult<Owners> {
    let sockets = procfs::net::tcp()?.into_iter().chain(procfs::net::tcp6()?);
    let in_the_way = sockets.filter(|socket| {
        let taken = socket.local_address;
        socket.state == TcpState::Listen
            && taken.port() == address.port()
            && (taken.ip() == address.ip()
                || taken.ip().is_unspecified()
                || address.ip().is_unspecified())
    });
    let sockets: HashSet<u64> = in_the_way.map(|socket| socket.inode).collect();
    if sockets.is_empty() {
        return Ok(Owners::Nobody);
    }
    let mut known = Vec::new();
    for process in process::all_processes()?.flatten() {
        // One that has ended meanwhile owns nothing.
        let Ok(mut files) = process.fd() else { continue };
        let holds = files.any(|file| match file.map(|file| file.target) {
            Ok(FDTarget::Socket(inode)) => sockets.contains(&inode),
            _ => false,
        });
        if holds && let Ok(stat) = process.stat() {
            known.push((process.pid, stat.comm));
        }
    }
    Ok(if known.is_empty() { Owners::Hidden } else { Owners::Known(known) })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::operator::commands::doctor::Outcome;

    #[test]
    fn whoever_holds_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        for wanted in [address, everywhere] {
            let Owners::Known(owners) = owners(wanted).unwrap() else { panic!("{wanted}") };
            assert_eq!(owners[0].0, std::process::id().cast_signed());
            let finding = judged(wanted, "listen in [endpoint]", false, &Owners::Known(owners));
            assert_eq!(finding.result, Outcome::Mend);
            assert!(finding.what.contains(" is held by tilld-"), "{}", finding.what);
        }
        drop(listener);
        assert!(matches!(owners(address).unwrap(), Owners::Nobody));
    }
}
