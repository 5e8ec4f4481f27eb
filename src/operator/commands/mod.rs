//! One file for each group of commands.

mod books;
mod cert;
mod check;

use super::Failure;
use super::cli::{CertCommand, Command, ConfigCommand};
use crate::config::Config;

/// Carries out a command that needs no daemon in this process; `None` when it is not one.
pub fn run(command: &Command, config: &Config) -> Option<Result<(), Failure>> {
    Some(match command {
        Command::Serve | Command::Demo { .. } => return None,
        Command::List(args) => books::list(config, args),
        Command::Refusals { limit, output } => books::refusals(config, *limit, *output),
        Command::Show { reference, output } => books::show(config, reference, *output),
        Command::Config(ConfigCommand::Check) => check::config_check(config),
        Command::Cert(CertCommand::Show { pem }) => cert::show(config, *pem),
    })
}
