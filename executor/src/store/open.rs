//! Opening: one connection that writes, and as many that only read as are asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::checkpoint::Checkpoints;
use super::error::{StoreError, StoreErrorKind};
use super::read::Reader;
use super::{place, schema};

/// How long a connection waits for a lock that another program holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages that the writer keeps, in KiB: the leaves that a job touches, of all tables and indexes. No
/// more, since SQLite walks all of them at a commit that has balanced a tree.
const CACHE_KIB: u32 = 2 * 1024;

/// Every statement of the writer stays prepared.
const STATEMENTS: usize = 64;

/// An opened and validated database.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    missing_soft: Vec<&'static str>,
}

impl Store {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tables that an older database may lack: their writers skip their rows, which deserves one
    /// line in the log at start.
    pub fn missing_soft(&self) -> &[&'static str] {
        &self.missing_soft
    }

    /// One more connection that only reads.
    ///
    /// # Errors
    /// `StoreError` when the file can not be opened.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        let failed = |e| StoreError::sqlite(format!("open {} for reading", self.path.display()), e);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute_batch("PRAGMA query_only = ON").map_err(failed)?;
        Ok(Reader::new(connection))
    }
}

/// The one connection that writes. Recovery uses it first; then the writer thread owns it.
#[derive(Debug)]
pub struct WriteConnection {
    pub(super) connection: Connection,
    /// The table is there.
    pub(super) stopwatch: bool,
    pub(super) checkpoints: Checkpoints,
}

impl WriteConnection {
    /// The same database under tests' own conditions.
    #[cfg(test)]
    pub(super) fn raw(&self) -> &Connection {
        &self.connection
    }
}

/// Opens the database at `path`, which is created with the whole schema when it is missing or
/// empty. Any other is validated and never altered; `config` is named in the hint of a refusal.
///
/// # Errors
/// `StoreError`: of kind `Schema` when the database is behind or someone else's.
pub fn open(path: &Path, config: &Path) -> Result<(Store, WriteConnection), StoreError> {
    // An absolute path is never taken for a URI, which the bundled library would understand.
    let path = std::path::absolute(path).map_err(|e| StoreError::io(format!("resolve {}", path.display()), e))?;
    place::prepare(&path)?;
    let failed = |e| StoreError::sqlite(format!("open {}", path.display()), e);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map_err(failed)?;
    // Looked at before the journal mode is set, since a refusal changes nothing.
    let fresh = schema::is_empty(&connection).map_err(failed)?;
    if !fresh {
        schema::validate(&connection, config)?;
    }
    connection.execute_batch("PRAGMA foreign_keys = ON").map_err(failed)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(StoreError::plain(
            StoreErrorKind::Other,
            format!("{} can not have a write-ahead log (its journal is {mode:?})", path.display()),
        ));
    }
    connection
        // What a statement of many rows keeps for its own undoing would else be written to a file.
        .execute_batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY"
        ))
        .map_err(failed)?;
    if fresh {
        schema::create(&mut connection)
            .map_err(|e| StoreError::sqlite(format!("create the schema of {}", path.display()), e))?;
        schema::validate(&connection, config)?;
    }
    let missing_soft = schema::missing_soft(&connection).map_err(failed)?;
    place::tighten(&path)?;
    let stopwatch = !missing_soft.contains(&"job_stopwatch");
    let checkpoints = Checkpoints::take_over(&mut connection).map_err(failed)?;
    Ok((Store { path, missing_soft }, WriteConnection { connection, stopwatch, checkpoints }))
}
