//! Accepts connections, greets and checks their peers, cuts their frames, and writes answers: one
//! reader and one writer for a connection, one write for a batch of answers.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::log::Level;
use shared::wire::codec;
use shared::wire::frame::{self, EXECUTOR_MAX, Envelope, HELLO_MAX, PREFIX};
use shared::wire::gateway::Request;
use shared::wire::hello::{Hello, HelloReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::{Answer, Role, permit};
use crate::dispatch::Event;
use crate::logging::log;

/// How long a peer has for its `hello`.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Requests of one connection that wait for their answer; more are read when some are answered.
const OPEN_CALLS: usize = 4096;
/// What is read at once, if it is there.
const READ: usize = 16 * 1024;
/// Connections of operators at one time.
const ADMIN_CONNECTIONS: usize = 32;

/// What a socket is for, and which instance it belongs to (the state path).
#[derive(Clone)]
pub struct Service {
    pub role: Role,
    pub instance: String,
    pub events: mpsc::UnboundedSender<Event>,
    /// Cancelled when nothing more is asked or accepted; what was answered is still sent.
    pub closing: CancellationToken,
}

/// Serves a line that was handed over: the descriptor is the role.
pub async fn serve_line(service: Service, line: UnixStream) {
    connection(service, line).await;
}

/// Accepts for as long as the executor lives. The front has one connection at a time: a new one of
/// the right user replaces the old.
pub async fn serve_listener(service: Service, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = service.closing.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                log(Level::Error, "accept failed", &[("error", (&error.to_string()).into())]);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let path = listener.local_addr().ok().and_then(|a| a.as_pathname().map(PathBuf::from));
        if let Err(why) = check_peer(service.role, &stream, path.as_deref()) {
            log(
                Level::Warn,
                "peer turned away",
                &[("socket", (&service.role.to_string()).into()), ("reason", (&why).into())],
            );
            continue;
        }
        while connections.try_join_next().is_some() {}
        match service.role {
            Role::Front if !connections.is_empty() => {
                log(Level::Warn, "connection replaced by a new one of the same user", &[("socket", "front".into())]);
                connections.abort_all();
            }
            Role::Admin if connections.len() >= ADMIN_CONNECTIONS => {
                log(
                    Level::Warn,
                    "peer turned away",
                    &[("socket", "admin".into()), ("reason", "too many connections".into())],
                );
                continue;
            }
            Role::Front | Role::Admin => {}
        }
        connections.spawn(connection(service.clone(), stream));
    }
    while connections.join_next().await.is_some() {}
}

/// `spec/operations.md` 16.3, last paragraph: on the inner socket the owner of the listener's path;
/// on the admin socket root and the own uid, and anybody where the path's mode lets a group write,
/// since there the mode is the check.
fn check_peer(role: Role, stream: &UnixStream, path: Option<&std::path::Path>) -> Result<(), String> {
    let peer = stream.peer_cred().map_err(|error| format!("no credentials: {error}"))?;
    let path = path.ok_or_else(|| "the listener has no path".to_owned())?;
    let file = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let allowed = match role {
        Role::Front => peer.uid() == file.uid(),
        Role::Admin => peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() || file.mode() & 0o020 != 0,
    };
    if allowed { Ok(()) } else { Err(format!("uid {} pid {}", peer.uid(), peer.pid().unwrap_or(0))) }
}

async fn connection(service: Service, stream: UnixStream) {
    let peer = stream
        .peer_cred()
        .map_or_else(|_| "unknown".to_owned(), |peer| format!("uid {} pid {}", peer.uid(), peer.pid().unwrap_or(0)));
    let (mut reader, mut writer) = stream.into_split();
    if let Err(why) = greet(&service, &mut reader, &mut writer).await {
        closed(&service, &peer, &why);
        return;
    }
    let (frames, waiting) = mpsc::unbounded_channel();
    let open = Arc::new(Semaphore::new(OPEN_CALLS));
    let mut writing = std::pin::pin!(write(writer, waiting, &open));
    tokio::select! {
        ended = read(&service, reader, &frames, &open) => {
            if let Err(why) = ended {
                closed(&service, &peer, &why);
            }
            return;
        }
        () = &mut writing => return,
        () = service.closing.cancelled() => {}
    }
    drop(frames);
    writing.await;
}

fn closed(service: &Service, peer: &str, why: &str) {
    let socket = service.role.to_string();
    log(
        Level::Warn,
        "connection closed",
        &[("socket", (&socket).into()), ("peer", peer.into()), ("reason", why.into())],
    );
}

/// `hello` from the peer, then ours or a refusal.
async fn greet(service: &Service, reader: &mut OwnedReadHalf, writer: &mut OwnedWriteHalf) -> Result<(), String> {
    let ours = Hello::ours(Some(service.instance.clone()));
    let theirs = timeout(HELLO_DEADLINE, read_hello(reader)).await.map_err(|_| "no hello in time".to_owned())??;
    let (reply, outcome) = match ours.check(&theirs) {
        Ok(()) => (HelloReply::Welcome(ours), Ok(())),
        Err(refusal) => (HelloReply::Refused(refusal.clone()), Err(refusal.message)),
    };
    let frame = frame::to_frame(&reply, HELLO_MAX).map_err(|error| error.to_string())?;
    writer.write_all(&frame).await.map_err(|error| error.to_string())?;
    outcome
}

async fn read_hello(reader: &mut OwnedReadHalf) -> Result<Hello, String> {
    let length = reader.read_u32_le().await.map_err(|error| format!("hello: {error}"))? as usize;
    if length > HELLO_MAX {
        return Err(format!("hello of {length} bytes is over the limit of {HELLO_MAX}"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.map_err(|error| format!("hello: {error}"))?;
    codec::decode::<Hello, HELLO_MAX>(&body).map_err(|error| format!("hello: {error}"))
}

/// The codec of tokio-util, set from the constants of `wire/frame.rs`.
fn framing() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .little_endian()
        .length_field_length(PREFIX)
        .max_frame_length(EXECUTOR_MAX)
        .new_codec()
}

async fn read(
    service: &Service,
    mut reader: OwnedReadHalf,
    frames: &mpsc::UnboundedSender<Vec<u8>>,
    open: &Arc<Semaphore>,
) -> Result<(), String> {
    let mut framing = framing();
    let mut buffer = BytesMut::new();
    loop {
        while let Some(body) = framing.decode(&mut buffer).map_err(|error: io::Error| error.to_string())? {
            let Envelope { call, body: request } =
                codec::decode::<Envelope<Request>, EXECUTOR_MAX>(&body).map_err(|error| error.to_string())?;
            if !permit::permitted(service.role, &request) {
                return Err(format!("request {} is not permitted", permit::name(&request)));
            }
            open.acquire().await.map_err(|_| "closing".to_owned())?.forget();
            let answer = Answer { call, frames: frames.clone() };
            if service.events.send(Event::Request { role: service.role, request, answer }).is_err() {
                return Ok(());
            }
        }
        // What is left of the buffer may be a few bytes, and would be all that is read.
        buffer.reserve(READ);
        match reader.read_buf(&mut buffer).await {
            Ok(0) if buffer.is_empty() => return Ok(()),
            Ok(0) => return Err("stream ended inside a frame".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut waiting: mpsc::UnboundedReceiver<Vec<u8>>, open: &Semaphore) {
    let mut batch = Vec::new();
    let mut frames = Vec::new();
    while waiting.recv_many(&mut frames, 256).await > 0 {
        open.add_permits(frames.len());
        let whole = match frames.as_slice() {
            [one] => one.as_slice(),
            many => {
                batch.clear();
                many.iter().for_each(|frame| batch.extend_from_slice(frame));
                batch.as_slice()
            }
        };
        if writer.write_all(whole).await.is_err() {
            return;
        }
        frames.clear();
    }
}
