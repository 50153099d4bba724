//! `job_stopwatch`: one row a spawn.

use rusqlite::{Connection, params};

use super::write::StopwatchRow;

pub(super) fn store(
    connection: &Connection,
    row: &StopwatchRow,
    job_id: &str,
    attempt: u32,
    recorded_at: &str,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO job_stopwatch (job_id, plugin, pipeline, step_id, pipeline_instance_id, attempt, enter_wall_ns, \
         exit_wall_ns, dur_ns, runtime_pre_ns, runtime_post_ns, status, subs_json, recorded_at) \
         VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )?;
    statement.execute(params![
        job_id,
        row.plugin,
        row.pipeline,
        row.step_id,
        row.pipeline_instance_id,
        attempt,
        row.enter_wall_ns,
        row.exit_wall_ns,
        row.dur_ns,
        row.runtime_pre_ns,
        row.runtime_post_ns,
        row.status.as_str(),
        row.subs_json,
        recorded_at,
    ])?;
    Ok(())
}
