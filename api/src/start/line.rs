//! The launcher form: stdin is the parent's line, and over it comes the line to the executor. No
//! path is opened; when either line closes the front stops.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketType;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use shared::exit;
use shared::log::{Level, chain};
use shared::wire::codec;
use shared::wire::fds;
use shared::wire::frame::LINE_MAX;
use shared::wire::gateway::Posture;
use shared::wire::launch::{Start, Started};
use tokio::io::AsyncReadExt;

use super::{Stop, code, fail, runtime, serve_until_stopped};
use crate::executor::{Config, LineError, Session};
use crate::front::{Door, Front};
use crate::{listen, routes};

/// How long the parent may take to say what this child is.
const START: Duration = Duration::from_secs(10);

pub(super) fn run() -> ExitCode {
    let (line, executor) = match take() {
        Ok(taken) => taken,
        Err(text) => return fail(exit::FAILURE, &format!("ductile-api: --line: {text}\n")),
    };
    match runtime() {
        Ok(runtime) => runtime.block_on(live(line, executor)),
        Err(error) => failed(&line, &format!("runtime: {error}")),
    }
}

/// Takes `Start` from stdin.
fn take() -> Result<(OwnedFd, UnixStream), String> {
    let line = io::stdin().as_fd().try_clone_to_owned().map_err(|error| format!("stdin: {error}"))?;
    if socket_type(&line) != Ok(SocketType::SEQPACKET) {
        return Err("stdin is no line of a launcher".to_owned());
    }
    set_socket_timeout(&line, Timeout::Recv, Some(START)).map_err(|error| format!("stdin: {error}"))?;
    let mut packet = vec![0; LINE_MAX];
    let mut descriptors = Vec::new();
    let length =
        fds::receive(line.as_fd(), &mut packet, &mut descriptors).map_err(|error| format!("read start: {error}"))?;
    let start = codec::decode::<Start, LINE_MAX>(&packet[..length]).map_err(|error| chain(&error))?;
    match (start, descriptors.pop()) {
        (Start::Front { .. }, Some(executor))
            if descriptors.is_empty() && socket_type(&executor) == Ok(SocketType::STREAM) =>
        {
            Ok((line, executor.into()))
        }
        (Start::Front { .. }, _) => Err("start without exactly one line to the executor".to_owned()),
        _ => Err("start of another program".to_owned()),
    }
}

/// Tells the parent why there is no front.
fn failed(line: &OwnedFd, text: &str) -> ExitCode {
    let _ = tell(line, &Started::Failed { text: text.to_owned() });
    fail(exit::FAILURE, &format!("ductile-api: {text}\n"))
}

fn tell(line: &OwnedFd, started: &Started) -> io::Result<usize> {
    fds::send(line.as_fd(), &codec::encode(started), &[])
}

async fn live(line: OwnedFd, executor: UnixStream) -> ExitCode {
    let front = Arc::new(Front::new());
    let (session, doors) = match begin(&front, executor).await {
        Ok(begun) => begun,
        Err(text) => return failed(&line, &text),
    };
    if let Err(error) = tell(&line, &Started::Ready) {
        return failed(&line, &format!("tell the parent: {error}"));
    }
    let driven = Arc::clone(&front);
    let driver = async move {
        let reloading = Arc::clone(&driven);
        let end = driven.executor.drive(session, move |told| reloading.install(Config::new(told))).await;
        Stop::Failed(format!("executor gone: {}", chain(&end)))
    };
    let stop = serve_until_stopped(Arc::clone(&front), doors, driver, parent_gone(line)).await;
    front.log.flush();
    code(stop.code())
}

/// Hello, configuration, and the listener that it asks for.
async fn begin(
    front: &Arc<Front>,
    executor: UnixStream,
) -> Result<(Session, Vec<(tokio::net::TcpListener, Door)>), String> {
    let stream = executor
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixStream::from_std(executor))
        .map_err(|error| chain(&LineError::Io(error)))?;
    let (session, told) = Session::open(stream).await.map_err(|error| chain(&error))?;
    let config = Config::new(told);
    let mut doors = Vec::new();
    // Only the gateway posture has a TCP listener of its own.
    if let (Posture::Gateway, Some(address)) = (config.posture, config.address()) {
        let listener = listen::bind(address).await.map_err(|error| chain(&error))?;
        if let Ok(bound) = listener.local_addr() {
            front.log.write(Level::Info, "api listening", &[("address", (&bound.to_string()).into())]);
        }
        doors.push((listener, Door::new(Arc::clone(front), routes::api(Arc::clone(front)))));
    }
    front.install(config);
    Ok((session, doors))
}

/// The parent says nothing after `Start`; its end of the line closing is its end.
async fn parent_gone(line: OwnedFd) -> Stop {
    // Readiness and read are the same for a line of packets as for a stream.
    let line = UnixStream::from(line);
    let watched = line.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(line));
    let Ok(mut line) = watched else { return Stop::Asked("the line of the launcher can not be watched") };
    match line.read(&mut [0]).await {
        Ok(0) | Err(_) => Stop::Asked("launcher gone"),
        Ok(_) => Stop::Asked("launcher sent something else than its end"),
    }
}
