//! Settings about checkpoints, blobs and outputs of jobs.

use super::ServeArgs;
use super::values::DAY_S;

/// Limit on the retention of blobs, in seconds.
const RETENTION_S_MAX: u64 = 36_500 * DAY_S;

/// Settings about events, checkpoints and blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDataSettings {
    /// Limit on the events that a job emits itself.
    pub events_max: u64,
    /// Limit, in bytes, on a checkpoint of a job.
    pub checkpoint_bytes_max: usize,
    /// Limit, in bytes, on a blob.
    pub blob_bytes_max: u64,
    /// Limit, in bytes, on all blobs together; `None`: a quarter of the free space at the start, at least 1 GiB.
    pub blobs_bytes_max: Option<u64>,
    /// How long a blob that no job needs is kept, in seconds.
    pub blob_retention_s: u64,
}

impl JobDataSettings {
    pub(super) fn of(args: &ServeArgs) -> Self {
        Self {
            events_max: args.job_events_max(),
            checkpoint_bytes_max: args.job_checkpoint_bytes_max(),
            blob_bytes_max: args.blob_bytes_max(),
            blobs_bytes_max: args.blobs_bytes_max,
            blob_retention_s: args.blob_retention().seconds,
        }
    }

    /// Values that are out of range, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let retention_fits = (1..=RETENTION_S_MAX).contains(&self.blob_retention_s);
        (!retention_fits).then(|| "--blob-retention must be from 1s to 36500d".to_owned()).into_iter()
    }
}
