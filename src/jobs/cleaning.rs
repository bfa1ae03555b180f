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
/// Until the next directories of deleted jobs are removed, where there are more than one go takes.
const MORE_AFTER: Duration = Duration::from_millis(50);
/// Directories of deleted jobs that are removed in one go.
const DIRS_MAX: u32 = 500;

pub(super) struct Cleaner {
    blobs: Blobs,
    reader: Reader,
    writer: Writer,
    /// There are more directories of deleted jobs than were removed.
    has_more: bool,
    /// The directories that the store was asked last to forget.
    forgetting: Vec<String>,
}

impl Cleaner {
    pub(super) fn new(blobs: Blobs, reader: Reader, writer: Writer) -> Self {
        Self { blobs, reader, writer, has_more: false, forgetting: Vec::new() }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        let every = (self.blobs.retention() / 2).clamp(EVERY_MIN, EVERY_MAX);
        let mut sweep_at = Instant::now() + every;
        loop {
            let left = sweep_at.saturating_duration_since(Instant::now());
            let wait = match (self.has_more, self.blobs.watches_outputs()) {
                (true, _) => left.min(MORE_AFTER),
                (false, true) => left.min(OUTPUTS_EVERY),
                (false, false) => left,
            };
            let woken = self.blobs.woken().recv_timeout(wait);
            match woken {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::JobDeleted) => self.remove_outputs(),
                Ok(Wake::Unused(dir)) => self.blobs.remove_outputs(&dir),
                Ok(Wake::Outputs) | Err(RecvTimeoutError::Timeout) => {}
            }
            if self.has_more {
                self.remove_outputs();
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
        let dirs = match self.reader.gone_dirs(DIRS_MAX) {
            Ok(dirs) => dirs,
            Err(error) => return tracing::warn!("the outputs of deleted jobs can't be found: {error}"),
        };
        self.has_more = dirs.len() >= DIRS_MAX as usize;
        // While the store can't commit, the same directories come again: the first answer is still to come.
        if dirs.is_empty() || dirs == self.forgetting {
            return;
        }
        dirs.iter().for_each(|dir| self.blobs.remove_outputs(dir));
        // If the store does not forget the directories, a later cleaning removes them again.
        self.forgetting = if self.writer.forget_dirs(dirs.clone()).is_ok() { dirs } else { Vec::new() };
    }
}

/// Whether a job has the blob.
pub(super) fn is_needed(reader: &mut Reader, id: &BlobId) -> Result<bool, String> {
    reader.is_blob_needed(&id.to_string()).map_err(|error| error.to_string())
}
