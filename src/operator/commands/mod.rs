//! One file for each group of commands.

mod acts;
mod backup;
mod books;
mod cert;
mod check;
mod close;
mod doctor;
mod export;
mod key;
mod progress;
mod reconcile;
mod reload;
mod selftest;
mod status;
mod sync;
mod takings;
mod user;
mod witnesses;

use super::Failure;
use super::cli::{
    BackupCommand, CertCommand, Command, ConfigCommand, ContractCommand, RefusalsCommand,
};
use crate::config::Config;
pub use backup::backups;
pub use check::callers_in_words;
pub use doctor::doctor;
pub(super) use status::{bytes, grouped};

/// Carries out a command that is no daemon itself; `None` when it is not one.
pub fn run(command: &Command, config: &Config) -> Option<Result<(), Failure>> {
    Some(match command {
        Command::Serve | Command::Demo { .. } | Command::Doctor { .. } => return None,
        Command::Status { watch: false, output } => status::status(config, *output),
        Command::Status { watch: true, output } => status::watch(config, *output),
        Command::Sync(command) => sync::sync(config, command),
        Command::Branches { output } => sync::branches(config, *output),
        Command::List(args) => books::list(config, args),
        Command::Refusals(args) => match &args.command {
            Some(RefusalsCommand::Accept { refusal, reason }) => {
                acts::accept(config, *refusal, reason)
            }
            None => books::refusals(config, args),
        },
        Command::Takings(args) => takings::takings(config, args),
        Command::Export(args) => export::export(config, args),
        Command::Reconcile(args) => reconcile::reconcile(config, args),
        Command::Show { reference, output } => books::show(config, reference, *output),
        Command::Note { reference, text } => acts::note(config, reference, text),
        Command::Contract(ContractCommand::Reopen { number, reason }) => {
            acts::reopen(config, number, reason)
        }
        Command::Close { day, with_undelivered, output } => {
            close::close(config, *day, *with_undelivered, *output)
        }
        Command::Verify { from, to, output } => takings::days_between(*from, *to)
            .and_then(|days| witnesses::verify(config, days, *output)),
        Command::Rebuild { despite_damage } => witnesses::rebuild(config, *despite_damage),
        Command::Selftest { output } => selftest::selftest(config, *output),
        Command::Reload => reload::run(config),
        Command::Key(command) => key::key(config, command),
        Command::User(command) => user::user(config, command),
        Command::Backup(BackupCommand::Create) => backup::create(config),
        Command::Backup(BackupCommand::List { output }) => backup::list(config, *output),
        Command::Backup(BackupCommand::Verify { name, output }) => {
            backup::verify(config, name.as_deref(), *output)
        }
        Command::Backup(BackupCommand::Restore { name, despite_loss }) => {
            backup::restore(config, name, *despite_loss)
        }
        Command::Undelivered => witnesses::undelivered(config),
        Command::Config(ConfigCommand::Check) => check::config_check(config),
        Command::Cert(CertCommand::Renew) => reload::renew_certificate(config),
        Command::Cert(CertCommand::Show { pem, output }) => cert::show(config, *pem, *output),
    })
}
