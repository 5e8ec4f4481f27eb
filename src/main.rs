//! From the command line to an exit code, and nothing else.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    tilld::daemon::run(&tilld::operator::cli::Cli::parse())
}
