//! Starts the spawner, once, and frames the line to it: SEQPACKET, one message a packet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::Serialize;
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::frame::LINE_MAX;
use shared::wire::hello::PROTOCOL;
use shared::wire::spawner::{Account, AgentLine, Reply, Request};

/// The executor's end of the line to its spawner.
pub struct SpawnerLine {
    socket: OwnedFd,
    buffer: Vec<u8>,
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
        child.map_err(|error| io::Error::new(error.kind(), format!("start {}: {error}", program.display())))?;
        let mut line = Self { socket: ours, buffer: vec![0; LINE_MAX] };
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

    /// From here on `try_send` and `try_receive` return instead of waiting.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.socket, true)?)
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

    /// Sends one message; `false` when there is no room now.
    ///
    /// # Errors
    /// The line is broken.
    pub fn try_send(&self, message: &[u8]) -> io::Result<bool> {
        match fds::send(self.socket.as_fd(), message, &[]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next message, if one waits.
    ///
    /// # Errors
    /// The line is broken, or the message is none of the spawner's.
    pub fn try_receive(&mut self) -> io::Result<Option<Received>> {
        let mut descriptors = Vec::new();
        let taken = match fds::receive(self.socket.as_fd(), &mut self.buffer, &mut descriptors) {
            Ok(0) => return Ok(Some((None, descriptors))),
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let reply = codec::decode::<Reply, LINE_MAX>(&self.buffer[..taken])
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Ok(Some((Some(reply), descriptors)))
    }

    fn receive(&mut self) -> io::Result<Option<Reply>> {
        Ok(self.try_receive()?.and_then(|(reply, _)| reply))
    }
}

impl AsFd for SpawnerLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The spawner's answer to `configure`.
#[derive(Debug, Clone, Copy)]
pub struct Configured {
    /// It holds the uid-drop capability and drops every child.
    pub enforcing: bool,
    pub cgroup: bool,
    pub landlock: bool,
}
