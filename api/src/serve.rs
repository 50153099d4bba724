//! Connections: accepted up to a limit, each with limits of time, and ended in good order.
//!
//! Limits (`spec/api.md` 1): a request arrives whole within 10 s, an idle connection is closed
//! after 60 s, an answer that is not taken within 10 min is given up. An answer without an end has no
//! limit of time: it ends with its reader, or when its own code says so.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, getrlimit};
use shared::log::{Level, chain};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::front::Door;
use crate::http::events::Endless;

const READ: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
const WRITE: Duration = Duration::from_secs(600);
/// As far away as a timer can be told.
const NEVER: Duration = Duration::from_secs(86_400 * 365 * 30);
/// How long a caller that is still sending may go on, so that it reads the answer before a reset.
const LINGER: Duration = Duration::from_secs(1);
/// The longest head of a request.
const HEAD: usize = 64 * 1024;
const CONNECTIONS: usize = 1024;
/// Descriptors that the front needs besides.
const SPARE: u64 = 64;
/// How long a failing `accept` is left alone.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `stop` says so and every request that had begun is answered; dropping the future
/// drops those.
pub(crate) async fn serve(listener: TcpListener, door: Door, stop: watch::Receiver<bool>) {
    let door = Arc::new(door);
    let most = connections();
    let mut connections = JoinSet::new();
    let mut stopped = pin!(told_to_stop(stop.clone()));
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&door), stop.clone()));
                }
                Err(error) => {
                    door.log().write(Level::Warn, "accept failed", &[("error", (&chain(&error)).into())]);
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn told_to_stop(mut stop: watch::Receiver<bool>) {
    // A sender that is gone has nothing more to serve for.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors.saturating_sub(SPARE)).unwrap_or(CONNECTIONS).clamp(1, CONNECTIONS)
}

async fn connection(stream: TcpStream, door: Arc<Door>, stop: watch::Receiver<bool>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let clock = Arc::new(Clock::new());
    let io = TokioIo::new(Timed { stream, clock: Arc::clone(&clock) });
    let service = service_fn(|request| {
        let (door, clock) = (Arc::clone(&door), Arc::clone(&clock));
        async move {
            let deadline = clock.begin();
            let answer = door.answer(request, deadline).await?;
            let endless = answer.extensions().get::<Endless>().is_some();
            clock.set(if endless { Phase::Streaming } else { Phase::Idle });
            Ok::<Response, Infallible>(if endless { answer.map(|body| watched(body, clock)) } else { answer })
        }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(HEAD);
    let mut http = pin!(builder.serve_connection(io, service));
    let mut stopped = pin!(told_to_stop(stop));
    let mut alarm = pin!(sleep_until(clock.deadline()));
    let mut stopping = false;
    poll_fn(|cx| {
        // Whatever ended it, the caller is gone or has been told.
        if http.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            http.as_mut().graceful_shutdown();
            if http.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        if stopping && clock.owes_nothing() {
            return Poll::Ready(());
        }
        loop {
            let deadline = clock.deadline();
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            ready!(alarm.as_mut().poll(cx));
            if clock.deadline() <= Instant::now() {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(clock.deadline());
        }
    })
    .await;
}

/// What a connection is doing, for its limits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of a request has come.
    Idle,
    /// A request is arriving.
    Reading,
    /// The front owes an answer; its own deadlines hold.
    Answering,
    /// The answer goes on for as long as both sides want it to.
    Streaming,
    /// The caller does not take the answer.
    Writing,
    /// Closed by us; what still comes is thrown away.
    Lingering,
}

/// The phase, and when it began.
struct Clock(Mutex<(Phase, Instant)>);

impl Clock {
    fn new() -> Self {
        Self(Mutex::new((Phase::Idle, Instant::now())))
    }

    fn get(&self) -> (Phase, Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    fn owes_nothing(&self) -> bool {
        matches!(self.get().0, Phase::Idle | Phase::Lingering)
    }

    fn deadline(&self) -> Instant {
        let (phase, since) = self.get();
        since
            + match phase {
                Phase::Idle => IDLE,
                Phase::Reading => READ,
                Phase::Answering | Phase::Writing => WRITE,
                Phase::Streaming => NEVER,
                Phase::Lingering => LINGER,
            }
    }

    /// A request's head is here; when its body must be.
    fn begin(&self) -> Instant {
        let (phase, since) = self.get();
        let begun = if phase == Phase::Reading { since } else { Instant::now() };
        self.set(Phase::Answering);
        begun + READ
    }

    /// Moves on when the phase is `from`.
    fn step(&self, from: Phase, to: Phase) {
        if self.get().0 == from {
            self.set(to);
        }
    }
}

/// An endless body whose end, however it comes, leaves the connection idle.
fn watched(body: Body, clock: Arc<Clock>) -> Body {
    Body::new(Watched { body, clock })
}

struct Watched {
    body: Body,
    clock: Arc<Clock>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.clock.step(Phase::Streaming, Phase::Idle);
    }
}

/// A stream that tells its clock what it does.
struct Timed {
    stream: TcpStream,
    clock: Arc<Clock>,
}

impl Timed {
    fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if outcome.is_pending() {
            self.clock.step(Phase::Idle, Phase::Writing);
        }
        outcome
    }
}

impl AsyncRead for Timed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.clock.step(Phase::Idle, Phase::Reading);
        }
        outcome
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when all that there was to write has been written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.clock.step(Phase::Writing, Phase::Idle);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closing a socket with unread bytes resets it, and the caller may lose the answer (a 413, say)
    /// that it was about to read. So the writing side is closed, and the rest thrown away.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.clock.get().0 != Phase::Lingering {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.clock.set(Phase::Lingering);
        }
        loop {
            let mut waste = [0; 4096];
            let mut buffer = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_answer_has_no_limit_until_it_ends() {
        let clock = Arc::new(Clock::new());
        let left = || clock.deadline() - Instant::now();
        clock.begin();
        assert!(left() <= WRITE);
        clock.set(Phase::Streaming);
        let body = watched(Body::empty(), Arc::clone(&clock));
        // What the connection does meanwhile changes nothing.
        clock.step(Phase::Idle, Phase::Writing);
        clock.step(Phase::Idle, Phase::Reading);
        clock.step(Phase::Writing, Phase::Idle);
        assert!(left() > WRITE * 1000 && !clock.owes_nothing());
        drop(body);
        assert!(left() <= IDLE && clock.owes_nothing());
    }
}
