//! The durable store of background jobs.
//!
//! One thread, `cweb-jobs-writer`, owns the engine that stores jobs. Every change reaches it as a command over a bounded channel.
//! The thread groups the waiting commands into one transaction, commits, and only then publishes the events and acknowledges the
//! commands. Published events and acknowledged commands are therefore on disk. Reads have connections of their own.
//!
//! Inputs are jobs, guarded state changes and events; outputs are rows, events and outcomes. HTTP, scheduling and recovery
//! never enter: they belong to the callers. Types of a database never leave `sqlite`, the only engine: the store and its
//! callers know the traits of `engine` and `read`. `tests/layers.rs` checks this.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `types`, `schedule_types` | jobs, events, schedules, changes, outcomes |
//! | `engine` | traits of the writing side; what an engine promises |
//! | `read` | [`Read`]: trait of the reading side |
//! | `handle` | [`Writer`]: the sending side, limits and back-pressure |
//! | `budget` | limit on the waiting bytes |
//! | `command` | commands to the writer; replies that can't be forgotten |
//! | `thread` | start and end of the writer's thread |
//! | `writer` | the thread's loop: gather, commit, publish, answer; behaviour when the disk fails |
//! | `transition` | transitions of states, and the changes that cause them |
//! | `tables`, `table_pages` | the tables as modules read them; [`Tables`]: a page at a time |
//! | `stats` | counts |
//! | `sqlite` | the engine |

mod budget;
mod command;
mod engine;
mod error;
mod handle;
mod read;
mod schedule_types;
mod sqlite;
mod stats;
mod table_pages;
mod tables;
mod thread;
mod transition;
mod types;
mod writer;

#[cfg(test)]
mod tests;

pub use command::EventBlob;
pub use error::{OpenError, StoreError};
pub use handle::Writer;
pub use read::{FeedFilter, FeedPage, Read};
pub use schedule_types::{ScheduleChange, ScheduleOutcome, ScheduleRow, ScheduleSpec};
pub use sqlite::Reader;
pub use stats::StoreStats;
pub use table_pages::{OpenReader, Tables};
pub use tables::{Key, Table, TableQuery};
pub use types::{
    Change, Changed, Deleted, Done, Durability, JobEvent, JobFiles, JobFilter, JobKind, JobRow, JobState, NewJob,
    PAUSED_MAX, Paused, Run, Settled, Slot, Submitted,
};

use sqlite::Sqlite;
use std::path::PathBuf;
use std::sync::Arc;
use thread::{QueueLimits, StartError, WriterThread};
use writer::Published;

/// Limit, in bytes, on waiting commands: hundreds of the largest events, which the disk takes in about a second.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The database file; `PATH.lock` beside it keeps a second server out. The file's directory must exist.
    pub path: PathBuf,
    /// The durability of acknowledged commands.
    pub durability: Durability,
    /// Limit on waiting commands; beyond it the store returns [`StoreError::Full`], or senders wait.
    pub queue_max: usize,
    /// Limit, in bytes, on waiting payloads and events, with the same effect.
    pub queue_bytes_max: usize,
    /// Limit on the commands of one transaction.
    pub batch_max: usize,
    /// How long a batch may stay open while commands keep arriving, in milliseconds.
    pub batch_wait_ms: u64,
}

impl StoreConfig {
    /// The database at `path` with the default limits.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            durability: Durability::Full,
            queue_max: 8192,
            queue_bytes_max: QUEUE_BYTES_MAX,
            batch_max: 4096,
            batch_wait_ms: 2,
        }
    }

    fn limits(&self) -> QueueLimits {
        let &Self { queue_max, queue_bytes_max, batch_max, batch_wait_ms, .. } = self;
        QueueLimits { queue_max, queue_bytes_max, batch_max, batch_wait_ms }
    }
}

/// The open store; dropping it shuts it down.
pub struct Store {
    path: PathBuf,
    thread: WriterThread,
}

impl Store {
    /// Opens the file, creating or upgrading it, and starts the writer's thread.
    ///
    /// The writer's thread calls `published` after each commit with the transaction's events in order, before the transaction's
    /// callbacks. `published` must return soon and must not block. Running jobs keep their state: the caller must recover them,
    /// with [`Read::unfinished`].
    ///
    /// # Errors
    /// [`OpenError`]: each variant says when.
    pub fn open(config: StoreConfig, published: Published) -> Result<Self, OpenError> {
        let engine = Sqlite::open(&config.path, config.durability)?;
        let limits = config.limits();
        let path = config.path;
        match WriterThread::start(engine, &limits, published) {
            Ok(thread) => Ok(Self { path, thread }),
            Err(StartError::Engine(error)) => Err(error),
            Err(StartError::Thread(error)) => Err(OpenError::Open { path, source: error.into() }),
        }
    }

    /// A handle for sending commands.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.thread.writer()
    }

    /// Opens a new read-only connection.
    ///
    /// # Errors
    /// [`StoreError::Read`] when the file can't be opened again.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.path)
    }

    /// The tables for modules; they outlive the store.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let path = self.path.clone();
        Tables::new(Box::new(move || Ok(Box::new(Reader::open(&path)?))))
    }

    /// The counts; they outlive the store.
    #[must_use]
    pub fn stats(&self) -> Arc<StoreStats> {
        self.thread.stats()
    }

    /// Refuses new commands, commits accepted ones (trying for 5 s if transactions fail), tidies up the engine's files and ends
    /// the thread.
    pub fn shutdown(self) {
        drop(self);
    }
}
