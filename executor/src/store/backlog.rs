//! The queue as the dispatcher takes it into memory: by plugin, so that one full lane keeps no
//! other's jobs in the database, and what waits for its time apart from the rest.

use rusqlite::params;
use shared::time::Timestamp;

use super::error::StoreError;
use super::read::{Page, Position, QUEUED_COLUMNS, Reader, page_of};
use super::write::Reanchor;

impl Reader {
    /// The plugins that have queued jobs, whatever they wait for.
    ///
    /// # Errors
    /// `StoreError`, as for every call here, when the database can not be read.
    pub fn queued_plugins(&self) -> Result<Vec<String>, StoreError> {
        // The index begins with the plugin: one step for each plugin, not for each job.
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection().prepare_cached(
                "WITH RECURSIVE waiting(plugin) AS ( \
                   SELECT min(plugin) FROM job_queue INDEXED BY job_queue_waiting_idx WHERE status = 'queued' \
                   UNION ALL \
                   SELECT (SELECT min(plugin) FROM job_queue INDEXED BY job_queue_waiting_idx \
                           WHERE status = 'queued' AND plugin > waiting.plugin) \
                   FROM waiting WHERE waiting.plugin IS NOT NULL) \
                 SELECT plugin FROM waiting WHERE plugin IS NOT NULL",
            )?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        read().map_err(|e| StoreError::sqlite("read the plugins of the queue", e))
    }

    /// The next part of a plugin's jobs that wait for no time of their own: by `created_at`, then in
    /// the order of insertion.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn queued_of(&self, plugin: &str, after: Option<&Position>, limit: u32) -> Result<Page, StoreError> {
        let read = || {
            // Every text sorts after the empty one.
            let (created_at, rowid) = after.map_or(("", 0), Position::parts);
            let mut statement = self.connection().prepare_cached(&format!(
                "SELECT {QUEUED_COLUMNS} FROM job_queue INDEXED BY job_queue_waiting_idx \
                 WHERE status = 'queued' AND plugin = ?1 AND next_retry_at IS NULL \
                 AND (created_at, rowid) > (?2, ?3) ORDER BY created_at, rowid LIMIT ?4"
            ))?;
            page_of(statement.query(params![plugin, created_at, rowid, limit])?, limit)
        };
        read().map_err(|e| StoreError::sqlite("read the queue", e))
    }

    /// A plugin's jobs whose time has come, the one that waited longest first.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn due_of(&self, plugin: &str, now: Timestamp, limit: u32) -> Result<Page, StoreError> {
        let read = || {
            let mut statement = self.connection().prepare_cached(&format!(
                "SELECT {QUEUED_COLUMNS} FROM job_queue INDEXED BY job_queue_waiting_idx \
                 WHERE status = 'queued' AND plugin = ?1 AND next_retry_at <= ?2 \
                 ORDER BY next_retry_at, created_at LIMIT ?3"
            ))?;
            page_of(statement.query(params![plugin, now.to_string(), limit])?, limit)
        };
        read().map_err(|e| StoreError::sqlite("read jobs that are due", e))
    }

    /// When the next of a plugin's jobs is due, of those that are not yet.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn next_due_of(&self, plugin: &str, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let read = || -> rusqlite::Result<Option<String>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT min(next_retry_at) FROM job_queue INDEXED BY job_queue_waiting_idx \
                 WHERE status = 'queued' AND plugin = ?1 AND next_retry_at > ?2",
            )?;
            statement.query_row(params![plugin, now.to_string()], |row| row.get(0))
        };
        let text = read().map_err(|e| StoreError::sqlite("read the earliest retry", e))?;
        Ok(text.and_then(|text| Timestamp::parse(&text)))
    }
}

/// After a step back of the clock: jobs of a plugin that wait longer than one back-off are due now
/// (`spec/queue-and-scheduler.md` 7.9).
pub(super) fn reanchor(connection: &rusqlite::Connection, reanchor: &Reanchor) -> rusqlite::Result<()> {
    let now = reanchor.now.to_string();
    let mut statement = connection.prepare_cached(
        "UPDATE job_queue INDEXED BY job_queue_waiting_idx SET next_retry_at = ?2 \
         WHERE status = 'queued' AND plugin = ?1 AND next_retry_at > ?3 AND attempt BETWEEN ?4 AND ?5",
    )?;
    // The first back-off comes before attempt 2; the last one stands for all that follow.
    let last = reanchor.longest.len();
    for (attempt, longest) in (2_u32..).zip(&reanchor.longest) {
        let until = if attempt as usize == last + 1 { u32::MAX } else { attempt };
        let beyond = reanchor.now.plus(*longest).to_string();
        statement.execute(params![reanchor.plugin, now, beyond, attempt, until])?;
    }
    Ok(())
}
