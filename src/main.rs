//! From the command line to an exit code, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    tilld::daemon::run(&tilld::operator::cli::Cli::parse_or_exit())
}
