//! What SQLite's errors mean to callers of a store.

use rusqlite::ErrorCode::*;

use crate::store::StoreError;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(
                DiskFull
                | SystemIoFailure
                | DatabaseBusy
                | DatabaseLocked
                | ReadOnly
                | CannotOpen
                | OutOfMemory
                | PermissionDenied
                | FileLockingProtocolFailed
                | NoLargeFileSupport,
            ) => StoreError::Unavailable(error.to_string()),
            Some(DatabaseCorrupt | NotADatabase) => {
                StoreError::Internal(format!("its file is damaged ({error}); stop the process and restore the file from a backup"))
            }
            _ => StoreError::Internal(error.to_string()),
        }
    }
}

/// Whether a write failed because of the row: it would fail again, however often it is tried, and others would not.
pub(super) fn is_of_the_row(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::ToSqlConversionFailure(_))
        || matches!(error.sqlite_error_code(), Some(ConstraintViolation | TooBig | TypeMismatch))
}

/// Whether the file, not the attempt, is at fault.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
