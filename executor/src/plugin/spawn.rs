//! Starts the spawner, once, and frames the line to it: SEQPACKET, one message a packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll, ready};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::Serialize;
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::frame::LINE_MAX;
use shared::wire::hello::PROTOCOL;
use shared::wire::spawner::{Account, AgentLine, Reply, Request};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The executor's end of the line to its spawner.
pub struct SpawnerLine {
    socket: OwnedFd,
    buffer: Vec<u8>,
    process: Option<Child>,
}

/// A message of the spawner with its descriptors; `None` when its end is closed.
pub type Received = (Option<Reply>, Vec<OwnedFd>);

impl SpawnerLine {
    /// Starts `program` with a cleared environment and one end of a socket pair as its stdin, and
    /// exchanges `Hello` with it. Called before the executor gives up the right to exec.
    ///
    /// # Errors
    /// The program is missing or can not start, answers with another version, or closes its line.
    pub fn start(
        program: &Path,
        move_to: Option<(u32, u32)>,
        agent: AgentLine,
        agent_fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        #[expect(clippy::disallowed_methods, reason = "the spawner, once, before the right to exec is given up")]
        let child = Command::new(program).env_clear().stdin(Stdio::from(theirs)).spawn();
        let child =
            child.map_err(|error| io::Error::new(error.kind(), format!("start {}: {error}", program.display())))?;
        let mut line = Self { socket: ours, buffer: vec![0; LINE_MAX], process: Some(child) };
        let hello = Request::Hello { protocol: PROTOCOL, version: shared::VERSION.to_owned(), move_to, agent };
        fds::send(line.socket.as_fd(), &codec::encode(&hello), &agent_fd.into_iter().collect::<Vec<_>>())?;
        match line.receive()? {
            Some(Reply::Hello { protocol: PROTOCOL, version }) if version == shared::VERSION => Ok(line),
            Some(Reply::Hello { protocol, version }) => Err(io::Error::other(format!(
                "{} is version {version} (protocol {protocol}), this is version {} (protocol {PROTOCOL})",
                program.display(),
                shared::VERSION
            ))),
            _ => Err(io::Error::other(format!("{} refused its start; its log line says why", program.display()))),
        }
    }

    /// Hands the accounts over; from then on the spawner's filter is shut.
    ///
    /// # Errors
    /// The refusal's text, or the line's failure.
    pub fn configure(&mut self, accounts: Vec<Account>) -> io::Result<Configured> {
        fds::send(self.socket.as_fd(), &Self::encode(&Request::Configure { accounts })?, &[])?;
        match self.receive()? {
            Some(Reply::Ready { enforcing, cgroup, landlock }) => Ok(Configured { enforcing, cgroup, landlock }),
            Some(Reply::ConfigureRefused { text }) => Err(io::Error::other(text)),
            _ => Err(io::Error::other("the spawner did not answer `configure`")),
        }
    }

    /// The spawner itself, for whoever waits until it is gone.
    pub fn take_process(&mut self) -> Option<Child> {
        self.process.take()
    }

    /// The same line, driven by a task.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn into_async(self) -> io::Result<AsyncLine> {
        // tokio has no type for SEQPACKET; of its type for datagrams only the readiness is used.
        let socket = std::os::unix::net::UnixDatagram::from(self.socket);
        socket.set_nonblocking(true)?;
        Ok(AsyncLine { socket: UnixDatagram::from_std(socket)?, buffer: self.buffer })
    }

    /// A message as it travels.
    ///
    /// # Errors
    /// `InvalidInput` for one over `LINE_MAX`: a larger environment is refused at load.
    pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
        let bytes = codec::encode(message);
        if bytes.len() > LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message to the spawner is over its limit"));
        }
        Ok(bytes)
    }

    fn receive(&mut self) -> io::Result<Option<Reply>> {
        Ok(receive(self.socket.as_fd(), &mut self.buffer)?.0)
    }
}

/// The line while plugins run.
pub struct AsyncLine {
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

impl AsyncLine {
    /// Sends one message.
    ///
    /// # Errors
    /// The line is broken.
    pub fn poll_send(&self, context: &mut Context<'_>, message: &[u8]) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_send_ready(context))?;
            match self.socket.try_io(Interest::WRITABLE, || fds::send(self.socket.as_fd(), message, &[])) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent.map(drop)),
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// The line is broken, or the message is none of the spawner's.
    pub fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Received>> {
        let Self { socket, buffer } = self;
        loop {
            ready!(socket.poll_recv_ready(context))?;
            match socket.try_io(Interest::READABLE, || receive(socket.as_fd(), buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut descriptors = Vec::new();
    let taken = fds::receive(socket, buffer, &mut descriptors)?;
    if taken == 0 {
        return Ok((None, descriptors));
    }
    let reply = codec::decode::<Reply, LINE_MAX>(&buffer[..taken])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok((Some(reply), descriptors))
}

/// The spawner's answer to `configure`.
#[derive(Debug, Clone, Copy)]
pub struct Configured {
    /// It holds the uid-drop capability and drops every child.
    pub enforcing: bool,
    pub cgroup: bool,
    pub landlock: bool,
}
