//! SQLite's errors, in words for people, by the side that must act.

use crate::jobs::store::StoreError;
use crate::jobs::store::error::Fault;
use rusqlite::{ErrorCode, ffi};

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let clause = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => "the disk is full",
            Some(ErrorCode::SystemIoFailure) => "the disk reports an error",
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another connection holds the database's lock",
            Some(ErrorCode::OutOfMemory) => "memory is exhausted",
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "the database is read-only",
            Some(ErrorCode::CannotOpen) => "the database file can't be opened",
            Some(ErrorCode::FileLockingProtocolFailed) => "the file system's locking fails",
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "the database is damaged",
            Some(ErrorCode::OperationInterrupted | ErrorCode::OperationAborted) => "the operation was interrupted",
            _ => return Self::Command(error.to_string()),
        };
        Self::Surroundings(format!("{clause} ({error})"))
    }
}

/// The fault of a failed `COMMIT`. If only the sync has failed, the commit record is in the log, and a crash would bring the
/// transaction back. A failed write leaves no complete record, because that record is written last.
pub(super) fn of_commit(error: rusqlite::Error) -> Fault {
    let is_in_doubt = error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_FSYNC);
    match Fault::from(error) {
        Fault::Surroundings(why) if is_in_doubt => Fault::InDoubt(why),
        fault => fault,
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Read { why: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_sync_leaves_a_commit_in_doubt() {
        let fault = |code| of_commit(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(
            matches!(fault(ffi::SQLITE_IOERR_FSYNC), Fault::InDoubt(why) if why.contains("the disk reports an error"))
        );
        for definite in [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_NOMEM] {
            assert!(matches!(fault(definite), Fault::Surroundings(_)));
        }
        assert!(matches!(fault(ffi::SQLITE_CONSTRAINT), Fault::Command(_)));
    }
}
