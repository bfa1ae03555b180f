//! Opens the database file: lock, pragmas, check, migrations.

use crate::jobs::store::{Durability, OpenError};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a statement waits for another connection's lock, in milliseconds. Modules write to the same file.
const BUSY_TIMEOUT_MS: i64 = 3_000;

/// One step per format: `MIGRATIONS[n]` converts format `n` to `n + 1`. Released steps must never change.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_job_data.sql"),
    include_str!("schema_job_files.sql"),
    include_str!("schema_schedules.sql"),
    include_str!("schema_dependencies.sql"),
    include_str!("schema_paused.sql"),
    include_str!("schema_concurrency.sql"),
    include_str!("schema_event_blobs.sql"),
];

/// How long to wait for the lock: a server that was killed may have been forking, and its child holds the lock until exec(3).
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Locks `PATH.lock` for as long as the returned file is open.
///
/// The lock file must not be removed: two servers could then lock two files of the same name.
pub(super) fn lock(database: &Path) -> Result<File, OpenError> {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = match opened {
        Ok(file) => file,
        Err(error) => return Err(OpenError::Open { path, source: error.into() }),
    };
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(OpenError::Open { path, source: error.into() }),
        }
    }
}

/// Opens the writing connection, and converts the file to the current format.
pub(super) fn open_writing(path: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |error| open_error(path, error);
    let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    // Must come before any write: a refused file must stay unchanged.
    format_of(&connection, path)?;
    prepare_connection(&connection, durability).map_err(explain)?;
    migrate(&mut connection, path)?;
    check(&connection, path)?;
    Ok(connection)
}

/// Opens a read-only connection.
pub(super) fn open_reading(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_busy_timeout(&connection)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Uses a pragma: `Connection::busy_timeout` calls `sqlite3_set_clientdata`, which SQLite has only since 3.44. The program
/// would not link with Debian 12's SQLite.
fn set_busy_timeout(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "busy_timeout", BUSY_TIMEOUT_MS, |_| Ok(()))
}

fn prepare_connection(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    set_busy_timeout(connection)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    connection.pragma_update(
        None,
        "synchronous",
        match durability {
            Durability::Full => "FULL",
            Durability::Normal => "NORMAL",
        },
    )?;
    connection.pragma_update(None, "foreign_keys", true)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let explain = |error| open_error(path, error);
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(explain)?;
    let steps = MIGRATIONS.get(format_of(&transaction, path)?..).unwrap_or_default();
    for step in steps {
        transaction.execute_batch(step).map_err(explain)?;
    }
    if !steps.is_empty() {
        transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(explain)?;
    }
    transaction.commit().map_err(explain)
}

/// Writes a page whose content stays the same.
pub(super) fn touch(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "user_version", MIGRATIONS.len() as i64)
}

/// The format of the file: the number of its migration steps.
fn format_of(connection: &Connection, path: &Path) -> Result<usize, OpenError> {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0));
    let found: i64 = found.map_err(|error| open_error(path, error))?;
    let known = MIGRATIONS.len();
    let newer = OpenError::Newer { found, known: known as i64 };
    usize::try_from(found).ok().filter(|found| *found <= known).ok_or(newer)
}

/// Checks only the server's tables and their indexes. A module's own table may use collations or functions that are unknown
/// here, and must not keep the server from starting.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    for table in ["jobs", "job_events", "schedules", "job_checkpoints", "job_files", "job_outputs", "job_event_blobs"] {
        let mut finding = String::new();
        let checked = connection.pragma(None, "quick_check", table, |row| {
            if finding.is_empty() {
                finding = row.get(0)?;
            }
            Ok(())
        });
        checked.map_err(|error| open_error(path, error))?;
        if finding != "ok" {
            return Err(OpenError::Corrupt { path: path.to_owned(), detail: finding });
        }
    }
    Ok(())
}

/// Distinguishes damage of a file from all other SQLite errors.
pub(super) fn open_error(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Corrupt { path, detail: error.to_string() }
        }
        _ => OpenError::Open { path, source: error.into() },
    }
}
