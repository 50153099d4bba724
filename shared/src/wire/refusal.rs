//! The only error that crosses a process edge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a request was refused. Callers branch on this and never on the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalKind {
    /// Another protocol number or program version.
    VersionMismatch,
    /// The peer means another instance.
    InstanceMismatch,
    /// A request that says nothing the receiver can act on.
    Invalid,
    /// Over a limit of the receiver.
    TooLarge,
    /// Too much is under way; the same request may pass later.
    Busy,
    /// A process that is needed does not answer; the same request may pass later.
    Unavailable,
    /// The database can not be written now: full disk, busy, failing.
    Storage,
    /// A failure of the receiver's own; its log says which.
    Internal,

    /// The plugin is unknown, not configured or not enabled.
    PluginUnknown,
    /// The plugin has no such command.
    CommandUnknown,
    /// A write command, asked for without the right to write.
    WriteScope,
    /// `handle` takes an object only.
    PayloadNotObject,
    /// No job of that id.
    JobUnknown,
    /// As many callers wait for results as may.
    TooManyWaiting,

    /// The admin token is missing or wrong.
    AdminToken,
    /// No vault is open.
    VaultAbsent,
    InvalidName,
    InvalidPrincipalKind,
    InvalidPattern,
    InvalidScope,
    PrincipalExists,
    PrincipalUnknown,
    PrincipalInactive,
    SecretUnknown,
    SecretRevoked,
    Reserved,
    ValueImmutable,
    ValueEmpty,
    /// A value or a composed map over its limit.
    ValueTooLarge,
    /// The blob on disk is not the one last read or written.
    ModifiedExternally,

    /// A plugin with `requires_vault` whose principal is unknown, or without a vault.
    VaultRequired,
    /// Manifest, entrypoint or binding are not what was locked.
    FingerprintMismatch,
    /// Another enabled plugin has the same account.
    SharedAccount,
    /// The descriptor is no empty, non-blocking pipe of the right owner and size.
    Pipe,
    /// The delivery is unknown to the agent.
    DeliveryUnknown,
    /// More deliveries are open than the agent keeps.
    TooManyDeliveries,
    /// A file or one of its ancestors could be changed by somebody else than root.
    UnsafePath,

    /// The job is queued or running.
    JobNotFinished,
    /// The job has ended already.
    JobFinished,
    /// Another job stands for this one.
    Duplicate,
    /// No schedule entry of that plugin and id.
    ScheduleUnknown,
}

/// A refusal: what was wrong in a form to branch on, and a text that names what and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

impl Refusal {
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
