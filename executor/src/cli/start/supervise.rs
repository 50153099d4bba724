//! Watches the three parts: waits until all are ready, forwards SIGHUP, stops front, executor and
//! agent in this order when a signal comes or when one of them dies, and answers the exit code.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use shared::exit;
use shared::log::Level;
use shared::wire::frame::LINE_MAX;
use shared::wire::launch::Started;
use shared::wire::{codec, fds};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::Instant;

use super::RUNTIME;
use crate::cli::launch::Program;
use crate::cli::output::{self, Failure, Outcome};

/// How long the parts together may take until they are ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How long a part may take to stop before it is killed: the executor's 30 s of grace for jobs and
/// what it needs after them; 40 s for all, within the units' `TimeoutStopSec=45`.
const fn stop_limit(program: Program) -> Duration {
    Duration::from_secs(match program {
        Program::Front => 4,
        Program::Executor => 33,
        Program::Agent => 3,
    })
}

/// Stop signals so close together are one request: a shell or a supervisor may signal the process
/// and then its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// The signals that the launcher answers to.
pub(in crate::cli) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hang_up: Stream,
    child: Stream,
}

/// One that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Stop(&'static str),
    HangUp,
    Child,
}

impl Signals {
    /// Takes them over from their default, which would end the launcher and leave the parts.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(in crate::cli) fn taken() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> Came {
        tokio::select! {
            // A stop first: the service manager signals the parts too, and they may end at once.
            biased;
            Some(()) = self.terminate.recv() => Came::Stop("terminated"),
            Some(()) = self.interrupt.recv() => Came::Stop("interrupt"),
            Some(()) = self.hang_up.recv() => Came::HangUp,
            Some(()) = self.child.recv() => Came::Child,
            else => std::future::pending().await,
        }
    }
}

/// One child of the launcher. Dropped before its end it is killed: that happens only when a part
/// after it could not be started.
pub(in crate::cli) struct Part {
    program: Program,
    child: Child,
    line: Option<UnixStream>,
    is_ready: bool,
    ended: Option<ExitStatus>,
}

/// What a part did.
#[derive(Debug)]
enum Did {
    Ready,
    Failed(String),
    Ended(ExitStatus),
}

impl Part {
    /// Takes over a started child. Called inside the runtime.
    ///
    /// # Errors
    /// The kernel's answer, when its line can not be watched; the child is killed then.
    pub(in crate::cli) fn new(program: Program, child: Child, line: OwnedFd) -> io::Result<Self> {
        let mut part = Self { program, child, line: None, is_ready: false, ended: None };
        let line = std::os::unix::net::UnixStream::from(line);
        line.set_nonblocking(true)?;
        part.line = Some(UnixStream::from_std(line)?);
        Ok(part)
    }

    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Did> {
        loop {
            let Some(line) = &self.line else { return Poll::Pending };
            if line.poll_read_ready(context).is_pending() {
                return Poll::Pending;
            }
            if let Some(did) = self.said() {
                return Poll::Ready(did);
            }
        }
    }

    /// What waits on the line, if anything does.
    fn said(&mut self) -> Option<Did> {
        let line = self.line.as_ref()?;
        let mut packet = vec![0; LINE_MAX];
        let received = line.try_io(Interest::READABLE, || fds::receive(line.as_fd(), &mut packet, &mut Vec::new()));
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // Whatever is wrong with the line: the end of the process tells.
            Ok(0) | Err(_) => {
                self.line = None;
                None
            }
            Ok(length) => Some(match codec::decode::<Started, LINE_MAX>(&packet[..length]) {
                Ok(Started::Ready) => {
                    self.is_ready = true;
                    Did::Ready
                }
                Ok(Started::Failed { text }) => Did::Failed(text),
                Err(error) => Did::Failed(format!("{RUNTIME}: {}: {error}", self.program.name())),
            }),
        }
    }

    /// Notes its end; `true` when it has ended now.
    fn reap(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or_default();
            return self.ended.is_some();
        }
        false
    }

    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // Not reaped yet, so the number is still this child's.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Asks for an end in good order. The agent takes the end of its line for that, and writes what
    /// it has counted; the others take SIGTERM, and the end of theirs for a launcher that is gone.
    fn ask_to_stop(&mut self) {
        match self.program {
            Program::Agent => self.line = None,
            Program::Executor | Program::Front => self.signal(Signal::TERM),
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.ended.is_none() {
            self.ended = Some(self.child.wait().unwrap_or_default());
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the first of them says on its line, in the order of their start: who was needed by the
/// others says first why it failed.
async fn said(parts: &mut [Part]) -> (Program, Did) {
    poll_fn(|context| {
        for part in parts.iter_mut() {
            if let Poll::Ready(did) = part.poll_line(context) {
                return Poll::Ready((part.program, did));
            }
        }
        Poll::Pending
    })
    .await
}

/// Who has ended, and what it said before.
fn ended(parts: &mut [Part]) -> Option<(Program, Did)> {
    for part in parts {
        if part.reap() {
            let last = part.said().filter(|did| matches!(did, Did::Failed(_)));
            return Some((part.program, last.unwrap_or(Did::Ended(part.ended?))));
        }
    }
    None
}

/// Runs until everything has stopped. `parts` stand in the order of their start.
pub(in crate::cli) async fn run(mut parts: Vec<Part>, mut signals: Signals) -> Outcome {
    let why = watch(&mut parts, &mut signals).await;
    let all_in_order = stop(&mut parts, &mut signals).await;
    match why {
        End::Asked if all_in_order => {
            output::record(Level::Info, "ductile stopped", &[]);
            Ok(exit::OK)
        }
        End::Asked => Ok(exit::FAILURE),
        End::Failed(text) => Err(Failure::new(text)),
    }
}

/// Why the launcher stops.
enum End {
    Asked,
    Failed(String),
}

async fn watch(parts: &mut [Part], signals: &mut Signals) -> End {
    let limit = Instant::now() + READY_LIMIT;
    loop {
        let was_running = parts.iter().all(|part| part.is_ready);
        let (program, did) = tokio::select! {
            biased;
            came = signals.next() => match came {
                Came::Stop(name) => {
                    output::record(Level::Info, "received shutdown signal", &[("signal", name.into())]);
                    return End::Asked;
                }
                Came::HangUp => {
                    for part in parts.iter().filter(|part| part.program == Program::Executor) {
                        part.signal(Signal::HUP);
                    }
                    continue;
                }
                Came::Child => match ended(parts) {
                    Some(event) => event,
                    None => continue,
                },
            },
            event = said(parts) => event,
            () = tokio::time::sleep_until(limit), if !was_running => {
                let late: Vec<_> = parts.iter().filter(|part| !part.is_ready).map(|part| part.program.name()).collect();
                return End::Failed(format!("{RUNTIME}: not ready after {READY_LIMIT:?}: {}", late.join(", ")));
            }
        };
        let name = program.name();
        match did {
            Did::Ready if !was_running && parts.iter().all(|part| part.is_ready) => {
                output::record(Level::Info, "ductile running (press Ctrl+C to stop)", &[]);
            }
            Did::Ready => {}
            Did::Failed(text) => return End::Failed(text),
            Did::Ended(status) if was_running => {
                output::record(Level::Error, "part ended: stopping the others", &[("program", name.into())]);
                return End::Failed(format!("{name} ended ({status})"));
            }
            Did::Ended(status) => {
                return End::Failed(format!("{RUNTIME}: {name} ended before it was ready ({status})"));
            }
        }
    }
}

/// Stops what still runs, the last started first; `false` when one had to be killed or failed.
/// Who asks again has lost patience with the part that stops now.
async fn stop(parts: &mut [Part], signals: &mut Signals) -> bool {
    let mut in_order = true;
    let began = Instant::now();
    for index in (0..parts.len()).rev() {
        let limit = Instant::now() + stop_limit(parts[index].program);
        parts[index].ask_to_stop();
        // The signal of an end before this one may have been merged with another.
        for part in parts.iter_mut() {
            part.reap();
        }
        while parts[index].ended.is_none() {
            let is_over = tokio::select! {
                biased;
                came = signals.next() => matches!(came, Came::Stop(_)) && began.elapsed() > SAME_REQUEST,
                () = tokio::time::sleep_until(limit) => true,
            };
            for part in parts.iter_mut() {
                part.reap();
            }
            if is_over && parts[index].ended.is_none() {
                let name = parts[index].program.name();
                output::record(Level::Error, "part does not stop: killed", &[("program", name.into())]);
                parts[index].kill();
            }
        }
        let status = parts[index].ended.unwrap_or_default();
        in_order &= status.success() || status.signal() == Some(Signal::TERM.as_raw());
    }
    in_order
}
