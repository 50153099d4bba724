//! `ductile`: the command line and the launcher. Everything it does is in `executor::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    executor::cli::main()
}
