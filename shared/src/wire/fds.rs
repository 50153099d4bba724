//! Messages with descriptors. Every read of a line that can carry descriptors is a recvmsg, so
//! that none is lost and each arrives close-on-exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;

use super::codec;
use super::frame::{FrameError, PREFIX};

/// The most descriptors that one message carries.
pub const MAX_FDS: usize = 8;

/// Sends `bytes` with `fds` attached to their first byte; the number of bytes that the kernel took.
///
/// # Errors
/// `WouldBlock` on a full non-blocking socket, else the kernel's answer. SIGPIPE is never raised.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_FDS || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Sends a whole frame on a blocking stream, the descriptors with its first byte.
///
/// # Errors
/// The kernel's answer; the stream must be closed then.
pub fn send_all(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = send(socket, bytes, fds)?;
    while sent < bytes.len() {
        sent += send(socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

/// Receives into `buffer`, appending what descriptors come with it; the number of bytes, 0 at the
/// end of the stream.
///
/// # Errors
/// `WouldBlock` on an empty non-blocking socket; `InvalidData` when the peer sent more than
/// `MAX_FDS` descriptors or a message longer than the buffer; else the kernel's answer.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    for received in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = received {
            fds.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message or its descriptors were cut"));
    }
    Ok(message.bytes)
}

/// What has arrived on a stream that may carry descriptors, and has not been taken yet. Works for
/// blocking and non-blocking sockets alike: `fill` makes one recvmsg.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Position in the stream of `bytes[0]`.
    start: u64,
    /// Descriptors with a position inside the frame that they came with: the kernel ends a
    /// recvmsg at the piece of data that carried descriptors, and a sender attaches them to the
    /// frame's first byte, so the last byte of the read lies in that frame.
    fds: Vec<(u64, OwnedFd)>,
}

impl Inbox {
    /// One recvmsg; `false` at the end of the stream.
    ///
    /// # Errors
    /// As `receive`; the stream must be closed then, but for `WouldBlock`.
    pub fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        let mut fds = Vec::new();
        let received = receive(socket, &mut chunk, &mut fds);
        let taken = received?;
        self.bytes.extend_from_slice(&chunk[..taken]);
        let last = (self.start + self.bytes.len() as u64).saturating_sub(1);
        self.fds.extend(fds.into_iter().map(|fd| (last, fd)));
        zeroize::Zeroize::zeroize(&mut chunk[..taken]);
        Ok(taken > 0)
    }

    /// Whether the end of the stream would cut a frame.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole frame, decoded, with the descriptors that came with it.
    ///
    /// # Errors
    /// `TooLong` or `Malformed`; the stream must be closed then.
    pub fn take<T: DeserializeOwned, const LIMIT: usize>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, FrameError> {
        let Some(prefix) = self.bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > LIMIT {
            return Err(FrameError::TooLong { length, limit: LIMIT });
        }
        let end = PREFIX + length;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let message = codec::decode::<T, LIMIT>(&self.bytes[PREFIX..end]);
        let end_position = self.start + end as u64;
        zeroize::Zeroize::zeroize(&mut self.bytes[..end]);
        self.bytes.drain(..end);
        self.start = end_position;
        let mine = self.fds.iter().take_while(|(position, _)| *position < end_position).count();
        let fds = self.fds.drain(..mine).map(|(_, fd)| fd).collect();
        Ok(Some((message?, fds)))
    }

    /// Reads on a blocking socket until one frame is whole; `None` at a clean end.
    ///
    /// # Errors
    /// As `FrameError`; a socket time-out is `Io`.
    pub fn wait<T: DeserializeOwned, const LIMIT: usize>(
        &mut self,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, FrameError> {
        loop {
            if let Some(message) = self.take::<T, LIMIT>()? {
                return Ok(Some(message));
            }
            if !self.fill(socket).map_err(FrameError::Io)? {
                return if self.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::super::frame::to_frame;
    use super::*;

    #[test]
    fn descriptors_arrive_with_their_own_frame() {
        let (a, b) = UnixStream::pair().expect("pair");
        let (mut reader, writer) = io::pipe().expect("pipe");
        let plain = to_frame(&"plain", 64).expect("fits");
        let with_fd = to_frame(&"with", 64).expect("fits");
        send_all(a.as_fd(), &plain, &[]).expect("send");
        send_all(a.as_fd(), &with_fd, &[writer.as_fd()]).expect("send");
        send_all(a.as_fd(), &plain, &[]).expect("send");
        drop((a, writer));
        let mut inbox = Inbox::default();
        let mut seen = Vec::new();
        while let Some((text, fds)) = inbox.wait::<String, 64>(b.as_fd()).expect("frame") {
            seen.push((text, fds.len()));
            for fd in fds {
                assert!(rustix::io::fcntl_getfd(&fd).expect("open").contains(rustix::io::FdFlags::CLOEXEC));
                io::PipeWriter::from(fd).write_all(b"x").expect("write");
            }
        }
        assert_eq!(seen, [("plain".to_owned(), 0), ("with".to_owned(), 1), ("plain".to_owned(), 0)]);
        let mut got = String::new();
        reader.read_to_string(&mut got).expect("read");
        assert_eq!(got, "x");
    }

    #[test]
    fn a_frame_may_come_in_pieces_and_a_cut_one_is_told() {
        let (mut a, b) = UnixStream::pair().expect("pair");
        let frame = to_frame(&"slow", 64).expect("fits");
        let mut inbox = Inbox::default();
        for byte in &frame {
            a.write_all(&[*byte]).expect("write");
            assert!(inbox.fill(b.as_fd()).expect("fill"));
        }
        assert_eq!(inbox.take::<String, 64>().expect("whole").expect("there").0, "slow");
        a.write_all(&frame[..5]).expect("write");
        drop(a);
        assert!(matches!(inbox.wait::<String, 64>(b.as_fd()), Err(FrameError::Cut)));
    }
}
