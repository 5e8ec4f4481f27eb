//! The way to head office, step by step: name, connection with TLS, our key, and its clock.

use std::time::Duration;

use super::Finding;
use crate::config::Upstream;
use crate::domain::delivery::Verdict;
use crate::operator::Exit;
use crate::operator::connection::connection;
use crate::system::clock;
use crate::upstream::https::{Heard, Https};

/// A clock that is wrong by less disturbs nobody.
const CLOCK_ERROR_MAX: Duration = Duration::from_secs(60);

pub(super) fn examine(upstream: &Upstream, findings: &mut Vec<Finding>) {
    let https = match connection(upstream) {
        Ok(https) => https,
        Err(failure) if failure.exit == Exit::Configuration => {
            // The check of the configuration has said so already, and what to do.
            findings
                .push(Finding::skipped("head office", "it cannot be asked as it is configured"));
            return;
        }
        Err(failure) => {
            findings.push(Finding::of("head office", Err(failure), ""));
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(visit(&https, upstream, findings)),
        Err(error) => findings.push(Finding::skipped("head office", error.to_string())),
    }
}

async fn visit(https: &Https, upstream: &Upstream, findings: &mut Vec<Finding>) {
    let host = upstream.url.host().unwrap_or_default();
    match https.addresses().await {
        Ok(addresses) => {
            let addresses: Vec<String> =
                addresses.iter().map(|address| address.ip().to_string()).collect();
            findings.push(Finding::ok("name", format!("{host} is {}", addresses.join(", "))));
        }
        Err(reason) => {
            let remedy = "is the line up, and the name server in /etc/resolv.conf right? \
                          Collections are kept meanwhile";
            findings.push(Finding::mend("name", reason, remedy));
            return;
        }
    }
    match https.visit().await {
        Ok(heard) => {
            findings.push(Finding::ok("connection", format!("{host} answers over TLS")));
            findings.push(credentials(&heard));
            findings.extend(clocks(&heard));
        }
        Err(reason) => {
            let remedy = "is the line up, and `url` right? Collections are kept meanwhile";
            findings.push(Finding::mend("connection", format!("{host}: {reason}"), remedy));
        }
    }
}

fn credentials(heard: &Heard) -> Finding {
    let Heard { verdict, code, words, .. } = heard;
    let answered = format!("head office answered: {words}");
    match (verdict, code) {
        // What is no collection is refused, but only after the key was looked at.
        (Verdict::Refused, Some(_)) => Finding::ok("credentials", "head office takes our key"),
        (Verdict::Misconfigured, _) => {
            let remedy = "correct user_name, authentication_file or url in [upstream], or let head \
                          office add this branch";
            Finding::mend("credentials", answered, remedy)
        }
        _ => Finding::skipped("credentials", answered),
    }
}

fn clocks(heard: &Heard) -> Option<Finding> {
    let off = clock::now() - heard.date?;
    let (off, direction) = match off.to_std() {
        Ok(ahead) => (ahead, "ahead of"),
        Err(_) => ((-off).to_std().unwrap_or_default(), "behind"),
    };
    if off <= CLOCK_ERROR_MAX {
        return Some(Finding::ok("clock", "it agrees with head office's"));
    }
    let seconds = off.as_millis().div_ceil(1000);
    let off = match seconds {
        ..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    let what = format!("this machine's clock is {off} {direction} head office's");
    let remedy =
        "sudo timedatectl set-ntp true; `timedatectl` then says whether it is synchronised";
    Some(Finding::mend("clock", what, remedy))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::operator::commands::doctor::Outcome;

    #[test]
    fn a_clock_that_is_off_is_told_as_people_would() {
        for (off, words) in [
            (0, ""),
            (-58, ""),
            (90, "90 s ahead of"),
            (-600, "10 min behind"),
            (3 * 86_400, "3 days ahead of"),
            (-26 * 3600, "26 h behind"),
        ] {
            let date = Some(clock::now() - TimeDelta::seconds(off));
            let heard = Heard { verdict: Verdict::Refused, code: None, words: String::new(), date };
            let finding = clocks(&heard).unwrap();
            assert_eq!(finding.result == Outcome::Mend, !words.is_empty(), "{off}");
            assert!(finding.what.contains(words), "{off}: {}", finding.what);
        }
    }
}
