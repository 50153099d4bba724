//! What a run needs before its child exists: its pipes, its opened files, and the agent's word.
//! The agent is asked once for each delivery; while it thinks, other runs go on.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use shared::wire::fds::{self, Inbox};
use shared::wire::frame::{AGENT_MAX, Envelope, HELLO_MAX, to_frame};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::spawner::{AgentLine, RunRefusal};
use shared::wire::vault::{Delivery, Reply, Request};

use crate::child::Program;
use crate::sys;

/// How long the agent may think about one delivery.
const DEADLINE: Duration = Duration::from_secs(5);

/// The three pipes of a run; the ends that stay here and those that the child gets.
pub(crate) struct Pipes {
    pub stdin_write: OwnedFd,
    pub stdin_read: OwnedFd,
    pub stdout_read: OwnedFd,
    pub stdout_write: OwnedFd,
    pub stderr_read: OwnedFd,
    pub stderr_write: OwnedFd,
}

impl Pipes {
    /// Makes them under the account's fsuid, so that the plugin can open `/dev/stdin` and nobody
    /// else can open them again. stdin's write end does not block: its flags are those of the
    /// open file, which the agent and the executor share.
    ///
    /// # Errors
    /// No descriptors, or no memory for pipes.
    pub(crate) fn new(owner: Option<u32>) -> io::Result<Self> {
        if let Some(uid) = owner {
            sys::set_fsuid(uid);
        }
        let made = (|| -> Result<_, Errno> {
            let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
            Ok((pipe()?, pipe()?, pipe()?))
        })();
        if owner.is_some() {
            sys::set_fsuid(rustix::process::geteuid().as_raw());
        }
        let ((stdin_read, stdin_write), (stdout_read, stdout_write), (stderr_read, stderr_write)) = made?;
        rustix::fs::fcntl_setfl(&stdin_write, OFlags::WRONLY | OFlags::NONBLOCK)?;
        Ok(Self { stdin_write, stdin_read, stdout_read, stdout_write, stderr_read, stderr_write })
    }
}

/// Opens a plugin's file, read-only, through no symbolic link. `trusted` demands that nobody but
/// root can change it or any directory above it (`spec/vault.md` 13.1).
///
/// # Errors
/// `UnsafePath`, naming the path, or why it can not be opened.
pub(crate) fn open(path: &str, trusted: bool) -> Result<OwnedFd, RunRefusal> {
    let failed = |error: Errno| RunRefusal::Start { text: format!("{path}: {}", io::Error::from(error)) };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    if !path.starts_with('/') || Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err(RunRefusal::Start { text: format!("{path}: not an absolute, resolved path") });
    }
    if !trusted && let Some(file) = open_at_once(path, flags) {
        return Ok(file);
    }
    let check = |file: &OwnedFd| if trusted { check_owner(file, path) } else { Ok(()) };
    // Step by step, since the service's RestrictSUIDSGID= leaves no openat2.
    let step = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let mut directory = openat(CWD, "/", step, Mode::empty()).map_err(failed)?;
    let mut names = Path::new(path).components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mut name = names.next().ok_or_else(|| failed(Errno::ISDIR))?;
    loop {
        check(&directory)?;
        let Some(next) = names.next() else { break };
        directory = openat(&directory, name, step, Mode::empty()).map_err(failed)?;
        name = next;
    }
    let file = openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
    check(&file)?;
    Ok(file)
}

/// The file, when the kernel knows it by the very path: then no link was followed. Two calls in the
/// place of two for each directory; `None` is for the walk, which knows why.
fn open_at_once(path: &str, flags: OFlags) -> Option<OwnedFd> {
    let file = openat(CWD, path, flags | OFlags::NOFOLLOW, Mode::empty()).ok()?;
    let known = readlinkat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new()).ok()?;
    (known.as_bytes() == path.as_bytes()).then_some(file)
}

fn check_owner(file: &OwnedFd, path: &str) -> Result<(), RunRefusal> {
    let stat =
        fstat(file).map_err(|error| RunRefusal::Start { text: format!("{path}: {}", io::Error::from(error)) })?;
    // A directory like /tmp, which others may write to but not rename in, is not safe enough.
    if stat.st_uid == 0 && stat.st_mode & 0o022 == 0 {
        return Ok(());
    }
    let text = format!("{path}: it or a directory above it can be changed by somebody else than root");
    Err(RunRefusal::Denied(Refusal::new(RefusalKind::UnsafePath, text)))
}

/// How an opened entrypoint is exec'ed: by the descriptor that the agent hashed, but a `#!` script
/// by path, since its interpreter can not open a close-on-exec descriptor. The caller keeps `file`
/// until the child has its own copy.
///
/// # Errors
/// A file that can not be read, or a path that no string of C can hold.
pub(crate) fn program(path: &str, file: &OwnedFd) -> io::Result<Program> {
    let mut start = [0; 2];
    let taken = rustix::io::pread(file, &mut start, 0)?;
    let script = taken == 2 && &start == b"#!";
    Ok(if script { Program::Script(CString::new(path)?) } else { Program::File(file.as_raw_fd()) })
}

/// The line to the agent.
pub(crate) struct Agent {
    source: AgentLine,
    given: Option<OwnedFd>,
    connection: Option<Connection>,
    calls: u64,
}

struct Connection {
    socket: OwnedFd,
    inbox: Inbox,
    greeted: bool,
    /// Questions without an answer, oldest first.
    asked: VecDeque<Asked>,
}

struct Asked {
    call: u64,
    run: u64,
    until: Instant,
}

/// The agent's word for one run.
pub(crate) enum Word {
    /// The start of the request is in the pipe.
    Delivered {
        secret_names_count: u32,
    },
    Refused(RunRefusal),
}

impl Agent {
    pub(crate) fn new(source: AgentLine, given: Option<OwnedFd>) -> Self {
        Self { source, given, connection: None, calls: 0 }
    }

    /// The socket to poll, while there is one.
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        self.connection.as_ref().map(|connection| &connection.socket)
    }

    /// When the oldest question is too old.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.connection.as_ref()?.asked.front().map(|asked| asked.until)
    }

    /// Asks; the word comes by `words`. `false`: nobody is there to be asked.
    pub(crate) fn ask(&mut self, run: u64, delivery: Delivery, files: [&OwnedFd; 3]) -> bool {
        self.calls += 1;
        let call = self.calls;
        let Ok(frame) = to_frame(&Envelope { call, body: Request::Deliver(delivery) }, AGENT_MAX) else { return false };
        // A line that broke while nobody looked is found out here, and tried once more.
        for _ in 0..2 {
            if self.connection.is_none() && !self.connect() {
                return false;
            }
            let Some(connection) = &mut self.connection else { return false };
            match fds::send(connection.socket.as_fd(), &frame, &files.map(AsFd::as_fd)) {
                Ok(sent) if sent == frame.len() => {
                    connection.asked.push_back(Asked { call, run, until: Instant::now() + DEADLINE });
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Others wait for an answer on this line: its end, which `words` sees, tells them that it
                // is lost. Nothing may follow half a frame.
                _ if !connection.asked.is_empty() => {
                    let _ = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both);
                    return false;
                }
                _ => self.connection = None,
            }
        }
        false
    }

    fn connect(&mut self) -> bool {
        let socket = match &self.source {
            AgentLine::Descriptor => self.given.take(),
            AgentLine::Path(path) => connect(path).ok(),
        };
        let Some(socket) = socket else { return false };
        let Ok(hello) = to_frame(&Hello::ours(None), HELLO_MAX) else { return false };
        if rustix::io::ioctl_fionbio(&socket, true).is_err() || fds::send(socket.as_fd(), &hello, &[]).is_err() {
            return false;
        }
        let inbox = Inbox::default();
        self.connection = Some(Connection { socket, inbox, greeted: false, asked: VecDeque::new() });
        true
    }

    /// Takes what the agent said, after its socket became readable.
    pub(crate) fn words(&mut self) -> Vec<(u64, Word)> {
        let mut words = Vec::new();
        if let Some(connection) = &mut self.connection
            && connection.take(&mut words).is_err()
        {
            words.extend(self.lose());
        }
        words
    }

    /// Gives up on what was not answered in time: a line that can be had anew as a whole, the only
    /// one not, since a late word on it is merely passed over.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(u64, Word)> {
        let mut words = Vec::new();
        while self.next_deadline().is_some_and(|until| until <= now) {
            if matches!(self.source, AgentLine::Path(_)) {
                return self.lose();
            }
            let asked = self.connection.as_mut().and_then(|connection| connection.asked.pop_front());
            words.extend(asked.map(|asked| (asked.run, Word::Refused(RunRefusal::AgentUnavailable))));
        }
        words
    }

    /// Everybody who waits is told that the agent is away.
    fn lose(&mut self) -> Vec<(u64, Word)> {
        let asked = self.connection.take().map(|connection| connection.asked).unwrap_or_default();
        asked.into_iter().map(|asked| (asked.run, Word::Refused(RunRefusal::AgentUnavailable))).collect()
    }
}

impl Connection {
    fn take(&mut self, words: &mut Vec<(u64, Word)>) -> Result<(), ()> {
        let open = match self.inbox.fill(self.socket.as_fd()) {
            Ok(open) => open,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return Err(()),
        };
        if !self.greeted {
            match self.inbox.take::<HelloReply, HELLO_MAX>() {
                Ok(Some((HelloReply::Welcome(theirs), _))) if Hello::ours(None).check(&theirs).is_ok() => {
                    self.greeted = true;
                }
                Ok(None) if open => return Ok(()),
                _ => return Err(()),
            }
        }
        while let Some((Envelope { call, body }, _)) =
            self.inbox.take::<Envelope<Reply>, AGENT_MAX>().map_err(|_| ())?
        {
            let Some(at) = self.asked.iter().position(|asked| asked.call == call) else { continue };
            let asked = self.asked.remove(at).expect("it was just found there");
            words.push((asked.run, word(body)));
        }
        if open { Ok(()) } else { Err(()) }
    }
}

fn word(reply: Reply) -> Word {
    match reply {
        Reply::Delivered { secret_names_count } => Word::Delivered { secret_names_count },
        Reply::Refused(refusal) => Word::Refused(match refusal.kind {
            RefusalKind::Pipe => RunRefusal::Pipe { text: refusal.message },
            RefusalKind::Busy | RefusalKind::Unavailable | RefusalKind::TooManyDeliveries => {
                RunRefusal::AgentUnavailable
            }
            _ => RunRefusal::Denied(refusal),
        }),
        _ => Word::Refused(RunRefusal::AgentUnavailable),
    }
}

fn connect(path: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
