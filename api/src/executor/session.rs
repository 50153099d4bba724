//! One connection to the executor, from `hello` to its end.

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;

use shared::wire::codec;
use shared::wire::frame::{self, EXECUTOR_MAX, Envelope, FrameError, HELLO_MAX, PREFIX};
use shared::wire::gateway::{FrontConfig, Reply, Request};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::Refusal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use super::{DEADLINE, Executor};

/// A buffer that grew beyond this is given back when it is empty.
const KEEP: usize = 64 * 1024;
/// What is read at once, if it is there.
const READ: usize = 16 * 1024;
/// The front's first call on every connection.
const FIRST_CALL: u64 = 1;

/// Why a connection to the executor ended, or never began.
#[derive(Debug)]
pub(crate) enum LineError {
    /// The executor closed it.
    Closed,
    Deadline,
    Io(io::Error),
    Frame(FrameError),
    /// The executor refuses this front.
    Refused(Refusal),
    /// A message that can not come here; the text says which.
    OutOfPlace(&'static str),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("executor closed the line"),
            Self::Deadline => f.write_str("executor did not answer in time"),
            Self::Io(_) => f.write_str("line to the executor"),
            Self::Frame(_) => f.write_str("message of the executor"),
            Self::Refused(_) => f.write_str("refused by the executor"),
            Self::OutOfPlace(what) => write!(f, "executor sent {what}"),
        }
    }
}

impl std::error::Error for LineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Frame(error) => Some(error),
            Self::Refused(refusal) => Some(refusal),
            Self::Closed | Self::Deadline | Self::OutOfPlace(_) => None,
        }
    }
}

impl From<FrameError> for LineError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// A connection on which `hello` was exchanged and the configuration was told.
pub(crate) struct Session {
    stream: UnixStream,
    inbox: Inbox,
}

impl Session {
    /// Says hello and asks for the configuration.
    ///
    /// # Errors
    /// As `LineError`; each answer has the deadline of every call.
    pub(crate) async fn open(mut stream: UnixStream) -> Result<(Self, FrontConfig), LineError> {
        let mut inbox = Inbox::new(HELLO_MAX);
        let ours = Hello::ours(None);
        send(&mut stream, &frame::to_frame(&ours, HELLO_MAX)?).await?;
        let answer = timeout(DEADLINE, inbox.next(&mut stream)).await.map_err(|_| LineError::Deadline)??;
        match decode::<HelloReply, HELLO_MAX>(&answer)? {
            HelloReply::Welcome(theirs) => ours.check(&theirs).map_err(LineError::Refused)?,
            HelloReply::Refused(refusal) => return Err(LineError::Refused(refusal)),
        }
        inbox.set_limit(EXECUTOR_MAX);
        let ask = Envelope { call: FIRST_CALL, body: Request::FrontConfig };
        send(&mut stream, &frame::to_frame(&ask, EXECUTOR_MAX)?).await?;
        let answer = timeout(DEADLINE, inbox.next(&mut stream)).await.map_err(|_| LineError::Deadline)??;
        match decode::<Envelope<Reply>, EXECUTOR_MAX>(&answer)? {
            Envelope { call: FIRST_CALL, body: Reply::FrontConfig(config) } => Ok((Self { stream, inbox }, config)),
            Envelope { call: FIRST_CALL, body: Reply::Refused(refusal) } => Err(LineError::Refused(refusal)),
            _ => Err(LineError::OutOfPlace("something else than the configuration")),
        }
    }
}

impl Executor {
    /// Carries calls over this connection until it ends, and says why it did. A configuration that
    /// comes as a notice is given to `reloaded`.
    pub(crate) async fn drive(&self, session: Session, reloaded: impl Fn(FrontConfig)) -> LineError {
        let Session { stream, inbox } = session;
        let (reader, writer) = stream.into_split();
        self.next.fetch_max(FIRST_CALL + 1, Ordering::Relaxed);
        self.line().up = true;
        self.risen.notify_one();
        let end = tokio::select! {
            end = self.hand_out(reader, inbox, reloaded) => end,
            end = self.write_out(writer) => end,
            () = self.distrusted.notified() => LineError::OutOfPlace("an answer to another request"),
        };
        *self.line() = super::Line::default();
        end
    }

    async fn hand_out(&self, mut reader: OwnedReadHalf, mut inbox: Inbox, reloaded: impl Fn(FrontConfig)) -> LineError {
        loop {
            let answer = match inbox.next(&mut reader).await {
                Ok(answer) => answer,
                Err(error) => return error,
            };
            let Envelope { call, body } = match decode::<Envelope<Reply>, EXECUTOR_MAX>(&answer) {
                Ok(envelope) => envelope,
                Err(error) => return error,
            };
            match (call, body) {
                (0, Reply::FrontConfig(config)) => reloaded(config),
                (0, _) => return LineError::OutOfPlace("a notice that is not for the front"),
                (call, _) if call >= self.next.load(Ordering::Relaxed) => {
                    return LineError::OutOfPlace("an answer to no request");
                }
                (call, reply) => {
                    // Whoever asked may have given up.
                    if let Some(caller) = self.line().calls.remove(&call) {
                        let _ = caller.send(reply);
                    }
                }
            }
        }
    }

    async fn write_out(&self, mut writer: OwnedWriteHalf) -> LineError {
        let mut batch = Vec::new();
        loop {
            std::mem::swap(&mut batch, &mut self.line().outgoing);
            if batch.is_empty() {
                self.outgoing.notified().await;
                continue;
            }
            match timeout(DEADLINE, writer.write_all(&batch)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return LineError::Io(error),
                Err(_elapsed) => return LineError::Deadline,
            }
            batch.clear();
            if batch.capacity() > KEEP {
                batch = Vec::new();
            }
        }
    }
}

async fn send(stream: &mut UnixStream, bytes: &[u8]) -> Result<(), LineError> {
    timeout(DEADLINE, stream.write_all(bytes)).await.map_err(|_| LineError::Deadline)?.map_err(LineError::Io)
}

fn decode<T: serde::de::DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, LineError> {
    codec::decode::<T, LIMIT>(bytes).map_err(|error| LineError::Frame(error.into()))
}

/// What has arrived and is not a whole frame yet.
struct Inbox {
    codec: LengthDelimitedCodec,
    bytes: BytesMut,
    limit: usize,
}

impl Inbox {
    fn new(limit: usize) -> Self {
        let codec = LengthDelimitedCodec::builder()
            .little_endian()
            .length_field_length(PREFIX)
            .max_frame_length(limit)
            .new_codec();
        Self { codec, bytes: BytesMut::new(), limit }
    }

    fn set_limit(&mut self, limit: usize) {
        self.codec.set_max_frame_length(limit);
        self.limit = limit;
    }

    /// The next frame's body. Nothing is lost when the future is dropped.
    async fn next(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> Result<BytesMut, LineError> {
        loop {
            let announced = self.bytes.first_chunk::<PREFIX>().map(|prefix| u32::from_le_bytes(*prefix) as usize);
            match self.codec.decode(&mut self.bytes) {
                Ok(Some(body)) => return Ok(body),
                Ok(None) => {}
                // The codec refuses nothing else.
                Err(_) => {
                    let length = announced.unwrap_or(usize::MAX);
                    return Err(FrameError::TooLong { length, limit: self.limit }.into());
                }
            }
            if self.bytes.is_empty() && self.bytes.capacity() > KEEP {
                self.bytes = BytesMut::new();
            }
            // What is left of the buffer may be a few bytes, and would be all that is read.
            self.bytes.reserve(READ);
            if reader.read_buf(&mut self.bytes).await.map_err(LineError::Io)? == 0 {
                let whole = self.bytes.is_empty() && announced.is_none();
                return Err(if whole { LineError::Closed } else { FrameError::Cut.into() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    fn read_all(mut bytes: &[u8], limit: usize) -> (Vec<String>, LineError) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let mut inbox = Inbox::new(limit);
            let mut texts = Vec::new();
            loop {
                match inbox.next(&mut bytes).await.and_then(|body| decode::<String, 64>(&body)) {
                    Ok(text) => texts.push(text),
                    Err(error) => return (texts, error),
                }
            }
        })
    }

    #[test]
    fn both_framings_agree() {
        let mut bytes = Vec::new();
        for text in ["one", "", "three"] {
            frame::write(&mut bytes, &text, 64).expect("fits");
        }
        let (texts, end) = read_all(&bytes, 64);
        assert_eq!(texts, ["one", "", "three"]);
        assert!(matches!(end, LineError::Closed), "{end:?}");
    }

    #[test]
    fn hostile_bytes_end_the_line_and_name_what_was_wrong() {
        let check = |bytes: &[u8], expected: fn(&LineError) -> bool| {
            let (texts, end) = read_all(bytes, 16);
            assert!(texts.is_empty() && expected(&end), "{bytes:?} gave {texts:?}, {end:?}");
        };
        check(&[], |end| matches!(end, LineError::Closed));
        check(&[1], |end| matches!(end, LineError::Frame(FrameError::Cut)));
        check(&[3, 0, 0, 0], |end| matches!(end, LineError::Frame(FrameError::Cut)));
        check(&[3, 0, 0, 0, 2], |end| matches!(end, LineError::Frame(FrameError::Cut)));
        check(&[17, 0, 0, 0], |end| matches!(end, LineError::Frame(FrameError::TooLong { length: 17, limit: 16 })));
        check(b"HTTP/1.1 400\r\n", |end| matches!(end, LineError::Frame(FrameError::TooLong { .. })));
        check(&[0, 0, 0, 0], |end| matches!(end, LineError::Frame(FrameError::Malformed(_))));
        check(&[2, 0, 0, 0, 1, 0xff], |end| matches!(end, LineError::Frame(FrameError::Malformed(_))));
        check(&[3, 0, 0, 0, 1, b'a', b'b'], |end| matches!(end, LineError::Frame(FrameError::Malformed(_))));
    }

    /// Counts how often it is asked.
    struct Counted<'a> {
        bytes: &'a [u8],
        reads: usize,
    }

    impl AsyncRead for Counted<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            self.reads += 1;
            Pin::new(&mut self.bytes).poll_read(context, buffer)
        }
    }

    #[test]
    fn what_is_there_is_read_at_once() {
        let mut bytes = Vec::new();
        for _ in 0..50 {
            frame::write(&mut bytes, &"a".repeat(1000), EXECUTOR_MAX).expect("fits");
        }
        let mut reader = Counted { bytes: &bytes, reads: 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let mut inbox = Inbox::new(EXECUTOR_MAX);
            for _ in 0..50 {
                inbox.next(&mut reader).await.expect("a frame");
            }
        });
        assert!(reader.reads <= bytes.len() / READ + 1, "{} reads of {} bytes", reader.reads, bytes.len());
    }
}
