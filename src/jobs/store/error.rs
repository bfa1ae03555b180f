//! Errors of the store, in words for the person who must act.

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
    /// The file is damaged, or is no database.
    #[error("the job database {} is damaged ({detail}): restore it from a backup, or move it away to start empty", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// The engine's finding.
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
    #[error("the job queue is full (limit: {queue_max} commands, and a limit on their bytes): try again shortly")]
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
    /// The commit failed, and the engine can't say whether this command is stored. A repeat may do it twice.
    #[error("the store can't tell whether the command is stored: {why}; check before you repeat the request")]
    InDoubt {
        /// A short clause, such as "the disk reports an error".
        why: String,
    },
    /// This command can never succeed; other commands are not affected.
    #[error("the job store refuses the command: {why}")]
    Refused {
        /// What is wrong with the command.
        why: String,
    },
    /// A read failed.
    #[error("jobs can't be read: {why}")]
    Read {
        /// The engine's error.
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
    /// The commit failed, and the transaction may be stored or not. The caller must call
    /// [`Apply::resolve`](super::engine::Apply::resolve) until the engine knows, before any other transaction.
    InDoubt(String),
}

impl Fault {
    /// The same fault once it is known that nothing is stored.
    pub(super) fn resolved(self) -> Self {
        match self {
            Self::InDoubt(why) => Self::Surroundings(why),
            fault => fault,
        }
    }

    /// The reason, as a clause for a person.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Surroundings(why) | Self::Command(why) | Self::InDoubt(why) => why,
        }
    }
}

impl From<&Fault> for StoreError {
    /// The answer to a command that the writer gives up.
    fn from(fault: &Fault) -> Self {
        let why = fault.why().to_owned();
        match fault {
            Fault::InDoubt(_) => Self::InDoubt { why },
            Fault::Surroundings(_) | Fault::Command(_) => Self::Unavailable { why },
        }
    }
}
