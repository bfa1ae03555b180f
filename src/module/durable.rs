//! Files that are complete or missing after a crash, never partly written.

use super::file_names::at;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// The extension of files under temporary names.
const TEMPORARY: &str = "new";

/// A file that is written and synced under a temporary name. Dropping it removes the file.
pub(super) struct Aside {
    aside: PathBuf,
    path: PathBuf,
}

impl Aside {
    /// The file `aside`, which must be synced, and which will be `path`.
    pub(super) fn of(aside: PathBuf, path: PathBuf) -> Self {
        Self { aside, path }
    }

    pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        // Two deployments of one source may write the same file at once, so temporary names are unique.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let aside = path.with_extension(format!("{}.{TEMPORARY}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let aside = Self { aside, path: path.to_path_buf() };
        let written = File::create(&aside.aside).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(at(path))?;
        Ok(aside)
    }

    pub(super) fn rename(self) -> io::Result<()> {
        fs::rename(&self.aside, &self.path).map_err(at(&self.path))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // After a rename the temporary name does not exist any more.
        let _ = fs::remove_file(&self.aside);
    }
}

/// Removes the files in `dir` that [`Aside::write`] has left at a crash.
pub(super) fn remove_temporary_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == TEMPORARY) && !entry.file_type()?.is_dir() {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

/// Runs both closures at once: two concurrent fsync(2) take little longer than one.
///
/// # Errors
/// The thread can't be started; `here` has not run then.
pub(super) fn both<A: Send, B>(apart: impl FnOnce() -> A + Send, here: impl FnOnce() -> B) -> io::Result<(A, B)> {
    thread::scope(|scope| {
        let apart = thread::Builder::new().name("deploy-sync".to_owned()).spawn_scoped(scope, apart)?;
        let here = here();
        match apart.join() {
            Ok(apart) => Ok((apart, here)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
