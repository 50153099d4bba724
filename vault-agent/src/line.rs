//! One connection of a peer: who it is, and frames out of any thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use interprocess::local_socket::traits::{Stream as _, StreamCommon as _};
use interprocess::os::unix::uds_local_socket::Stream;
use serde::Serialize;
use shared::log::Level;
use shared::wire::fds;
use shared::wire::frame::{self, FrameError};

use crate::agent::lock;
use crate::log::say;
use crate::permit::Role;

/// How long a frame may take, once it has begun, in either direction.
const FRAME_WAIT: Duration = Duration::from_secs(10);

/// A connected peer.
pub(crate) struct Line {
    stream: Stream,
    pub(crate) role: Role,
    pub(crate) uid: u32,
    pub(crate) pid: i32,
    /// Held while a frame goes out, since notices come from other threads.
    sending: Mutex<()>,
}

impl Line {
    /// Takes over a connected stream: its peer's credentials, and a limit on every wait.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn new(stream: Stream, role: Role) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_recv_timeout(Some(FRAME_WAIT))?;
        stream.set_send_timeout(Some(FRAME_WAIT))?;
        let peer = stream.peer_creds()?;
        let (uid, pid) = (peer.euid().unwrap_or(u32::MAX), peer.pid().unwrap_or(0));
        Ok(Self { stream, role, uid, pid, sending: Mutex::new(()) })
    }

    /// Sends one frame, descriptors with its first byte.
    ///
    /// # Errors
    /// `TooLong` before anything is sent; after `Io` the connection must be closed.
    pub(crate) fn send<T: Serialize>(&self, message: &T, descriptors: &[OwnedFd]) -> Result<(), FrameError> {
        let bytes = frame::to_frame(message, frame::AGENT_MAX)?;
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
        let _sending = lock(&self.sending);
        fds::send_all(self.stream.as_fd(), &bytes, &descriptors).map_err(FrameError::Io)
    }

    /// Ends both directions; whoever reads it sees the end.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }

    /// A record about this connection.
    pub(crate) fn tell(&self, msg: &str, reason: &str) {
        let (uid, pid) = (self.uid.into(), i64::from(self.pid).into());
        let fields = [("role", self.role.name().into()), ("uid", uid), ("pid", pid), ("reason", reason.into())];
        say(Level::Warn, msg, &fields);
    }

    /// The peer, as the journal names it.
    pub(crate) fn actor(&self) -> String {
        format!("uid {} pid {}", self.uid, self.pid)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
