//! What must be undone however a test ends: by a process of its own, which hears of the test's end
//! by the end of a pipe, also when the test is killed.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::command::command;

/// Runs a command when it is dropped, or when this process is gone.
#[derive(Debug)]
pub struct Undo(Child);

impl Undo {
    /// A command that takes no input.
    ///
    /// # Panics
    /// When the process that will run it can not be started.
    pub fn by(words: &[&str]) -> Self {
        Self::waiting(command("sh").args(["-c", "cat >/dev/null; exec \"$@\"", "sh"]).args(words))
    }

    /// A program that itself waits for the end of its input.
    ///
    /// # Panics
    /// When it can not be started.
    pub fn waiting(program: &mut Command) -> Self {
        // A group of its own: what ends a test that hangs ends its whole group.
        Self(program.stdin(Stdio::piped()).process_group(0).spawn().expect("start the process that will undo it"))
    }

    /// Its output, when it was asked for.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.0.stdout.take()
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "it could not be undone: {:?}", self.0);
        }
    }
}
