//! Client of the executor, the front's only peer.
//!
//! One connection, many calls: each has a number, a deadline and a place for its answer. What
//! becomes ready in one turn of the loop is written at once; one reader hands the answers out.
//! While there is no connection every call fails at once, and nobody waits.

mod config;
mod session;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::wire::frame::{self, EXECUTOR_MAX, Envelope, FrameError};
use shared::wire::gateway::{Reply, Request};
use tokio::sync::{Notify, oneshot, watch};

pub(crate) use config::{Config, command};
pub(crate) use session::{LineError, Session};

/// How long the executor may take to answer, besides what it was asked to wait: a database that
/// another program holds is waited for up to twice 5 s, once behind a batch that is under way.
pub(crate) const DEADLINE: Duration = Duration::from_secs(12);
/// More than this is not kept for an executor that reads too slowly.
const OUTGOING_MAX: usize = 4 * EXECUTOR_MAX;

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// There is no connection, or it closed while the call was under way.
    Away,
    /// The executor did not answer in time.
    Deadline,
    /// It has not read what it was sent before.
    Stalled,
    /// The request does not fit a frame; nothing was sent.
    Frame(FrameError),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Away => "executor is away",
            Self::Deadline => "executor did not answer in time",
            Self::Stalled => "executor does not read",
            Self::Frame(_) => "request to the executor",
        })
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Frame(error) => Some(error),
            Self::Away | Self::Deadline | Self::Stalled => None,
        }
    }
}

/// The line to the executor, whether it stands or not.
pub(crate) struct Executor {
    line: Mutex<Line>,
    config: watch::Sender<Option<Arc<Config>>>,
    /// Number of the next call; never 0, which marks notices, and never used twice.
    next: AtomicU64,
    /// There is something to write.
    outgoing: Notify,
    /// An answer was not of the kind that its request has.
    distrusted: Notify,
    /// Somebody called while there was no connection.
    wanted: Notify,
    /// A connection stands for the first time.
    risen: Notify,
}

/// What the callers and the connection share.
#[derive(Default)]
struct Line {
    up: bool,
    calls: HashMap<u64, oneshot::Sender<Reply>>,
    outgoing: Vec<u8>,
}

impl Executor {
    pub(crate) fn new() -> Self {
        Self {
            line: Mutex::default(),
            config: watch::Sender::new(None),
            next: AtomicU64::new(1),
            outgoing: Notify::new(),
            distrusted: Notify::new(),
            wanted: Notify::new(),
            risen: Notify::new(),
        }
    }

    /// What the executor said last of the configuration; `None` before it ever did.
    pub(crate) fn config(&self) -> Option<Arc<Config>> {
        self.config.borrow().clone()
    }

    /// The same, and each configuration after it.
    pub(crate) fn configs(&self) -> watch::Receiver<Option<Arc<Config>>> {
        self.config.subscribe()
    }

    /// Puts a configuration in force for all requests that begin from now on.
    pub(crate) fn install(&self, config: Config) {
        self.config.send_replace(Some(Arc::new(config)));
    }

    /// Whether calls can be made; asking wakes who would connect.
    pub(crate) fn is_up(&self) -> bool {
        let up = self.line().up;
        if !up {
            self.wanted.notify_one();
        }
        up
    }

    /// Waits for the first connection; one caller at the most waits for it.
    pub(crate) async fn up(&self) {
        while !self.line().up {
            self.risen.notified().await;
        }
    }

    /// Waits until somebody asks for the executor while it is away.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Asks the executor; it is given `wait` on top of the deadline of every call. Dropping the
    /// future forgets the answer, not the request.
    ///
    /// # Errors
    /// As `CallError`; after `Away` and `Deadline` the request may have been carried out.
    pub(crate) async fn call(&self, request: &Request, wait: Duration) -> Result<Reply, CallError> {
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = frame::to_frame(&Envelope { call, body: request }, EXECUTOR_MAX).map_err(CallError::Frame)?;
        let (sender, answer) = oneshot::channel();
        {
            let mut line = self.line();
            if !line.up {
                self.wanted.notify_one();
                return Err(CallError::Away);
            }
            if line.outgoing.len() > OUTGOING_MAX {
                return Err(CallError::Stalled);
            }
            line.calls.insert(call, sender);
            line.outgoing.extend_from_slice(&bytes);
        }
        self.outgoing.notify_one();
        let _pending = Pending { executor: self, call };
        match tokio::time::timeout(DEADLINE + wait, answer).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_closed)) => Err(CallError::Away),
            Err(_elapsed) => Err(CallError::Deadline),
        }
    }

    /// Closes the connection: the executor answered a request with a reply of another request.
    pub(crate) fn distrust(&self) {
        if self.line().up {
            self.distrusted.notify_one();
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the call's place away with its caller.
struct Pending<'a> {
    executor: &'a Executor,
    call: u64,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.executor.line().calls.remove(&self.call);
    }
}
