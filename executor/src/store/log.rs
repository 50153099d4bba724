//! `job_log`: one row an attempt, `<job_id>-<attempt>`, with that attempt's outcome as its status.

use rusqlite::{Connection, params};
use shared::wire::gateway::JobStatus;

use crate::text::beginning;

/// Bytes of stderr that a row keeps.
pub(super) const MAX_STDERR: usize = 65_536;

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct LogRow<'a> {
    pub(super) job_id: &'a str,
    pub(super) attempt: u32,
    pub(super) status: JobStatus,
    pub(super) completed_at: &'a str,
    pub(super) last_error: Option<&'a str>,
    pub(super) result: Option<&'a str>,
    pub(super) stderr: Option<&'a str>,
}

impl LogRow<'_> {
    /// Stores the row, unless there is one of this attempt; what it says of the job is taken from
    /// the queue.
    pub(super) fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT OR IGNORE INTO job_log (id, job_id, plugin, command, status, result, attempt, submitted_by, \
             created_at, completed_at, last_error, stderr, parent_job_id, source_event_id, event_context_id, \
             enqueued_config_snapshot_id, started_config_snapshot_id) \
             SELECT ?1, id, plugin, command, ?3, ?4, ?5, submitted_by, created_at, ?6, ?7, ?8, parent_job_id, \
             source_event_id, event_context_id, enqueued_config_snapshot_id, started_config_snapshot_id \
             FROM job_queue WHERE id = ?2",
        )?;
        statement.execute(params![
            format!("{}-{}", self.job_id, self.attempt),
            self.job_id,
            self.status.as_str(),
            self.result,
            self.attempt,
            self.completed_at,
            self.last_error,
            self.stderr.map(cut_stderr),
        ])?;
        Ok(())
    }
}

pub(super) fn cut_stderr(text: &str) -> &str {
    beginning(text, MAX_STDERR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stderr_is_cut_between_characters() {
        assert_eq!(cut_stderr("short"), "short");
        assert_eq!(cut_stderr(&"a".repeat(MAX_STDERR + 1)).len(), MAX_STDERR);
        let text = format!("a{}", "é".repeat(MAX_STDERR));
        assert_eq!(cut_stderr(&text).len(), MAX_STDERR - 1);
    }
}
