//! `job_queue`, going through: claims and completions, each a compare-and-set on status and
//! attempt. What no longer holds is dropped whole (design, decision 32).

use std::borrow::Cow;
use std::rc::Rc;

use rusqlite::{Connection, params};
use shared::wire::gateway::JobStatus;

use super::ledger::{Ledger, Transition};
use super::log::LogRow;
use super::time_text::TimeTexts;
use super::write::{Applied, Claim, Completion, Next};
use super::{breaker, routed, schedule, state, stopwatch};

/// The batch's connection and what it shares.
#[derive(Debug)]
pub(super) struct Context<'c, 'a> {
    pub(super) connection: &'c Connection,
    /// `job_stopwatch` exists.
    pub(super) stopwatch: bool,
    pub(super) times: TimeTexts,
    pub(super) ledger: Ledger<'a>,
}

/// A claim on its own.
pub(super) fn claim<'a>(context: &mut Context<'_, 'a>, claim: &'a Claim) -> rusqlite::Result<Applied> {
    let started_at = context.times.text(claim.started_at);
    let mut statement = context.connection.prepare_cached(
        "UPDATE job_queue SET status = 'running', started_at = ?3, started_config_snapshot_id = ?4 \
         WHERE id = ?1 AND attempt = ?2 AND status = 'queued'",
    )?;
    let job_id = claim.job_id.as_str();
    if statement.execute(params![job_id, claim.attempt, &*started_at, claim.config_snapshot])? == 0 {
        return Ok(Applied::Stale);
    }
    context.ledger.began(job_id, claim.attempt, &started_at);
    Ok(Applied::Claimed)
}

/// The end of an attempt, with its claim when that rides along.
pub(super) fn complete<'a>(context: &mut Context<'_, 'a>, completion: &'a Completion) -> rusqlite::Result<Applied> {
    // Worked out first, since nothing of a refused completion may be written.
    let plan = match &completion.state {
        None => None,
        Some(update) => match state::plan(context.connection, update)? {
            Ok(plan) => plan,
            Err(text) => {
                let holds = still_holds(context.connection, completion)?;
                return Ok(if holds { Applied::StateRefused { text } } else { Applied::Stale });
            }
        },
    };
    let job_id = completion.job_id.as_str();
    let completed_at = context.times.text(completion.completed_at);
    let holds = match &completion.claim {
        None => finish(context.connection, completion, None, &completed_at)?,
        Some(claim) => {
            let started_at = context.times.text(claim.started_at);
            if finish(context.connection, completion, Some((claim, &started_at)), &completed_at)? {
                context.ledger.began(job_id, claim.attempt, &started_at);
                true
            } else {
                // It was also submitted by itself, and that came first.
                is_stored(context.connection, claim, &started_at)?
                    && finish(context.connection, completion, None, &completed_at)?
            }
        }
    };
    if !holds {
        return Ok(Applied::Stale);
    }
    context.ledger.transition(Transition {
        job_id: Cow::Borrowed(job_id),
        from: Some(JobStatus::Running),
        to: match completion.next {
            Next::Terminal { status } => status,
            Next::Retry { .. } | Next::Requeue => JobStatus::Queued,
        },
        reason: completion.last_error.as_deref(),
        at: Rc::clone(&completed_at),
    });
    LogRow {
        job_id,
        attempt: completion.attempt,
        status: completion.log_status,
        completed_at: &completed_at,
        last_error: completion.last_error.as_deref(),
        result: completion.result.as_deref(),
        stderr: completion.stderr.as_deref(),
    }
    .store(context.connection)?;
    if let Some(plan) = plan {
        plan.store(context.connection, job_id, &completed_at)?;
    }
    if let (Some(row), true) = (&completion.stopwatch, context.stopwatch) {
        stopwatch::store(context.connection, row, job_id, completion.attempt, &completed_at)?;
    }
    if let Some(change) = &completion.breaker {
        breaker::store(context.connection, change, &mut context.times)?;
    }
    if let Some(entry) = &completion.entry {
        schedule::succeeded(context.connection, entry, job_id, &completed_at)?;
    }
    routed::store(context, &completion.routed).map(Applied::Completed)
}

const TERMINAL: &str = "UPDATE job_queue SET status = ?3, completed_at = ?4, last_error = ?5 \
                        WHERE id = ?1 AND attempt = ?2 AND status = 'running'";
const TERMINAL_WITH_CLAIM: &str = "UPDATE job_queue SET status = ?3, completed_at = ?4, last_error = ?5, \
                                   started_at = ?6, started_config_snapshot_id = ?7 \
                                   WHERE id = ?1 AND attempt = ?2 AND status = 'queued'";
const RETRY: &str = "UPDATE job_queue SET status = 'queued', attempt = ?3, next_retry_at = ?4, last_error = ?5 \
                     WHERE id = ?1 AND attempt = ?2 AND status = 'running'";
const RETRY_WITH_CLAIM: &str = "UPDATE job_queue SET attempt = ?3, next_retry_at = ?4, last_error = ?5, \
                                started_at = ?6, started_config_snapshot_id = ?7 \
                                WHERE id = ?1 AND attempt = ?2 AND status = 'queued'";
const REQUEUE: &str = "UPDATE job_queue SET status = 'queued', attempt = attempt + 1, \
                       max_attempts = max_attempts + 1, next_retry_at = NULL, last_error = ?3 \
                       WHERE id = ?1 AND attempt = ?2 AND status = 'running'";
const REQUEUE_WITH_CLAIM: &str = "UPDATE job_queue SET attempt = attempt + 1, max_attempts = max_attempts + 1, \
                                  next_retry_at = NULL, last_error = ?3, \
                                  started_at = ?4, started_config_snapshot_id = ?5 \
                                  WHERE id = ?1 AND attempt = ?2 AND status = 'queued'";

/// Moves the queue's row on, from `running`, or from `queued` together with the claim; false when
/// the row is elsewhere by now.
fn finish(
    connection: &Connection,
    completion: &Completion,
    claim: Option<(&Claim, &Rc<str>)>,
    completed_at: &str,
) -> rusqlite::Result<bool> {
    let (id, attempt) = (completion.job_id.as_str(), completion.attempt);
    let error = completion.last_error.as_deref();
    let changed = match (completion.next, claim) {
        (Next::Terminal { status }, None) => {
            let mut statement = connection.prepare_cached(TERMINAL)?;
            statement.execute(params![id, attempt, status.as_str(), completed_at, error])?
        }
        (Next::Terminal { status }, Some((claim, started_at))) => {
            let mut statement = connection.prepare_cached(TERMINAL_WITH_CLAIM)?;
            let snapshot = &claim.config_snapshot;
            statement.execute(params![id, attempt, status.as_str(), completed_at, error, &**started_at, snapshot])?
        }
        (Next::Retry { attempt: new, next_retry_at }, None) => {
            let mut statement = connection.prepare_cached(RETRY)?;
            statement.execute(params![id, attempt, new, next_retry_at.to_string(), error])?
        }
        (Next::Retry { attempt: new, next_retry_at }, Some((claim, started_at))) => {
            let mut statement = connection.prepare_cached(RETRY_WITH_CLAIM)?;
            let snapshot = &claim.config_snapshot;
            let next = next_retry_at.to_string();
            statement.execute(params![id, attempt, new, next, error, &**started_at, snapshot])?
        }
        (Next::Requeue, None) => {
            let mut statement = connection.prepare_cached(REQUEUE)?;
            statement.execute(params![id, attempt, error])?
        }
        (Next::Requeue, Some((claim, started_at))) => {
            let mut statement = connection.prepare_cached(REQUEUE_WITH_CLAIM)?;
            statement.execute(params![id, attempt, error, &**started_at, claim.config_snapshot])?
        }
    };
    Ok(changed == 1)
}

/// The very claim is in the table already.
fn is_stored(connection: &Connection, claim: &Claim, started_at: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM job_queue WHERE id = ?1 AND attempt = ?2 AND status = 'running' AND started_at = ?3",
        )?
        .exists(params![claim.job_id.as_str(), claim.attempt, started_at])
}

/// Whether the completion would be accepted.
fn still_holds(connection: &Connection, completion: &Completion) -> rusqlite::Result<bool> {
    let (id, attempt) = (completion.job_id.as_str(), completion.attempt);
    let with_status = |status: JobStatus| {
        connection
            .prepare_cached("SELECT 1 FROM job_queue WHERE id = ?1 AND attempt = ?2 AND status = ?3")?
            .exists(params![id, attempt, status.as_str()])
    };
    match &completion.claim {
        None => with_status(JobStatus::Running),
        Some(claim) => {
            Ok(with_status(JobStatus::Queued)? || is_stored(connection, claim, &claim.started_at.to_string())?)
        }
    }
}
