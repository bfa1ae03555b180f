//! Checks the modules' database before its first use: a damaged database is moved aside.

use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Larger files are only checked superficially: a start must not wait until a whole file is read from a disk.
const WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How long to wait for another process's lock, in milliseconds.
const BUSY_WAIT_MS: u32 = 1_000;

/// Moves the database at `path` and its related files aside if it is damaged, and logs that. Its next use creates an empty
/// database.
pub fn set_aside_if_damaged(path: &Path) {
    let Some(what) = damage(path) else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = with(path, &format!(".damaged-{now}"));
    if let Err(error) = std::fs::rename(path, &aside) {
        return tracing::error!(
            "the modules' database {} is damaged ({what}) and can't be moved aside: {error}",
            path.display()
        );
    }
    for end in ["-wal", "-shm", "-journal"] {
        let _ = std::fs::rename(with(path, end), with(&aside, end));
    }
    tracing::error!(
        "the modules' database {} is damaged ({what}): it is moved to {}, and an empty one takes its place; restore a backup, or \
         try: sqlite3 {} .recover",
        path.display(),
        aside.display(),
        aside.display()
    );
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The damage of the database, as far as it is detected; `None` also when another process holds the lock.
fn damage(path: &Path) -> Option<String> {
    let bytes = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?.len();
    if bytes == 0 {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let checked = Connection::open_with_flags(path, flags).and_then(|connection| {
        // Avoids `busy_timeout()`, which needs a newer SQLite than some systems have.
        connection.query_row(&format!("PRAGMA busy_timeout = {BUSY_WAIT_MS}"), [], |_| Ok(()))?;
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        if bytes > WHOLE_BYTES_MAX {
            return Ok("ok".to_owned());
        }
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
    });
    match checked {
        Ok(said) if said == "ok" => None,
        Ok(said) => Some(said),
        Err(error) => {
            let damaged = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase];
            let is_damaged = error.sqlite_error_code().is_some_and(|code| damaged.contains(&code));
            is_damaged.then(|| error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_database_is_moved_aside_and_a_whole_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sqlite3");
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        set_aside_if_damaged(&path);
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000))").unwrap();
        drop(connection);
        set_aside_if_damaged(&path);
        assert!(path.exists() && names() == 1);
        let whole = std::fs::read(&path).unwrap();
        for bad in [&whole[..8192], &b"no database at all, but long enough to be looked at closely"[..]] {
            std::fs::write(&path, bad).unwrap();
            set_aside_if_damaged(&path);
            assert!(!path.exists() && names() == 1, "{}", bad.len());
            std::fs::remove_dir_all(dir.path()).unwrap();
            std::fs::create_dir(dir.path()).unwrap();
        }
        std::fs::write(&path, "").unwrap();
        set_aside_if_damaged(&path);
        assert!(path.exists());
    }
}
