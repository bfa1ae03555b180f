//! The thread that removes the files that no job needs any more, and looks after those that running jobs make.

use super::blobs::{BlobId, Blobs, Wake};
use super::store::{Reader, Writer};
use crossbeam::channel::RecvTimeoutError;
use std::time::{Duration, Instant};

/// Between two looks at all blobs, at most and at least.
const EVERY_MAX: Duration = Duration::from_secs(60);
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Between two looks at the outputs of running jobs.
const OUTPUTS_EVERY: Duration = Duration::from_secs(1);
/// Directories of deleted jobs that are removed in one go.
const DIRS_MAX: u32 = 500;

pub(super) struct Cleaner {
    pub(super) blobs: Blobs,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

impl Cleaner {
    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        let every = (self.blobs.retention() / 2).clamp(EVERY_MIN, EVERY_MAX);
        let mut sweep_at = Instant::now() + every;
        loop {
            let left = sweep_at.saturating_duration_since(Instant::now());
            let wait = if self.blobs.watches_outputs() { left.min(OUTPUTS_EVERY) } else { left };
            let woken = self.blobs.woken().recv_timeout(wait);
            match woken {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::JobDeleted) => self.remove_outputs(),
                Ok(Wake::Unused(dir)) => self.blobs.remove_outputs(&dir),
                Ok(Wake::Outputs) | Err(RecvTimeoutError::Timeout) => {}
            }
            self.blobs.look_at_outputs();
            if Instant::now() >= sweep_at {
                self.remove_outputs();
                self.sweep();
                sweep_at = Instant::now() + every;
            }
        }
    }

    fn sweep(&mut self) {
        let reader = &mut self.reader;
        let removed = self.blobs.sweep(|id| is_needed(reader, id));
        if removed > 0 {
            tracing::info!("{removed} blobs that no job needs were not used for long and are deleted");
        }
    }

    /// Removes the outputs of jobs that are deleted.
    fn remove_outputs(&mut self) {
        loop {
            let dirs = match self.reader.gone_dirs(DIRS_MAX) {
                Ok(dirs) => dirs,
                Err(error) => return tracing::warn!("the outputs of deleted jobs can't be found: {error}"),
            };
            if dirs.is_empty() {
                return;
            }
            let is_last = dirs.len() < DIRS_MAX as usize;
            dirs.iter().for_each(|dir| self.blobs.remove_outputs(dir));
            // If the store does not forget the directories, the next cleaning removes them again.
            let forgotten = self.writer.forget_dirs(dirs);
            if is_last || forgotten.is_err() {
                return;
            }
        }
    }
}

/// Whether a job has the blob.
pub(super) fn is_needed(reader: &mut Reader, id: &BlobId) -> Result<bool, String> {
    reader.is_blob_needed(&id.to_string()).map_err(|error| error.to_string())
}
