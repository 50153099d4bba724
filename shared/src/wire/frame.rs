//! Frames on a stream: the body's length as u32 little-endian, then the body.

use std::fmt;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec::{self, DecodeError};

/// Bytes of the length before a body.
pub const PREFIX: usize = 4;
/// The longest body on the agent's sockets; more travels as a sealed memfd.
pub const AGENT_MAX: usize = 256 * 1024;
/// The longest body on the executor's sockets.
pub const EXECUTOR_MAX: usize = 16 * 1024 * 1024;
/// The longest message on the executor's line to its spawner, and on a launcher's line; one
/// SEQPACKET message each, without a prefix.
pub const LINE_MAX: usize = 128 * 1024;
/// The longest `hello`.
pub const HELLO_MAX: usize = 4 * 1024;

/// A request or reply with the number that ties the two together. Numbers are the caller's; a
/// reply with call 0 answers nothing: it is a notice.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    pub call: u64,
    pub body: T,
}

/// What can go wrong with one frame.
#[derive(Debug)]
pub enum FrameError {
    /// The peer announced a body over the limit; nothing of it was read.
    TooLong {
        length: usize,
        limit: usize,
    },
    /// The stream ended inside a frame.
    Cut,
    /// The body is no message of the kind expected.
    Malformed(DecodeError),
    Io(io::Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, limit } => write!(f, "frame of {length} bytes is over the limit of {limit}"),
            Self::Cut => f.write_str("stream ended inside a frame"),
            Self::Malformed(_) => f.write_str("frame body"),
            Self::Io(_) => f.write_str("frame i/o"),
        }
    }
}

impl std::error::Error for FrameError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::TooLong { .. } | Self::Cut => None,
        }
    }
}

impl From<DecodeError> for FrameError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// A message as one frame, prefix included.
///
/// # Errors
/// `TooLong` when the body does not fit `limit`: the caller sends nothing then.
pub fn to_frame<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let body = codec::encode(message);
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= limit);
    let Some(length) = length else { return Err(FrameError::TooLong { length: body.len(), limit }) };
    let mut frame = Vec::with_capacity(PREFIX + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Writes one message as one frame, in one write.
///
/// # Errors
/// `TooLong` before anything is written, else `Io`.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T, limit: usize) -> Result<(), FrameError> {
    let frame = to_frame(message, limit)?;
    stream.write_all(&frame).map_err(FrameError::Io)
}

/// Reads one frame and decodes its body; `None` at an end of the stream between two frames.
///
/// # Errors
/// As `FrameError`; after any of them the stream must be closed, since its position is unknown.
pub fn read<T: DeserializeOwned, const LIMIT: usize>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; PREFIX];
    let mut got = 0;
    while got < PREFIX {
        match stream.read(&mut prefix[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Cut),
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
    let length = u32::from_le_bytes(prefix) as usize;
    if length > LIMIT {
        return Err(FrameError::TooLong { length, limit: LIMIT });
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Cut,
        _ => FrameError::Io(error),
    })?;
    Ok(Some(codec::decode::<T, LIMIT>(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_end_cleanly() {
        let mut bytes = Vec::new();
        let sent = Envelope { call: 7, body: "text".to_owned() };
        write(&mut bytes, &sent, AGENT_MAX).expect("fits");
        let mut stream = bytes.as_slice();
        assert_eq!(read::<Envelope<String>, AGENT_MAX>(&mut stream).expect("whole"), Some(sent));
        assert!(read::<Envelope<String>, AGENT_MAX>(&mut stream).expect("clean end").is_none());
    }

    #[test]
    fn bad_frames_are_told_apart() {
        let read_text = |bytes: &[u8]| read::<String, 16>(&mut &bytes[..]);
        assert!(matches!(read_text(&[17, 0, 0, 0]), Err(FrameError::TooLong { length: 17, limit: 16 })));
        assert!(matches!(read_text(&[1, 0]), Err(FrameError::Cut)));
        assert!(matches!(read_text(&[3, 0, 0, 0, 2, b'a']), Err(FrameError::Cut)));
        assert!(matches!(read_text(&[3, 0, 0, 0, 1, b'a', b'b']), Err(FrameError::Malformed(_))));
        assert!(matches!(read_text(&[2, 0, 0, 0, 200, 1]), Err(FrameError::Malformed(_))));
        assert!(matches!(read_text(&[2, 0, 0, 0, 1, 0xff]), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn an_oversized_message_writes_nothing() {
        let mut out = Vec::new();
        assert!(matches!(write(&mut out, &"a".repeat(17), 16), Err(FrameError::TooLong { .. })));
        assert!(out.is_empty());
    }
}
