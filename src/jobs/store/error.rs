//! Errors of the store, in words for the person who must act.

use rusqlite::ErrorCode;
use std::path::PathBuf;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server, or another store of this one, has the same file open.
    #[error("{} is held by another server: stop it, or choose another data directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file or its directory is missing, not writable, or not usable as a database.
    #[error("can't open the job database {}: {source}", path.display())]
    Open {
        /// The file that could not be opened.
        path: PathBuf,
        /// The system's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is damaged, or is no SQLite database.
    #[error("the job database {} is damaged ({detail}): restore it from a backup, or move it away to start empty", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// SQLite's finding.
        detail: String,
    },
    /// A later version of this server has written the file.
    #[error(
        "the job database has format {found}, this server knows up to {known}: use the server that wrote it, or a later one"
    )]
    Newer {
        /// The format of the file.
        found: i64,
        /// The latest format that this server knows.
        known: i64,
    },
}

/// Why the store did not carry out a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The writer has no room for another command; the command was not accepted.
    #[error(
        "the job queue is full ({queue_max} commands, or as many bytes as may, wait to be written): try again shortly"
    )]
    Full {
        /// The queue's size.
        queue_max: usize,
    },
    /// The transaction failed; no part of this command is stored. A later attempt may succeed.
    #[error("jobs can't be stored right now: {why}")]
    Unavailable {
        /// A short clause, such as "the disk is full".
        why: String,
    },
    /// This command can never succeed; other commands are not affected.
    #[error("the job store refuses this: {why}")]
    Refused {
        /// What is wrong with the command.
        why: String,
    },
    /// A read failed.
    #[error("jobs can't be read: {why}")]
    Read {
        /// SQLite's error.
        why: String,
    },
    /// The store has been shut down.
    #[error("the job store is closed")]
    Closed,
}

/// A failed statement or transaction, by the side that must change before it can succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The environment: disk, locks, memory. The same commands may succeed later.
    Surroundings(String),
    /// The command itself: it fails each time.
    Command(String),
}

impl Fault {
    /// The reason, as a clause for a person.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Surroundings(why) | Self::Command(why) => why,
        }
    }
}

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

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Read { why: error.to_string() }
    }
}
