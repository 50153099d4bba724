//! The harness as a peer on the sockets: it says hello and speaks the wire protocol, as whatever
//! user a test asks for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Gid, Uid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::wire::fds::{self, Inbox};
use shared::wire::frame::{self, Envelope, FrameError, HELLO_MAX};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::Refusal;

const PATIENCE: Duration = Duration::from_secs(10);

/// One end of a connection that has been welcomed.
pub struct Peer {
    stream: UnixStream,
    inbox: Inbox,
    calls: u64,
}

/// How a connection or a request ended.
#[derive(Debug)]
pub enum Outcome<T> {
    Answered(T),
    /// The other end closed the connection without an answer.
    Closed,
    /// Nothing came within the deadline.
    Silent,
}

/// Does something as a user and group without any capability; needs root. Only a thread of its own
/// changes, and it ends here: what it opened or connected stays.
///
/// # Panics
/// When the thread may not become that user, or `deed` panics.
pub fn as_user<T: Send>(uid: u32, gid: u32, deed: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::thread::set_thread_groups(&[]).expect("give up the groups");
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("become the group");
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("become the user");
            deed()
        });
        thread.join().expect("the thread that became another user ends")
    })
}

/// Connects as a user and group, which `SO_PEERCRED` at the other end then shows; needs root.
///
/// # Errors
/// What connect(2) says, `PermissionDenied` for a socket whose mode shuts that user out.
pub fn connect_as(path: &Path, uid: u32, gid: u32) -> io::Result<UnixStream> {
    as_user(uid, gid, || UnixStream::connect(path))
}

impl Peer {
    /// Says hello on a fresh connection.
    ///
    /// # Errors
    /// `Ok(refusal)` in `Err` is the other end's refusal, `Err(None)` a closed connection.
    ///
    /// # Panics
    /// When what comes back is no `HelloReply`, or nothing comes.
    pub fn hello(stream: UnixStream, hello: &Hello) -> Result<Self, Option<Refusal>> {
        let mut peer = Self::unwelcome(stream);
        let hello = frame::to_frame(hello, HELLO_MAX).expect("a hello fits");
        if fds::send_all(peer.stream.as_fd(), &hello, &[]).is_err() {
            return Err(None);
        }
        match peer.receive::<HelloReply, HELLO_MAX>() {
            Outcome::Answered(HelloReply::Welcome(_)) => Ok(peer),
            Outcome::Answered(HelloReply::Refused(refusal)) => Err(Some(refusal)),
            Outcome::Closed => Err(None),
            Outcome::Silent => panic!("no answer to hello within {PATIENCE:?}"),
        }
    }

    /// A connection on which nothing was said yet.
    ///
    /// # Panics
    /// When the socket takes no time-out.
    pub fn unwelcome(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("set the time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("set the time-out");
        Self { stream, inbox: Inbox::default(), calls: 0 }
    }

    /// Sends bytes as they are and waits for nothing.
    ///
    /// # Panics
    /// When the other end has closed.
    pub fn send(&mut self, bytes: &[u8]) {
        fds::send_all(self.stream.as_fd(), bytes, &[]).expect("send to the other end");
    }

    /// Sends one request, with descriptors, and waits for what becomes of it. Notices, which have
    /// the call 0, are passed over.
    ///
    /// # Panics
    /// When what comes back is malformed.
    pub fn ask<Q: Serialize, A: DeserializeOwned, const LIMIT: usize>(
        &mut self,
        request: Q,
        descriptors: &[BorrowedFd<'_>],
    ) -> Outcome<A> {
        self.calls += 1;
        let call = self.calls;
        let bytes = frame::to_frame(&Envelope { call, body: request }, LIMIT).expect("a test's request fits");
        if fds::send_all(self.stream.as_fd(), &bytes, descriptors).is_err() {
            return Outcome::Closed;
        }
        loop {
            match self.receive::<Envelope<A>, LIMIT>() {
                Outcome::Answered(envelope) if envelope.call == call => return Outcome::Answered(envelope.body),
                Outcome::Answered(_) => {}
                Outcome::Closed => return Outcome::Closed,
                Outcome::Silent => return Outcome::Silent,
            }
        }
    }

    /// Sends bytes as they are, and waits for the other end to close.
    ///
    /// # Panics
    /// When it answers or stays open.
    pub fn send_and_expect_close(mut self, bytes: &[u8]) {
        let _ = fds::send_all(self.stream.as_fd(), bytes, &[]);
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        loop {
            match self.inbox.fill(self.stream.as_fd()) {
                Ok(false) => break,
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the connection was not closed: {error}"),
            }
        }
    }

    fn receive<A: DeserializeOwned, const LIMIT: usize>(&mut self) -> Outcome<A> {
        match self.inbox.wait::<A, LIMIT>(self.stream.as_fd()) {
            Ok(Some((message, _))) => Outcome::Answered(message),
            Ok(None) => Outcome::Closed,
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Outcome::Silent,
            Err(FrameError::Io(error))
                if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
            {
                Outcome::Closed
            }
            Err(error) => panic!("a malformed answer: {}", shared::log::chain(&error)),
        }
    }
}
