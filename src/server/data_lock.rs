//! The lock of the data directory: at most one server uses it, whatever engine stores its jobs.

use super::error::{ServeError, setup};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// The lock file in the data directory. It must not be removed: two servers could then lock two files of the same name.
pub(super) const LOCK_FILE: &str = "server.lock";

/// How long to wait for the lock: a server that was killed may have been forking, and its child holds the lock until exec(3).
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Locks `data` for as long as the returned file is open.
///
/// # Errors
/// Another server has the lock, or the lock file can't be written.
pub(super) fn lock(data: &Path) -> Result<File, ServeError> {
    let path = data.join(LOCK_FILE);
    let about = || format!("locking {}", path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(setup(about()))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => {
                let held = "is held by another server: stop it, or choose another data directory";
                return Err(ServeError::Control(format!("{} {held}", path.display())));
            }
            Err(TryLockError::Error(error)) => return Err(setup(about())(error)),
        }
    }
}
