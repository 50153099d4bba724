//! `schedule_entries` and `schedule_occurrences`: where each entry stands and what became of each
//! of its slots (`spec/queue-and-scheduler.md` 7.3, 10.3).

use std::borrow::Cow;
use std::collections::HashMap;

use rusqlite::{Connection, Row, params};
use shared::id::JobId;
use shared::time::Timestamp;

use super::admission::find_duplicate;
use super::batch::admit;
use super::completion::Context;
use super::error::StoreError;
use super::read::Reader;
use super::write::{Applied, CancelOwn, Scheduling};
use super::{breaker, cancel};
use crate::queue::dedupe::Duplicate;
use crate::schedule::ran::Ran;
use crate::schedule::record::{Occurrence, Outcome, Record, Status};

/// Why a slot of catch-up made no job.
const DUPLICATE: &str = "duplicate";

/// The jobs of an entry that are queued or running: those with its key, and those of its catch-up,
/// whose keys go on after a prefix. A key names its plugin.
const OUTSTANDING: &str = "SELECT id FROM job_queue INDEXED BY job_queue_dedupe_status_completed_idx \
                           WHERE dedupe_key = ?1 AND status IN ('queued', 'running') AND submitted_by = ?3 \
                           UNION ALL \
                           SELECT id FROM job_queue INDEXED BY job_queue_dedupe_status_completed_idx \
                           WHERE dedupe_key > ?2 AND dedupe_key < ?2 || x'ff' AND status IN ('queued', 'running') \
                           AND submitted_by = ?3";

fn catch_up_of(key: &str) -> String {
    format!("{key}:catchup:")
}

/// Everything of one look at an entry.
pub(super) fn store<'a>(context: &mut Context<'_, 'a>, wanted: &'a Scheduling) -> rusqlite::Result<Applied> {
    let cancelled = match &wanted.cancel {
        Some(own) => cancel_own(context, wanted, own)?,
        None => Vec::new(),
    };
    let mut duplicates: HashMap<&JobId, Duplicate> = HashMap::new();
    for (job, check) in &wanted.jobs {
        if let Some(check) = check
            && let Some(found) = find_duplicate(context.connection, job, check, &mut context.times)?
        {
            duplicates.insert(&job.id, found);
            continue;
        }
        admit(context, job)?;
    }
    if let Some(change) = &wanted.breaker {
        breaker::store(context.connection, change, &mut context.times)?;
    }
    store_record(context.connection, wanted, &context.times.text(wanted.at))?;
    for occurrence in &wanted.occurrences {
        store_occurrence(context.connection, wanted, occurrence, &duplicates, &context.times.text(wanted.at))?;
    }
    let duplicates = duplicates.into_iter().map(|(job, found)| (job.clone(), found)).collect();
    Ok(Applied::Scheduled { cancelled, duplicates })
}

fn cancel_own<'a>(
    context: &mut Context<'_, 'a>,
    wanted: &'a Scheduling,
    own: &'a CancelOwn,
) -> rusqlite::Result<Vec<JobId>> {
    let ids: Vec<String> = context
        .connection
        .prepare_cached(OUTSTANDING)?
        .query_map(params![own.dedupe_key, catch_up_of(&own.dedupe_key), own.submitted_by], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut cancelled = Vec::with_capacity(ids.len());
    for id in ids {
        cancelled.extend(JobId::parse(&id).ok());
        cancel::end(context, Cow::Owned(id), wanted.at, &own.reason)?;
    }
    Ok(cancelled)
}

fn store_record(connection: &Connection, wanted: &Scheduling, at: &str) -> rusqlite::Result<()> {
    let Record { command, status, reason, last_fired_at, next_run_at, .. } = &wanted.record;
    let mut statement = connection.prepare_cached(
        "INSERT INTO schedule_entries (plugin, schedule_id, command, status, reason, last_fired_at, next_run_at, \
         updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
         ON CONFLICT (plugin, schedule_id) DO UPDATE SET command = ?3, status = ?4, reason = ?5, \
         last_success_job_id = iif(command = ?3, last_success_job_id, NULL), \
         last_success_at = iif(command = ?3, last_success_at, NULL), last_fired_at = ?6, next_run_at = ?7, updated_at = ?8",
    )?;
    let text = |time: &Option<Timestamp>| time.map(|time| time.to_string());
    let (fired, next) = (text(last_fired_at), text(next_run_at));
    statement.execute(params![wanted.plugin, wanted.schedule_id, command, status.as_str(), reason, fired, next, at])?;
    Ok(())
}

/// A row for the slot, or one more slot in the row before it; a row that names a job stays. A slot
/// that was skipped may still be run until its next replaces it, so the newest one always has a row
/// of its own: it joins the row before it when it is the newest no more.
fn store_occurrence(
    connection: &Connection,
    wanted: &Scheduling,
    occurrence: &Occurrence,
    duplicates: &HashMap<&JobId, Duplicate>,
    at: &str,
) -> rusqlite::Result<()> {
    let (outcome, reason, job_id) = match &occurrence.outcome {
        Outcome::Enqueued { job_id } if duplicates.contains_key(job_id) => ("skipped", Some(DUPLICATE), None),
        Outcome::Enqueued { job_id } => ("enqueued", None, Some(job_id.as_str())),
        Outcome::Skipped { reason } => ("skipped", Some(*reason), None),
        Outcome::Missed { reason } => ("missed", Some(*reason), None),
    };
    let slot_at = occurrence.slot_at.to_string();
    join_newest(connection, wanted, &slot_at)?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO schedule_occurrences (plugin, schedule_id, slot_at, until_at, slots, outcome, reason, job_id, \
         recorded_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT (plugin, schedule_id, slot_at) DO UPDATE SET until_at = ?4, slots = ?5, outcome = ?6, \
         reason = ?7, job_id = ?8, recorded_at = ?9 WHERE outcome <> 'enqueued'",
    )?;
    let until_at = occurrence.until_at.to_string();
    statement.execute(params![
        wanted.plugin,
        wanted.schedule_id,
        slot_at,
        until_at,
        occurrence.slots,
        outcome,
        reason,
        job_id,
        at
    ])?;
    Ok(())
}

/// Before a later slot is stored: the newest row joins the one before it when both say the same and
/// neither is a job's.
fn join_newest(connection: &Connection, wanted: &Scheduling, slot_at: &str) -> rusqlite::Result<()> {
    struct Newest {
        slot_at: String,
        until_at: String,
        slots: u32,
        outcome: String,
        reason: Option<String>,
    }
    let rows: Vec<Newest> = connection
        .prepare_cached(
            "SELECT slot_at, until_at, slots, outcome, reason FROM schedule_occurrences \
             WHERE plugin = ?1 AND schedule_id = ?2 ORDER BY slot_at DESC LIMIT 2",
        )?
        .query_map(params![wanted.plugin, wanted.schedule_id], |row| {
            Ok(Newest {
                slot_at: row.get(0)?,
                until_at: row.get(1)?,
                slots: row.get(2)?,
                outcome: row.get(3)?,
                reason: row.get(4)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let [newest, before] = rows.as_slice() else { return Ok(()) };
    let say_the_same = newest.outcome == before.outcome && newest.reason == before.reason;
    if newest.slot_at.as_str() >= slot_at || newest.outcome == "enqueued" || !say_the_same {
        return Ok(());
    }
    connection
        .prepare_cached("DELETE FROM schedule_occurrences WHERE plugin = ?1 AND schedule_id = ?2 AND slot_at = ?3")?
        .execute(params![wanted.plugin, wanted.schedule_id, newest.slot_at])?;
    connection
        .prepare_cached(
            "UPDATE schedule_occurrences SET until_at = ?4, slots = slots + ?5 \
             WHERE plugin = ?1 AND schedule_id = ?2 AND slot_at = ?3",
        )?
        .execute(params![wanted.plugin, wanted.schedule_id, before.slot_at, newest.until_at, newest.slots])?;
    Ok(())
}

impl Reader {
    /// What is stored of every entry, by plugin and schedule id; entries that are configured no more
    /// are among them. Where the clock went back, the slots that have come since are what counts.
    ///
    /// # Errors
    /// `StoreError`, as for every call here, when the database can not be read.
    pub fn schedule_entries(&self, now: Timestamp) -> Result<HashMap<(String, String), Record>, StoreError> {
        let read = || -> rusqlite::Result<HashMap<(String, String), Record>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT plugin, schedule_id, command, status, reason, last_fired_at, last_success_job_id, \
                 last_success_at, next_run_at, coalesce(\
                 (SELECT until_at FROM schedule_occurrences o WHERE o.plugin = e.plugin \
                 AND o.schedule_id = e.schedule_id AND slot_at <= ?1 ORDER BY slot_at DESC LIMIT 1), \
                 (SELECT until_at FROM schedule_occurrences o WHERE o.plugin = e.plugin \
                 AND o.schedule_id = e.schedule_id ORDER BY slot_at LIMIT 1)) \
                 FROM schedule_entries e",
            )?;
            statement.query_map([now.to_string()], |row| Ok(((row.get(0)?, row.get(1)?), record(row)?)))?.collect()
        };
        read().map_err(|e| StoreError::sqlite("read the schedule entries", e))
    }

    /// The slots of an entry from `floor` on that became jobs; not more than there can be in a week
    /// of five seconds each.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn slots_run(&self, plugin: &str, schedule_id: &str, floor: Timestamp) -> Result<Ran, StoreError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT slot_at FROM schedule_occurrences WHERE plugin = ?1 AND schedule_id = ?2 AND slot_at >= ?3 \
                 AND outcome = 'enqueued' ORDER BY slot_at LIMIT 120960",
            )?;
            statement.query_map(params![plugin, schedule_id, floor.to_string()], |row| row.get(0))?.collect()
        };
        let slots = read().map_err(|e| StoreError::sqlite("read the slots of a schedule entry", e))?;
        Ok(slots.iter().filter_map(|slot| Timestamp::parse(slot)).collect())
    }

    /// The jobs of an entry that are queued or running, those of its catch-up too.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn outstanding_of(&self, key: &str, submitted_by: &str) -> Result<Vec<JobId>, StoreError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection().prepare_cached(OUTSTANDING)?;
            statement.query_map(params![key, catch_up_of(key), submitted_by], |row| row.get(0))?.collect()
        };
        let ids = read().map_err(|e| StoreError::sqlite("read the jobs of a schedule entry", e))?;
        Ok(ids.iter().filter_map(|id| JobId::parse(id).ok()).collect())
    }
}

/// A time that can not be read counts as none, a status as active.
fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let time = |index: usize| -> rusqlite::Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<String>>(index)?.and_then(|text| Timestamp::parse(&text)))
    };
    Ok(Record {
        command: row.get(2)?,
        status: Status::parse(&row.get::<_, String>(3)?).unwrap_or(Status::Active),
        reason: row.get(4)?,
        last_fired_at: time(5)?,
        last_success_job_id: row.get(6)?,
        last_success_at: time(7)?,
        next_run_at: time(8)?,
        last_slot_at: time(9)?,
    })
}

/// The success of one of its jobs.
pub(super) fn succeeded(
    connection: &Connection,
    entry: &(String, String),
    job_id: &str,
    at: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE schedule_entries SET last_success_job_id = ?3, last_success_at = ?4 \
             WHERE plugin = ?1 AND schedule_id = ?2",
        )?
        .execute(params![entry.0, entry.1, job_id, at])
        .map(|_| ())
}
