//! The one blocking thread that talks to the spawner and to running plugins: asks for spawns,
//! writes the rest of each request, collects output within its caps, and hands on how each run
//! ended. It never interprets what a plugin prints, and never holds the read end of a stdin.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use shared::log::Level;
use shared::time::Millis;
use shared::wire::spawner::{Exit, Reply, Request, RunRefusal, Spawn};
use zeroize::Zeroize;

use super::spawn::SpawnerLine;
use crate::logging;

/// What is kept of stdout; a plugin that prints more is ended (`spec/plugins.md` 6 and 15.3).
pub const STDOUT_MAX: usize = 10 * 1024 * 1024;
/// What is kept of stderr; the rest is read and dropped.
pub const STDERR_MAX: usize = 64 * 1024;

/// Small outputs lie in the pipe until the end of the run; only a run that lasts is read while it
/// runs (`performance.md`: polling the outputs from the start costs 7 %).
const READ_AFTER: Duration = Duration::from_millis(5);
/// What is read of one output before other runs have their turn.
const READ_SHARE: usize = 256 * 1024;
/// TERM to KILL for a plugin that printed too much.
const OVERFLOW_GRACE: Millis = Millis::from_secs(5);

/// One run to be.
pub struct Start {
    pub spawn: Spawn,
    /// The request without its first byte `{`, newline included.
    pub request: Vec<u8>,
}

/// What the dispatcher tells this thread.
pub enum Command {
    Start(Box<Start>),
    End { run: u64, grace: Millis },
}

/// What this thread tells the dispatcher.
#[derive(Debug)]
pub enum RunEvent {
    Spawned {
        run: u64,
        pid: u32,
    },
    Refused {
        run: u64,
        refusal: RunRefusal,
    },
    Ended(Box<Ended>),
    /// The spawner is gone; so must the executor be.
    SpawnerLost {
        text: String,
    },
}

/// How a run ended and what it printed, as it came.
#[derive(Debug)]
pub struct Ended {
    pub run: u64,
    pub exit: Exit,
    pub timed_out: bool,
    pub leftovers: u32,
    pub secret_names_count: u32,
    pub stdout: Vec<u8>,
    /// More than `STDOUT_MAX` came.
    pub stdout_cut: bool,
    pub stderr: Vec<u8>,
    pub stderr_cut: bool,
}

/// The dispatcher's end: commands in, and a bell that ends the thread's poll.
#[derive(Clone)]
pub struct Supervisor {
    shared: Arc<Mailbox>,
}

struct Mailbox {
    commands: Mutex<Vec<Command>>,
    bell: OwnedFd,
}

impl Supervisor {
    /// Starts the thread; `report` is called on it for each event.
    ///
    /// # Errors
    /// No eventfd or no thread to be had.
    pub fn start(line: SpawnerLine, report: impl Fn(RunEvent) + Send + 'static) -> io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Mailbox { commands: Mutex::new(Vec::new()), bell });
        let mailbox = Arc::clone(&shared);
        std::thread::Builder::new().name("plugin-io".to_owned()).stack_size(256 * 1024).spawn(move || {
            let mut thread = Thread { line, mailbox, runs: HashMap::new(), outbox: Vec::new(), report };
            let text = match thread.serve() {
                Ok(()) => "the spawner closed its line".to_owned(),
                Err(error) => error.to_string(),
            };
            (thread.report)(RunEvent::SpawnerLost { text });
        })?;
        Ok(Self { shared })
    }

    /// Hands a command over; commands are carried out in order.
    pub fn send(&self, command: Command) {
        let mut commands = self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = commands.is_empty();
        commands.push(command);
        drop(commands);
        if was_empty {
            // A full counter rings already.
            let _ = rustix::io::write(&self.shared.bell, &1u64.to_ne_bytes());
        }
    }
}

/// A run between its spawn request and the end of its pipes.
struct Run {
    request: Vec<u8>,
    written: usize,
    started: Instant,
    stdin: Option<OwnedFd>,
    stdout: Capture,
    stderr: Capture,
    secret_names_count: u32,
    overflow_told: bool,
    end: Option<End>,
}

struct End {
    exit: Exit,
    timed_out: bool,
    leftovers: u32,
}

/// One output pipe and what is kept of it.
struct Capture {
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    cut: bool,
    limit: usize,
}

impl Capture {
    fn closed(limit: usize) -> Self {
        Self { pipe: None, kept: Vec::new(), cut: false, limit }
    }

    /// Reads what is there, but no more than a share; closes the pipe at its end, and with `last`
    /// when it is empty or its capacity was read: all that the run left. A process that escaped
    /// may go on writing and holds nobody up.
    fn read(&mut self, chunk: &mut [u8], last: bool) {
        let Some(pipe) = &self.pipe else { return };
        let share = if last { rustix::pipe::fcntl_getpipe_size(pipe).unwrap_or(READ_SHARE) } else { READ_SHARE };
        let mut read = 0;
        while let Some(pipe) = &self.pipe {
            if read >= share {
                if last {
                    self.pipe = None;
                }
                return;
            }
            match rustix::io::read(pipe, &mut *chunk) {
                Ok(0) => self.pipe = None,
                Ok(taken) => {
                    read += taken;
                    let room = self.limit - self.kept.len();
                    self.cut |= taken > room;
                    self.kept.extend_from_slice(&chunk[..taken.min(room)]);
                    // It may be a secret, and the buffer lives on.
                    chunk[..taken].zeroize();
                    if last && taken < chunk.len() {
                        self.pipe = None;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if !last => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

struct Thread<R> {
    line: SpawnerLine,
    mailbox: Arc<Mailbox>,
    runs: HashMap<u64, Run>,
    /// Messages that the line had no room for, in order.
    outbox: Vec<Vec<u8>>,
    report: R,
}

/// What a polled descriptor is.
#[derive(Clone, Copy)]
enum Watched {
    Line,
    Bell,
    Run(u64),
}

impl<R: Fn(RunEvent)> Thread<R> {
    fn serve(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let ready = self.wait()?;
            for watched in ready {
                match watched {
                    Watched::Line => {
                        if !self.read_line(&mut chunk)? {
                            return Ok(());
                        }
                    }
                    Watched::Bell => self.take_commands()?,
                    Watched::Run(run) => self.serve_run(run, &mut chunk)?,
                }
            }
            self.flush()?;
        }
    }

    /// Polls the line, the bell, unfinished requests, and the outputs of runs that last.
    fn wait(&self) -> io::Result<Vec<Watched>> {
        let now = Instant::now();
        let line_events = if self.outbox.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut watched = vec![Watched::Line, Watched::Bell];
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.line.as_fd(), line_events),
            PollFd::from_borrowed_fd(self.mailbox.bell.as_fd(), PollFlags::IN),
        ];
        let mut timeout: Option<Duration> = None;
        let mut sooner = |span: Duration| timeout = Some(timeout.map_or(span, |t| t.min(span)));
        for (id, run) in &self.runs {
            if let Some(stdin) = &run.stdin {
                watched.push(Watched::Run(*id));
                polled.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::OUT));
            }
            if run.stdout.pipe.is_none() && run.stderr.pipe.is_none() {
                continue;
            }
            let age = now.duration_since(run.started);
            if age < READ_AFTER {
                sooner(READ_AFTER - age);
                continue;
            }
            for pipe in [&run.stdout.pipe, &run.stderr.pipe].into_iter().flatten() {
                watched.push(Watched::Run(*id));
                polled.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
            }
        }
        let timeout = timeout.map(|span| Timespec {
            tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(span.subsec_nanos()),
        });
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(polled
            .iter()
            .zip(&watched)
            .filter(|(polled, _)| !polled.revents().is_empty())
            .map(|(_, watched)| *watched)
            .collect())
    }

    fn take_commands(&mut self) -> io::Result<()> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.mailbox.bell, &mut count);
        let commands = std::mem::take(&mut *self.mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner));
        for command in commands {
            match command {
                Command::Start(start) => {
                    let Start { spawn, request } = *start;
                    let run = Run {
                        request,
                        written: 0,
                        started: Instant::now(),
                        stdin: None,
                        stdout: Capture::closed(STDOUT_MAX),
                        stderr: Capture::closed(STDERR_MAX),
                        secret_names_count: 0,
                        overflow_told: false,
                        end: None,
                    };
                    self.runs.insert(spawn.run, run);
                    self.send(&Request::Spawn(spawn))?;
                }
                Command::End { run, grace } => self.send(&Request::End { run, grace })?,
            }
        }
        Ok(())
    }

    fn send(&mut self, request: &Request) -> io::Result<()> {
        self.outbox.push(SpawnerLine::encode(request)?);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        for message in &self.outbox {
            if !self.line.try_send(message)? {
                break;
            }
            sent += 1;
        }
        self.outbox.drain(..sent);
        Ok(())
    }

    /// Takes every waiting message of the spawner; `false` when its end is closed.
    fn read_line(&mut self, chunk: &mut [u8]) -> io::Result<bool> {
        loop {
            let Some((reply, fds)) = self.line.try_receive()? else { return Ok(true) };
            match reply {
                None => return Ok(false),
                Some(Reply::Spawned { run, pid, prefixed, secret_names_count }) => {
                    self.spawned(run, pid, prefixed, secret_names_count, fds)?;
                }
                Some(Reply::RunRefused { run, refusal }) => {
                    if self.runs.remove(&run).is_some() {
                        (self.report)(RunEvent::Refused { run, refusal });
                    }
                }
                Some(Reply::Ended { run, exit, timed_out, leftovers }) => {
                    if let Some(entry) = self.runs.get_mut(&run) {
                        entry.stdin = None;
                        entry.end = Some(End { exit, timed_out, leftovers });
                        self.serve_run(run, chunk)?;
                    }
                }
                Some(Reply::Hello { .. } | Reply::Ready { .. } | Reply::ConfigureRefused { .. }) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the spawner answered what nobody asked"));
                }
            }
        }
    }

    fn spawned(&mut self, run: u64, pid: u32, prefixed: bool, secrets: u32, fds: Vec<OwnedFd>) -> io::Result<()> {
        let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a spawned run came without its three pipes"));
        };
        let Some(entry) = self.runs.get_mut(&run) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the spawner started a run that nobody asked for"));
        };
        for pipe in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        entry.stdin = Some(stdin);
        entry.stdout.pipe = Some(stdout);
        entry.stderr.pipe = Some(stderr);
        entry.secret_names_count = secrets;
        if !prefixed {
            entry.request.insert(0, b'{');
        }
        write_request(entry);
        if logging::enabled(Level::Debug) {
            (self.report)(RunEvent::Spawned { run, pid });
        }
        Ok(())
    }

    /// Goes on with one run: the rest of its request in, its output out, and the report when it
    /// has ended and its pipes are empty.
    fn serve_run(&mut self, id: u64, chunk: &mut [u8]) -> io::Result<()> {
        let Some(run) = self.runs.get_mut(&id) else { return Ok(()) };
        write_request(run);
        let last = run.end.is_some();
        run.stdout.read(chunk, last);
        run.stderr.read(chunk, last);
        if run.stdout.cut && run.end.is_none() && !run.overflow_told {
            run.overflow_told = true;
            self.send(&Request::End { run: id, grace: OVERFLOW_GRACE })?;
        }
        if last {
            self.finish(id);
        }
        Ok(())
    }

    fn finish(&mut self, id: u64) {
        let Some(Run { stdout, stderr, secret_names_count, end: Some(end), .. }) = self.runs.remove(&id) else {
            return;
        };
        (self.report)(RunEvent::Ended(Box::new(Ended {
            run: id,
            exit: end.exit,
            timed_out: end.timed_out,
            leftovers: end.leftovers,
            secret_names_count,
            stdout: stdout.kept,
            stdout_cut: stdout.cut,
            stderr: stderr.kept,
            stderr_cut: stderr.cut,
        })));
    }
}

/// Writes as much of the request as the pipe takes and closes it after the last byte. A plugin that
/// does not read its stdin is no error (`spec/plugins.md` 6).
fn write_request(run: &mut Run) {
    while let Some(stdin) = &run.stdin {
        match rustix::io::write(stdin, &run.request[run.written..]) {
            Ok(taken) => run.written += taken,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return,
            Err(_) => run.written = run.request.len(),
        }
        if run.written >= run.request.len() {
            run.stdin = None;
            run.request = Vec::new();
        }
    }
}
