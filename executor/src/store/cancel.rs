//! Jobs that end from outside: status, transition and log row in one step
//! (`spec/queue-and-scheduler.md` 14.4).

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension, params};
use shared::time::Timestamp;
use shared::wire::gateway::JobStatus;

use super::completion::Context;
use super::ledger::Transition;
use super::log::{LogRow, cut_stderr};
use super::write::{Applied, Cancel, Printed};

pub(super) fn cancel<'a>(context: &mut Context<'_, 'a>, cancel: &'a Cancel) -> rusqlite::Result<Applied> {
    end(context, Cow::Borrowed(cancel.job_id.as_str()), cancel.at, &cancel.reason)
}

/// Marks a job dead that is queued or running.
pub(super) fn end<'a>(
    context: &mut Context<'_, 'a>,
    job_id: Cow<'a, str>,
    at: Timestamp,
    reason: &'a str,
) -> rusqlite::Result<Applied> {
    let found = context
        .connection
        .prepare_cached("SELECT status, attempt FROM job_queue WHERE id = ?1")?
        .query_row([&*job_id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)))
        .optional()?;
    let Some((status, attempt)) = found else { return Ok(Applied::Missing) };
    let from = match JobStatus::parse(&status) {
        Some(status) if !status.is_terminal() => status,
        _ => return Ok(Applied::Stale),
    };
    let at = context.times.text(at);
    let mut statement = context.connection.prepare_cached(
        "UPDATE job_queue SET status = 'dead', completed_at = ?2, last_error = ?3 \
         WHERE id = ?1 AND status IN ('queued', 'running')",
    )?;
    statement.execute(params![&*job_id, &*at, reason])?;
    LogRow {
        job_id: &job_id,
        attempt,
        status: JobStatus::Dead,
        completed_at: &at,
        last_error: Some(reason),
        result: None,
        stderr: None,
    }
    .store(context.connection)?;
    context.ledger.transition(Transition { job_id, from: Some(from), to: JobStatus::Dead, reason: Some(reason), at });
    Ok(Applied::Cancelled)
}

/// Adds what the process had printed to the log row of its cancel, once.
pub(super) fn printed(connection: &Connection, printed: &Printed) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "UPDATE job_log SET result = ?2, stderr = ?3 \
         WHERE id = ?1 AND status = 'dead' AND result IS NULL AND stderr IS NULL",
    )?;
    let id = format!("{}-{}", printed.job_id.as_str(), printed.attempt);
    statement.execute(params![id, printed.result, printed.stderr.as_deref().map(cut_stderr)])?;
    Ok(())
}
