//! What is remembered of an entry and of its slots: the rows of `schedule_entries` and
//! `schedule_occurrences` in domain types.

use shared::id::JobId;
use shared::time::Timestamp;

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Active,
    PausedManual,
    PausedInvalid,
    /// A one-shot that has run.
    Exhausted,
}

impl Status {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::PausedManual => "paused_manual",
            Self::PausedInvalid => "paused_invalid",
            Self::Exhausted => "exhausted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::PausedManual, Self::PausedInvalid, Self::Exhausted]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// One row of `schedule_entries`, and where its slots stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The command at the time of the last look; another one in the configuration starts anew.
    pub command: String,
    pub status: Status,
    pub reason: Option<String>,
    pub last_fired_at: Option<Timestamp>,
    pub last_success_job_id: Option<String>,
    pub last_success_at: Option<Timestamp>,
    /// The next start, jitter included.
    pub next_run_at: Option<Timestamp>,
    /// The newest slot that has a row in `schedule_occurrences` (its `until_at`); read from there,
    /// never written by itself.
    pub last_slot_at: Option<Timestamp>,
}

impl Record {
    /// Of an entry that was never seen.
    pub fn new(command: &str) -> Self {
        Self {
            command: command.to_owned(),
            status: Status::Active,
            reason: None,
            last_fired_at: None,
            last_success_job_id: None,
            last_success_at: None,
            next_run_at: None,
            last_slot_at: None,
        }
    }
}

/// What became of one slot, or of several in a row for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// The first slot.
    pub slot_at: Timestamp,
    /// The last one; equal to `slot_at` for one slot.
    pub until_at: Timestamp,
    pub slots: u32,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It became this job.
    Enqueued { job_id: JobId },
    /// It was due and something stood in its way.
    Skipped { reason: &'static str },
    /// It passed while nothing could run it.
    Missed { reason: &'static str },
}
