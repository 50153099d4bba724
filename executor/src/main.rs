//! `ductile-executor`: parses its arguments, runs the service, maps the result to an exit code.
use std::process::ExitCode;

fn main() -> ExitCode {
    executor::service::main()
}
