//! The jobs that the events of a finished job made, stored with its completion, and
//! `event_context`.

use rusqlite::{Connection, OptionalExtension, params};

use super::admission::{find_duplicate, insert_of_event};
use super::completion::Context;
use super::error::StoreError;
use super::read::Reader;
use super::time_text::TimeTexts;
use super::write::{EventContext, Routed, RoutedJobs};

/// Stores each job that is new, with its context rows.
pub(super) fn store<'a>(context: &mut Context<'_, 'a>, routed: &'a [Routed]) -> rusqlite::Result<RoutedJobs> {
    let mut told = RoutedJobs::default();
    // The jobs of one event carry its key, and must not stand in each other's way.
    for event in routed.chunk_by(|one, next| source_event(one) == source_event(next)) {
        let mut fresh = Vec::with_capacity(event.len());
        for one in event {
            let found = match &one.check {
                Some(check) => find_duplicate(context.connection, &one.job, check, &mut context.times)?,
                None => None,
            };
            match found {
                Some(found) => told.duplicates.push(found),
                None => fresh.push(one),
            }
        }
        for one in fresh {
            if insert_of_event(context.connection, &one.job, &mut context.times, &mut context.ledger)? {
                store_contexts(context.connection, &one.contexts, &mut context.times)?;
                told.admitted.push(one.job.id.clone());
            }
        }
    }
    Ok(told)
}

/// The event's id without the number of its job.
fn source_event(routed: &Routed) -> &str {
    let id = routed.job.source_event_id.as_deref().unwrap_or_default();
    id.split_once('#').map_or(id, |(event, _)| event)
}

fn store_contexts(connection: &Connection, rows: &[EventContext], times: &mut TimeTexts) -> rusqlite::Result<()> {
    for row in rows {
        connection
            .prepare_cached(
                "INSERT OR IGNORE INTO event_context (id, parent_id, pipeline_name, step_id, accumulated_json, \
                 created_at) VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                row.id,
                row.parent_id,
                row.pipeline_name,
                row.step_id,
                row.accumulated_json,
                &*times.text(row.created_at),
            ])?;
    }
    Ok(())
}

/// A stored context: pipeline, step and what was gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextRow {
    pub pipeline_name: Option<String>,
    pub step_id: Option<String>,
    pub accumulated_json: String,
}

impl Reader {
    /// # Errors
    /// `StoreError` when the database can not be read.
    pub fn event_context(&self, id: &str) -> Result<Option<ContextRow>, StoreError> {
        let read = || {
            let mut statement = self.connection().prepare_cached(
                "SELECT pipeline_name, step_id, CAST(accumulated_json AS TEXT) FROM event_context WHERE id = ?1",
            )?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok(ContextRow { pipeline_name: row.get(0)?, step_id: row.get(1)?, accumulated_json: row.get(2)? })
            };
            statement.query_row([id], row).optional()
        };
        read().map_err(|e| StoreError::sqlite("read an event context", e))
    }
}
