//! The composition root: builds the parts, runs them, and ends them in order.

mod certificate;
mod checks;
mod closing;
mod control;
mod demo;
mod head_office;
mod people;
mod reload;
mod serve;
mod snapshots;
mod till;

use std::io::{self, Write as _};
use std::process::ExitCode;

use tokio::sync::watch;

use crate::config::Config;
use crate::operator::cli::{Cli, Command};
use crate::operator::{Failure, commands, may_read};

/// Carries out what was typed.
pub fn run(cli: &Cli) -> ExitCode {
    match carry_out(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                // A closed standard error is nobody who listens.
                let _ = writeln!(io::stderr(), "tilld: {failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn carry_out(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Demo { once } => return demo::run(*once),
        // It looks at a configuration that cannot be loaded, too.
        Command::Doctor { bundle, output } => {
            return commands::doctor(&cli.config, bundle.as_deref(), *output);
        }
        _ => {}
    }
    let config = Config::load(&cli.config)?;
    commands::run(&cli.command, &config).unwrap_or_else(|| {
        may_read(&config.state_dir)?;
        serve::run(config)
    })
}

/// Resolves when the daemon ends.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stop.wait_for(|is_stopping| *is_stopping).await;
}
