//! What can go wrong, in words for the person who has to act.

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
        /// What the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is damaged, or is no SQLite database.
    #[error("the job database {} is damaged ({detail}): restore it from a backup, or move it away to start empty", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// A later version of this server has written the file.
    #[error(
        "the job database has format {found}, this server knows up to {known}: use the server that wrote it, or a later one"
    )]
    Newer {
        /// The format of the file.
        found: i64,
        /// The latest format known here.
        known: i64,
    },
}

/// Why the store didn't do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The writer has no room for another command; nothing was taken.
    #[error(
        "the job queue is full ({queue_max} commands, or as many bytes as may, wait to be written): try again shortly"
    )]
    Full {
        /// The queue's size.
        queue_max: usize,
    },
    /// The transaction failed; nothing of this command is stored. It may work later.
    #[error("jobs can't be stored right now: {why}")]
    Unavailable {
        /// A short clause, such as "the disk is full".
        why: String,
    },
    /// This command can never work; others are not affected.
    #[error("the job store refuses this: {why}")]
    Refused {
        /// What is wrong with it.
        why: String,
    },
    /// A read failed.
    #[error("jobs can't be read: {why}")]
    Read {
        /// What SQLite said.
        why: String,
    },
    /// The store has been shut down.
    #[error("the job store is closed")]
    Closed,
}

/// A failed statement or transaction, by who has to change something before it can work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The surroundings: disk, locks, memory. The same commands may work later.
    Surroundings(String),
    /// The command itself: it will fail each time.
    Command(String),
}

impl Fault {
    /// The clause for a person.
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
