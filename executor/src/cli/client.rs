//! The CLI's ends of `executor-admin.sock` and `vault-admin.sock`: finds the instance's socket,
//! exchanges hellos, asks one thing at a time, waits for each answer with a deadline.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interprocess::ConnectWaitMode;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, Stream, ToFsName, traits::Stream as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::secret::Secret;
use shared::wire::fds;
use shared::wire::frame::{self, Envelope, FrameError, HELLO_MAX};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::Refusal;

use super::listen::PATH_MAX;

/// Where operators ask the executor.
pub(super) const EXECUTOR_ADMIN: &str = "executor-admin.sock";
/// Where operators ask the vault agent.
pub(super) const VAULT_ADMIN: &str = "vault-admin.sock";

/// How long a peer may take for anything that does not say how long it takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why an answer did not come.
#[derive(Debug)]
pub(super) enum ClientError {
    /// Nobody answers at any of these.
    NotRunning {
        tried: Vec<PathBuf>,
    },
    PathTooLong {
        path: PathBuf,
    },
    Connect {
        path: PathBuf,
        error: io::Error,
    },
    Hello(Refusal),
    Refused(Refusal),
    Frame(FrameError),
    /// The peer closed, or answered something else.
    NoAnswer,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { tried } => {
                let tried: Vec<_> = tried.iter().map(|path| path.display().to_string()).collect();
                write!(f, "nobody answers on {}: is ductile running?", tried.join(", "))
            }
            Self::PathTooLong { path } => write!(
                f,
                "socket path {} has more than {PATH_MAX} bytes: configure a shorter state.path",
                path.display()
            ),
            Self::Connect { path, .. } => write!(f, "connect to {}", path.display()),
            Self::Hello(refusal) | Self::Refused(refusal) => refusal.fmt(f),
            Self::Frame(_) => f.write_str("exchange with the peer"),
            Self::NoAnswer => f.write_str("the peer closed the connection without an answer"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { error, .. } => Some(error),
            Self::Frame(error) => Some(error),
            Self::NotRunning { .. } | Self::PathTooLong { .. } | Self::Hello(_) | Self::Refused(_) | Self::NoAnswer => {
                None
            }
        }
    }
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// The places of a socket, the likeliest first (`spec/cli.md` 1.2).
pub(super) fn places(name: &str, state_dir: Option<&Path>, runtime_dir: Option<&Path>) -> Vec<PathBuf> {
    let runtime = runtime_dir.filter(|folder| folder.is_absolute()).map(|folder| folder.join("ductile"));
    let folders = state_dir.map(Path::to_owned).into_iter().chain(runtime).chain([PathBuf::from("/run/ductile")]);
    folders.map(|folder| folder.join(name)).collect()
}

/// One connection, after both hellos. `LIMIT` is that of the socket's frames.
#[derive(Debug)]
pub(super) struct Client<const LIMIT: usize> {
    stream: Stream,
    call: u64,
}

impl<const LIMIT: usize> Client<LIMIT> {
    /// Connects to the first of `places` that somebody answers on.
    ///
    /// # Errors
    /// `NotRunning` when there is none, a place over the length that a socket may have included
    /// only where nothing else answers.
    pub(super) fn connect(places: &[PathBuf], instance: Option<String>) -> Result<Self, ClientError> {
        let mut too_long = None;
        for path in places {
            if path.as_os_str().as_bytes().len() > PATH_MAX {
                too_long.get_or_insert(path);
                continue;
            }
            match open(path) {
                Ok(stream) => return Self::greet(stream, instance),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(ClientError::Connect { path: path.clone(), error }),
            }
        }
        Err(match too_long {
            Some(path) => ClientError::PathTooLong { path: path.clone() },
            None => ClientError::NotRunning { tried: places.to_vec() },
        })
    }

    fn greet(stream: Stream, instance: Option<String>) -> Result<Self, ClientError> {
        let timed = |error| ClientError::Frame(FrameError::Io(error));
        stream.set_recv_timeout(Some(PATIENCE)).map_err(timed)?;
        stream.set_send_timeout(Some(PATIENCE)).map_err(timed)?;
        let ours = Hello::ours(instance);
        frame::write(&mut &stream, &ours, HELLO_MAX)?;
        match frame::read::<HelloReply, HELLO_MAX>(&mut &stream)? {
            Some(HelloReply::Welcome(theirs)) => ours.check(&theirs).map_err(ClientError::Hello)?,
            Some(HelloReply::Refused(refusal)) => return Err(ClientError::Hello(refusal)),
            None => return Err(ClientError::NoAnswer),
        }
        Ok(Self { stream, call: 0 })
    }

    /// Asks one thing; the answer may take `wait` and the usual patience.
    ///
    /// # Errors
    /// As `ClientError`; the connection is of no more use then.
    pub(super) fn ask<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        request: Q,
        descriptors: &[BorrowedFd<'_>],
        wait: Duration,
    ) -> Result<A, ClientError> {
        self.call += 1;
        let timed = |error| ClientError::Frame(FrameError::Io(error));
        self.stream.set_recv_timeout(Some(PATIENCE.saturating_add(wait))).map_err(timed)?;
        // Wiped, since a request can hold the admin token or a value.
        let bytes = Secret::new(frame::to_frame(&Envelope { call: self.call, body: request }, LIMIT)?);
        let Stream::UdSocket(socket) = &self.stream;
        fds::send_all(socket.inner().as_fd(), bytes.expose(), descriptors).map_err(timed)?;
        loop {
            match frame::read::<Envelope<A>, LIMIT>(&mut &self.stream)? {
                Some(reply) if reply.call == self.call => return Ok(reply.body),
                Some(notice) if notice.call == 0 => {}
                Some(_) | None => return Err(ClientError::NoAnswer),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Stream> {
    let name = path.to_fs_name::<GenericFilePath>()?;
    ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Timeout(PATIENCE)).connect_sync()
}

/// Nothing there, or a socket left behind.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::cli::scratch::Scratch;

    type Text = Client<1024>;

    /// Answers one connection on a fresh socket, and asks it.
    fn against(name: &str, serve: impl FnOnce(UnixStream) + Send) -> Result<String, ClientError> {
        let scratch = Scratch::new(name);
        let path = scratch.join("s.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        std::thread::scope(|scope| {
            scope.spawn(|| serve(listener.accept().expect("connected").0));
            Text::connect(&[PathBuf::from("/nonexistent/s.sock"), path.clone()], Some("/state".to_owned()))?.ask(
                "question",
                &[],
                Duration::ZERO,
            )
        })
    }

    fn welcome(stream: &mut UnixStream) {
        let theirs = frame::read::<Hello, HELLO_MAX>(stream).expect("hello").expect("sent");
        assert_eq!(theirs, Hello::ours(Some("/state".to_owned())));
        frame::write(stream, &HelloReply::Welcome(Hello::ours(None)), HELLO_MAX).expect("written");
    }

    #[test]
    fn asks_where_somebody_answers_and_skips_notices() {
        let answer = against("client-answers", |mut stream| {
            welcome(&mut stream);
            let asked = frame::read::<Envelope<String>, 1024>(&mut stream).expect("frame").expect("sent");
            frame::write(&mut stream, &Envelope { call: 0, body: "notice" }, 1024).expect("written");
            frame::write(&mut stream, &Envelope { call: asked.call, body: asked.body + "!" }, 1024).expect("written");
        });
        assert_eq!(answer.expect("answered"), "question!");
    }

    #[test]
    fn hostile_answers_are_errors() {
        let reply = |bytes: &'static [u8]| {
            against("client-hostile", move |mut stream| {
                welcome(&mut stream);
                let _ = frame::read::<Envelope<String>, 1024>(&mut stream);
                let _ = io::Write::write_all(&mut stream, bytes);
            })
        };
        assert!(matches!(reply(b""), Err(ClientError::NoAnswer)));
        assert!(matches!(reply(b"\x01\x00"), Err(ClientError::Frame(FrameError::Cut))));
        assert!(matches!(reply(b"\xff\xff\xff\xff"), Err(ClientError::Frame(FrameError::TooLong { .. }))));
        assert!(matches!(reply(b"\x02\x00\x00\x00\x01\x05"), Err(ClientError::Frame(FrameError::Malformed(_)))));
        assert!(matches!(reply(b"\x03\x00\x00\x00\x09\x01a"), Err(ClientError::NoAnswer)), "another call's answer");
    }

    #[test]
    fn a_refused_hello_is_told_with_both_sides() {
        let answer = against("client-refused", |mut stream| {
            let _ = frame::read::<Hello, HELLO_MAX>(&mut stream);
            let refusal = Hello::ours(Some("/b".into())).check(&Hello::ours(Some("/a".into()))).expect_err("differ");
            frame::write(&mut stream, &HelloReply::Refused(refusal), HELLO_MAX).expect("written");
        });
        let text = answer.expect_err("refused").to_string();
        assert!(text.contains("/a") && text.contains("/b"), "{text}");
    }

    #[test]
    fn where_nobody_answers_every_place_is_named() {
        let scratch = Scratch::new("client-stale");
        let stale = scratch.join("s.sock");
        drop(UnixListener::bind(&stale).expect("bound"));
        let error = Text::connect(&[stale.clone(), PathBuf::from("/nonexistent/s.sock")], None).expect_err("nobody");
        assert_eq!(
            error.to_string(),
            format!("nobody answers on {}, /nonexistent/s.sock: is ductile running?", stale.display())
        );
        let long = PathBuf::from("/tmp").join("x".repeat(PATH_MAX));
        assert!(matches!(Text::connect(&[stale, long], None), Err(ClientError::PathTooLong { .. })));
    }

    #[test]
    fn places_stand_in_the_order_of_the_chapter() {
        let check = |state: Option<&str>, runtime: Option<&str>, expected: &[&str]| {
            let found = places("s", state.map(Path::new), runtime.map(Path::new));
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
        };
        check(Some("/d"), Some("/r"), &["/d/s", "/r/ductile/s", "/run/ductile/s"]);
        check(None, Some("relative"), &["/run/ductile/s"]);
    }
}
