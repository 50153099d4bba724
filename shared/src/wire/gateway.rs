//! Front and CLI to the executor: `executor.sock` (role front) and `executor-admin.sock` (role
//! admin). The caller sends `hello` first; each frame is an `Envelope`, at most `EXECUTOR_MAX`
//! bytes. JSON travels as text that the executor has checked, or will check.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::id::{CommandName, JobId, PluginName};
use crate::time::{Millis, Timestamp};

/// What may be asked of the executor. Any request can be answered by `Reply::Refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Front, once after each connect. Answer: `FrontConfig`.
    FrontConfig,
    /// Front and admin. Answer: `Health`.
    Health,
    /// Front and admin: admit one job (`spec/api.md` 5.1). Answer: `Accepted` after the commit, or
    /// `Finished` when `wait` is more than 0 and the job ended within it. Refused with
    /// `PluginUnknown`, `CommandUnknown`, `WriteScope`, `PayloadNotObject`, `Storage`,
    /// `TooManyWaiting` (then nothing was admitted).
    Trigger {
        plugin: PluginName,
        command: CommandName,
        /// JSON text; `None` when the body was empty.
        payload: Option<String>,
        /// The caller's token may run write commands.
        may_write: bool,
        wait: Millis,
    },
    /// Front and admin. Answer: `Job`, or refused with `JobUnknown`.
    GetJob { job_id: JobId },
    /// Front, unasked for: an admin token of the vault came in over HTTP (`spec/api.md` 8.1); the
    /// executor has the agent journal it. Answer: `Done`.
    TokenExposed,
    /// Front and admin: a finished job once more, as a new one (`spec/api.md` 6.1). Answer:
    /// `Accepted`. Refused with `JobUnknown`, `JobNotFinished`, `Duplicate`, `PluginUnknown`,
    /// `CommandUnknown`, `WriteScope`, `PayloadNotObject`, `Storage`.
    RetryJob {
        job_id: JobId,
        /// JSON text; `None`: the old one's.
        payload: Option<String>,
        /// The caller's token may run write commands.
        may_write: bool,
        /// The caller's token may run read commands.
        may_read: bool,
    },
    /// Front and admin: the end of a queued or running job. Answer: `Cancelled` after the commit;
    /// the kill follows. Refused with `JobUnknown`, `JobFinished`, `Storage`.
    CancelJob { job_id: JobId },
    /// Front and admin: every schedule entry with its next `count` starts, at most 100, as seen
    /// from now. Answer: `Schedules`.
    Schedules { count: u32 },
    /// Admin: an exhausted or invalid entry becomes active again. Answer: `Done`. Refused with
    /// `ScheduleUnknown`, `Storage`.
    Rearm { plugin: PluginName, schedule_id: String },
    /// Admin: closes a breaker. Answer: `Done`. Refused with `PluginUnknown`, `Storage`.
    ResetBreaker { plugin: PluginName, command: CommandName },
    /// Admin: a breaker and its last `limit` transitions, newest first. Answer: `Breaker`. Refused
    /// with `PluginUnknown`.
    Breaker { plugin: PluginName, command: CommandName, limit: u32 },
    /// Admin: scheduled jobs that are queued or running. Answer: `ActivePolls`.
    ActivePolls,
    /// Front and admin: what happened after event `after`. Waits for the first event up to `wait`.
    /// Answer: `Events`, possibly none.
    Events { after: u64, wait: Millis },
}

/// What the executor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Refused(Refusal),
    Done,
    FrontConfig(FrontConfig),
    Health(Health),
    Accepted { job_id: JobId },
    Finished(Job),
    Job(Job),
    Cancelled { job_id: JobId },
    Schedules(Vec<Schedule>),
    Breaker(Breaker),
    ActivePolls(ActivePolls),
    Events(Vec<HubEvent>),
}

/// What the executor tells the front of the configuration; the front reads no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontConfig {
    /// `api.listen` as configured (`host:port`); `None` while the API is disabled.
    pub listen: Option<String>,
    pub posture: Posture,
    /// `api.max_body_size`, bytes.
    pub max_body: u64,
    /// `api.max_concurrent_sync`.
    pub max_waiting: u32,
    /// `api.max_sync_timeout`.
    pub max_wait: Millis,
    /// `api.allowed_origins`.
    pub allowed_origins: Vec<String>,
    /// Key of the digests, fresh for each load.
    pub token_key: [u8; 32],
    pub tokens: Vec<Token>,
    /// Every plugin of the registry, by name.
    pub plugins: Vec<Plugin>,
    /// `service.log_level`.
    pub log_level: String,
}

/// One API token as the front may know it (`spec/api.md` 3.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// BLAKE3 of the token's bytes, keyed with `FrontConfig::token_key`.
    pub digest: [u8; 32],
    pub scopes: Vec<String>,
    /// The vault's admin token: never valid over HTTP, and reported when it is seen there.
    pub is_admin: bool,
}

/// What a caller can see of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    pub name: PluginName,
    pub version: String,
    pub description: String,
    pub commands: Vec<Command>,
    /// Configured and enabled; one that is not answers as unknown.
    pub usable: bool,
}

/// One command of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub name: CommandName,
    /// `type: write` in the manifest.
    pub writes: bool,
}

/// Boot posture (`spec/vault.md` 11.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Posture {
    Gateway,
    ManagementOnly,
    Closed,
}

/// The counts of `GET /healthz` (`spec/api.md` 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Jobs queued or running.
    pub queue_depth: u64,
    pub plugins_loaded: u64,
    pub plugins_circuit_open: u64,
    /// When the executor became ready.
    pub started_at: Timestamp,
}

/// `spec/queue-and-scheduler.md` 2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum JobStatus {
    Queued,
    Running,
    Succeeded,
    Skipped,
    Failed,
    TimedOut,
    Dead,
}

impl JobStatus {
    /// As stored and as answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Dead => "dead",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Skipped, Self::Failed, Self::TimedOut, Self::Dead]
            .into_iter()
            .find(|status| status.as_str() == text)
    }

    /// Never changes again.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// One job as `GET /job/{id}` shows it (`spec/api.md` 6.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub job_id: JobId,
    pub status: JobStatus,
    pub plugin: String,
    pub command: String,
    pub attempt: u32,
    /// The plugin's whole answer, valid JSON text.
    pub result: Option<String>,
    pub last_error: Option<String>,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
}

/// One schedule entry of an enabled plugin (`spec/api.md` 6.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub plugin: String,
    pub schedule_id: String,
    pub command: String,
    /// `every`, `cron`, `at` or `after`.
    pub mode: String,
    /// `active`, `paused_manual`, `paused_invalid` or `exhausted`.
    pub status: String,
    pub reason: Option<String>,
    /// As written.
    pub timezone: Option<String>,
    /// The next starts, projected by time, window and days.
    pub next: Vec<Timestamp>,
}

/// A circuit breaker (`spec/cli.md` 4.5); `state` is `None` while there is no row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    pub plugin: String,
    pub command: String,
    pub state: Option<String>,
    pub failure_count: u32,
    pub opened_at: Option<String>,
    pub last_failure_at: Option<String>,
    pub last_job_id: Option<String>,
    pub updated_at: Option<String>,
    pub transitions: Vec<BreakerTransition>,
}

/// One change of a breaker's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerTransition {
    pub id: String,
    pub from_state: Option<String>,
    pub to_state: String,
    pub failure_count: u32,
    pub reason: String,
    pub job_id: Option<String>,
    pub created_at: String,
}

/// Jobs of the scheduler that are queued or running, oldest first (`spec/cli.md` 4.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivePolls {
    pub service_name: String,
    pub polls: Vec<ActivePoll>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivePoll {
    pub job_id: JobId,
    pub plugin: String,
    pub dedupe_key: Option<String>,
    pub status: JobStatus,
    pub attempt: u32,
    pub created_at: String,
    pub started_at: Option<String>,
}

/// One event of the hub (`spec/queue-and-scheduler.md` 12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubEvent {
    /// Rises by one.
    pub id: u64,
    pub kind: String,
    /// A JSON object on one line.
    pub data: String,
}
