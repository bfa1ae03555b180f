//! The output directories of all jobs.

use super::incoming::Share;
use super::store::{BLOCK_BYTES, BlobError, Blobs, OpenBlob, Wake, Watched};
use crossbeam::channel::Receiver;
use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Weak};

/// Bytes charged for an output: its blocks on the disk, but at least one block, so that empty outputs are limited too.
pub(super) fn file_charge(data: &Metadata) -> u64 {
    data.blocks().saturating_mul(512).max(BLOCK_BYTES)
}

/// Bytes charged for all outputs in `dir`.
fn bytes_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|data| file_charge(&data)).sum()
}

/// Removes an output directory, if it exists.
pub(super) fn remove_dir(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => tracing::warn!("{}: {error}", dir.display()),
        _ => {}
    }
}

impl Blobs {
    pub(super) fn outputs_dir(&self) -> &Path {
        &self.inner.config.outputs_dir
    }

    pub(super) fn share(&self) -> Share {
        Share::new(&self.inner)
    }

    pub(super) fn is_written(&self, file: BorrowedFd<'_>) -> bool {
        (self.inner.config.is_written)(file)
    }

    /// Registers the outputs of a run, whose sizes are then checked periodically.
    pub(super) fn watch(&self, outputs: Weak<dyn Watched>) {
        let mut state = self.inner.state();
        if !state.watched.iter().any(|watched| watched.ptr_eq(&outputs)) {
            state.watched.push(outputs);
            self.wake(Wake::Outputs);
        }
    }

    /// Whether a running job has outputs.
    pub(in crate::jobs) fn watches_outputs(&self) -> bool {
        !self.inner.state().watched.is_empty()
    }

    /// Measures the outputs of running jobs.
    pub(in crate::jobs) fn look_at_outputs(&self) {
        let mut state = self.inner.state();
        state.watched.retain(|watched| watched.strong_count() > 0);
        let watched: Vec<Arc<dyn Watched>> = state.watched.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for outputs in watched {
            outputs.look(self.inner.config.blob_bytes_max);
        }
    }

    /// Sends a message to the cleaning thread.
    pub(in crate::jobs) fn wake(&self, wake: Wake) {
        let _ = self.inner.wake.send(wake);
    }

    /// Messages to the cleaning thread.
    pub(in crate::jobs) fn woken(&self) -> &Receiver<Wake> {
        &self.inner.woken
    }

    /// Opens the output `name` in the directory `dir`.
    ///
    /// # Errors
    /// The output can't be read.
    pub fn open_output(&self, dir: &str, name: &str) -> Result<OpenBlob, BlobError> {
        let path = self.inner.config.outputs_dir.join(dir).join(name);
        let opened = File::open(path).and_then(|file| Ok(OpenBlob { bytes: file.metadata()?.len(), file }));
        opened.map_err(|error| BlobError::failed(&error))
    }

    /// Removes an output directory whose job is gone.
    pub(in crate::jobs) fn remove_outputs(&self, dir: &str) {
        let path = self.inner.config.outputs_dir.join(dir);
        let bytes = bytes_of(&path);
        remove_dir(&path);
        self.inner.give_back(bytes);
    }

    /// Called at the start: keeps and counts the output directories in `kept`, and removes the directories of interrupted runs.
    ///
    /// # Errors
    /// The directory can't be read.
    pub(in crate::jobs) fn take_up_outputs(&self, kept: &HashSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.inner.config.outputs_dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if kept.contains(name) {
                self.inner.count(bytes_of(&path));
            } else {
                remove_dir(&path);
            }
        }
        Ok(())
    }
}
