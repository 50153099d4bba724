//! What the database must look like. A fresh one gets everything; any other is only looked at and
//! never altered (`spec/queue-and-scheduler.md` 10.2): bringing it up to date is the operator's
//! decision.

use std::fmt;
use std::path::Path;

use rusqlite::Connection;

use super::error::{StoreError, StoreErrorKind};

/// The whole schema, the sum of all migrations.
pub const SCHEMA: &str = include_str!("../../../migrations/schema.sql");

/// Checked in this order, then columns, then indexes; the first that is missing is reported.
const TABLES: [&str; 13] = [
    "storage_sequences",
    "job_queue",
    "job_transitions",
    "job_attempts",
    "config_snapshots",
    "plugin_state",
    "plugin_facts",
    "event_context",
    "job_log",
    "circuit_breakers",
    "circuit_breaker_transitions",
    "schedule_entries",
    "schedule_occurrences",
];

const COLUMNS: [(&str, &str); 14] = [
    ("job_log", "result"),
    ("job_log", "job_id"),
    ("job_queue", "event_context_id"),
    ("job_log", "event_context_id"),
    ("schedule_entries", "last_success_job_id"),
    ("schedule_entries", "last_fired_at"),
    ("schedule_entries", "last_success_at"),
    ("schedule_entries", "next_run_at"),
    ("storage_sequences", "name"),
    ("storage_sequences", "value"),
    ("plugin_facts", "seq"),
    ("plugin_facts", "fact_type"),
    ("plugin_facts", "fact_json"),
    ("plugin_facts", "created_at"),
];

const INDEXES: [&str; 20] = [
    "job_log_job_id_attempt_idx",
    "job_log_completed_at_idx",
    "job_queue_dedupe_status_completed_idx",
    "job_transitions_created_at_idx",
    "job_attempts_created_at_idx",
    "circuit_breaker_transitions_created_at_idx",
    "plugin_facts_plugin_created_at_idx",
    "plugin_facts_plugin_type_created_at_idx",
    "plugin_facts_plugin_seq_idx",
    "plugin_facts_plugin_type_seq_idx",
    // Relied upon by our statements, which fail without them.
    "job_queue_status_created_at_idx",
    EVENT_SOURCE_INDEX,
    // Ours.
    "job_queue_parent_idx",
    "job_queue_created_at_idx",
    "job_queue_plugin_created_at_idx",
    "job_queue_waiting_idx",
    "schedule_occurrences_until_at_idx",
    "event_context_created_at_idx",
    "job_queue_event_context_idx",
    "job_log_event_context_idx",
];

const EVENT_SOURCE_INDEX: &str = "job_queue_event_source_idx";

/// Tables whose writers fail softly; an older database may lack them.
const SOFT: [&str; 4] = ["vault_audit", "job_stopwatch", "job_stopwatch_rollup_daily", "janitor_heartbeat"];

/// Something that must be there and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Table(&'static str),
    Column(&'static str, &'static str),
    Index(&'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => write!(f, "missing table {table}"),
            Self::Column(table, column) => write!(f, "missing column {table}.{column}"),
            Self::Index(index) => write!(f, "missing index {index}"),
        }
    }
}

impl Missing {
    /// The reference's script that adds it; operators know these names.
    fn script(self) -> Option<&'static str> {
        const FACTS: &str = "migrate-hickey-sprint-7-plugin-facts.py";
        const SEQUENCE: &str = "migrate-hickey-sprint-9-plugin-fact-seq.py";
        match self {
            Self::Table("storage_sequences")
            | Self::Column("storage_sequences", _)
            | Self::Column("plugin_facts", "seq")
            | Self::Index("plugin_facts_plugin_seq_idx" | "plugin_facts_plugin_type_seq_idx") => Some(SEQUENCE),
            Self::Table("plugin_facts")
            | Self::Column("plugin_facts", _)
            | Self::Index("plugin_facts_plugin_created_at_idx" | "plugin_facts_plugin_type_created_at_idx") => {
                Some(FACTS)
            }
            Self::Index(EVENT_SOURCE_INDEX) => Some("migrate-fanout-dedupe-index.py"),
            _ => None,
        }
    }
}

/// No table of anyone's.
pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\')",
        [],
        |row| row.get(0),
    )
}

/// Creates everything in one transaction.
pub(super) fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.commit()
}

/// Looks for everything that start-up requires; objects of others are allowed.
pub(super) fn validate(connection: &Connection, config: &Path) -> Result<(), StoreError> {
    let missing = find_missing(connection).map_err(|e| StoreError::sqlite("read the database schema", e))?;
    let Some(missing) = missing else { return Ok(()) };
    let mut text = format!(
        "sqlite schema validation failed: {missing}; run 'ductile db migrate --config {}' before deploy",
        config.display()
    );
    if let Some(script) = missing.script() {
        text.push_str(&format!(" (it takes the place of scripts/{script})"));
    }
    Err(StoreError::plain(StoreErrorKind::Schema, text))
}

fn find_missing(connection: &Connection) -> rusqlite::Result<Option<Missing>> {
    for table in TABLES {
        if !exists(connection, "table", table)? {
            return Ok(Some(Missing::Table(table)));
        }
    }
    for (table, column) in COLUMNS {
        if !connection.prepare_cached("SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2")?.exists([table, column])? {
            return Ok(Some(Missing::Column(table, column)));
        }
    }
    for index in INDEXES {
        if !exists(connection, "index", index)? {
            return Ok(Some(Missing::Index(index)));
        }
    }
    // It was narrower under the same name; admission relies on all its columns.
    let widened = connection
        .prepare_cached("SELECT 1 FROM pragma_index_info(?1) WHERE name = 'command'")?
        .exists([EVENT_SOURCE_INDEX])?;
    Ok((!widened).then_some(Missing::Index(EVENT_SOURCE_INDEX)))
}

/// The soft tables that are not there.
pub(super) fn missing_soft(connection: &Connection) -> rusqlite::Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for table in SOFT {
        if !exists(connection, "table", table)? {
            missing.push(table);
        }
    }
    Ok(missing)
}

fn exists(connection: &Connection, kind: &str, name: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM sqlite_master WHERE type = ?1 AND name = ?2")?.exists([kind, name])
}
