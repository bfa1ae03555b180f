//! The durable store of background jobs.
//!
//! One thread, `cweb-jobs-writer`, owns the only connection that writes jobs. Every change reaches it as a command over a
//! bounded channel. The thread groups the waiting commands into one transaction, commits, and only then publishes the events
//! and acknowledges the commands. Published events and acknowledged commands are therefore on disk. Reads have connections of
//! their own.
//!
//! Inputs are jobs, guarded state changes and events; outputs are rows, events and outcomes. HTTP, scheduling and recovery
//! never enter: they belong to the callers.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `types`, `schedule_types` | jobs, events, schedules, changes, outcomes |
//! | `handle` | [`Writer`]: the sending side, limits and back-pressure |
//! | `budget` | limit on the waiting bytes |
//! | `command` | commands to the writer; replies that can't be forgotten |
//! | `writer` | the thread: gather, commit, publish, answer; behaviour when the disk fails |
//! | `batch` | commands applied in one transaction |
//! | `transition` | transitions of states, and the changes that cause them |
//! | `dependencies` | dependencies between jobs |
//! | `feed` | the events of many jobs |
//! | `live` | the unfinished jobs in memory, rolled back with the transaction |
//! | `pauses` | paused kinds of jobs |
//! | `schedules` | schedules: their rows, and the processing of a slot |
//! | `schema`, `statements`, `rows` | lock, pragmas, migrations; SQL |
//! | `readers` | [`Reader`]: read-only queries |
//! | `tables` | [`Tables`]: the tables as modules read them, a page at a time |

mod batch;
mod budget;
mod command;
mod data;
mod dependencies;
mod error;
mod feed;
mod handle;
mod live;
mod pauses;
mod readers;
mod rows;
mod schedule_types;
mod schedules;
mod schema;
mod statements;
mod stats;
mod tables;
mod transition;
mod types;
mod writer;

#[cfg(test)]
mod tests;

pub use command::EventBlob;
pub use error::{OpenError, StoreError};
pub use feed::{FeedFilter, FeedPage};
pub use handle::Writer;
pub use readers::Reader;
pub use schedule_types::{ScheduleChange, ScheduleOutcome, ScheduleRow, ScheduleSpec};
pub use stats::StoreStats;
pub use tables::{Key, Table, TableQuery, Tables};
pub use types::{
    Change, Changed, Deleted, Done, Durability, JobEvent, JobFiles, JobFilter, JobKind, JobRow, JobState, NewJob,
    PAUSED_MAX, Paused, Settled, Slot, Submitted,
};

use budget::Budget;
use command::Command;
use crossbeam::channel::{Receiver, Sender, bounded};
use handle::StoreShared;
use rusqlite::Connection;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use writer::{Limits, Loop, Published};

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
}

/// The open store; dropping it shuts it down.
pub struct Store {
    path: PathBuf,
    writer: Writer,
    shared: Arc<StoreShared>,
    stats: Arc<StoreStats>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the file, creating or upgrading it, and starts the writer's thread.
    ///
    /// The writer's thread calls `published` after each commit with the transaction's events in order, before the transaction's
    /// callbacks. `published` must return soon and must not block. Running jobs keep their state: the caller must recover them,
    /// with [`Reader::unfinished`].
    ///
    /// # Errors
    /// [`OpenError`]: each variant says when.
    pub fn open(config: StoreConfig, published: Published) -> Result<Self, OpenError> {
        let lock = schema::lock(&config.path)?;
        let connection = schema::open_writing(&config.path, config.durability)?;
        let queue_max = config.queue_max.max(1);
        let (sender, receiver) = bounded(queue_max);
        let budget = Budget::new(config.queue_bytes_max);
        let shared = Arc::new(StoreShared {
            queue_max,
            budget,
            closing: AtomicBool::new(false),
            thread: OnceLock::new(),
            settled: OnceLock::new(),
        });
        let stats = Arc::new(StoreStats::new(sender.clone()));
        let limits = Limits {
            batch_max: config.batch_max.max(1),
            batch_wait: Duration::from_millis(config.batch_wait_ms),
            kept_max: config.batch_max.max(1).saturating_add(queue_max),
        };
        let start =
            Start { lock, connection, receiver, shared: shared.clone(), stats: stats.clone(), limits, published };
        let thread = start.spawn().map_err(|error| match error {
            StartError::Thread(error) => OpenError::Open { path: config.path.clone(), source: error.into() },
            StartError::Sqlite(error) => schema::open_error(&config.path, error),
        })?;
        let _ = shared.thread.set(thread.thread().id());
        let writer = Writer::new(sender, shared.clone());
        Ok(Self { path: config.path, writer, shared, stats, thread: Some(thread) })
    }

    /// A handle for sending commands.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Opens a new read-only connection.
    ///
    /// # Errors
    /// [`StoreError::Read`] when the file can't be opened again.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.path)
    }

    /// The counts; they outlive the store.
    #[must_use]
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.stats)
    }

    /// Refuses new commands, commits accepted ones (trying for 5 s if transactions fail), moves the log into the database file
    /// and ends the thread.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.writer.close();
        // A callback that drops the store runs on the thread itself, which can't wait for its own end.
        if self.shared.is_writer() {
            return;
        }
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the job writer's thread panicked");
        }
    }
}

/// Values that the writer's thread takes over.
struct Start {
    lock: File,
    connection: Connection,
    receiver: Receiver<Command>,
    shared: Arc<StoreShared>,
    stats: Arc<StoreStats>,
    limits: Limits,
    published: Published,
}

enum StartError {
    Thread(std::io::Error),
    Sqlite(rusqlite::Error),
}

impl Start {
    /// Starts the thread and waits until it is ready.
    fn spawn(self) -> Result<JoinHandle<()>, StartError> {
        let (ready, readiness) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("cweb-jobs-writer".to_owned())
            .spawn(move || self.run(&ready))
            .map_err(StartError::Thread)?;
        match readiness.recv() {
            Ok(Err(error)) => Err(StartError::Sqlite(error)),
            Ok(Ok(())) => Ok(thread),
            Err(_) => Err(StartError::Thread(std::io::Error::other("the job writer's thread ended at once"))),
        }
    }

    fn run(self, ready: &Sender<rusqlite::Result<()>>) {
        let Self { lock, connection, receiver, shared, stats, limits, published } = self;
        let applier = match batch::Applier::new(&connection) {
            Ok(applier) => applier,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        let work = Loop {
            applier,
            receiver,
            shared,
            stats,
            limits,
            published,
            #[cfg(test)]
            connection: &connection,
        };
        work.run();
        finish(connection);
        // Must come last: the next holder of the lock must find no other user of the file.
        drop(lock);
    }
}

/// Leaves a single file behind if readers allow it; otherwise the log stays beside it, which loses nothing.
fn finish(connection: Connection) {
    let truncated = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    if let Err(error) = truncated.and_then(|()| connection.close().map_err(|(_, error)| error)) {
        tracing::warn!(%error, "the job database was not tidied up; nothing is lost");
    }
}
