//! The engine on SQLite: one file, with one connection that writes and any number that read.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `applier` | commands applied in one transaction |
//! | `data` | checkpoints and files |
//! | `dependencies` | dependencies between jobs |
//! | `live` | the unfinished jobs in memory, rolled back with the transaction |
//! | `pauses` | paused kinds of jobs |
//! | `schedules` | schedules: their rows, and the processing of a slot |
//! | `schema`, `statements`, `rows`, `faults` | lock, pragmas, migrations; SQL; errors |
//! | `readers`, `event_feed`, `pages` | [`Reader`]: read-only queries; events of all jobs; tables for modules |

mod applier;
mod data;
mod dependencies;
mod event_feed;
mod faults;
mod live;
mod pages;
mod pauses;
mod readers;
mod rows;
mod schedules;
mod schema;
mod statements;

#[cfg(test)]
mod tests;

pub use readers::Reader;

use super::engine::Engine;
use super::{Durability, OpenError};
use rusqlite::Connection;
use std::fs::File;
use std::path::{Path, PathBuf};

/// An open database, locked for this server.
pub(super) struct Sqlite {
    path: PathBuf,
    connection: Connection,
    lock: File,
}

impl Sqlite {
    /// Locks and opens the file; creates or upgrades it.
    pub(super) fn open(path: &Path, durability: Durability) -> Result<Self, OpenError> {
        let lock = schema::lock(path)?;
        let connection = schema::open_writing(path, durability)?;
        Ok(Self { path: path.to_owned(), connection, lock })
    }
}

impl Engine for Sqlite {
    type Applier<'e> = applier::Applier<'e>;

    fn applier(&self) -> Result<applier::Applier<'_>, OpenError> {
        applier::Applier::new(&self.connection).map_err(|error| schema::open_error(&self.path, error))
    }

    /// Leaves a single file behind if readers allow it; otherwise the log stays beside it, which loses nothing.
    fn close(self) {
        let Self { connection, lock, .. } = self;
        let truncated = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = truncated.and_then(|()| connection.close().map_err(|(_, error)| error)) {
            tracing::warn!(%error, "the job database was not tidied up; nothing is lost");
        }
        drop(lock);
    }
}
