//! The cleaning thread: removes files that no job needs any more, and limits the outputs of running jobs.

use super::blobs::{BlobId, Blobs, Wake};
use super::store::{Read, Reader, Writer};
use crossbeam::channel::RecvTimeoutError;
use std::time::{Duration, Instant};

/// Longest and shortest interval between two checks of all blobs.
const EVERY_MAX: Duration = Duration::from_secs(60);
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Interval between two checks of the outputs of running jobs.
const OUTPUTS_EVERY: Duration = Duration::from_secs(1);
/// Pause before the next batch, if more directories of deleted jobs are left.
const MORE_AFTER: Duration = Duration::from_millis(50);
/// Limit on the directories of deleted jobs removed in one batch.
const DIRS_MAX: u32 = 500;

pub(super) struct Cleaner {
    blobs: Blobs,
    reader: Reader,
    writer: Writer,
    /// More directories of deleted jobs are left.
    has_more: bool,
    /// The directories that the store was last told to forget.
    forgetting: Vec<String>,
}

impl Cleaner {
    pub(super) fn new(blobs: Blobs, reader: Reader, writer: Writer) -> Self {
        Self { blobs, reader, writer, has_more: false, forgetting: Vec::new() }
    }

    /// Works until the stop message.
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
            tracing::info!("{removed} blobs that no job needs and whose retention has passed are deleted");
        }
    }

    /// Removes the outputs of deleted jobs.
    fn remove_outputs(&mut self) {
        let dirs = match self.reader.gone_dirs(DIRS_MAX) {
            Ok(dirs) => dirs,
            Err(error) => return tracing::warn!("the outputs of deleted jobs can't be found: {error}"),
        };
        self.has_more = dirs.len() >= DIRS_MAX as usize;
        // While the store can't commit, it returns the same directories again: the first request is still pending.
        if dirs.is_empty() || dirs == self.forgetting {
            return;
        }
        dirs.iter().for_each(|dir| self.blobs.remove_outputs(dir));
        // If the store does not forget the directories, a later run removes them again.
        self.forgetting = if self.writer.forget_dirs(dirs.clone()).is_ok() { dirs } else { Vec::new() };
    }
}

/// Whether a job needs the blob.
pub(super) fn is_needed(reader: &mut impl Read, id: &BlobId) -> Result<bool, String> {
    reader.is_blob_needed(&id.to_string()).map_err(|error| error.to_string())
}
