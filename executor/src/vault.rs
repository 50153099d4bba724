//! Client of the vault agent. Asks late and keeps nothing: of the vault it knows which principals
//! are registered, and digests of API tokens. No value ever comes this way.

use std::fmt;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use shared::wire::fds::{self, Inbox};
use shared::wire::frame::{self, AGENT_MAX, Envelope, FrameError, HELLO_MAX};
use shared::wire::hello::{Hello, HelloReply};
use shared::wire::refusal::Refusal;
use shared::wire::vault::{INLINE_MAX, PreparedPlugin, Reply, Request, Status, TokenDigest};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// How long any answer of the agent may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
const RECONNECT_FIRST: Duration = Duration::from_millis(5);
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// Where the agent is.
pub enum Address {
    /// The launcher's socket pair; when it closes there is no other.
    Line(std::os::unix::net::UnixStream),
    Path(PathBuf),
}

/// What the configuration in force needs of the agent; asked anew after each reconnect.
#[derive(Clone)]
pub struct Needs {
    pub token_refs: Vec<String>,
    pub plugins: Vec<PreparedPlugin>,
}

/// The agent's answers to `Status` and `Prepare`, committed.
#[derive(Debug, Clone)]
pub struct Introduction {
    pub status: Status,
    pub principals: Vec<String>,
    pub token_key: [u8; 32],
    pub tokens: Vec<TokenDigest>,
    pub admin_token: Option<[u8; 32]>,
}

/// Why the agent could not be asked.
#[derive(Debug)]
pub enum VaultError {
    Connect(io::Error),
    Frame(FrameError),
    Closed,
    TimedOut,
    Refused(Refusal),
    Unexpected,
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("connect to the vault agent"),
            Self::Frame(_) => f.write_str("line to the vault agent"),
            Self::Closed => f.write_str("the vault agent closed the line"),
            Self::TimedOut => f.write_str("the vault agent did not answer in time"),
            Self::Refused(refusal) => write!(f, "the vault agent refused: {refusal}"),
            Self::Unexpected => f.write_str("the vault agent answered something else"),
        }
    }
}

impl std::error::Error for VaultError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Frame(error) => Some(error),
            Self::Closed | Self::TimedOut | Self::Refused(_) | Self::Unexpected => None,
        }
    }
}

/// What the dispatcher sends; `call` comes back with the reply and is never 0.
pub struct Call {
    pub call: u64,
    pub request: Request,
    pub fds: Vec<OwnedFd>,
}

/// What the dispatcher hears.
#[derive(Debug)]
pub enum VaultEvent {
    Up(Box<Introduction>),
    Reply {
        call: u64,
        reply: Reply,
        fds: Vec<OwnedFd>,
    },
    /// Every open call is lost, and so are the deliveries that the agent held.
    Down {
        text: String,
    },
}

/// One connection, greeted.
pub struct Line {
    stream: UnixStream,
    inbox: Inbox,
    calls: u64,
    /// The registered principals, as last heard during the introduction.
    principals: Option<Vec<String>>,
}

impl Line {
    /// Connects and exchanges `hello`.
    ///
    /// # Errors
    /// No agent there, one of another version, or no answer in time.
    pub async fn open(address: &Address) -> Result<Self, VaultError> {
        let stream = match address {
            Address::Line(line) => {
                let line = line.try_clone().map_err(VaultError::Connect)?;
                line.set_nonblocking(true).map_err(VaultError::Connect)?;
                UnixStream::from_std(line)
            }
            Address::Path(path) => UnixStream::connect(path).await,
        };
        let stream = stream.map_err(VaultError::Connect)?;
        let mut line = Self { stream, inbox: Inbox::default(), calls: 0, principals: None };
        let ours = Hello::ours(None);
        send(&line.stream, &frame::to_frame(&ours, HELLO_MAX).map_err(VaultError::Frame)?, &[]).await?;
        match timeout(DEADLINE, receive::<HelloReply>(&line.stream, &mut line.inbox))
            .await
            .map_err(|_| VaultError::TimedOut)??
        {
            (HelloReply::Welcome(theirs), _) => ours.check(&theirs).map_err(VaultError::Refused)?,
            (HelloReply::Refused(refusal), _) => return Err(VaultError::Refused(refusal)),
        }
        Ok(line)
    }

    /// `Status`, `Prepare` and `Commit`, in this order.
    ///
    /// # Errors
    /// As `VaultError`.
    pub async fn introduce(&mut self, needs: &Needs) -> Result<Introduction, VaultError> {
        let Reply::Status(status) = self.ask(Request::Status).await? else { return Err(VaultError::Unexpected) };
        let prepare = Request::Prepare { token_refs: needs.token_refs.clone(), plugins: needs.plugins.clone() };
        let Reply::Prepared { principals, token_key, tokens, admin_token } = self.ask(prepare).await? else {
            return Err(VaultError::Unexpected);
        };
        // Notices before this answer are older than it; one after it is newer.
        self.principals = Some(principals);
        match self.ask(Request::Commit).await? {
            Reply::Done => {
                let principals = self.principals.take().unwrap_or_default();
                Ok(Introduction { status, principals, token_key, tokens, admin_token })
            }
            _ => Err(VaultError::Unexpected),
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Reply, VaultError> {
        self.calls += 1;
        let call = self.calls;
        let frame = frame::to_frame(&Envelope { call, body: request }, AGENT_MAX).map_err(VaultError::Frame)?;
        send(&self.stream, &frame, &[]).await?;
        let answer = async {
            loop {
                let (envelope, _) = receive::<Envelope<Reply>>(&self.stream, &mut self.inbox).await?;
                match envelope {
                    Envelope { call: 0, body: Reply::PrincipalsChanged { principals } } => {
                        self.principals = Some(principals);
                    }
                    Envelope { call: answered, body } if answered == call => return Ok(body),
                    Envelope { .. } => {}
                }
            }
        };
        match timeout(DEADLINE, answer).await.map_err(|_| VaultError::TimedOut)?? {
            Reply::Refused(refusal) => Err(VaultError::Refused(refusal)),
            reply => Ok(reply),
        }
    }
}

/// Drives the connection for the dispatcher: sends calls, hands replies on, and after a loss
/// connects again and introduces the executor anew. Ends when the dispatcher's end is dropped, or
/// when a launcher's line is lost: the launcher then ends the whole.
pub async fn serve(
    mut line: Line,
    address: Address,
    needs: Needs,
    mut calls: mpsc::UnboundedReceiver<Call>,
    events: mpsc::UnboundedSender<crate::dispatch::Event>,
) {
    let tell = |event| events.send(crate::dispatch::Event::Vault(event)).is_ok();
    loop {
        let lost = pump(&mut line, &mut calls, &tell).await;
        let Some(lost) = lost else { return };
        if !tell(VaultEvent::Down { text: shared::log::chain(&lost) }) || matches!(address, Address::Line(_)) {
            return;
        }
        let mut pause = RECONNECT_FIRST;
        line = loop {
            let opened = match Line::open(&address).await {
                Ok(mut line) => line.introduce(&needs).await.map(|introduction| (line, introduction)),
                Err(error) => Err(error),
            };
            match opened {
                Ok((line, introduction)) => {
                    // Calls made while the agent was away were answered by `Down`.
                    while calls.try_recv().is_ok() {}
                    if !tell(VaultEvent::Up(Box::new(introduction))) {
                        return;
                    }
                    break line;
                }
                Err(_) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_MAX);
                }
            }
        };
    }
}

/// Until the connection is lost, or, with `None`, the dispatcher is gone.
async fn pump(
    line: &mut Line,
    calls: &mut mpsc::UnboundedReceiver<Call>,
    tell: &impl Fn(VaultEvent) -> bool,
) -> Option<VaultError> {
    let Line { stream, inbox, .. } = line;
    let stream = &*stream;
    // Beside each other: an agent that waits for its answers to be read reads no calls.
    let sending = async {
        while let Some(Call { call, request, fds }) = calls.recv().await {
            let frame = frame::to_frame(&Envelope { call, body: request }, AGENT_MAX).map_err(VaultError::Frame)?;
            send(stream, &frame, &fds).await?;
        }
        Ok(())
    };
    let receiving = async {
        loop {
            let (Envelope { call, body }, fds) = receive::<Envelope<Reply>>(stream, inbox).await?;
            if !tell(VaultEvent::Reply { call, reply: body, fds }) {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = sending => ended,
        ended = receiving => ended,
    }
    .err()
}

async fn send(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> Result<(), VaultError> {
    let mut sent = 0;
    while sent < bytes.len() {
        let attached: Vec<_> = if sent == 0 { fds.iter().map(AsFd::as_fd).collect() } else { Vec::new() };
        let piece = stream.async_io(Interest::WRITABLE, || fds::send(stream.as_fd(), &bytes[sent..], &attached)).await;
        sent += piece.map_err(|error| VaultError::Frame(FrameError::Io(error)))?;
    }
    Ok(())
}

async fn receive<T: serde::de::DeserializeOwned>(
    stream: &UnixStream,
    inbox: &mut Inbox,
) -> Result<(T, Vec<OwnedFd>), VaultError> {
    loop {
        if let Some(message) = inbox.take::<T, AGENT_MAX>().map_err(VaultError::Frame)? {
            return Ok(message);
        }
        let more = stream.async_io(Interest::READABLE, || inbox.fill(stream.as_fd())).await;
        if !more.map_err(|error| VaultError::Frame(FrameError::Io(error)))? {
            return Err(if inbox.is_empty() { VaultError::Closed } else { VaultError::Frame(FrameError::Cut) });
        }
    }
}

/// A text as a `Scrub` carries it: inline, or as a sealed memfd when it is long.
///
/// # Errors
/// No memory for the memfd.
pub fn scrub_text(text: &[u8]) -> io::Result<(Option<Vec<u8>>, Vec<OwnedFd>)> {
    if text.len() <= INLINE_MAX {
        return Ok((Some(text.to_vec()), Vec::new()));
    }
    let memfd = rustix::fs::memfd_create("scrub", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(text)?;
    file.seek(SeekFrom::Start(0))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok((None, vec![file.into()]))
}

/// The text of a `Scrubbed` reply.
///
/// # Errors
/// A reply with neither text nor descriptor, or one whose memfd can not be read or is over `limit`.
pub fn scrubbed_text(text: Option<Vec<u8>>, fds: Vec<OwnedFd>, limit: usize) -> io::Result<Vec<u8>> {
    if let Some(text) = text {
        return Ok(text);
    }
    let fd = fds.into_iter().next().ok_or_else(|| io::Error::other("a scrubbed text is missing"))?;
    let mut text = Vec::new();
    let mut file = std::fs::File::from(fd);
    file.seek(SeekFrom::Start(0))?;
    io::Read::read_to_end(&mut io::Read::take(file, limit as u64 + 1), &mut text)?;
    if text.len() > limit {
        return Err(io::Error::other("a scrubbed text is over its limit"));
    }
    Ok(text)
}
