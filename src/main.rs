//! From the command line to an exit code, and nothing else.
fn main() {}
