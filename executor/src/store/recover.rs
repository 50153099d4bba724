//! What a crash left running, put right before anything else is done
//! (`spec/queue-and-scheduler.md` 6).

use std::borrow::Cow;

use rusqlite::{Connection, TransactionBehavior, params};
use shared::id::JobId;
use shared::time::{Millis, Timestamp};
use shared::wire::gateway::JobStatus;

use super::error::StoreError;
use super::ledger::{Ledger, Transition};
use super::log::LogRow;
use super::open::WriteConnection;
use super::read::{QueuedJob, running};
use super::time_text::TimeTexts;

/// The error of the attempt that was lost.
pub const LOST_ATTEMPT: &str = "executor ended during the attempt";

/// What became of one job that was found running.
#[derive(Debug)]
pub struct Recovered {
    pub job_id: JobId,
    pub plugin: String,
    pub command: String,
    pub submitted_by: String,
    /// The attempt that was lost.
    pub attempt: u32,
    pub end: RecoveredEnd,
}

#[derive(Debug)]
pub enum RecoveredEnd {
    /// Queued again as the next attempt.
    Queued { attempt: u32, next_retry_at: Timestamp },
    /// Its attempts are spent; the text is its error.
    Dead { last_error: String },
    /// It could not be written and stays as it was; the others go on.
    Failed(StoreError),
}

/// Requeues or ends every job that is marked as running. `delay` is the retry delay of a plugin
/// after an attempt: without it a job that takes the host down would do so in a loop.
///
/// # Errors
/// `StoreError` when the jobs can not be listed; a failure on one of them is in its own report.
pub fn recover(
    connection: &mut WriteConnection,
    now: Timestamp,
    delay: impl Fn(&str, u32) -> Millis,
) -> Result<Vec<Recovered>, StoreError> {
    let connection = &mut connection.connection;
    let jobs = running(connection).map_err(|e| StoreError::sqlite("list the jobs that a crash left running", e))?;
    let mut report = Vec::with_capacity(jobs.len());
    for job in jobs {
        let planned = plan(&job, now, &delay);
        let end = match store(connection, &job, &planned, now) {
            Ok(()) => planned,
            Err(e) => RecoveredEnd::Failed(StoreError::sqlite("recover a job", e)),
        };
        report.push(Recovered {
            job_id: job.job_id,
            plugin: job.plugin,
            command: job.command,
            submitted_by: job.submitted_by,
            attempt: job.attempt,
            end,
        });
    }
    Ok(report)
}

fn plan(job: &QueuedJob, now: Timestamp, delay: &impl Fn(&str, u32) -> Millis) -> RecoveredEnd {
    if job.attempt < job.max_attempts {
        let next_retry_at = now.plus(delay(&job.plugin, job.attempt));
        RecoveredEnd::Queued { attempt: job.attempt + 1, next_retry_at }
    } else {
        let last_error = format!("Job marked dead during crash recovery: max attempts ({}) reached", job.max_attempts);
        RecoveredEnd::Dead { last_error }
    }
}

fn store(connection: &mut Connection, job: &QueuedJob, end: &RecoveredEnd, now: Timestamp) -> rusqlite::Result<()> {
    let job_id = job.job_id.as_str();
    let at = TimeTexts::default().text(now);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (to, reason, log_status) = match end {
        RecoveredEnd::Queued { attempt, next_retry_at } => {
            transaction.execute(
                "UPDATE job_queue SET status = 'queued', attempt = ?2, next_retry_at = ?3, last_error = NULL \
                 WHERE id = ?1 AND status = 'running'",
                params![job_id, attempt, next_retry_at.to_string()],
            )?;
            (JobStatus::Queued, LOST_ATTEMPT, JobStatus::Failed)
        }
        RecoveredEnd::Dead { last_error } => {
            transaction.execute(
                "UPDATE job_queue SET status = 'dead', completed_at = ?2, last_error = ?3 \
                 WHERE id = ?1 AND status = 'running'",
                params![job_id, &*at, last_error],
            )?;
            (JobStatus::Dead, last_error.as_str(), JobStatus::Dead)
        }
        RecoveredEnd::Failed(_) => return Ok(()),
    };
    LogRow {
        job_id,
        attempt: job.attempt,
        status: log_status,
        completed_at: &at,
        last_error: Some(LOST_ATTEMPT),
        result: None,
        stderr: None,
    }
    .store(&transaction)?;
    let mut ledger = Ledger::default();
    ledger.transition(Transition {
        job_id: Cow::Borrowed(job_id),
        from: Some(JobStatus::Running),
        to,
        reason: Some(reason),
        at,
    });
    ledger.store(&transaction)?;
    transaction.commit()
}
