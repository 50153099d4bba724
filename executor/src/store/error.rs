//! What can go wrong with the database, sorted by what can be done about it.

use std::fmt;
use std::sync::Arc;

use rusqlite::ErrorCode;

/// What the caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No room: goes away when the operator frees some.
    Full,
    /// Another program holds the write lock; goes away by itself.
    Busy,
    /// The file or its filesystem can not be written.
    ReadOnly,
    /// The file is damaged, or no database.
    Corrupt,
    /// Its tables are not the ones we need; the text names the command to run.
    Schema,
    /// This one operation can not be stored, now or later; others are not touched by it.
    Refused,
    /// Anything else, as input and output errors and what the directory refuses.
    Other,
}

/// One failed operation of the store. Every ticket of a failed batch gets the same one, so it can
/// be cloned. No value of a row is ever in its text.
#[derive(Debug, Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    what: String,
    source: Option<Source>,
}

type Source = Arc<dyn std::error::Error + Send + Sync>;

impl StoreError {
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// `what` says what was done, as a fragment.
    pub(super) fn sqlite(what: impl Into<String>, source: rusqlite::Error) -> Self {
        Self { kind: kind_of(&source), what: what.into(), source: Some(Arc::new(source)) }
    }

    pub(super) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
            std::io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
            _ => StoreErrorKind::Other,
        };
        Self { kind, what: what.into(), source: Some(Arc::new(source)) }
    }

    pub(super) fn plain(kind: StoreErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), source: None }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

fn kind_of(error: &rusqlite::Error) -> StoreErrorKind {
    let rusqlite::Error::SqliteFailure(code, _) = error else {
        // Everything else that rusqlite reports is about the values or the statement.
        return StoreErrorKind::Refused;
    };
    match code.code {
        ErrorCode::DiskFull => StoreErrorKind::Full,
        // The index of the log is grown by its own call, whose failure is not called "full".
        ErrorCode::SystemIoFailure if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => StoreErrorKind::Full,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreErrorKind::Busy,
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreErrorKind::ReadOnly,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreErrorKind::Corrupt,
        ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => StoreErrorKind::Refused,
        _ => StoreErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_matters_has_its_kind() {
        let check = |code: i32, kind| {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert_eq!(StoreError::sqlite("write", error).kind(), kind, "{code}");
        };
        use rusqlite::ffi;
        check(ffi::SQLITE_FULL, StoreErrorKind::Full);
        check(ffi::SQLITE_IOERR_SHMSIZE, StoreErrorKind::Full);
        check(ffi::SQLITE_IOERR_WRITE, StoreErrorKind::Other);
        check(ffi::SQLITE_BUSY, StoreErrorKind::Busy);
        check(ffi::SQLITE_BUSY_SNAPSHOT, StoreErrorKind::Busy);
        check(ffi::SQLITE_LOCKED, StoreErrorKind::Busy);
        check(ffi::SQLITE_READONLY_DBMOVED, StoreErrorKind::ReadOnly);
        check(ffi::SQLITE_CORRUPT_INDEX, StoreErrorKind::Corrupt);
        check(ffi::SQLITE_NOTADB, StoreErrorKind::Corrupt);
        check(ffi::SQLITE_CONSTRAINT_UNIQUE, StoreErrorKind::Refused);
        check(ffi::SQLITE_TOOBIG, StoreErrorKind::Refused);
    }

    #[test]
    fn the_text_does_not_repeat_its_source() {
        let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        let error = StoreError::sqlite("write batch", source);
        assert_eq!(error.to_string(), "write batch");
        assert!(shared::log::chain(&error).starts_with("write batch: "));
    }
}
