//! Executor to its spawner: one SEQPACKET pair, one message a packet without a prefix, at most
//! `LINE_MAX` bytes (`spec/plugins.md` 9.3). The executor asks, the spawner answers when it can:
//! runs are told apart by their number.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::id::{AccountName, JobId, PluginName};
use crate::time::Millis;

/// What the executor may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first message, before the executor drops its capabilities. With `AgentLine::Descriptor`
    /// one descriptor: the spawner's line to the agent. Answer: `Hello`, or the line closes.
    Hello {
        protocol: u32,
        version: String,
        /// uid and gid to move to; `None` in the one-uid forms.
        move_to: Option<(u32, u32)>,
        agent: AgentLine,
    },
    /// Once, when the configuration has loaded. Answer: `Ready` or `ConfigureRefused`.
    Configure { accounts: Vec<Account> },
    /// Start one child. Answer: `Spawned`, then `Ended`; or `RunRefused` and no child existed.
    Spawn(Spawn),
    /// End a run: TERM, `grace`, KILL; 0 kills at once. An unknown run is passed over, it may just
    /// have ended. No answer but the run's `Ended`.
    End { run: u64, grace: Millis },
}

/// How the spawner reaches the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentLine {
    /// The descriptor that came with `Hello`; when it closes there is no other.
    Descriptor,
    /// A socket to connect to, again when it closes.
    Path(String),
}

/// One entry of `accounts:` as the spawner needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub name: AccountName,
    pub uid: u32,
    pub gid: u32,
    /// Has a `home`: a real user's, so neither Landlock nor (outside the unit set)
    /// `no_new_privs`.
    pub credentialed: bool,
}

/// One child to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// Never reused while the line lives.
    pub run: u64,
    pub job_id: JobId,
    pub plugin: PluginName,
    /// Absolute and resolved.
    pub manifest: String,
    pub entrypoint: String,
    /// `None` runs the child with the spawner's own ids.
    pub account: Option<AccountName>,
    /// `NAME=value`, the whole environment.
    pub env: Vec<String>,
    pub cwd: Option<String>,
    /// The clock starts when this message arrives.
    pub deadline: Millis,
    /// Ask the agent first.
    pub deliver: Option<Deliver>,
}

/// What the agent is told besides job, plugin and account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    pub delivery_id: u64,
    pub uses: String,
    pub principal: String,
    pub requires_vault: bool,
}

/// What the spawner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Hello {
        protocol: u32,
        version: String,
    },
    Ready {
        enforcing: bool,
        cgroup: bool,
        landlock: bool,
    },
    ConfigureRefused {
        text: String,
    },
    /// With three descriptors: stdin's write end (non-blocking), stdout, stderr.
    Spawned {
        run: u64,
        pid: u32,
        /// The agent wrote the start of the request: `{"secrets":{…},` or `{`.
        prefixed: bool,
        secret_names_count: u32,
    },
    /// No child was ever made.
    RunRefused {
        run: u64,
        refusal: RunRefusal,
    },
    /// Nothing of the run is left. Once for every `Spawned`.
    Ended {
        run: u64,
        exit: Exit,
        timed_out: bool,
        leftovers: u32,
    },
}

/// Why a run was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunRefusal {
    /// The agent does not answer; may pass later.
    AgentUnavailable,
    /// The agent's refusal, or the spawner's own check of the files (`UnsafePath`).
    Denied(Refusal),
    /// The pipe is too small or was not empty, in the agent's words.
    Pipe {
        text: String,
    },
    /// A spawn before `Configure`.
    NotConfigured,
    UnknownAccount,
    /// A file could not be opened, or no pipe or process be had.
    Start {
        text: String,
    },
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// A step between fork and exec failed; the plugin's code never ran.
    StartFailed {
        step: Step,
        errno: i32,
    },
}

/// The steps between fork and exec, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Group,
    Cgroup,
    Streams,
    Descriptors,
    Signals,
    Limits,
    Gid,
    Uid,
    Capabilities,
    ParentDeath,
    NoNewPrivs,
    Landlock,
    Directory,
    Exec,
}

impl Step {
    /// In words, for `plugin spawn failed: start process: …`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "new process group",
            Self::Cgroup => "enter cgroup",
            Self::Streams => "standard streams",
            Self::Descriptors => "close descriptors",
            Self::Signals => "signal dispositions",
            Self::Limits => "resource limits",
            Self::Gid => "set gid",
            Self::Uid => "set uid",
            Self::Capabilities => "drop capabilities",
            Self::ParentDeath => "parent-death signal",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "Landlock",
            Self::Directory => "change directory",
            Self::Exec => "exec",
        }
    }

    /// A failure here means that the privileges were not given up as asked: never tried again.
    pub fn is_drop(self) -> bool {
        matches!(self, Self::Gid | Self::Uid | Self::Capabilities | Self::NoNewPrivs | Self::Landlock)
    }
}
