//! The one task that talks to the spawner and to running plugins: asks for spawns, writes the rest
//! of each request, collects output within its caps, and hands on how each run ended. It never
//! interprets what a plugin prints, and never holds the read end of a stdin.
//!
//! It lives on the dispatcher's thread: a thread of its own costs two wake-ups a job.

use std::collections::{HashMap, VecDeque};
use std::future::Future as _;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use shared::time::Millis;
use shared::wire::spawner::{Exit, Reply, Request, RunRefusal, Spawn};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use zeroize::Zeroize;

use super::spawn::{AsyncLine, SpawnerLine};

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
    /// The plugin gets its request only after `Command::Release`.
    pub is_held: bool,
}

/// What the dispatcher tells this task.
pub enum Command {
    Start(Box<Start>),
    Release { run: u64 },
    End { run: u64, grace: Millis },
}

/// What this task tells the dispatcher.
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

/// The dispatcher's end: commands are carried out in order.
pub struct Supervisor {
    commands: mpsc::UnboundedSender<Command>,
}

impl Supervisor {
    /// Starts the task; it calls `report` for each event.
    ///
    /// # Errors
    /// The line can not be watched.
    pub fn start(
        line: SpawnerLine,
        tasks: &mut JoinSet<()>,
        report: impl Fn(RunEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, commands) = mpsc::unbounded_channel();
        let mut task = Task {
            line: line.into_async()?,
            commands,
            runs: HashMap::new(),
            outbox: VecDeque::new(),
            chunk: vec![0; 64 * 1024],
            alarm: None,
            report,
        };
        tasks.spawn(async move {
            let text = match std::future::poll_fn(|context| task.poll(context)).await {
                Ok(End::Dispatcher) => return,
                Ok(End::Spawner) => "the spawner closed its line".to_owned(),
                Err(error) => error.to_string(),
            };
            (task.report)(RunEvent::SpawnerLost { text });
        });
        Ok(Self { commands: sender })
    }

    pub fn send(&self, command: Command) {
        // When the task has ended, `SpawnerLost` is on its way.
        let _ = self.commands.send(command);
    }
}

/// A run between its spawn request and the end of its pipes.
struct Run {
    /// What was not told of yet: a run that is over at once is told of once.
    pid: Option<u32>,
    request: Vec<u8>,
    is_held: bool,
    /// Of a held run that has been spawned.
    held: Option<OwnedFd>,
    written: usize,
    started: Instant,
    stdin: Option<pipe::Sender>,
    stdout: Capture,
    stderr: Capture,
    secret_names_count: u32,
    overflow_told: bool,
}

/// One output and what is kept of it.
struct Capture {
    pipe: Output,
    kept: Vec<u8>,
    cut: bool,
    limit: usize,
}

enum Output {
    Closed,
    /// Not looked at before the run has ended, or lasts.
    Unwatched(OwnedFd),
    Watched(pipe::Receiver),
}

impl Capture {
    fn closed(limit: usize) -> Self {
        Self { pipe: Output::Closed, kept: Vec::new(), cut: false, limit }
    }

    fn keep(&mut self, piece: &mut [u8]) {
        let room = self.limit - self.kept.len();
        self.cut |= piece.len() > room;
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        // It may be a secret, and the buffer lives on.
        piece.zeroize();
    }

    fn watch(&mut self) -> io::Result<()> {
        self.pipe = match std::mem::replace(&mut self.pipe, Output::Closed) {
            Output::Unwatched(pipe) => Output::Watched(pipe::Receiver::from_owned_fd(pipe)?),
            other => other,
        };
        Ok(())
    }

    /// Reads what is there of a run that lasts, but no more than a share; whether there may be more.
    fn poll_share(&mut self, context: &mut Context<'_>, chunk: &mut [u8]) -> bool {
        let mut share = READ_SHARE;
        while let Output::Watched(pipe) = &mut self.pipe {
            if share == 0 {
                return true;
            }
            let mut buffer = ReadBuf::new(chunk);
            let Poll::Ready(read) = Pin::new(pipe).poll_read(context, &mut buffer) else { return false };
            let taken = buffer.filled().len();
            if read.is_err() || taken == 0 {
                self.pipe = Output::Closed;
            }
            self.keep(&mut chunk[..taken]);
            share = share.saturating_sub(taken);
        }
        false
    }

    /// Reads what a run left, at most what the pipe can hold, and closes it. A process that escaped
    /// may go on writing and holds nobody up.
    fn read_rest(&mut self, chunk: &mut [u8]) {
        let pipe = match std::mem::replace(&mut self.pipe, Output::Closed) {
            Output::Closed => return,
            Output::Unwatched(pipe) => pipe,
            Output::Watched(pipe) => match pipe.into_nonblocking_fd() {
                Ok(pipe) => pipe,
                Err(_) => return,
            },
        };
        let mut left = None;
        loop {
            match rustix::io::read(&pipe, &mut *chunk) {
                Ok(0) => return,
                Ok(taken) => {
                    self.keep(&mut chunk[..taken]);
                    if taken < chunk.len() {
                        return;
                    }
                    let left =
                        left.get_or_insert_with(|| rustix::pipe::fcntl_getpipe_size(&pipe).unwrap_or(READ_SHARE));
                    *left = left.saturating_sub(taken);
                    if *left == 0 {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

struct Task<R> {
    line: AsyncLine,
    commands: mpsc::UnboundedReceiver<Command>,
    runs: HashMap<u64, Run>,
    /// Messages that the line had no room for, in order.
    outbox: VecDeque<Vec<u8>>,
    chunk: Vec<u8>,
    /// When the oldest run that is not watched begins to last.
    alarm: Option<Pin<Box<Sleep>>>,
    report: R,
}

/// Whose end came.
enum End {
    Dispatcher,
    Spawner,
}

impl<R: Fn(RunEvent)> Task<R> {
    /// Goes as far as it can, and has the task woken by whatever it then waits for.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<End>> {
        while let Poll::Ready(command) = self.commands.poll_recv(context) {
            match command {
                Some(command) => self.take(command)?,
                None => return Poll::Ready(Ok(End::Dispatcher)),
            }
        }
        while let Poll::Ready(received) = self.line.poll_receive(context) {
            match received? {
                (Some(reply), fds) => self.reply(reply, fds)?,
                (None, _) => return Poll::Ready(Ok(End::Spawner)),
            }
        }
        self.poll_alarm(context)?;
        self.poll_runs(context)?;
        while let Some(message) = self.outbox.front()
            && let Poll::Ready(sent) = self.line.poll_send(context, message)
        {
            sent?;
            self.outbox.pop_front();
        }
        Poll::Pending
    }

    fn take(&mut self, command: Command) -> io::Result<()> {
        let request = match command {
            Command::Start(start) => {
                let Start { spawn, request, is_held } = *start;
                let run = Run {
                    pid: None,
                    request,
                    is_held,
                    held: None,
                    written: 0,
                    started: Instant::now(),
                    stdin: None,
                    stdout: Capture::closed(STDOUT_MAX),
                    stderr: Capture::closed(STDERR_MAX),
                    secret_names_count: 0,
                    overflow_told: false,
                };
                self.runs.insert(spawn.run, run);
                Request::Spawn(spawn)
            }
            Command::Release { run } => return self.release(run),
            Command::End { run, grace } => Request::End { run, grace },
        };
        self.outbox.push_back(SpawnerLine::encode(&request)?);
        Ok(())
    }

    /// A run that has ended meanwhile needs no request.
    fn release(&mut self, run: u64) -> io::Result<()> {
        let Some(run) = self.runs.get_mut(&run) else { return Ok(()) };
        run.is_held = false;
        run.held.take().map_or(Ok(()), |stdin| run.write_first(stdin))
    }

    fn reply(&mut self, reply: Reply, fds: Vec<OwnedFd>) -> io::Result<()> {
        match reply {
            Reply::Spawned { run, pid, prefixed, secret_names_count } => {
                self.spawned(run, pid, prefixed, secret_names_count, fds)
            }
            Reply::RunRefused { run, refusal } => {
                if self.runs.remove(&run).is_some() {
                    (self.report)(RunEvent::Refused { run, refusal });
                }
                Ok(())
            }
            Reply::Ended { run, exit, timed_out, leftovers } => {
                if let Some(entry) = self.runs.remove(&run) {
                    let Run { pid, mut stdout, mut stderr, secret_names_count, .. } = entry;
                    if let Some(pid) = pid {
                        (self.report)(RunEvent::Spawned { run, pid });
                    }
                    stdout.read_rest(&mut self.chunk);
                    stderr.read_rest(&mut self.chunk);
                    (self.report)(RunEvent::Ended(Box::new(Ended {
                        run,
                        exit,
                        timed_out,
                        leftovers,
                        secret_names_count,
                        stdout: stdout.kept,
                        stdout_cut: stdout.cut,
                        stderr: stderr.kept,
                        stderr_cut: stderr.cut,
                    })));
                }
                Ok(())
            }
            Reply::Hello { .. } | Reply::Ready { .. } | Reply::ConfigureRefused { .. } => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the spawner answered what nobody asked"))
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
        entry.stdout.pipe = Output::Unwatched(stdout);
        entry.stderr.pipe = Output::Unwatched(stderr);
        entry.secret_names_count = secrets;
        entry.pid = Some(pid);
        if !prefixed {
            entry.request.insert(0, b'{');
        }
        if entry.is_held {
            entry.held = Some(stdin);
        } else {
            entry.write_first(stdin)?;
        }
        if self.alarm.is_none() {
            self.alarm = Some(Box::pin(tokio::time::sleep_until((entry.started + READ_AFTER).into())));
        }
        Ok(())
    }

    /// Watches the outputs of runs that have begun to last.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(alarm) = &mut self.alarm
            && alarm.as_mut().poll(context).is_ready()
        {
            let now = Instant::now();
            let mut next: Option<Instant> = None;
            for (id, run) in &mut self.runs {
                if !matches!((&run.stdout.pipe, &run.stderr.pipe), (Output::Unwatched(_), Output::Unwatched(_))) {
                    continue;
                }
                let due = run.started + READ_AFTER;
                if due <= now {
                    if let Some(pid) = run.pid.take() {
                        (self.report)(RunEvent::Spawned { run: *id, pid });
                    }
                    run.stdout.watch()?;
                    run.stderr.watch()?;
                } else {
                    next = Some(next.map_or(due, |next| next.min(due)));
                }
            }
            self.alarm = next.map(|due| Box::pin(tokio::time::sleep_until(due.into())));
        }
        Ok(())
    }

    /// Goes on with the requests and outputs of runs that last.
    fn poll_runs(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        for (id, run) in &mut self.runs {
            run.poll_request(context);
            let more = run.stdout.poll_share(context, &mut self.chunk);
            if run.stderr.poll_share(context, &mut self.chunk) || more {
                context.waker().wake_by_ref();
            }
            if run.stdout.cut && !run.overflow_told {
                run.overflow_told = true;
                let request = Request::End { run: *id, grace: OVERFLOW_GRACE };
                self.outbox.push_back(SpawnerLine::encode(&request)?);
            }
        }
        Ok(())
    }
}

/// The request goes in as far as the pipe takes it, and the pipe is closed after the last byte. A
/// plugin that does not read its stdin is no error (`spec/plugins.md` 6).
impl Run {
    fn write_first(&mut self, stdin: OwnedFd) -> io::Result<()> {
        loop {
            match rustix::io::write(&stdin, &self.request[self.written..]) {
                Ok(taken) => self.written += taken,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.stdin = Some(pipe::Sender::from_owned_fd(stdin)?);
                    return Ok(());
                }
                Err(_) => self.written = self.request.len(),
            }
            if self.written >= self.request.len() {
                self.request = Vec::new();
                return Ok(());
            }
        }
    }

    fn poll_request(&mut self, context: &mut Context<'_>) {
        while let Some(stdin) = &mut self.stdin
            && let Poll::Ready(wrote) = Pin::new(stdin).poll_write(context, &self.request[self.written..])
        {
            self.written = wrote.map_or(self.request.len(), |taken| self.written + taken);
            if self.written >= self.request.len() {
                self.stdin = None;
                self.request = Vec::new();
            }
        }
    }
}
