//! The settings of a server's jobs.

use super::blobs::BlobsConfig;
use std::time::Duration;

/// The settings of a server's jobs.
#[derive(Debug, Clone)]
pub struct JobsConfig {
    /// Limit on simultaneous runs.
    pub workers: usize,
    /// Additional runs, each in a domain without another running job.
    pub reserve_workers: usize,
    /// Limit on simultaneous runs of the modules of one domain; 0: no limit.
    pub domain_running_max: usize,
    /// Time limit, in milliseconds, of runs without one in the submission or the declaration; 0: no limit.
    pub timeout_ms: u64,
    /// Limit on simultaneous runs of one module; 0: no limit.
    pub module_running_max: usize,
    /// Limit on pending and running jobs.
    pub unfinished_max: usize,
    /// Limit, in bytes, on a payload.
    pub payload_bytes_max: usize,
    /// Limit, in bytes, on the data of an event.
    pub event_bytes_max: usize,
    /// Limit on the events that a job emits itself.
    pub events_max: u64,
    /// Limit, in bytes, on all those events together.
    pub events_bytes_max: u64,
    /// Limit, in bytes, on a result or an error text.
    pub result_bytes_max: usize,
    /// Limit, in bytes, on a checkpoint.
    pub checkpoint_bytes_max: usize,
    /// How long ended jobs are kept.
    pub retention: Duration,
    /// The settings of the jobs' files.
    pub blobs: BlobsConfig,
}
