//! Reading: connections that can not write. Each call is a transaction of its own, so that no
//! reader keeps the log from being folded back.

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, Rows};
use shared::id::JobId;
use shared::time::Timestamp;
use shared::wire::gateway::{ActivePoll, JobStatus};

use super::error::StoreError;
use super::state;

/// One connection that only reads. Not shared between threads: make one for each.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

/// A job with the log row of its current attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    pub job_id: JobId,
    pub status: JobStatus,
    pub plugin: String,
    pub command: String,
    pub attempt: u32,
    pub max_attempts: u32,
    pub submitted_by: String,
    pub dedupe_key: Option<String>,
    pub created_at: String,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    pub last_error: Option<String>,
    /// What the plugin printed in this attempt.
    pub result: Option<String>,
    pub stderr: Option<String>,
}

/// What a job that is run again takes from the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSource {
    pub status: JobStatus,
    pub plugin: String,
    pub command: String,
    pub payload: Option<String>,
    pub dedupe_key: Option<String>,
    pub event_context_id: Option<String>,
}

/// Where a page of the queue ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    created_at: String,
    rowid: i64,
}

impl Position {
    /// Whether a job of this creation time may lie before it.
    pub fn is_after(&self, created_at: Timestamp) -> bool {
        created_at.to_string() <= self.created_at
    }

    pub(super) fn parts(&self) -> (&str, i64) {
        (&self.created_at, self.rowid)
    }
}

/// A job that waits or runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    pub job_id: JobId,
    pub plugin: String,
    pub command: String,
    pub payload: Option<String>,
    pub attempt: u32,
    pub max_attempts: u32,
    pub submitted_by: String,
    pub dedupe_key: Option<String>,
    pub created_at: String,
    pub parent_job_id: Option<String>,
    pub event_context_id: Option<String>,
}

/// A part of the queue, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub jobs: Vec<QueuedJob>,
    /// Where the next page begins; `None` when this one reached the end of the queue. A page ends
    /// early when its payloads are large.
    pub next: Option<Position>,
    /// Rows that are no job's, as only another program writes them. They stay queued.
    pub unreadable: u64,
}

/// Payload bytes after which a page ends.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

pub(super) const QUEUED_COLUMNS: &str = "rowid, id, plugin, command, CAST(payload AS TEXT), attempt, max_attempts, submitted_by, \
                              dedupe_key, created_at, parent_job_id, event_context_id";

impl Reader {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// # Errors
    /// `StoreError`, as for every call here, when the database can not be read.
    pub fn job(&self, job_id: &JobId) -> Result<Option<JobRow>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT q.plugin, q.command, q.status, q.attempt, q.max_attempts, q.submitted_by, q.created_at, \
                 q.started_at, q.completed_at, q.last_error, l.result, l.stderr, q.dedupe_key \
                 FROM job_queue q LEFT JOIN job_log l ON l.id = q.id || '-' || q.attempt WHERE q.id = ?1",
            )?;
            statement.query_row([job_id.as_str()], |row| job_row(job_id, row)).optional()
        };
        read().map_err(|e| StoreError::sqlite("read a job", e))
    }

    /// What a new job copies from this one.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn job_source(&self, job_id: &JobId) -> Result<Option<JobSource>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT status, plugin, command, CAST(payload AS TEXT), dedupe_key, event_context_id \
                 FROM job_queue WHERE id = ?1",
            )?;
            let source = |row: &Row<'_>| {
                Ok(JobSource {
                    status: status(row, 0)?,
                    plugin: row.get(1)?,
                    command: row.get(2)?,
                    payload: row.get(3)?,
                    dedupe_key: row.get(4)?,
                    event_context_id: row.get(5)?,
                })
            };
            statement.query_row([job_id.as_str()], source).optional()
        };
        read().map_err(|e| StoreError::sqlite("read a job", e))
    }

    /// The `poll` jobs of this submitter that are queued or running, oldest first, a thousand at most
    /// (`spec/queue-and-scheduler.md` 10.6).
    ///
    /// # Errors
    /// `StoreError`.
    pub fn active_of(&self, submitted_by: &str) -> Result<Vec<ActivePoll>, StoreError> {
        let read = || -> rusqlite::Result<Vec<ActivePoll>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, plugin, dedupe_key, status, attempt, created_at, started_at FROM job_queue \
                 INDEXED BY job_queue_status_created_at_idx \
                 WHERE status IN ('queued', 'running') AND submitted_by = ?1 AND command = 'poll' \
                 ORDER BY created_at, rowid LIMIT 1000",
            )?;
            let rows = statement.query_map([submitted_by], |row| {
                let id: String = row.get(0)?;
                let Ok(job_id) = JobId::parse(&id) else { return Ok(None) };
                Ok(Some(ActivePoll {
                    job_id,
                    plugin: row.get(1)?,
                    dedupe_key: row.get(2)?,
                    status: status(row, 3)?,
                    attempt: row.get(4)?,
                    created_at: row.get(5)?,
                    started_at: row.get(6)?,
                }))
            })?;
            rows.filter_map(rusqlite::Result::transpose).collect()
        };
        read().map_err(|e| StoreError::sqlite("read scheduled jobs", e))
    }

    /// Jobs queued or running.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn depth(&self) -> Result<u64, StoreError> {
        self.one(
            "SELECT count(*) FROM job_queue INDEXED BY job_queue_status_created_at_idx \
             WHERE status IN ('queued', 'running')",
            "count the queue",
        )
        .map(|count: Option<i64>| count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
    }

    /// The state that a plugin's next request shows, as it is stored: see `check_stored`.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn plugin_state(&self, plugin: &str) -> Result<Option<String>, StoreError> {
        state::stored(&self.connection, plugin).map_err(|e| StoreError::sqlite("read plugin state", e))
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn one<T: FromSql>(&self, sql: &str, what: &str) -> Result<T, StoreError> {
        let read = || self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0));
        read().map_err(|e| StoreError::sqlite(what, e))
    }
}

/// Collects the rows of `QUEUED_COLUMNS`, of which at most `limit` were asked for.
pub(super) fn page_of(mut rows: Rows<'_>, limit: u32) -> rusqlite::Result<Page> {
    let mut page = Page { jobs: Vec::new(), next: None, unreadable: 0 };
    let (mut taken, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        taken += 1;
        page.next = Some(Position { created_at: row.get("created_at")?, rowid: row.get(0)? });
        match queued_row(row)? {
            Some(job) => {
                bytes += job.payload.as_ref().map_or(0, String::len);
                page.jobs.push(job);
            }
            None => page.unreadable += 1,
        }
        if bytes >= PAGE_BYTES {
            return Ok(page);
        }
    }
    if taken < limit {
        page.next = None;
    }
    Ok(page)
}

pub(super) fn running(connection: &Connection) -> rusqlite::Result<Vec<QueuedJob>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {QUEUED_COLUMNS} FROM job_queue INDEXED BY job_queue_status_created_at_idx \
         WHERE status = 'running' ORDER BY created_at, rowid"
    ))?;
    let rows = statement.query_and_then([], queued_row)?;
    rows.filter_map(rusqlite::Result::transpose).collect()
}

/// `None` for a row that is no job's.
fn queued_row(row: &Row<'_>) -> rusqlite::Result<Option<QueuedJob>> {
    match readable_row(row) {
        Err(error @ rusqlite::Error::SqliteFailure(..)) => Err(error),
        // Everything else is about a value of this row, and must not hide the rows behind it.
        Err(_) => Ok(None),
        job => job,
    }
}

fn readable_row(row: &Row<'_>) -> rusqlite::Result<Option<QueuedJob>> {
    let id: String = row.get(1)?;
    let Ok(job_id) = JobId::parse(&id) else { return Ok(None) };
    Ok(Some(QueuedJob {
        job_id,
        plugin: row.get(2)?,
        command: row.get(3)?,
        payload: row.get(4)?,
        attempt: row.get(5)?,
        max_attempts: row.get(6)?,
        submitted_by: row.get(7)?,
        dedupe_key: row.get(8)?,
        created_at: row.get(9)?,
        parent_job_id: row.get(10)?,
        event_context_id: row.get(11)?,
    }))
}

fn job_row(job_id: &JobId, row: &Row<'_>) -> rusqlite::Result<JobRow> {
    Ok(JobRow {
        job_id: job_id.clone(),
        plugin: row.get(0)?,
        command: row.get(1)?,
        status: status(row, 2)?,
        attempt: row.get(3)?,
        max_attempts: row.get(4)?,
        submitted_by: row.get(5)?,
        created_at: row.get(6)?,
        started_at: row.get(7)?,
        completed_at: row.get(8)?,
        last_error: row.get(9)?,
        result: row.get(10)?,
        stderr: row.get(11)?,
        dedupe_key: row.get(12)?,
    })
}

fn status(row: &Row<'_>, index: usize) -> rusqlite::Result<JobStatus> {
    JobStatus::parse(&row.get::<_, String>(index)?).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, "no status of a job".into())
    })
}
