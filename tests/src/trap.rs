//! A kill at a chosen system call: strace, attached to a running process or starting one, kills it
//! at the entry of a call before anything of the call is done.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::command::command;
use crate::{procs, wait};

const PATIENCE: Duration = Duration::from_secs(20);

/// An strace that waits at a process. Dropping it lets the process go.
#[derive(Debug)]
pub struct Trap(Child);

impl Trap {
    /// Attaches to every thread of a process. The first thread that makes its `nth` such call from
    /// here on dies there, and the process with it; that may be before this returns.
    ///
    /// # Panics
    /// When strace can not be started or does not attach.
    pub fn set(pid: u32, call: &str, nth: u32) -> Self {
        // It must not stay at its process when this test is killed.
        let child = command("setpriv")
            .args(["--pdeathsig", "KILL", "strace"])
            .args(arguments(call, nth))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start strace");
        let mut trap = Self(child);
        wait::until_true("strace to attach", PATIENCE, || {
            if let Ok(Some(status)) = trap.0.try_wait() {
                if !procs::lives(pid) {
                    return true;
                }
                let said = trap
                    .0
                    .stderr
                    .take()
                    .map(|stderr| BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>());
                panic!("strace ended with {status}: {said:?}");
            }
            let traced = |thread: &u32| procs::status_field(*thread, "TracerPid").is_some_and(|tracer| tracer != "0");
            procs::threads(pid).iter().all(traced)
        });
        trap
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        // Not TERM, at which it would wait for each thread by itself, and for ever for the first of
        // a process that is just ending. What it traced goes on when it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command line before a program's own that kills it at its `nth` such call. What the program
/// starts is followed too, so the call must be one that it alone makes.
pub fn prefix(call: &str, nth: u32) -> Vec<String> {
    let mut words = vec!["strace".to_owned(), "-D".to_owned()];
    words.extend(arguments(call, nth));
    words
}

fn arguments(call: &str, nth: u32) -> Vec<String> {
    let inject = format!("inject={call}:signal=KILL:when={nth}");
    let trace = format!("trace={call}");
    ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(str::to_owned).to_vec()
}
