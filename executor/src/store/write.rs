//! What can be asked of the writer, and what it answers. Each `Write` is applied whole or not at
//! all, in the order of submission.

use shared::id::JobId;
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::JobStatus;

use super::error::StoreError;
use super::snapshot::ConfigSnapshot;
use crate::queue::breaker::{Breaker, Transition};
use crate::queue::dedupe;
use crate::schedule::record::{Occurrence, Record};

/// One operation of the writer.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A new job, `queued`. Answers: `Admitted`, or `Conflict` when its source event already made
    /// this very job.
    Admit(NewJob),
    /// The same after a look for duplicates in the same transaction. Answers besides: `Duplicate`.
    AdmitUnique(NewJob, dedupe::Check),
    /// A claim that the dispatcher made in memory. Answers: `Claimed` or `Stale`.
    Claim(Claim),
    /// The end of an attempt. Answers: `Completed`, `Stale` or `StateRefused`.
    Complete(Box<Completion>),
    /// The configuration that is active from now on. Answers: `Saved`.
    Snapshot(Box<ConfigSnapshot>),
    /// The end of a queued or running job by an operator. Answers: `Cancelled`, `Stale` when it has
    /// ended already, or `Missing`.
    Cancel(Cancel),
    /// What a cancelled job had printed when it ended, for the log row that its cancel wrote.
    /// Answers: `Saved`.
    Printed(Printed),
    /// One look at a schedule entry: its record, its slots and their jobs. Answers: `Scheduled`.
    Schedule(Box<Scheduling>),
    /// A breaker that changed without a completion. Answers: `Saved`.
    Breaker(Box<BreakerChange>),
    /// The oldest rows of one table, a bounded number. Answers: `Pruned`.
    Prune(Prune),
    /// The clock stepped back. Answers: `Saved`.
    Reanchor(Reanchor),
    /// A page is written and nothing changes, to learn whether it can be. Answers: `Saved`.
    Probe,
}

/// A job as it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    pub id: JobId,
    pub plugin: String,
    pub command: String,
    pub payload: Option<String>,
    pub max_attempts: u32,
    pub submitted_by: String,
    pub dedupe_key: Option<String>,
    pub created_at: Timestamp,
    pub parent_job_id: Option<String>,
    pub source_event_id: Option<String>,
    pub event_context_id: Option<String>,
    /// The configuration that was active.
    pub config_snapshot: Option<String>,
}

/// An attempt that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub job_id: JobId,
    pub attempt: u32,
    pub started_at: Timestamp,
    pub config_snapshot: Option<String>,
}

/// What becomes of the job when its attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It ends.
    Terminal { status: JobStatus },
    /// It is queued again; `attempt` is the new one, higher than the one that ended.
    Retry { attempt: u32, next_retry_at: Timestamp },
    /// It is queued again at once and loses no attempt: both its numbers rise by one
    /// (`spec/queue-and-scheduler.md` 14.2).
    Requeue,
}

/// The end of one attempt and all that comes of it, stored together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The claim of this attempt, unless it is known to be stored: it rides here, and where it was
    /// stored meanwhile it is recognised.
    pub claim: Option<Claim>,
    pub job_id: JobId,
    pub attempt: u32,
    pub next: Next,
    pub completed_at: Timestamp,
    /// How this attempt ended, for its log row; a terminal status.
    pub log_status: JobStatus,
    pub last_error: Option<String>,
    /// The plugin's whole stdout.
    pub result: Option<String>,
    /// Cut at 65,536 bytes.
    pub stderr: Option<String>,
    pub state: Option<StateUpdate>,
    pub stopwatch: Option<StopwatchRow>,
    /// For jobs of the scheduler whose end the breaker counts.
    pub breaker: Option<BreakerChange>,
    /// The schedule entry whose success this is: plugin and schedule id.
    pub entry: Option<(String, String)>,
    /// The jobs that its events made, those of one event next to each other.
    pub routed: Vec<Routed>,
}

/// One job that an event of a finished job made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Its rows of `event_context`, the outer one first; one that is there already stays.
    pub contexts: Vec<EventContext>,
    /// Has a source event: where this event already made this very job, nothing is stored.
    pub job: NewJob,
    /// Where this finds a duplicate, nothing is stored either. The jobs of one event are not compared
    /// with each other.
    pub check: Option<dedupe::Check>,
}

/// What became of the jobs that a completion's events made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutedJobs {
    /// Stored, in order.
    pub admitted: Vec<JobId>,
    /// Dropped: what stands for them.
    pub duplicates: Vec<dedupe::Duplicate>,
}

/// One row of `event_context` (`spec/pipelines.md` 7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventContext {
    pub id: String,
    pub parent_id: Option<String>,
    pub pipeline_name: Option<String>,
    pub step_id: Option<String>,
    /// A JSON object, as text.
    pub accumulated_json: String,
    pub created_at: Timestamp,
}

/// The end of a job that did not come from its plugin: status `dead`, transition and log row of the
/// current attempt in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    pub job_id: JobId,
    pub at: Timestamp,
    /// Becomes `last_error`.
    pub reason: String,
}

/// Output of an attempt that was cancelled before it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    pub job_id: JobId,
    pub attempt: u32,
    pub result: Option<String>,
    pub stderr: Option<String>,
}

/// What one look at a schedule entry came to; stored together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduling {
    pub plugin: String,
    pub schedule_id: String,
    pub at: Timestamp,
    /// Its row from now on; `last_slot_at` is not written, and of the last success only that another
    /// command has none.
    pub record: Record,
    /// A slot that has a row already is written over; one that directly follows a row of the same
    /// outcome and reason (not of a job) extends it.
    pub occurrences: Vec<Occurrence>,
    /// Admitted without a look for duplicates, but for those whose key has a check.
    pub jobs: Vec<(NewJob, Option<dedupe::Check>)>,
    /// `if_running: cancel`: all queued and running jobs of the entry end before the new ones are
    /// admitted.
    pub cancel: Option<CancelOwn>,
    pub breaker: Option<BreakerChange>,
}

/// Which jobs of an entry are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelOwn {
    pub dedupe_key: String,
    pub submitted_by: String,
    pub reason: String,
}

/// A breaker's row, and its transition when the state changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerChange {
    pub plugin: String,
    pub command: String,
    pub breaker: Breaker,
    pub transition: Option<Transition>,
    pub at: Timestamp,
}

/// Jobs of a plugin that wait longer than any back-off of theirs are due now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reanchor {
    pub plugin: String,
    pub now: Timestamp,
    /// The longest wait before attempt 2, 3 and on; the last one stands for all that follow.
    pub longest: Vec<Millis>,
}

/// One batch of retention (`spec/queue-and-scheduler.md` 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prune {
    pub table: Pruned,
    /// Rows from before this time go.
    pub before: Timestamp,
    pub limit: u32,
}

/// A table that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pruned {
    JobLog,
    /// Finished jobs only.
    JobQueue,
    JobTransitions,
    JobAttempts,
    BreakerTransitions,
    /// But for the newest row of each entry.
    ScheduleOccurrences,
    /// Those that no job names.
    EventContext,
    PluginFacts,
    /// Those that no job names, but for the newest.
    ConfigSnapshots,
    Stopwatch,
}

impl Pruned {
    /// Of the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::JobLog => "job_log",
            Self::JobQueue => "job_queue",
            Self::JobTransitions => "job_transitions",
            Self::JobAttempts => "job_attempts",
            Self::BreakerTransitions => "circuit_breaker_transitions",
            Self::ScheduleOccurrences => "schedule_occurrences",
            Self::EventContext => "event_context",
            Self::PluginFacts => "plugin_facts",
            Self::ConfigSnapshots => "config_snapshots",
            Self::Stopwatch => "job_stopwatch",
        }
    }
}

/// `state_updates` of a plugin's answer (`spec/plugins.md` 10.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateUpdate {
    pub plugin: String,
    pub command: String,
    /// A JSON object, stored as it came.
    pub updates_json: String,
    /// The rules that match this command. None: the object is merged into the plugin's state.
    pub facts: Vec<FactRule>,
    /// An id for each rule.
    pub fact_ids: Vec<String>,
}

/// One matching rule of `fact_outputs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactRule {
    pub fact_type: String,
    /// `compatibility_view: mirror_object`: the object also replaces the plugin's state.
    pub mirror: bool,
}

/// The telemetry of one spawn (`spec/plugins.md` 11); job, attempt and time are the completion's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopwatchRow {
    pub plugin: String,
    pub pipeline: Option<String>,
    pub step_id: Option<String>,
    pub pipeline_instance_id: Option<String>,
    pub enter_wall_ns: i64,
    pub exit_wall_ns: i64,
    pub dur_ns: i64,
    pub runtime_pre_ns: i64,
    pub runtime_post_ns: i64,
    pub status: SpawnStatus,
    /// A JSON array.
    pub subs_json: String,
}

/// How a spawn went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnStatus {
    Ok,
    Err,
    Timeout,
    /// The recorder itself failed.
    CaptureError,
}

impl SpawnStatus {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Err => "err",
            Self::Timeout => "timeout",
            Self::CaptureError => "capture_error",
        }
    }
}

/// How long an operation may wait for company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Committed at once, together with everything that waits.
    Now,
    /// Committed within 4 ms, or as soon as 64 operations wait.
    Lazy,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Admitted,
    /// Another job stands for this one; nothing was stored.
    Duplicate(dedupe::Duplicate),
    /// This source event already made a job of this plugin and command; nothing was stored.
    Conflict,
    Claimed,
    Completed(RoutedJobs),
    /// The claim or the attempt no longer holds; nothing was stored.
    Stale,
    /// The state that would result is not acceptable; nothing was stored, and the attempt is to be
    /// completed as failed with this text, without a retry.
    StateRefused {
        text: String,
    },
    Saved,
    Cancelled,
    /// There is no such job.
    Missing,
    Scheduled {
        /// The jobs that `if_running: cancel` ended.
        cancelled: Vec<JobId>,
        /// Jobs of this look that another one stands for; nothing of them was stored.
        duplicates: Vec<(JobId, dedupe::Duplicate)>,
    },
    Pruned {
        rows: u32,
    },
}

/// The answer to one ticket, after the commit or the failure of its batch.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub ticket: u64,
    /// Of kind `Refused`: this operation can never be stored. Of any other: nothing of the batch
    /// was stored, and the operation may be submitted again.
    pub result: Result<Applied, StoreError>,
    /// The operation itself, when nothing of it was stored and its owner may have to go on with
    /// it: after every error, after `StateRefused` and after `Stale`. So nobody needs a copy meanwhile.
    pub returned: Option<Write>,
}
