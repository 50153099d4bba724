//! Old rows go, a bounded number at a time, each table by an index that finds them
//! (`spec/queue-and-scheduler.md` 9, 14.17).

use rusqlite::{Connection, params};

use super::completion::Context;
use super::write::{Applied, Prune, Pruned};

/// The terminal statuses, one index range each.
const FINISHED: [&str; 5] = ["succeeded", "failed", "skipped", "timed_out", "dead"];

pub(super) fn prune(context: &Context<'_, '_>, wanted: &Prune) -> rusqlite::Result<Applied> {
    let (connection, before, limit) = (context.connection, wanted.before.to_string(), wanted.limit);
    let delete =
        |sql: &str| -> rusqlite::Result<usize> { connection.prepare_cached(sql)?.execute(params![before, limit]) };
    let rows = match wanted.table {
        Pruned::JobQueue => prune_queue(connection, &before, limit)?,
        Pruned::PluginFacts => prune_facts(connection, &before, limit)?,
        Pruned::Stopwatch if !context.stopwatch => 0,
        table => delete(statement_of(table))?,
    };
    Ok(Applied::Pruned { rows: u32::try_from(rows).unwrap_or(u32::MAX) })
}

/// Of the tables that one statement serves; `?1` is the time, `?2` the limit.
pub(super) fn statement_of(table: Pruned) -> &'static str {
    match table {
        Pruned::JobLog => {
            "DELETE FROM job_log WHERE rowid IN (SELECT rowid FROM job_log INDEXED BY job_log_completed_at_idx \
             WHERE completed_at < ?1 ORDER BY completed_at LIMIT ?2)"
        }
        Pruned::JobTransitions => {
            "DELETE FROM job_transitions WHERE id IN (SELECT id FROM job_transitions \
             INDEXED BY job_transitions_created_at_idx WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)"
        }
        Pruned::JobAttempts => {
            "DELETE FROM job_attempts WHERE id IN (SELECT id FROM job_attempts \
             INDEXED BY job_attempts_created_at_idx WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)"
        }
        Pruned::BreakerTransitions => {
            "DELETE FROM circuit_breaker_transitions WHERE rowid IN (SELECT rowid FROM circuit_breaker_transitions \
             INDEXED BY circuit_breaker_transitions_created_at_idx WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)"
        }
        // The newest row of an entry says where its grid stands.
        Pruned::ScheduleOccurrences => {
            "DELETE FROM schedule_occurrences WHERE rowid IN (SELECT rowid FROM schedule_occurrences old \
             INDEXED BY schedule_occurrences_until_at_idx WHERE until_at < ?1 AND EXISTS (SELECT 1 \
             FROM schedule_occurrences newer WHERE newer.plugin = old.plugin AND newer.schedule_id = old.schedule_id \
             AND newer.slot_at > old.slot_at) ORDER BY until_at LIMIT ?2)"
        }
        Pruned::EventContext => {
            "DELETE FROM event_context WHERE rowid IN (SELECT rowid FROM event_context old \
             INDEXED BY event_context_created_at_idx WHERE created_at < ?1 \
             AND NOT EXISTS (SELECT 1 FROM job_queue INDEXED BY job_queue_event_context_idx \
             WHERE event_context_id = old.id) AND NOT EXISTS (SELECT 1 FROM job_log \
             INDEXED BY job_log_event_context_idx WHERE event_context_id = old.id) ORDER BY created_at LIMIT ?2)"
        }
        // A snapshot is named by jobs that were admitted or begun before the next one was taken; the
        // table has a row for each start, so it may be read whole.
        Pruned::ConfigSnapshots => {
            "DELETE FROM config_snapshots WHERE rowid IN (SELECT old.rowid FROM config_snapshots old \
             WHERE loaded_at < ?1 AND (SELECT min(loaded_at) FROM config_snapshots newer \
             WHERE newer.loaded_at > old.loaded_at) < min( \
             coalesce((SELECT min(created_at) FROM job_queue INDEXED BY job_queue_created_at_idx), '9'), \
             coalesce((SELECT min(completed_at) FROM job_log INDEXED BY job_log_completed_at_idx), '9')) \
             ORDER BY loaded_at LIMIT ?2)"
        }
        // Its rows are in the order of their time; only the first ones are looked at.
        Pruned::Stopwatch => {
            "DELETE FROM job_stopwatch WHERE id IN (SELECT id FROM (SELECT id, recorded_at FROM job_stopwatch \
             ORDER BY id LIMIT ?2) WHERE recorded_at < ?1)"
        }
        Pruned::JobQueue => QUEUE,
        Pruned::PluginFacts => FACTS,
    }
}

const QUEUE: &str = "DELETE FROM job_queue WHERE rowid IN (SELECT rowid FROM job_queue \
                     INDEXED BY job_queue_status_created_at_idx WHERE status = ?3 AND created_at < ?1 \
                     AND completed_at < ?1 ORDER BY created_at LIMIT ?2)";

fn prune_queue(connection: &Connection, before: &str, limit: u32) -> rusqlite::Result<usize> {
    let mut rows = 0;
    for status in FINISHED {
        let left = limit.saturating_sub(u32::try_from(rows).unwrap_or(u32::MAX));
        if left > 0 {
            rows += connection.prepare_cached(QUEUE)?.execute(params![before, left, status])?;
        }
    }
    Ok(rows)
}

// The newest fact of a type stands for what the plugin knows, and stays.
const FACTS: &str = "DELETE FROM plugin_facts WHERE rowid IN (SELECT old.rowid FROM plugin_facts old \
                     INDEXED BY plugin_facts_plugin_created_at_idx WHERE plugin_name = ?3 AND created_at < ?1 \
                     AND EXISTS (SELECT 1 FROM plugin_facts newer \
                     INDEXED BY plugin_facts_plugin_type_created_at_idx WHERE newer.plugin_name = old.plugin_name \
                     AND newer.fact_type = old.fact_type AND newer.created_at > old.created_at) \
                     ORDER BY created_at LIMIT ?2)";

fn prune_facts(connection: &Connection, before: &str, limit: u32) -> rusqlite::Result<usize> {
    // The index begins with the plugin: one step for each plugin.
    let plugins: Vec<String> = connection
        .prepare_cached(
            "WITH RECURSIVE found(name) AS ( \
               SELECT min(plugin_name) FROM plugin_facts INDEXED BY plugin_facts_plugin_created_at_idx \
               UNION ALL \
               SELECT (SELECT min(plugin_name) FROM plugin_facts INDEXED BY plugin_facts_plugin_created_at_idx \
                       WHERE plugin_name > found.name) FROM found WHERE found.name IS NOT NULL) \
             SELECT name FROM found WHERE name IS NOT NULL",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut rows = 0;
    for plugin in plugins {
        let left = limit.saturating_sub(u32::try_from(rows).unwrap_or(u32::MAX));
        if left > 0 {
            rows += connection.prepare_cached(FACTS)?.execute(params![before, left, plugin])?;
        }
    }
    Ok(rows)
}
