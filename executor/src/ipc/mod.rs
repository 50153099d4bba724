//! The executor's two sockets: who may connect, what each may ask, and how answers go back. What a
//! request does is the dispatcher's.

pub mod listen;
pub mod permit;

use std::fmt;

use shared::wire::frame::{self, EXECUTOR_MAX, Envelope};
use shared::wire::gateway::Reply;
use shared::wire::refusal::{Refusal, RefusalKind};
use tokio::sync::mpsc;

/// What a peer may ask is decided by the socket it came in by (design, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Front,
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Front => "front",
            Self::Admin => "admin",
        })
    }
}

/// The way back to whoever asked. A peer that is gone is no error: the work was done.
#[derive(Debug)]
pub struct Answer {
    call: u64,
    frames: mpsc::UnboundedSender<Vec<u8>>,
}

impl Answer {
    /// Hands the reply to the connection's writer.
    pub fn send(self, reply: Reply) {
        let frame = frame::to_frame(&Envelope { call: self.call, body: reply }, EXECUTOR_MAX).or_else(|_| {
            let refusal = Refusal::new(RefusalKind::TooLarge, "the answer is over the frame limit");
            frame::to_frame(&Envelope { call: self.call, body: Reply::Refused(refusal) }, EXECUTOR_MAX)
        });
        let _ = self.frames.send(frame.expect("a short refusal fits"));
    }

    /// Whether nobody is there to read it any more.
    pub fn is_lost(&self) -> bool {
        self.frames.is_closed()
    }

    pub fn refuse(self, kind: RefusalKind, message: impl Into<String>) {
        self.send(Reply::Refused(Refusal::new(kind, message)));
    }
}
