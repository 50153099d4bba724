//! `circuit_breakers` and `circuit_breaker_transitions` (`spec/queue-and-scheduler.md` 8).

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use shared::time::Timestamp;
use shared::wire::gateway;

use super::error::StoreError;
use super::read::Reader;
use super::snapshot::new_id;
use super::time_text::TimeTexts;
use super::write::BreakerChange;
use crate::queue::breaker::{Breaker, State};

/// The row, and the transition when the state changed.
pub(super) fn store(connection: &Connection, change: &BreakerChange, times: &mut TimeTexts) -> rusqlite::Result<()> {
    let BreakerChange { plugin, command, breaker, transition, at } = change;
    let at = times.text(*at);
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
    connection
        .prepare_cached(
            "INSERT INTO circuit_breakers (plugin, command, state, failure_count, opened_at, last_failure_at, \
             last_job_id, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
             ON CONFLICT (plugin, command) DO UPDATE SET state = ?3, failure_count = ?4, opened_at = ?5, \
             last_failure_at = ?6, last_job_id = ?7, updated_at = ?8",
        )?
        .execute(params![
            plugin,
            command,
            breaker.state.as_str(),
            breaker.failure_count,
            text(breaker.opened_at),
            text(breaker.last_failure_at),
            breaker.last_job_id,
            &*at,
        ])?;
    let Some(transition) = transition else { return Ok(()) };
    connection
        .prepare_cached(
            "INSERT INTO circuit_breaker_transitions (id, plugin, command, from_state, to_state, failure_count, \
             reason, job_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            new_id(transition.at),
            plugin,
            command,
            transition.from.map(State::as_str),
            transition.to.as_str(),
            transition.failure_count,
            transition.reason.as_str(),
            transition.job_id,
            &*times.text(transition.at),
        ])?;
    Ok(())
}

impl Reader {
    /// Every breaker that has a row, by plugin and command. What can not be read counts as closed.
    ///
    /// # Errors
    /// `StoreError`, as for every call here, when the database can not be read.
    pub fn breakers(&self) -> Result<HashMap<(String, String), Breaker>, StoreError> {
        let read = || -> rusqlite::Result<HashMap<(String, String), Breaker>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT plugin, command, state, failure_count, opened_at, last_failure_at, last_job_id \
                 FROM circuit_breakers",
            )?;
            let rows = statement.query_map([], |row| {
                let time = |index: usize| -> rusqlite::Result<Option<Timestamp>> {
                    Ok(row.get::<_, Option<String>>(index)?.and_then(|text| Timestamp::parse(&text)))
                };
                let breaker = Breaker {
                    state: State::parse(&row.get::<_, String>(2)?).unwrap_or(State::Closed),
                    failure_count: row.get(3)?,
                    opened_at: time(4)?,
                    last_failure_at: time(5)?,
                    last_job_id: row.get(6)?,
                };
                Ok(((row.get(0)?, row.get(1)?), breaker))
            })?;
            rows.collect()
        };
        read().map_err(|e| StoreError::sqlite("read the circuit breakers", e))
    }

    /// One breaker as it is stored, with its last transitions, newest first.
    ///
    /// # Errors
    /// `StoreError`.
    pub fn breaker(&self, plugin: &str, command: &str, limit: u32) -> Result<gateway::Breaker, StoreError> {
        let read = || -> rusqlite::Result<gateway::Breaker> {
            let found = self
                .connection()
                .prepare_cached(
                    "SELECT state, failure_count, opened_at, last_failure_at, last_job_id, updated_at \
                     FROM circuit_breakers WHERE plugin = ?1 AND command = ?2",
                )?
                .query_row([plugin, command], |row| {
                    Ok(gateway::Breaker {
                        plugin: plugin.to_owned(),
                        command: command.to_owned(),
                        state: row.get(0)?,
                        failure_count: row.get(1)?,
                        opened_at: row.get(2)?,
                        last_failure_at: row.get(3)?,
                        last_job_id: row.get(4)?,
                        updated_at: row.get(5)?,
                        transitions: Vec::new(),
                    })
                })
                .optional()?;
            let mut shown = found.unwrap_or_else(|| gateway::Breaker {
                plugin: plugin.to_owned(),
                command: command.to_owned(),
                state: None,
                failure_count: 0,
                opened_at: None,
                last_failure_at: None,
                last_job_id: None,
                updated_at: None,
                transitions: Vec::new(),
            });
            let mut statement = self.connection().prepare_cached(
                "SELECT id, from_state, to_state, failure_count, reason, job_id, created_at \
                 FROM circuit_breaker_transitions INDEXED BY circuit_breaker_transitions_plugin_command_created_idx \
                 WHERE plugin = ?1 AND command = ?2 ORDER BY created_at DESC, id DESC LIMIT ?3",
            )?;
            let rows = statement.query_map(params![plugin, command, limit], |row| {
                Ok(gateway::BreakerTransition {
                    id: row.get(0)?,
                    from_state: row.get(1)?,
                    to_state: row.get(2)?,
                    failure_count: row.get(3)?,
                    reason: row.get(4)?,
                    job_id: row.get(5)?,
                    created_at: row.get(6)?,
                })
            })?;
            shown.transitions = rows.collect::<rusqlite::Result<_>>()?;
            Ok(shown)
        };
        read().map_err(|e| StoreError::sqlite("read a circuit breaker", e))
    }
}
