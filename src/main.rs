//! The program: decides nothing but the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::run()
}
