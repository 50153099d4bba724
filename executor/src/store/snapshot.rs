//! `config_snapshots`: which configuration a job was admitted and started under.

use rusqlite::{Connection, params};
use shared::time::Timestamp;
use uuid::{NoContext, Uuid};

use super::error::StoreError;
use super::open::WriteConnection;

/// A configuration as it became active. `id` comes from `new_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSnapshot {
    pub id: String,
    pub config_hash: String,
    pub source_hash: Option<String>,
    pub source_path: Option<String>,
    pub source: Option<String>,
    /// `startup` or `reload`.
    pub reason: String,
    pub loaded_at: Timestamp,
    pub ductile_version: Option<String>,
    pub binary_path: Option<String>,
    pub snapshot_format: u32,
    /// JSON, as are the following; no secret is in any of them.
    pub semantics: Option<String>,
    pub plugin_fingerprints: Option<String>,
    pub sanitized_config: Option<String>,
    pub secret_fingerprints: Option<String>,
}

/// A UUIDv7 of that time.
pub fn new_id(at: Timestamp) -> String {
    let nanos = u64::try_from(at.unix_nanos()).unwrap_or(0);
    let fraction = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, nanos / 1_000_000_000, fraction)).to_string()
}

/// Stores the snapshot of the start, before the writer thread runs; a reload's goes through it.
///
/// # Errors
/// `StoreError` when it can not be written.
pub fn record(connection: &WriteConnection, snapshot: &ConfigSnapshot) -> Result<(), StoreError> {
    store(&connection.connection, snapshot).map_err(|e| StoreError::sqlite("record the config snapshot", e))
}

pub(super) fn store(connection: &Connection, snapshot: &ConfigSnapshot) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO config_snapshots (id, config_hash, source_hash, source_path, source, reason, loaded_at, \
         ductile_version, binary_path, snapshot_format, semantics, plugin_fingerprints, sanitized_config, \
         secret_fingerprints) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )?;
    statement.execute(params![
        snapshot.id,
        snapshot.config_hash,
        snapshot.source_hash,
        snapshot.source_path,
        snapshot.source,
        snapshot.reason,
        snapshot.loaded_at.to_string(),
        snapshot.ductile_version,
        snapshot.binary_path,
        snapshot.snapshot_format,
        snapshot.semantics,
        snapshot.plugin_fingerprints,
        snapshot.sanitized_config,
        snapshot.secret_fingerprints,
    ])?;
    Ok(())
}
