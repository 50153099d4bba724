//! The one place where the harness starts processes.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// A command, as `std::process::Command::new`.
#[expect(clippy::disallowed_methods, reason = "the harness is one of the places where processes are started")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs to the end with `input` on stdin and both outputs collected.
///
/// # Panics
/// When the program can not be started.
pub fn run_with(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A program that does not read its input closes it; that is its own business.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("a child of ours can be waited for")
}

/// Runs to the end without input and gives stdout.
///
/// # Panics
/// When the program can not be started or does not exit 0, with what it printed.
pub fn succeed(command: &mut Command) -> String {
    let output = run_with(command, b"");
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
