//! `job_queue`, coming in: new jobs and the two look-ups for duplicates.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::LazyLock;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use shared::time::Timestamp;
use shared::wire::gateway::JobStatus;

use super::ledger::{Ledger, Transition};
use super::rows::{Binder, ManyRows};
use super::time_text::TimeTexts;
use super::write::NewJob;
use crate::queue::dedupe::{self, Check, Duplicate};

const INTO: &str = "INTO job_queue (id, plugin, command, payload, status, attempt, max_attempts, submitted_by, \
                    dedupe_key, created_at, parent_job_id, source_event_id, event_context_id, \
                    enqueued_config_snapshot_id)";
const ROW: &str = "(?,?,?,?,'queued',1,?,?,?,?,?,?,?,?)";

static JOBS: LazyLock<ManyRows> = LazyLock::new(|| ManyRows::new(&format!("INSERT OR ROLLBACK {INTO}"), ROW));

static JOB_OF_EVENT: LazyLock<String> = LazyLock::new(|| {
    format!(
        // Its id is derived from the event, so it is there whenever the event's mark is.
        "INSERT {INTO} VALUES {ROW} ON CONFLICT DO NOTHING"
    )
});

/// Admissions of a batch that follow one another and share their insert.
#[derive(Debug, Default)]
pub(super) struct Admissions<'a> {
    waiting: Vec<(&'a NewJob, Rc<str>)>,
}

impl<'a> Admissions<'a> {
    /// Takes a job in; it is in the table after the next `store`.
    pub(super) fn add(&mut self, job: &'a NewJob, times: &mut TimeTexts, ledger: &mut Ledger<'a>) {
        let at = times.text(job.created_at);
        ledger.transition(first_transition(job, &at));
        self.waiting.push((job, at));
    }

    pub(super) fn store(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        JOBS.insert(connection, &self.waiting, |(job, at), binder| bind(job, at, binder))?;
        self.waiting.clear();
        Ok(())
    }
}

/// Inserts a job that an event of another job made, unless that event made it before.
pub(super) fn insert_of_event<'a>(
    connection: &Connection,
    job: &'a NewJob,
    times: &mut TimeTexts,
    ledger: &mut Ledger<'a>,
) -> rusqlite::Result<bool> {
    let at = times.text(job.created_at);
    let mut statement = connection.prepare_cached(&JOB_OF_EVENT)?;
    bind(job, &at, &mut Binder::new(&mut statement))?;
    let inserted = statement.raw_execute()? == 1;
    if inserted {
        ledger.transition(first_transition(job, &at));
    }
    Ok(inserted)
}

/// The job that stands for this one, if any.
pub(super) fn find_duplicate(
    connection: &Connection,
    job: &NewJob,
    check: &Check,
    times: &mut TimeTexts,
) -> rusqlite::Result<Option<Duplicate>> {
    let outstanding = first_id(
        connection.prepare_cached(
            "SELECT id FROM job_queue INDEXED BY job_queue_dedupe_status_completed_idx \
             WHERE dedupe_key = ?1 AND plugin = ?2 AND command = ?3 AND status IN ('queued', 'running') LIMIT 1",
        )?,
        params![check.key(), job.plugin, job.command],
    )?;
    let mut recent_success = |since: Timestamp| {
        first_id(
            connection.prepare_cached(
                "SELECT id FROM job_queue INDEXED BY job_queue_dedupe_status_completed_idx \
                 WHERE dedupe_key = ?1 AND plugin = ?2 AND command = ?3 AND status = 'succeeded' \
                 AND completed_at >= ?4 ORDER BY completed_at DESC LIMIT 1",
            )?,
            params![check.key(), job.plugin, job.command, &*times.text(since)],
        )
    };
    let recent = match check.since() {
        Some(since) if outstanding.is_none() => recent_success(since)?,
        _ => None,
    };
    Ok(dedupe::judge(check, outstanding, recent))
}

fn first_id(mut statement: CachedStatement<'_>, parameters: impl rusqlite::Params) -> rusqlite::Result<Option<String>> {
    statement.query_row(parameters, |row| row.get(0)).optional()
}

fn first_transition<'a>(job: &'a NewJob, at: &Rc<str>) -> Transition<'a> {
    Transition {
        job_id: Cow::Borrowed(job.id.as_str()),
        from: None,
        to: JobStatus::Queued,
        reason: None,
        at: Rc::clone(at),
    }
}

fn bind(job: &NewJob, at: &str, binder: &mut Binder<'_, '_>) -> rusqlite::Result<()> {
    binder.push(job.id.as_str())?;
    binder.push(&job.plugin)?;
    binder.push(&job.command)?;
    // NULL when empty, as the reference stores it.
    binder.push(job.payload.as_deref().filter(|payload| !payload.is_empty()))?;
    binder.push(job.max_attempts)?;
    binder.push(&job.submitted_by)?;
    binder.push(&job.dedupe_key)?;
    binder.push(at)?;
    binder.push(&job.parent_job_id)?;
    binder.push(&job.source_event_id)?;
    binder.push(&job.event_context_id)?;
    binder.push(&job.config_snapshot)
}
