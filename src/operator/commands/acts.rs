//! `tilld note`, `tilld refusals accept`, `tilld contract reopen`: what a person does about what
//! stands in the books. The daemon does it, on the tape with who and when; here it is asked for.

use std::io::{self, Write as _};

use crate::config::Config;
use crate::domain::act::Words;
use crate::operator::control::{self, Reply, Request, Since};
use crate::operator::{Exit, Failure};

/// `tilld note`
pub fn note(config: &Config, reference: &str, text: &[String]) -> Result<(), Failure> {
    let text = words("note", &text.join(" "))?;
    let actor = control::claimed_actor();
    let request = Request::Note { reference: reference.to_owned(), text, actor };
    let reply = control::ask(&config.operator.socket, &request)?;
    let Reply::Noted { about } = reply else { return Err(control::unexpected()) };
    Ok(writeln!(io::stdout(), "noted beside {about}")?)
}

/// `tilld refusals accept`
pub fn accept(config: &Config, refusal: i64, reason: &str) -> Result<(), Failure> {
    let reason = words("reason", reason)?;
    let request = Request::Accept { refusal, reason, actor: control::claimed_actor() };
    let reply = control::ask(&config.operator.socket, &request)?;
    let Reply::Accepted { sequence, since } = reply else { return Err(control::unexpected()) };
    let line = match since {
        Since::Now => format!("refusal:{refusal} is collection:{sequence} now"),
        Since::Confirmed => {
            format!("refusal:{refusal} stood already as collection:{sequence}, and is marked so")
        }
        Since::Accepted => {
            format!("refusal:{refusal} was accepted before as collection:{sequence}")
        }
    };
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// `tilld contract reopen`
pub fn reopen(config: &Config, contract: &str, reason: &str) -> Result<(), Failure> {
    let reason = words("reason", reason)?;
    let (contract, actor) = (contract.to_owned(), control::claimed_actor());
    let request = Request::Reopen { contract: contract.clone(), reason, actor };
    let reply = control::ask(&config.operator.socket, &request)?;
    let Reply::Reopened { was_open } = reply else { return Err(control::unexpected()) };
    let line = if was_open {
        format!("{contract} was reopened before, and has not been paid since")
    } else {
        format!("{contract} may be paid once more")
    };
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// What a person wrote, if it can stand on the tape.
fn words(what: &str, text: &str) -> Result<String, Failure> {
    match Words::parse(text) {
        Ok(words) => Ok(words.as_str().to_owned()),
        Err(invalid) => Err(Failure::new(Exit::BadData, format!("the {what}: {invalid}"))),
    }
}
